"""The bill of a visit, against servers whose calls and CPU time are known."""

import pytest

from conftest import ROOT
from lab import cost
from survive.server import serve

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
    """What comes before the first client is not on the bill, nor what comes after the last."""
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


def test_polls_in_vain_are_not_on_the_bill(serving):
    """A thread of its own polls, and nothing ever comes; the visits take longer than that."""
    beside = "threading.Thread(target=poll_in_vain, daemon=True).start()"
    path = serving(IN_VAIN + SLEEPS_ONCE.format(beside=beside, each="time.sleep(0.25)"))
    assert cost.system_calls(path) == ONE_EACH


def test_visits_that_are_not_alike_have_no_bill(serving):
    each = "number % 2 or epoll.register(connection, 0)"
    with pytest.raises(ValueError, match="5 visits, and yet .*'epoll_ctl': 3"):
        cost.system_calls(serving(SLEEPS_ONCE.format(beside="pass", each=each)))


@pytest.mark.parametrize("count", [{}, {"close": 4}, {"close": 5, "sendto": 6}])
def test_counts_that_are_no_bill(count):
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
