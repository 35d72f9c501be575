"""System calls in words: where a thread sleeps, and what one that was traced has done."""

import collections
import select

from . import kernel, strace

LOOPS = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
POLLS = strace.POLLS
ACCEPTS = ("accept", "accept4")
RECEIVES = ("read", "readv", "recvfrom", "recvmsg", "recvmmsg")
SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile")
OTHERS = ("connect", "close", "shutdown", "epoll_ctl", "getsockopt", "setsockopt", "ioctl", "fcntl")
ON_A_DESCRIPTOR = (*LOOPS, *ACCEPTS, *RECEIVES, *SENDS, *OTHERS)  # it is their first argument
HINTS = {
    "clock_nanosleep": "time.sleep()",
    "futex": "a lock, or another thread",
    "wait4": "another process",
    "EAGAIN": "nothing there yet: it should wait for it in epoll_wait",
    "EMFILE": "no descriptor left: close some, or raise the limit",
}
ERROR_QUEUE = "ERR is reported for its error queue, which recvmsg(MSG_ERRQUEUE) would empty"
USEFUL = ("accepted a client", "moved data")


def count(number, thing):
    """Say how many of a thing there are: `1 client`, `2 clients`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def name_of(view, thread):
    """Say which thread is meant."""
    if thread.number == view.pid:
        return "the main thread"
    return f"thread {thread.number}"


def where(view, blocked, watches=()):
    """Say where a thread sleeps: `recvfrom(7) (ESTABLISHED with …)`.

    watches: those of its poll() or select(), of which a single one says what it waits for.
    """
    fd, what = descriptor(blocked.call, blocked.arguments), HINTS.get(blocked.call)
    file = on_what(view, blocked, watches)
    if file and blocked.call in POLLS:
        what = f"for {watches[0].fd}: {file.text}"
    elif file:
        what = file.text
    call = blocked.call if fd is None else f"{blocked.call}({fd})"
    return f"{call} ({what})" if what else call


def on_what(view, blocked, watches=()):
    """Return the File that a call is on, or None: of a poll() or select(), if it is for one only.

    A socket with a timeout is read so: by a poll() for it alone.
    """
    if blocked.call in POLLS:
        return watches[0].file if watches and len(watches) == 1 else None
    fd = descriptor(blocked.call, blocked.arguments)
    return view.files.get(fd) if blocked.call not in LOOPS else None


def descriptor(name, arguments):
    """Return the descriptor that a call is made on, or None."""
    return arguments[0] & 0xFFFFFFFF if name in ON_A_DESCRIPTOR and arguments else None


# Of a thread that was traced
# ---------------------------


def _kinds_of_calls(view):
    """Count the traced calls by what they were and what came of them, the useful ones first."""
    failing = _with_errors(view)
    kinds = collections.Counter(_call_and_outcome(view, call, failing) for call in view.calls)
    return sorted(kinds.items(), key=lambda kind: (kind[0][1] not in USEFUL, -kind[1]))


def moves_anything(view):
    """Has the traced thread accepted a client, or moved data of one?"""
    return any(outcome in USEFUL for (_, outcome), _ in _kinds_of_calls(view))


def calls_in_words(view):
    """Say what the traced calls were: the four kinds that say most, and how many others."""
    kinds = _kinds_of_calls(view)
    shown = [
        f"{call} {count(times, 'time')}, which {outcome}" for (call, outcome), times in kinds[:4]
    ]
    rest = sum(times for _, times in kinds[4:])
    return "; ".join([*shown, f"others {count(rest, 'time')}"] if rest else shown)


def has_a_turn(calls):
    """Does a trace hold a whole turn of the loop? Without one, what it does may be yet to come."""
    waits = sum(call.name in (*LOOPS, *POLLS) for call in calls)
    return waits > 1 or not waits and len({call.name for call in calls}) <= 3


def _with_errors(view):
    """Return the descriptors that were reported with ERR: a registration goes by its data."""
    events = [event for call in view.calls for event in call.events]
    failing = {data for mask, data in events if mask & select.EPOLLERR}
    return {watch.fd for watch in view.watches if watch.data in failing}


def _call_and_outcome(view, call, failing=()):
    """Describe a call and its outcome, so that like calls have the same words."""
    fd, name = descriptor(call.name, call.arguments), call.name
    if call.error:
        hint = HINTS.get(call.error)
        hint = ERROR_QUEUE if call.error == "EAGAIN" and fd in failing else hint
        outcome = f"failed with {call.error}" + (f" ({hint})" if hint else "")
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
