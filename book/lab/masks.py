"""The table of masks: what epoll reports of a socket, and what the next recv and send do.

    seen = lab.Masks()
    seen.row("the peer has closed, and we have sent since", they_close, we_send)
    assert seen["the peer has closed, and we have sent since"] == (
        "IN|OUT|ERR|HUP|RDHUP", "ERR|HUP", "b''", "EPIPE"
    )

A situation is brought about by a start, a function that makes the files, and by acts, functions of
these files, one after the other; an act begins when all that was sent before has arrived. recv and
send change the situation, so each of them gets one of its own.
"""

import contextlib
import ctypes
import os
import select
import struct
import time

from IPython.display import HTML

from survive.clients import outcome, pair
from survive.waiting import until

from . import show
from .experiment import reported, settled
from .measured import Table

BITS = ("IN", "OUT", "PRI", "RDHUP", "HUP", "ERR")
ASKED = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP


class Masks(Table):
    """A table whose rows are situations; each holds four things in words.

    What epoll reports when everything is asked for, and when nothing is: "IN|OUT", "nothing". What
    recv gives, call after call, until one is repeated: "data, EAGAIN". What send gives: "done".
    """

    def __init__(self):
        super().__init__("situation", "asked for everything", "for nothing", "recv", "send")

    def row(self, label, *acts, start=pair):
        """Bring a situation about, and add its row.

        start: makes the files, ours first. acts: functions that take all of these files.
        """
        with _brought_about(start, acts) as ours:
            masks = reported(ours, ASKED), reported(ours)
            received = _received(ours)
        with _brought_about(start, acts) as ours:
            return super().row(label, *masks, received, _got(ours.send, b"x"))

    def _repr_html_(self):
        super()._repr_html_()  # it refuses to be shown while a row has not been asked for
        names = [HTML(f"<small>{name}</small>") for name in BITS]
        rows = [_line(label, *cells) for label, cells in self.rows.items()]
        return show.table(["situation", *names, "recv", "send"], rows, kind="masks").data


def _line(label, asked, unasked, received, sent):
    """Return a row's cells. recv and send stand there twice: a phone shows them in the first."""
    unasked, asked = unasked.split("|"), asked.split("|")
    marks = ["●" if bit in unasked else "○" if bit in asked else "" for bit in BITS]
    calls = f"recv: {received}<br>send: {sent}"
    return HTML(f"{label}<br><small>{calls}</small>"), *marks, received, sent


@contextlib.contextmanager
def _brought_about(start, acts):
    """Bring a situation about; yield our file, non-blocking. All files are closed afterwards."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(contextlib.closing(file)) for file in start()]
        for act in acts:
            settled(files[0])
            act(*files)
        settled(files[0]).setblocking(False)
        yield files[0]


def _received(ours):
    found = [_got(ours.recv, 65536)]
    while (latest := _got(ours.recv, 65536)) != found[-1]:
        found.append(latest)
    return ", ".join(found)


def _got(call, *arguments):
    got = outcome(call, *arguments)
    if isinstance(got, bytes):
        return "data" if got else "b''"
    return got if isinstance(got, str) else "done"


class End:
    """A file that is no socket, with the methods of a socket. fd: its descriptor."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd

    def setblocking(self, flag):
        os.set_blocking(self.fd, flag)

    def recv(self, size):
        return os.read(self.fd, size)

    def send(self, data):
        return os.write(self.fd, data)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def expired_timer():
    """Make a timer, timerfd_create(2), that has expired once; return a tuple of its one End."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.timerfd_create is there from Python 3.13 on
    fd = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    at_once = struct.pack("4l", 0, 0, 0, 1)  # struct itimerspec: once, after a nanosecond
    if fd < 0 or libc.timerfd_settime(fd, 0, at_once, None) < 0:
        raise OSError(ctypes.get_errno(), "no timer")
    timer = End(fd)
    until(lambda: reported(timer, select.EPOLLIN) == "IN", what="a timer to expire")
    return (timer,)


def pipe():
    """Make a pipe; return its two Ends, the one to read from first."""
    return tuple(map(End, os.pipe()))
