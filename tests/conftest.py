"""What the tests share: servers written on the spot, and a search for leftovers."""

import contextlib
import importlib.util
import os
import re
import select
import socket
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import lab
from lab import notebooks
from look import kernel

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
HARDENED = ROOT / "code" / "11_hardened.py"  # chapter 11's, which has tests of its own
SERVERS = [path for path in sorted((ROOT / "code").glob("*.py")) if path != HARDENED]

# A request whose connection is kept, and one that asks for its end; an answer has this many bytes
# at the least.
KEPT = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSING = KEPT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
ANSWER_SIZE = 78

# What all the small servers below need: it listens, says so, and calls serve(listener).
FRAME = """
import socket, sys, threading, time
ANSWER = b"HTTP/1.0 200 OK\\r\\nContent-Length: 13\\r\\n\\r\\nHello, world!"
def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=50)
    print("listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    serve(listener)
"""


def read_answers(talk, number):
    """Receive until so many answers are there; the connection is kept."""
    while len(talk.received) < number * ANSWER_SIZE:
        assert talk.receive()
    return talk.answers()


def printed(page, name):
    """Return what a cell of a notebook has printed, by its stored outputs: its texts in a row."""
    (cell,) = (cell for cell in notebooks.cells(BOOK / f"{page}.ipynb") if cell["id"] == name)
    texts = [each.get("text") or each["data"].get("text/plain", "") for each in cell["outputs"]]
    return "\n".join("".join(text).rstrip("\n") for text in texts)


def rows(page, name):
    """Return the rows of the Table that a cell of a notebook shows: {label: [cell, ...]}."""
    lines = [line.split(" | ") for line in printed(page, name).splitlines() if " | " in line]
    return {label: cells for label, *cells in lines}


def seconds(cell):
    """Return the number of a measured cell, `≈ 210 ms`, in seconds."""
    _, number, unit = cell.split()
    return float(number.replace(",", "")) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]


def keep_and_leave(server):
    """Ask three times over one connection, the last two at once, and leave it."""
    with lab.connect(server) as client:
        client.send(KEPT)
        read_answers(client, 1)
        assert client.ended is None
        client.send(KEPT + KEPT)
        read_answers(client, 3)
    lab.at_rest(server, sockets=1)


def masks_and_threads(path):
    """Return what a server with one client watches for, and how many threads it has."""
    with lab.serve(path) as server, lab.connect(server):
        lab.at_rest(server, sockets=2)
        return lab.kernel.watched(server.pid), len(lab.kernel.threads(server.pid))


def interest(server, epoll=4):
    """Return what the server's epoll instance watches, for what: {descriptor: mask}."""
    return kernel.interest_list(server.pid, epoll)


def kinds(view):
    """Return of what kinds a look's findings are."""
    return [finding.kind for finding in view.findings]


def said(view):
    """Return a look's findings as one text, on one line."""
    return " / ".join(finding.says for finding in view.findings)


def until_waiting(server, clients):
    """Wait until so many clients are in a server's accept queue."""
    lab.until(lambda: kernel.find_socket(server.address).unread == clients)


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
        while not (ready := self.epoll.poll(0)):
            if not self.left:
                try:
                    self.left = next(self.script)
                except StopIteration:
                    raise _Over from None
            else:
                step = self.left if timeout is None else min(self.left, timeout)
                self.now, self.left = self.now + step, self.left - step
                if step == timeout:
                    self.wakes += 1
                    return []
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


@pytest.fixture
def stage():
    """A function that makes a Stage."""
    with contextlib.ExitStack() as stack:

        def stage(*arguments, **seconds):
            return stack.enter_context(contextlib.closing(Stage(*arguments, **seconds)))

        yield stage


@pytest.fixture
def write(tmp_path):
    """Write a program into a folder of the test's own; returns its path."""

    def write(text, name="server.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def serving(write):
    """Write a server whose `serve(listener)` is given; returns its path."""

    def serving(serve, name="server.py"):
        return write(FRAME + textwrap.dedent(serve) + "\nmain()\n", name)

    return serving


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """Work in a folder with a run/ of its own, as a notebook works in book/; returns run/."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.fixture
def door():
    """A function that makes a listener whose queue has a length: nobody accepts from it."""
    with contextlib.ExitStack() as stack:

        def door(length):
            return stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=length))

        yield door


def children():
    """The processes that this one has started and that still are there."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
        and "resource_tracker" not in " ".join(cmdline(child))
    ]


def cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No test leaves a process behind that was not there before it, nor a reader of its output."""
    before = {child.pid for child in children()}
    yield
    left = [child for child in children() if child.pid not in before]
    for child in left:
        child.kill()
    assert not left, f"left running: {[cmdline(child) for child in left]}"
    readers = [thread.name for thread in threading.enumerate() if "output of" in thread.name]
    assert not readers, f"left reading: {readers}"
