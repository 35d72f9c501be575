"""What a thread is seen to call, and what it watches in poll() and select()."""

import ctypes
import os
import platform
import select
import struct

import pytest

from look import kernel, strace
from look.strace import Call, polled


@pytest.mark.parametrize(
    ("result", "error"),
    [(0, None), (5, None), (-1, "EPERM"), (-11, "EAGAIN"), (-4095, "4095"), (-4096, None)],
)
def test_a_failure_is_a_small_negative_number(result, error):
    """What lies below is an address: mmap(2) returns such ones."""
    assert Call("mmap", (0,) * 6, result).error == error


def blocked(call, *arguments):
    return kernel.Blocked(call, "do_poll", (*arguments, 0, 0, 0))


@pytest.mark.parametrize("call", ["poll", "ppoll"])
def test_what_poll_watches(call):
    """The same descriptor twice, a negative number, which is skipped, and one for nothing."""
    entries = [(7, 1, 0), (8, 4, 0), (7, 4, 0), (-1, 1, 0), (9, 0, 0)]
    array = ctypes.create_string_buffer(b"".join(struct.pack("=iHH", *each) for each in entries))
    where = ctypes.addressof(array)
    assert polled(os.getpid(), blocked(call, where, len(entries))) == {7: 5, 8: 4}


@pytest.mark.parametrize("call", ["select", "pselect6"])
def test_what_select_watches(call):
    reads, writes = (ctypes.create_string_buffer(bytes(each)) for each in ([0, 3], [0, 1, 128]))
    where = ctypes.addressof(reads), ctypes.addressof(writes)
    both = {8: select.EPOLLIN | select.EPOLLOUT, 9: select.EPOLLIN}
    assert polled(os.getpid(), blocked(call, 10, *where)) == both
    assert polled(os.getpid(), blocked(call, 24, *where)) == both | {23: select.EPOLLOUT}
    assert polled(os.getpid(), blocked(call, 10, where[0], 0)) == {8: 1, 9: 1}


def test_what_does_not_watch_watches_nothing():
    assert polled(os.getpid(), blocked("recvfrom", 7, 8, 9)) == {}


def test_memory_that_is_not_there_cannot_be_read():
    with pytest.raises(OSError):
        strace.memory(os.getpid(), 0, 8)
    text = ctypes.create_string_buffer(b"hello")
    assert strace.memory(os.getpid(), ctypes.addressof(text), 5) == b"hello"


@pytest.mark.parametrize("number", [0, 1, strace.EVENTS, strace.EVENTS + 1])
def test_the_first_events_that_an_epoll_wait_returned(number):
    """From where the call was told to put them; struct epoll_event is packed on x86-64 alone."""
    packed = "=IQ" if platform.machine() == "x86_64" else "=I4xQ"
    events = [(select.EPOLLIN, 10 + each) for each in range(number)]
    memory = ctypes.create_string_buffer(b"".join(struct.pack(packed, *each) for each in events))
    arguments = 4, ctypes.addressof(memory), 100, 0, 0, 0
    for name in ("epoll_wait", "epoll_pwait", "epoll_pwait2"):
        found = strace._events(os.getpid(), name, arguments, number)
        assert found == tuple(events[: strace.EVENTS])
    assert strace._events(os.getpid(), "recvfrom", arguments, number) == ()


def test_events_that_cannot_be_read_and_those_of_a_failure_are_none():
    assert strace._events(os.getpid(), "epoll_wait", (4, 0, 100, 0, 0, 0), 1) == ()
    assert strace._events(os.getpid(), "epoll_wait", (4, 0, 100, 0, 0, 0), -4) == ()
