"""What a process prints: read as it comes, its beginning kept, and given up when asked to."""

import fcntl
import os
import struct
import termios
import threading
import time
from types import SimpleNamespace

import pytest

import lab
from survive import console
from survive.console import Console


@pytest.fixture
def streams():
    """A Console, and the two ends that write to it: (console, stdout, stderr), as files."""
    pipes = [os.pipe() for _ in range(2)]
    readers = [os.fdopen(read_end, "rb", 0) for read_end, _ in pipes]
    stdout, stderr = (os.fdopen(write_end, "wb", 0) for _, write_end in pipes)
    ours = Console(*readers, "output of a test")
    yield ours, stdout, stderr
    for each in (stdout, stderr):
        each.close()
    ours.close()


def until_text(ours, text, stream="stdout"):
    assert ours.wait_for(lambda: ours.text(stream) == text, 5), ours.text(stream)


def test_each_stream_has_its_own_text(streams):
    ours, stdout, stderr = streams
    stdout.write(b"one ")
    stderr.write(b"an error")
    until_text(ours, "one ")
    until_text(ours, "an error", "stderr")
    stdout.write(b"\xff two")
    until_text(ours, "one \\xff two")


@pytest.mark.parametrize("more", [b"789", b"789A", b"789AB", b"789" + b"A" * 1_000_000])
def test_the_first_bytes_are_kept_and_the_rest_is_read_and_dropped(streams, monkeypatch, more):
    """A million bytes are more than a pipe takes: unread, they would stop who writes them."""
    monkeypatch.setattr(console, "KEPT_BYTES", 10)
    ours, stdout, _ = streams
    stdout.write(b"0123456")
    until_text(ours, "0123456")
    stdout.write(more)
    until_text(ours, ("0123456" + more.decode())[:10])
    stdout.write(b"more")
    stdout.close()
    lab.until(lambda: "stdout" not in ours._open)
    assert len(ours.text()) == 10


def test_one_stream_is_hung_up_and_the_other_is_read_on(streams):
    ours, stdout, stderr = streams
    ours.hang_up("stdout")
    with pytest.raises(BrokenPipeError):
        stdout.write(b"anybody there?")
    stderr.write(b"nobody")
    until_text(ours, "nobody", "stderr")
    assert not ours.has_ended() and ours.ended_at is None
    ours.hang_up("stdout")
    ours.hang_up("stdout", "stderr")
    with pytest.raises(BrokenPipeError):
        stderr.write(b"!")
    lab.until(lambda: ours.ended_at)


def test_what_was_said_before_it_was_hung_up_stays(streams):
    ours, stdout, _ = streams
    stdout.write(b"so far")
    until_text(ours, "so far")
    ours.hang_up("stdout")
    assert ours.text() == "so far"


def test_it_has_ended_when_both_streams_have(streams):
    ours, stdout, stderr = streams
    began = time.monotonic()
    stdout.close()
    lab.until(lambda: "stdout" not in ours._open)
    assert not ours.has_ended() and ours.ended_at is None
    stderr.close()
    assert ours.wait_for(ours.has_ended, 5)
    lab.until(lambda: ours.ended_at)
    assert began < ours.ended_at <= time.monotonic()


def test_waiting_for_what_never_comes_ends_with_the_streams_or_in_time(streams):
    ours, stdout, stderr = streams
    began = time.monotonic()
    assert not ours.wait_for(lambda: False, 0.1)
    assert 0.1 <= time.monotonic() - began < 2
    threading.Timer(0.1, lambda: (stdout.close(), stderr.close())).start()
    assert not ours.wait_for(lambda: False, 60)
    assert time.monotonic() - began < 10


def test_closing_waits_for_the_end_of_both_but_not_for_ever():
    """Somebody may hold the other end open: it is a broken pipe to him from then on."""
    before = len(os.listdir("/proc/self/fd"))
    (read_out, write_out), (read_err, write_err) = os.pipe(), os.pipe()
    ours = Console(os.fdopen(read_out, "rb", 0), os.fdopen(read_err, "rb", 0), "output of a test")
    began = time.monotonic()
    ours.close(0.2)
    assert 0.2 <= time.monotonic() - began < 2
    for write_end in (write_out, write_err):
        with pytest.raises(BrokenPipeError):
            os.write(write_end, b"x")
        os.close(write_end)
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_waits_for_the_thread_that_reads(monkeypatch):
    """That needs a moment to note when all had ended."""

    def noted_late():
        time.sleep(0.3)  # of the reader: whoever does not wait for it is through by then
        return 1.0

    pipes = [os.pipe() for _ in range(2)]
    for _, write_end in pipes:
        os.close(write_end)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=noted_late))
    ours = Console(*(os.fdopen(read_end, "rb", 0) for read_end, _ in pipes), "output of a test")
    ours.close()
    assert ours.ended_at == 1.0


def test_what_comes_while_a_stream_is_hung_up_is_not_read(streams):
    """The reader is told of both at once: it must not read what it has just closed."""
    ours, stdout, stderr = streams

    def is_read():
        return not struct.unpack("i", fcntl.ioctl(stdout, termios.FIONREAD, b"\0" * 4))[0]

    with ours._news:
        stdout.write(b"first")
        lab.until(is_read)  # now the reader waits for us, to keep it
        ours._unwanted.add("stdout")
        os.eventfd_write(ours._hang_up, 1)
        stdout.write(b"second")
    lab.until(lambda: "stdout" not in ours._open)
    stderr.write(b"it reads on")
    until_text(ours, "it reads on", "stderr")
    assert ours.text() == "first"


def is_full(file):
    """Tell whether a pipe takes not one byte more."""
    os.set_blocking(file.fileno(), False)
    try:
        return file.write(b"x") is None
    finally:
        os.set_blocking(file.fileno(), True)


def test_a_full_pipe_takes_no_byte_and_is_not_read(streams):
    ours, stdout, stderr = streams
    stdout.write(b"before")
    until_text(ours, "before")
    size = fcntl.fcntl(stdout.fileno(), fcntl.F_GETPIPE_SZ)
    assert ours.fill("stdout") == size
    assert is_full(stdout) and not is_full(stderr)
    until_text(ours, "x", "stderr")
    assert is_full(stdout) and ours.text() == "before"


def test_a_full_pipe_is_read_to_its_end_when_its_writers_are_gone(streams):
    ours, stdout, stderr = streams
    size = ours.fill("stdout")
    stderr.close()
    assert not ours.has_ended()
    stdout.close()
    assert ours.wait_for(ours.has_ended, 5) and ours.text() == "." * size


def test_a_pipe_that_has_ended_is_not_filled(streams):
    ours, stdout, _ = streams
    stdout.close()
    lab.until(lambda: "stdout" not in ours._open)
    assert ours.fill("stdout") == 0


def test_one_stream_may_go_elsewhere():
    reader, writer = (
        os.fdopen(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
    )
    ours = Console(None, reader, "output of a test")
    writer.write(b"an error")
    until_text(ours, "an error", "stderr")
    assert ours.text() == "" and not ours.has_ended()
    writer.close()
    assert ours.wait_for(ours.has_ended, 5)
    ours.close()
