"""The crowd: as many connections as were asked for, all silent, gone in one go."""

import contextlib
import os
import resource
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
