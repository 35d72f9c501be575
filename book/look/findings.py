"""What is wrong with a process, as far as a View of it tells: RULES is the whole of it.

The rules follow from what waits, who could take it, and whether that thread has run since (see
waits). They stand in the order in which their findings are told, the worst first. Where two rules
speak of the same, the first one speaks.
"""

import collections
import select
from typing import Callable, NamedTuple

from . import kernel, strace
from .calls import (
    HINTS,
    POLLS,
    RECEIVES,
    SENDS,
    calls_in_words,
    count,
    has_a_turn,
    moves_anything,
    name_of,
    on_what,
    where,
)
from .waits import (
    IN,
    OUT,
    asks_for,
    at_both_ends,
    culprit,
    in_words,
    is_a_clients,
    is_ours,
    left_alone,
    lists_with,
    most_often,
    on_the_list,
    serves,
    what_waits,
    who_awaits,
)

SPINNING = kernel.SPINNING
FEW = 20  # calls while it is traced, and naps in the window, are those of one that computes
SILENT = 60  # seconds without data from a client
NEARLY = 0.9  # of the descriptors that are allowed
EDGE, ONE_SHOT = select.EPOLLET, select.EPOLLONESHOT


class Finding(NamedTuple):
    """Something that is wrong.

    kind: of its Rule. says: a sentence. next: what to look at, or do, next. evidence: what the
    sentence rests on, by name: numbers of clients, bytes, threads and descriptors, names of calls.
    """

    kind: str
    says: str
    next: str
    evidence: dict


class Rule(NamedTuple):
    """When something is said, and what to do then.

    kind: one word or two. when: the condition, for a reader. next: what to do; {pid} stands for the
    process. find: a function of a View that yields (sentence, evidence).
    """

    kind: str
    when: str
    next: str
    find: Callable


def find(view):
    """Return the Findings of a View, the worst first."""
    return [
        Finding(rule.kind, says, rule.next.format(pid=view.pid), evidence)
        for rule in RULES
        for says, evidence in rule.find(view)
    ]


def _is_stopped(view):
    return view.threads[0].state in "Tt"


def _stopped(view):
    if _is_stopped(view):
        yield "stopped, by SIGSTOP, Ctrl-Z or a tracer", {"state": view.threads[0].state}


def _held_up(view):
    """Tell that something is left alone, and every thread sleeps where it does not wait for it.

    Yields (kind, sentence, evidence): the kinds are told apart by who it is that sleeps.
    """
    left = [] if _is_stopped(view) else left_alone(view)
    how, thread = culprit(view) if left else (None, None)
    if how == "asleep":
        left = [each for each in left if each.stayed]
    if not thread or not left:
        return
    blocked, times = most_often(thread)
    file = on_what(view, blocked, thread.watches)
    place = where(view, blocked, thread.watches)
    evidence = {"thread": thread.number, "call": blocked.call}
    evidence.update(clients=sum(each.amount for each in left if each.file.listens))
    evidence.update(bytes=sum(each.amount for each in left if not each.file.listens))
    said = f"{in_words(left)}, while {name_of(view, thread)} sleeps in {place}"
    shared = _shared_with(view, left)
    if how == "often":
        times = f"{times} of {len(thread.looks)}"
        yield (
            "slow",
            f"slow: {in_words(left)}. It does work, but {times} times that {name_of(view, thread)} "
            f"was looked at it was in {place}{shared}",
            evidence,
        )
    elif is_a_clients(view, file) and blocked.call in (*RECEIVES, *SENDS, *POLLS):
        alike = [each for each in view.threads if each.slept and _same_call(each, blocked)]
        if len(alike) > 1:
            several = f"{len(alike)} threads sleep in {blocked.call}"
            says = f"all threads are taken: {in_words(left)}, while {several}, each on a client"
            yield "all threads taken", says + shared, evidence
        else:
            why = "which does not read" if blocked.call in SENDS else "with nothing to read"
            yield "one client", f"one client holds up all: {said}, {why}{shared}", evidence
    elif blocked.call == "futex":
        locked = sum(each.slept and each.looks[-1].call == "futex" for each in view.threads)
        said = f"{count(locked, 'thread')} sleep{'s' * (locked == 1)} in futex ({HINTS['futex']})"
        yield "locked", f"locked: {in_words(left)}, while {said}{shared}", evidence
    else:
        lists = sorted({epoll for each in left for epoll, _ in lists_with(view, each)})
        instead = f", not in epoll_wait({lists[0]})" if lists else ""
        end = "Until that call returns, nobody is served"
        yield "frozen", f"frozen: {said}{instead}. {end}{shared}", evidence


def _same_call(thread, blocked):
    return bool(thread.looks[-1]) and thread.looks[-1].call == blocked.call


def _shared_with(view, left):
    others = sorted({pid for each in left for pid in view.holders.get(each.file.inode, ())})
    if not others:
        return ""
    return f". The listener is shared with {_numbers(others)}: look at those, too"


def _numbers(processes):
    return ", ".join(map(str, processes[:4]))


def _of_kind(kind, tell):
    """Return a rule's function: what a function tells of one kind, where it tells of several."""

    def rule(view):
        return [(says, evidence) for each, says, evidence in tell(view) if each == kind]

    return rule


def _unwatched(view):
    """Tell that clients wait at a listener that nobody watches, while the loop is at rest."""
    accused = left_alone(view) if culprit(view)[1] else []
    for waits in [] if _is_stopped(view) else what_waits(view):
        fd = waits.fd
        clients = f"{count(waits.amount, 'client')} wait{'s' * (waits.amount == 1)}"
        if not waits.file.listens or not waits.stayed:
            continue
        if who_awaits(view, waits) or waits in accused:
            continue
        evidence = {"descriptor": fd, "clients": waits.amount}
        registered = [
            (epoll, watch.mask)
            for epoll, watches in view.epolls.items()
            for watch in watches
            if watch.file and watch.file.inode == waits.file.inode
        ]
        others = view.holders.get(waits.file.inode)
        if others and not registered:
            theirs = f"It is shared with {_numbers(others)}: look at those"
            says = f"{clients} at listener {fd}, which this process does not watch. {theirs}"
            yield says, evidence
        elif not _at_rest(view):
            continue
        for epoll, mask in registered:
            if mask & IN:
                why = f"is on the list of epoll {epoll}, and no thread waits in that"
            elif mask & ONE_SHOT:
                why = f"was reported once (ONESHOT), and has not been armed again in epoll {epoll}"
            else:
                why = f"is on the list of epoll {epoll} for nothing: accepting is paused"
            yield f"{clients} at listener {fd}, which {why}", evidence
        if not registered and not others:
            yield f"{clients} at listener {fd}, which is on nobody's list", evidence


def _at_rest(view):
    """Has every thread either slept all the time, or is it one that waits for clients?"""
    return all(each.slept or serves(view, each) for each in view.threads)


def _spent(view):
    """Tell of edges that were told once, and left something behind."""
    if _is_stopped(view):
        return
    for waits in what_waits(view):
        awaiting = who_awaits(view, waits)
        edges = [epoll for epoll, mask in lists_with(view, waits) if mask & EDGE]
        stuck = all(each.slept for each in awaiting) or waits.amount == waits.before
        stuck = stuck and waits.stayed
        if not awaiting or not edges or not stuck or len(edges) < len(lists_with(view, waits)):
            continue
        evidence = {"descriptor": waits.fd, "epoll": edges[0], "amount": waits.amount}
        if waits.file.listens:
            yield (
                f"the edge of listener {waits.fd} is spent: {count(waits.amount, 'client')} wait, "
                f"and epoll {edges[0]} (ET) reports the next one that comes, not those who are "
                "there: accept until EAGAIN",
                evidence,
            )
        else:
            yield (
                f"the edge of socket {waits.fd} is spent: {count(waits.amount, 'byte')} unread, "
                f"and epoll {edges[0]} (ET) reports the next that come, not those that are there: "
                "recv until EAGAIN, unless it is meant to wait",
                evidence,
            )


def _disarmed(view):
    """Tell of sockets that were reported once, by ONESHOT, and that nobody has armed again."""
    if _is_stopped(view) or not _at_rest(view):
        return
    for waits in what_waits(view):
        for epoll, watches in view.epolls.items():
            for watch in watches:
                mine = watch.file and watch.file.inode == waits.file.inode
                spent = watch.mask & ONE_SHOT and not watch.mask & (IN | OUT)
                if mine and spent and not waits.file.listens:
                    yield (
                        f"socket {waits.fd} was reported once (ONESHOT), has "
                        f"{count(waits.amount, 'byte')} unread, and no thread is at work that "
                        f"could arm it again in epoll {epoll}",
                        {"descriptor": waits.fd, "epoll": epoll, "bytes": waits.amount},
                    )


def _calls(view):
    """Say what a process that uses a core does with it, as (kind, sentence, evidence)."""
    core, calls = f"{view.share:.2f} of a core", view.calls
    evidence = {"share": round(view.share, 2)}
    if view.refused:
        why = f"its calls are unknown: tracing failed ({view.refused})"
        yield "busy", f"busy or spinning: {core}, and {why}", evidence
    elif calls is not None and len(calls) < FEW:
        if view.busiest.naps > FEW:
            return  # it works, and did not get the core while it was traced
        said = count(len(calls), "system call") if calls else "no system call"
        waits = in_words(what_waits(view))
        meanwhile = f". Meanwhile {waits}" if waits else ""
        says = f"computes: {core}, and {said} in {strace.SECONDS} s{meanwhile}"
        yield "busy", says, dict(evidence, calls=len(calls))
    elif calls and not moves_anything(view) and has_a_turn(calls):
        says = f"spinning: {core}. In {len(calls)} calls: {calls_in_words(view)}"
        yield "spinning", says, dict(evidence, calls=len(calls))


def _full_queue(view):
    for fd, file in view.listeners.items():
        row, before = file.socket, view.earlier.get(fd)
        was = before.socket.unread if before and before.socket else 0
        if row.limit and min(row.unread, was) > row.limit:
            if row.kind == "unix":
                lost = "connect fails with EAGAIN, or waits without a limit"
                lets_in = f"listen({row.limit})"
            else:
                lost = "New SYNs are dropped, and tried again after 1 s"
                lets_in = f"listen({row.limit}) lets in {row.limit + 1}"
            yield (
                f"the accept queue of {fd} is full: {row.unread} wait, and {lets_in}. {lost}",
                {"descriptor": fd, "clients": row.unread, "limit": row.limit},
            )


def _descriptors(view):
    used, limit = len(view.files), view.descriptor_limit
    if used >= NEARLY * limit:
        said = f"{used} descriptors are open, and {limit} are allowed"
        yield f"{said}: then accept fails with EMFILE", {"open": used, "allowed": limit}


def _blocked(view):
    """Tell that the loop sleeps elsewhere, though nobody waits yet."""
    if _is_stopped(view) or what_waits(view) or any(serves(view, each) for each in view.threads):
        return
    lists = [epoll for epoll in view.epolls if _serving_list(view, epoll)]
    how, thread = culprit(view)
    if lists and how == "asleep":
        blocked = thread.looks[-1]
        yield (
            f"blocked: {name_of(view, thread)} has slept all the time in "
            f"{where(view, blocked, thread.watches)}, "
            f"not in epoll_wait({lists[0]}). Nobody waits for it yet",
            {"thread": thread.number, "call": blocked.call, "epoll": lists[0]},
        )


def _serving_list(view, epoll):
    watched = on_the_list(view, epoll)
    return any(is_ours(view, file) for file in view.files.values() if file.inode in watched)


def _connections(view):
    """Yield the sockets that do not listen, and were there at both ends, as at_both_ends() does."""
    return (each for each in at_both_ends(view) if not each[1].listens)


def _asked(view):
    """Return what anybody asks for, by a list or by the call that it sleeps in: {inode: mask}."""
    asked = collections.Counter()
    lists = [on_the_list(view, epoll) for epoll in view.epolls]
    for masks in [*lists, *(asks_for(view, thread) for thread in view.threads)]:
        for inode, mask in masks.items():
            asked[inode] |= mask
    return asked


def _some(numbers, what):
    """Say which sockets have something in common."""
    some = ", ".join(map(str, numbers[:6])) + ", …" * (len(numbers) > 6)
    return f"{count(len(numbers), 'socket')} ({some}) {what}", {"descriptors": numbers}


def _leaking(view):
    left = [
        fd
        for fd, file, before in _connections(view)
        if file.socket.state == before.socket.state == "CLOSE-WAIT" and not file.socket.unsent
    ]
    if left:
        yield _some(left, "in CLOSE-WAIT: the peer has closed, and the process has not")


def _duplicates(view):
    for epoll in view.epolls:
        left = sorted({fd for each, fd, _ in view.outlived if each == epoll})
        if left:
            keeps = "a duplicate (dup, fork) keeps it alive"
            yield _some(left, f"closed here, but watched by epoll {epoll}: {keeps}")


def _unread(view):
    """Tell of bytes that no list asks for, where there are lists; it may be on purpose."""
    asked = _asked(view)
    left = [
        fd
        for fd, file, before in _connections(view)
        if view.epolls and file.unread == before.unread > 0
        if not asked[file.inode] & (IN | ONE_SHOT)
    ]
    if left:
        yield _some(left, "with bytes unread, and nobody watches for IN")


def _unsent(view):
    """Tell of peers that take nothing of what was sent to them."""
    stuck = collections.defaultdict(list)
    asked = _asked(view)
    for fd, file, before in _connections(view):
        now, was = file.socket, before.socket
        is_closed = now.timer == was.timer == "probe"  # asked again and again for room
        is_still = now.acked == was.acked
        if now.kind == "tcp" and now.unsent and was.unsent and (is_closed or is_still):
            who = "the process waits" if asked[file.inode] & OUT else "nobody watches"
            zero = "does not read, and its window is zero"
            why = zero if now.timer == "probe" else "has acknowledged none of them meanwhile"
            stuck[f"with bytes unsent: the peer {why}; {who} for OUT"].append(fd)
    for what, numbers in stuck.items():
        yield _some(numbers, what)


def _left_on(view):
    asked = _asked(view)
    left = [
        fd
        for fd, file, before in _connections(view)
        if asked[file.inode] & OUT and not asked[file.inode] & EDGE
        if not file.socket.unsent and not before.socket.unsent and view.share >= SPINNING
    ]
    if left:
        yield _some(left, "watched for OUT with nothing unsent, so that no wait lasts")


def _silent(view):
    left = [
        fd
        for fd, file, _ in _connections(view)
        if is_a_clients(view, file) and file.socket.state == "ESTABLISHED"
        if file.socket.timer == "off" and (file.socket.silent or 0) >= SILENT
    ]
    if left:
        yield _some(
            left,
            f"have said nothing for {SILENT} s, and no keepalive asks whether they are there",
        )


STACK = "`py-spy dump --pid {pid}` shows the line of a Python program"
ASYNCIO = (
    f"{STACK}; so do `python -m asyncio ps {{pid}}`, from Python 3.14 on, "
    "and asyncio's debug mode, once the call has returned"
)
PEERS = "`ss -tinp` shows their peers and timers"

RULES = (
    Rule(
        "stopped",
        "its state is T or t",
        "`kill -CONT {pid}` lets it go on",
        _stopped,
    ),
    Rule(
        "frozen",
        "something waits that is on its list, and the thread that should take it has slept all the "
        "time in another call",
        ASYNCIO,
        _of_kind("frozen", _held_up),
    ),
    Rule(
        "locked",
        "clients' bytes are unread, nobody waits for them, and all other threads have slept in "
        "futex",
        "`py-spy dump --pid {pid}` shows the line of every thread: who has the lock?",
        _of_kind("locked", _held_up),
    ),
    Rule(
        "all threads taken",
        "clients wait, and every thread sleeps in a call on another client",
        "give each client a deadline, or wait for many in one thread; " + PEERS,
        _of_kind("all threads taken", _held_up),
    ),
    Rule(
        "one client",
        "others wait, and the only thread sleeps in a call on one client",
        "give each client a deadline, or wait for many in one thread; " + PEERS,
        _of_kind("one client", _held_up),
    ),
    Rule(
        "slow",
        "something waits, the thread that should take it has run, and at most looks it was in the "
        "same call, which is none that waits for it",
        f"make that call shorter, or elsewhere: a thread, a pool. {STACK}",
        _of_kind("slow", _held_up),
    ),
    Rule(
        "not watched",
        "clients wait at a listener, all threads are at rest, and none of them waits for it",
        "look at the others that hold it: who registers the listener, and when?",
        _unwatched,
    ),
    Rule(
        "spent edge",
        "something waits at a socket that a sleeping thread watches with ET",
        "look for the loop that should read, or accept, until EAGAIN",
        _spent,
    ),
    Rule(
        "disarmed",
        "bytes are unread at a socket that ONESHOT has disarmed, and all threads are at rest",
        f"which worker should have armed it, and did it die? {STACK}",
        _disarmed,
    ),
    Rule(
        "spinning",
        "it uses a core in both halves of the window, and a whole turn of its loop moves no data",
        f"the first call that is named is the one to handle. {STACK}",
        _of_kind("spinning", _calls),
    ),
    Rule(
        "busy",
        "it uses a core and makes few system calls while something waits, or none at all",
        f"{STACK}, `py-spy top --pid {{pid}}` where the time goes",
        _of_kind("busy", _calls),
    ),
    Rule(
        "full queue",
        "more clients wait than listen's number",
        "accept faster, or listen with a greater number; `nstat -az TcpExtListenOverflows`",
        _full_queue,
    ),
    Rule(
        "descriptors",
        f"{NEARLY:.0%} of the descriptors that are allowed are open",
        "`ls -l /proc/{pid}/fd` shows what they are; raise the limit with `prlimit --nofile`",
        _descriptors,
    ),
    Rule(
        "blocked",
        "nobody waits, and the thread of its loop has slept all the time in another call",
        ASYNCIO,
        _blocked,
    ),
    Rule(
        "leaking",
        "a socket was in CLOSE-WAIT all the time, with nothing left to send",
        "`if not data: close`; `ss -tnp state close-wait` shows whose they are",
        _leaking,
    ),
    Rule(
        "outlived",
        "an epoll has a registration whose descriptor is closed here, or is another file now",
        "unregister before close where a descriptor is duplicated",
        _duplicates,
    ),
    Rule(
        "unread",
        "bytes are unread, as many as before, on no list",
        "back-pressure does so on purpose, for as long as it can't send; " + PEERS,
        _unread,
    ),
    Rule(
        "unsent",
        "a peer has acknowledged nothing of what was sent to it",
        PEERS,
        _unsent,
    ),
    Rule(
        "OUT left on",
        "it uses a core, and a socket is watched for OUT with nothing to send",
        "ask for OUT only while something is unsent",
        _left_on,
    ),
    Rule(
        "silent clients",
        f"a client has sent nothing for {SILENT} s, and has no keepalive",
        "SO_KEEPALIVE and TCP_USER_TIMEOUT on the listener, tcp(7); " + PEERS,
        _silent,
    ),
)
