"""The frames of a recorded run: what happened, one thing after another, and the kernel after each.

A frame is a call of the server that returns, a call in which a thread falls asleep, an act of a
client, or what has changed in the kernel meanwhile. What is in a frame was measured: see the
recorder. What was not measured is None. A call that only sets an option has none, unless that is
TCP_CORK or TCP_NODELAY: the lines before the next frame have it.

Where a server does the same over and over, two rounds stand for all of them, and a frame says how
many there were.
"""

import socket
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from look import kernel

UNSEEN = {"setblocking", "settimeout", "setsockopt"}  # calls after which all looks the same
SEEN_OPTIONS = {(socket.IPPROTO_TCP, each) for each in (socket.TCP_CORK, socket.TCP_NODELAY)}
IN_QUEUE = {"ESTABLISHED", "CLOSE-WAIT"}  # states of one that nobody has accepted yet
TOLD_ITS_END = {"CLOSE-WAIT", "LAST-ACK", "CLOSING"}  # here a FIN counts among the unread bytes
ROUND, ROUNDS = 4, 3  # the most frames of a round that is told once, the fewest rounds for that


class Thread(NamedTuple):
    """A thread of the server, by its name in pictures. doing: "runs", or "asleep in poll"."""

    name: str
    doing: str


class Waiting(NamedTuple):
    """One in the accept queue. name: a client's, "" of an unknown one. unread: bytes, or None."""

    name: str
    unread: int | None


class Connection(NamedTuple):
    """The server's end of a connection.

    name: its client's. fd: the server's descriptor, None once that is closed. state: TCP's; "gone"
    where the kernel has no such connection any more. unread: bytes received and not read. unsent:
    bytes that the server has given to the kernel, and the kernel has not sent yet. Both are None of
    one that was reset, which cannot be asked from outside.
    """

    name: str
    fd: int | None
    state: str
    unread: int | None
    unsent: int | None


class Registered(NamedTuple):
    """An entry of the interest list.

    name: of the client, or "listener". mask: in names, "IN|ET". ready: is it on the ready list?
    """

    name: str
    fd: int
    mask: str
    ready: bool | None


@dataclass(frozen=True)
class View:
    """The server and the kernel at one moment.

    waiting, limit: of the accept queue; limit 5 means that there is room for 6. queue: who they
    are. interest: of its epoll object; None before there is one. Each of these is None where the
    recorder could not look.
    """

    threads: tuple
    waiting: int = 0
    limit: int = 0
    queue: tuple | None = ()
    connections: tuple = ()
    interest: tuple | None = None


@dataclass(frozen=True)
class Frame:
    """One step of a run.

    when: in seconds since the server listened. actor: the thread's name, or the client's; "" where
    nobody acted. is_client: whether a client acted. line: of the server's file, None of a client's
    act. trail: the lines that this thread executed since its last frame. code: what happened, as
    code: "poll(1) → slow: IN". says: the same as a sentence. view: the kernel after it.
    """

    when: float
    actor: str
    is_client: bool
    line: int | None
    trail: tuple
    code: str
    says: str
    view: View = field(repr=False)


def frames(recording):
    """Make the Frames of a Recording that was recorded step by step.

    They begin when the server listens, and end when its clients have gone, before it is told to
    end. Raises ValueError for another recording.
    """
    if recording.last is None and not recording.acts:
        raise ValueError(f"{recording.server} was not recorded step by step")
    return _told_once(_Film(recording).frames())


def thread_names(recording):
    """Return what the threads of a recorded server are called: {name in Python: name here}."""
    threads = list(dict.fromkeys(call.thread for call in recording.all_calls))
    if len(threads) == 1:
        return {threads[0]: "server"}
    return {thread: f"thread {n}" if n else "main thread" for n, thread in enumerate(threads)}


class _Film:
    """Makes frames: keeps who is who, and how all was at the last frame."""

    def __init__(self, recording):
        self.recording = recording
        self.names = {client.port: client.name for client in recording.clients}
        self.order = {client.port: place for place, client in enumerate(recording.clients)}
        self.threads = thread_names(recording)
        self.lines = _Lines(recording.lines)
        self.accepted, self.ports = {}, set()  # {descriptor: port} now, and all ports so far
        self.sleeping, self.alive = {}, []  # {thread: the call it sleeps in}
        self.view, self.listener = View(threads=()), None

    def frames(self):
        """Return all frames, in the order in which things happened."""
        made = []
        for _, make, event in self._events():
            made += make(event)
        return made

    def _events(self):
        """Return what happened, in order: (when, what makes frames of it, the event)."""
        last = self.recording.last
        end = last.when if last else float("inf")
        calls = self.recording.all_calls
        listened = [call.name for call in calls].index("listen")
        calls = [call for call in calls[listened:] if _is_seen(call)]
        found = [(call.began, self._asleep, call) for call in calls if call.slept != 0]
        # A server that spins may be stopped, for a client's act, before the recorder has looked.
        found += [(call.seen, self._returned, call) for call in calls if call.took is not None]
        found += [(act.when, self._act, act) for act in self.recording.acts]
        found += [(end, self._look, last)]
        return sorted([each for each in found if each[0] <= end], key=lambda each: each[0])

    # What makes frames

    def _asleep(self, call):
        """Make the frame of a thread that falls asleep in a call."""
        self.sleeping[call.thread] = call.name
        self.alive += [call.thread] if call.thread not in self.alive else []
        self.view = replace(self.view, threads=self._threads())
        where = f", on {self._of(call.fd)}'s socket" if call.fd in self.accepted else ""
        code = f"{self._call(call)} …"
        return self._server(call.began, call, code, f"falls asleep in {call.name}{where}")

    def _returned(self, call):
        """Make the frame of a call that returns."""
        self.sleeping.pop(call.thread, None)
        self.alive = call.threads or self.alive
        if call.name == "listen":
            self.listener = call.fd
        if call.accepted is not None:
            self.accepted[call.accepted] = call.got[1][1]
            self.ports.add(call.got[1][1])
        code, says = f"{self._call(call)} → {self._result(call)}", self._sentence(call)
        if call.name == "close" and call.error is None:
            self.accepted.pop(call.fd, None)
        self.view = self._after(call)
        return self._server(call.seen, call, code, says)

    def _server(self, when, call, code, says):
        trail = self.lines.since_last(call.thread, when)
        trail = trail if call.name != "listen" else ()  # before it the program was only read
        name = self.threads[call.thread]
        says = f"{'The ' if name[-1].isalpha() else ''}{name} {says}."
        says = says[0].upper() + says[1:]
        return [Frame(when, name, False, call.line, trail, code, says, self.view)]

    def _act(self, act):
        """Make the frame of a client's act; what the kernel has done before comes first.

        That can only be told of a server that sleeps.
        """
        before = act.before
        is_quiet = before and (before.interest is None or before.ready is not None)
        made = self._look(before) if is_quiet else []
        said = f"{act.client} {act.what}" + (f" {in_bytes(act.bytes)}" if act.bytes else "")
        if act.after:
            self.view = self._outside(act.after)
        says = f"The client “{act.client}”{said[len(act.client) :]}."
        return [*made, Frame(act.when, act.client, True, None, (), said, says, self.view)]

    def _look(self, look):
        """Make the frame of what the kernel has done by itself, if anything."""
        if look is None or (view := self._outside(look)) == self.view:
            return []
        self.view = view
        says = "Meanwhile the kernel has gone on by itself."
        return [Frame(look.when, "", False, None, (), "meanwhile", says, view)]

    # The kernel

    def _threads(self):
        doing = {name: f"asleep in {call}" for name, call in self.sleeping.items()}
        return tuple(
            Thread(shown, doing.get(name, "runs"))
            for name, shown in self.threads.items()
            if name in self.alive
        )

    def _after(self, call):
        """Return the View after a call, as the recorder has seen it from inside."""
        sockets = call.sockets or {}
        queue = sockets[self.listener][1:] if self.listener in sockets else (0, 0)
        known = {fd: (seen.state, seen.unread, 0) for fd, seen in sockets.items()}
        watched = next(iter((call.interest or {}).values()), None)
        ready = next(iter((call.ready or {}).values()), None)
        return self._view(queue, call.ends or [], known, watched, ready)

    def _outside(self, look):
        """Return the View of a Look."""
        names = look.interest and {fd: kernel.mask_names(m) for fd, m in look.interest.items()}
        return self._view((look.waiting, look.limit), look.ends, {}, names, look.ready)

    def _view(self, queue, ends, known, watched, ready):
        """Make a View. known: {descriptor: (state, unread, unsent)} of what may have no End."""
        ends = sorted(ends, key=lambda end: self._place(end.port))
        waiting = [
            Waiting(self._name(end.port), _unread(end))
            for end in ends
            if end.fd is None and end.port not in self.ports and end.state in IN_QUEUE
        ]
        waiting += [Waiting("", None)] * (queue[0] - len(waiting))
        return View(
            self._threads(),
            *queue,
            tuple(waiting) if len(waiting) == queue[0] else None,
            self._connections([end for end in ends if end.port in self.ports], known),
            self._registered(watched, ready),
        )

    def _connections(self, ends, known):
        """List the connections that were accepted and are known to the kernel, or still open."""
        descriptors = {port: fd for fd, port in self.accepted.items()}
        found = {
            end.port: (descriptors.get(end.port), end.state, _unread(end), end.unsent or 0)
            for end in ends
        }
        for port, fd in descriptors.items():  # the kernel's tables have none that was reset
            found.setdefault(port, (fd, *known.get(fd, ("CLOSE", None, None))))
        return tuple(
            Connection(self._name(port), *found[port]) for port in sorted(found, key=self._place)
        )

    def _registered(self, watched, ready):
        """List what an epoll object watches, {descriptor: mask}, and what of it is ready."""
        if watched is None:
            return None
        return tuple(
            Registered(self._of(fd), fd, watched[fd], ready.get(fd) if ready else None)
            for fd in sorted(watched)
        )

    # Words

    def _place(self, port):
        """Clients stand in the order in which they came."""
        return self.order.get(port, len(self.order)), port

    def _name(self, port):
        return self.names.get(port, "")

    def _of(self, fd):
        """Name a descriptor: a client, the listener, or by its number."""
        if fd in self.accepted:
            return self._name(self.accepted[fd])
        return "listener" if fd == self.listener else f"descriptor {fd}"

    def _said(self, fd):
        """Name a descriptor in a sentence."""
        return "the listener" if fd == self.listener else self._of(fd)

    def _call(self, call):
        """Write a call as code, with names in place of descriptors."""
        is_socket = call.name not in REGISTER and call.fd in {*self.accepted, self.listener}
        owner = f"{self._of(call.fd)}." if is_socket else ""
        arguments = [self._argument(call, place) for place in range(len(call.given))]
        return f"{owner}{call.name}({', '.join(arguments)})"

    def _argument(self, call, place):
        value = call.given[place]
        if isinstance(value, dict):
            return self._of(value["fd"]) if "fd" in value else in_bytes(value["bytes"])
        if call.name in REGISTER:
            return kernel.mask_names(value) if place else self._of(value)
        # A time that the server has worked out is another one each time.
        is_worked_out = isinstance(value, float) and not (10 * value).is_integer()
        return "timeout" if is_worked_out else str(value)

    def _result(self, call):
        """Write what a call has returned."""
        if call.error:
            return call.error
        if call.name == "poll":
            reports = [f"{self._of(fd)}: {kernel.mask_names(mask)}" for fd, mask in call.got]
            return ", ".join(reports) or "nothing"
        if call.accepted is not None:
            return f"{self._of(call.accepted)}, descriptor {call.accepted}"
        return "done" if call.moved is None else in_bytes(call.moved)

    def _sentence(self, call):
        """Say what a call that has returned has done; the thread is the subject."""
        name, of = call.name, self._said(call.fd)
        if call.error == "BlockingIOError":
            return (
                f"finds {'no room' if name.startswith('send') else 'nothing'}: {name} raises EAGAIN"
            )
        if call.error:
            return f"is told by {name}, on {of}: {call.error}"
        if name == "poll":
            return f"is told by poll: {self._result(call)}"
        if name.startswith("recv") and not call.moved:
            return f"is told by {name}, which returns nothing, that {of} has ended its sending"
        if name in REGISTER:
            fd, *mask = [self._argument(call, place) for place in range(len(call.given))]
            fd = "the listener" if fd == "listener" else fd
            events = "nothing" if mask == ["-"] else "".join(mask)
            return REGISTER[name].format(fd, events)
        part = "" if call.offered in (None, call.moved) else f" of {call.offered:,}"
        said = CALLED.get(
            name, f"calls {name} on {{of}}" if call.fd else f"has returned from {name}"
        )
        new = self._of(call.accepted)
        fd = call.fd if call.accepted is None else call.accepted
        return said.format(of=of, new=new, moved=in_bytes(call.moved or 0), part=part, fd=fd)


REGISTER = {
    "register": "puts {0} on the interest list, to be told of {1}",
    "modify": "has the interest list changed: of {0} it wants to be told {1}",
    "unregister": "takes {0} off the interest list",
}
CALLED = {
    "listen": "begins to listen",
    "accept": "takes {new} out of the accept queue, as descriptor {fd}",
    "recv": "receives {moved} from {of}",
    "recv_into": "receives {moved} from {of}",
    "send": "gives the kernel {moved}{part} for {of}",
    "sendall": "has given the kernel all bytes for {of}",
    "shutdown": "shuts {of}'s connection down",
    "close": "closes {of}: descriptor {fd} is free",
    "get": "takes something out of a queue",
    "execute": "has the result of a query",
    "setsockopt": "sets an option of {of}",
}


def _is_seen(call):
    return call.name not in UNSEEN or tuple(call.given[:2]) in SEEN_OPTIONS


def _unread(end):
    """Return the unread bytes of an End, without the FIN that sock_diag(7) counts among them."""
    return end.unread - (end.state in TOLD_ITS_END and end.unread > 0)


class _Lines:
    """The lines that each thread has executed."""

    def __init__(self, lines):
        self.of, self.told = defaultdict(list), defaultdict(int)
        for when, thread, line in lines:
            self.of[thread].append((when, line))

    def since_last(self, thread, when):
        """Return the lines that a thread has executed since this was last asked, each once."""
        begin, end = self.told[thread], bisect_right(self.of[thread], (when, 1 << 30))
        self.told[thread] = end
        return tuple(dict.fromkeys(line for _, line in self.of[thread][begin:end]))


def in_bytes(number):
    """Say how many bytes: "1 byte", "1,024 bytes"."""
    return f"{number:,} byte" + "s" * (number != 1)


def _told_once(made):
    """Tell rounds that are alike once: two of them, and how many more there were."""
    kept, place = [], 0
    while place < len(made):
        size, rounds = _rounds(made, place)
        if rounds < ROUNDS:
            kept.append(made[place])
            place += 1
            continue
        last = made[place + size * rounds - 1]
        says = f"And so on: {rounds - 2} more rounds like these two."
        kept += [*made[place : place + 2 * size], replace(last, code="and so on", says=says)]
        place += size * rounds
    return kept


def _rounds(made, place):
    """Return (frames of a round, rounds) of what repeats itself from a place on."""

    def alike(one, other):
        return replace(one, when=0, trail=()) == replace(other, when=0, trail=())

    for size in range(1, ROUND + 1):
        end = place + size
        while end < len(made) and alike(made[end], made[end - size]):
            end += 1
        if (rounds := (end - place) // size) >= ROUNDS:
            return size, rounds
    return 1, 1
