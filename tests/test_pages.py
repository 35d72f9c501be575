"""What several pages say beside the words that their cells quote, and the data of the defects."""

import re

import lab
from conftest import ROOT, printed, rows

WORDS = lab.matrix.stored()
RESET, NOT_UTF_8 = "half a request then resets", "bytes that are not UTF-8"


def code(name):
    return (ROOT / "code" / f"{name}.py").read_text(encoding="utf-8")


def test_whom_the_servers_of_chapters_1_and_2_do_not_survive():
    kinds = "says nothing", "connects and closes", RESET, NOT_UTF_8
    assert [WORDS[kind, "01"] for kind in kinds] == ["frozen", "frozen", "dead", "dead"], (
        "01_one_request: “It does not survive a client that says nothing (it waits for ever), one "
        "that leaves before its request is whole (it spins), a reset, or a request that is not "
        "UTF-8”"
    )
    kinds = *kinds, "its console closed"
    assert [WORDS[kind, "02"] for kind in kinds] == ["frozen"] * 2 + ["dead"] * 3, (
        "02_request_loop: “It does not survive a client that says nothing (all others wait), one "
        "that leaves before its request is whole (it spins, and all wait), a reset, a request that "
        "is not UTF-8, or a closed console”"
    )
    seen = rows("01_one_request", "one-everywhere")
    assert seen["0.0.0.0, then ::1"] == ["free", "free"], (
        "01_one_request: “0.0.0.0 stands for all of the machine's IPv4 addresses, and for none of "
        "its IPv6 addresses”"
    )
    seen = rows("01_one_request", "one-send-all")
    assert seen["send, to one that leaves"][1] == "send: ECONNRESET", (
        "claim 17: “And it goes to the kernel, not yet to the client”"
    )


def test_chapter_6_says_in_its_docstring_what_arming_is_for():
    text = code("06_one_shot")
    arm = text[text.index("def arm(") :][:300]
    assert "ONE_SHOT" in arm, (
        "06_one_shot: “The kernel does not report that socket again until the worker arms it, so "
        "one thread has it at a time”; 06_one_shot: “One socket, one pair of hands”"
    )


def test_who_comes_late_waits_for_its_own_kernel():
    assert rows("07_backlog", "seven-run")["third"][0].endswith(" s"), (
        "07_backlog: “The two late clients don't wait for the server. They wait for their own "
        "kernel”"
    )


def test_the_marks_of_the_masks():
    made = lab.Masks()
    made.row("idle")
    assert made["idle"]
    html = made._repr_html_()
    assert "○" in html and "●" not in html, (
        "what_epoll_reports: “An event with ● is reported even when nothing is asked for, one "
        "with ○ only if asked for”"
    )
    seen = rows("what_epoll_reports", "masks-own")["both halves, and then data came"]
    assert seen[-2:] == ["ECONNRESET, b''", "ECONNRESET"], (
        "what_epoll_reports: “after SHUT_RDWR the next byte that the peer sends ends the "
        "connection, by a reset, for both sides”; what_epoll_reports: “The error goes to "
        "whichever call asks first; a program that swallows the error sees an orderly end from "
        "then on”"
    )


EXAMPLES = {1: "01", 2: "02", 3: "04", 4: "05"}
SHOWN = {
    3: ("connects and closes", "spinning"),
    5: ("half closes after asking", "frozen"),
    6: ("asks and leaves", "dead"),
    7: (RESET, "dead"),
    8: ("whole request then resets", "dead"),
    9: (RESET, "leaking"),
    10: ("more clients than descriptors", "dead"),
    12: (NOT_UTF_8, "dead"),
    13: ("its console closed", "dead"),
}


def numbers(programs):
    """`3 to 6`, `1, 2` or `all` as a set of examples."""
    if programs == "all":
        return set(range(1, 7))
    first, *last = map(int, re.findall(r"\d", programs))
    return set(range(first, last[0] + 1)) if " to " in programs else {first, *last}


def test_the_programs_of_a_defect_are_those_that_the_matrix_shows_it_in():
    for number, (client, word) in SHOWN.items():
        found = {example for example, chapter in EXAMPLES.items() if WORDS[client, chapter] == word}
        assert found == numbers(lab.defects()[number].programs) & {*EXAMPLES}, number


def test_what_does_not_happen_is_in_no_other_list():
    never = [number for number, defect in lab.defects().items() if defect.kind == "never"]
    none = [n for n, defect in lab.defects().items() if defect.programs.startswith("none")]
    assert never == none


def test_the_console_of_the_defects():
    assert "sleeps in write" in printed("defects", "defects-console"), (
        "defect 14: “once it is full the server sleeps in write, and everybody waits”; defects: "
        "“Then print waits, and every client with it”"
    )


def test_how_late_the_answers_are():
    pulls = printed("08_cork", "eight-pulls")
    assert pulls.startswith("what follows | the bytes arrive after"), (
        "08_cork: “The answers are right. Each of them is a fifth of a second late, on a server”"
    )


def test_what_an_edge_leaves_over():
    seen = rows("05_edge_triggered", "five-left-over")
    assert seen["of 1,500 bytes"] == ["0", "476", "0"], (
        "05_edge_triggered: “Then bytes are left unread, and no edge will report them”"
    )


def test_which_of_them_has_it_right():
    seen = rows("06_one_shot", "six-disarmed-table")
    assert seen["bytes come"][1] == "ONESHOT", (
        "06_one_shot: “The translation is right. The socket stays on the list, and its events "
        "go: it is disarmed”"
    )


def test_what_is_printed_of_a_body():
    assert "'x'" in printed("defects", "defects-escape"), (
        "defects: “Of the body xyz the server prints the x”"
    )


def test_what_a_kernel_closes_by_itself():
    seen = rows("02_request_loop", "two-finally")
    assert seen["SIGKILL"] == ["does not run", "-9", "137", "-9"], (
        "02_request_loop: “The kernel closes what a process had open, however it ended. `finally` "
        "is for what the kernel does not know about”"
    )
