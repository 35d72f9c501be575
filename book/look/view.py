"""What is seen of one running process during a window: a View, which the findings follow from.

The process may be written in any language; it must be of the same user. Looking changes nothing:
/proc is read, and sock_diag(7) asked. Only if the process is busy in both halves of the window is
a thread of it traced, briefly. What is seen at one end of the window only proves nothing: it may
have lasted for a moment. And a thread has slept only if it has not run in between.

Sources: proc(5), epoll(7), poll(2), select(2).
"""

import contextlib
import os
import platform
import re
import resource
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Optional

from . import findings, kernel, sockets, strace

ENDED = ("CLOSE-WAIT", "LAST-ACK", "CLOSING")  # the peer's FIN has come
TRIES = 5  # to read what a thread polls, a millisecond apart
MANY = 64  # threads, beyond which each is looked at less often: a look must not take long


class File(NamedTuple):
    """An open file: in words, its inode; and its socket, if it is one that was seen."""

    text: str
    inode: int
    socket: Optional[kernel.Socket] = None

    @property
    def listens(self):
        return bool(self.socket) and self.socket.state == "LISTEN"

    @property
    def unread(self):
        """Count the bytes unread, without the end of input, which the kernel counts as one."""
        return max(self.socket.unread - (self.socket.state in ENDED), 0)


class Watch(NamedTuple):
    """A descriptor that is watched for a mask of EPOLL… bits.

    file: None if that number means no file, or another one than is watched: a leftover. data: the
    registration's own.
    """

    fd: int
    mask: int
    file: Optional[File] = None
    data: int = 0


class Thread(NamedTuple):
    """A thread. state: a letter of proc(5); share: of a core.

    looks: where it was, several times in the window: a kernel.Blocked each, or None while it ran.
    slept: it has been asleep all the time, in one call. naps: how often it went to sleep in the
    window. watches: those of its poll() or select(), at the end; None if they are not known.
    """

    number: int
    name: str
    state: str
    share: float
    looks: tuple
    slept: bool
    naps: int
    watches: Optional[list]


@dataclass(frozen=True, eq=False)
class View:
    """What look_at() saw of a process. Each is one of its own: what follows is kept for it.

    seconds: how long the window was. share: of a core. resident: bytes of memory.
    descriptor_limit: its RLIMIT_NOFILE. files, earlier: {descriptor: File} at the window's end and
    beginning. epolls: {descriptor: Watches}. outlived: registrations, (epoll, descriptor, inode)
    each, whose descriptor meant no file, or another one, at both ends. holders: {inode of a
    listener: other processes that have it}. calls: strace.Call of the busiest thread, if it was
    traced; refused: why it was not. not_seen: what could not be looked at, in sentences. findings:
    findings.Finding each, the worst first.
    """

    pid: int
    command: str
    seconds: float
    share: float
    resident: int
    descriptor_limit: int
    threads: tuple
    earlier: dict
    files: dict
    epolls: dict
    outlived: frozenset = frozenset()
    holders: dict = field(default_factory=dict)
    calls: Optional[list] = None
    refused: str = ""
    not_seen: tuple = ()
    findings: tuple = ()

    @cached_property
    def listeners(self):
        return {fd: file for fd, file in self.files.items() if file.listens}

    @cached_property
    def sockets(self):
        """Return the Files of sockets that do not listen, by descriptor."""
        return {fd: file for fd, file in self.files.items() if file.socket and not file.listens}

    @property
    def busiest(self):
        """Return the Thread that has used most of a core."""
        return max(self.threads, key=lambda each: each.share)

    @cached_property
    def watches(self):
        """List what any thread watches, by epoll, poll() or select()."""
        return [*chain(*self.epolls.values(), *(each.watches or () for each in self.threads))]


def look_at(pid, seconds=0.5):
    """Look at a process for so many seconds, and a moment more if it spins; return a View.

    Raises ProcessLookupError when there is no such process or it ends meanwhile, PermissionError
    when it is not ours to look at.
    """
    view, shares = _observe(pid, seconds)
    if min(shares) >= findings.SPINNING:
        view = _trace(view)
    return replace(view, findings=tuple(findings.find(view)))


def _observe(pid, seconds):
    """Look at a process several times in a window.

    Returns the View and the process's share of a core in either half.
    """
    with kernel.still_there(pid):
        began = time.monotonic()
        earlier, _ = _files(pid)
        outlived = _outlived(_registered(pid, earlier), earlier)
        samples = [_sample(pid)]
        times = 2 if len(samples[0].threads) > MANY else 6
        for number in range(times):
            due = began + seconds * (number + 1) / times
            time.sleep(max(0, due - time.monotonic()))  # a measuring window, not a wait
            samples.append(_sample(pid))
        files, not_seen = _files(pid)
        halves = (samples[0], samples[times // 2]), (samples[times // 2], samples[-1])
        shares = [(b.used - a.used) / (b.when - a.when) for a, b in halves]
        program, *words = (_read(pid, "cmdline").rstrip("\0") or "?").split("\0")
        registered = _registered(pid, files)
        listening = {file.inode for file in files.values() if file.listens}
        view = View(
            pid=pid,
            command=" ".join([program.rpartition("/")[2], *words]),
            seconds=samples[-1].when - samples[0].when,
            share=sum(shares) / 2,
            resident=int(_read(pid, "statm").split()[1]) * resource.getpagesize(),
            descriptor_limit=_descriptor_limit(pid),
            threads=_threads(pid, samples, files),
            earlier=earlier,
            files=files,
            epolls=_epolls(registered, files),
            outlived=outlived & _outlived(registered, files),
            holders=sockets.holders(pid, listening),
            not_seen=tuple(not_seen + _hidden(pid, earlier, files)),
        )
    return view, shares


def _trace(view):
    """Add to a View the system calls of its busiest thread, or why they are unknown."""
    try:
        return replace(view, calls=strace.trace(view.pid, view.busiest.number))
    except OSError as error:
        return replace(view, refused=error.strerror)


def _read(pid, name):
    return Path(f"/proc/{pid}/{name}").read_text(errors="replace")


def _descriptor_limit(pid):
    """Return the limit from /proc: prlimit(2) wants CAP_SYS_RESOURCE, which root may lack."""
    return int(re.search(r"(?m)^Max open files\s+(\d+)", _read(pid, "limits"))[1])


def _hidden(pid, earlier, files):
    """List in sentences what can't be seen of a process, whatever it does."""
    hidden = []
    if any(file.text == "io_uring" for file in files.values()):
        hidden.append("what it waits for by io_uring: the rings are in its own memory")
    # One that was closed while we looked is unknown as well, but only once.
    unknown = {file.inode for file in earlier.values() if file.text == "socket"}
    unknown &= {file.inode for file in files.values() if file.text == "socket"}
    if unknown:
        hidden.append(f"sockets that are neither TCP, UDP nor Unix ones: {len(unknown)}")
    machine = platform.machine()
    if machine not in kernel.CALLS:
        hidden.append(f"the names of its system calls: those of {machine} are not known here")
    elif _bits(pid) == 32:
        hidden.append("the names of its system calls: it is a program of 32 bits")
    return hidden


def _bits(pid):
    """Return whether a program is one of 32 or of 64 bits, None if that can't be read."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as program:
            return {1: 32, 2: 64}.get(program.read(5)[4])  # EI_CLASS, elf(5)
    except (OSError, IndexError):
        return None


def _files(pid):
    """Return the open files of a process, {descriptor: File}, and what was not seen of them."""
    seen = {}
    for fd in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            text = os.readlink(f"/proc/{pid}/fd/{fd}")
            seen[fd] = text, os.stat(f"/proc/{pid}/fd/{fd}").st_ino
    wanted = {inode for text, inode in seen.values() if text.startswith("socket:")}
    rows, not_seen = sockets.of(pid, wanted) if wanted else ({}, [])
    files = {fd: _file(text, inode, rows.get(inode)) for fd, (text, inode) in seen.items()}
    return files, not_seen


def _file(text, inode, row):
    if row:
        text = _in_words(row)
    elif text.startswith(("socket:", "pipe:", "anon_inode:")):
        text = re.sub(r"anon_inode:|:?\[\d+\]|[][]", "", text)
    return File(text, inode, row)


def _in_words(row):
    """Say what a socket is: `listening on 127.0.0.1:80`, `ESTABLISHED with …`, `UDP …`."""
    if row.kind == "unix":
        name = f" at {row.local[0]}" if row.local[0] else ""
        return f"listening on {row.local[0]}" if row.state == "LISTEN" else f"Unix socket{name}"
    local, remote = ("{}:{}".format(*end) for end in (row.local, row.remote))
    if row.kind == "udp":
        return f"UDP {local}" + (f" with {remote}" if row.state == "ESTABLISHED" else "")
    return f"listening on {local}" if row.state == "LISTEN" else f"{row.state} with {remote}"


class _Sample(NamedTuple):
    """A moment: its time, the CPU time used so far, and of each thread what it was at.

    threads: {number: (CPU time, state, Blocked or None, how often it has slept)}.
    """

    when: float
    used: float
    threads: dict


def _sample(pid):
    threads, ticks = {}, os.sysconf("SC_CLK_TCK")
    for number in kernel.threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            words = kernel.stat(pid, number)
            used = (int(words[11]) + int(words[12])) / ticks
            blocked, slept = kernel.blocked_in(pid, number), kernel.sleeps(pid, number)
            threads[number] = used, words[0], blocked, slept
    if pid not in threads:
        raise ProcessLookupError
    return _Sample(time.monotonic(), kernel.cpu_time(pid), threads)


def _threads(pid, samples, files):
    """Return the Threads that are there at the end of the window."""
    seconds, threads = samples[-1].when - samples[0].when, []
    for number, (used, state, blocked, _) in samples[-1].threads.items():
        seen = [each.threads[number] for each in samples if number in each.threads]
        looks, naps = tuple(each[2] for each in seen), seen[-1][3] - seen[0][3]
        slept = len(seen) == len(samples) and None not in looks
        slept = slept and len(set(looks)) == 1 and naps == 0
        share, name = (used - seen[0][0]) / seconds, _name(pid, number)
        watches = _polled(pid, number, blocked, files)
        threads.append(Thread(number, name, state, share, looks, slept, naps, watches))
    return tuple(threads)


def _name(pid, number):
    with contextlib.suppress(OSError):
        return _read(pid, f"task/{number}/comm").strip()
    return ""


def _polled(pid, number, blocked, files):
    """Return what a thread watches in poll() or select(), None if that can't be read any more."""
    if not blocked or blocked.call not in strace.POLLS:
        return []
    with contextlib.suppress(OSError):
        for _ in range(TRIES):  # it may wake just now, and sleep again a moment later
            masks = strace.polled(pid, blocked)
            # If the thread sleeps elsewhere by now, the memory that we read may hold anything.
            if kernel.blocked_in(pid, number) == blocked:
                return [Watch(fd, mask, files.get(fd)) for fd, mask in sorted(masks.items())]
            time.sleep(0.001)
    return None


def _registered(pid, files):
    """Return what stands on the list of each epoll instance: {descriptor: registrations}."""
    found = {}
    for epoll in [fd for fd, file in files.items() if file.text == "eventpoll"]:
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[epoll] = sorted(kernel.registrations(pid, epoll))
    return found


def _outlived(registered, files):
    """Return the registrations whose descriptor means no file, or another: see View."""
    return frozenset(
        (epoll, fd, inode)
        for epoll, entries in registered.items()
        for fd, _, _, inode in entries
        if fd not in files or files[fd].inode != inode
    )


def _epolls(registered, files):
    """Return what each epoll instance watches: {descriptor: Watches}."""
    known = {(fd, file.inode) for fd, file in files.items()}
    return {
        epoll: [
            Watch(fd, mask, files[fd] if (fd, inode) in known else None, data)
            for fd, mask, data, inode in entries
        ]
        for epoll, entries in registered.items()
    }
