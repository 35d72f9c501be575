"""A View as text, in lines that a phone shows, and as data."""

import collections
import select
import textwrap

from . import kernel
from .calls import calls_in_words, count, where
from .findings import SPINNING

ALWAYS = select.EPOLLERR | select.EPOLLHUP  # epoll_ctl(2): reported whether asked for or not
LINES, WIDTH = 12, 72  # that a report shows of a list, and the columns of a phone
NOTHING = "nothing wrong that can be seen from here"


def report(view, facts=True):
    """Write a View as text, in lines of WIDTH columns as far as that goes: first what is wrong.

    facts: and then all that was seen.
    """
    lines = [
        f"process {view.pid}: {view.command}"[:WIDTH],
        f"  {count(len(view.threads), 'thread')}, "
        f"{len(view.files)} of {view.descriptor_limit} descriptors, "
        f"{view.resident / 1e6:.0f} MB, {view.share:.2f} of a core",
        "findings",
        *_findings(view),
    ]
    if view.not_seen:
        lines += ["not seen", *(line for each in view.not_seen for line in _item(each))]
    return "\n".join([*lines, *(_facts(view) if facts else ())])


def _findings(view):
    for finding in view.findings:
        yield from _item(finding.says)
        yield from _item(finding.next, "  > ")
    main = view.threads[0]
    if not view.findings and main.slept:
        asleep = where(view, main.looks[-1], main.watches)
        yield from _item(f"{NOTHING}: it sleeps in {asleep}")
    elif not view.findings:
        yield from _item(NOTHING)


def _item(text, mark="- "):
    lines = textwrap.wrap(text, WIDTH - len(mark), break_on_hyphens=False)
    return [mark + lines[0], *(" " * len(mark) + line for line in lines[1:])]


def _facts(view):
    lines = ["threads", *_first(_thread_line(view, thread) for thread in view.threads)]
    watching = {f"epoll {fd}": watches for fd, watches in view.epolls.items()}
    for thread in [thread for thread in view.threads if thread.watches]:
        watching[f"{thread.looks[-1].call} of {thread.number}"] = thread.watches
    for who, watches in watching.items():
        left = {fd for each, fd, _ in view.outlived if who == f"epoll {each}"}
        shown = (_watch_line(watch, watch.fd in left) for watch in watches)
        lines += [f"{who} watches {len(watches)}", *_first(shown)]
    files = {**view.listeners, **view.sockets}
    watched = {watch.fd for watch in view.watches if watch.file}
    lines.append(f"sockets: {_states(view, files)}")
    lines += _first(f"{fd}: {_words(file)}" for fd, file in files.items() if fd not in watched)
    for fd, file in view.listeners.items():
        if others := view.holders.get(file.inode):
            lines.append(f"listener {fd} is shared with {', '.join(map(str, others[:8]))}")
    if view.calls is not None:
        what = (
            f"traced thread {view.busiest.number}, as strace does: {count(len(view.calls), 'call')}"
        )
        told = "spinning" in [finding.kind for finding in view.findings]
        lines += _item(what if told or not view.calls else f"{what}: {calls_in_words(view)}", "")
    if view.refused:
        lines += _item(f"not traced: {view.refused}", "")
    return lines


def _states(view, files):
    states = collections.Counter(file.socket.state for file in files.values()).most_common()
    if states:
        return ", ".join(f"{times} {state}" for state, times in states)
    return "not seen" if any(file.text == "socket" for file in view.files.values()) else "none"


def _first(lines):
    """Return the first of some lines, indented, and say how many more there are."""
    lines = list(lines)
    more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return [f"  {line}" for line in lines[:LINES] + more]


def _thread_line(view, thread):
    main, blocked = "main " * (thread.number == view.pid), thread.looks[-1]
    doing = "running"
    if blocked:
        place = where(view, blocked, thread.watches)
        doing = f"asleep in {place}" if thread.slept else f"has run, now in {place}"
    doing = "stopped" if thread.state in "Tt" else doing
    share = f", {thread.share:.2f} of a core" if thread.share > SPINNING else ""
    return f"{main}{thread.number}: {doing}{share}"


def _watch_line(watch, is_left=False):
    names = kernel.mask_names(watch.mask & ~ALWAYS).replace("-", "nothing but ERR and HUP")
    lost = "watched, but closed here" if is_left else "has come or gone just now"
    what = _words(watch.file) if watch.file else lost
    return f"{watch.fd} for {names}: {what}"


def _words(file):
    if file.listens:
        limit = f", limit {file.socket.limit}" if file.socket.limit else ""
        return f"{file.text}, {file.socket.unread} waiting{limit}"
    row = file.socket
    return file.text + (f", {file.unread} unread, {row.unsent} unsent" if row else "")


def as_data(view):
    """Return a View as what json can write: pid, command, findings, not_seen, threads and so on."""
    return {
        "pid": view.pid,
        "command": view.command,
        "findings": [finding._asdict() for finding in view.findings],
        "not_seen": list(view.not_seen),
        "threads": [_thread(view, each) for each in view.threads],
        "sockets": [_socket(fd, each) for fd, each in view.files.items() if each.socket],
        "epolls": {str(fd): [_watch(each) for each in many] for fd, many in view.epolls.items()},
    }


def _thread(view, thread):
    blocked = thread.looks[-1]
    return {
        "thread": thread.number,
        "name": thread.name,
        "state": thread.state,
        "share": round(thread.share, 3),
        "slept": thread.slept,
        "in": where(view, blocked, thread.watches) if blocked else None,
    }


def _socket(fd, file):
    row = file.socket
    return {
        "descriptor": fd,
        "kind": row.kind,
        "state": row.state,
        "local": list(row.local),
        "remote": list(row.remote),
        "unread": row.unread,
        "unsent": row.unsent,
        "limit": row.limit,
        "timer": row.timer,
        "silent": row.silent,
    }


def _watch(watch):
    mask = kernel.mask_names(watch.mask)
    return {"descriptor": watch.fd, "mask": mask, "open": watch.file is not None}
