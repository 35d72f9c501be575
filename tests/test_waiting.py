"""Waiting for what has happened: asked again and again, until it is so or time is up."""

import os
import time

import pytest

from look import kernel
from survive.waiting import until, until_at_rest, until_blocked


def test_until_returns_what_it_waited_for():
    answers = iter([None, 0, "", "at last", "too late"])
    assert until(lambda: next(answers)) == "at last"
    assert next(answers) == "too late"


def test_what_is_so_already_is_not_waited_for():
    assert until(lambda: 7, seconds=-1) == 7


@pytest.mark.parametrize("what", ["a miracle", None])
def test_until_gives_up_in_time_and_says_what_it_waited_for(what):
    def never():
        return False

    began = time.monotonic()
    with pytest.raises(TimeoutError, match=f"waited 0.05 s for {what or '.*never'}"):
        until(never, 0.05, what)
    assert 0.05 <= time.monotonic() - began < 2


def test_an_error_of_the_condition_ends_the_waiting():
    with pytest.raises(ZeroDivisionError):
        until(lambda: 1 / 0)


def test_until_blocked_waits_for_that_call_of_that_thread(monkeypatch):
    asked = []
    found = [None, *(kernel.Blocked(call, "somewhere") for call in ("futex", "accept4", "poll"))]

    def blocked_in(*who):
        asked.append(who)
        return found[len(asked) - 1]

    monkeypatch.setattr(kernel, "blocked_in", blocked_in)
    assert until_blocked(1, "accept4", 2) is found[2]
    assert asked == [(1, 2)] * 3


def test_until_blocked_says_what_it_waited_for():
    with pytest.raises(TimeoutError, match=f"process {os.getpid()} to sleep in accept4"):
        until_blocked(os.getpid(), "accept4", seconds=0.01)


@pytest.mark.parametrize(("count", "said"), [(None, "to rest$"), (7, "to rest with 7 sockets$")])
def test_until_at_rest_waits_for_so_many_sockets(monkeypatch, count, said):
    asked = []
    monkeypatch.setattr(kernel, "is_at_rest", lambda *who: asked.append(who) or len(asked) == 3)
    until_at_rest(1, count)
    assert asked == [(1, count)] * 3
    with pytest.raises(TimeoutError, match=f"waited 0.01 s for process 1 {said}"):
        until_at_rest(1, count, seconds=0.01)
