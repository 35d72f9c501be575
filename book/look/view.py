"""What is seen of one running process during a window: a View, which the symptoms follow from.

The process may be written in any language; it must be of the same user. Looking changes nothing:
/proc is read, and sock_diag(7) asked. Only if the process is busy in both halves of the window is
a thread of it traced, briefly. What is seen at one end of the window only proves nothing: it
may have lasted for a moment.

Sources: proc(5), epoll(7), poll(2), select(2).
"""

import collections
import contextlib
import os
import re
import resource
import time
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path

from . import kernel, strace, symptoms

ENDED = ("CLOSE-WAIT", "LAST-ACK", "CLOSING")  # the peer's FIN has come


@dataclass(frozen=True)
class File:
    """An open file: in words, with its inode; of a TCP socket, its Socket."""

    text: str
    inode: int
    socket: kernel.Socket | None

    @property
    def listens(self):
        return bool(self.socket) and self.socket.state == "LISTEN"

    @property
    def unread(self):
        """Count the bytes unread, without the end of input, which the kernel counts as one."""
        return max(self.socket.unread - (self.socket.state in ENDED), 0)


# A descriptor that is watched for a mask of EPOLL… bits. file: None if that number means no file,
# or another one than is watched: a leftover. data: the registration's own.
Watch = collections.namedtuple("Watch", "fd mask file data", defaults=[None])

# state: a letter of proc(5); share: of a core. looks: a kernel.Blocked each, or None while it ran,
# at the window's beginning, middle and end. watches: those of its poll() or select(), at the end.
Thread = collections.namedtuple("Thread", "number state share looks watches")


@dataclass(frozen=True)
class View:
    """What look_at() saw of a process.

    share: of a core. resident: bytes of memory. descriptor_limit: its RLIMIT_NOFILE.
    files, earlier: {descriptor: File} at the window's end and beginning. epolls: {descriptor:
    Watches}. calls: strace.Call of the busiest thread, if it was traced; refused: why not.
    findings: sentences that say what is wrong, the most important first.
    """

    pid: int
    command: str
    share: float
    resident: int
    descriptor_limit: int
    threads: tuple
    earlier: dict
    files: dict
    epolls: dict
    calls: list | None = None
    refused: str = ""
    findings: tuple = ()

    @property
    def listeners(self):
        return {fd: file for fd, file in self.files.items() if file.listens}

    @property
    def sockets(self):
        """Return the Files of TCP sockets that do not listen, by descriptor."""
        return {fd: file for fd, file in self.files.items() if file.socket and not file.listens}

    @property
    def watches(self):
        """List what any thread watches, by epoll, poll() or select()."""
        return [*chain(*self.epolls.values(), *(each.watches for each in self.threads))]


def look_at(pid, seconds=0.5):
    """Look at a process for so many seconds, and a moment more if it spins; return a View.

    Raises ProcessLookupError when there is no such process or it ends meanwhile, PermissionError
    when it is not ours to look at.
    """
    view, shares = _observe(pid, seconds)
    if min(shares) >= symptoms.SPINNING:
        view = _trace(view)
    return replace(view, findings=tuple(symptoms.findings(view)))


def _observe(pid, seconds):
    """Look at a process at the beginning, the middle and the end of a window.

    Returns the View and the process's share of a core in either half.
    """
    with kernel.still_there(pid):
        earlier, samples = _files(pid), [_sample(pid)]
        for _ in range(2):
            time.sleep(seconds / 2)  # a measuring window, not a wait for something
            samples.append(_sample(pid))
        files, shares = _files(pid), [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(samples)]
        program, *words = (_read(pid, "cmdline").rstrip("\0") or "?").split("\0")
        view = View(
            pid=pid,
            command=" ".join([program.rpartition("/")[2], *words]),
            share=sum(shares) / 2,
            resident=int(_read(pid, "statm").split()[1]) * resource.getpagesize(),
            descriptor_limit=resource.prlimit(pid, resource.RLIMIT_NOFILE)[0],
            threads=_threads(pid, samples, files),
            earlier=earlier,
            files=files,
            epolls=_epolls(pid, files),
        )
    return view, shares


def _trace(view):
    """Add to a View the system calls of its busiest thread, or why they are unknown."""
    try:
        busiest = max(view.threads, key=lambda each: each.share)
        return replace(view, calls=strace.trace(view.pid, busiest.number))
    except OSError as error:
        return replace(view, refused=error.strerror)


def _read(pid, name):
    return Path(f"/proc/{pid}/{name}").read_text(errors="replace")


def _files(pid):
    """Return the open files of a process: {descriptor: File}."""
    rows, files = {row.inode: row for row in kernel.sockets()}, {}
    for fd in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            text = os.readlink(f"/proc/{pid}/fd/{fd}")
            inode = os.stat(f"/proc/{pid}/fd/{fd}").st_ino
            row = rows.get(inode) if text.startswith("socket:") else None
            if row and row.state == "LISTEN":
                text = "listening on {}:{}".format(*row.local)
            elif row:
                text = "{} with {}:{}".format(row.state, *row.remote)
            elif text.startswith(("socket:", "pipe:", "anon_inode:")):
                text = re.sub(r"anon_inode:|:?\[\d+\]|[][]", "", text)
            files[fd] = File(text, inode, row)
    return files


def _sample(pid):
    """Return the time, the CPU time, and {thread: (its CPU time, state, Blocked or None)}."""
    threads, ticks = {}, os.sysconf("SC_CLK_TCK")
    for number in kernel.threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            words = kernel.stat(pid, number)
            used = (int(words[11]) + int(words[12])) / ticks
            threads[number] = used, words[0], kernel.blocked_in(pid, number)
    if pid not in threads:
        raise ProcessLookupError
    return time.monotonic(), kernel.cpu_time(pid), threads


def _threads(pid, samples, files):
    """Return the Threads that are there at the end of the window."""
    seconds, threads = samples[-1][0] - samples[0][0], []
    for number, (used, state, blocked) in samples[-1][2].items():
        seen = [sample[2].get(number, (used, "", None)) for sample in samples]
        watches, share = _polled(pid, number, blocked, files), (used - seen[0][0]) / seconds
        threads.append(Thread(number, state, share, tuple(each[2] for each in seen), watches))
    return tuple(threads)


def _polled(pid, number, blocked, files):
    """Return what a thread watches in poll() or select(), as far as that can be read."""
    with contextlib.suppress(OSError):
        masks = strace.polled(pid, blocked) if blocked else {}
        # If the thread sleeps elsewhere by now, the memory that we read may hold anything.
        if masks and kernel.blocked_in(pid, number) == blocked:
            return [Watch(fd, mask, files.get(fd)) for fd, mask in sorted(masks.items())]
    return []


def _epolls(pid, files):
    """Return what each epoll instance watches: {descriptor: Watches}."""
    epolls = {}
    known = {(fd, file.inode) for fd, file in files.items()}
    for epoll in [fd for fd, file in files.items() if file.text == "eventpoll"]:
        with contextlib.suppress(FileNotFoundError):
            epolls[epoll] = [
                Watch(fd, mask, files[fd] if (fd, inode) in known else None, data)
                for fd, mask, data, inode in sorted(kernel.registrations(pid, epoll))
            ]
    return epolls
