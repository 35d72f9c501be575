"""Twins: is a socket on the ready list of an epoll object? Measured, without using anything up.

The kernel shows the interest list in /proc, and the ready list nowhere. So each registration gets a
twin: one more epoll object, which watches the same file for the same events, and nothing else. What
the server does to its registration is done to the twin's; and when its poll has reported that, the
twin is polled as well. poll(2) on the twin's own descriptor then tells whether it has something to
report, and reports nothing. So "on the ready list" means: a poll would report it now.

Between the server's poll and the twin's an edge might fall, which the server's epoll object would
have and the twin would not. So poll(2) is asked of the server's object, too; where the two don't
agree, nothing is said.

The twins are made before the server begins, and have high numbers, so that the server's own
descriptors have the numbers that they would have without. Nothing is known of registrations beyond
the number of twins, of those with EPOLLEXCLUSIVE, and of those that another process has made.
"""

import contextlib
import fcntl
import resource
import select
import threading

from look import kernel

NUMBER = 48
HIGHEST = 4096  # descriptor: the kernel's table is as long as the highest one
DEFAULT_MASK = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT  # what register() watches for


def duplicate_high(fd):
    """Duplicate a descriptor, to a number that no server of this book comes to; return that."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(min(soft, HIGHEST) - 2 * NUMBER, soft // 2)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


class Twins:
    """A stock of epoll objects, and which of them watches what."""

    def __init__(self, epoll):
        """epoll: the class select.epoll itself, not what a recorder has put in its place."""
        self.lock = threading.Lock()  # between what happens to a registration and to its twin
        self.stock, self.used = [], {}  # used: {(epoll's descriptor, descriptor): [twin, ...]}
        for _ in range(NUMBER):
            with epoll() as low:
                self.stock.append(epoll.fromfd(duplicate_high(low.fileno())))
        self.descriptors = [twin.fileno() for twin in self.stock]

    def forget(self, epoll):
        """Empty the twins of an epoll object, which is closed, by the descriptor that it had."""
        for key in [key for key in self.used if key[0] == epoll]:
            self._unregister(*key, None)
            self.used.pop(key, None)

    def follow(self, name, epoll, fd=None, eventmask=DEFAULT_MASK):
        """Do to the twins what a call has done to an epoll object, by its descriptor."""
        if name == "close":
            self.forget(epoll)
        else:
            fd = fd if isinstance(fd, int) else fd.fileno()
            getattr(self, f"_{name}")(epoll, fd, eventmask)

    def polled(self, epoll, reports):
        """Poll the twins of what a poll has reported, too."""
        with self.lock:
            for fd, _ in reports:
                for twin in self.used.get((epoll, fd), ()):
                    twin.poll(0)

    def _register(self, epoll, fd, mask):
        self._give_back_the_empty((epoll, fd))
        if self.stock and not mask & select.EPOLLEXCLUSIVE:
            twin = self.stock.pop()
            twin.register(fd, mask)
            self.used.setdefault((epoll, fd), []).append(twin)

    def _modify(self, epoll, fd, mask):
        for twin in self.used.get((epoll, fd), ()):
            with contextlib.suppress(OSError):  # it watches an older file of that number
                twin.modify(fd, mask)

    def _unregister(self, epoll, fd, _):
        for twin in self.used.get((epoll, fd), ()):
            with contextlib.suppress(OSError):
                twin.unregister(fd)
        self._give_back_the_empty((epoll, fd))

    def _give_back_the_empty(self, key):
        left = []
        for twin in self.used.pop(key, ()):
            watches = kernel.registrations("self", twin.fileno())
            (left if watches else self.stock).append(twin)
        if left:
            self.used[key] = left

    def ready(self, epoll, watched):
        """Tell of each descriptor that an epoll object watches whether a poll would report it.

        epoll: its descriptor. watched: descriptors. Returns {descriptor: bool} of those that are
        known; None where the twins and the object itself disagree.
        """
        with self.lock:
            for key in [key for key in self.used if key[0] == epoll and key[1] not in watched]:
                self._give_back_the_empty(key)
            twins = {
                fd: [twin.fileno() for twin in self.used[epoll, fd]]
                for fd in watched
                if (epoll, fd) in self.used
            }
            return self._agreed(epoll, watched, twins)

    def _agreed(self, epoll, watched, twins):
        for _ in range(3):  # something may arrive between one look and the next
            ready, has = reporting(twins), reporting({epoll: [epoll]})[epoll]
            if any(ready.values()) == has or (has and len(twins) < len(watched)):
                return ready
        return None


def reporting(twins):
    """Tell of each descriptor whether one of its twins has something to report: {…: bool}.

    twins: {descriptor: [a twin's own descriptor, ...]}. They report nothing by that.
    """
    poller = select.poll()
    for several in twins.values():
        for twin in several:
            poller.register(twin, select.POLLIN)
    has = {twin for twin, _ in poller.poll(0)}
    return {fd: not has.isdisjoint(several) for fd, several in twins.items()}
