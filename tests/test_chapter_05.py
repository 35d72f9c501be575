"""What chapter 5 says beside the words that its cells quote.

Most of it is what a cell has printed: nbval holds the stored outputs to what happens, and here the
prose is held to the outputs. The rest is tried here.
"""

import errno
import re
import resource
import select
import socket
import time

import pytest

import lab
from conftest import ROOT, printed, rows
from lab import notebooks

PAGE = "05_edge_triggered"
EDGE = select.EPOLLIN | select.EPOLLET
SERVER = (ROOT / "code" / f"{PAGE}.py").read_text(encoding="utf-8")


@pytest.fixture
def solution(run_folder):
    """Write the server and its solution to run/; return the solution's text."""
    for name in (f"{PAGE}.py", "05_solution.py"):
        (run_folder / name).write_text(notebooks.program(PAGE, name), encoding="utf-8")
    return (run_folder / "05_solution.py").read_text(encoding="utf-8")


def test_one_who_receives_once_an_event_never_meets_eagain():
    with lab.record(ROOT / "code" / "04_level_triggered.py") as run:
        for name in ("one", "another"):
            run.connect(name).ask(pieces=3)
        lab.at_rest(run.server)
    calls = run.calls("accept", "recv", "send")
    assert len(calls) >= 6 and not any(call.error for call in calls), (
        "claim 87, caveat: “Of EAGAIN that is true, for one who receives once an event”"
    )


def test_its_source():
    loop = SERVER[SERVER.index("def serve(") : SERVER.index("def main(")]
    assert loop.count("EPOLLET") == 4, "“`EPOLLET` stands in four places”"
    for name in ("accept", "recv", "send"):
        before = loop[: loop.index(f".{name}(")]
        assert before.rindex("while") > before.rindex("def "), (
            "“each of the three functions that touch a socket has a loop”"
        )
    assert "recv(1024)" in loop and "requests[fd] +=" in loop, "“Each `recv` brings 1 kB, and”"
    assert "BACKLOG = 1\n" in SERVER, "“which is of the article's length, 1, and so holds two”"
    assert loop.index("suppress(OSError)") < loop.index("accept"), (
        '“the loop took that, like any error, for "nobody left"”'
    )


def test_how_one_is_told():
    seen = rows(PAGE, "five-state")
    assert [again for _, again in seen.values()] == ["poll again"] + ["nothing"] * 4, (
        "“This one is told once, and takes everything at once. But it gets no second chance”"
    )
    assert seen["a full send buffer drains"][0] == "IN|OUT", (
        "“But only the moment is an edge”; “whatever it was that happened”; “In the third row not "
        "one new byte has come”; “So a server that leaves bytes unread may be reminded of them, by "
        "luck. It must not count on that”; “Level-triggered epoll reports as long as something is "
        "so; edge-triggered epoll when something happens, and then all”"
    )
    assert seen["it is registered"][0] == "OUT", (
        "“though there has been room all the time: `register` and `modify` look at the socket, and "
        "report what is already so”"
    )


def test_what_ends_its_loops():
    seen = rows(PAGE, "five-run")
    assert seen["accept"] == seen["recv"] == ["done", "done, BlockingIOError"], (
        "“They go on until `accept` and `recv` raise, or `send` has nothing left”; “`accept` and "
        "`recv` are called once more when there is nothing left to get, and the exception ends the "
        "loop”"
    )
    seen = rows(PAGE, "five-left-over")
    assert [each[1] for each in seen.values()] == ["edge, takes one", "1", "1", "476"], (
        "“Here a loop polls as a server does, and takes one thing for each report, or all there "
        "is”; “the server has to go on until there is no more”; “In the middle column something is "
        "always left over”; “one `accept` takes one of the two”; “From now on the loop is one "
        "client behind”; “476 of 1,500 bytes lie unread while the server”"
    )
    assert [each[2] for each in seen.values()][1:] == ["0", "0", "0"]
    seen = rows(PAGE, "five-ends")
    assert seen["half-closes"] == ["b'hello', b'', b'', b''"], (
        "“It waits for an exception and takes any exception for the end of what there is. So the "
        "end of input never ends that loop, and a reset ends it unnoticed”"
    )
    assert seen["resets"] == ["b'hello', ECONNRESET, b'', b''"], (
        "“Whoever overlooks that `ECONNRESET` is told of an ordinary end of input afterwards”; "
        "“After an edge, go on until `EAGAIN`, and keep the three ends of a stream apart: "
        '`BlockingIOError` for now, `b""` for good, any other error for a lost connection”'
    )


@pytest.mark.parametrize("mask", [select.EPOLLIN, EDGE])
def test_what_tls_has_read_ahead_is_reported_in_no_mode(mask):
    ours, theirs = lab.tls_pair()
    with select.epoll() as epoll:
        epoll.register(ours, mask)
        theirs.send(b"x" * 5000)
        lab.settled(ours)
        assert epoll.poll(0) and len(ours.recv(1000)) == 1000
        left = ours.pending()
        assert (epoll.poll(0), left) == ([], 4000), (
            "“What TLS or `makefile` has read ahead is reported in no mode”"
        )


def test_the_one_that_half_closes():
    assert printed(PAGE, "five-half-close").startswith("recv brings 18 0 0 0"), (
        "“One client has asked and has nothing more to say, so it shuts down its sending half and "
        "listens”; “the server runs without a pause, and answers nobody”; “its request has been "
        "read to the last byte, and the server never gets as far as looking whether it is "
        "complete”; “The client of the picture sends a complete request and half-closes”"
    )
    words = lab.matrix.stored()
    assert words["half closes after asking", "04"] == "ok", (
        '“but there each `b""` was a turn of the outer loop, and the other clients got their turns”'
    )
    assert words["connects and closes", "05"] == "frozen", (
        "“A client that simply connects and closes does the same to the server”; “A client that "
        "ends its half of the connection, with or without a request, stops the server for good: at "
        "the end of input nothing raises”"
    )


def test_the_remedy_takes_both_decisions(solution, run_folder):
    """Without the second, who has left without asking stays a descriptor."""
    forgets = "            if not data:\n                return forget(fd)\n"
    assert solution.count(forgets) == 1
    ends = "            if not data:\n                return\n"
    for instead, word in (("", "spinning"), (ends, "leaking")):
        text = solution.replace(forgets, instead)
        (run_folder / "05_solution.py").write_text(text, encoding="utf-8")
        column = lab.matrix.Column(PAGE, "run/05_solution.py")
        found = lab.matrix.judge(lab.rows.row("connects and closes"), column)
        assert found.word == word, (
            '“The remedy takes two decisions: `b""` ends the loop, and a client that has not asked '
            "by then is forgotten”"
        )


def test_the_fast_one():
    seen = rows(PAGE, "five-fast")
    assert seen["asks beside the fast one"] == ["is answered", "waits"], (
        "“The loop has a second way not to end: a client sends without pause”; “A client that "
        "sends without pause stops the server as long as it sends”; “Chapter 4's server reads such "
        "a client once, and then it is somebody else's turn”; “A client that sends without a pause "
        "stops the server as well”"
    )
    times = []
    for size in (10_000, 10_000_000):
        requests = {4: b"x" * size}
        took = []
        for _ in range(5):
            began = time.perf_counter()
            requests[4] += b"x" * 1024
            took.append(time.perf_counter() - began)
        times.append(min(took))
    assert times[1] > 10 * times[0], (
        "“`+=` copies all that came before it, so the longer this goes on the slower the server "
        "reads”; “The client needn't even be fast”"
    )


def test_deaf():
    seen = rows(PAGE, "five-deaf")
    assert seen["clients that wait while it sleeps"] == ["2", "2"], (
        "“once the server has run out of descriptors it can stay deaf and accept nobody”; “two "
        "clients in its accept queue and descriptors for both. `accept` had failed with `EMFILE`”; "
        "“The edge was spent, and only another arrival makes a new one”; “More clients than the "
        "server may have descriptors, and than fit into its queue, leave it deaf”; defect 11: "
        "“EMFILE spends the listener's edge”"
    )
    assert seen["a newcomer gets"] == ["get: ETIMEDOUT", "get: 200 'Hello, world!'"], (
        "“the next client wakes the server, and those that waited are served along with it”; “and "
        "a dropped SYN is no arrival. From outside it looks like a dead network”"
    )
    assert seen["of these, answered then"] == ["0", "2"]


def test_accept_fails_with_emfile():
    with lab.record(ROOT / "code" / f"{PAGE}.py") as run:
        lab.at_rest(run.server)
        run.server.limit(resource.RLIMIT_NOFILE, 3)  # it has more already
        with lab.connect(run.server) as client:
            lab.settled(client.socket)
            lab.until(run.server.is_asleep)
    errors = {call.error for call in run.calls("accept")}
    assert errors == {"OSError"}, (
        "claim 92, caveat: “All of OSError, the resets and the exhausted descriptors”; "
        "“Only `BlockingIOError` means that nobody is left”"
    )


ONE_ERROR = """
class Listener:
    def __init__(self, listener):
        self.listener, self.failed = listener, False
    def accept(self):
        if self.failed:
            return self.listener.accept()
        self.failed = True
        raise OSError({number}, "as it were")
    def __getattr__(self, name):
        return getattr(self.listener, name)
serve = chapter.serve
chapter.serve = lambda listener: serve(Listener(listener))
chapter.main()
"""


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EMFILE])
def test_whose_error_it_is(solution, run_folder, number):
    """Only for what is scarce the solution waits, before it accepts again."""
    text = solution.replace("chapter.main()\n", ONE_ERROR.format(number=number))
    (run_folder / "05_solution.py").write_text(text, encoding="utf-8")
    with lab.serve("run/05_solution.py") as server:
        took = lab.timed(lab.get, server.address)
    assert (took > 0.9) == (number == errno.EMFILE), (
        "“After an error that is one client's own, like `ECONNABORTED`, the loop goes on”; “After "
        "`EMFILE` the server has to remember by itself that its listener is still ready, and to "
        "try again at a set time”; “When descriptors or memory have run out, `accept` is tried "
        "again when a client leaves, and at the latest a second later, whatever happens "
        "meanwhile”; “`EMFILE` is none of these three. A server that leaves its `accept` loop for "
        "it must come back at a set time, or leave the listener level-triggered”"
    )


def test_a_quiet_moment_is_no_set_time(solution, run_folder):
    """Who tries accept again when a poll has found nothing never does, beside a talking client."""
    at_a_set_time = "if again is not None and time.monotonic() >= again:"
    loop = "            for fd, events in epoll.poll(pause()):\n"
    assert solution.count(at_a_set_time) == solution.count(loop) == 1
    quiet = solution.replace(at_a_set_time, "if again is not None and not happened:")
    quiet = quiet.replace(
        loop,
        "            happened = epoll.poll(0 if unfinished else PAUSE)\n"
        "            for fd, events in happened:\n",
    )
    heard = []
    for text in (solution, quiet):
        (run_folder / "05_solution.py").write_text(text, encoding="utf-8")
        with lab.serve("run/05_solution.py") as server, lab.connect(server) as talker:
            lab.at_rest(server, sockets=2)
            free = lab.kernel.descriptors(server.pid)
            server.limit(resource.RLIMIT_NOFILE, free)
            late = lab.connect(server)
            late.send(lab.REQUEST)
            lab.settled(late.socket)
            lab.until(server.is_asleep)
            server.limit(resource.RLIMIT_NOFILE, free + 10)
            late.seconds = 0.2
            for _ in range(15):
                talker.send(b"x")
                if late.read_all():
                    break
            heard.append(len(late.answers()))
            late.close()
    assert heard == [1, 0], (
        "“To wait for a quiet moment won't do: while some other client keeps talking, there is "
        "none”"
    )


def test_what_a_reset_is_told_as():
    ours, theirs = lab.pair()
    theirs.send(b"GET / HT")
    lab.settled(ours)
    lab.reset(theirs)
    assert lab.reported(ours, EDGE) == "IN|ERR|HUP", (
        "“But the connection is gone, and the `HUP` that says so was there, in the same mask as "
        "`IN`. The `elif` takes `IN` and puts off the rest, and what is put off here is lost”"
    )
    seen = rows(PAGE, "five-swallowed")
    assert seen["half a request"][1] == "10 descriptors stay", (
        "“Neither reset is fatal any more”; “The same broad `except` swallows a client's reset”; "
        "“So each of these clients keeps a descriptor, until no descriptor is left, and then the "
        "server is deaf”; “A reset leaves a descriptor behind; just before the shutdown, it ends "
        "the server. So does a request that is not UTF-8, and so does a closed console”"
    )
    words = lab.matrix.stored()
    names = "bytes that are not UTF-8", "its console closed"
    assert {words[name, "05"] for name in names} == {"dead"}


def test_renewing_an_entry_puts_it_back():
    ours, theirs = lab.pair()
    with select.epoll() as epoll:
        epoll.register(ours, EDGE)
        theirs.send(b"hello")
        lab.settled(ours)
        assert [len(epoll.poll(0)) for _ in range(2)] == [1, 0]
        for _ in range(3):
            epoll.modify(ours, EDGE)
            told = [len(epoll.poll(0)) for _ in range(2)]
            assert told == [1, 0], (
                "“The kernel's list will do as well: `modify`, with the same mask, puts the socket "
                "back on it, for a system call each time”"
            )


def test_who_never_leaves_the_list_keeps_the_loop_awake(run_folder):
    text = notebooks.program(PAGE, "05_budget.py")
    leaves = "except BlockingIOError:\n                return\n"
    assert text.count(leaves) == 1
    (run_folder / f"{PAGE}.py").write_text(SERVER, encoding="utf-8")
    for instead, word in ((leaves, "leaking"), (leaves.replace("return", "break"), "spinning")):
        (run_folder / "05_budget.py").write_text(text.replace(leaves, instead), encoding="utf-8")
        column = lab.matrix.Column(PAGE, "run/05_budget.py")
        found = lab.matrix.judge(lab.rows.row("a header without end"), column)
        assert found.word == word, (
            "“a server that forgets to take somebody off its list polls without sleeping, for "
            "ever”; “as long as there is somebody on that list, the server mustn't sleep”; “While "
            "there is somebody on it, don't sleep”"
        )


def test_the_bill():
    said = re.findall(r"≈ (0\.\d+) times", printed(PAGE, "five-cpu"))
    of_level, of_first = map(float, said)
    assert 0.7 < of_level < of_first < 1.05, (
        "“registering once saves half of chapter 4's system calls, and about a sixth of its CPU "
        "time, here. Against the server that sends first it saves less”"
    )
    once = notebooks.program(PAGE, "05_register_once.py")
    assert once.count("epoll.register(connection, ALL)") == 1 and "modify" not in once, (
        "“which sends before it asks for `OUT`, this chapter's, and the kind of server for which "
        "edge-triggered mode is made. It registers a socket once, for everything, and never "
        "changes the registration”; “Registering once does what it promises”"
    )


def test_a_short_read_has_emptied_the_queue_and_may_have_missed_the_end():
    ours, theirs = lab.pair()
    ours.setblocking(False)
    with select.epoll() as epoll:
        epoll.register(ours, EDGE | select.EPOLLRDHUP)
        theirs.send(b"hello")
        theirs.shutdown(socket.SHUT_WR)
        lab.settled(ours)
        told, read, then = lab.names(epoll.poll(0)), ours.recv(100), lab.names(epoll.poll(0))
        assert (told, read, then) == ("IN|RDHUP", b"hello", "nothing"), (
            "“But don't stop there if the event had `RDHUP`, `HUP` or `ERR` in it: then the end "
            "comes right behind the data, and its edge is already spent”"
        )
        assert ours.recv(100) == b""


def test_who_freezes_it():
    words = lab.matrix.stored()
    mine = {client: word for (client, server), word in words.items() if server == "05"}
    assert mine["connects and closes"] == mine["half closes after asking"] == "frozen", (
        "“A client that half-closes is served by chapter 4's server and freezes this one; a client "
        "that makes chapter 4's server spin freezes this one as well”"
    )
    assert mine["whole request then resets"] == "leaking"
    assert mine["bytes that are not UTF-8"] == "dead", (
        "“What kills chapter 4's server freezes this one or makes it leak, and bytes that are not "
        "UTF-8 kill both”"
    )


def test_asyncio_is_level_triggered():
    assert "ET" not in printed(PAGE, "five-asyncio"), (
        "“What does asyncio, Python's own event loop, ask of epoll”"
    )
