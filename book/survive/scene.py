"""One cell of the matrix: a server, an awkward client and bystanders, played and judged.

A bystander is a client that asks for nothing but its answer. `judge` starts the server, plays the
scene and names the first verdict that applies, in the order of VERDICTS:

1. the awkward client connects, the bystander connects and asks, the awkward one does its act;
2. when the awkward one has done all it does, or only listens for an answer, a late bystander
   comes and asks: a server may have served the first one before the act began;
3. we wait until the server is at rest: it has ended, or its queues are empty and it sleeps,
   or it has been given a second for it;
4. its CPU time is measured in windows;
5. if all is well so far, the act is repeated, what it holds is counted before and after, and
   a last bystander asks.

Where clients overstay, the one bystander comes when all of them are there, and has as much more
patience as the server says that it has with them. Where the server is told to end, nobody comes
after that, and it is to have ended by then.

Nothing is judged by how a race ends: the acts force their order (see awkward), and 3 s of patience
are three times what a SYN costs that found the accept queue full. CPU time, memory and descriptors
are those of all processes of the server.
"""

import contextlib
import threading
import time
from dataclasses import dataclass, field, replace

from look import kernel

from . import clients
from .rows import Traits, is_hello, is_success
from .server import ServerError
from .waiting import until

VERDICTS = {
    "n/a": "the case cannot arise for this server",
    "dead": "the server has ended, and was not meant to",
    "frozen": "a bystander was not served within 3 s, and the server's own deadline, if it has one",
    "spinning": "the server has nothing left to do, and uses over 5% of a core",
    "leaking": "after 20 repeats, descriptors or memory stay, or what one client sends is kept"
    " without end",
    "wrong": "what the client got is not what it should get",
    "ends": "the server answered as it should, and ended, as it was meant to",
    "ok": "none of these",
}

PATIENCE = 3  # seconds a bystander waits for its answer
GRACE = 1  # seconds in which a server may come to rest before its CPU time is measured
WINDOW = 0.25  # seconds of one CPU measurement
MOST_WORK = 9  # seconds of CPU time that a server may take to work off what was sent
MOST_WATCHED = 60  # seconds that it is watched for that: on a busy machine it gets little of a core
BUSY_WINDOWS = 2  # in a row, with nothing to do, that make a server a spinning one
REPEATS = 20
LEAST_TAKEN = 1_000_000  # bytes from one client, of which it should not keep most
ALLOCATOR_MAY_KEEP = 256 * 1024  # bytes, without being called a leak


@dataclass(frozen=True)
class Verdict:
    """A word of VERDICTS, and what was seen.

    events: what the awkward client did and got, as Conversation has it, in seconds from its start.
    """

    word: str
    reason: str = ""
    events: tuple = field(default=(), compare=False, repr=False)

    def __str__(self):
        return f"{self.word}: {self.reason}" if self.reason else self.word


def judge(row, start, traits=None):
    """Play one cell; return its Verdict. The server is gone when this returns.

    row: a rows.Row. start: a function that starts the server and returns it; what the row needs is
    asked of it by name, as long_answer=True or log_file=True. traits: its Traits, none unless
    given. Raises ServerError if it does not start at all.
    """
    traits = traits or Traits()
    if why_not := row.not_applicable(traits):
        return Verdict("n/a", why_not)
    with start(**dict.fromkeys(row.needs, True)) as server:
        return _Scene(row, traits, server).verdict()


class _Scene:
    """One cell while it is played."""

    def __init__(self, row, traits, server):
        self.row, self.traits, self.server = row, traits, server
        self.talk = None  # the awkward client's
        lasts = row and (row.overstays or row.ends)
        self.patience = PATIENCE + (traits.deadline if lasts else 0)

    def verdict(self):
        """Play the scene to its end, which may come early: the server may not even listen."""
        try:
            found = self._play_to_its_end() if self.row.ends else self._play()
        except TimeoutError:
            found = Verdict("frozen", f"it took no connection for {self.patience} s")
        except ConnectionError:
            found = Verdict("dead", self._last_words("it refused a connection"))
        return replace(found, events=self._events())

    def _play(self):
        with self._connect("the awkward one") as self.talk:
            self.talk.comes_alone = self.row.is_alone
            if self.row.overstays:
                fate = self._act_before_a_bystander(self.talk)
            else:
                fate = self._act_beside_bystanders(self.talk)
            if fate == "dropped":  # a server that drops connections may be about to end
                self._wait(self._has_ended, PATIENCE)
            elif fate == "served":
                self._wait(self._is_at_rest, GRACE)
            if self._has_ended():
                return self._ended()
            if fate != "served":
                how = "was dropped" if fate == "dropped" else "got nothing"
                return Verdict("frozen", f"a bystander {how} in {self.patience} s")
            if spinning := self._spins():
                return Verdict("spinning", spinning)
            if self._has_ended():
                return self._ended()
            if kept := self._keeps():
                return Verdict("leaking", kept)
            right = self.row.expects(self.talk)
            many = self.row.overstays or self.row.is_alone
            stays = many or not (self.talk.ended or self.talk.is_closed)
        # A client that is still there needs its descriptor: only one that has left can leak it.
        lasting = None if stays else self._repeat()
        return lasting or (Verdict("ok") if right else self._wrong())

    def _act_beside_bystanders(self, talk):
        """Play the act with a bystander before it and one after it; return the last one's fate."""
        bystander = self._connect("a bystander")
        bystander.send(clients.REQUEST)
        self._wait(lambda: not kernel.queues_of(bystander.socket)[1], 1)  # it has arrived
        acting = threading.Thread(target=self._act, args=[talk])
        acting.start()
        fate = self._fate(bystander)
        if fate == "served":
            self._wait(lambda: talk.has_said_all or not acting.is_alive(), 3 * PATIENCE)
            fate = self._ask("a late bystander")
        talk.stop_sending()
        acting.join()
        return fate

    def _act_before_a_bystander(self, talk):
        """Play the act, and let a bystander come when all are there; return its fate."""
        self._act(talk)
        try:
            return self._ask("a late bystander")
        except ConnectionError:
            if self.traits.answers_once:  # and has answered one of those that overstay
                return "dropped"
            raise
        finally:
            talk.stop_sending()

    def _play_to_its_end(self):
        """Play an act in which the server is told to end."""
        with self._connect("the awkward one") as self.talk:
            self._act(self.talk)
            told = [when for when, what, _ in self.talk.events if what == "SIGTERM"]
            if not told and not self._has_ended():
                return Verdict("frozen", "the client could not do what it came for")
            deadline = max(told, default=0) + self.patience
            if not self._wait(self._has_ended, deadline - time.monotonic()):
                return Verdict("wrong", f"it has not ended {self.patience} s after SIGTERM")
            status = self.server.wait()
            if status or "Traceback" in self.server.errors():
                return Verdict("dead", self._last_words(f"exit status {status}"))
            return Verdict("ends") if self.row.expects(self.talk) else self._wrong()

    def _connect(self, name):
        return clients.Conversation(self.server.address, name, self.patience)

    def _ask(self, name):
        """Let one more bystander come and ask; return its fate."""
        bystander = self._connect(name)
        bystander.send(clients.REQUEST)
        return self._fate(bystander)

    def _fate(self, bystander):
        """Read a bystander's answer, and say how it fared: served, dropped or waiting."""
        with bystander:
            bystander.read_all()
        is_right = is_success if "long_answer" in self.row.needs else is_hello
        if any(map(is_right, bystander.answers())):
            return "served"
        return "dropped" if bystander.ended else "waiting"

    def _act(self, talk):
        """Play the act, which may well fail: the server may be gone, or no longer read."""
        with contextlib.suppress(OSError):
            self.row.act(talk, self.server)

    def _wait(self, condition, seconds):
        """Wait for a condition, and say whether it came true."""
        with contextlib.suppress(TimeoutError):
            return bool(until(condition, seconds))
        return False

    def _has_ended(self):
        return not self.server.is_running()

    def _is_at_rest(self):
        """Tell whether the server has ended, or sleeps with nothing in its queues."""
        try:
            return self.server.is_at_rest()
        except ProcessLookupError:
            return self._has_ended()  # or is about to end

    def _unread(self):
        """Count the bytes in the server's receive queues, and the clients in its accept queue."""
        return sum(socket.unread for socket in self.server.sockets())

    def _spins(self):
        """Say why the server counts as spinning, or return nothing.

        Over the limit in two windows running, with the input drained or the client gone; or
        never once idle while it uses much CPU time.
        """
        busy, quiet, deadline = 0, 0, time.monotonic() + MOST_WATCHED
        with contextlib.suppress(OSError):  # it has ended
            began = self.server.cpu_time()
            while (used := self.server.cpu_time() - began) < MOST_WORK:
                if time.monotonic() > deadline:
                    break
                nothing_to_do = self.talk.is_closed or not self._unread()
                share = self.server.cpu_share(WINDOW)
                # A server that spins may not get the core for a while; but then it doesn't sleep.
                rests = share <= kernel.SPINNING and self.server.is_asleep()
                quiet = quiet + 1 if rests else 0
                if rests and (share == 0 or quiet == 2):  # none at all, or little twice
                    return ""
                busy = busy + 1 if nothing_to_do and share > kernel.SPINNING else 0
                if busy == BUSY_WINDOWS:
                    return f"over {kernel.SPINNING:.0%} of a core with nothing to do"
            return f"not idle once in {used:.0f} s of CPU time"
        return ""

    def _ended(self):
        status = self.server.wait()
        if not (self.traits.answers_once and status == 0):
            return Verdict("dead", self._last_words(f"exit status {status}"))
        return Verdict("ends") if self.row.expects(self.talk) else self._wrong()

    def _last_words(self, otherwise):
        """Return the last line that the server wrote, or `otherwise`.

        All that it wrote has been read by then. It may refuse connections first: an exception
        closes the listener, and the traceback comes later, up to a second on a busy machine.
        """
        with contextlib.suppress(ServerError):  # it is still there, and does not listen
            self.server.wait(PATIENCE)
        return self.server.last_words() or otherwise

    def _keeps(self):
        """Say how much of what one client has sent is kept, if it is most of much; or nothing."""
        if not self.talk.taken:
            return ""
        before, taken = self.talk.taken
        kept = self.server.memory() - before
        if taken < LEAST_TAKEN or kept < taken / 2:
            return ""
        return f"{taken / 1e6:.0f} MB of one header are kept"

    def _wrong(self):
        if self.talk.fault:
            return Verdict("wrong", self.talk.fault)
        answers = ", ".join(map(str, self.talk.answers())) or "no answer"
        return Verdict("wrong", f"the client got {answers}, then: {self.talk.ended or 'silence'}")

    def _events(self):
        """Return what the awkward client did and got, in seconds from its first act."""
        events = self.talk.events if self.talk else []
        return tuple((t - events[0][0], what, count) for t, what, count in events)

    def _repeat(self):
        """Repeat the act; return a Verdict if the server dies, freezes or leaks."""
        try:
            self._once_more()  # once for what is set up on first use
            descriptors = self.server.descriptors()
            grown = self._growth()
            if grown > ALLOCATOR_MAY_KEEP:  # each thread's allocator grows once, a leak for ever
                grown = self._growth()
            self._wait(lambda: self.server.descriptors() <= descriptors, 1)
            more = self.server.descriptors() - descriptors
            fate = self._ask("the last bystander")
        except TimeoutError as error:
            return Verdict("frozen", f"in one of the repeats: {error}")
        except OSError:  # it refuses connections, or is no more
            return Verdict("dead", self._last_words("in one of the repeats"))
        if fate != "served":
            return Verdict("frozen", f"a bystander got nothing after {REPEATS} repeats")
        return self._holds(more, grown)

    def _holds(self, descriptors, memory):
        """Return the Verdict on what stays after the repeats, or None."""
        if descriptors > 0:
            return Verdict("leaking", f"{descriptors} descriptors")
        if memory > ALLOCATOR_MAY_KEEP:
            return Verdict("leaking", f"{memory // 1024} kB")
        return None

    def _growth(self):
        """Return by how many bytes the server grows while the act is repeated."""
        before = self.server.memory()
        for _ in range(REPEATS):
            self._once_more()
        return self.server.memory() - before

    def _once_more(self):
        with self._connect("the awkward one, again") as talk:
            self._act(talk)
        if not self._wait(self._is_at_rest, PATIENCE):
            raise TimeoutError("it does not come to rest")
        if self._has_ended():
            raise ConnectionError("the server has ended")
