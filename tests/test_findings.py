"""What is wrong with a View, made by hand: each rule, just under its limit and just over it."""

import errno
import json
import select
from dataclasses import replace

import pytest

from look import findings, report, view
from look.calls import calls_in_words
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


def thread(*looks, number=1, state="S", share=0.0, watches=(), slept=None, naps=0):
    """A thread that was found three times in the same sleep, unless three are given.

    slept: it has not run in between, as is so unless the looks differ.
    """
    looks = looks * 3 if len(looks) == 1 else looks
    slept = len(set(looks)) == 1 and None not in looks if slept is None else slept
    return Thread(number, "python3", state, share, looks, slept, naps, list(watches))


def a_view(*threads, files=(), earlier=None, epolls=(), **more):
    """A View of process 1: of a listener and what else is given, the same at both ends."""
    files = {3: listener()} | dict(files)
    facts = {
        "pid": 1, "command": "server", "share": 0.0, "resident": 10**7, "descriptor_limit": 1000,
        "threads": threads or (thread(WAITS),), "files": files, "epolls": dict(epolls),
        "earlier": files if earlier is None else earlier, "seconds": 0.5,
    }  # fmt: skip
    return View(**(facts | more))


def watches(*pairs, files):
    """What epoll instance 4 watches: (descriptor, mask) each, of those files."""
    return {4: [Watch(fd, mask, files.get(fd), fd) for fd, mask in pairs]}


def sentences(seen):
    return [finding.says for finding in findings.find(seen)]


def kinds(seen):
    return [finding.kind for finding in findings.find(seen)]


def said(seen):
    return " / ".join(sentences(seen))


# Nothing, and stopped


@pytest.mark.parametrize(
    ("seen", "where"),
    [
        (thread(WAITS), ": it sleeps in epoll_wait(4)"),
        (thread(SLEEPS), ": it sleeps in clock_nanosleep (time.sleep())"),
        (thread(WAITS, WAITS, None), ""),
        (thread(WAITS, slept=False), ""),
    ],
)
def test_nothing_wrong(seen, where):
    assert findings.find(a_view(seen)) == []
    text = " ".join(report.report(a_view(seen)).split())
    assert f"findings - nothing wrong that can be seen from here{where} threads" in text


@pytest.mark.parametrize("state", "TtSDR")
def test_stopped(state):
    """And nothing else that would follow from it is said."""
    seen = a_view(thread(SLEEPS, state=state), files={3: listener(waiting=1)})
    stopped = "stopped, by SIGSTOP, Ctrl-Z or a tracer"
    assert (sentences(seen) == [stopped]) == (state in "Tt")
    if state in "Tt":
        assert findings.find(seen)[0].next == "`kill -CONT 1` lets it go on"


# Held up


def test_frozen():
    seen = a_view(thread(SLEEPS), files={3: listener(waiting=1)})
    assert said(seen) == (
        "frozen: 1 client waits in the accept queue, while the main thread sleeps in "
        "clock_nanosleep (time.sleep()). Until that call returns, nobody is served"
    )
    lists = watches((3, IN), files=seen.files)
    assert ", not in epoll_wait(4). Until" in said(replace(seen, epolls=lists))


@pytest.mark.parametrize(
    "looks", [(SLEEPS, SLEEPS, None), (None, SLEEPS, SLEEPS), (SLEEPS, WAITS, SLEEPS)]
)
def test_not_frozen_if_it_ran_meanwhile(looks):
    assert "frozen" not in said(a_view(thread(*looks), files={3: listener(waiting=1)}))


def test_slow_is_what_sleeps_in_the_same_call_and_has_run_in_between():
    ran, files = thread(SLEEPS, slept=False), {3: listener(waiting=3)}
    assert sentences(a_view(ran, files=files)) == [
        "slow: 3 clients wait in the accept queue. It does work, but 3 of 3 times that the main "
        "thread was looked at it was in clock_nanosleep (time.sleep())"
    ]
    files |= {7: tcp(), 8: tcp(port=50_000, inode=8), 9: File("socket", 9, None)}
    for call in ("recvfrom", "poll"):
        # A client's, who is slow himself; a database's; and one that has been closed meanwhile.
        for fd, kind in ((7, []), (8, ["slow"]), (9, [])):
            polled = [Watch(fd, IN, files[fd])]
            ran_on = thread(on(call, fd), slept=False, watches=polled)
            assert kinds(a_view(ran_on, files=files)) == kind
    five, four = (SLEEPS,) * 5 + (None,), (SLEEPS,) * 4 + (None, None)
    assert kinds(a_view(thread(*five), files=files)) == ["slow"], "five of six are often"
    assert kinds(a_view(thread(*four), files=files)) == [], "four of six are not"
    assert kinds(a_view(ran)) == [], "nobody waits"


@pytest.mark.parametrize("call", ["epoll_wait", "epoll_pwait2", "accept4"])
def test_not_frozen_if_one_thread_waits_for_these_clients(call):
    files = {3: listener(waiting=1)}
    fd = 3 if call == "accept4" else 4
    threads = thread(SLEEPS), thread(on(call, fd), number=2, slept=False)
    seen = a_view(*threads, files=files, epolls=watches((3, IN), files=files))
    assert "frozen" not in said(seen)


@pytest.mark.parametrize("call", ["poll", "ppoll", "select", "pselect6"])
def test_a_thread_in_poll_counts_only_for_what_it_polls(call):
    files = {3: listener(waiting=1), 9: listener(inode=9)}
    for watched, kind in ((3, []), (9, ["frozen"])):
        polls = thread(on(call, 0), number=2, watches=[Watch(watched, IN, files[watched])])
        seen = a_view(thread(SLEEPS), polls, files=files, epolls=watches((3, IN), files=files))
        assert kinds(seen) == kind


def test_frozen_in_a_poll_for_somebody_else():
    """As a socket with a timeout makes it: a database's, a name server's."""
    files = {3: listener(waiting=5), 8: tcp(port=50_000, inode=8)}
    polls = thread(on("poll", 0), watches=[Watch(8, IN, files[8])])
    assert "sleeps in poll (for 8: ESTABLISHED with 127.0.0.1:40000), not in epoll_wait(4)" in said(
        a_view(polls, files=files, epolls=watches((3, IN), files=files))
    )


def test_a_poll_that_is_over_before_it_was_read_is_not_accused():
    """It wakes every half second: what it waited for may have been anything."""
    files = {3: listener(), 7: tcp(unread=1)}
    wakes = thread(on("poll", 0))._replace(watches=None)
    locked = thread(LOCKED, number=2)
    assert kinds(a_view(wakes, locked, files=files)) == []
    assert "frozen" not in said(a_view(wakes, files={3: listener(waiting=1)}))


def test_an_idle_thread_in_epoll_wait_hides_nothing():
    """A second loop, with a listener of its own, as for metrics."""
    files = {3: listener(waiting=5), 9: listener(inode=9)}
    lists = watches((3, IN), files=files) | {6: [Watch(9, IN, files[9], 9)]}
    metrics = thread(on("epoll_wait", 6), number=2, slept=False)
    assert kinds(a_view(thread(SLEEPS), metrics, files=files, epolls=lists)) == ["frozen"]
    polling = thread(on("epoll_wait", 6), number=2)
    assert kinds(a_view(thread(SLEEPS), polling, files=files, epolls=lists)) == ["frozen"]


def test_the_loop_may_be_in_another_thread():
    files, join = {3: listener(waiting=1)}, thread(LOCKED)
    lists = watches((3, IN), files=files)
    loop = thread(SLEEPS, number=2)
    assert "while thread 2 sleeps in clock_nanosleep" in said(
        a_view(join, loop, files=files, epolls=lists)
    )
    ran = thread(SLEEPS, number=2, slept=False)
    assert kinds(a_view(join, ran, files=files, epolls=lists)) == ["slow"]


def test_a_lock_that_all_wait_for():
    """A threading server in a deadlock: it accepts, and nobody reads."""
    files = {3: listener(), 7: tcp(unread=1), 8: tcp(unread=2, inode=8)}
    accepts = thread(on("poll", 0), watches=[Watch(3, IN, files[3])])
    locked = [thread(LOCKED, number=number) for number in (2, 3)]
    assert sentences(a_view(accepts, *locked, files=files)) == [
        "locked: 3 bytes of 2 sockets unread, while 2 threads sleep in futex (a lock, or another "
        "thread)"
    ]
    reads = thread(on("recvfrom", 7), number=4)
    assert "locked" not in said(a_view(accepts, *locked, reads, files=files | {8: tcp(inode=8)}))
    lists = watches((3, IN), files=files)
    loop = thread(WAITS)
    assert "locked" not in said(a_view(loop, *locked, files=files, epolls=lists)), "back-pressure"


def test_one_that_is_held_by_others_is_theirs():
    files = {3: listener(waiting=2)}
    master = thread(on("select", 0), watches=[Watch(5, IN, File("pipe", 5, None))])
    seen = a_view(master, files=files, holders={3: [470, 471]})
    assert sentences(seen) == [
        "2 clients wait at listener 3, which this process does not watch. It is shared with 470, "
        "471: look at those"
    ]
    worker = a_view(thread(SLEEPS), files=files | {7: tcp()}, holders={3: [470]})
    assert kinds(worker) == ["frozen"], "it has a client, and so accepts them"
    lists = watches((3, IN), files=files)
    frozen = a_view(thread(SLEEPS), files=files, epolls=lists, holders={3: [470]})
    assert said(frozen).endswith(
        "nobody is served. The listener is shared with 470: look at those, too"
    )


# Edges, one-shots, listeners that nobody watches


@pytest.mark.parametrize(("mask", "spent"), [(IN | EDGE, True), (IN, False)])
def test_a_spent_edge(mask, spent):
    files = {3: listener(waiting=4), 7: tcp(unread=19)}
    lists = watches((3, mask), (7, mask), files=files)
    seen = a_view(thread(WAITS), files=files, epolls=lists)
    assert kinds(seen) == ["spent edge"] * 2 * spent
    if spent:
        assert said(seen).startswith("the edge of listener 3 is spent: 4 clients wait, and epoll 4")
        assert "the edge of socket 7 is spent: 19 bytes unread" in said(seen)


def test_an_edge_is_not_spent_while_the_loop_works_it_off():
    files, earlier = {3: listener(waiting=4)}, {3: listener(waiting=9)}
    lists = watches((3, IN | EDGE), files=files)
    at_work = thread(WAITS, slept=False)
    assert kinds(a_view(at_work, files=files, earlier=earlier, epolls=lists)) == []
    assert kinds(a_view(at_work, files=files, epolls=lists)) == ["spent edge"], "the same four"
    assert kinds(a_view(files=files, earlier={3: listener()}, epolls=lists)) == [], "just come"


ONE_SHOT = select.EPOLLONESHOT


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (0, "is on the list of epoll 4 for nothing: accepting is paused"),
        (ONE_SHOT, "was reported once (ONESHOT), and has not been armed again in epoll 4"),
        (None, "which is on nobody's list"),
    ],
)
def test_a_listener_that_nobody_watches(mask, why):
    files = {3: listener(waiting=2), 7: tcp()}
    lists = watches((7, IN), *[(3, mask)] * (mask is not None), files=files)
    seen = a_view(thread(WAITS), files=files, epolls=lists)
    assert kinds(seen) == ["not watched"]
    assert said(seen).startswith("2 clients wait at listener 3, which") and why in said(seen)
    assert kinds(a_view(thread(WAITS), thread(None, number=2), files=files, epolls=lists)) == []


def test_a_spent_one_shot():
    files = {3: listener(), 7: tcp(unread=5)}
    lists = watches((3, IN), (7, ONE_SHOT), files=files)
    pool = thread(LOCKED, number=2)
    seen = a_view(thread(WAITS), pool, files=files, epolls=lists)
    assert sentences(seen) == [
        "socket 7 was reported once (ONESHOT), has 5 bytes unread, and no thread is at work that "
        "could arm it again in epoll 4"
    ]
    works = thread(SLEEPS, number=2, slept=False)
    assert kinds(a_view(thread(WAITS), works, files=files, epolls=lists)) == []
    armed = watches((3, IN), (7, IN | ONE_SHOT), files=files)
    assert "disarmed" not in kinds(a_view(thread(WAITS, slept=False), files=files, epolls=armed))


def test_blocked_though_nobody_waits_yet():
    files = {3: listener(), 7: tcp()}
    lists = watches((3, IN), (7, IN), files=files)
    assert sentences(a_view(thread(SLEEPS), files=files, epolls=lists)) == [
        "blocked: the main thread has slept all the time in clock_nanosleep (time.sleep()), not in "
        "epoll_wait(4). Nobody waits for it yet"
    ]
    assert kinds(a_view(thread(SLEEPS, slept=False), files=files, epolls=lists)) == []
    assert kinds(a_view(thread(WAITS), files=files, epolls=lists)) == []
    nested = lists | {5: [Watch(4, IN, File("eventpoll", 40, None), 4)]}
    assert kinds(a_view(thread(on("epoll_wait", 5)), files=files, epolls=nested)) == []
    no_server = {9: [Watch(8, IN, tcp(port=50_000), 8)]}
    assert kinds(a_view(thread(SLEEPS), epolls=no_server)) == [], "a list of its own clients'"


@pytest.mark.parametrize(
    ("silent", "timer", "port", "told"),
    [
        (60, "off", PORT, True),
        (59, "off", PORT, False),
        (60, "keepalive", PORT, False),
        (60, "off", 50_000, False),
        (None, "off", PORT, False),
    ],
)
def test_silent_clients_without_keepalive(silent, timer, port, told):
    file = tcp(timer=timer, port=port)
    file = file._replace(socket=replace(file.socket, silent=silent))
    seen = a_view(files={7: file}, epolls=watches((7, IN), files={7: file}))
    assert kinds(seen) == ["silent clients"] * told


def test_a_client_of_a_unix_listener():
    path = "/run/app.sock"
    end = Socket("LISTEN", (path,), ("",), 2, 0, "off", 0.0, 3, 5, "unix")
    accepted = Socket("ESTABLISHED", (path,), ("",), 0, 0, "off", 0.0, 7, 0, "unix")
    files = {3: File(f"listening on {path}", 3, end), 7: File("Unix socket", 7, accepted)}
    seen = a_view(thread(on("recvfrom", 7)), files=files)
    assert kinds(seen) == ["one client"]
    full = files | {3: File("listening", 3, replace(end, unread=6))}
    assert "connect fails with EAGAIN, or waits without a limit" in said(a_view(files=full))


def test_what_was_not_seen_is_said_and_none_is_not():
    hidden = a_view(files={3: File("socket", 3, None)}, not_seen=("it lives elsewhere",))
    text = report.report(replace(hidden, files={3: File("socket", 3, None)}))
    assert "not seen\n- it lives elsewhere\n" in text and "sockets: not seen" in text
    assert "sockets: none" in report.report(replace(hidden, files={}))


def test_who_waits_is_who_has_waited_all_the_time():
    """In a busy server's queue there is always somebody, and always somebody else."""
    one, two, three = (("127.0.0.1", port) for port in (1, 2, 3))

    def queue(*ends):
        file = listener(waiting=len(ends))
        return file._replace(socket=replace(file.socket, queue=frozenset(ends)))

    for before, now, frozen in (((one, two), (three,), False), ((one, two), (two, three), True)):
        files, earlier = {3: queue(*now)}, {3: queue(*before)}
        assert kinds(a_view(thread(SLEEPS), files=files, earlier=earlier)) == ["frozen"] * frozen
        at_work = thread(SLEEPS, slept=False)
        assert kinds(a_view(at_work, files=files, earlier=earlier)) == ["slow"]


def test_the_rules_can_be_read():
    known = [rule.kind for rule in findings.RULES]
    assert len(known) == len(set(known))
    for rule in findings.RULES:
        assert rule.when and rule.next.format(pid=1) and not rule.when.endswith(".")


def test_the_keys_of_what_machines_read():
    files = {3: listener(waiting=1), 7: tcp()}
    seen = a_view(thread(SLEEPS), files=files, epolls=watches((3, IN), files=files))
    seen = replace(seen, findings=tuple(findings.find(seen)))
    data = json.loads(json.dumps(report.as_data(seen)))
    assert list(data) == ["pid", "command", "findings", "not_seen", "threads", "sockets", "epolls"]
    assert list(data["findings"][0]) == ["kind", "says", "next", "evidence"]
    assert data["findings"][0]["evidence"] == {
        "thread": 1, "call": "clock_nanosleep", "clients": 1, "bytes": 0,
    }  # fmt: skip
    assert data["epolls"] == {"4": [{"descriptor": 3, "mask": "IN", "open": True}]}
    assert data["sockets"][0]["state"] == "LISTEN" and data["threads"][0]["slept"]


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
    assert sentences(seen)[0] == (
        f"one client holds up all: 2 clients wait in the accept queue, while the main thread "
        f"sleeps in {call}(7) (ESTABLISHED with 127.0.0.1:40000), {why}"
    )


def test_one_client_is_waited_for_with_a_timeout():
    """Python reads from a socket with a timeout by a poll() for it alone."""
    files = {3: listener(waiting=2), 7: tcp()}
    polls = thread(on("poll", 0), watches=[Watch(7, IN, files[7])])
    assert sentences(a_view(polls, files=files)) == [
        "one client holds up all: 2 clients wait in the accept queue, while the main thread sleeps "
        "in poll (for 7: ESTABLISHED with 127.0.0.1:40000), with nothing to read"
    ]
    both = thread(on("poll", 0), watches=[Watch(fd, IN, files[fd]) for fd in (3, 7)])
    assert kinds(a_view(both, files=files)) == []


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
    ("number", "word"), [(findings.FEW - 1, "computes"), (findings.FEW, "spinning")]
)
def test_few_calls_are_those_of_one_that_computes(number, word):
    assert busy(*[call()] * number).startswith(f"{word}: 0.50 of a core")


@pytest.mark.parametrize(("naps", "computes"), [(20, True), (21, False)])
def test_one_that_naps_does_not_compute(naps, computes):
    """On a busy machine it may hardly get the core while it is traced."""
    seen = a_view(thread(None, naps=naps), share=0.5, calls=[call()] * 3)
    assert (kinds(seen) == ["busy"]) == computes


def test_how_many_calls_one_that_computes_has_made():
    assert busy() == "computes: 0.50 of a core, and no system call in 0.3 s"
    assert "and 1 system call in" in busy(call())
    waiting = busy(call(), call(), files={3: listener(waiting=1)})
    assert waiting.endswith("2 system calls in 0.3 s. Meanwhile 1 client waits in the accept queue")


def test_why_it_is_busy_is_unknown_where_tracing_was_refused():
    seen = a_view(thread(None), share=0.5, refused="Operation not permitted")
    assert said(seen) == (
        "busy or spinning: 0.50 of a core, and its calls are unknown: tracing failed "
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
    lists = watches((7, IN), files=files)
    seen = a_view(thread(None), share=0.5, calls=[made] * 25, files=files, epolls=lists)
    assert kinds(seen) == ["spinning"] * (not useful)
    text = calls_in_words(seen)
    assert words.format("25 times") in text
    assert useful or said(seen) == f"spinning: 0.50 of a core. In 25 calls: {text}"
    seen = replace(seen, findings=tuple(findings.find(seen)))
    lines = " ".join(report.report(seen).split())
    assert ("traced thread 1, as strace does: 25 calls: " in lines) == useful, "said once"


def test_what_moved_data_is_told_first():
    calls = [call()] * 30 + [call(result=5)]
    text = calls_in_words(a_view(thread(None), calls=calls))
    assert text.startswith("recvfrom(7) 1 time, which moved data; recvfrom(7) 30 times")


@pytest.mark.parametrize(
    ("calls", "spins"),
    [
        ([call("epoll_wait", 4), *[call("close", fd) for fd in range(30)]], False),
        ([call("epoll_wait", 4), *[call("close", fd) for fd in range(30)]] * 2, True),
        ([call("close", 7), call("fcntl", 7), call("ioctl", 7), call("getsockopt", 7)] * 9, False),
        ([call("close", 7), call("fcntl", 7), call("ioctl", 7)] * 9, True),
    ],
)
def test_spinning_is_said_where_a_whole_turn_was_seen(calls, spins):
    assert (kinds(a_view(thread(None), share=0.5, calls=calls)) == ["spinning"]) == spins


def test_an_error_queue_that_nobody_empties():
    events = ((select.EPOLLERR, 7),)
    calls = [call("epoll_wait", 4, 1, events=events), call(result=-errno.EAGAIN)] * 20
    files = {3: listener(), 7: tcp()}
    lists = watches((7, IN), files=files)
    text = said(a_view(thread(None), share=0.5, calls=calls, files=files, epolls=lists))
    assert "failed with EAGAIN (ERR is reported for its error queue, which recvmsg" in text


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


def neglected(now, before=None, mask=IN, sleep=WAITS, epolls=None, share=0.0):
    """What is said of socket 7, as it is now and was at the window's beginning."""
    files = {3: listener(), 7: now}
    earlier = files if before is None else {3: listener(), 7: before}
    epolls = watches((3, IN), (7, mask), files=files) if epolls is None else epolls
    seen = a_view(thread(sleep), files=files, earlier=earlier, epolls=epolls, share=share)
    return said(seen)


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
    [
        ("probe", "does not read, and its window is zero"),
        ("off", "has acknowledged none of them meanwhile"),
    ],
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


def test_what_is_being_acknowledged_is_not_stuck():
    now, before = (
        file._replace(socket=replace(file.socket, acked=acked))
        for file, acked in ((tcp(unsent=9), 20), (tcp(unsent=9), 10))
    )
    assert "unsent" not in neglected(now, before=before, mask=OUT)
    assert "unsent" in neglected(now, before=now, mask=OUT)


def test_watched_for_out_with_nothing_unsent():
    words = "1 socket (7) watched for OUT with nothing unsent, so that no wait lasts"
    assert neglected(tcp(), mask=OUT, share=0.05) == words
    assert neglected(tcp(), mask=IN | OUT, share=0.05) == words
    for other in (
        neglected(tcp(), mask=OUT, share=0.04),
        neglected(tcp(), mask=OUT | EDGE, share=0.05),
        neglected(tcp(), before=tcp(unsent=1), mask=OUT, share=0.05),
        neglected(tcp(unsent=1), before=tcp(), mask=OUT, share=0.05),
    ):
        assert "no wait lasts" not in other


def test_a_registration_whose_file_is_closed_here():
    epolls = {4: [Watch(8, IN, None, 8), Watch(9, IN, None, 9)]}
    assert neglected(tcp(), epolls=epolls) == "", "at one end only, they have come or gone"
    words = "2 sockets (8, 9) closed here, but watched by epoll 4: a duplicate (dup, fork) keeps it"
    left = frozenset({(4, 8, 80), (4, 9, 90)})
    assert words in said(a_view(epolls=epolls, outlived=left))


@pytest.mark.parametrize(
    ("number", "named"), [(6, "(10, 11, 12, 13, 14, 15)"), (7, "(10, 11, 12, 13, 14, 15, …)")]
)
def test_six_sockets_are_named_and_more_are_hinted_at(number, named):
    files = {fd: tcp("CLOSE-WAIT", inode=fd) for fd in range(10, 10 + number)}
    assert said(a_view(files=files)).startswith(f"{number} sockets {named} in CLOSE-WAIT")


def test_the_most_important_comes_first():
    files = {3: listener(waiting=9, limit=5), 7: tcp("CLOSE-WAIT")}
    found = sentences(a_view(thread(SLEEPS), files=files, descriptor_limit=2))
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
        share=0.25, findings=(findings.Finding("frozen", "a word " * 30, "look on", {}),),
        command="a long command " * 9, outlived=frozenset({(4, 9, 90)}),
    )  # fmt: skip
    lines = report.report(seen).splitlines()
    assert lines[0].startswith("process 1: a long command") and len(lines[0]) == report.WIDTH
    assert lines[1:3] == [
        "  3 threads, 4 of 1000 descriptors, 10 MB, 0.25 of a core",
        "findings",
    ]
    assert lines[3].startswith("- a word") and lines[4].startswith("  a w")
    start = lines.index("  > look on")
    assert lines[start + 1 :] == [
        "threads",
        "  main 1: asleep in epoll_wait(4)",
        "  2: asleep in poll (for 5: pipe)",
        "  3: stopped",
        "epoll 4 watches 4",
        "  3 for IN: LISTEN with 127.0.0.1:40000, 2 waiting, limit 1",
        "  7 for IN|ET: ESTABLISHED with 127.0.0.1:40000, 5 unread, 6 unsent",
        "  8 for nothing but ERR and HUP: CLOSE-WAIT with 127.0.0.1:40000, 0 unread, 0 unsent",
        "  9 for IN: watched, but closed here",
        "poll of 2 watches 1",
        "  5 for OUT: pipe",
        "sockets: 1 LISTEN, 1 ESTABLISHED, 1 CLOSE-WAIT",
    ]
    unwatched = report.report(replace(seen, epolls={}))
    assert "  3: LISTEN with 127.0.0.1:40000, 2 waiting, limit 1" in unwatched
    assert "sockets: none" in report.report(replace(seen, files={}))
