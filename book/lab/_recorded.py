"""The recorder's half inside the recorded process: `_recorded.py DESCRIPTOR CALLS SERVER WORDS`.

It puts a subclass in the place of `socket.socket` and a wrapper in the place of `select.epoll`, and
the like for what workers wait in, `queue.SimpleQueue` and an SQLite connection; then it runs the
server as `__main__`. Each call is written as two lines of JSON, one when it begins
and one when it returns, so that the call in which a server dies or hangs for ever is seen too.
Between them go the lines of the server's file that were executed, per thread.

A write is one write(2) to a file that the parent reads: nothing blocks here, and what was written
before a SIGKILL stays. When the agreed number of calls is reached, recording ends and says so.
"""

import contextlib
import functools
import itertools
import json
import os
import queue
import runpy
import select
import selectors
import socket
import sqlite3
import sys
import threading
import time
import weakref

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # what holds `look`

from look import kernel  # noqa: E402

SOCKET_CALLS = (
    "bind", "listen", "accept", "connect", "connect_ex", "recv", "recv_into", "send", "sendall",
    "sendmsg", "shutdown", "close", "setsockopt", "setblocking", "settimeout",
)  # fmt: skip
EPOLL_CALLS = ("register", "modify", "unregister", "poll", "close")
LINES_AT_ONCE = 200


class Recorder:
    """Writes what happens to a descriptor, up to a number of calls."""

    def __init__(self, out, most_calls, server):
        self.out, self.most_calls = out, most_calls
        self.server, self.folder = server, os.path.dirname(server)
        self.active, self.numbers = True, itertools.count(1)
        self.lock, self.local = threading.Lock(), threading.local()
        self.sockets, self.epolls = weakref.WeakSet(), weakref.WeakSet()

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
        fd = descriptor(what)
        self.write(
            begins=number, t=time.monotonic(), thread=threading.current_thread().name, line=line,
            name=name, fd=fd, given=[describe(value) for value in arguments[1:]],
            lines=self.take_lines(),
        )  # fmt: skip
        self.local.inside = True
        got, error = None, None
        try:
            got = method(*arguments, **keywords)
            return got
        except BaseException as exception:
            error = type(exception).__name__
            raise
        finally:
            now = time.monotonic()
            self.local.inside = False
            self.write(returns=number, t=now, got=describe(got), error=error, **self.state())

    def state(self):
        """Return each socket's state and queues and each interest list, as the kernel has them."""
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
        return seen

    def follow(self, what, kind):
        """Remember a socket or an epoll object, to look at after each call."""
        with self.lock:
            kind.add(what)

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

        def call(self, *arguments, _name=name, **keywords):
            method = getattr(original, _name)
            return recorder.around(_name, self, method, self._epoll, *arguments, **keywords)

        setattr(RecordedEpoll, name, call)
    return RecordedEpoll


def recorded_queue(recorder):
    """Make a subclass of queue.SimpleQueue of which `get` is recorded."""
    original = queue.SimpleQueue

    class RecordedQueue(original):
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
    out, most_calls, server = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    recorder = Recorder(out, most_calls, server)
    socket.socket = recorded_socket(recorder)
    select.epoll = recorded_epoll(recorder)
    selectors.EpollSelector._selector_cls = select.epoll  # it has bound the original already
    queue.SimpleQueue = recorded_queue(recorder)
    sqlite3.connect = recorded_connect(recorder)
    for name in [each for each in sys.modules if each.partition(".")[0] == "look"]:
        del sys.modules[name]  # the server may have modules of its own of such names
    sys.argv[:] = sys.argv[3:]
    sys.path[0] = os.path.dirname(server)
    threading.settrace(recorder.trace)
    sys.settrace(recorder.trace)
    runpy.run_path(server, run_name="__main__")


if __name__ == "__main__":
    main()
