"""Many clients in one thread: each has its own story, and nobody is waited for longer than said."""

import errno
import socket
import time

import pytest

import lab
from conftest import ROOT
from lab.callers import Caller, attend
from lab.server import Server

SIX = ROOT / "code" / "06_one_shot.py"


@pytest.fixture
def full():
    """A listener whose queue has room for one, and the one who is in it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        with lab.Conversation(listener.getsockname()):
            yield listener


def close(callers):
    for caller in callers:
        caller.close()


def test_each_is_connected_and_then_answered():
    with Server(SIX) as server:
        callers = [Caller(server.address) for _ in range(30)]
        assert not any(caller.connected or caller.received for caller in callers)
        done = attend(callers, 5)
    assert set(done) == set(callers) and not any(caller.error for caller in done)
    for caller in done:
        (answer,) = lab.clients.parse_answers(caller.received)
        assert lab.survival.is_hello(answer)
        assert caller.began <= caller.connected <= caller.answered
        assert caller.waited() == caller.connected - caller.began < 0.9
    ends = [caller.answered for caller in done]
    assert ends == sorted(ends), "in the order in which they were through"


def test_they_leave_no_time_wait_behind():
    with Server(SIX) as server:
        attend([Caller(server.address) for _ in range(20)], 5)
        lab.until_at_rest(server.pid, 1)
        lab.until(lambda: len(lab.kernel.sockets(server.port)) == 1)


def test_another_takes_the_place_of_one_that_is_through():
    with Server(SIX) as server:
        total = []

        def then(caller):
            total.append(caller)
            return Caller(server.address) if len(total) <= 20 else None

        done = attend([Caller(server.address) for _ in range(5)], 5, then=then)
    assert total == done and len(done) == 25 and all(caller.answered for caller in done)


def test_nobody_is_waited_for_longer_than_said(full):
    caller = Caller(full.getsockname())
    began = time.monotonic()
    assert attend([caller], 0.2) == []
    assert 0.2 <= time.monotonic() - began < 0.7
    assert (caller.state(), caller.waited(), caller.answered) == ("SYN-SENT", None, None)
    caller.close()
    caller.close()


def test_a_syn_is_sent_again_after_a_second(full):
    caller = Caller(full.getsockname())
    assert caller.retries() == 0
    lab.until(lambda: caller.retries() == 1, 3)
    assert 0.9 < time.monotonic() - caller.began < 1.9
    with full.accept()[0]:
        assert attend([caller], 5, asks=False) == [caller]
    assert caller.waited() > 1.9 and caller.retries() == 0
    caller.close()


def test_who_does_not_ask_stays():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        callers = [Caller(listener.getsockname()) for _ in range(3)]
        assert set(attend(callers, 5, asks=False)) == set(callers)
        assert [caller.state() for caller in callers] == ["ESTABLISHED"] * 3
        for _ in callers:
            with listener.accept()[0] as accepted:
                assert lab.kernel.unread(accepted) == 0
        close(callers)


def test_one_that_is_refused_has_an_error_and_the_others_their_answer():
    with Server(SIX) as server, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refused = Caller(nobody.getsockname())
        served = Caller(server.address)
        assert set(attend([refused, served], 5)) == {refused, served}
    assert refused.error.errno == errno.ECONNREFUSED and refused.answered is None
    assert served.error is None and served.answered


def test_one_that_is_reset_has_an_error(serving):
    path = serving("""
        def serve(listener):
            while True:
                connection, _ = listener.accept()
                connection.recv(1)  # and leaves the rest unread
                connection.close()
    """)
    with Server(path) as server:
        caller = Caller(server.address)
        assert attend([caller], 5) == [caller]
    assert caller.error.errno == errno.ECONNRESET and not caller.answered
    assert caller.socket.fileno() < 0


def test_who_is_left_may_be_attended_to_again(full):
    """One is connected and waits for an answer; one is not even connected."""
    address = full.getsockname()
    full.listen(1)
    inside, outside = Caller(address), Caller(address)
    assert attend([inside, outside], 0.2) == []
    assert inside.connected and not outside.connected
    assert attend([inside, outside], 0.1) == [] and inside.error is None
    full.accept()[0].close()
    accepted, _ = full.accept()
    accepted.sendall(b"an answer")
    accepted.close()
    assert attend([inside], 5)[0].error, "its request was left unread"
    with full:
        assert attend([outside], 3, asks=False) == [outside]
        close([inside, outside])
