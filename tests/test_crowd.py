"""The crowd: as many connections as were asked for, all silent, gone in one go."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys

import pytest

import lab
from conftest import BOOK
from lab import crowd
from survive.server import serve

HOLDS = """
def serve(listener):
    kept = []
    while True:
        kept.append(listener.accept())
"""


def established(server):
    rows = lab.kernel.sockets(pid=server.pid)
    return sum(row.state == "ESTABLISHED" for row in rows)


def test_they_are_all_there_and_all_go(serving):
    with serve(serving(HOLDS)) as server:
        lab.kernel.allow_descriptors(server.pid)
        with lab.Crowd(server.address, 300) as many:
            lab.until(lambda: established(server) == 300)
            assert lab.kernel.descriptors(many.process.pid) >= 300
            assert not lab.kernel.sockets(pid=server.pid)[0].unread, "they say nothing"
        lab.until(lambda: established(server) == 0)
        states = {row.state for row in lab.kernel.sockets(server.port)}
        assert states == {"LISTEN"}, "a reset leaves nothing, at neither end"
        many.close()


def test_one_that_is_refused_says_so():
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    with nobody, pytest.raises(ConnectionError, match=r"0 connections, then: .*refused"):
        lab.Crowd(nobody.getsockname(), 3)


def test_one_that_takes_too_long_says_so():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        with pytest.raises(ConnectionError, match="no 5 connections in 1 s"):
            lab.Crowd(full.getsockname(), 5, seconds=1)


def test_it_goes_with_whoever_has_started_it(serving):
    """Killed, too: nobody is left to close anything."""
    with serve(serving(HOLDS)) as server:
        program = (
            "import os, lab, signal\n"
            f"crowd = lab.Crowd({server.address!r}, 20)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=BOOK, timeout=20)
        assert done.returncode == -signal.SIGKILL
        lab.until(lambda: established(server) == 0)


def test_it_is_scaled_down_to_the_limit_and_says_when_that_is_too_low():
    program = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400))\n"
        "from lab.crowd import within_limit\n"
        "print(within_limit(50, least=50), within_limit(10_000, least=300))\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "try:\n"
        "    within_limit(10_000)\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=BOOK,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(BOOK)},
    )
    assert done.stdout == (
        f"50 {400 - crowd.SPARE}\n(400, 400)\n"
        "this needs 1100 descriptors, and `ulimit -Hn` allows 400\n"
    ), done.stderr


@pytest.mark.parametrize(("allowed", "number"), [(1199, 99), (1200, 100), (1201, 100)])
def test_some_descriptors_are_kept_for_other_things(monkeypatch, allowed, number):
    monkeypatch.setattr(crowd.kernel, "allow_descriptors", lambda: allowed - 1000)
    assert crowd.SPARE == 100
    assert crowd.within_limit(100, least=1) == number


@pytest.mark.parametrize(("allowed", "enough"), [(1099, False), (1100, True)])
def test_the_least_that_is_needed_is_enough(monkeypatch, allowed, enough):
    monkeypatch.setattr(crowd.kernel, "allow_descriptors", lambda: allowed)
    with contextlib.nullcontext() if enough else pytest.raises(OSError, match="needs 1100"):
        assert crowd.within_limit(10_000) == 1000


def test_a_crowd_may_be_larger_than_our_own_limit_and_has_a_group_of_its_own(serving):
    """Jupyter's interrupt goes to a whole group; the limit is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serve(serving(HOLDS)) as server:
        lab.kernel.allow_descriptors(server.pid)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        try:
            with lab.Crowd(server.address, 150) as many:
                lab.until(lambda: established(server) == 150)
                assert os.getpgid(many.process.pid) == many.process.pid
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Clients at a door.


def states(callers):
    return [caller.state() for caller in callers]


def close_all(callers):
    for caller in callers:
        caller.close()


@pytest.mark.parametrize("length", [0, 3, 40])
def test_they_queue_up_until_there_is_no_room(door, length):
    listener = door(length)
    callers = crowd.queue_up(listener.getsockname(), length + 4)
    assert states(callers) == ["ESTABLISHED"] * (length + 1) + ["SYN-SENT"] * 3
    assert lab.kernel.queues_of(listener) == (length + 1, length)
    close_all(callers)


def test_they_keep_coming_at_even_times(door):
    listener = door(1000)
    callers, seconds = crowd.keep_coming(listener.getsockname(), rate=100, seconds=0.2)
    assert seconds >= 0.2 and 0 <= len(callers) - 100 * seconds <= 1
    times = [caller.began - callers[0].began for caller in callers]
    assert all(t > n / 100 - 0.005 for n, t in enumerate(times)), "none before its time"
    assert set(states(callers)) == {"ESTABLISHED"}
    close_all(callers)


def test_who_is_answered_is_followed_by_another():
    with serve(BOOK.parent / "code" / "07_backlog.py", 1) as server:
        answered, left = crowd.closed_loop(server, 5, 0.3)
        outside = [caller for caller in left if caller.state() == "SYN-SENT"]
        assert len(outside) == 3, "two are let in, and make room for those who follow them"
        assert len(answered) > 10 and all(each.received for each in answered)
        assert max(each.began for each in answered) - min(each.began for each in left) < 0.5
    close_all(left)


def test_one_that_fails_in_a_closed_loop_is_told(serving):
    resets = """
    def serve(listener):
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1" + b"\\0" * 7)
            sock.close()
    """
    with serve(serving(resets)) as server, pytest.raises(OSError):
        crowd.closed_loop(server, 3, 0.3)


def test_a_syn_is_sent_again_after_a_second():
    (first,) = crowd.resent(1.5)
    assert 0.95 < first < 1.4


def test_ghosts_are_connected_to_nobody(door):
    listener = door(0)
    found = crowd.ghosts(listener, 20)
    assert 4 <= len(found) <= 20 and set(states(found)) == {"ESTABLISHED"}
    assert lab.kernel.queues_of(listener) == (1, 0)
    address = listener.getsockname()
    known = {row.remote for row in lab.kernel.sockets(address[1]) if row.local == address}
    assert not known & {each.socket.getsockname() for each in found}
    close_all(found)


@pytest.mark.skipif(not shutil.which("ab"), reason="ab is not installed here")
def test_ab_reports():
    with serve(BOOK.parent / "code" / "07_backlog.py", 128) as server:
        report = crowd.ab(server, requests=200)
        assert report == (200, report.waited, True) and report.waited < 0.9
        assert server.output().count("GET") >= 200


@pytest.mark.skipif(not shutil.which("ab"), reason="ab is not installed here")
def test_ab_that_is_held_waits_for_ghosts_and_is_interrupted():
    with serve(BOOK.parent / "code" / "07_backlog.py", 1) as server:
        report = crowd.ab(server, requests=3000, held=True, seconds=1)
    assert 1 <= report.waited < 4 and report.ended == (report.answered == 3000)


def test_without_ab_nothing_is_said(monkeypatch):
    monkeypatch.setattr(crowd.shutil, "which", lambda name: None)
    assert crowd.ab(None, requests=200) is None


@pytest.mark.skipif(not shutil.which("ab"), reason="ab is not installed here")
def test_ab_that_finds_nobody_is_told(serving):
    ends = """
    def serve(listener):
        pass
    """
    with serve(serving(ends)) as server, pytest.raises(RuntimeError, match="refused"):
        server.wait()
        crowd.ab(server, requests=100)


def test_a_false_alarm_is_no_error(monkeypatch):
    """A child being started still holds a closed socket: its event goes to the next one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asker = crowd.Asker(listener.getsockname())
        alarms, go_on = [BlockingIOError(), BlockingIOError()], asker._go_on
        listener.accept()

        def false_first(asks):
            if alarms:
                raise alarms.pop()
            return go_on(asks)

        monkeypatch.setattr(asker, "_go_on", false_first)
        assert crowd.ask_all([asker], 5, asks=False) == [asker]
        assert asker.error is None and asker.connected
        asker.close()
