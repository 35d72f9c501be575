"""Chapter 11's server under load: a listener that is handed over, a restart, and what stays."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import lab
from conftest import CLOSING, KEPT, is_refused
from lab.crowd import within_limit
from stage import HARDENED, statuses

# A listener that is handed over

HAND_OVER = """
import os, sys
fd, number, pid, *command = sys.argv[1:]
os.dup2(int(fd), 3)
os.environ.update(LISTEN_FDS=number, LISTEN_PID=pid or str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-u", *command])
"""


def handing_over(fd, *arguments, number="1", pid=""):
    """Return the command that starts it with a descriptor as its third, as systemd does."""
    program = [sys.executable, "-c", HAND_OVER, str(fd), number, pid]
    return [*program, str(HARDENED), "0", *arguments]


def take(listener, **options):
    return lab.Server(
        handing_over(listener.fileno(), **options), name="taker.py", inherit=[listener.fileno()]
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_a_listener_is_taken_as_it_is(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    with listener, take(listener) as server:
        address = listener.getsockname()[:2]
        assert server.address == address and lab.rows.is_hello(lab.get(address))
        lab.until_blocked(server.pid, "epoll_wait")
        with server.paused():
            talk = lab.Conversation(address)
            talk.send(KEPT)
            server.send_signal(signal.SIGTERM)
        talk.read_all()
        assert statuses(talk.received) == [200]
        talk.close()
        assert server.wait() == 0
        with lab.Conversation(address):  # the listener is ours, and still listens
            pass


def test_a_listener_that_is_taken_probes_the_silent_too():
    with socket.create_server(("127.0.0.1", 0)) as listener, take(listener):
        tcp = socket.IPPROTO_TCP
        assert listener.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 60_000
        assert listener.getsockopt(tcp, socket.TCP_NODELAY) == 1


@pytest.mark.parametrize("options", [{"pid": "1"}, {"number": "0"}])
def test_what_is_meant_for_another_is_not_taken(options):
    with socket.create_server(("127.0.0.1", 0)) as listener, take(listener, **options) as server:
        assert server.address != listener.getsockname()
        assert lab.rows.is_hello(lab.get(server.address))


def a_unix_socket():
    each = socket.socket(socket.AF_UNIX)
    each.bind("")
    each.listen()
    return each


def a_udp_socket():
    each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    each.bind(("127.0.0.1", 0))
    return each


def one_that_does_not_listen():
    each = socket.socket()
    each.bind(("127.0.0.1", 0))
    return each


def one_that_is_connected():
    ours, theirs = lab.pair()
    theirs.close()
    return ours


@pytest.mark.parametrize(
    "make",
    [
        a_unix_socket,
        a_udp_socket,
        one_that_does_not_listen,
        one_that_is_connected,
        lambda: open(os.devnull),
    ],
    ids=["Unix", "UDP", "not listening", "connected", "no socket"],
)
def test_what_can_not_be_served_is_one_line(make):
    with make() as each:
        done = subprocess.run(
            handing_over(each.fileno()),
            capture_output=True,
            text=True,
            timeout=10,
            pass_fds=[each.fileno()],
        )
    assert is_refused(done, "descriptor 3, handed over, is no TCP socket that listens")


@pytest.mark.parametrize("number", ["2", "-1", "x", "01", ""])
def test_one_listener_is_taken_and_no_other_number(number):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = handing_over(listener.fileno(), number=number)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, pass_fds=[listener.fileno()]
        )
    assert is_refused(done, f"hand over one listener, not {number}")


class Load:
    """Threads that ask, each request in a connection of its own, or many over a kept one.

    Who is told `Connection: close` connects anew. number: of requests, or more, until `is_enough`.
    lost: what went wrong. slowest: the seconds that a request took at most, its connection
    included.
    """

    def __init__(self, address, number, threads=4, is_enough=True):
        self.address, self.number, self.is_enough = address, number, is_enough
        self.asked = self.done = 0
        self.lock, self.lost, self.slowest = threading.Lock(), [], 0
        habits = [self.once, self.kept]
        self.threads = [
            threading.Thread(target=self.go_on, args=[habits[i % 2]]) for i in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    def next(self):
        with self.lock:
            goes_on = self.asked < self.number or not self.is_enough
            self.asked += goes_on
            return goes_on

    def go_on(self, habit):
        while self.next():
            try:
                habit()
            except OSError as error:
                self.lost.append(repr(error))

    def connect(self):
        connection = socket.create_connection(self.address, timeout=10)
        linger = b"\1\0\0\0\0\0\0\0"  # no TIME-WAIT for each of ten thousand
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return connection

    def ask(self, connection, request, began):
        """Ask, and return whether the connection is kept."""
        connection.sendall(request)
        answer = b""
        while not answer.endswith(b"Hello, world!"):
            if not (data := connection.recv(4096)):
                raise ConnectionError(f"an end after {answer}")
            answer += data
        with self.lock:
            self.done += answer.startswith(b"HTTP/1.1 200 OK\r\n")
            self.slowest = max(self.slowest, time.monotonic() - began)
        return b"\r\nConnection: close\r\n" not in answer

    def once(self):
        began = time.monotonic()
        with self.connect() as connection:
            assert self.ask(connection, CLOSING, began) is False
            assert connection.recv(1) == b""

    def kept(self):
        began = time.monotonic()
        with self.connect() as connection:
            while self.ask(connection, KEPT, began) and self.next():
                began = time.monotonic()

    def join(self):
        for thread in self.threads:
            thread.join()


def test_a_restart_loses_none_of_ten_thousand_requests():
    """Twice, under load: the next one listens before the last one is told to end."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        contextlib.ExitStack() as stack,
    ):
        server = stack.enter_context(take(listener))
        load = Load(listener.getsockname(), 10_000, is_enough=False)
        stack.callback(load.join)
        stack.callback(setattr, load, "is_enough", True)
        for after in (2000, 5000):
            lab.until(lambda after=after: load.done >= after or load.lost, 30)
            following = stack.enter_context(take(listener))
            server.send_signal(signal.SIGTERM)
            assert (server.wait(10), server.errors()) == (0, "")
            server = following
        load.is_enough = True
        load.join()
        assert (load.lost, load.done) == ([], load.asked) and load.asked >= 10_000
        assert load.slowest < 3


# Nothing grows


def test_twenty_thousand_connections_leave_nothing():
    with lab.serve(HARDENED) as server:

        def go(number):
            load = Load(server.address, number, threads=2)
            load.join()
            assert (load.lost, load.done) == ([], number)
            lab.at_rest(server, sockets=1)
            return server.descriptors(), server.memory()

        descriptors, memory = go(1000)
        after = go(20_000)
        assert after[0] == descriptors and after[1] - memory < 1_000_000


def test_a_silent_connection_costs_less_than_a_kilobyte():
    number = within_limit(8000)
    with lab.serve(HARDENED, "--max-connections", number + 10) as server:
        assert lab.rows.is_hello(lab.get(server.address))
        before = server.memory()
        with lab.Crowd(server.address, number):
            lab.until_at_rest(server.pid, number + 1, 20)
            each = (server.memory() - before) / number
            assert server.cpu_share() <= lab.kernel.SPINNING
        assert each < 1000, f"{each:.0f} bytes for each"
        print(f"{each:.0f} bytes for each")
