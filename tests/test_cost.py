"""What a visit costs, against servers whose calls and CPU time are known."""

import contextlib
import os
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest

from conftest import ROOT
from lab import cost
from lab.recorder import Call
from look import kernel
from survive import clients
from survive.server import serve
from survive.waiting import until

LEVEL = ROOT / "code" / "04_level_triggered.py"


def test_the_calls_of_a_visit_to_the_level_triggered_server():
    assert cost.system_calls(LEVEL) == {
        "accept4": 1, "recvfrom": 1, "sendto": 1, "shutdown": 1, "close": 1, "epoll_ctl": 4,
        "epoll_wait": 4,
    }  # fmt: skip


SLEEPS_ONCE = """
import select
def serve(listener):
    {beside}
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        for number in range(1000):
            epoll.poll()
            connection, _ = listener.accept()
            {each}
            connection.recv(1024)
            connection.send(ANSWER)
            connection.close()
"""
ONE_EACH = dict.fromkeys(["epoll_wait", "accept4", "recvfrom", "sendto", "close"], 1)


def test_the_calls_of_a_visit_to_one_that_sleeps_in_recv(serving):
    """What comes before the first client is not counted, nor what comes after the last."""
    path = serving(SLEEPS_ONCE.format(beside="pass", each="pass"))
    assert cost.system_calls(path) == ONE_EACH


def test_a_client_asks_when_the_server_sleeps_again(serving):
    """One that tries at once, in vain, and then sleeps, does so at each visit."""
    path = serving(
        """
        import select
        def serve(listener):
            with select.epoll() as epoll:
                epoll.register(listener, select.EPOLLIN)
                while epoll.poll():
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    try:
                        connection.recv(1024)
                    except BlockingIOError:
                        connection.setblocking(True)
                        connection.recv(1024)
                    connection.send(ANSWER)
                    connection.close()
        """
    )
    assert cost.system_calls(path) == {**ONE_EACH, "recvfrom": 2}


IN_VAIN = """
def poll_in_vain():
    with select.epoll() as epoll:
        while True:
            epoll.poll(0.95)
"""


def test_polls_in_vain_are_not_counted(serving):
    """A thread of its own polls, and nothing ever comes; the visits take longer than that."""
    beside = "threading.Thread(target=poll_in_vain, daemon=True).start()"
    path = serving(IN_VAIN + SLEEPS_ONCE.format(beside=beside, each="time.sleep(0.25)"))
    assert cost.system_calls(path) == ONE_EACH


def test_visits_that_are_not_alike_are_refused(serving):
    each = "number % 2 or epoll.register(connection, 0)"
    with pytest.raises(ValueError, match="5 visits, and yet .*'epoll_ctl': 3"):
        cost.system_calls(serving(SLEEPS_ONCE.format(beside="pass", each=each)))


@pytest.mark.parametrize("count", [{}, {"close": 4}, {"close": 5, "sendto": 6}])
def test_counts_that_are_not_those_of_five_visits(count):
    with pytest.raises(ValueError, match="5 visits, and yet {"):
        cost.per_visit(count)


def test_a_fifth_of_five_visits():
    assert cost.per_visit({"close": 5, "epoll_wait": 20}) == {"close": 1, "epoll_wait": 4}


def test_the_cpu_time_of_a_request():
    with serve(LEVEL) as server:
        assert 0 < cost.cpu_per_request(server)[0] < 0.005


def test_the_cpu_time_of_a_request_that_takes_some(serving):
    path = serving(
        """
        def serve(listener):
            while True:
                with listener.accept()[0] as connection:
                    connection.recv(1024)
                    until = time.process_time() + 0.01
                    while time.process_time() < until:
                        pass
                    connection.sendall(ANSWER)
        """
    )
    with serve(path) as server:
        assert 0.01 <= cost.cpu_per_request(server, requests=5)[0] < 0.02


def test_the_calls_of_visits_at_once_are_averages(serving):
    """It finds all of them when it is let go on, and still takes one after the other."""
    path = serving(SLEEPS_ONCE.format(beside="pass", each="pass"))
    assert cost.system_calls(path, at_once=4) == ONE_EACH
    register = "number % 4 or epoll.register(connection, 0)"
    path = serving(SLEEPS_ONCE.format(beside="pass", each=register))
    assert cost.system_calls(path, at_once=4) == ONE_EACH | {"epoll_ctl": 0.25}


@pytest.mark.parametrize(
    ("name", "got", "took", "in_vain"),
    [
        ("poll", [], 0.91, True),
        ("poll", [], 0.9, False),
        ("poll", [[3, 1]], 0.91, False),
        ("recv", [], 0.91, False),
    ],
)
def test_a_poll_in_vain_has_waited_for_its_second(name, got, took, in_vain):
    assert cost._timed_out(Call(name, 4, "MainThread", 1, 0.0, [], took, got)) == in_vain


def test_the_least_of_each_servers_turns_is_taken(monkeypatch):
    """Two servers, three turns of two requests each: what the clocks say at each turn's ends."""
    clocks = {1: iter([0, 8, 8, 10, 10, 16]), 2: iter([0, 20, 20, 60, 60, 160])}
    asked = []
    monkeypatch.setattr(cost.kernel, "is_asleep", lambda pid: True)
    monkeypatch.setattr(cost.kernel, "cpu_time", lambda pid: next(clocks[pid]))
    monkeypatch.setattr(cost.clients, "get", asked.append)
    servers = [SimpleNamespace(pid=pid, address=pid) for pid in (1, 2)]
    assert cost.cpu_per_request(*servers, requests=2, turns=3) == [1, 10]
    assert asked == [1, 1, 2, 2] * 3, "in turns"


def test_the_cpu_time_of_a_request_when_many_come_at_once(monkeypatch):
    """The least of each server's turns, shared among those who came."""
    asked, clock = [], iter([0, 8, 10, 14])
    monkeypatch.setattr(cost.kernel, "is_asleep", lambda pid: True)
    monkeypatch.setattr(cost.kernel, "cpu_time", lambda pid: next(clock))
    monkeypatch.setattr(cost, "visits_at_once", lambda *what: asked.append(what))
    server = SimpleNamespace(pid=1, address=1)
    assert cost.cpu_at_once(server, number=4, turns=2) == [1]
    assert [(each, number) for each, _, number in asked] == [(server, 4)] * 2


def test_the_cpu_time_of_requests_that_come_at_once(serving):
    with serve(serving(SLEEPS_ONCE.format(beside="pass", each="pass"))) as server:
        assert 0 < cost.cpu_at_once(server, number=20, turns=2)[0] < 0.005


def test_visits_at_once_all_ask_before_the_server_goes_on(monkeypatch):
    did, at_rest = [], []

    @contextlib.contextmanager
    def paused():
        did.append("stopped")
        yield
        did.append("goes on")

    def talk(name):
        steps = {each: partial(did.append, f"{name} {each}") for each in ("read_all", "close")}
        return SimpleNamespace(send=lambda data: did.append(f"{name} asks"), **steps)

    monkeypatch.setattr(cost.kernel, "sockets", lambda pid: [1, 2, 3])
    monkeypatch.setattr(cost, "until_at_rest", lambda *what: at_rest.append(what))
    cost.visits_at_once(SimpleNamespace(pid=1, paused=paused), talk, 2)
    assert did[:4] == ["stopped", "client 0 asks", "client 1 asks", "goes on"]
    assert sorted(did[4:6]) == ["client 0 read_all", "client 1 read_all"] and len(did) == 8
    assert at_rest == [(1, 3)]


def test_strace_counts_what_the_recorder_has_counted():
    if isinstance(cost.by_strace(LEVEL), str):
        pytest.skip("no strace here, or it may not look")
    counted = {name: cost.system_calls(name) for name in (LEVEL,)}
    assert cost.compare_with_strace(counted) == "agrees"
    counted[LEVEL]["close"] += 1
    with pytest.raises(AssertionError, match="04_level_triggered.py: strace has counted"):
        cost.compare_with_strace(counted)


def test_without_strace_it_says_so(monkeypatch):
    monkeypatch.setattr(cost.shutil, "which", lambda name: None)
    assert cost.by_strace(LEVEL) == "not installed here"
    assert cost.compare_with_strace({LEVEL: {}}) == "not installed here"


def test_strace_that_may_not_look_says_so(write, monkeypatch):
    strace = write("#!/bin/sh\necho strace: attach: Operation not permitted >&2\n", "strace")
    strace.chmod(0o755)
    monkeypatch.setenv("PATH", f"{strace.parent}:/usr/bin:/bin")
    assert cost.by_strace(LEVEL) == "may not look here"


def test_what_strace_says_is_counted_from_the_second_visit_on():
    lines = [
        "epoll_wait(3, [{...}], 1023, -1) = 1",
        "accept4(4, ...) = 5",
        "close(5) = 0",
        "epoll_pwait(3, [], 1023, 1000, NULL, 8) = 0",
        "epoll_pwait(3, [{...}], 1023, 1000, NULL, 8) = 1",
        "accept4(4, ...) = 5",
        "--- SIGCHLD ---",
        "recvfrom(5, 0x1, 1024, 0) = 18",
        "close(5) = 0",
        "epoll_wait(3,  <detached ...>",
    ]
    assert cost._count_traced(lines) == {"epoll_wait": 1, "accept4": 1, "recvfrom": 1, "close": 1}


SLOW = """
def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.recv(1024)
        time.sleep({pause})
        connection.sendall(ANSWER)
        connection.close()
"""


def test_how_long_clients_wait(serving):
    quick, slow = (serve(serving(SLOW.format(pause=each), f"{each}.py")) for each in (0, 0.05))
    with quick, slow:
        times = cost.waits(quick, slow, times=4)
    assert [len(each) for each in times] == [4, 4]
    assert max(times[0]) < 0.05 <= min(times[1])


def test_all_threads_of_a_server_run_on_one_cpu():
    with serve(ROOT / "code" / "03_thread_per_client.py") as server:
        with clients.Conversation(server.address), clients.Conversation(server.address):
            until(lambda: len(kernel.threads(server.pid)) == 3)
            cost.on_one_cpu(server)
            allowed = [os.sched_getaffinity(thread) for thread in kernel.threads(server.pid)]
            assert allowed == [{min(os.sched_getaffinity(0))}] * 3


def test_how_many_cpus_threads_use():
    assert cost.cpus_used(3, lambda: time.sleep(0.01)) < 0.5
    assert 0.01 < cost.cpus_used(2, lambda: sum(range(10_000))) < 1.2
    assert not [each for each in threading.enumerate() if "work_on" in each.name]


def test_the_least_times_are_taken_in_turns():
    order = []
    calls = {
        "short": lambda: order.append("short"),
        "long": lambda: (order.append("long"), time.sleep(0.002)),
    }
    times = cost.least_times(calls, rounds=2, seconds=0)
    assert order == (["short"] * 5 + ["long"] * 5) * 2
    assert list(times) == ["short", "long"] and times["short"] < 0.002 <= times["long"]
