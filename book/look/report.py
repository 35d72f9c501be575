"""A View as text, in lines that a phone shows."""

import collections
import textwrap

from . import kernel
from .symptoms import ALWAYS, SPINNING, count, where

LINES, WIDTH = 12, 72  # that a report shows of a list, and the columns of a phone


def report(view):
    """Write a View as text, in lines of WIDTH columns as far as that goes."""
    lines = [
        f"process {view.pid}: {view.command}"[:WIDTH],
        f"  {count(len(view.threads), 'thread')}, "
        f"{len(view.files)} of {view.descriptor_limit} descriptors, "
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
    """Return the first of some lines, indented, and say how many more there are."""
    lines = list(lines)
    more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return [f"  {line}" for line in lines[:LINES] + more]


def _thread_line(view, thread):
    main, blocked = "main " * (thread.number == view.pid), thread.looks[-1]
    doing = f"asleep in {where(view, blocked)}" if blocked else "running"
    doing = "stopped" if thread.state in "Tt" else doing
    share = f", {thread.share:.2f} of a core" if thread.share > SPINNING else ""
    return f"{main}{thread.number}: {doing}{share}"


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
