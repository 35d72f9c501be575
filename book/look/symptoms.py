"""What is wrong with a process, as far as a View of it tells.

Each rule is a function of a View that yields sentences. A finding is about what was so at both
ends of the window: a client that waits for a moment is no symptom.
"""

import collections
import select

from . import kernel, strace

SPINNING = kernel.SPINNING
FEW = 20  # calls while it is traced, at the most, are the calls of a process that computes

LOOPS = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
POLLS = strace.POLLS
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
IN, OUT, EDGE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET
ALWAYS = select.EPOLLERR | select.EPOLLHUP  # epoll_ctl(2): reported whether asked for or not


def findings(view):
    """Tell what is wrong, as a list of sentences, the most important first."""
    found = [finding for rule in RULES for finding in rule(view)]
    blocked = view.threads[0].looks[-1]
    asleep = f": it sleeps in {where(view, blocked)}" if blocked else ""
    return found or [f"nothing wrong that can be seen from here{asleep}"]


def count(number, thing):
    """Say how many of a thing there are: `1 client`, `2 clients`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _descriptor(name, arguments):
    """Return the descriptor that a call is made on, or None."""
    return arguments[0] & 0xFFFFFFFF if name in ON_A_DESCRIPTOR else None


def where(view, blocked):
    """Say where a thread sleeps: `recvfrom(7) (ESTABLISHED with …)`."""
    fd, what = _descriptor(blocked.call, blocked.arguments), HINTS.get(blocked.call)
    if fd in view.files and blocked.call not in LOOPS:
        what = view.files[fd].text
    call = blocked.call if fd is None else f"{blocked.call}({fd})"
    return f"{call} ({what})" if what else call


def _waiting(view):
    """Say what waits for a process: clients in accept queues, and bytes that it watches for."""
    clients = sum({each.inode: each.socket.unread for each in view.listeners.values()}.values())
    watched = {watch.file.inode for watch in view.watches if watch.file}
    sockets = [each for each in view.sockets.values() if each.inode in watched and each.unread]
    said = []
    if clients:
        said.append(f"{count(clients, 'client')} wait{'s' * (clients == 1)} in the accept queue")
    if sockets:
        unread = sum(each.unread for each in sockets)
        said.append(f"{count(unread, 'byte')} of {count(len(sockets), 'socket')} unread")
    return " and ".join(said)


def _stopped(view):
    if view.threads[0].state in "Tt":
        yield f"stopped, by SIGSTOP, Ctrl-Z or a tracer: `kill -CONT {view.pid}` lets it go on"


def _held_up(view):
    """Tell that clients wait, and every thread sleeps where it does not wait for them."""
    waiting, guilty = _waiting(view), _guilty(view)
    if not waiting or not guilty:
        return
    blocked = guilty.looks[-1]
    name = "the main thread" if guilty.number == view.pid else f"thread {guilty.number}"
    said = f"{waiting}, while {name} sleeps in {where(view, blocked)}"
    alike = sum(thread.looks[-1].call == blocked.call for thread in view.threads)
    if not _is_on_a_client(view, blocked):
        instead = f", not in epoll_wait({min(view.epolls)})" if view.epolls else ""
        yield f"frozen: {said}{instead}. Until that call returns, nobody is served"
    elif alike > 1:
        several = f"{alike} threads sleep in {blocked.call}"
        yield f"all threads are taken: {waiting}, while {several}, each on a client"
    else:
        why = "with nothing to read" if blocked.call in RECEIVES else "which does not read"
        yield f"one client holds up all: {said}, {why}"


def _guilty(view):
    """Return the thread whose sleep keeps clients waiting; None if any thread is at work.

    A thread is at work if it ran, or waits for clients.
    """
    looks = [look for thread in view.threads for look in thread.looks]
    if view.threads[0].state in "Tt":
        return None
    sleeps = all(len(set(thread.looks)) == 1 for thread in view.threads) and None not in looks
    if not sleeps or any(look.call in LOOPS + POLLS + ACCEPTS for look in looks):
        return None
    # A thread that sleeps in a call on a client, or for a time, keeps the others from the rest.
    calls = [thread.looks[-1].call for thread in view.threads]
    order = (*RECEIVES, *SENDS, "connect", "clock_nanosleep", *calls)
    return min(view.threads, key=lambda thread: order.index(thread.looks[-1].call))


def _is_on_a_client(view, blocked):
    """Tell whether a call is on a client's socket: one that a listener of the process accepted."""
    file = view.sockets.get(_descriptor(blocked.call, blocked.arguments))
    ports = [each.socket.local[1] for each in view.listeners.values()]
    return bool(file) and file.socket.local[1] in ports


def _busy(view):
    core, calls = f"{view.share:.2f} of a core", view.calls
    if view.refused:
        yield f"busy or spinning: {core}. Its calls are unknown: tracing failed ({view.refused})"
    elif calls is not None and len(calls) < FEW:
        said = count(len(calls), "system call") if calls else "no system call"
        waiting = f". Meanwhile {_waiting(view)}" if _waiting(view) else ""
        yield f"computes: {core}, and {said} in {strace.SECONDS} s{waiting}"
    elif calls:
        kinds = collections.Counter(_call_and_outcome(view, call) for call in calls).most_common()
        shown = [f"{call} {times} times, which {how}" for (call, how), times in kinds[:4]]
        rest = sum(times for _, times in kinds[4:])
        shown += [f"others {rest} times"] if rest else []
        useful = any(how in ("accepted a client", "moved data") for (_, how), _ in kinds)
        word = "busy" if useful else "spinning"
        yield f"{word}: {core}. In {len(calls)} calls: {'; '.join(shown)}"


def _call_and_outcome(view, call):
    """Describe a call and its outcome, so that like calls have the same words."""
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
    if len(view.files) >= 0.9 * view.descriptor_limit:
        said = f"{len(view.files)} descriptors are open, and {view.descriptor_limit} are allowed"
        yield f"{said}: then accept fails with EMFILE"


def _neglected(view):
    """Tell what is wrong with single sockets, now and at the window's beginning."""
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
            yield f"{count(len(numbers), 'socket')} ({some}) {what}"


RULES = (_stopped, _held_up, _busy, _limits, _neglected)
