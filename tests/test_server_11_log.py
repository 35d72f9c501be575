"""Chapter 11's log: a line for each answer, which the loop never waits for."""

import contextlib
import errno
import fcntl
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

import lab
from conftest import CLOSING, KEPT, address_in, ends_in_order
from stage import HARDENED, load, statuses

LINE = r"\d\d:\d\d:\d\d 127\.0\.0\.1:\d+ (\d{3}) (.*)"


@pytest.fixture
def logging():
    with lab.serve(HARDENED, "-v") as server:
        yield server


def test_a_line_for_each_answer(logging):
    with lab.connect(logging) as talk:
        talk.send(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\nHEAD /b HTTP/1.1\r\nHost: x\r\n\r\n")
        talk.send(b"DELETE /c HTTP/1.1\r\nHost: x\r\n\r\n" + b"BREW /d HTTP/1.1\r\n\r\n")
        talk.read_all()
        port = talk.port
    logging.wait_for("\n", times=5)
    lines = logging.output().splitlines()
    assert [re.fullmatch(LINE, line).groups() for line in lines] == [
        ("200", "GET /a?b=c"), ("200", "HEAD /b"), ("405", "DELETE /c"), ("501", " "),
    ]  # fmt: skip
    assert all(f" 127.0.0.1:{port} " in line for line in lines)


def test_a_line_for_each_though_all_are_alike(logging):
    with lab.connect(logging) as talk:
        for _ in range(5):
            answered(talk, KEPT, 1)
    logging.wait_for(" 200 GET /\n", times=5)
    assert logging.output().count("\n") == 5


def test_without_v_it_says_nothing():
    with lab.serve(HARDENED) as server:
        assert lab.rows.is_hello(lab.get(server.address))
        server.send_signal(signal.SIGTERM)
        assert (server.wait(), server.output(), server.errors()) == (0, "", "")


def test_what_it_prints_is_harmless_and_short(logging):
    targets = [
        rb"/\x1b]0;\x07",
        b"/\\n\\r",
        b"/'\"`",
        b"/" + b"x" * 10_000,
        b"/\x1b]0;x\x07",
        b"/\xff",
    ]
    for target in targets:
        with lab.connect(logging) as talk:
            talk.send(b"GET " + target + b" HTTP/1.0\r\n\r\n")
            talk.read_all()
    logging.wait_for("\n", times=1 + len(targets))
    lines = logging.output().split("\n")[:-1]
    assert len(lines) == len(targets)
    for line in lines:
        assert line.isprintable() and line.isascii() and len(line) < 600
        assert re.fullmatch(LINE, line)


# What can't be written


class Broken:
    """The module os, whose write raises an error as long as there is one."""

    def __init__(self, error=None):
        self.error = error

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, fd, data):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return os.write(fd, data)


@pytest.fixture
def log():
    """A Log in this process: (what says a line, its Broken, what reads what has been written)."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with open(ours, "rb", buffering=0) as reader, open(theirs, "w") as writer:
        module = load(HARDENED)
        module.sys, module.os = SimpleNamespace(stdout=writer), Broken()
        log = module.Log()
        peer = SimpleNamespace(getpeername=lambda: ("127.0.0.1", 1))
        request = SimpleNamespace(method=b"GET", status=200, client=SimpleNamespace(socket=peer))

        def say(target, connection=peer):
            request.target, request.client.socket = target, connection
            log.say(request)

        yield say, module.os, lambda: (reader.read(65536) or b"").decode()


@pytest.mark.parametrize("name", ["EAGAIN", "ENOSPC", "EDQUOT", "EFBIG"])
def test_what_there_is_no_room_for_now_is_counted_and_told_later(log, name):
    say, system, read = log
    for lost in (1, 3):
        say(b"/first")
        system.error = getattr(errno, name)
        for _ in range(lost):
            say(b"/lost")
        system.error = None
        say(b"/later")
        say(b"/last")
        first, told, later, last = read().splitlines()
        assert first.endswith("/first") and told == f"{lost} lines were lost"
        assert later.endswith("/later") and last.endswith("/last")


@pytest.mark.parametrize("name", ["EPIPE", "EIO", "EBADF", "ENXIO"])
def test_what_nobody_reads_any_more_is_not_written_to_any_more(log, name):
    say, system, read = log
    say(b"/first")
    system.error = getattr(errno, name)
    say(b"/lost")
    system.error = None
    say(b"/later")
    assert read().endswith("/first\n")


def test_whatever_a_target_is_it_is_escaped(log):
    """The parser lets no control through, which is another's promise."""
    say, _, read = log
    say(b"/\x1b]0;\x07\xff\n")
    assert read().endswith(r" 200 GET /\x1b]0;\x07\xff\n" + "\n")


def test_who_is_gone_is_called_so(log):
    say, _, read = log
    with lab.pair()[1] as peer:
        peer.close()
        say(b"/", peer)
    assert " gone 200 GET /" in read()


# At a console, or a file, of its own


def answered(talk, request, number):
    """Ask so often, and wait for all the answers."""
    due = talk.received.count(b"Hello, world!") + number
    talk.send(request * number)
    while talk.received.count(b"Hello, world!") < due:
        assert talk.receive()


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_full_pipe_stops_nobody_and_what_was_lost_is_told(at_a_console, is_blocking):
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16_384)
    os.set_blocking(writer, is_blocking)
    with open(reader, "rb", buffering=0) as console, open(writer, "wb", buffering=0) as end:
        process = at_a_console(HARDENED, end, "-v")
        with lab.Conversation(address_in(console.read(1000))) as talk:
            answered(talk, KEPT, 1000)
            text = console.read(65536)
            answered(talk, KEPT, 1)
            text += console.read(65536)
        (lost,) = re.findall(rb"^(\d+) lines were lost$", text, re.M)
        lines = text.count(b"200 GET /\n")
        assert lines + int(lost) == 1001 and text.endswith(b"200 GET /\n")
        assert 10_000 < len(text) < 17_000
        assert ends_in_order(process)


def test_a_pipe_whose_reader_is_stopped_stops_nobody(at_a_console):
    """As `| less`, or a terminal with Ctrl-S."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = at_a_console(HARDENED, reader.stdin, "-v")
    reader.stdin.close()
    address = address_in(reader.stdout.readline())
    reader.send_signal(signal.SIGSTOP)
    with lab.Conversation(address) as talk:
        for _ in range(20):
            answered(talk, KEPT, 300)  # the pipe has room for 1,500 lines or so
    reader.send_signal(signal.SIGCONT)
    lab.until(lambda: lab.kernel.is_asleep(reader.pid))
    assert lab.rows.is_hello(lab.get(address))
    assert ends_in_order(process)
    text = reader.stdout.read()
    (lost,) = re.findall(rb"(\d+) lines were lost", text)
    assert text.count(b"200 GET /\n") + int(lost) == 6001
    assert reader.wait(5) == 0
    reader.stdout.close()


def test_a_socket_that_nobody_reads_stops_nobody(at_a_console):
    """As the journal gives one for standard output, systemd.exec(5): it can't be opened anew."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
            process = at_a_console(HARDENED, theirs, "-v")
        with lab.Conversation(address_in(ours.recv(1000))) as talk:
            answered(talk, KEPT, 3000)
        assert ends_in_order(process)


def test_a_disk_that_is_full_for_a_moment_is_written_to_again(at_a_console, tmp_path):
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = at_a_console(HARDENED, file, "-v")
    address = address_in(lab.until(log.read_bytes))
    written = log.stat().st_size
    hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (written, hard))
    for _ in range(2):
        assert lab.rows.is_hello(lab.get(address))
    assert log.stat().st_size == written
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert lab.rows.is_hello(lab.get(address))
    first, lost, line = log.read_text().splitlines()
    assert lost == "2 lines were lost" and re.fullmatch(LINE, line)
    assert ends_in_order(process)


def test_a_console_that_is_closed_does_not_matter_not_even_at_the_end(logging):
    logging.close_console()
    for _ in range(3):
        assert lab.rows.is_hello(lab.get(logging.address))
    logging.send_signal(signal.SIGTERM)
    assert (logging.wait(), logging.errors()) == (0, "")


def test_a_terminal_that_is_hung_up_does_not_matter(at_a_console):
    """Writing to it fails with EIO."""
    ours, theirs = pty.openpty()
    process = at_a_console(HARDENED, theirs, "-v")
    os.close(theirs)
    address = address_in(os.read(ours, 1000))
    os.close(ours)
    for _ in range(3):
        assert lab.rows.is_hello(lab.get(address))
    assert ends_in_order(process)


@pytest.mark.parametrize("what", ["/dev/full", "a pipe that nobody reads"])
def test_what_takes_not_even_the_first_line_does_not_matter(what):
    """It listens all the same, and says nothing."""
    port = lab.free_port()
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb") as pipe, open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [sys.executable, str(HARDENED), str(port), "-v"],
            stdout=full if what == "/dev/full" else pipe,
            stderr=subprocess.PIPE,
        )
    try:
        lab.until(lambda: lab.kernel.sockets(port))
        for _ in range(3):
            assert lab.rows.is_hello(lab.get(("127.0.0.1", port)))
        assert ends_in_order(process)
    finally:
        process.kill()
        process.communicate()


def test_a_terminal_that_nobody_reads_stops_nobody(at_a_console):
    """As after Ctrl-S. It is ready for writing as long as it has room for one byte."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process = at_a_console(HARDENED, theirs, "-v")
        os.close(theirs)
        with lab.Conversation(address_in(terminal.read(1000))) as talk:
            for size in range(0, 480, 7):
                answered(talk, KEPT.replace(b"/", b"/" + b"x" * size, 1), 10)
            assert lab.kernel.cpu_share(process.pid, 0.1) <= lab.kernel.SPINNING
        assert ends_in_order(process)


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_without_a_standard_output_nothing_is_said_to_a_client(closed):
    """Its number is another descriptor's then: a client's, if nobody takes care."""
    port = lab.free_port()
    command = [
        "sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        sys.executable,
        str(HARDENED),
        str(port),
        "-v",
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with contextlib.ExitStack() as stack:
        stack.callback(process.communicate)
        stack.callback(process.kill)
        lab.until(lambda: lab.kernel.sockets(port))
        address = "127.0.0.1", port
        talks = [stack.enter_context(lab.Conversation(address)) for _ in range(5)]
        for talk in talks:
            talk.send(KEPT + CLOSING)
            talk.read_all()
            assert statuses(talk.received) == [200, 200]
            assert talk.received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert talk.received.endswith(b"\r\n\r\nHello, world!") and len(talk.received) < 300
            talk.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0 and process.stderr.read() == b""
