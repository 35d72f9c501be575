"""What waits for a process, and which thread could take it, and why it does not.

Something waits: clients in an accept queue, bytes that have come and are unread. Who could take it
is a thread, and of each thread is known what it waits for: an epoll's list with its masks, the sets
of a poll or select, or the one call that it sleeps in. And it is known whether it has run since. A
client that waits for a moment is no symptom: what waits has waited at both ends of the window, and
who has slept has slept all the time.
"""

import collections
import select
from functools import lru_cache
from typing import NamedTuple

from .calls import ACCEPTS, LOOPS, POLLS, RECEIVES, SENDS, count, descriptor, on_what

OFTEN = 0.8  # of the times that it was looked at, in the same call: there it spends its time
IN, OUT = select.EPOLLIN, select.EPOLLOUT
# An order of suspicion: a thread in a call on a client, or for a time, keeps the rest from theirs.
SUSPECTS = (*RECEIVES, *SENDS, "connect", "clock_nanosleep", "nanosleep", *POLLS, *LOOPS, "wait4")


class Waiting(NamedTuple):
    """Something that has waited at both ends of the window, and is not taken.

    amount: clients, of a listener; bytes, of another socket. before: at the window's beginning.
    stayed: how many of the amount were there all the time. In the queue of a busy server there is
    always somebody, and always somebody else.
    """

    fd: int
    file: object
    amount: int
    before: int
    stayed: int


def at_both_ends(view):
    """Yield the sockets that were there at both ends: (descriptor, its File, and as it was)."""
    for fd, file in view.files.items():
        before = view.earlier.get(fd)
        if file.socket and before and before.socket and before.inode == file.inode:
            yield fd, file, before


@lru_cache(maxsize=2)
def what_waits(view):
    """List what waits for a process, each socket once: a queue may have several descriptors."""
    found = {}
    for fd, file, before in at_both_ends(view):
        amounts = file.unread, before.unread
        stayed = min(amounts)
        if file.listens and None not in (file.socket.queue, before.socket.queue):
            stayed = min(stayed, len(file.socket.queue & before.socket.queue))
        if all(amounts) and file.inode not in found:
            found[file.inode] = Waiting(fd, file, *amounts, stayed)
    return list(found.values())


def in_words(waits):
    """Say what waits: `2 clients wait in the accept queue and 5 bytes of 1 socket unread`."""
    clients = sum(each.amount for each in waits if each.file.listens)
    sockets = [each for each in waits if not each.file.listens]
    said = []
    if clients:
        said.append(f"{count(clients, 'client')} wait{'s' * (clients == 1)} in the accept queue")
    if sockets:
        unread = sum(each.amount for each in sockets)
        said.append(f"{count(unread, 'byte')} of {count(len(sockets), 'socket')} unread")
    return " and ".join(said)


def is_a_clients(view, file):
    """Tell whether a file is a client's socket: one that a listener of the process accepted."""
    if not file or not file.socket or file.listens or file.socket.kind == "udp":
        return False
    kind, name = file.socket.kind, file.socket.local
    ends = [each.socket for each in view.listeners.values() if each.socket.kind == kind]
    if kind == "unix":
        return bool(name[0]) and name in [each.local for each in ends]
    return name[1] in [each.local[1] for each in ends]


def is_ours(view, file):
    """Tell whether a file is a listener's or a client's socket: one that is there to be served."""
    return bool(file) and (file.listens or is_a_clients(view, file))


# Who could take it
# -----------------


def asks_for(view, thread):
    """Return what would wake a thread that sleeps: {inode: mask}, by the call that it sleeps in.

    Where that can't be seen, in io_uring, or of an epoll whose list is closed to us, it may be
    anything: nobody is accused of what is not known.
    """
    blocked, masks = thread.looks[-1], collections.Counter()
    if blocked is None:
        return masks
    fd = descriptor(blocked.call, blocked.arguments)
    is_closed = blocked.call in LOOPS and fd not in view.epolls
    is_gone = blocked.call in POLLS and thread.watches is None
    if blocked.call == "io_uring_enter" or is_closed or is_gone:
        return collections.defaultdict(lambda: IN)
    if blocked.call in LOOPS:
        return on_the_list(view, fd)
    if blocked.call in POLLS:
        for watch in thread.watches:
            if watch.file:
                masks[watch.file.inode] |= watch.mask
    elif fd in view.files:
        takes = IN * (blocked.call in (*RECEIVES, *ACCEPTS))
        masks[view.files[fd].inode] |= takes | OUT * (blocked.call in (*SENDS, "connect"))
    return masks


def on_the_list(view, epoll, within=()):
    """Return what is on an epoll's list, and on those of epolls on it: {inode: mask}."""
    masks = collections.Counter()
    for watch in view.epolls.get(epoll, ()):
        if watch.file:
            masks[watch.file.inode] |= watch.mask
        if watch.fd in view.epolls and watch.mask & IN and watch.fd not in within:
            for inode, mask in on_the_list(view, watch.fd, (*within, epoll)).items():
                masks[inode] |= mask
    return masks


def serves(view, thread):
    """Does a thread wait for clients: for those that come, or for what they send?"""
    blocked = thread.looks[-1]
    if not blocked or blocked.call not in (*LOOPS, *POLLS, *ACCEPTS, "io_uring_enter"):
        return False
    if is_a_clients(view, on_what(view, blocked, thread.watches)):
        return False  # it reads from one client, with a timeout
    asked = asks_for(view, thread)
    return any(is_ours(view, file) and asked[file.inode] for file in view.files.values())


def who_awaits(view, waits):
    """List the threads that would be woken by what waits; those by io_uring can't be known."""
    return [each for each in view.threads if asks_for(view, each)[waits.file.inode] & IN]


def lists_with(view, waits):
    """List the epolls that have it on their lists, for IN: (descriptor, mask) each."""
    masks = {epoll: on_the_list(view, epoll)[waits.file.inode] for epoll in view.epolls}
    return [(epoll, mask) for epoll, mask in masks.items() if mask & IN]


@lru_cache(maxsize=2)
def left_alone(view):
    """List what waits, is meant to be taken, and is what no thread waits for at the moment.

    A listener that other processes hold as well, and this one does not watch, is theirs, unless it
    has a client itself. Bytes that no list has are left on purpose where there are lists: a server
    that can't send stops reading.
    """
    left = []
    serves_some = any(is_a_clients(view, file) for file in view.sockets.values())
    for waits in what_waits(view):
        if who_awaits(view, waits):
            continue
        is_meant = lists_with(view, waits) or (
            serves_some or not view.holders.get(waits.file.inode)
            if waits.file.listens
            else not view.epolls and is_a_clients(view, waits.file)
        )
        if is_meant:
            left.append(waits)
    return left


# Who does not
# ------------


def most_often(thread):
    """Return the call in which a thread was found most often, as (Blocked, how many times)."""
    looks = [look for look in thread.looks if look]
    places = [(look.call, descriptor(look.call, look.arguments)) for look in looks]
    if not places:
        return None, 0
    (place, times), *_ = collections.Counter(places).most_common(1)
    last = dict(zip(places, looks))[place]
    return last, times


def spends_its_time(view, thread):
    """Tell whether a thread was found in one call nearly always, and not one that is on a client.

    It may well wait for its clients: then they are slow, and not the server.
    """
    blocked, times = most_often(thread)
    if not blocked or blocked.call not in SUSPECTS or times < OFTEN * len(thread.looks):
        return False
    file = on_what(view, blocked, thread.watches)
    if file and file.text == "socket" or not file and blocked.call in (*POLLS, *LOOPS):
        return False  # it is gone, or unknown: it may have been a client's
    return not is_ours(view, file)


def culprit(view):
    """Return (how, thread): which thread does not take what is left alone; (None, None) if unknown.

    how: `asleep` all the time in one call; `often` in one call, and at work in between.
    """
    others = [each for each in view.threads if not serves(view, each)]
    main = [each for each in others if each.number == view.pid]
    for thread in main:
        if thread.slept and thread.looks[-1].call != "futex":
            return "asleep", thread
        if not thread.slept:
            return ("often", thread) if spends_its_time(view, thread) else (None, None)
    asleep = [each for each in others if each.slept and each.looks[-1].call in SUSPECTS]
    if asleep:
        return "asleep", min(asleep, key=lambda each: SUSPECTS.index(each.looks[-1].call))
    for thread in others:
        if not thread.slept and spends_its_time(view, thread):
            return "often", thread
    locked = [each for each in others if each.slept]
    return ("asleep", locked[0]) if locked and len(locked) == len(others) else (None, None)
