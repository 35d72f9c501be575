"""The recorder's half inside the recorded process.

    _recorded.py DESCRIPTOR CALLS CHANNEL SERVER WORDS

It puts a subclass in the place of `socket.socket` and a wrapper in the place of `select.epoll`, and
the like for what workers wait in, `queue.SimpleQueue` and an SQLite connection; then it runs the
server as `__main__`. Each call is written as two lines of JSON, one when it begins
and one when it returns, so that the call in which a server dies or hangs for ever is seen too.
Between them go the lines of the server's file that were executed, per thread.

A write is one write(2) to a file that the parent reads: nothing blocks here, and what was written
before a SIGKILL stays. When the agreed number of calls is reached, recording ends and says so.

Whether a thread has slept in a call is told by the kernel, which counts how often it has given up
its core of its own accord: ru_nvcsw, getrusage(2).

Where a run is recorded step by step, the parent gives a descriptor of a Unix socket, CHANNEL (else
it is -1). Then each return comes with more: who has a connection to the server's port, accepted or
not, open or closed, and what is on the ready lists, which twins tell (_twins.py). They go to the
parent through the channel, so that it, too, can look at them. And the threads take turns: one that
has been woken runs until a call in which it may sleep, and only then the next one goes on; and of
several that wait in a queue, the first one gets what is put there. So their steps have one order,
of those that they might have had.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import queue
import resource
import runpy
import select
import selectors
import socket
import sqlite3
import sys
import threading
import time
import weakref

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:1] = os.path.dirname(HERE), HERE  # what holds `look`, and what holds _twins

import _twins  # noqa: E402

from look import kernel  # noqa: E402

SOCKET_CALLS = (
    "bind", "listen", "accept", "connect", "connect_ex", "recv", "recv_into", "send", "sendall",
    "sendmsg", "shutdown", "close", "setsockopt", "setblocking", "settimeout",
)  # fmt: skip
EPOLL_CALLS = ("register", "modify", "unregister", "poll", "close")
LINES_AT_ONCE = 200
UNANSWERED = {"FIN-WAIT-1", "CLOSING", "LAST-ACK"}  # states that the peer's kernel ends by itself
TURN = 0.25  # seconds; a thread may wait for another in a way that is not recorded
ANSWER = 0.25  # seconds; the kernel delays an acknowledgement by 40 ms, on an idle machine


class Turn:
    """What a thread holds while it runs; who has waited longest has it next.

    None holds it for ever: not one that has ended, nor one that waits for another by what is not
    recorded, a join.
    """

    def __init__(self):
        self.changed, self.holder, self.queue = threading.Condition(), None, []

    def take(self):
        """Wait until no other thread holds it, and hold it."""
        this, deadline = threading.current_thread(), time.monotonic() + TURN
        if self.holder is this:
            return
        with self.changed:
            self.queue.append(this)
            while not self.is_next(this) and time.monotonic() < deadline:
                self.changed.wait(0.002)
            self.queue.remove(this)
            self.holder = this

    def is_next(self, thread):
        is_free = self.holder is None or not self.holder.is_alive()
        return is_free and self.queue[0] is thread

    def give(self):
        """Let another thread hold it, if this one does."""
        if self.holder is threading.current_thread():
            with self.changed:
                self.holder = None
                self.changed.notify_all()


class FairQueue:
    """A queue whose next item is for the thread that has waited longest.

    before_waiting: what a thread calls that has to wait.
    """

    def __init__(self, before_waiting):
        self.changed, self.items, self.waiting = threading.Condition(), [], []
        self.before_waiting = before_waiting

    def put(self, item):
        with self.changed:
            self.items.append(item)
            self.changed.notify_all()

    def get(self):
        this = object()
        with self.changed:
            self.waiting.append(this)
            if len(self.items) < len(self.waiting):
                self.before_waiting()
            self.changed.wait_for(lambda: len(self.items) > self.waiting.index(this))
            place = self.waiting.index(this)
            self.waiting.pop(place)
            return self.items.pop(place)


class Recorder:
    """Writes what happens to a descriptor, up to a number of calls."""

    def __init__(self, out, most_calls, channel, server):
        self.out, self.most_calls = _twins.duplicate_high(out), most_calls
        os.close(out)
        self.server, self.folder = server, os.path.dirname(server)
        self.active, self.numbers = True, itertools.count(1)
        self.lock, self.local = threading.Lock(), threading.local()
        self.sockets, self.epolls = weakref.WeakSet(), weakref.WeakSet()
        self.twins, self.diag, self.mute, self.turn = None, None, set(), Turn()
        self.address = None  # where the server listens
        if channel >= 0:
            self.begin_steps(channel)
        self.process, self.children = "", 0  # what stands before the names of a child's threads
        os.register_at_fork(before=self.before_fork, after_in_child=self.after_fork)

    def begin_steps(self, channel):
        """Make what steps need, before the server has a descriptor of its own."""
        self.twins = _twins.Twins(select.epoll)
        with kernel.open_diag() as low:
            self.diag = socket.socket(fileno=_twins.duplicate_high(low.fileno()))
            self.diag.settimeout(1)
        with socket.socket(fileno=channel) as parent:
            lowest = str(min(self.twins.descriptors)).encode()
            socket.send_fds(parent, [lowest], self.twins.descriptors)

    def before_fork(self):
        self.children += 1

    def after_fork(self):
        """Go on in a child process: under names of its own, with locks that nobody holds."""
        self.process = f"{self.process}child {self.children}, "
        self.children, self.lock, self.local = 0, threading.Lock(), threading.local()
        if self.twins:
            self.turn, self.twins.lock = Turn(), threading.Lock()
            self.diag = kernel.open_diag()

    def write(self, **record):
        os.write(self.out, json.dumps(record).encode() + b"\n")

    def around(self, name, what, method, *arguments, **keywords):
        """Call method, and record the call under a name. what: the socket or epoll object."""
        ours, line = self.line_of_server()
        if not self.active or not ours or getattr(self.local, "inside", False):
            return method(*arguments, **keywords)
        with self.lock:
            number = next(self.numbers)
            if number > self.most_calls:
                self.stop()
                return method(*arguments, **keywords)
        if self.twins:
            self.turn.take()
        number, thread = f"{self.process}{number}", threading.current_thread().name
        fd = descriptor(what)
        self.write(
            begins=number, t=time.monotonic(), thread=self.process + thread, line=line,
            name=name, fd=fd, given=[describe(value) for value in arguments[1:]],
            lines=self.take_lines(),
        )  # fmt: skip
        self.local.inside = True
        got, error, sleeps = None, None, sleeps_so_far()
        self.local.waited = 0
        if self.twins and name not in ("get", "poll") and may_sleep(what, name, ()):
            self.turn.give()  # those two do it themselves, if they must wait
        try:
            got = method(*arguments, **keywords)
            return got
        except BaseException as exception:
            error = type(exception).__name__
            raise
        finally:
            slept = sleeps_so_far() - sleeps
            if self.twins:
                self.turn.take()
            now = time.monotonic()
            slept = slept if may_sleep(what, name, arguments[1:]) else 0
            slept = slept or self.local.waited
            state = self.state()
            self.local.inside = False
            self.write(
                returns=number, t=now, seen=time.monotonic(), got=describe(got), error=error,
                slept=slept, **state,
            )  # fmt: skip

    def state(self):
        """Return each socket's state and queues and each interest list, as the kernel has them.

        Step by step also the ends at the server's port, and the ready lists.
        """
        seen = {"sockets": {}, "interest": {}}
        with self.lock:
            sockets, epolls = list(self.sockets), list(self.epolls)
        for each in sockets:
            # It may be closed, by another thread too: an OSError, or ioctl's ValueError.
            with contextlib.suppress(OSError, ValueError):
                seen["sockets"][each.fileno()] = [
                    kernel.state_of(each),
                    *kernel.queues_of(each),
                ]
        for each in epolls:
            with contextlib.suppress(OSError, ValueError):
                watched = kernel.interest_list("self", each.fileno())
                names = {fd: kernel.mask_names(mask) for fd, mask in watched.items()}
                seen["interest"][each.fileno()] = names
                if self.twins:
                    ready = self.twins.ready(each.fileno(), watched)
                    seen.setdefault("ready", {})[each.fileno()] = ready
        if self.twins:
            seen["ends"] = self.ends(sockets, seen["sockets"])
            seen["threads"] = [self.process + each.name for each in threading.enumerate()]
        return seen

    def ends(self, sockets, seen):
        """Return the ends at the port that a socket listens at, or has listened at: [port of the
        peer, our descriptor or None, state, unread, bytes given to send and not sent] each; None if
        none has. seen: what state() has found of the sockets.

        An end that waits for the peer's kernel to acknowledge a FIN does so a moment longer: it is
        looked at again, so that what is seen does not depend on that moment.
        """
        owners = {}
        for each in sockets:
            with contextlib.suppress(OSError, ValueError):
                fd = each.fileno()
                if seen.get(fd, "?")[0] == "LISTEN":
                    self.address = each.getsockname()
                owners[os.fstat(fd).st_ino] = fd
        if not self.address:
            return None
        deadline = time.monotonic() + ANSWER
        with self.lock:  # one question at a time
            found = kernel.ends_at(self.address, self.diag)
            # It must not sleep meanwhile, or it would look as if the server did.
            while time.monotonic() < deadline and self.unanswered(found):
                found = kernel.ends_at(self.address, self.diag)
        self.mute |= self.unanswered(found)
        return [
            [end.remote[1], owners.get(end.inode), end.state, end.unread, end.held] for end in found
        ]

    def unanswered(self, ends):
        """Return the ports of the ends that an acknowledgement is under way to, it seems."""
        return {end.remote[1] for end in ends if end.state in UNANSWERED} - self.mute

    def follow(self, what, kind):
        """Remember a socket or an epoll object, to look at after each call."""
        with self.lock:
            kind.add(what)

    def must_wait(self):
        """Give the turn away, in a call that another thread's step will end.

        That may come before the thread has quite fallen asleep: it counts as having slept.
        """
        self.local.waited = 1
        self.turn.give()

    def line_of_server(self):
        """Return (was the caller in the server's folder, its line in the server's file or None)."""
        frame, ours = sys._getframe(2), False
        while frame:
            if frame.f_code.co_filename == self.server:
                return True, frame.f_lineno
            ours = ours or os.path.dirname(frame.f_code.co_filename) == self.folder
            frame = frame.f_back
        return ours, None  # a thread that a variant of a server got from the server

    def trace(self, frame, event, argument):
        """Note each executed line of the server's file: a function for sys.settrace."""
        if not self.active or frame.f_code.co_filename != self.server:
            return None
        if event == "line":
            lines = self.lines()
            lines.append([time.monotonic(), frame.f_lineno])
            if len(lines) >= LINES_AT_ONCE:  # it runs without calling anything
                self.around("(runs)", None, lambda: None)
        return self.trace

    def lines(self):
        if not hasattr(self.local, "lines"):
            self.local.lines = []
        return self.local.lines

    def take_lines(self):
        taken, self.local.lines = self.lines(), []
        return taken

    def stop(self):
        if self.active:
            self.active = False
            self.write(capped=self.most_calls, t=time.monotonic())


def sleeps_so_far():
    """Count how often this thread has given up its core of its own accord."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def may_sleep(what, name, arguments):
    """Can a call sleep? One that can't may still have waited for Python's lock."""
    if isinstance(what, socket.socket):
        return what.fileno() < 0 or what.gettimeout() != 0
    return name in ("get", "execute") or (name == "poll" and (arguments or (None,))[0] != 0)


def descriptor(what):
    """Return the descriptor of a socket or an epoll object; None of a closed epoll object."""
    with contextlib.suppress(ValueError):
        return what.fileno() if what else None


def describe(value):
    """Return a value as JSON has it: bytes by length and beginning, sockets by descriptor."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": len(value), "begins": bytes(value[:40]).decode("latin-1")}
    if isinstance(value, socket.socket):
        return {"fd": value.fileno()}
    if isinstance(value, (list, tuple)):
        return [describe(each) for each in value]
    return value if isinstance(value, (int, float, str, type(None))) else repr(value)


def recorded_socket(recorder):
    """Make a subclass of socket.socket whose calls are recorded."""
    original = socket.socket

    class RecordedSocket(original):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            recorder.follow(self, recorder.sockets)

    for name in SOCKET_CALLS:
        method = getattr(original, name)

        def call(self, *arguments, _name=name, _method=method, **keywords):
            return recorder.around(_name, self, _method, self, *arguments, **keywords)

        setattr(RecordedSocket, name, functools.wraps(method)(call))
    RecordedSocket.__name__ = RecordedSocket.__qualname__ = "socket"
    return RecordedSocket


def recorded_epoll(recorder):
    """Make a stand-in for select.epoll, which cannot be subclassed."""
    original = select.epoll

    class RecordedEpoll:
        def __init__(self, *arguments, **keywords):
            self._epoll = original(*arguments, **keywords)
            if recorder.twins:
                recorder.twins.forget(self._epoll.fileno())
            recorder.follow(self, recorder.epolls)

        @classmethod
        def fromfd(cls, fd):
            made = cls()
            made._epoll.close()
            made._epoll = original.fromfd(fd)
            return made

        def __getattr__(self, name):
            return getattr(self._epoll, name)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.close()

    for name in EPOLL_CALLS:
        method = with_twins(recorder, name, getattr(original, name))

        def call(self, *arguments, _name=name, _method=method, **keywords):
            return recorder.around(_name, self, _method, self._epoll, *arguments, **keywords)

        setattr(RecordedEpoll, name, call)
    return RecordedEpoll


def with_twins(recorder, name, method):
    """Make a method of an epoll object that does the same to the twins of what it watches."""
    twins = recorder.twins
    if not twins:
        return method

    def poll(epoll, timeout=None, maxevents=-1):
        if threading.active_count() > 1:
            return poll_in_turn(epoll, timeout, maxevents)
        got = method(epoll, timeout, maxevents)
        twins.polled(epoll.fileno(), got)
        return got

    def poll_in_turn(epoll, timeout, maxevents):
        # Another thread's step, which makes something ready, is seen before this one takes it off
        # the ready list: so we sleep in poll(2) on the epoll object, which takes nothing.
        end = math.inf if timeout is None or timeout < 0 else time.monotonic() + timeout
        poller = select.poll()
        poller.register(epoll.fileno(), select.POLLIN)
        while not poller.poll(0) and time.monotonic() < end:
            recorder.must_wait()
            left = end - time.monotonic()
            poller.poll(None if left == math.inf else max(0, math.ceil(1000 * left)))
            recorder.turn.take()
        got = method(epoll, 0, maxevents)
        twins.polled(epoll.fileno(), got)
        return got

    def change(epoll, *arguments, **keywords):
        number = descriptor(epoll)
        with twins.lock:
            method(epoll, *arguments, **keywords)
            twins.follow(name, number, *arguments, **keywords)

    return poll if name == "poll" else change


def recorded_queue(recorder):
    """Make a subclass of queue.SimpleQueue of which `get` is recorded.

    Step by step it is a fair queue: which of several idle threads the kernel wakes is a toss-up.
    """
    original = FairQueue if recorder.twins else queue.SimpleQueue

    class RecordedQueue(original):
        def __init__(self):
            super().__init__(*([recorder.must_wait] if recorder.twins else []))

        def get(self, *arguments, **keywords):
            return recorder.around("get", None, original.get, self, *arguments, **keywords)

    return RecordedQueue


def recorded_connect(recorder):
    """Make an sqlite3.connect whose connections have their `execute` recorded."""
    original = sqlite3.Connection

    class RecordedConnection(original):
        def execute(self, *arguments):
            return recorder.around("execute", None, original.execute, self, *arguments)

    return functools.partial(sqlite3.connect, factory=RecordedConnection)


def main():
    (out, most_calls, channel), server = map(int, sys.argv[1:4]), sys.argv[4]
    recorder = Recorder(out, most_calls, channel, server)
    socket.socket = recorded_socket(recorder)
    select.epoll = recorded_epoll(recorder)
    selectors.EpollSelector._selector_cls = select.epoll  # it has bound the original already
    queue.SimpleQueue = recorded_queue(recorder)
    sqlite3.connect = recorded_connect(recorder)
    for name in [each for each in sys.modules if each.partition(".")[0] in ("look", "_twins")]:
        del sys.modules[name]  # the server may have modules of its own of such names
    sys.argv[:] = sys.argv[4:]
    sys.path[:2] = [os.path.dirname(server)]
    threading.settrace(recorder.trace)
    sys.settrace(recorder.trace)
    runpy.run_path(server, run_name="__main__")


if __name__ == "__main__":
    main()
