"""The survival matrix: every server against every awkward client, judged by measurement.

A cell is one fresh server process, one awkward client, and a bystander: a client that connects
after the awkward one and before that one does anything, and asks for nothing but its answer.
`judge` plays the scene and names the first verdict that applies, in the order of VERDICTS:

1. the awkward client connects, the bystander connects and asks, the awkward one does its act;
2. when the awkward one has done all it does, or only listens for an answer, a late bystander
   comes and asks: a server may have served the first one before the act began;
3. we wait until the server is at rest: it has ended, or its queues are empty and it sleeps,
   or it has been given a second for it;
4. its CPU time is measured in windows;
5. if all is well so far, the act is repeated, what it holds is counted before and after, and
   a last bystander asks.

Nothing is judged by how a race ends: the acts force their order (see clients), and 3 s of patience
are three times what a SYN costs that found the accept queue full.
"""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from . import chapters, clients, kernel
from .server import Server, until

VERDICTS = {
    "n/a": "the case cannot arise for this server",
    "dead": "the process has ended, and was not written to",
    "frozen": "a bystander was not served within 3 s",
    "spinning": "nothing left to do, and yet over 5% of a core",
    "leaking": "after 20 repeats, descriptors or memory stay",
    "wrong": "what the client got is not what it should get",
    "ends": "answered as it should, and ended, as it was written to",
    "ok": "none of these",
}

PATIENCE = 3  # seconds a bystander waits for its answer
GRACE = 1  # seconds in which a server may come to rest before its CPU time is measured
WINDOW = 0.25  # seconds of one CPU measurement
REPEATS = 20
STAYS = 256 * 1024  # bytes that an allocator may keep without being called a leak


@dataclass(frozen=True)
class Verdict:
    """A word of VERDICTS, and what was seen."""

    word: str
    reason: str = ""

    def __str__(self):
        return f"{self.word}: {self.reason}" if self.reason else self.word


@dataclass(frozen=True)
class Column:
    """A server: its file, the chapter that explains it, and what sets it apart.

    path: a file; or a name without a folder, and then a cell of that chapter writes it to run/.
    label: what stands above the column; the chapter's number, unless given.
    answers_once: it is written to end after its first answer. one_at_a_time: it holds one
    client's descriptor at the most. long_answer: its answer is longer than a send buffer.
    """

    chapter: str
    path: str
    label: str = ""
    answers_once: bool = False
    one_at_a_time: bool = False
    long_answer: bool = False

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or self.chapter[:2])

    def file(self):
        """The path of its file, which is written first where a chapter's cell holds it."""
        if "/" in self.path:
            return self.path
        return str(chapters.write_program(self.chapter, self.path))


def is_hello(answer):
    """Is an Answer the one that every server of the book gives?"""
    return answer.status == 200 and answer.body == b"Hello, world!"


def hello(talk):
    """One answer, the article's, and an orderly end."""
    answers = talk.answers()
    return len(answers) == 1 and is_hello(answers[0]) and talk.ended == "closed"


def hello_each(talk):
    """The same for each of several conversations."""
    return hello(talk) and all(hello(other) for other in talk.others)


def hello_all(talk):
    """The same, and nobody was turned away."""
    return hello_each(talk) and len(talk.others) == clients.TOGETHER - 1


def hello_twice(talk):
    """Two answers in one conversation, and an orderly end."""
    answers = talk.answers()
    return len(answers) == 2 and all(map(is_hello, answers)) and talk.ended == "closed"


def some_answer(talk):
    """Any one complete answer: what the client sent may well be refused."""
    return len(talk.answers()) == 1 and talk.ended == "closed"


def no_success(talk):
    """Nothing was asked for, so nothing may be granted."""
    return not any(answer.status < 300 for answer in talk.answers())


def header_alone(talk):
    """One answer, and no body, whatever its length would have been."""
    return talk.received.endswith(b"\r\n\r\n") and len(talk.answers("HEAD")) == 1


def whatever(talk):
    """Nobody is left to get anything, or anything will do."""
    return True


def answers_one(column):
    """Why several clients cannot be answered, or nothing."""
    return "it answers one client" if column.answers_once else ""


@dataclass(frozen=True)
class Row:
    """An awkward client: what it does, what it should get, and the chapter that explains it."""

    act: callable
    right: callable = whatever
    chapter: str = ""
    excuse: callable = lambda column: ""  # why the case cannot arise for a column, or nothing

    @property
    def name(self):
        words = self.act.__name__.split("_")
        spelled = {"utf8": "UTF-8", "tls": "TLS", "head": "HEAD", "get": "GET"}
        return " ".join(spelled.get(word, word) for word in words)


ROWS = [
    Row(clients.plain_get, hello),
    Row(clients.one_byte_at_a_time, hello),
    Row(
        clients.two_at_once,
        hello_each,
        "02_request_loop",
        excuse=answers_one,
    ),
    Row(
        clients.ten_while_it_is_busy,
        hello_all,
        "07_backlog",
        excuse=answers_one,
    ),
    Row(clients.says_nothing, whatever, "02_request_loop"),
    Row(clients.connects_and_closes, whatever, "02_request_loop"),
    Row(clients.half_a_request_then_closes, whatever, "02_request_loop"),
    Row(clients.half_a_request_then_resets, whatever, "02_request_loop"),
    Row(clients.whole_request_then_resets, whatever, "02_request_loop"),
    Row(clients.asks_and_leaves, chapter="04_level_triggered"),
    Row(clients.half_closes_after_asking, hello, "05_edge_triggered"),
    Row(clients.half_closes_and_vanishes, chapter="10_peers_that_close"),
    Row(clients.bytes_that_are_not_utf8, some_answer, "01_one_request"),
    Row(clients.a_body_left_unread, some_answer, "01_one_request"),
    Row(clients.two_pipelined_requests, hello_twice, "01_one_request"),
    Row(clients.a_header_without_end, no_success, "02_request_loop"),
    Row(clients.sends_without_pause, no_success, "05_edge_triggered"),
    Row(
        clients.never_reads_a_long_answer,
        excuse=lambda column: "" if column.long_answer else "its answer is short",
    ),
    Row(
        clients.more_clients_than_descriptors,
        chapter="03_thread_per_client",
        excuse=lambda column: "it holds one client at a time" if column.one_at_a_time else "",
    ),
    Row(clients.head, header_alone, "01_one_request"),
    Row(clients.a_bare_line_feed, no_success, "01_one_request"),
    Row(clients.a_tls_hello, no_success, "02_request_loop"),
    Row(clients.its_console_closed, hello, "02_request_loop"),
]

COLUMNS = [
    Column(
        "01_one_request",
        "../code/01_one_request.py",
        answers_once=True,
        one_at_a_time=True,
    ),
    Column("02_request_loop", "../code/02_request_loop.py", one_at_a_time=True),
    Column("03_thread_per_client", "../code/03_thread_per_client.py"),
    Column("04_level_triggered", "../code/04_level_triggered.py"),
    Column("05_edge_triggered", "../code/05_edge_triggered.py"),
    Column("06_one_shot", "../code/06_one_shot.py"),
    Column("07_backlog", "../code/07_backlog.py"),
    Column("08_cork", "../code/08_cork.py"),
    Column("09_nodelay", "../code/09_nodelay.py"),
    Column("10_peers_that_close", "../code/10_peers_that_close.py"),
    # Chapters 4 and 5 with the lines that the translator's note puts into their reading.
    Column("10_peers_that_close", "10_rewrite_level.py", "04′"),
    Column("10_peers_that_close", "10_rewrite_edge.py", "05′"),
]


def row(name):
    """The row of that name. Raises ValueError with the names there are."""
    for candidate in ROWS:
        if name in (candidate.name, candidate.act):
            return candidate
    names = ", ".join(repr(candidate.name) for candidate in ROWS)
    raise ValueError(f"no client is called {name!r}; there are {names}")


def judge(row, column):
    """Play one cell; return its Verdict. The server is gone when this returns."""
    if excuse := row.excuse(column):
        return Verdict("n/a", excuse)
    with Server(column.file()) as server:
        return _Scene(row, column, server).verdict()


class _Scene:
    """One cell while it is played."""

    def __init__(self, row, column, server):
        self.row, self.column, self.server = row, column, server
        self.bystander = ""  # later "waiting", perhaps "served" or "dropped"

    def verdict(self):
        """Play the scene to its end, which may come early: the server may not even listen."""
        try:
            return self._play()
        except TimeoutError:
            return Verdict("frozen", f"it took no connection for {PATIENCE} s")
        except ConnectionError:
            self._wait(self._has_ended, 1)
            return Verdict("dead", self.server.last_words() or "it refused a connection")

    def _play(self):
        with self._connect("the awkward one") as talk:
            bystander = self._connect("a bystander")
            bystander.send(clients.REQUEST)
            self._wait(lambda: not kernel.queues_of(bystander.socket)[1], 1)  # it has arrived
            acting = threading.Thread(target=self._act, args=[talk])
            acting.start()
            self._wait_for_answer(bystander)
            if self.bystander == "served":
                self._wait(lambda: talk.has_said_all or not acting.is_alive(), 3 * PATIENCE)
                self._ask("a late bystander")
            talk.rest()
            acting.join()
            if self.bystander == "dropped":  # whoever drops connections may be about to end
                self._wait(self._has_ended, 1)
            elif self.bystander == "served":
                self._wait(self._is_at_rest, GRACE)
            if self._has_ended():
                return self._ended(talk)
            if self.bystander != "served":
                how = "was dropped" if self.bystander == "dropped" else "got nothing"
                return Verdict("frozen", f"a bystander {how} in {PATIENCE} s")
            if spinning := self._spins(talk):
                return Verdict("spinning", spinning)
            if self._has_ended():
                return self._ended(talk)
            right = self.row.right(talk)
            stays = not (talk.ended or talk.is_closed)
        # Who is still there holds what it holds by right: only what has left can leak.
        leak = None if stays else self._repeat()
        return leak or (Verdict("ok") if right else self._wrong(talk))

    def _connect(self, name):
        return clients.Conversation(self.server.address, name, PATIENCE)

    def _wait_for_answer(self, bystander):
        self.bystander = "waiting"
        with bystander:
            bystander.read_all()
        if any(map(is_hello, bystander.answers())):
            self.bystander = "served"
        elif bystander.ended:
            self.bystander = "dropped"

    def _ask(self, name):
        """One more bystander comes and asks."""
        bystander = self._connect(name)
        bystander.send(clients.REQUEST)
        self._wait_for_answer(bystander)

    def _act(self, talk):
        """The act may well fail: the server may be gone, or no longer read."""
        with contextlib.suppress(OSError):
            self.row.act(talk, self.server)

    def _wait(self, condition, seconds):
        """Wait for a condition, and say whether it came true."""
        with contextlib.suppress(TimeoutError):
            return bool(until(condition, seconds))
        return False

    def _has_ended(self):
        return not self.server.is_running()

    def _is_at_rest(self):
        """It has ended, or it sleeps with nothing in its queues."""
        try:
            return kernel.is_at_rest(self.server.pid)
        except ProcessLookupError:
            return self._has_ended()  # or is about to

    def _unread(self):
        """Bytes in its receive queues, and clients in its accept queue."""
        return sum(socket.unread for socket in kernel.sockets(pid=self.server.pid))

    def _spins(self, talk):
        """Why it is said to spin, or nothing.

        Over the limit in two windows running, with the input drained or the client gone; or
        never once idle for a long time.
        """
        busy, quiet, deadline = 0, 0, time.monotonic() + 3 * PATIENCE
        with contextlib.suppress(OSError):  # it has ended
            while time.monotonic() < deadline:
                nothing_to_do = talk.is_closed or not self._unread()
                share = kernel.cpu_share(self.server.pid, WINDOW)
                # One that spins may not get the core for a while; but then it doesn't sleep.
                rests = share <= kernel.SPINNING and kernel.is_asleep(self.server.pid)
                quiet = 0 if not rests else 2 if share == 0 else quiet + 1
                if quiet == 2:  # nothing at all, or little twice
                    return ""
                busy = busy + 1 if nothing_to_do and share > kernel.SPINNING else 0
                if busy == 2:
                    return f"over {kernel.SPINNING:.0%} of a core with nothing to do"
            return f"not idle once in {3 * PATIENCE} s"
        return ""

    def _ended(self, talk):
        status = self.server.wait()
        if not (self.column.answers_once and status == 0):
            return Verdict("dead", self.server.last_words() or f"exit status {status}")
        return Verdict("ends") if self.row.right(talk) else self._wrong(talk)

    def _wrong(self, talk):
        answers = ", ".join(map(str, talk.answers())) or "no answer"
        return Verdict("wrong", f"the client got {answers}, then: {talk.ended or 'silence'}")

    def _repeat(self):
        """Repeat the act; a Verdict if the server dies or freezes of it, or holds on to things."""
        pid = self.server.pid
        try:
            self._once_more()  # once for what is set up on first use
            descriptors = kernel.descriptors(pid)
            grown = self._growth()
            if grown > STAYS:  # each thread's allocator grows once, a leak again and again
                grown = self._growth()
            self._wait(lambda: kernel.descriptors(pid) <= descriptors, 1)
            more = kernel.descriptors(pid) - descriptors
            self._ask("the last bystander")
        except TimeoutError:
            return Verdict("frozen", "in one of the repeats")
        except OSError:  # it refuses connections, or is no more
            self._wait(self._has_ended, 1)
            return Verdict("dead", self.server.last_words() or "in one of the repeats")
        if self.bystander != "served":
            return Verdict("frozen", f"a bystander got nothing after {REPEATS} repeats")
        if more > 0:
            return Verdict("leaking", f"{more} descriptors")
        if grown > STAYS:
            return Verdict("leaking", f"{grown // 1024} kB")
        return None

    def _growth(self):
        """By how many bytes the process grows while the act is repeated."""
        before = kernel.memory(self.server.pid)
        for _ in range(REPEATS):
            self._once_more()
        return kernel.memory(self.server.pid) - before

    def _once_more(self):
        with self._connect("the awkward one, again") as talk:
            self._act(talk)
        if not self._wait(self._is_at_rest, PATIENCE):
            raise TimeoutError("the server does not come to rest")
        if self._has_ended():
            raise ConnectionError("the server has ended")


def survey(rows=None, columns=None, at_once=4):
    """Judge every cell, so many at once; return {(row name, column label): Verdict}.

    rows and columns: all, unless given. Raises ServerError if a server does not start at all.
    """
    rows = ROWS if rows is None else rows
    columns = COLUMNS if columns is None else columns
    columns = [replace(column, path=column.file()) for column in columns]  # each written once
    cells = [(row, column) for row in rows for column in columns]
    with ThreadPoolExecutor(at_once) as pool:
        verdicts = pool.map(lambda cell: judge(*cell), cells)
        return {
            (row.name, column.label): verdict
            for (row, column), verdict in zip(cells, verdicts, strict=True)
        }
