"""The ladder: the segments between the two ends of a connection, drawn from what was measured.

    with lab.Watch(client, server) as watch:      # two sockets of ours
        client, server = watch.ends
        client.close()
        lab.settled(server)
    watch.arrows()                                # ["→ FIN", "← ACK"]
    lab.ladder.diagram("A close", "The client closes.", watch)

    with lab.Watch(lab.connect(server)) as watch: # the server is a process, which is not disturbed

A Watch captures nothing. It looks at both ends, again and again: at their states, and at what the
kernel counts of each (struct tcp_info): segments and bytes that have left, come, were acknowledged,
or are held back. Two looks frame whatever the ends do themselves, a `send` or a `close`. An arrow
is drawn where one end's counts say that a segment has left, and the other end's, or its state, that
it came; where it did not come, the arrow ends in a cross.

Not drawn is what can't be told so: a segment that only opens the window, or acknowledges nothing
new; a FIN that is sent again; an acknowledgement that travels with data. Of what happens between
two looks the counts don't tell the order: it is drawn as TCP must have done it, data before their
acknowledgement, and what was held back after the acknowledgement that let it go.
"""

import contextlib
import errno
import math
import select
import socket
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from look import kernel
from survive.clients import pair

from . import show
from .frames import in_bytes

PAUSE = 0.0002  # seconds between two looks
HELD = 0.002  # seconds: bytes that wait for less were only on their way
LONG = 0.005  # seconds: a wait that is drawn, with its length
SOON = 0.1  # seconds
GRAY = "#6b7280"
COLORS = {"data": show.BLUE, "FIN": show.VIOLET, "RST": show.RED, "ACK": GRAY}  # others: show.INK
ENDED = {"FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "TIME-WAIT", "LAST-ACK"}  # its FIN has left
TOLD = {"CLOSE-WAIT", "LAST-ACK", "CLOSING", "TIME-WAIT"}  # the peer's FIN has come
CONFIRMED = {"FIN-WAIT-2", "TIME-WAIT"}  # its own FIN has been acknowledged
OPENING = {None, "CLOSE", "SYN-SENT", "SYN-RECV"}


class End(NamedTuple):
    """One end at one moment. state: None if the kernel has no such socket. counts: None if unknown.

    is_told: has it an error, of a reset? Known only of a socket of ours.
    """

    state: str | None
    counts: kernel.Counts | None
    is_told: bool


class Look(NamedTuple):
    """A look at both ends. by: whose act is under way, 0 or 1, or None."""

    when: float
    ends: tuple
    by: int | None


@dataclass
class Act:
    """What an end does, 0 or 1; words: `send(5 bytes)`, or `gives 5 bytes`, seen from outside.

    size: of what it gives to its kernel. is_read: it has taken what had come.
    """

    when: float
    end: int
    words: str
    size: int = 0
    is_read: bool = False


@dataclass
class Segment:
    """What an end, 0 or 1, sends, in one segment or in some without a pause.

    kind: data, ACK, FIN, RST, SYN or SYN+ACK. after: the number of the last look before it. size:
    bytes of data; upto: all that have left so far; is_again: they have left before; is_last: a FIN
    travels with them. has_come: to the other end.
    """

    when: float
    end: int
    kind: str
    after: int
    size: int = 0
    upto: int = 0
    is_again: bool = False
    is_last: bool = False
    has_come: bool = True

    @property
    def words(self):
        """Say it: `5 bytes`, `5 bytes again`, `FIN`."""
        said = in_bytes(self.size) if self.size else self.kind
        return said + " again" * self.is_again + " + FIN" * self.is_last

    def __str__(self):
        return "→←"[self.end] + f" {self.words}" + " ✕" * (not self.has_come)


class Held(NamedTuple):
    """Bytes that an end, 0 or 1, was given to send and held back, from when to when."""

    end: int
    since: float
    until: float
    size: int


class Watched(socket.socket):
    """A socket that tells its Watch what is done with it."""

    watch, end, how = None, 0, ""

    def _act(self, words, call, *arguments):
        return self.watch.act(self, words, call, *arguments) if self.watch else call(*arguments)

    def connect(self, address):
        if self.watch:
            self.watch.calls(address)
        self._act("connect()", super().connect, address)

    def send(self, data, *flags):
        return self._act(f"send({in_bytes(len(data))})", super().send, data, *flags)

    def sendall(self, data, *flags):
        self._act(f"send({in_bytes(len(data))})", super().sendall, data, *flags)

    def shutdown(self, how):
        name = {socket.SHUT_RD: "SHUT_RD", socket.SHUT_WR: "SHUT_WR"}.get(how, "SHUT_RDWR")
        self._act(f"shutdown({name})", super().shutdown, how)

    def setsockopt(self, level, option, *value):
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self.how = "linger 0"
        super().setsockopt(level, option, *value)

    def close(self):
        if self.fileno() >= 0:
            self._act(f"close({self.how})", super().close)

    def recv(self, *arguments):
        data = super().recv(*arguments)
        if self.watch:
            self.watch.read(self, f"recv: {in_bytes(len(data)) if data else 'the end'}")
        return data


class Watch:
    """Looks at both ends of a connection, in a thread, as long as its block lasts.

    client: a socket of ours, or a Conversation. server: the other end, if it is ours as well; else
    it is looked at from outside. Without either, they are a new pair(). `ends` are the sockets to
    go on with: what is done with them is noted. A client that is not connected yet has its
    handshake drawn; one that is connected, and to nothing, has it drawn as well, by what its end
    has counted. Raises OSError before Linux 4.19.
    """

    def __init__(self, client=None, server=None):
        if client is None:
            server, client = pair()
        self.looks, self.acts, self.ends = [], [], []
        self._lock, self._enough = threading.RLock(), threading.Event()
        self._by, self._told, self._names, self._peer = None, [False, False], [None, None], None
        talk = client if hasattr(client, "socket") else None
        for end, sock in enumerate([talk.socket if talk else client, server][: 1 + bool(server)]):
            timeout = sock.gettimeout()
            watched = Watched(fileno=sock.detach())
            watched.settimeout(timeout)
            watched.watch, watched.end = self, end
            self.ends.append(watched)
        if talk:
            talk.socket = self.ends[0]
        if not kernel.counts_of(self.ends[0]):
            raise OSError(errno.ENOSYS, "this kernel does not count a connection's bytes")

    def __enter__(self):
        self._diag = kernel.open_diag()
        self._look()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._enough.set()
        self._thread.join()
        with self._diag:
            self._look()
        for each in self.ends:
            each.watch = None  # so that nothing keeps the sockets open

    def _go_on(self):
        while not self._enough.wait(PAUSE):
            self._look()

    def _look(self):
        with self._lock:
            self._add_look()

    def _add_look(self):
        """Look, and keep what differs from the look before."""
        now, ends = time.monotonic(), self._both()
        if not self.looks or (ends, self._by) != (self.looks[-1].ends, self.looks[-1].by):
            self.looks.append(Look(now, ends, self._by))

    def _both(self):
        """Look at one end while nothing changes at the other, if that can be had in a few tries."""
        client = self._end(0)
        for _ in range(5):
            found, client = (client, self._end(1)), self._end(0)
            if client == found[0]:
                break
        return found

    def _end(self, end):
        """Look at an end: a socket of ours is asked itself, while it is open."""
        if end < len(self.ends) and self.ends[end].fileno() >= 0:
            sock = self.ends[end]
            state = kernel.state_of(sock)
            if state != "CLOSE" and not self._names[end]:
                self._names[end] = sock.getsockname(), self._peer or sock.getpeername()
            if self._names[end]:  # before that nothing can have been reset
                poll = select.poll()
                poll.register(sock, 0)
                self._told[end] |= any(mask & select.POLLERR for _, mask in poll.poll(0))
            return End(state, kernel.counts_of(sock), self._told[end])
        names = self._names[end] or (self._names[1 - end] or ())[::-1]
        found = kernel.counts_between(*names, self._diag) if names else (None, None)
        return End(*found, self._told[end])

    def calls(self, address):
        """Remember where the client connects to: until that is done its socket does not say so."""
        self._peer = address

    def act(self, sock, words, call, *arguments):
        """Do what a socket is asked to do, between two looks; return what comes of it."""
        with contextlib.ExitStack() as stack:
            with self._lock:
                self._add_look()
                self._by = sock.end
                self.acts.append(note := Act(time.monotonic(), sock.end, words))
            if words.startswith("close"):  # its number may be another socket's at once
                stack.enter_context(self._lock)
            try:
                return call(*arguments)
            except OSError as error:
                name = errno.errorcode.get(error.errno, "ETIMEDOUT")  # a timeout of Python's own
                note.words = f"{words.partition('(')[0]}: {name}"
                raise
            finally:
                with self._lock:
                    self._add_look()
                    self._by = None

    def read(self, sock, words):
        """Note that a socket has read something, after a look at what had come."""
        with self._lock:
            self._add_look()
            self.acts.append(Act(time.monotonic(), sock.end, words, is_read=True))

    def events(self):
        """Return what happened, in order: Acts and Segments."""
        return _Reading(self).events()

    def arrows(self):
        """Return the segments in words: "→ 5 bytes" the client's, "← RST ✕" one that got lost."""
        return [str(event) for event in self.events() if isinstance(event, Segment)]

    def held(self):
        """Return what was held back, in order: Held."""
        found = []
        for end in range(2):
            since, size = None, 0
            for look in self.looks:
                size = max(size, now := _held(look.ends[end]))
                if now and since is None:
                    since = look.when
                elif since is not None and not now:
                    found.append(Held(end, since, look.when, size))
                    since, size = None, 0
            if since is not None:
                found.append(Held(end, since, self.looks[-1].when, size))
        found = [each for each in found if each.until - each.since > HELD]
        return sorted(found, key=lambda each: each.since)


class _Reading:
    """Reads the looks of a Watch: what has left and come between one and the next."""

    def __init__(self, watch):
        self.looks, self.number_of_ours = watch.looks, len(watch.ends)
        self.acts, self.found = sorted(watch.acts, key=lambda act: act.when), []
        ends = self.looks[0].ends
        self.fin = [end.state in ENDED for end in ends]  # has its FIN left?
        self.bare = [_bare(end) for end in ends]  # its segments without data, of those drawn
        self.owed = [None, None]  # the look that found an acknowledgement come, and not yet left
        self.third = None  # the last segment of the handshake
        self.was_reset = False

    def events(self):
        first = self.looks[0]
        if [end.state for end in first.ends] == ["ESTABLISHED", None]:
            self._shake(first, 0)
        for number, (was, now) in enumerate(pairwise(self.looks)):
            self._add_acts(now.when)
            self._read(number, was, now)
        self._add_acts(math.inf)
        segments = [event for event in self.found if isinstance(event, Segment)]
        for place, segment in enumerate(segments):
            segment.has_come = self._has_come(segment, segments[place + 1 :])
        return self.found

    def _add_acts(self, until):
        while self.acts and self.acts[0].when < until:
            self.found.append(self.acts.pop(0))

    def _read(self, number, was, now):
        """Add what happened between two looks."""
        for end in range(2):
            earlier = self.looks[max(0, number - 1)].ends[end]
            self.bare[end] = max(self.bare[end], _bare(earlier))
            if self.owed[end] == number - 1:
                self._pay(end, now, number)
        if was.ends[0].state in OPENING and now.ends[0].state == "ESTABLISHED":
            self._shake(now, number)
        for end in range(self.number_of_ours, 2):
            self._give(end, was, now)
        resets = self._who_resets(was, now)
        seconds_first = now.by == 1 or (now.by is None and _held(was.ends[1]))
        for end in (1, 0) if seconds_first else (0, 1):
            is_acked, waits = self._is_acked(end, was, now, resets), _held(was.ends[end])
            if is_acked and waits:
                self._acknowledge(1 - end, now, number)
            self._send(end, was, now, number)
            if is_acked and not waits:
                self._acknowledge(1 - end, now, number)
        if resets is not None:
            self._add(now.when, resets, "RST", number)
            self.was_reset = True

    def _add(self, when, end, kind, after, **more):
        """Add a segment, or join it to the one before: data that follow data are one burst."""
        last = self.found[-1] if self.found else None
        new = Segment(when, end, kind, after, **more)
        joins = isinstance(last, Segment) and (last.end, last.kind) == (end, kind) == (end, "data")
        if joins and not new.is_again and not last.is_again and when - last.when < LONG:
            last.size, last.upto = last.size + new.size, new.upto
        else:
            self.found.append(new)
        return self.found[-1]

    def _shake(self, look, number):
        """Add the handshake of a client that is connected now, and what got lost before it."""
        if look.ends[0].counts.total_retrans:
            self._add(look.when, 0, "SYN", number, has_come=False)
        for end, kind in ((0, "SYN"), (1, "SYN+ACK"), (0, "ACK")):
            self.third = self._add(look.when, end, kind, number)
        self.bare = [_bare(end) for end in look.ends]

    def _give(self, end, was, now):
        """Add that an end in another process has given bytes to its kernel, one act of a burst."""
        given = _given(now.ends[end]) - _given(was.ends[end])
        if given <= 0 or not now.ends[end].counts:
            return
        before = (each for each in reversed(self.found) if not _goes_between(each, end))
        last = next(before, None)
        if not (isinstance(last, Act) and last.end == end and now.when - last.when < LONG):
            self.found.append(last := Act(now.when, end, ""))
        last.size += given
        last.words = f"gives {in_bytes(last.size)}"

    def _send(self, end, was, now, number):
        """Add what has left an end: data again, data, and a FIN."""
        one, other = was.ends[end], now.ends[end]
        if again := _count(other, "bytes_retrans") - _count(one, "bytes_retrans"):
            self._add(now.when, end, "data", number, size=again, is_again=True)
        sent = _sent(other) - _sent(one) if other.counts else 0
        if sent:
            self._add(now.when, end, "data", number, size=sent, upto=_sent(other))
        is_over = other.state in ENDED and not _held(other)
        in_between = one.state == "CLOSE-WAIT" and other.state in (None, "CLOSE")
        if not self.fin[end] and (is_over or (in_between and not self._comes_a_reset(number))):
            self.fin[end] = True
            if sent and _bare(other) <= self.bare[end]:
                self.found[-1].is_last = True
            else:
                self.bare[end] += 1
                self._add(now.when, end, "FIN", number)

    def _comes_a_reset(self, number):
        return any(end.is_told for look in self.looks[number:] for end in look.ends)

    def _is_acked(self, end, was, now, resets):
        """Has the second look found more acknowledged of what an end has sent?"""
        one, other = was.ends[end], now.ends[end]
        if self.was_reset or resets is not None or one.state in OPENING:
            return False
        if one.counts and _count(other, "bytes_acked") > one.counts.bytes_acked:
            return True
        if other.state in CONFIRMED:
            return one.state not in CONFIRMED
        return one.state in ("LAST-ACK", "CLOSE-WAIT") and other.state in (None, "CLOSE")

    def _acknowledge(self, end, now, number):
        """Add an acknowledgement, if an end has sent a segment without data; else data brought it.

        It may be seen to leave one look before or after it is seen to come.
        """
        if not self._pay(end, now, number):
            self.owed[end] = number

    def _pay(self, end, now, number):
        if now.ends[end].counts and _bare(now.ends[end]) <= self.bare[end]:
            return False
        self.bare[end] = max(self.bare[end], _bare(now.ends[end]))
        self._add(now.when, end, "ACK", number)
        return True

    def _who_resets(self, was, now):
        """Return the end that has sent a reset, or None.

        An end of ours that was reset has an error. If both have one, the one's segment made the
        other reset: the latter's reset was not counted when it left, and was when it came.
        """
        told = [now.ends[end].is_told and not was.ends[end].is_told for end in range(2)]
        if self.was_reset:
            return None
        if all(told):
            uncounted = [
                _count(now.ends[1 - end], "segs_in") - _count(was.ends[1 - end], "segs_in")
                - _count(now.ends[end], "segs_out") + _count(was.ends[end], "segs_out")
                for end in range(2)
            ]  # fmt: skip
            return uncounted.index(max(uncounted))
        if any(told):
            return told.index(False)
        if [end.state for end in now.ends] == [None, None]:  # neither can be asked any more
            open_ = [end.state in ("ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2") for end in was.ends]
            if any(open_):
                return now.by if all(open_) else open_.index(False)
        return None

    def _has_come(self, segment, later):
        """Has a segment come to the other end, before the same end had to send it again?"""
        again = [each.after for each in later if each.end == segment.end and each.is_again]
        looks = self.looks[segment.after : again[0] + 1 if again else None]
        theirs = [look.ends[1 - segment.end] for look in looks]
        mine = [look.ends[segment.end] for look in looks]
        is_answered = any(each.kind == "RST" and each.end != segment.end for each in later)
        if segment.kind == "data":
            upto = segment.upto or _count(theirs[0], "bytes_received") + 1
            come = max(_count(end, "bytes_received") for end in theirs)
            acked = [_count(end, "bytes_acked") for end in mine]
            return come >= upto or is_answered or max(acked) > acked[0]
        if segment.kind == "FIN":
            # Who ends second is forgotten with the acknowledgement, who ends first is not.
            confirmed = CONFIRMED | ({None} if mine[0].state == "CLOSE-WAIT" else set())
            is_seen = any(end.state in TOLD for end in theirs)
            return is_seen or is_answered or any(end.state in confirmed for end in mine)
        if segment is self.third:  # soon, and without the help of data
            data = next((each.when for each in later if each.kind == "data"), math.inf)
            soon = [look for look in self.looks if look.when < min(data, segment.when + SOON)]
            return any(look.ends[1].state not in OPENING for look in soon or self.looks[:1])
        return segment.has_come


def _goes_between(event, end):
    """May an event stand between two pieces that an end gives: its own data, or their reading?"""
    if isinstance(event, Act):
        return event.is_read
    return (event.end, event.kind) == (end, "data")


def _count(end, name):
    return getattr(end.counts, name) if end.counts else 0


def _sent(end):
    return _count(end, "bytes_sent") - _count(end, "bytes_retrans")


def _held(end):
    """Return the bytes that an end holds back, without the FIN that waits with them."""
    return max(0, _count(end, "notsent_bytes") - (end.state in ENDED))


def _given(end):
    return _sent(end) + _held(end)


def _bare(end):
    """Count the segments without data that have left an end."""
    return _count(end, "segs_out") - _count(end, "data_segs_out")


# The picture: rows from top to bottom, one for each thing that happened
# ------------------------------------------------------------------------

SLOPE = 0.55  # of a row: how far an arrow falls
ROW = 0.27  # inches


class Wait(NamedTuple):
    """A long time in which nothing was seen to move: from one row to another, in seconds."""

    top: float
    bottom: float
    seconds: float


def _laid_out(events, with_acts):
    """Place events in rows; return ([(row, event)], [Wait], how many rows there are).

    Time is bent: what happens in a burst stands in a row each, and a long wait has its length
    written on it. An act shares the row of the segment that it sends.
    """
    placed, waits, row, last = [], [], 0.0, None
    for event in events:
        if isinstance(event, Act) and not with_acts:
            continue
        seconds = event.when - last.when if last else 0
        if seconds >= LONG:
            bottom = row + 1 + 0.5 * math.log10(seconds / LONG)
            waits.append(Wait(row, bottom, seconds))
            row, last = bottom, None
        if isinstance(last, Act) and not last.is_read and isinstance(event, Segment):
            row -= 1 if last.end == event.end else 0
        is_taken = isinstance(event, Act) and event.is_read and isinstance(last, Segment)
        if is_taken and last.end != event.end:
            placed.append((row - 1 + SLOPE, event))  # beside the arrow's head
        else:
            placed.append((row, event))
            row += 1
        last = event
    return placed, waits, row


def diagram(title, alt, watch, names=("the client", "the server")):
    """Draw the ladder of a Watch, or those of several; return a Picture that shows the arrows.

    watch: a Watch, or {label: Watch} for small ladders beside one another, without the acts. names:
    of both ends. The Picture shows {"arrows": [...], "acts": [...], "held back": [Held, ...],
    "waits": [seconds, ...]} of one Watch, {label: arrows} of several.
    """
    if isinstance(watch, dict):
        return _several(title, alt, watch, names)
    events, held = watch.events(), watch.held()
    placed, waits, rows = _laid_out(events, with_acts=True)
    states = [[end.state for end in look.ends] for look in (watch.looks[0], watch.looks[-1])]
    before = [row for row, event in placed if event.when <= watch.looks[0].when]

    def draw(figure, narrow):
        axes = figure.subplots()
        side = 0.72 if narrow else 0.6
        axes.set(xlim=(-side, 1 + side), ylim=(rows + 1, -1.6))
        _draw(axes, placed, waits, rows, 8.5)
        _draw_held(axes, placed, held, rows)
        style = {"va": "center", "fontsize": 8, "color": GRAY}
        for end, side in enumerate(("right", "left")):
            axes.text(end, -1.3, names[end], ha="center", va="center", fontweight="bold")
            axes.text(end, rows + 0.55, states[1][end] or "no socket", ha="center", **style)
            if before:  # the first look came after what its counts tell
                at = (-0.05, 1.05)[end], before[-1]
                axes.text(*at, states[0][end] or "no socket", ha=side, **style)
            else:
                axes.text(end, -0.65, states[0][end] or "no socket", ha="center", **style)

    shows = {
        "arrows": [str(event) for event in events if isinstance(event, Segment)],
        "acts": [f"{names[e.end]}: {e.words}" for e in events if isinstance(e, Act)],
        "held back": held,
        "waits": [wait.seconds for wait in waits],
    }
    return show.picture(draw, title, alt, ROW * (rows + 2.8), shows=shows)


def _several(title, alt, watches, names):
    found = {label: _laid_out(watch.events(), with_acts=False) for label, watch in watches.items()}
    rows = [rows for _, _, rows in found.values()]
    columns = {True: min(3, len(found)), False: len(found)}  # on a phone, and else

    def draw(figure, narrow):
        heights = _heights(rows, columns[narrow])
        ratios = {"height_ratios": [height + 1.5 for height in heights]}
        shape = len(heights), columns[narrow]
        grid = figure.subplots(*shape, squeeze=False, gridspec_kw=ratios).ravel()
        for axes in grid[len(found) :]:
            axes.axis("off")
        for place, axes in enumerate(grid[: len(found)]):
            label, (placed, waits, its) = list(found.items())[place]
            axes.set(xlim=(-0.3, 1.3), ylim=(heights[place // columns[narrow]] + 0.2, -1.1))
            axes.set_title(label, fontweight="bold", fontsize=9)
            _draw(axes, placed, waits, max(its, 1), 8.5)
            for end in range(2):
                axes.text(end, -0.6, names[end], ha="center", va="center", fontsize=8, color=GRAY)

    wide, narrow = (
        sum(ROW * (height + 1.3) + 0.3 for height in _heights(rows, columns[is_narrow]))
        for is_narrow in (False, True)
    )
    arrows = {label: watch.arrows() for label, watch in watches.items()}
    return show.picture(draw, title, alt, wide, narrow, shows=arrows)


def _heights(rows, columns):
    """Return how many rows the highest has of those that stand beside one another."""
    return [max(rows[at : at + columns]) for at in range(0, len(rows), columns)]


def _draw(axes, placed, waits, rows, size):
    """Draw both ends' lines, what happened between them, and how long nothing did."""
    axes.axis("off")
    for end in range(2):
        axes.plot([end, end], [-0.2, rows + 0.1], color=show.INK, lw=1.2, zorder=1)
    for wait in waits:
        middle = (wait.top + wait.bottom) / 2 - (1 - SLOPE) / 2
        axes.plot([0.06, 0.94], [middle, middle], color=show.PALER, lw=9, zorder=0)
        axes.text(0.5, middle, _length(wait.seconds), ha="center", va="center", fontsize=size)
    for row, event in placed:
        if isinstance(event, Segment):
            _draw_segment(axes, row, event, size)
        else:
            at, side = (-0.05, "right") if event.end == 0 else (1.05, "left")
            color = GRAY if event.is_read else show.BLUE
            words = event.words.replace("shutdown(", "shutdown\n(")
            axes.text(at, row, words, ha=side, va="center", color=color, fontsize=size)


def _draw_segment(axes, row, segment, size):
    """Draw an arrow with its words on it; a cross where the segment got lost."""
    color, reaches = COLORS.get(segment.kind, show.INK), 1 if segment.has_come else 0.62
    begin, end = segment.end, segment.end + (reaches if segment.end == 0 else -reaches)
    style = {"arrowstyle": "-|>" if segment.has_come else "-", "color": color}
    style |= {"shrinkA": 0, "shrinkB": 0, "lw": 1.3}
    axes.annotate("", (end, row + SLOPE * reaches), (begin, row), arrowprops=style)
    if not segment.has_come:
        place = [end], [row + SLOPE * reaches]
        axes.plot(*place, color=show.RED, marker="x", ms=7, mew=2, ls="")
    middle = begin + (end - begin) / 2, row + SLOPE * reaches / 2 - 0.06
    turn = math.degrees(math.atan2(SLOPE, 1 if segment.end == 0 else -1))
    turn = turn if turn < 90 else turn - 180
    axes.text(
        *middle, segment.words, color=color, fontsize=size, ha="center", va="bottom",
        rotation=turn, rotation_mode="anchor", transform_rotates_text=True,
    )  # fmt: skip


def _draw_held(axes, placed, held, rows):
    """Draw what was held back, as a bar on the line of the end that had it."""
    for each in held:
        own = [(row, event) for row, event in placed if event.end == each.end]
        top = max((row for row, event in own if event.when <= each.since), default=0)
        left = [
            row for row, event in own
            if isinstance(event, Segment) and event.kind == "data" and event.when >= each.until
        ]  # fmt: skip
        bottom, at = min(left, default=rows), each.end
        axes.plot([at, at], [top, bottom], color=show.ORANGE, lw=5, solid_capstyle="butt", zorder=2)
        place, side = (1.06, "left") if each.end else (-0.06, "right")
        words = f"{in_bytes(each.size)}\nheld back"
        axes.text(place, (top + bottom) / 2 + 0.2, words, ha=side, va="center", fontsize=8.5)


def _length(seconds):
    """Say how long a wait was."""
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{1000 * seconds:.0f} ms"
