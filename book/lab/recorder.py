"""The recorder: run a server, and keep what it and its clients did, on one clock.

    with lab.record("02_request_loop.py") as run:
        lab.awkward.plain_get(run.connect("first"), run.server)
    run.recording.calls("recv")

The server runs in a process of its own, under `_recorded.py`; the clock is CLOCK_MONOTONIC, which
is the same in all processes (clock_gettime(2)). Nothing here needs privileges.

A run that a reader is to walk through is recorded step by step, `lab.record(name, stepwise=True)`.
Then a client acts only once the server sleeps and nothing is on its way to anybody. While the
client acts, the server is stopped (SIGSTOP): so the kernel can be looked at when the act has
arrived and the server has not woken up yet. Acts and calls have one order, the same each time.
That costs a run about 0.5 ms for each call, where it is 0.15 ms else, and 2 to 9 ms for each act,
on two idle cores (tests/test_frames.py bounds both); and an epoll object for each registration.
"""

import array
import contextlib
import json
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from look import kernel
from survive.awkward import plain_get
from survive.clients import Conversation
from survive.server import serve
from survive.waiting import until

from ._twins import NUMBER, reporting
from .experiment import both_ends
from .session import find

MOST_CALLS = 2000
SPINS = 0.3  # seconds of CPU time: a server that uses them and is still awake won't sleep
QUIET = 10  # seconds that a client waits for anything, at the most


class Seen(NamedTuple):
    """A socket of the server as it was after a call: its state, and the bytes in its queues."""

    state: str
    unread: int
    unsent: int


@dataclass
class Call:
    """One call that the server made.

    name: the method's (`recv`, `poll`). fd: of its socket or epoll object, None of another.
    client: the name of the client whose socket that is, or "". thread, line: who called, from which
    line of the server's file; None where another file of its folder has called. began: in seconds
    since the server listened. took: seconds, None if it never returned. given, got: arguments and
    result as JSON has them, where bytes are {"bytes": length, "begins": text} and a socket is
    {"fd": number}. error: the exception's name, or None. slept: how often the thread gave up its
    core of its own accord, ru_nvcsw of getrusage(2); 0 in a call that can't sleep. sockets:
    {descriptor: Seen} and interest: {epoll: {descriptor: mask in names}}, both after the call.

    Step by step also, after the call, ends: an End for each connection to the server's port; and
    ready: {epoll: {descriptor: would a poll report it now?}}, None where that could not be told;
    threads: the names of those of its process; and seen: when all this was looked at.
    """

    name: str
    fd: int | None
    thread: str
    line: int | None
    began: float
    given: list
    took: float | None = None
    got: Any = None
    error: str | None = None
    slept: int | None = None
    sockets: dict | None = None
    interest: dict | None = None
    ends: list | None = None
    ready: dict | None = None
    threads: list | None = None
    seen: float | None = None
    client: str = ""

    @property
    def returned(self):
        """Tell when it returned, or None."""
        return None if self.took is None else self.began + self.took

    @property
    def moved(self):
        """Tell how many bytes it has received or sent; None of a failure, and of another call."""
        if isinstance(self.got, dict):
            return self.got.get("bytes")
        return self.got if self.name.startswith("send") else None

    @property
    def offered(self):
        """Tell how many bytes a send was given; None of another call."""
        return self.given[0]["bytes"] if self.name.startswith("send") else None

    @property
    def state(self):
        """Tell the state of its socket after the call; "gone" where there was none any more."""
        seen = (self.sockets or {}).get(self.fd)
        return seen.state if seen else "gone"

    @property
    def accepted(self):
        """Tell the descriptor that an accept has returned, or None."""
        return self.got[0]["fd"] if self.name == "accept" and self.got else None

    @property
    def watched(self):
        """Tell what the first epoll object watched after the call: {descriptor: mask in names}."""
        return next(iter((self.interest or {}).values()), {})


class End(NamedTuple):
    """The server's end of a connection to its port, whether it has accepted that or not.

    port: of the peer. fd: the server's descriptor; None before an accept, and after a close. state:
    TCP's. unread: bytes. unsent: bytes given to the kernel, which it has not sent yet.
    """

    port: int
    fd: int | None
    state: str
    unread: int
    unsent: int | None


class Look(NamedTuple):
    """What a look from outside has found: see View in frames.py. ends: as a Call has them."""

    when: float
    waiting: int
    limit: int
    ends: list
    interest: dict | None
    ready: dict | None


class Act(NamedTuple):
    """What a client did, step by step: when, who, what ("sends"), with how many bytes.

    before, after: a Look each, before and after it, while the server was stopped.
    """

    when: float
    client: str
    what: str
    bytes: int
    before: Look
    after: Look


class Event(NamedTuple):
    """What a client did or got: see Conversation. when: in seconds since the server listened."""

    when: float
    what: str
    bytes: int


class Client(NamedTuple):
    """A client of a recorded run: its name, its port, and its Events."""

    name: str
    port: int
    events: list

    def first(self, what):
        """Return when something first happened to it. Raises ValueError if it never did."""
        for event in self.events:
            if event.what == what:
                return event.when
        raise ValueError(f"{self.name}: never {what!r}")

    def all(self, what):
        """Return every time that something happened to it: [(when, bytes)]."""
        return [(event.when, event.bytes) for event in self.events if event.what == what]


@dataclass
class Recording:
    """What a server and its clients did.

    server: its file's name. source: its lines. status: its exit status, or None. ended: when.
    all_calls: every Call, in the order in which they began. lines: (when, thread, line) of what was
    executed, in order. clients: every Client. capped: whether the limit of calls was reached; what
    came later is not here. acts: every Act, step by step; and last, the Look when all was over.
    """

    server: str
    source: list
    status: int | None
    ended: float
    all_calls: list
    lines: list
    clients: list
    capped: bool
    acts: list = field(default_factory=list)
    last: Look | None = None

    def __post_init__(self):
        for call, names in self.named():
            call.client = names.get(call.fd, "")

    def calls(self, *names):
        """Return the Calls of these names; all, if none is given."""
        return [call for call in self.all_calls if not names or call.name in names]

    def of(self, client, *names):
        """Return the Calls on the socket of a client, by its name; only those of some names."""
        return [call for call in self.calls(*names) if call.client == client]

    def client(self, name):
        """Return the Client of a name. Raises ValueError with the names there are."""
        for client in self.clients:
            if client.name == name:
                return client
        raise ValueError(f"no client {name!r}; there are {[each.name for each in self.clients]}")

    def share(self, name):
        """Return the share of the run, from its first call to its last, that calls of a name took.

        A call that never returned took until the run ended.
        """
        calls = self.calls()
        began, end = calls[0].began, max(call.returned or self.ended for call in calls)
        taken = sum((call.returned or self.ended) - call.began for call in self.calls(name))
        return taken / (end - began)

    def code(self, line):
        """Return a line of the server's file, by its number, without its indent."""
        return self.source[line - 1].strip()

    def named(self) -> Iterator:
        """Yield each Call with {descriptor: name of its client} as it was when the call began."""
        ports, names = {client.port: client.name for client in self.clients}, {}
        for call in self.all_calls:
            if call.accepted is not None:
                names[call.accepted] = ports.get(call.got[1][1], "")
            yield call, names


class _Onlooker:
    """Looks at a server that is recorded step by step, from outside, also while it is stopped.

    channel: a Unix socket, on which the server's recorder sends the twins (see _twins.py).
    """

    def __init__(self, server, channel):
        self.server, self.diag = server, kernel.open_diag()
        numbers = array.array("i")
        space = socket.CMSG_SPACE(2 * NUMBER * numbers.itemsize)
        lowest, ancillary, _, _ = channel.recvmsg(100, space)
        for _, _, data in ancillary:
            numbers.frombytes(data)
        self.twins, self.lowest = [select.epoll.fromfd(number) for number in numbers], int(lowest)

    def close(self):
        """Close what it looks with."""
        for each in (*self.twins, self.diag):
            each.close()

    def look(self, when, is_quiet):
        """Look at the server's queue, at the ends of its connections, and at its epoll object.

        is_quiet: whether it sleeps, so that no poll of its own can be half recorded. Raises
        ProcessLookupError when it has ended.
        """
        owners = {inode: fd for fd, inode in kernel.files(self.server.pid, "socket").items()}
        listener = kernel.find_socket(self.server.address, diag=self.diag)
        ends = [
            End(end.remote[1], owners.get(end.inode), end.state, end.unread, end.held)
            for end in kernel.ends_at(self.server.address, self.diag)
        ]
        queue = (listener.unread, listener.limit) if listener else (0, 0)
        interest = self._interest()
        ready = self._ready(interest) if interest and is_quiet else None
        return Look(when, *queue, ends, interest, ready)

    def _interest(self):
        """Return the interest list, {descriptor: mask}, of the server's one epoll object, or None.

        The twins have higher numbers than the server's own.
        """
        pid, epolls = self.server.pid, []
        with kernel.still_there(pid):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile: it may spin
                    if int(link.name) < self.lowest and "[eventpoll]" in os.readlink(link):
                        epolls.append(int(link.name))
            return kernel.interest_list(pid, epolls[0]) if len(epolls) == 1 else None

    def _ready(self, interest):
        """Tell of each descriptor on the interest list whether a poll would report it now."""
        twins = {}
        for twin in self.twins:
            for fd in kernel.interest_list("self", twin.fileno()):
                twins.setdefault(fd, []).append(twin.fileno())
        return reporting({fd: several for fd, several in twins.items() if fd in interest})


class _Recorded(Conversation):
    """A conversation each of whose acts is a step of a run.

    An act must not need the server to go on. What it receives is acknowledged at once, so that no
    step waits for a timer of 40 ms.
    """

    def __init__(self, run, address, name, **more):
        self._run = run
        with run.act(name, "connects"):
            super().__init__(address, name, **more)

    def send(self, data):
        with self._run.act(self.name, "sends", len(data)):
            super().send(data)

    def receive(self, size=65536):
        data = super().receive(size)
        # Now: the option does not last, tcp(7).
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data

    def half_close(self):
        with self._run.act(self.name, "half-closes"):
            super().half_close()

    def close(self):
        with contextlib.nullcontext() if self.is_closed else self._run.act(self.name, "closes"):
            super().close()

    def reset(self):
        with self._run.act(self.name, "resets"):
            super().reset()


class Run:
    """A server under record and the conversations with it.

    path: the server's file.
    """

    def __init__(self, path, arguments, most_calls, stepwise):
        self._path, self._file = path, tempfile.TemporaryFile()
        self._talks, self._looked_at, self._full = [], 0, False
        self._acts, self._acting, self._onlooker = [], threading.RLock(), None
        self.recording = None
        out = self._file.fileno()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            inherit = [out, theirs.fileno()] if stepwise else [out]
            channel = theirs.fileno() if stepwise else -1
            recorded = Path(__file__).with_name("_recorded.py")
            before = [str(recorded), str(out), str(most_calls), str(channel)]
            self.server = serve(path, *arguments, before=before, inherit=inherit)
            self._began = time.monotonic()
            if stepwise:
                self._onlooker = _Onlooker(self.server, ours)

    @contextlib.contextmanager
    def act(self, client, what, count=0):
        """Let a client act in the block as a step of its own, while the server is stopped."""
        with self._acting:
            is_quiet = self._wait_for_quiet()
            before = self._look(is_quiet)
            # A script may have stopped it for several acts in a row.
            is_free = before and not self.server.is_stopped()
            with self.server.paused() if is_free else contextlib.nullcontext():
                began = time.monotonic() - self._began
                yield
                after = before and self._look(is_quiet)
            self._acts.append(Act(began, client, what, count, before, after))

    def _wait_for_quiet(self):
        """Wait until nothing is on its way and the server sleeps; return whether it does.

        If it spins, only until that is clear.
        """
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            for talk in self._talks:  # the end of one that has closed may be on its way, too
                both_ends(talk)
            pid, enough = self.server.pid, kernel.cpu_time(self.server.pid) + SPINS
            if not self.server.is_stopped():  # by the script: it would wait in vain
                until(lambda: self.server.is_asleep() or kernel.cpu_time(pid) > enough, QUIET)
            return self.server.is_asleep()
        return False

    def _look(self, is_quiet):
        """Look at the server; None if it has ended, or if the run is not recorded step by step."""
        if self._onlooker:
            with contextlib.suppress(ProcessLookupError):
                return self._onlooker.look(time.monotonic() - self._began, is_quiet)
        return None

    def connect(self, name, **more):
        """Begin a Conversation with the server, which will be in the recording under that name.

        more: what a Conversation takes, as seconds=1.
        """
        if self._onlooker:
            talk = _Recorded(self, self.server.address, name, **more)
        else:
            talk = Conversation(self.server.address, name, **more)
        self._talks.append(talk)
        return talk

    def calls(self, *names):
        """Return the recording's Calls of these names; all, if none is given."""
        return self.recording.calls(*names)

    def of(self, client, *names):
        """Return the recording's Calls on the socket of a client, by its name."""
        return self.recording.of(client, *names)

    def client(self, name):
        """Return the recording's Client of a name."""
        return self.recording.client(name)

    def asks(self, name):
        """Let a client of that name ask in a thread; return its Conversation and the thread."""
        talk = self.connect(name)
        thread = threading.Thread(target=plain_get, args=[talk, self.server])
        thread.start()
        return talk, thread

    def is_full(self):
        """Tell whether the limit of calls has been reached."""
        # Not by read: we share the file's offset with the server, which writes there.
        new = os.pread(self._file.fileno(), 1 << 24, self._looked_at)
        self._looked_at += max(0, len(new) - len('"capped"'))
        self._full = self._full or b'"capped"' in new
        return self._full

    def finish(self):
        """Stop the server, close what clients are left, and put the recording together."""
        if self.recording is not None:
            return
        self._let_it_write()
        for talk in self._talks:
            talk.close()
        last = self._look(self._onlooker and self._wait_for_quiet())
        status = self.server.status()
        now = time.monotonic()
        self.server.stop()
        ended = min(now, self.server.console.ended_at)
        self._file.seek(0)
        with self._file:
            written = self._file.read()
        calls, lines, capped = _merge(written, self._began)
        self.recording = Recording(
            server=self.server.name,
            source=self._path.read_text(encoding="utf-8").splitlines(),
            status=status,
            ended=ended - self._began,
            all_calls=calls,
            lines=lines,
            clients=[self._client(talk) for talk in self._talks],
            capped=capped,
            acts=self._acts,
            last=last,
        )
        if self._onlooker:
            self._onlooker.close()

    def _let_it_write(self):
        """Wait until the recorder has written every return whose effect a client has seen."""
        open_calls = self._open_calls()

        def are_written():
            if not self.server.is_running() or self.server.is_asleep():
                return True
            return not open_calls & self._open_calls()

        with contextlib.suppress(TimeoutError, ProcessLookupError):
            until(are_written, seconds=1)

    def _open_calls(self):
        """Return the numbers of the calls that have begun, and whose return is not written yet."""
        size = os.fstat(self._file.fileno()).st_size
        records = _records(os.pread(self._file.fileno(), size, 0))
        begun = {each["begins"] for each in records if each.get("name", "(runs)") != "(runs)"}
        return begun - {each.get("returns") for each in records}

    def _client(self, talk):
        events = [Event(t - self._began, what, count) for t, what, count in talk.events]
        return Client(talk.name, talk.port, events)


def _records(written):
    """Return what a recorder has written, a dict for each line; a torn last line is left out."""
    lines = written.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _merge(written, began):
    """Put the beginnings and the returns of calls together.

    Returns the Calls in order, the lines executed in order, and whether the limit was reached.
    """
    calls, lines, capped = {}, [], False
    for record in _records(written):
        if "capped" in record:
            capped = True
        elif "begins" in record:
            number, executed = record.pop("begins"), record.pop("lines")
            lines += [(t - began, record["thread"], line) for t, line in executed]
            calls[number] = Call(began=record.pop("t") - began, **record)
        else:
            _return(calls[record["returns"]], record, began)
    ordered = sorted(calls.values(), key=lambda call: call.began)
    return [call for call in ordered if call.name != "(runs)"], sorted(lines), capped


def _return(call, record, began):
    """Add to a Call what is known since it returned."""
    call.took = record["t"] - began - call.began
    call.got, call.error, call.slept = record["got"], record["error"], record["slept"]
    call.sockets = {int(fd): Seen(*seen) for fd, seen in record["sockets"].items()}
    call.interest = {
        int(epoll): {int(fd): mask for fd, mask in watched.items()}
        for epoll, watched in record["interest"].items()
    }
    if record.get("ends") is not None:
        call.ends = [End(*end) for end in record["ends"]]
    call.threads, call.seen = record.get("threads"), record["seen"] - began
    if "ready" in record:
        call.ready = {
            int(epoll): ready and {int(fd): is_ready for fd, is_ready in ready.items()}
            for epoll, ready in record["ready"].items()
        }


@contextlib.contextmanager
def record(name, *arguments, most_calls=MOST_CALLS, stepwise=False):
    """Run a server under record for as long as the block lasts; yields a Run.

    name: a file in run/, or a path. arguments: what follows its port. stepwise: record it step by
    step, for readers to walk through. After the block, `run.recording` is there, a Recording; the
    server is gone.
    """
    run = Run(find(name), arguments, most_calls, stepwise)
    try:
        yield run
    finally:
        run.finish()
