"""What the tests share: servers written on the spot, and a search for leftovers."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

import lab
from lab import notebooks
from look import kernel
from stage import HARDENED, Stage
from survive.clients import KEPT

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
# Chapter 11's has tests of its own.
SERVERS = [path for path in sorted((ROOT / "code").glob("*.py")) if path != HARDENED]

# A request like KEPT that asks for the connection's end; an answer has so many bytes at the least.
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


def is_refused(done, says):
    """Tell whether a process has ended as who complains does: in one line, with status 2."""
    lines = done.stderr.splitlines()
    return (done.returncode, done.stdout, len(lines)) == (2, "", 1) and bool(
        re.search(says, lines[0])
    )


@pytest.fixture
def at_a_console():
    """Run a server at a console of its own; yields a function path, output, … → process."""
    started = []
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}

    def start(path, output, *arguments):
        command = [sys.executable, str(path), "0", *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def address_in(text):
    """Return the address in the first line that a server prints, in bytes."""
    return "127.0.0.1", int(text.decode().split(":")[1])


def ends_in_order(process):
    """Send SIGTERM to a process; tell whether it ends with status 0 and without a word."""
    process.send_signal(signal.SIGTERM)
    return process.wait(5) == 0 and process.stderr.read() == b""


@pytest.fixture
def stage():
    """A function that makes a Stage."""
    with contextlib.ExitStack() as stack:

        def stage(*arguments, **seconds):
            return stack.enter_context(contextlib.closing(Stage(*arguments, **seconds)))

        yield stage


@pytest.fixture
def played(stage):
    """A decorator that plays a script at once: a generator function (stage, client)."""

    def played(*arguments, **seconds):
        def play(script):
            one = stage(*arguments, **seconds)
            one.has_ended = one.play(script(one, one.connect()))
            return one

        return play

    return played


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
