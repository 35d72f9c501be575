"""A small strace: the system calls that one thread makes during a moment, by ptrace(2).

    for call in strace.trace(pid, thread):
        print(call.name, call.arguments, call.result)

The kernel stops the traced thread at each entry to a call and each exit from it, and tells which
call it is (PTRACE_GET_SYSCALL_INFO); then it is sent on. After CALLS calls or SECONDS seconds it is
let go: it runs on, or stays stopped, as it would have without us.

- A tracer is a thread, and its end frees what it still traces. So it is a thread of its own.
- We wait for stops only (WSTOPPED). The exit status is left for the parent, which would miss it if
  we took it. Should another thread of ours wait for that very process meanwhile, it could take one
  of the stops for its end.

Sources: ptrace(2), wait(2), epoll_wait(2); include/uapi/linux/ptrace.h, eventpoll.h.
"""

import collections
import contextlib
import ctypes
import errno
import os
import platform
import select
import signal
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from . import kernel

CALLS, SECONDS = 400, 0.3  # that a thread is traced, at the most
LET_GO = 0.5  # seconds that it may take to stop, so that it can be let go
POLLS = ("poll", "ppoll", "select", "pselect6")
EVENTS = 4  # that are read of what an epoll_wait returns

# include/uapi/linux/ptrace.h, and __WALL of wait(2): threads as well
SYSCALL, DETACH, SEIZE, INTERRUPT, GET_SYSCALL_INFO = 24, 17, 0x4206, 0x4207, 0x420E
TRACESYSGOOD, EVENT_STOP, ENTRY, EXIT = 1, 128, 1, 2
SYSCALL_STOP = signal.SIGTRAP | 0x80
WALL = 0x40000000

_library = ctypes.CDLL(None, use_errno=True)
_library.ptrace.restype = ctypes.c_long
_library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@dataclass(frozen=True)
class Call:
    """One system call. result: what the kernel returned; a failure is a negative errno.

    arguments: six numbers. events: of an epoll_wait, the first of the (mask, data) it returned.
    """

    name: str
    arguments: tuple
    result: int
    events: tuple = ()

    @property
    def error(self):
        """Name the error that it failed with, or None."""
        failed = -4096 < self.result < 0
        return errno.errorcode.get(-self.result, str(-self.result)) if failed else None


def trace(pid, thread):
    """Trace a thread of a process for a moment; returns its Calls, in their order.

    Raises PermissionError when the thread is not ours to trace, or somebody else traces it;
    ProcessLookupError when it is not there.
    """
    with ThreadPoolExecutor(1) as tracer:
        return tracer.submit(_Tracer(pid, thread).run).result()


def memory(pid, address, size):
    """Read size bytes of a process's memory. Raises OSError when they cannot be read."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, address)
    if len(data) == size:
        return data
    raise OSError(errno.EFAULT, f"no {size} bytes at {address:#x}")


def polled(pid, blocked):
    """Return what a thread watches while it is blocked in poll() or select(): {descriptor: mask}.

    blocked: a kernel.Blocked. Raises OSError as memory().
    """
    masks, (first, second, third) = collections.Counter(), blocked.arguments[:3]
    if blocked.call in POLLS[:2]:  # an array of struct pollfd, and its size
        for fd, mask, _ in struct.iter_unpack("=iHH", memory(pid, first, 8 * second)):
            masks[fd] |= mask
    elif blocked.call in POLLS:  # the size of sets of bits, those to read and those to write
        for mask, address in ((select.EPOLLIN, second), (select.EPOLLOUT, third)):
            bits = memory(pid, address, (first + 7) // 8) if address else b""
            for fd in range(8 * len(bits)):
                masks[fd] |= mask * (bits[fd // 8] >> fd % 8 & 1)
    return {fd: mask for fd, mask in masks.items() if mask and fd >= 0}


def _ptrace(request, thread, address=0, data=0):
    if _library.ptrace(request, thread, address, data) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _Tracer:
    """Traces one thread. All its methods must run in the same thread of ours."""

    def __init__(self, pid, thread):
        self.pid, self.thread = pid, thread
        self.calls, self.entered = [], None
        self.stopped = self.in_group_stop = False
        self.signal = 0  # that the stopped thread is about to get

    def run(self):
        _ptrace(SEIZE, self.thread, 0, TRACESYSGOOD)
        with contextlib.suppress(ProcessLookupError):  # it has ended: what it did is worth telling
            try:
                self._follow(time.monotonic() + SECONDS)
            finally:
                self._let_go()
        return self.calls

    def _follow(self, deadline):
        _ptrace(INTERRUPT, self.thread)
        while self._wait(deadline) and len(self.calls) < CALLS and not self.in_group_stop:
            if time.monotonic() > deadline:
                return
            self.stopped = False
            _ptrace(SYSCALL, self.thread, 0, self.signal)

    def _wait(self, deadline):
        """Wait for the next stop, and note its call; return whether the thread stopped in time."""
        tries = 0
        while not (found := self._look_for_a_stop()):
            if found is None or time.monotonic() > deadline:
                return False
            tries += 1
            time.sleep(0 if tries < 20 else 0.0002)  # the next call may come at once, or never
        number, event = found
        self.stopped = True
        self.in_group_stop = event == EVENT_STOP and number != signal.SIGTRAP
        self.signal = 0 if event or number == SYSCALL_STOP else number
        if number == SYSCALL_STOP:
            self._note()
        return True

    def _look_for_a_stop(self):
        """Return (signal, event) of a stop, () if there is none, None if the thread has ended."""
        try:
            found = os.waitid(os.P_PID, self.thread, os.WSTOPPED | os.WNOHANG | WALL)
        except ChildProcessError:
            return None
        return (found.si_status & 0xFF, found.si_status >> 8) if found else ()

    def _note(self):
        """Keep a call when it has returned: struct ptrace_syscall_info."""
        buffer = ctypes.create_string_buffer(88)
        _ptrace(GET_SYSCALL_INFO, self.thread, len(buffer), ctypes.addressof(buffer))
        if buffer.raw[0] == ENTRY:
            number, *arguments = struct.unpack_from("=7Q", buffer.raw, 24)
            self.entered = kernel.system_call(number), tuple(arguments)
        elif buffer.raw[0] == EXIT and self.entered:
            (result,) = struct.unpack_from("=q", buffer.raw, 24)
            events = _events(self.pid, *self.entered, result)
            self.calls.append(Call(*self.entered, result, events))
            self.entered = None

    def _let_go(self):
        """Detach, for which the thread must be stopped."""
        if not self.stopped:
            _ptrace(INTERRUPT, self.thread)
            self._wait(time.monotonic() + LET_GO)
        _ptrace(DETACH, self.thread, 0, self.signal)


def _events(pid, name, arguments, result):
    """Read the events that an epoll_wait returned, (mask, data) each; none of another call."""
    if not name.startswith(("epoll_wait", "epoll_pwait")) or result <= 0:
        return ()
    layout = "=IQ" if platform.machine() == "x86_64" else "=I4xQ"  # packed on x86-64 alone
    with contextlib.suppress(OSError):
        data = memory(pid, arguments[1], min(result, EVENTS) * struct.calcsize(layout))
        return tuple(struct.iter_unpack(layout, data))
    return ()
