"""What is wrong with a View, made by hand: each rule, just under its limit and just over it."""

import errno
import select
from dataclasses import replace

import pytest

from look import report, symptoms, view
from look.kernel import Blocked, Socket
from look.strace import Call
from look.view import File, Thread, View, Watch

PORT = 8080
IN, OUT, EDGE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET

WAITS = Blocked("epoll_wait", "ep_poll", (4, 0, 0, 0, 0, 0))
SLEEPS = Blocked("clock_nanosleep", "hrtimer_nanosleep", (0, 0, 0, 0, 0, 0))
LOCKED = Blocked("futex", "futex_wait_queue", (0, 0, 0, 0, 0, 0))


def on(call, fd):
    """A thread's sleep in a call on a descriptor."""
    return Blocked(call, "somewhere", (fd, 0, 0, 0, 0, 0))


def tcp(state="ESTABLISHED", unread=0, unsent=0, timer="off", inode=7, port=PORT, limit=0):
    local, remote = ("127.0.0.1", port), ("127.0.0.1", 40_000)
    row = Socket(state, local, remote, unread, unsent, timer, 0.0, inode, limit)
    return File(f"{state} with 127.0.0.1:40000", inode, row)


def listener(waiting=0, limit=5, inode=3):
    return tcp("LISTEN", unread=waiting, limit=limit, inode=inode)


def thread(*looks, number=1, state="S", share=0.0, watches=()):
    """A thread that was found three times in the same sleep, unless three are given."""
    looks = looks * 3 if len(looks) == 1 else looks
    return Thread(number, state, share, looks, list(watches))


def a_view(*threads, files=(), earlier=None, epolls=(), **more):
    """A View of process 1: of a listener and what else is given, the same at both ends."""
    files = {3: listener()} | dict(files)
    facts = {
        "pid": 1, "command": "server", "share": 0.0, "resident": 10**7, "descriptor_limit": 1000,
        "threads": threads or (thread(WAITS),), "files": files, "epolls": dict(epolls),
        "earlier": files if earlier is None else earlier,
    }  # fmt: skip
    return View(**(facts | more))


def watches(*pairs, files):
    """What epoll instance 4 watches: (descriptor, mask) each, of those files."""
    return {4: [Watch(fd, mask, files.get(fd), fd) for fd, mask in pairs]}


def said(seen):
    return " / ".join(symptoms.findings(seen))


# Nothing, and stopped


@pytest.mark.parametrize(
    ("sleep", "where"),
    [
        (WAITS, ": it sleeps in epoll_wait(4)"),
        (SLEEPS, ": it sleeps in clock_nanosleep (time.sleep())"),
    ],
)
def test_nothing_wrong(sleep, where):
    assert symptoms.findings(a_view(thread(sleep))) == [
        "nothing wrong that can be seen from here" + where
    ]


def test_nothing_wrong_with_one_that_ran():
    seen = a_view(thread(WAITS, WAITS, None))
    assert symptoms.findings(seen) == ["nothing wrong that can be seen from here"]


@pytest.mark.parametrize("state", "TtSDR")
def test_stopped(state):
    """And nothing else that would follow from it is said."""
    seen = a_view(thread(SLEEPS, state=state), files={3: listener(waiting=1)})
    stopped = "stopped, by SIGSTOP, Ctrl-Z or a tracer: `kill -CONT 1` lets it go on"
    assert (symptoms.findings(seen) == [stopped]) == (state in "Tt")


# Held up


def test_frozen():
    seen = a_view(thread(SLEEPS), files={3: listener(waiting=1)})
    assert said(seen) == (
        "frozen: 1 client waits in the accept queue, while the main thread sleeps in "
        "clock_nanosleep (time.sleep()). Until that call returns, nobody is served"
    )
    assert ", not in epoll_wait(4). Until" in said(replace(seen, epolls={4: [], 9: []}))


@pytest.mark.parametrize(
    "looks", [(SLEEPS, SLEEPS, None), (None, SLEEPS, SLEEPS), (SLEEPS, WAITS, SLEEPS)]
)
def test_not_frozen_if_it_ran_meanwhile(looks):
    assert "frozen" not in said(a_view(thread(*looks), files={3: listener(waiting=1)}))


@pytest.mark.parametrize(
    "call", ["epoll_wait", "epoll_pwait2", "poll", "ppoll", "select", "accept4"]
)
def test_not_frozen_if_one_thread_waits_for_clients(call):
    threads = thread(SLEEPS), thread(on(call, 4), number=2)
    assert "frozen" not in said(a_view(*threads, files={3: listener(waiting=1)}))


def test_not_frozen_if_nobody_waits():
    assert said(a_view(thread(SLEEPS))).startswith("nothing wrong")


def test_a_queue_that_two_descriptors_share_is_counted_once():
    files = {3: listener(waiting=2), 5: listener(waiting=2), 6: listener(waiting=1, inode=4)}
    assert "frozen: 3 clients wait in the accept queue, while" in said(
        a_view(thread(SLEEPS), files=files)
    )


def test_unread_bytes_wait_where_they_are_watched():
    files = {3: listener(), 7: tcp(unread=5), 8: tcp(unread=1, inode=8), 9: tcp(inode=9)}
    epolls = watches((7, IN), (9, IN), files=files)
    seen = a_view(thread(SLEEPS), files=files, epolls=epolls)
    assert said(seen).startswith("frozen: 5 bytes of 1 socket unread, while")
    epolls = watches((7, IN), (8, IN), files=files)
    assert "6 bytes of 2 sockets unread" in said(replace(seen, epolls=epolls))


@pytest.mark.parametrize(
    ("state", "unread", "waits"),
    [
        ("ESTABLISHED", 1, True),
        ("CLOSE-WAIT", 1, False),
        ("CLOSE-WAIT", 2, True),
        ("LAST-ACK", 1, False),
    ],
)
def test_an_end_of_input_is_no_byte(state, unread, waits):
    files = {7: tcp(state, unread=unread)}
    seen = a_view(thread(SLEEPS), files=files, epolls=watches((7, IN), files=files))
    assert ("1 byte of 1 socket unread" in said(seen)) == waits


@pytest.mark.parametrize(
    ("call", "why"), [("recvfrom", "with nothing to read"), ("sendto", "which does not read")]
)
def test_one_client_holds_up_all(call, why):
    seen = a_view(thread(on(call, 7)), files={3: listener(waiting=2), 7: tcp()})
    assert symptoms.findings(seen)[0] == (
        f"one client holds up all: 2 clients wait in the accept queue, while the main thread "
        f"sleeps in {call}(7) (ESTABLISHED with 127.0.0.1:40000), {why}"
    )


def test_a_connection_of_its_own_making_is_no_client():
    """As to a database: its local port is not the listener's."""
    seen = a_view(thread(on("recvfrom", 7)), files={3: listener(waiting=1), 7: tcp(port=50_000)})
    assert said(seen).startswith("frozen: ")


def test_all_threads_are_taken_by_two_but_not_by_one():
    files = {3: listener(waiting=1), 7: tcp(), 8: tcp(inode=8)}
    main, one, two = (
        thread(LOCKED), thread(on("recvfrom", 7), number=2), thread(on("recvfrom", 8), number=3),
    )  # fmt: skip
    assert "while thread 2 sleeps in recvfrom(7)" in said(a_view(main, one, files=files))
    assert said(a_view(main, one, two, files=files)) == (
        "all threads are taken: 1 client waits in the accept queue, while 2 threads sleep in "
        "recvfrom, each on a client"
    )


# Busy


def call(name="recvfrom", fd=7, result=0, timeout=0, events=()):
    return Call(name, (fd, 0, 0, timeout, 0, 0), result, events)


def busy(*calls, files=None, **more):
    files = {3: listener(), 7: tcp()} if files is None else files
    return said(a_view(thread(None), share=0.5, calls=list(calls), files=files, **more))


@pytest.mark.parametrize(
    ("number", "word"), [(symptoms.FEW - 1, "computes"), (symptoms.FEW, "spinning")]
)
def test_few_calls_are_those_of_one_that_computes(number, word):
    assert busy(*[call()] * number).startswith(f"{word}: 0.50 of a core")


def test_how_many_calls_one_that_computes_has_made():
    assert busy() == "computes: 0.50 of a core, and no system call in 0.3 s"
    assert "and 1 system call in" in busy(call())
    waiting = busy(call(), call(), files={3: listener(waiting=1)})
    assert waiting.endswith("2 system calls in 0.3 s. Meanwhile 1 client waits in the accept queue")


def test_why_it_is_busy_is_unknown_where_tracing_was_refused():
    seen = a_view(thread(None), share=0.5, refused="Operation not permitted")
    assert said(seen) == (
        "busy or spinning: 0.50 of a core. Its calls are unknown: tracing failed "
        "(Operation not permitted)"
    )


OUTCOMES = [
    # call, what is said of it, and whether anybody is served by it
    (
        call(),
        "recvfrom(7) {}, which returned 0 (end of input: the peer has closed, and this",
        False,
    ),
    (call(fd=9), "recvfrom(9) {}, which returned 0 (end of input)", False),
    (call(result=5), "recvfrom(7) {}, which moved data", True),
    (call("read", 9, 5), "read(9) {}, which moved data", True),
    (call("sendto", result=5), "sendto(7) {}, which moved data", True),
    (call("write", 1, 5), "write(1) {}, which succeeded", False),
    (call("sendto"), "sendto(7) {}, which succeeded", False),
    (call("accept4", 3, 9), "accept4(3) {}, which accepted a client", True),
    (call("accept4", 3, -errno.EMFILE), "failed with EMFILE (no descriptor left", False),
    (call(result=-errno.EAGAIN), "failed with EAGAIN (nothing there yet", False),
    (call(result=-errno.EPIPE), "which failed with EPIPE", False),
    (call("clock_nanosleep"), "clock_nanosleep {}, which succeeded", False),
    (call("epoll_wait", 4), "epoll_wait(4) {}, which returned 0 (its timeout is 0)", False),
    (call("epoll_wait", 4, timeout=1), "epoll_wait(4) {}, which returned 0", False),
    (call("epoll_wait", 4, 1, events=((IN, 7),)), "returned 1: ready 7 (IN)", False),
    (call("epoll_wait", 4, 1, events=((IN | 2, 8),)), "returned 1: ready ? (IN|PRI)", False),
]


@pytest.mark.parametrize(("made", "words", "useful"), OUTCOMES)
def test_what_it_is_busy_with(made, words, useful):
    files = {3: listener(), 7: tcp()}
    text = busy(*[made] * 25, files=files, epolls=watches((7, IN), files=files))
    assert text.startswith(f"{'busy' if useful else 'spinning'}: 0.50 of a core. In 25 calls: ")
    assert words.format("25 times") in text


@pytest.mark.parametrize(("kinds", "rest"), [(4, False), (5, True)])
def test_four_kinds_of_calls_are_told_and_the_rest_is_counted(kinds, rest):
    calls = [call("close", fd) for fd in range(20, 20 + kinds) for _ in range(40 - fd)]
    text = busy(*calls)
    assert "close(20) 20 times, which succeeded; close(21) 19 times" in text
    assert ("; others 16 times" in text) == rest and ("close(24)" not in text)


# Limits


@pytest.mark.parametrize(("waiting", "full"), [(5, False), (6, True)])
def test_a_queue_is_full_with_one_more_than_its_limit(waiting, full):
    seen = a_view(files={3: listener(waiting, limit=5)})
    words = "the accept queue of 3 is full: 6 wait, and listen(5) lets in 6. New SYNs are dropped"
    assert (words in said(seen)) == full and ("is full" in said(seen)) == full


@pytest.mark.parametrize(
    ("open_files", "short"), [(9, False), (89, False), (90, True), (100, True)]
)
def test_descriptors_are_short_from_nine_tenths_on(open_files, short):
    files = {fd: File("pipe", fd, None) for fd in range(3, 3 + open_files)}
    text = said(a_view(files={3: listener()} | files, descriptor_limit=100))
    words = f"{open_files} descriptors are open, and 100 are allowed: then accept fails with EMFILE"
    assert (words in text) == short and ("EMFILE" in text) == short


# Neglected


def neglected(now, before=None, mask=IN, sleep=WAITS, epolls=None):
    """What is said of socket 7, as it is now and was at the window's beginning."""
    files = {3: listener(), 7: now}
    earlier = files if before is None else {3: listener(), 7: before}
    epolls = watches((3, IN), (7, mask), files=files) if epolls is None else epolls
    return said(a_view(thread(sleep), files=files, earlier=earlier, epolls=epolls))


def test_in_close_wait_at_both_ends():
    words = "1 socket (7) in CLOSE-WAIT: the peer has closed, and the process has not"
    assert neglected(tcp("CLOSE-WAIT", unread=1)) == words
    assert "CLOSE-WAIT" not in neglected(tcp("CLOSE-WAIT"), before=tcp())
    assert "CLOSE-WAIT" not in neglected(tcp("CLOSE-WAIT"), before=tcp("CLOSE-WAIT", inode=9))
    assert "CLOSE-WAIT" not in neglected(tcp("CLOSE-WAIT"), before=File("pipe", 7, None))


def test_unread_and_nobody_watches():
    words = "1 socket (7) with bytes unread, and nobody watches for IN"
    assert neglected(tcp(unread=1), mask=0) == words == neglected(tcp(unread=1), mask=OUT | EDGE)
    assert "unread" not in neglected(tcp(unread=1))
    assert "unread" not in neglected(tcp(unread=1), before=tcp(), mask=0)
    assert "unread" not in neglected(tcp(), before=tcp(unread=1), mask=0)
    assert "unread" not in neglected(tcp(unread=1), epolls={}), "it works without epoll"
    assert words not in neglected(tcp(unread=1), mask=0, sleep=on("recvfrom", 7))
    assert words in neglected(tcp(unread=1), mask=0, sleep=on("sendto", 7))


@pytest.mark.parametrize(
    ("timer", "why"),
    [("probe", "does not read, and its window is zero"), ("off", "has not acknowledged them")],
)
@pytest.mark.parametrize(("mask", "who"), [(OUT, "the process waits"), (IN, "nobody watches")])
def test_unsent(timer, why, mask, who):
    stuck = tcp(unsent=1, timer=timer)
    words = f"1 socket (7) with bytes unsent: the peer {why}; {who} for OUT"
    assert neglected(stuck, mask=mask) == words
    assert "unsent:" not in neglected(stuck, before=tcp(), mask=mask)
    assert "unsent:" not in neglected(tcp(), before=stuck, mask=mask)


def test_the_process_waits_where_a_thread_sleeps_in_a_send():
    assert "the process waits for OUT" in neglected(tcp(unsent=1), mask=0, sleep=on("sendto", 7))


def test_watched_for_out_with_nothing_unsent():
    words = "1 socket (7) watched for OUT with nothing unsent, so that no wait lasts"
    assert neglected(tcp(), mask=OUT) == words == neglected(tcp(), mask=IN | OUT)
    for other in (
        neglected(tcp(), mask=OUT | EDGE),
        neglected(tcp(), before=tcp(unsent=1), mask=OUT),
        neglected(tcp(unsent=1), before=tcp(), mask=OUT),
    ):
        assert "no wait lasts" not in other


def test_a_registration_whose_file_is_closed_here():
    epolls = {4: [Watch(8, IN, None, 8), Watch(9, IN, None, 9)]}
    words = "2 sockets (8, 9) closed here, but watched by epoll 4: a duplicate (dup, fork) keeps it"
    assert words in neglected(tcp(), epolls=epolls)


@pytest.mark.parametrize(
    ("number", "named"), [(6, "(10, 11, 12, 13, 14, 15)"), (7, "(10, 11, 12, 13, 14, 15, …)")]
)
def test_six_sockets_are_named_and_more_are_hinted_at(number, named):
    files = {fd: tcp("CLOSE-WAIT", inode=fd) for fd in range(10, 10 + number)}
    assert said(a_view(files=files)).startswith(f"{number} sockets {named} in CLOSE-WAIT")


def test_the_most_important_comes_first():
    files = {3: listener(waiting=9, limit=5), 7: tcp("CLOSE-WAIT")}
    found = symptoms.findings(a_view(thread(SLEEPS), files=files, descriptor_limit=2))
    words = ["frozen", "the accept queue", "2 descriptors", "1 socket (7) in CLOSE-WAIT"]
    assert [finding.startswith(word) for finding, word in zip(found, words, strict=True)] == [
        True
    ] * 4


# The look, and its report


@pytest.mark.parametrize(
    ("shares", "traced"),
    [((0.05, 0.05), True), ((0.9, 0.04), False), ((0.04, 0.9), False), ((0.049, 0.049), False)],
)
def test_only_what_is_busy_in_both_halves_is_traced(monkeypatch, shares, traced):
    monkeypatch.setattr(view, "_observe", lambda pid, seconds: (a_view(thread(None)), shares))
    monkeypatch.setattr(view, "_trace", lambda seen: replace(seen, calls=[call()] * 20))
    assert (view.look_at(1).calls is not None) == traced


def test_the_busiest_thread_is_traced(monkeypatch):
    traced = []
    monkeypatch.setattr(view.strace, "trace", lambda *who: traced.append(who) or [])
    threads = [
        thread(None, number=number, share=share) for number, share in ((1, 0.1), (2, 0.3), (3, 0.2))
    ]
    assert view._trace(a_view(*threads)).calls == []
    assert traced == [(1, 2)]


@pytest.mark.parametrize(("share", "told"), [(0.05, ""), (0.06, ", 0.06 of a core")])
def test_a_report_tells_the_share_of_a_thread_that_is_busy(share, told):
    lines = report.report(a_view(thread(None, share=share))).splitlines()
    assert f"  main 1: running{told}" in lines


@pytest.mark.parametrize(
    ("number", "more"), [(report.LINES, []), (report.LINES + 1, ["  and 1 more"])]
)
def test_a_report_shows_so_many_lines_of_a_list(number, more):
    threads = [thread(WAITS, number=each) for each in range(1, number + 1)]
    lines = report.report(a_view(*threads)).splitlines()
    assert sum("asleep in epoll_wait(4)" in line for line in lines) == report.LINES
    assert [line for line in lines if line.endswith(" more")] == more


def test_a_report_of_everything():
    files = {
        3: listener(waiting=2, limit=1), 5: File("pipe", 5, None),
        7: tcp(unread=5, unsent=6), 8: tcp("CLOSE-WAIT", unread=1, inode=8),
    }  # fmt: skip
    epolls = {4: [*watches((3, IN), (7, IN | EDGE), (8, 0), files=files)[4], Watch(9, IN, None)]}
    polls = thread(on("poll", 0), number=2, watches=[Watch(5, OUT, files[5])])
    seen = a_view(
        thread(WAITS), polls, thread(None, number=3, state="T"), files=files, epolls=epolls,
        share=0.25, findings=("a word " * 30,), command="a long command " * 9,
    )  # fmt: skip
    lines = report.report(seen).splitlines()
    assert lines[0].startswith("process 1: a long command") and len(lines[0]) == report.WIDTH
    assert lines[1:10] == [
        "  3 threads, 4 of 1000 descriptors, 10 MB, 0.25 of a core",
        "threads",
        "  main 1: asleep in epoll_wait(4)",
        "  2: asleep in poll",
        "  3: stopped",
        "epoll 4 watches 4",
        "  3 for IN: LISTEN with 127.0.0.1:40000, 2 waiting, limit 1",
        "  7 for IN|ET: ESTABLISHED with 127.0.0.1:40000, 5 unread, 6 unsent",
        "  8 for nothing but ERR and HUP: CLOSE-WAIT with 127.0.0.1:40000, 0 unread, 0 unsent",
    ]
    assert lines[10:15] == [
        "  9 for IN: watched, but closed here",
        "poll of 2 watches 1",
        "  5 for OUT: pipe",
        "sockets: 1 LISTEN, 1 ESTABLISHED, 1 CLOSE-WAIT",
        "findings",
    ]
    assert lines[15].startswith("- a word") and all(line.startswith("  a w") for line in lines[16:])
    unwatched = report.report(replace(seen, epolls={}))
    assert "  3: LISTEN with 127.0.0.1:40000, 2 waiting, limit 1" in unwatched
    assert "sockets: none" in report.report(replace(seen, files={}))
