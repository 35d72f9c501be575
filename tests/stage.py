"""Chapter 11's loop in the process of a test, with a clock of the test's own.

    @played()
    def script(one, peer):               a Stage, and its first client, a Peer
        yield from stays(60, peer)       nothing comes before the deadline
        yield from goes(peer)            and its end just after it

A script is a generator; it yields for how many seconds it waits. The functions below are parts of
scripts.
"""

import contextlib
import importlib.util
import math
import os
import re
import select
import socket
import time
from pathlib import Path
from types import SimpleNamespace

from look import kernel

HARDENED = Path(__file__).parent.parent / "code" / "11_hardened.py"
ASKS = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
TICK = 0.25  # a deadline is seen to at most so much later
BIT = 1 / 1024  # of a second: sums of these are exact


def load(path):
    """Import a server by its path, anew each time; returns the module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def statuses(raw):
    """Return the statuses of the answers in raw bytes, the interim ones included."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", raw)]


class Peer:
    """A client on a Stage. received: all bytes so far. ended: has it come to the end of input?"""

    def __init__(self, address):
        self.socket, self.received, self.ended = socket.socket(socket.AF_UNIX), b"", False
        self.socket.connect(address)
        self.socket.setblocking(False)

    def send(self, data):
        assert self.socket.send(data) == len(data)

    def flood(self, piece):
        """Send a piece again and again until no more is taken; return how many bytes were."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += self.socket.send(piece)
        return sent

    def take(self, most=1 << 24):
        """Receive what is there; return the statuses of all that has come so far."""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while most and not self.ended:
                data = self.socket.recv(min(most, 1 << 16))
                self.received += data
                self.ended, most = not data, most - len(data)
        return statuses(self.received)


class _Over(Exception):
    """The script has come to its end."""


class Stage:
    """Chapter 11's Loop in this process, with a clock that only goes on when a test waits.

    Its run() is played, once, beside a script: a generator that goes on when the loop has nothing
    left to do, and yields for how many seconds it waits. All that comes between happens in its
    order: a Unix socket delivers at once. seconds: deadlines, `idle=5`. wakes: how often
    the loop has come back from poll with nothing to do.
    """

    def __init__(self, most=100, path=HARDENED, **seconds):
        kernel.allow_descriptors()  # two for each client
        self.module = module = load(path)
        self.now, self.wakes = 1000.0, 0
        clock = SimpleNamespace(monotonic=lambda: self.now, strftime=time.strftime)
        module.time = clock
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("")
        self.listener.listen(4096)
        self.address = self.listener.getsockname()
        usual = {name: patience for name, patience, _ in module.DEADLINES}
        self.signals = os.pipe2(os.O_NONBLOCK)
        all_seconds = module.SECONDS | usual | seconds
        self.loop = module.Loop(self.listener, self.signals[0], all_seconds, most)
        self.epoll, self.loop.epoll = self.loop.epoll, self
        self.register, self.modify = self.epoll.register, self.epoll.modify
        self.unregister = self.epoll.unregister
        self.peers, self.left = [], 0

    def connect(self):
        self.peers.append(Peer(self.address))
        return self.peers[-1]

    def clients(self):
        return len(self.loop.clients)

    def signal(self):
        """Send SIGTERM: for each the loop finds a byte."""
        os.write(self.signals[1], b"\x0f")

    def waits_for(self):
        """Return what the loop watches, as {descriptor: mask}, without ERR and HUP."""
        hang_up = select.EPOLLERR | select.EPOLLHUP
        listed = kernel.interest_list(os.getpid(), self.epoll.fileno())
        return {fd: mask & ~hang_up for fd, mask in listed.items()}

    def poll(self, timeout):
        """Stand in for the epoll instance: where it would wait, let the script go on."""
        until = math.inf if timeout is None else self.now + timeout
        while not (ready := self.epoll.poll(0)):
            if self.now >= until:
                self.wakes += 1
                assert self.wakes < 10_000, "it spins"
                break
            if not self.left:
                try:
                    self.left = next(self.script)
                except StopIteration:
                    raise _Over from None
            else:
                step = min(self.left, until - self.now)
                self.now, self.left = self.now + step, self.left - step
        return ready

    def play(self, script):
        """Run the loop beside a script; return whether it has ended before its script."""
        self.script = script
        try:
            self.loop.run()
            return True
        except _Over:
            return False

    def close(self):
        for fd in self.signals:
            os.close(fd)
        clients = [client.socket for client in self.loop.clients.values()]
        for each in [self.epoll, self.listener, *clients, *(peer.socket for peer in self.peers)]:
            each.close()


def stays(seconds, *peers):
    """Wait until just before a deadline; nobody has come to an end."""
    yield seconds - BIT
    for peer in peers:
        peer.take()
        assert not peer.ended, f"{peer.received} before the deadline of {seconds} s"


def goes(*peers):
    """Wait until just after it; everybody has come to its end."""
    yield TICK + 2 * BIT
    for peer in peers:
        peer.take()
        assert peer.ended, "the deadline is over"


def drips(one, peer, byte, seconds):
    """Send a byte each second, for so many seconds in all, the last of them not whole."""
    until = one.now + seconds
    while one.now + 1 < until:
        peer.send(byte)
        yield 1
        peer.take()
        assert not peer.ended
    yield until - one.now


def fills(peer, piece=ASKS):
    """Ask without end and read nothing, until the server takes no more."""
    while peer.flood(piece):
        yield 0


def feeds(peer, data):
    """Send it all, and let it be read."""
    view = memoryview(data)
    while view:
        with contextlib.suppress(BlockingIOError):
            view = view[peer.socket.send(view) :]
        yield 0
