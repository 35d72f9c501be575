"""What chapter 11 says beside the words that its cells quote."""

import ast
import contextlib
import errno
import io
import os
import re
import select
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import httptools
import pytest

import lab
from conftest import BOOK, CLOSING, KEPT, rows, seconds
from lab import notebooks
from stage import HARDENED, TICK, drips, feeds, fills, goes, load, stays

PAGE = "11_hardened"
CHAPTER = BOOK / f"{PAGE}.ipynb"
HALF = KEPT[:-2]
STORED = lab.matrix.stored()


# The server


def test_the_first_screen():
    shown = re.findall(r"against (10|11): (\w+)", html("eleven-opening"))
    words = {server: {word for each, word in shown if each == server} for server in ("10", "11")}
    assert words["11"] <= {"ok", "ends"} and not words["10"] & {"ok", "ends", "n/a"}, (
        "“Here are the rows of the matrix in which chapter 10's server is red, and this one beside "
        "it”; “A client may be silent, drip a byte now and then, vanish, or ask for more than it "
        "reads: nobody else notices. And before the server ends, it answers whoever has asked”"
    )
    ends = [row for (row, server), word in STORED.items() if (server, word) == ("11", "ends")]
    assert ends and all("SIGTERM" in row for row in ends), "“Where it ends, it was told to”"
    assert {"10", "11"} == {server for server, _ in shown}, (
        "intro: “a server to leave running, with timeouts and limits: Leave it running”; "
        "README: “and a server to leave running, with deadlines, limits and a graceful shutdown”"
    )


def html(name):
    """Return what a cell shows, as HTML."""
    (cell,) = (each for each in notebooks.cells(CHAPTER) if each["id"] == name)
    return "".join("".join(each["data"].get("text/html", "")) for each in cell["outputs"])


def test_its_docstring():
    with lab.serve(HARDENED) as server:
        answers = []
        for path in (b"/", b"/any?path=1"):
            with lab.connect(server) as client:
                client.send(CLOSING.replace(b"/", path, 1))
                client.read_all()
                answers += client.answers()
        assert len(lab.kernel.threads(server.pid)) == 1 and len(server.pids()) == 1, (
            "“It is one process on one core, without TLS”; “One thread, epoll, HTTP/1.1: a "
            "deadline and a limit for everything”"
        )
        assert [len(answer.body) for answer in answers] == [13, 13], (
            "“without TLS, and any path gets the article's 13 bytes”; “It answers any path with "
            "the same 13 bytes, on one core, and without TLS”"
        )
        with lab.connect(server) as client:
            client.send(HALF)
            lab.at_rest(server, sockets=2)
            server.send_signal(signal.SIGTERM)
            client.send(b"\r\n")
            client.read_all()
            assert (len(client.answers()), server.wait()) == (1, 0), (
                "“After SIGTERM the server answers what has been asked, and ends with status 0. A "
                "listener that is handed over, as systemd does, is taken”"
            )


def test_one_package_and_options():
    tree = ast.parse(HARDENED.read_text(encoding="utf-8"))
    names = {each.name for node in tree.body if isinstance(node, ast.Import) for each in node.names}
    tops = {name.partition(".")[0] for name in names}
    assert tops - sys.stdlib_module_names == {"httptools"}, "“It needs one package, httptools”"
    said = subprocess.run(
        [sys.executable, str(HARDENED), "-h"], capture_output=True, text=True, check=True
    ).stdout
    for option in ("idle", "header", "body", "write", "drain"):
        assert f"--{option}-timeout S" in said, "“a timeout for each phase, how many connections”"
    assert "--max-connections" in said and "--verbose" in said, (
        "“-h lists its options: a timeout for each phase, how many connections there may be, a log”"
    )


def test_time_begins_when_a_client_is_let_in_and_answers_last_a_second(played):
    @played()
    def _(one, peer):
        peer.send(KEPT)
        yield 0
        (client,) = one.loop.clients.values()
        assert (client.phase, client.due) == ("idle", one.now + 60), (
            "“In chapter 10 a client's time began with its farewell; here it begins when the "
            "client is let in”"
        )
        made = one.loop.answers
        peer.send(KEPT)
        yield 0.9
        lasts = one.loop.answers is made
        yield 0.2
        peer.send(KEPT)
        yield 0
        assert lasts and one.loop.answers is not made, "“once a second the answers are made anew”"


def test_what_is_like_one_before_is_not_parsed_again(played):
    @played()
    def _(one, peer):
        other = one.connect()
        parsed, feed = [], one.module.Request.feed
        one.module.Request.feed = lambda request, data: (parsed.append(data), feed(request, data))
        for each in (peer, other, peer):
            each.send(KEPT)
            yield 0
        one.module.Request.feed = feed
        answered = [each.take() for each in (peer, other)]
        assert (parsed, answered) == ([KEPT], [[200, 200], [200]]), (
            "“But on a kept connection most requests are the same bytes as one before, and get the "
            "same verdict. So the server remembers up to KNOWN of them, and doesn't parse these "
            "again”"
        )


# Too slow


def test_a_deadline_is_kept_to_the_next_quarter():
    eleven = load(HARDENED)
    deadlines, timers = eleven.Deadlines(), [eleven.Timer() for _ in range(2)]
    for timer, timer.due in zip(timers, (0.5, 0.6), strict=True):
        deadlines.put(timer)
    (tick,) = deadlines.ticks
    assert (tick, deadlines.over(0.7499), {*deadlines.over(0.75)}) == (0.75, [], {*timers}), (
        "“Here deadlines stand in sets, one for each quarter of a second, and are looked at when "
        "their quarter comes”; “The price is that a deadline may come a quarter of a second late”"
    )
    took = [seconds(row[1]) for row in list(rows(PAGE, "eleven-slow-seen").values())[1:]]
    assert len(took) == 4 and all(0.5 <= each < 1 for each in took), (
        "“Each of these deadlines is half a second here, and is kept to the next quarter”"
    )


@pytest.mark.parametrize(("begin", "phase"), [(HALF[:-9], 10), (KEPT[:-2] + b"X: ", 10)])
def test_who_drips_does_not_move_it(played, begin, phase):
    @played()
    def _(one, peer):
        yield 30  # it has a minute to begin
        peer.send(begin)
        yield from drips(one, peer, b"x", phase)
        yield TICK + 0.01
        assert peer.take() == [408], (
            "“A deadline belongs to a phase, not to a read: who drips doesn't move it. Only "
            "progress in sending does”; “So no byte starts the clock afresh. The clock starts with "
            "each phase of a connection”; glossary: “isn't put off by a byte now and then”; "
            "glossary: “on each of which a request comes in a byte at a time, and never ends. A "
            "timeout between two reads never notices it”"
        )


def test_who_has_vanished_does_not_ask_and_is_dropped(played):
    @played()
    def _(one, peer):
        peer.send(KEPT)
        yield 0
        yield from stays(60, peer)
        yield from goes(peer)
        assert peer.take() == [200], "“nor does it ask, so the same deadlines end it”"


def test_keepalive_is_on():
    with lab.serve(HARDENED) as server, lab.connect(server) as client:
        lab.at_rest(server, sockets=2)
        timer = lab.kernel.find_socket(*client.ends).timer
        assert timer == "keepalive", (
            "“Keepalive is on as well, for those who set their timeouts to hours”"
        )


def test_a_send_buffer_holds_less_than_the_long_answer():
    ours, theirs = lab.pair()
    ours.setblocking(False)
    with ours, theirs:
        assert lab.fill(ours) < 8_000_000, "“Here the answer has 8 MB, more than a send buffer”"


class Counting:
    """A socket that counts its sends."""

    def __init__(self, inner):
        self.inner, self.sends = inner, 0

    def send(self, data):
        self.sends += 1
        return self.inner.send(data)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_when_the_time_is_over_it_tries_once_more(played):
    @played(write=10)
    def _(one, peer):
        yield from fills(peer)
        (client,) = one.loop.clients.values()
        assert client.phase == "write"
        client.socket = counting = Counting(client.socket)
        yield 9
        assert counting.sends == 0 and one.clients() == 1
        yield 1 + TICK + 0.01
        assert counting.sends == 1 and one.clients() == 0, (
            "“When the time is over the server tries once more”"
        )


# Too much


def test_what_comes_after_the_last_answer(played):
    @played()
    def _(one, peer):
        peer.send(CLOSING)
        yield 0
        for _ in range(19):
            peer.send(b"more")
            yield 0.1
        assert one.clients() == 1
        yield 0.1 + TICK + 0.01
        two_seconds = one.clients() == 0
        other = one.connect()
        yield from feeds(other, CLOSING + b"z" * 15_900_000)
        assert one.clients() == 1
        with pytest.raises(OSError):
            yield from feeds(other, b"z" * 1_000_000)
        assert two_seconds and one.clients() == 0, (
            "“what comes after the last answer is thrown away, for two seconds and up to 16 MB”"
        )


def test_a_turn_has_327_requests_of_25_bytes(played):
    @played()
    def _(one, peer):
        shortest = b"GET / HTTP/1.1\r\nHost:\r\n\r\n"
        peer.send(shortest * 327)
        yield 0
        assert peer.take() == [200] * 327 and len(shortest) == 25
        assert one.module.TURN_BYTES // 25 == 327


# Too many


class Failing:
    """A listener whose accept fails, and otherwise is one."""

    def __init__(self, listener):
        self.listener, self.error = listener, errno.EMFILE

    def accept(self):
        if self.error:
            raise OSError(self.error, "")
        return self.listener.accept()

    def __getattr__(self, name):
        return getattr(self.listener, name)


def test_out_of_descriptors_the_door_is_shut_for_a_second(played):
    @played()
    def _(one, first):
        yield 0
        one.loop.listener = Failing(one.listener)
        second = one.connect()
        second.send(KEPT)
        yield 0
        one.loop.listener.error = 0
        yield 0.98
        assert second.take() == [] and not one.loop.is_open
        yield 0.02 + TICK + 0.01
        after_a_second = second.take()
        one.loop.listener.error = errno.EMFILE
        third = one.connect()
        third.send(KEPT)
        yield 0
        one.loop.listener.error = 0
        first.socket.close()
        yield 0
        assert (after_a_second, third.take()) == ([200], [200]), (
            "“Four errors of accept are a shortage: the door is shut, for a second or until "
            "somebody leaves”; “and who leaves opens the door”"
        )


def test_the_number_of_connections_is_what_the_limit_leaves():
    soft, hard = lab.kernel.resource.getrlimit(lab.kernel.resource.RLIMIT_NOFILE)
    eleven = load(HARDENED)
    assert 0 < eleven.most_clients(0) == soft - eleven.RESERVED <= hard, (
        "“This server stops accepting before they are gone, at --max-connections, by default what "
        "ulimit -n leaves”"
    )


def test_a_listener_that_is_not_served_is_reported_without_end():
    with socket.create_server(("127.0.0.1", 0)) as listener, select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        with socket.create_connection(listener.getsockname()):
            often = [lab.names(epoll.poll(5)) for _ in range(100)]
            epoll.modify(listener, 0)
            assert (often, lab.names(epoll.poll(0))) == (["IN"] * 100, "nothing"), (
                "“The door is shut by modify with an empty mask: a listener that is watched and "
                "not served is reported without end”"
            )


# Said wrongly

BODY = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
LET_THROUGH = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two": (HALF + b"Host: x\r\n\r\n", 400),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: x\r\n" + BODY, 400),
    "other versions": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "targets that are none": (b"GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}


def test_what_the_parser_lets_through_is_checked_beside_it(stage):
    one = stage()

    def script():
        for request, status in LET_THROUGH.values():
            httptools.HttpRequestParser(object()).feed_data(request)  # and nothing is raised
            peer = one.connect()
            peer.send(request)
            yield 0
            assert (peer.take(), peer.ended) == ([status], True), (
                "“What it lets through is checked beside it: no Host or two, chunks in HTTP/1.0, "
                "other versions, targets that are none”; “Each gets one answer, and the "
                "connection ends”; “HTTP: take a parser, check Host and Transfer-Encoding beside "
                "it, and close after a refusal”"
            )

    one.play(script())


def test_an_idle_client_has_no_parser(played):
    @played()
    def _(one, peer):
        yield 0
        (client,) = one.loop.clients.values()
        has = [client.request]
        for piece in (HALF[:9], HALF[9:], b"\r\n"):
            peer.send(piece)
            yield 0
            has.append(client.request)
        assert peer.take() == [200]
        assert [bool(each) for each in has] == [False, True, True, False], (
            "“A client has it only while a request comes in: an idle one has none”"
        )


# Not read


def test_at_a_full_pipe_chapter_10_s_server_stops():
    row = "its console full and not read"
    assert (STORED[row, "10"], STORED[row, "11"]) == ("frozen", "ok"), (
        "“At a full pipe chapter 10's server stops, and with it all of its clients”; "
        "“This one opens a pipe or a terminal anew, as one on which no write waits”; "
        "intro: “a log that stops my server: Not read”"
    )


def test_the_description_that_it_opens_is_its_own():
    eleven = load(HARDENED)
    reader, writer = os.pipe()
    own = eleven.unblocked(writer)
    assert (os.get_blocking(writer), os.get_blocking(own)) == (True, False), (
        "“This one opens a pipe or a terminal anew, as one on which no write waits”"
    )
    for fd in (reader, writer, own):
        os.close(fd)


# Told to end


def test_chapter_10_s_server_drops_whoever_it_has():
    ends = [word for (row, server), word in STORED.items() if server == "10" and "SIGTERM" in row]
    assert len(ends) > 1 and {*ends} == {"wrong"}, (
        "“Each new version of a server begins with a SIGTERM for the old one, and the one in "
        "chapter 10 then drops whoever it has”"
    )


def test_who_is_kept_has_a_second(played):
    @played()
    def one(one, peer):
        peer.send(KEPT)
        yield 5
        one.signal()
        yield from stays(1, peer)
        yield 1
        raise AssertionError("it goes on")

    assert one.has_ended and one.now < 1000 + 5 + 1 + 2 * TICK, (
        "“A connection that is kept may ask once more, within a second, and hears”"
    )


@pytest.mark.parametrize(("signals", "end"), [(1, 5), (2, 2)])
def test_the_end_comes_after_the_drain_timeout_or_at_a_second_signal(played, signals, end):
    @played(drain=5, header=100)
    def one(one, peer):
        peer.send(KEPT[:9])
        yield 0
        for _ in range(signals):
            one.signal()
            yield 2
        yield 30
        raise AssertionError("it goes on")

    assert one.has_ended and 0 <= one.now - 1000 - end <= TICK, (
        "“After --drain-timeout all is over; a second SIGTERM ends it at once”"
    )


def test_what_graceful_means():
    seen = rows(PAGE, "eleven-drain-seen")
    assert (seen["comes too late"][0], seen["has asked by half"][0]) == ("ECONNREFUSED", "200"), (
        "glossary: “A server that is told to end lets nobody new in, answers what has been asked, "
        "and only then ends”"
    )


# Break it


@pytest.mark.parametrize(
    ("row", "old", "new", "word"),
    [
        ("drips a header", "elif client.phase != phase_of(client):", "else:", "frozen"),
        (
            "SIGTERM while a request is half read",
            'self.enter(self.end, "drain")',
            "self.is_over = True",
            "wrong",
        ),
    ],
)
def test_a_server_that_is_broken_turns_red(row, old, new, word, tmp_path):
    text = HARDENED.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / HARDENED.name
    path.write_text(text.replace(old, new), encoding="utf-8")
    (column,) = (each for each in lab.matrix.COLUMNS if each.label == "11")
    verdict = lab.matrix.judge(lab.rows.row(row), replace(column, path=str(path)))
    assert verdict.word == word, (
        "“In read, make the last elif an else: each byte starts the clock afresh. Or let drain end "
        "with self.is_over = True, in place of a deadline. Run the server's cell, and play the "
        "rows of the first screen against it”"
    )


# How fast


def test_threads_would_take_turns():
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("this Python has no lock that threads take turns with")
    assert lab.cost.cpus_used(2, lambda: sum(range(10_000))) < 1.5, (
        "“threads would only take turns”"
    )


# The exercises


def cells():
    return {cell["id"]: "".join(cell["source"]) for cell in notebooks.cells(CHAPTER)}


def check(number, source):
    """Run the check of an exercise on the class that a program makes; return the lines it prints.

    The names that the check uses are the chapter's own.
    """
    eleven, sources = load(HARDENED), cells()
    names = {"lab": lab, "eleven": eleven, "math": eleven.math, "socket": socket}
    names |= {"USUAL": eleven.SECONDS | {"idle": 60}, "select": select}
    exec(sources[f"eleven-exercise-{number}-checker"], names)
    exec(source, names)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        names[("check_heap", "check_fair")[number - 1]](names[("Heap", "Fair")[number - 1]])
    return said.getvalue().splitlines()


SOLUTIONS = {1: "eleven-solution", 2: "eleven-solution-2"}


def changed(number, *edits):
    """Return a solution with some of its text replaced."""
    text = cells()[SOLUTIONS[number]]
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("number", SOLUTIONS)
def test_the_solutions(number):
    said = check(number, changed(number))
    assert len(said) == 1 and said[0].startswith("solved:"), said
    assert "EACH = 10\n" in changed(2), (
        "“a loop that lets in at most ten connections of an address at a time”"
    )
    assert re.search(r"self.gone > len\(self.entries\) / 2", changed(1)), (
        "“The heap can't find who has left, so it waits until half of it has. Fair counts who "
        "begins to be idle for the first time: a newcomer”"
    )


@pytest.mark.parametrize("number", SOLUTIONS)
def test_what_the_reader_finds_is_no_solution(number):
    stub = re.sub(r"(?m)^check_\w+\(\w+\)$", "", cells()[f"eleven-exercise-{number}"])
    assert any(line.startswith("not yet:") for line in check(number, stub))


@pytest.mark.parametrize(
    ("edits", "refused"),
    [
        (
            [("over.append(timer) if timer.due <= now else self.put(timer)", "over.append(timer)")],
            "not yet: whose time is up (others than those)",
        ),
        (
            [("if timer.seen != seen:", "if False:")],
            "not yet: whose time is up (others than those)",
        ),
        (
            [("max(0, self.entries[0][0] - now)", "0")],
            "not yet: how long to sleep (not till the first is due)",
        ),
        (
            [("max(0, self.entries[0][0] - now)", "60")],
            "not yet: how long to sleep (not till the first is due)",
        ),
        (
            [("if self.gone > len(self.entries) / 2:", "if False:")],
            "not yet: who has left (they are kept)",
        ),
    ],
    ids=["put off", "left", "spins", "sleeps", "keeps"],
)
def test_what_is_no_answer_to_the_first(edits, refused):
    assert refused in check(1, changed(1, *edits))


@pytest.mark.parametrize(
    ("edits", "refused"),
    [
        ([("self.drop(who)", "pass")], "not yet: twelve of one address (12 are in, 0 closed)"),
        (
            [("who.socket.getpeername()[0]", "'anybody'")],
            "not yet: three of another (0 are in, 3 closed)",
        ),
        ([("except OSError:", "except ValueError:")], "not yet: one has reset (ENOTCONN)"),
        (
            [("self.there[client.address] -= 1", "pass")],
            "not yet: two leave, three come (0 are in, 3 closed)",
        ),
        (
            [("self.drop(who)", "self.close_door()")],
            "not yet: twelve of one address (12 are in, 0 closed)",
        ),
        ([("EACH = 10", "EACH = 11")], "not yet: twelve of one address (11 are in, 1 closed)"),
    ],
    ids=["lets in", "in all", "reset", "forgets", "shuts the door", "eleven"],
)
def test_what_is_no_answer_to_the_second(edits, refused):
    assert refused in check(2, changed(2, *edits))
