"""The recorder: run a server, and keep what it and its clients did, on one clock.

    with lab.record("02_request_loop.py") as run:
        lab.clients.plain_get(run.talk("first"), run.server)
    run.recording

The server runs in a process of its own, under `_traced.py`; the clock is CLOCK_MONOTONIC, which is
the same in all processes (clock_gettime(2)). Nothing here needs privileges.

A recording is plain data, as JSON has it:

    server      its file's name                 status   exit status, or None
    source      its lines                       ended    when it ended
    capped      whether the limit of calls was reached; what came later is not here
    calls       [{t, took, thread, line, call, fd, given, got, error, sockets, interest}]
                `line` is None where another file of the server's folder has called
    lines       [[t, thread, line]]: what was executed, in order
    clients     [{name, port, events: [[t, what, bytes]]}]

Times are seconds since the server listened. `took` is None for a call that never returned.
`sockets` is {descriptor: [state, unread, unsent]} after the call, and `interest` is
{epoll: {descriptor: events}}.
"""

import contextlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path

from .clients import Conversation, plain_get
from .server import Server, find

MOST_CALLS = 2000


class Run:
    """A server under record and the conversations with it."""

    def __init__(self, path, arguments, most_calls):
        self._file = tempfile.TemporaryFile()
        self._talks, self._looked_at, self._full = [], 0, False
        self.recording = None
        out = self._file.fileno()
        traced = Path(__file__).with_name("_traced.py")
        before = [str(traced), str(out), str(most_calls)]
        self.server = Server(path, *arguments, before=before, inherit=[out])
        self._began = time.monotonic()

    def talk(self, name, seconds=5):
        """A Conversation with the server that will be in the recording, under that name."""
        talk = Conversation(self.server.address, name, seconds)
        self._talks.append(talk)
        return talk

    def asks(self, name):
        """A client of that name asks and reads, in a thread: (its Conversation, the thread)."""
        talk = self.talk(name)
        thread = threading.Thread(target=plain_get, args=[talk, self.server])
        thread.start()
        return talk, thread

    def is_full(self):
        """Has the limit of calls been reached?"""
        # Not by read: the offset is the server's, which writes there.
        new = os.pread(self._file.fileno(), 1 << 24, self._looked_at)
        self._looked_at += max(0, len(new) - len('"capped"'))
        self._full = self._full or b'"capped"' in new
        return self._full

    def finish(self):
        """Stop the server, close what clients are left, and put the recording together."""
        if self.recording is not None:
            return
        for talk in self._talks:
            talk.close()
        status = self.server.process.poll()
        now = time.monotonic()
        self.server.stop()
        ended = min(now, self.server.ended_at)
        self._file.seek(0)
        with self._file:
            written = self._file.read()
        self.recording = {
            "server": self.server.name,
            "source": self.server.path.read_text(encoding="utf-8").splitlines(),
            "status": status,
            "ended": ended - self._began,
            **_merge(written, self._began),
            "clients": [self._client(talk) for talk in self._talks],
        }

    def _client(self, talk):
        events = [[t - self._began, what, count] for t, what, count in talk.events]
        return {"name": talk.name, "port": talk.port, "events": events}


def _merge(written, began):
    """Put the beginnings and the returns of calls together; a torn last line is left out."""
    calls, lines, capped = {}, [], False
    for text in written.splitlines(keepends=True):
        if not text.endswith(b"\n"):
            break
        record = json.loads(text)
        if "capped" in record:
            capped = True
        elif "begins" in record:
            number, executed = record.pop("begins"), record.pop("lines")
            record["t"] -= began
            lines += [[t - began, record["thread"], line] for t, line in executed]
            calls[number] = record | {"took": None, "got": None, "error": None}
        else:
            call = calls[record.pop("returns")]
            call["took"] = record.pop("t") - began - call["t"]
            call |= record
    ordered = sorted(calls.values(), key=lambda call: call["t"])
    shown = [call for call in ordered if call["call"] != "(runs)"]
    return {"calls": shown, "lines": sorted(lines), "capped": capped}


@contextlib.contextmanager
def record(name, *arguments, most_calls=MOST_CALLS):
    """Run a server under record for as long as the block lasts; yields a Run.

    name: a file in run/, or a path. After the block, `run.recording` is there; the server is gone.
    """
    run = Run(find(name), arguments, most_calls)
    try:
        yield run
    finally:
        run.finish()
