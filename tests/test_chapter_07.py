"""What chapter 7 says beside the words that its cells quote.

Most of it is what a cell has printed: nbval holds the stored outputs to what happens, and here the
prose is held to the outputs. The rest is tried here.
"""

import ast
import collections
import contextlib
import inspect
import io
import shutil
import socket
import subprocess
import sys
import time

import pytest

import lab
from conftest import BOOK, ROOT, printed, rows
from lab import crowd, notebooks

PAGE = "07_backlog"
SERVER = ROOT / "code" / f"{PAGE}.py"
LEVEL = ROOT / "code" / "04_level_triggered.py"


def states(callers):
    return collections.Counter(caller.state() for caller in callers)


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_server_is_chapter_4s_but_for_its_argument():
    new, old = functions(SERVER), functions(LEVEL)
    assert new.pop("take_backlog") and new == old, (
        "“serve is chapter 4's, to the letter. New are only take_backlog and, in the last lines, "
        "its call: the”; “One thread, level-triggered epoll, an accept queue of any length”"
    )
    assert SERVER.read_text(encoding="utf-8").endswith("BACKLOG = take_backlog()\n    main()\n")
    words = lab.matrix.stored()
    for (client, server), word in words.items():
        if server == "07":
            assert word == words[client, "04"], (
                "“it dies of all that chapter 4's server dies of”; “This server dies of all that "
                "chapter 4's dies of”; “What the server does not survive is the same at any "
                "length: a client that asks and leaves, a reset, a request that is not UTF-8, "
                "more clients than it may have descriptors, a closed console. One that leaves "
                "before its request is whole makes the server spin”"
            )
    assert words["asks and leaves", "07"] == "dead", (
        "“What the server still can't stand is a client with bad manners”"
    )


def test_a_crowd_that_comes_at_once():
    with lab.serve(SERVER, 64) as server:
        with server.paused():
            callers = crowd.queue_up(server.address, 40)
        done = crowd.ask_all(callers, 5)
    assert max(caller.waited() for caller in done) < 0.9 and len(done) == 40, (
        "“be told, with listen(N), how many clients may wait at its door, in the accept queue. "
        "So it can serve a crowd that comes at once”"
    )


def test_what_is_said_of_its_argument():
    let_in = rows(PAGE, "seven-number")
    assert let_in["listen(1)"] == ["2", "3"], (
        "“The kernel lets in BACKLOG + 1 clients, 1 + 1 unless told otherwise, before the server "
        "has accepted one, and never more than net.core.somaxconn + 1. The next client gets in "
        "after a second or more”"
    )
    assert rows(PAGE, "seven-heard-of")["its state"] == ["ESTABLISHED", "SYN-SENT"], (
        "claim 100, caveat: “Only connections whose handshake is done are in the queue”"
    )
    with lab.serve(SERVER) as server:
        assert lab.kernel.accept_queue(server.address) == (0, 1), (
            "“this one has been started without its argument”"
        )
    for name in ("03_thread_per_client", "06_one_shot"):
        text = (ROOT / "code" / f"{name}.py").read_text(encoding="utf-8")
        default = rows(PAGE, "seven-limits")["listen()"]
        assert f"BACKLOG = {default[0]}\n" in text, (
            "“The servers of chapters 3 and 6 ask for Python's usual length”"
        )
    limit = rows(PAGE, "seven-limits")
    assert limit["listen(100_000)"] == limit["listen(-5), in C"] == ["net.core.somaxconn"], (
        "“And N is a wish. Here is the limit that the kernel makes”"
    )


def test_a_full_queue():
    let_in = rows(PAGE, "seven-number")
    assert let_in["listen(1)"][0] == "2", "“Two wait, and the queue is full”"
    assert "State Recv-Q Send-Q Local\nLISTEN 2 1 " in printed(PAGE, "seven-ss"), (
        "“`ss -ltn` shows two numbers of each listening socket, under names that mislead: Recv-Q "
        "is how many clients wait, and Send-Q is the limit, N”"
    )
    after = {limit: into for limit, (into, outside) in let_in.items() if outside == "3"}
    assert after == {f"listen({n})": str(n + 1) for n in (0, 1, 5, 50)}, (
        "“That N + 1 get in is no slip”; “So it is at any length”; “Three clients come to a "
        "stopped server with `listen(1)`”"
    )


def test_who_is_outside():
    of = rows(PAGE, "seven-heard-of")
    assert of["its state"] == ["ESTABLISHED", "SYN-SENT"] and of["at the server"][1] == "nothing", (
        "“A SYN that finds the queue full is dropped without a word, as if the network had lost "
        "it”; “One of them thinks that it is connected, and is right”; “And the connection of "
        "the one too many doesn't exist anywhere but in its own machine. The server's kernel has "
        "added one to a counter, and forgotten the client”"
    )
    assert of["it asks"] == ["send: 18", "send: EAGAIN"], (
        "“So a connection is no sign of life: a health check that only connects fails only when "
        "the queue is full”; “They are connected, and may send, before anybody has accepted "
        "them”; “belongs to a server that is too slow, and a longer queue is only a longer wait”"
    )


def test_a_unix_socket_drops_nobody():
    seen = rows(PAGE, "seven-unix")
    assert seen["one more, blocking"] == ["asleep in connect"], (
        "“but there is no SYN to drop or to send again. The `connect` of one too many fails at "
        "once if its socket is non-blocking or, in Python, has a timeout; else it sleeps until "
        "there is room”"
    )
    assert seen["it, after an accept"] == seen["the first"] == ["connect: done"]


@pytest.mark.skipif(not shutil.which("ss"), reason="ss is not installed here")
def test_ss_counts_whom_a_listener_has_turned_away(door):
    listener = door(0)
    callers = crowd.queue_up(listener.getsockname(), 4)
    lab.until(lambda: lab.kernel.drops(listener) == 3)
    port = listener.getsockname()[1]
    command = ["ss", "-ltnm", f"sport = :{port}"]
    said = subprocess.run(command, capture_output=True, encoding="utf-8").stdout
    assert ",d3)" in said and states(callers)["SYN-SENT"] == 3, (
        "“(With -m, the d in skmem counts the SYNs that were dropped.)”"
    )


def test_a_look_says_it_in_words():
    with lab.serve(SERVER, 2) as server:
        lab.at_rest(server)
        with server.paused():
            crowd.queue_up(server.address, 5)
            said = " ".join(lab.report(lab.look_at(server.pid)).split())
        server.stop(9)
    assert "3 wait, and listen(2) lets in 3" in said, (
        "“A look at the process says the same in words”"
    )


def test_each_retry_is_counted_again(door):
    listener = door(0)
    inside, caller = crowd.queue_up(listener.getsockname(), 2)
    before = lab.kernel.counter("ListenOverflows")
    lab.until(lambda: lab.kernel.drops(listener) == 2)
    assert caller.retries() == 1 and lab.kernel.counter("ListenOverflows") > before, (
        "“It counts each SYN that was dropped, retries too”; “how many SYNs were dropped”"
    )
    inside.close()
    caller.close()


def thirty_come_back(listener, seen):
    """Turn thirty away from a queue of 40, and make room for three, again and again, until others
    have come back in the same instant; return those of whom seen() is true then."""
    callers = crowd.queue_up(listener.getsockname(), 41 + 30)[41:]

    def look():
        time.sleep(crowd.TICK)
        found = [caller for caller in callers if seen(caller)]
        waiting, limit = lab.kernel.queues_of(listener)
        for _ in range(0 if found or waiting <= limit else 3):
            listener.accept()
        return found

    return lab.until(look, 8, "several to come back together")


def test_a_note_is_kept_of_those_who_are_fewer_than_the_queue_is_long(door):
    listener = door(40)
    address = listener.getsockname()

    def is_noted(caller):
        there = lab.kernel.find_socket(address, caller.socket.getsockname())
        return bool(there) and there.state == "SYN-RECV"

    noted = {caller.socket.getsockname() for caller in thirty_come_back(listener, is_noted)}
    listener.settimeout(5)
    peers = set()
    while not noted <= peers:
        peers.add(listener.accept()[1])
    assert noted, (
        "“With a longer queue and fewer clients the kernel keeps a note of each client, SYN-RECV "
        "in ss -tn, and sends its part of the handshake again: those clients get in late”"
    )


# In a network of its own whose settings may be changed: what comes of a SYN that finds a full
# queue, and of handshakes that end at one, with tcp_abort_on_overflow set to 1.
ABORT = """
import socket, time
import lab
from lab import crowd

with open("/proc/sys/net/ipv4/tcp_abort_on_overflow", "w") as setting:
    setting.write("1")
with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
    callers = crowd.queue_up(listener.getsockname(), 4)
    lab.until(lambda: lab.kernel.counter("ListenOverflows") >= 6, what="SYNs and their retries")
    print([caller.state() for caller in callers])

def error(caller):
    return caller.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

with socket.create_server(("127.0.0.1", 0), backlog=40) as listener:
    print(len(thirty_come_back(listener, error)), "were told of an error")
"""


def test_abort_on_overflow_is_about_handshakes():
    alone = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run([*alone, "true"], capture_output=True)
        if done.returncode == 0:
            done = subprocess.run(
                [*alone, sys.executable, "-c", f"{inspect.getsource(thirty_come_back)}\n{ABORT}"],
                cwd=BOOK,
                env={"PYTHONPATH": str(BOOK), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                capture_output=True,
                encoding="utf-8",
                timeout=30,
            )
            assert not done.returncode, done.stderr
            syns, resets = done.stdout.splitlines()
            assert syns == str(["ESTABLISHED"] + ["SYN-SENT"] * 3), (
                "“For a dropped SYN it does nothing”; claim 102, holds: “since Linux 4.10 no "
                "setting changes that”"
            )
            assert resets.endswith("were told of an error"), (
                "“it sends a reset to clients whose handshake ends at a full queue”"
            )
            return
    pytest.skip("no network of one's own may be had here")


def test_ghosts():
    seen = rows(PAGE, "seven-ghosts")
    assert seen["in the queue"] == ["1"] and seen["connected to nobody"][0].startswith("≈"), (
        "“Here a queue of `listen(0)` turns forty away; then there is room; and when they are”; "
        "“But clients who were turned away together come back together, in one tick of a clock. "
        "Then all their SYNs find the same room for one, and all complete the handshake”; “When "
        "the server empties its queue a moment later, nobody tells the clients outside. And as "
        "they were turned away together, they come back together, and that makes ghosts”; “A "
        "ghost is such a client: its connect has returned, and the server's kernel doesn't know "
        "it”"
    )
    assert seen["one that spoke is"] == ["ESTABLISHED"], (
        "“A ghost that speaks sends again, as TCP does, and gets in with that”"
    )
    assert seen["what the silent ones are"] == ["ESTABLISHED"], (
        "“Where the server speaks first, as in SMTP, SSH or MySQL, a ghost waits for the "
        "greeting of a server that has never heard of it”"
    )


def test_a_ghost_was_answered_with_a_cookie_and_is_not_known(door):
    listener = door(0)
    cookies = lab.kernel.counter("SyncookiesSent")
    ghosts = crowd.ghosts(listener, 40)
    assert lab.kernel.counter("SyncookiesSent") - cookies >= len(ghosts), (
        "“beyond it the kernel answers with SYN cookies, as it would in a flood of SYNs, and "
        "keeps nothing. When these clients complete the handshake there is no room, and their "
        "last segment is dropped without a word as well”"
    )
    with lab.Watch(ghosts[0]) as watch:
        ghosts[0].socket.send(b"hello")
    assert watch.arrows()[-2:] == ["→ ACK ✕", "→ 5 bytes ✕"], (
        "“One of these ghosts sends its request, and a moment later there is room for all. A cross "
        "is a segment that has left, and never came”"
    )


def test_benchmarks():
    seen = rows(PAGE, "seven-ab")
    assert seen["listen(1)"][2:] == ["98", "≈ 1.0 s"], (
        "“`ab` is a closed loop: as soon as a client is answered another takes its place. So is "
        "this”; “a benchmark of 0.8 s sees nothing of it: it reports on the requests that it has "
        "finished”; claim 105, holds: “A shorter run reports on those clients that were "
        "answered, and doesn't see the others”; “whenever the server is slow, the loop asks "
        "less. The”; claim 105, holds: “In a run that is longer than the wait for the first "
        "retry, a second”"
    )
    assert seen["listen(50)"][2:] == ["49", "≈ 1.0 s"] and seen["listen(128)"][2] == "0", (
        "“with a queue under fifty, it says, performance can fall badly at times”; "
        "“So the article is right, and the usual short run shows nothing”"
    )


@pytest.mark.skipif(not shutil.which("ab"), reason="ab is not installed here")
def test_ab_may_not_come_to_an_end():
    def held():
        with lab.serve(SERVER, 1) as server:
            return crowd.ab(server, 3000, held=True, seconds=1)

    reports = []
    while len(reports) < 4 and all(report.ended for report in reports):
        reports.append(held())
    assert not reports[-1].ended and reports[-1].answered < 3000, (
        "“ab may not even come to an end, while the server has nothing to do: some of its "
        "hundred clients are ghosts by then, and ab waits for them”"
    )


def test_who_is_accepted_takes_no_room(door):
    listener = door(0)
    held = []
    for _ in range(30):
        held += crowd.queue_up(listener.getsockname(), 1), listener.accept()
    assert lab.kernel.queues_of(listener) == (0, 0), (
        "“The queue has to hold the clients that come while nobody accepts. How many are they? "
        "Not as many as are connected, as one reads most often, in the article too”"
    )


def test_who_comes_before_the_close_is_reset(door):
    listener = door(1)
    first = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    late = socket.create_connection(listener.getsockname())
    listener.close()
    assert lab.told(late) == "a reset" and lab.told(first) == "nothing", (
        "“A client that comes between the last accept and the close is reset all the same”"
    )
    accepted.close()


def test_what_is_lost_at_the_end():
    seen = rows(PAGE, "seven-drained")
    assert seen == {
        "at SIGTERM the server": ["clients answered", "clients reset"],
        "closes": ["0", "10"],
        "accepts, then closes": ["10", "0"],
    }, (
        "“And the clients in a queue are lost when the server ends, unless it accepts them all "
        "before it closes its listener”"
    )


# Exercise 3: its check is given a function of the reader's.

CHECKED = "def connect(address):\n"
RIGHT = """
    for _ in range(50):
        try:
            return socket.create_connection(address, 0.1)
        except TimeoutError:
            pass
"""
WRONG = {
    "it waits for the kernel": ("    return socket.create_connection(address, 5)", "too late"),
    "a shorter timeout alone": ("    return socket.create_connection(address, 0.1)", "timed out"),
    "it waits a second itself": (
        "    import time; time.sleep(1); return socket.create_connection(address, 5)",
        "too late",
    ),
    "the same socket is tried again": (
        "    sock = socket.socket(); sock.settimeout(0.1)\n"
        "    while True:\n"
        "        try:\n"
        "            sock.connect(address)\n"
        "            sock.settimeout(5)\n"
        "            return sock\n"
        "        except TimeoutError:\n"
        "            pass\n",
        "",
    ),
}


def check_connect(body, run_folder):
    (run_folder / f"{PAGE}.py").write_text(notebooks.program(PAGE, f"{PAGE}.py"), encoding="utf-8")
    cells = {
        cell["id"]: "".join(cell["source"]) for cell in notebooks.cells(BOOK / f"{PAGE}.ipynb")
    }
    program = f"import lab\n{cells['seven-exercise-3-checker']}\nimport socket\n{CHECKED}{body}\n"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(program + "\ncheck_gets_in(connect)", {})
    return said.getvalue()


def test_a_new_socket_gets_in(run_folder):
    assert check_connect(RIGHT, run_folder).startswith("solved:")
    assert printed(PAGE, "seven-exercise-3") == "not yet: answered too late", (
        "“`connect` takes a second. Get an answer before that second is over”"
    )


@pytest.mark.parametrize("what", WRONG)
def test_what_waits_does_not(what, run_folder):
    body, why = WRONG[what]
    said = check_connect(body, run_folder)
    assert said.startswith("not yet:") and why in said, said


def test_nothing_that_the_article_says_of_it_is_wrong():
    mine = [claim.verdict for claim in lab.claims().values() if claim.chapter == PAGE]
    assert mine and "wrong" not in mine, "“Nothing that it says of the queue is wrong”"
