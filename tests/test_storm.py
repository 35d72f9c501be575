"""A storm of random clients on chapter 11's server: all is answered, and nothing is left of it.

STORM_SECONDS in the environment makes it longer, STORM_SEED draws other clients: the same ones
each time otherwise, so that a run is like the one before as far as clocks let it.
"""

import os
import resource
import signal
import threading
import time

import pytest

import lab
from conftest import ROOT
from storm import CLIENTS, Storm

ELEVEN = ROOT / "code" / "11_hardened.py"
SECONDS = float(os.environ.get("STORM_SECONDS", 14))  # and some ten till all have left
SEED = int(os.environ.get("STORM_SEED", 11))
DEADLINE = 1.0  # seconds
GROWTH = 4_000_000  # bytes


class Watcher:
    """Somebody who comes all along, in a thread, and is answered each time within some seconds.

    By how much the storm itself comes too late meanwhile he waits longer.
    """

    def __init__(self, storm, seconds):
        self.storm, self.seconds, self.slowest, self.wrong = storm, seconds, 0, []
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.enough.set()
        self.thread.join()

    def watch(self):
        while not self.enough.wait(0.1):
            began, behind = time.monotonic(), self.storm.behind()
            try:
                assert lab.rows.is_hello(lab.get(self.storm.address, seconds=20))
            except (AssertionError, OSError) as error:
                self.wrong.append(f"the watcher: {error!r}")
            waited = time.monotonic() - began
            if waited > self.seconds + self.storm.behind() - behind:
                self.wrong.append(f"the watcher waited {waited:.2f} s")
            self.slowest = max(self.slowest, waited)


def serve(*arguments):
    phases = ("idle", "header", "body", "write")
    timeouts = [f"--{phase}-timeout={DEADLINE}" for phase in phases]
    server = lab.serve(ELEVEN, *timeouts, *arguments)
    server.limit(resource.RLIMIT_CPU, 100_000)  # of seconds
    lab.until_blocked(server.pid, "epoll_wait")
    return server


def until_no_timer(server):
    """Wait until it waits without any deadline: epoll_wait's timeout is -1."""

    def waits_for_ever():
        blocked = lab.kernel.blocked_in(server.pid)
        return (
            blocked
            and blocked.call == "epoll_wait"
            and blocked.arguments[3] & 0xFFFFFFFF == (0xFFFFFFFF)
        )

    lab.until(waits_for_ever, 10, "no timer to be left")


def rage(server, seed, seconds, patience):
    storm = Storm(server, seed, DEADLINE)
    with Watcher(storm, patience) as watcher:
        storm.rage(seconds)
    print(f"seed {seed}: {dict(storm.counted)}, the watcher waited {watcher.slowest:.2f} s")
    wrong = [*storm.wrong, *watcher.wrong]
    assert not wrong, f"STORM_SEED={SEED}: {len(wrong)} times\n" + "\n".join(wrong[:10])
    return storm


@pytest.mark.parametrize(
    ("arguments", "patience"), [(["-v"], 2), (["--max-connections=25"], 15)], ids=["all", "limited"]
)
def test_a_storm_leaves_nothing_behind(arguments, patience):
    with serve(*arguments) as server:
        before = lab.kernel.descriptors(server.pid)
        rage(server, SEED, SECONDS / 10, patience)
        until_no_timer(server)
        memory = lab.kernel.memory(server.pid)
        if "-v" in arguments:
            server.fill_console()
        storm = rage(server, SEED + 1, SECONDS * 4 / 10, patience)
        assert len(storm.counted) >= len(CLIENTS) - 3, "hardly anybody came"

        until_no_timer(server)
        assert lab.kernel.descriptors(server.pid) == before
        assert lab.kernel.memory(server.pid) - memory < GROWTH
        for _ in range(2):
            assert lab.kernel.cpu_share(server.pid, 0.2) <= lab.kernel.SPINNING
        assert lab.rows.is_hello(lab.get(server.address))
        server.send_signal(signal.SIGTERM)
        assert (server.wait(), server.errors()) == (0, ""), f"STORM_SEED={SEED}"


def test_it_ends_in_the_middle_of_a_storm():
    with serve("--drain-timeout=2") as server:
        storm = Storm(server, SEED, DEADLINE)
        ending = threading.Timer(1, server.send_signal, [signal.SIGTERM])
        ending.start()
        storm.rage(2, ends=True)
        ending.join()
        assert (server.wait(), server.errors()) == (0, ""), f"STORM_SEED={SEED}"
