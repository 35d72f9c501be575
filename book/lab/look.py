"""A look at one running process, for a server that misbehaves: `python3 book/lab/look.py PID`.

It tells where every thread sleeps, what epoll, poll() and select() watch, how full the queues of
the sockets are, and what of that is wrong. The process may be written in any language; it must be
of the same user. Nothing is needed but `kernel` and `tracer`, beside this file.

What is seen is kept in a View, and the findings follow from that alone. A moment is no fault: they
tell what was so at both ends of a window. Looking changes nothing: /proc is read, and sock_diag(7)
asked. Only if the process is busy in both halves of the window is a thread of it traced, briefly.

Sources: proc(5), epoll(7), poll(2), select(2).
"""

import collections
import contextlib
import os
import re
import resource
import select
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path

try:
    from . import kernel, tracer
except ImportError:  # run as a script, whose folder -I and -P keep out of sys.path
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import kernel
    import tracer

SPINNING = kernel.SPINNING
FEW = 20  # calls while it is traced, at the most, are the calls of a process that computes
LINES, WIDTH = 12, 72  # that a report shows of a list, and the columns of a phone

LOOPS = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
POLLS = tracer.POLLS
ACCEPTS = ("accept", "accept4")
RECEIVES = ("read", "readv", "recvfrom", "recvmsg")
SENDS = ("write", "writev", "sendto", "sendmsg", "sendfile")
OTHERS = ("connect", "close", "shutdown", "epoll_ctl", "getsockopt", "setsockopt", "ioctl", "fcntl")
ON_A_DESCRIPTOR = (*LOOPS, *ACCEPTS, *RECEIVES, *SENDS, *OTHERS)  # it is their first argument
HINTS = {
    "clock_nanosleep": "time.sleep()",
    "futex": "a lock, or another thread",
    "EAGAIN": "nothing there yet: it should wait for it in epoll_wait",
    "EMFILE": "no descriptor left: close some, or raise the limit",
}
ENDED = ("CLOSE-WAIT", "LAST-ACK", "CLOSING")  # the peer's FIN has come
IN, OUT, EDGE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET
ALWAYS = select.EPOLLERR | select.EPOLLHUP  # epoll_ctl(2): reported whether asked for or not


@dataclass(frozen=True)
class File:
    """An open file: in words, its inode; of TCP, its socket."""

    text: str
    inode: int
    socket: kernel.Socket | None

    @property
    def listens(self):
        return bool(self.socket) and self.socket.state == "LISTEN"

    @property
    def unread(self):
        """Bytes unread. The kernel counts an end of input as one, and it is none."""
        return max(self.socket.unread - (self.socket.state in ENDED), 0)


# A descriptor that is watched for a mask of EPOLL… bits. file: None if that number means no file,
# or another one than is watched: a leftover. data: the registration's own.
Watch = collections.namedtuple("Watch", "fd mask file data", defaults=[None])

# state: a letter of proc(5); share: of a core. looks: a kernel.Blocked each, or None while it ran,
# at the window's beginning, middle and end. watches: those of its poll() or select(), at the end.
Thread = collections.namedtuple("Thread", "number state share looks watches")


@dataclass(frozen=True)
class View:
    """What look() saw of a process. str() of it is the report.

    share: of a core. resident: bytes of memory. most: how many descriptors it may have.
    files, earlier: {descriptor: File} at the window's end and beginning. epolls: {descriptor:
    Watches}. calls: tracer.Call of the busiest thread, if it was traced; refused: why it was not.
    """

    pid: int
    command: str
    share: float
    resident: int
    most: int
    threads: tuple
    earlier: dict
    files: dict
    epolls: dict
    calls: list | None = None
    refused: str = ""

    def __str__(self):
        return report(self)

    @property
    def listeners(self):
        return {fd: file for fd, file in self.files.items() if file.listens}

    @property
    def sockets(self):
        """The Files of TCP sockets that do not listen, by descriptor."""
        return {fd: file for fd, file in self.files.items() if file.socket and not file.listens}

    @property
    def watches(self):
        """What anybody watches, by epoll, poll() or select()."""
        return [*chain(*self.epolls.values(), *(each.watches for each in self.threads))]

    @property
    def findings(self):
        """Sentences, the most important first."""
        rules = (_held_up, _busy, _limits, _neglected)
        blocked = self.threads[0].looks[-1]
        asleep = f": it sleeps in {_where(self, blocked)}" if blocked else ""
        found = [finding for rule in rules for finding in rule(self)]
        return found or [f"nothing wrong that can be seen from here{asleep}"]


def look(pid, seconds=0.5):
    """Look at a process for so many seconds, and a moment more if it spins; returns a View.

    Raises ProcessLookupError when there is no such process or it ends meanwhile, PermissionError
    when it is not ours to look at.
    """
    with kernel.still_there(pid):
        earlier, samples = _files(pid), [_sample(pid)]
        for _ in range(2):
            time.sleep(seconds / 2)  # a measuring window, not a wait for something
            samples.append(_sample(pid))
        files, shares = _files(pid), [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(samples)]
        program, *words = _read(pid, "cmdline").replace("\0", " ").split() or "?"
        view = View(
            pid=pid,
            command=" ".join([program.rpartition("/")[2], *words]),
            share=sum(shares) / 2,
            resident=int(_read(pid, "statm").split()[1]) * resource.getpagesize(),
            most=resource.prlimit(pid, resource.RLIMIT_NOFILE)[0],  # at the most fs.nr_open
            threads=_threads(pid, samples, files),
            earlier=earlier,
            files=files,
            epolls=_epolls(pid, files),
        )
    if min(shares) < SPINNING:
        return view
    try:
        busiest = max(view.threads, key=lambda each: each.share)
        return replace(view, calls=tracer.trace(pid, busiest.number))
    except OSError as error:
        return replace(view, refused=error.strerror)


def _read(pid, name):
    return Path(f"/proc/{pid}/{name}").read_text(errors="replace")


def _files(pid):
    """The open files of a process: {descriptor: File}."""
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
    """The time, the CPU time used, and {thread: (its CPU time, its state, its Blocked or None)}."""
    threads, ticks = {}, os.sysconf("SC_CLK_TCK")
    for number in kernel.threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            words = kernel.stat(pid, number)
            used = (int(words[11]) + int(words[12])) / ticks
            threads[number] = used, words[0], kernel.blocked_in(pid, number)
    with contextlib.suppress(OSError):  # clock_getcpuclockid(3): EINVAL, if it is not there
        if pid in threads:
            return time.monotonic(), kernel.cpu_time(pid), threads
    raise ProcessLookupError


def _threads(pid, samples, files):
    """The Threads that are there at the end of the window."""
    seconds, threads = samples[-1][0] - samples[0][0], []
    for number, (used, state, blocked) in samples[-1][2].items():
        seen = [sample[2].get(number, (used, "", None)) for sample in samples]
        watches, share = _polled(pid, number, blocked, files), (used - seen[0][0]) / seconds
        threads.append(Thread(number, state, share, tuple(each[2] for each in seen), watches))
    return tuple(threads)


def _polled(pid, number, blocked, files):
    """What a thread watches in poll() or select(), as far as that can be read."""
    with contextlib.suppress(OSError):
        masks = tracer.polled(pid, blocked) if blocked else {}
        if (
            masks and kernel.blocked_in(pid, number) == blocked
        ):  # else that memory may mean anything
            return [Watch(fd, mask, files.get(fd)) for fd, mask in sorted(masks.items())]
    return []


def _epolls(pid, files):
    """What each epoll instance watches: {descriptor: Watches}."""
    epolls = {}
    known = {(fd, file.inode) for fd, file in files.items()}
    for epoll in [fd for fd, file in files.items() if file.text == "eventpoll"]:
        with contextlib.suppress(FileNotFoundError):
            epolls[epoll] = [
                Watch(fd, mask, files[fd] if (fd, inode) in known else None, data)
                for fd, mask, data, inode in sorted(kernel.registrations(pid, epoll))
            ]
    return epolls


def _count(number, thing):
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _descriptor(name, arguments):
    """The descriptor that a call is on, None if it is on none."""
    return arguments[0] & 0xFFFFFFFF if name in ON_A_DESCRIPTOR else None


def _where(view, blocked):
    """Where a thread sleeps: `recvfrom(7) (ESTABLISHED with …)`."""
    fd, what = _descriptor(blocked.call, blocked.arguments), HINTS.get(blocked.call)
    if fd in view.files and blocked.call not in LOOPS:
        what = view.files[fd].text
    call = blocked.call if fd is None else f"{blocked.call}({fd})"
    return f"{call} ({what})" if what else call


def _waiting(view):
    """What waits for the process: clients in accept queues, and bytes where it watches for them."""
    clients = sum({each.inode: each.socket.unread for each in view.listeners.values()}.values())
    watched = {watch.file.inode for watch in view.watches if watch.file}
    sockets = [each for each in view.sockets.values() if each.inode in watched and each.unread]
    said = []
    if clients:
        said.append(f"{_count(clients, 'client')} wait{'s' * (clients == 1)} in the accept queue")
    if sockets:
        unread = sum(each.unread for each in sockets)
        said.append(f"{_count(unread, 'byte')} of {_count(len(sockets), 'socket')} unread")
    return " and ".join(said)


def _held_up(view):
    """It is stopped; or clients wait, and every thread sleeps where it does not wait for them."""
    if view.threads[0].state in "Tt":
        yield f"stopped, by SIGSTOP, Ctrl-Z or a tracer: `kill -CONT {view.pid}` lets it go on"
        return
    waiting, looks = _waiting(view), [look for thread in view.threads for look in thread.looks]
    sleeps = all(len(set(thread.looks)) == 1 for thread in view.threads) and None not in looks
    if not waiting or not sleeps or any(each.call in LOOPS + POLLS + ACCEPTS for each in looks):
        return
    # A thread that sleeps in a call on a client, or for a time, keeps the others from the rest.
    calls = [thread.looks[-1].call for thread in view.threads]
    order = (*RECEIVES, *SENDS, "connect", "clock_nanosleep", *calls)
    guilty = min(view.threads, key=lambda thread: order.index(thread.looks[-1].call))
    blocked = guilty.looks[-1]
    name = "the main thread" if guilty.number == view.pid else f"thread {guilty.number}"
    said = f"{waiting}, while {name} sleeps in {_where(view, blocked)}"
    file = view.sockets.get(_descriptor(blocked.call, blocked.arguments))
    ports = [each.socket.local[1] for each in view.listeners.values()]
    if not file or file.socket.local[1] not in ports:
        instead = f", not in epoll_wait({min(view.epolls)})" if view.epolls else ""
        yield f"frozen: {said}{instead}. Until that call returns, nobody is served"
    elif calls.count(blocked.call) > 1:
        several = f"{calls.count(blocked.call)} threads sleep in {blocked.call}"
        yield f"all threads are taken: {waiting}, while {several}, each on a client"
    else:
        why = "with nothing to read" if blocked.call in RECEIVES else "which does not read"
        yield f"one client holds up all: {said}, {why}"


def _busy(view):
    core, calls = f"{view.share:.2f} of a core", view.calls
    if view.refused:
        yield f"busy or spinning: {core}. Its calls are unknown: tracing failed ({view.refused})"
    elif calls is not None and len(calls) < FEW:
        said = _count(len(calls), "system call") if calls else "no system call"
        waiting = f". Meanwhile {_waiting(view)}" if _waiting(view) else ""
        yield f"computes: {core}, and {said} in {tracer.SECONDS} s{waiting}"
    elif calls:
        kinds = collections.Counter(_call_and_outcome(view, call) for call in calls).most_common()
        shown = [f"{call} {times} times, which {how}" for (call, how), times in kinds[:4]]
        rest = sum(times for _, times in kinds[4:])
        shown += [f"others {rest} times"] if rest else []
        useful = any(how in ("accepted a client", "moved data") for (_, how), _ in kinds)
        word = "busy" if useful else "spinning"
        yield f"{word}: {core}. In {len(calls)} calls: {'; '.join(shown)}"


def _call_and_outcome(view, call):
    """In words that are the same for calls that say the same."""
    fd, name = _descriptor(call.name, call.arguments), call.name
    if call.error:
        hint = f" ({HINTS[call.error]})" if call.error in HINTS else ""
        outcome = f"failed with {call.error}{hint}"
    elif name in LOOPS:
        watched = {watch.data: watch.fd for watch in view.epolls.get(fd, ())}
        ready = [f"{watched.get(d, '?')} ({kernel.mask_names(mask)})" for mask, d in call.events]
        at_once = "" if call.result or call.arguments[3] else " (its timeout is 0)"
        outcome = f"returned {call.result}" + (f": ready {', '.join(ready)}" if ready else at_once)
    elif name in RECEIVES and not call.result:
        closed = ": the peer has closed, and this socket is not closed here"
        outcome = f"returned 0 (end of input{closed if fd in view.sockets else ''})"
    elif name in ACCEPTS:
        outcome = "accepted a client"
    else:  # what is written elsewhere, as to a log, serves nobody
        moved = call.result and (name in RECEIVES or name in SENDS and fd in view.sockets)
        outcome = "moved data" if moved else "succeeded"
    return name if fd is None else f"{name}({fd})", outcome


def _limits(view):
    for fd, file in view.listeners.items():
        waiting = file.socket.unread
        limit = file.socket.limit
        if waiting > limit:
            room = f"{waiting} wait, and listen({limit}) lets in {limit + 1}"
            lost = "New SYNs are dropped, and tried again after 1 s"
            yield f"the accept queue of {fd} is full: {room}. {lost}"
    if len(view.files) >= 0.9 * view.most:
        said = f"{len(view.files)} descriptors are open, and {view.most} are allowed"
        yield f"{said}: then accept fails with EMFILE"


def _neglected(view):
    """What is wrong with single sockets, and was so at the window's beginning."""
    found, masks = collections.defaultdict(list), collections.Counter()
    for watch in view.watches:
        if watch.file:
            masks[watch.file.inode] |= watch.mask
    for look in [thread.looks[-1] for thread in view.threads if thread.looks[-1]]:
        file = view.files.get(_descriptor(look.call, look.arguments))
        if file:
            masks[file.inode] |= IN * (look.call in RECEIVES) | OUT * (look.call in SENDS)
    for fd, file in view.sockets.items():
        before, now, mask = view.earlier.get(fd), file.socket, masks[file.inode]
        if not before or before.inode != file.inode or not before.socket:
            continue
        if now.state == before.socket.state == "CLOSE-WAIT":
            found["in CLOSE-WAIT: the peer has closed, and the process has not"].append(fd)
        if file.unread and before.unread and view.epolls and not mask & IN:
            found["with bytes unread, and nobody watches for IN"].append(fd)
        if now.unsent and before.socket.unsent:
            zero = "does not read, and its window is zero"
            why = zero if now.timer == "probe" else "has not acknowledged them"
            who = "the process waits" if mask & OUT else "nobody watches"
            found[f"with bytes unsent: the peer {why}; {who} for OUT"].append(fd)
        elif mask & OUT and not mask & EDGE and not now.unsent and not before.socket.unsent:
            found["watched for OUT with nothing unsent, so that no wait lasts"].append(fd)
    for epoll, watches in view.epolls.items():
        what = f"closed here, but watched by epoll {epoll}: a duplicate (dup, fork) keeps it alive"
        found[what] = [watch.fd for watch in watches if not watch.file]
    for what, numbers in found.items():
        if numbers:
            some = ", ".join(map(str, numbers[:6])) + ", …" * (len(numbers) > 6)
            yield f"{_count(len(numbers), 'socket')} ({some}) {what}"


def report(view):
    """A View as text, in lines of WIDTH columns as far as that goes."""
    lines = [
        f"process {view.pid}: {view.command}"[:WIDTH],
        f"  {_count(len(view.threads), 'thread')}, {len(view.files)} of {view.most} descriptors, "
        f"{view.resident / 1e6:.0f} MB, {view.share:.2f} of a core",
        "threads",
        *_first(_thread_line(view, thread) for thread in view.threads),
    ]
    watching = {f"epoll {fd}": watches for fd, watches in view.epolls.items()}
    for thread in [thread for thread in view.threads if thread.watches]:
        watching[f"{thread.looks[-1].call} of {thread.number}"] = thread.watches
    for who, watches in watching.items():
        lines += [f"{who} watches {len(watches)}", *_first(map(_watch_line, watches))]
    files = view.listeners | view.sockets
    states = collections.Counter(file.socket.state for file in files.values()).most_common()
    watched = {watch.fd for watch in view.watches if watch.file}
    lines.append("sockets: " + (", ".join(f"{times} {state}" for state, times in states) or "none"))
    others = (f"{fd}: {_words(file)}" for fd, file in files.items() if fd not in watched)
    lines += [*_first(others), "findings"]
    for finding in view.findings:
        text = textwrap.wrap(finding, WIDTH - 2, break_on_hyphens=False)
        lines += ["- " + text[0], *("  " + line for line in text[1:])]
    return "\n".join(lines)


def _first(lines):
    """The first of some lines, indented, and how many more there are."""
    lines = list(lines)
    more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return [f"  {line}" for line in lines[:LINES] + more]


def _thread_line(view, thread):
    main, blocked = "main " * (thread.number == view.pid), thread.looks[-1]
    where = f"asleep in {_where(view, blocked)}" if blocked else "running"
    where = "stopped" if thread.state in "Tt" else where
    share = f", {thread.share:.2f} of a core" if thread.share > SPINNING else ""
    return f"{main}{thread.number}: {where}{share}"


def _watch_line(watch):
    names = kernel.mask_names(watch.mask & ~ALWAYS).replace("-", "nothing but ERR and HUP")
    what = _words(watch.file) if watch.file else "watched, but closed here"
    return f"{watch.fd} for {names}: {what}"


def _words(file):
    if file.listens:
        limit = file.socket.limit
        return f"{file.text}, {file.socket.unread} waiting, limit {limit}"
    row = file.socket
    return file.text + (f", {file.unread} unread, {row.unsent} unsent" if row else "")


def main(arguments=None):
    """The command line: print the report of the process named; returns the exit status."""
    text = " ".join(sys.argv[1:] if arguments is None else arguments)
    try:
        if re.fullmatch("[1-9][0-9]{0,6}", text):
            print(look(int(text)))
            return 0
        reason = "give the number of one process of yours, as `ps` or `pgrep -f name` tells it"
    except ProcessLookupError as error:
        reason = f"{error.strerror}, or never was: `ps` tells which are there"
    except PermissionError:
        reason = f"process {text} is not yours to look at: be the same user; and where the sysctl "
        reason += "kernel.yama.ptrace_scope is 1, look at your own children only, or use sudo"
    print(f"look.py: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
