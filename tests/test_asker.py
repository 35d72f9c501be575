"""Many clients in one thread: each has its own story, and nobody is waited for longer than said."""

import errno
import socket
import time

import pytest

import lab
from conftest import ROOT
from lab.crowd import Asker, ask_all
from survive.server import serve

SIX = ROOT / "code" / "06_one_shot.py"


@pytest.fixture
def full():
    """A listener whose queue has room for one, and the one who is in it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        with lab.Conversation(listener.getsockname()):
            yield listener


def close(askers):
    for asker in askers:
        asker.close()


def test_each_is_connected_and_then_answered():
    with serve(SIX) as server:
        askers = [Asker(server.address) for _ in range(30)]
        assert not any(asker.connected or asker.received for asker in askers)
        done = ask_all(askers, 5)
    assert set(done) == set(askers) and not any(asker.error for asker in done)
    for asker in done:
        (answer,) = lab.clients.parse_answers(asker.received)
        assert lab.rows.is_hello(answer)
        assert asker.began <= asker.connected <= asker.answered
        assert asker.waited() == asker.connected - asker.began < 0.9
    ends = [asker.answered for asker in done]
    assert ends == sorted(ends), "in the order in which they were through"


def test_they_leave_no_time_wait_behind():
    with serve(SIX) as server:
        ask_all([Asker(server.address) for _ in range(20)], 5)
        lab.until_at_rest(server.pid, 1)
        lab.until(lambda: len(lab.kernel.sockets(server.port)) == 1)


def test_another_takes_the_place_of_one_that_is_through():
    with serve(SIX) as server:
        total = []

        def then(asker):
            total.append(asker)
            return Asker(server.address) if len(total) <= 20 else None

        done = ask_all([Asker(server.address) for _ in range(5)], 5, replace_with=then)
    assert total == done and len(done) == 25 and all(asker.answered for asker in done)


def test_nobody_is_waited_for_longer_than_said(full):
    asker = Asker(full.getsockname())
    began = time.monotonic()
    assert ask_all([asker], 0.2) == []
    assert 0.2 <= time.monotonic() - began < 0.7
    assert (asker.state(), asker.waited(), asker.answered) == ("SYN-SENT", None, None)
    asker.close()
    asker.close()


def test_a_syn_is_sent_again_after_a_second(full):
    asker = Asker(full.getsockname())
    assert asker.retries() == 0
    lab.until(lambda: asker.retries() == 1, 3)
    assert 0.9 < time.monotonic() - asker.began < 1.9
    with full.accept()[0]:
        assert ask_all([asker], 5, asks=False) == [asker]
    assert asker.waited() > 1.9 and asker.retries() == 0
    asker.close()


def test_who_does_not_ask_stays():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        askers = [Asker(listener.getsockname()) for _ in range(3)]
        assert set(ask_all(askers, 5, asks=False)) == set(askers)
        assert [asker.state() for asker in askers] == ["ESTABLISHED"] * 3
        for _ in askers:
            with listener.accept()[0] as accepted:
                assert lab.kernel.unread(accepted) == 0
        close(askers)


def test_one_that_is_refused_has_an_error_and_the_others_their_answer():
    with serve(SIX) as server, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refused = Asker(nobody.getsockname())
        served = Asker(server.address)
        assert set(ask_all([refused, served], 5)) == {refused, served}
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
    with serve(path) as server:
        asker = Asker(server.address)
        assert ask_all([asker], 5) == [asker]
    assert asker.error.errno == errno.ECONNRESET and not asker.answered
    assert asker.socket.fileno() < 0


def test_who_is_left_may_be_attended_to_again(full):
    """One is connected and waits for an answer; one is not even connected."""
    address = full.getsockname()
    full.listen(1)
    inside, outside = Asker(address), Asker(address)
    assert ask_all([inside, outside], 0.2) == []
    assert inside.connected and not outside.connected
    assert ask_all([inside, outside], 0.1) == [] and inside.error is None
    full.accept()[0].close()
    accepted, _ = full.accept()
    accepted.sendall(b"an answer")
    accepted.close()
    assert ask_all([inside], 5)[0].error, "its request was left unread"
    with full:
        assert ask_all([outside], 3, asks=False) == [outside]
        close([inside, outside])
