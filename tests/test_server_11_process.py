"""Chapter 11's server as a process: its command line, its limits and its signals.

Over TCP, and by a real clock, where stage.py does not reach.
"""

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

import lab
from conftest import CLOSING, KEPT, interest, is_refused, read_answers
from stage import HARDENED, load, statuses

HOST = b"Host: localhost\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])


def run(*arguments, before="", **options):
    """Run it to its end, for arguments that it must refuse; before: shell text in front."""
    command = ["sh", "-c", f'{before} exec "$@"', "sh", sys.executable, str(HARDENED), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, **options)


def serve(*arguments, before=""):
    """Start it, with shell text in front; returns a Server."""
    command = [sys.executable, "-u", str(HARDENED), "0", *arguments]
    return lab.Server(["sh", "-c", f'{before} exec "$@"', "sh", *command], name="11_hardened.py")


SMALL_BUFFER = """
prepare = chapter.prepare
def small(listener):
    prepare(listener)
    listener.setsockopt(chapter.socket.SOL_SOCKET, chapter.socket.SO_SNDBUF, 10_000)
chapter.prepare = small
"""


@pytest.fixture
def small(run_folder):
    """Write a server with small send buffers, and a last call of 9 s; returns its path."""
    patient = {"farewell": 2, "last call": 9, "pause": 1}
    return lab.variant(HARDENED, "small.py", SMALL_BUFFER, SECONDS=patient)


@pytest.fixture
def eleven():
    with lab.serve(HARDENED) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        yield server


# The command line


@pytest.mark.parametrize("port", ["x", "-1", "65536", "8e3", "9" * 5000, "²", "", "1.5"])
def test_a_bad_port_is_one_line(port):
    assert is_refused(run(port), "port|unrecognized|expected")


@pytest.mark.parametrize(
    "timeout",
    ["idle=-1", "idle=x", "idle=nan", "idle=inf", "idle=", "idle=3000000"]
    + [f"{name}=0" for name in ("idle", "header", "body", "write", "drain")],
)
def test_a_bad_timeout_is_one_line(timeout):
    assert is_refused(run("0", "--{}-timeout={}".format(*timeout.split("="))), "timeout")


@pytest.mark.parametrize("number", ["-1", "x", "1.5", ""])
def test_a_bad_number_of_connections_is_one_line(number):
    assert is_refused(run("0", f"--max-connections={number}"), "max-connections")


@pytest.mark.parametrize("arguments", [["0", "1"], ["--no-such"], ["0", "-x"], ["--idle-timeout"]])
def test_what_it_does_not_know_is_one_line(arguments):
    assert is_refused(run(*arguments), "arguments|argument")


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert is_refused(
            run(str(port)), rf"port {port}: Address already in use; try another, or 0"
        )


def test_help_is_no_complaint():
    done = run("-h")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("idle", "header", "body", "write", "drain"):
        assert f"--{option}-timeout" in done.stdout
    assert "--max-connections" in done.stdout and "--verbose" in done.stdout


def test_it_runs_under_the_c_locale():
    assert is_refused(run("x", env={"LANG": "C", "PATH": os.environ["PATH"]}), "port")


SOON = 0.4  # a deadline of seconds; the others are what they are, ten at the least


def waits_for_room(server, epoll):
    return any(mask & select.EPOLLOUT for mask in interest(server, epoll).values())


def asks_without_end(server, talk):
    """Ask and read nothing, until the server waits for room and neither of them sends any more."""
    epoll = lab.until_blocked(server.pid, "epoll_wait").arguments[0]
    talk.keep_sending(KEPT * 20)

    def is_full():
        before = len(talk.events)
        waits = waits_for_room(server, epoll)
        time.sleep(0.05)
        return waits and len(talk.events) == before

    lab.until(is_full, 9)
    talk.stop_sending()


def waits_idle(server, talk):
    talk.read_all()
    return talk.ended, talk.received


def drips_a_header(server, talk):
    talk.send(KEPT[:9])
    talk.read_all()
    return talk.ended, statuses(talk.received)


def drips_a_body(server, talk):
    talk.send(POST + b"Content-Length: 9\r\n\r\nhe")
    talk.read_all()
    return talk.ended, statuses(talk.received)


def stays_after_sigterm(server, talk):
    talk.send(KEPT[:9])
    lab.until_at_rest(server.pid, 2)
    server.send_signal(signal.SIGTERM)
    return server.wait(), server.errors()


@pytest.mark.parametrize(
    ("name", "act", "expected"),
    [
        ("idle", waits_idle, ("closed", b"")),
        ("header", drips_a_header, ("closed", [408])),
        ("body", drips_a_body, ("closed", [408])),
        ("drain", stays_after_sigterm, (0, "")),
    ],
)
def test_each_deadline_is_the_one_that_is_asked_for(name, act, expected):
    with lab.serve(HARDENED, f"--{name}-timeout", SOON) as server, lab.connect(server) as talk:
        began = time.monotonic()
        assert act(server, talk) == expected
        assert SOON - 0.1 < time.monotonic() - began < 4


def test_who_takes_no_answer_is_reset(small):
    """Though all that it has sent is read: the kernel keeps nothing for it either."""
    with lab.serve(small, "--write-timeout", SOON) as server:
        epoll = lab.until_blocked(server.pid, "epoll_wait").arguments[0]
        with lab.connect(server, receive_buffer=1) as talk:
            while not waits_for_room(server, epoll):
                talk.send(KEPT * 230)  # one turn
                lab.until(lambda: not lab.kernel.queues_of(talk.socket)[1])
                lab.until_at_rest(server.pid, 2)
            lab.until(lambda: len(server.sockets()) == 1, 9)
            while talk.receive():
                pass
            assert talk.ended == "reset"
        lab.at_rest(server, sockets=1)
        assert lab.rows.is_hello(lab.get(server.address))


def test_who_asks_while_it_is_stopped_is_answered_however_long_that_is():
    """Their deadlines are over when it goes on; but they have kept them."""
    with lab.serve(HARDENED, "--idle-timeout", SOON, "--header-timeout", SOON) as server:
        talks = [lab.connect(server) for _ in range(20)]
        for talk in talks[10:]:
            talk.send(KEPT[:9])
        lab.until_at_rest(server.pid, 21)
        with server.paused():
            for talk in talks:
                talk.send(KEPT if talk in talks[:10] else KEPT[9:])
            time.sleep(3 * SOON)
        for talk in talks:
            read_answers(talk, 1)
            talk.close()


# Limits


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (POST + b"Content-Length: 10000000\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n989680\r\n", 413),
        (KEPT[:-2] + b"X: ", 431),
        (POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", 405),
        (CLOSING, 200),
    ],
)
def test_the_answer_arrives_though_ten_megabytes_follow(eleven, start, status):
    with lab.connect(eleven) as talk:
        talk.send(start + b"z" * 10_000_000)
        talk.read_all()
        assert (statuses(talk.received), talk.ended) == ([status], "closed")
    lab.at_rest(eleven, sockets=1)


def test_what_is_refused_or_waits_is_not_kept_in_memory(eleven):
    """Of each a hundred times as much is sent as may be kept."""
    assert lab.rows.is_hello(lab.get(eleven.address))
    before = eleven.memory()
    for start in (KEPT[:-2] + b"X: ", POST + b"Transfer-Encoding: chunked\r\n\r\n5;"):
        for _ in range(5):
            with lab.connect(eleven) as talk, contextlib.suppress(ConnectionError):
                talk.send(start + b"z" * 12_000_000)
    with lab.connect(eleven, receive_buffer=1) as talk:
        asks_without_end(eleven, talk)
        assert eleven.memory() - before < 2_000_000
        assert lab.rows.is_hello(lab.get(eleven.address))
        assert eleven.cpu_share() <= lab.kernel.SPINNING


def test_no_request_is_remembered_for_ever(eleven):
    """A thousand that differ, eight megabytes in all."""
    with lab.connect(eleven) as talk:
        before = eleven.memory()
        for number in range(1000):
            talk.send(KEPT[:-2] + b"X: %d%b\r\n\r\n" % (number, b"y" * 8000))
            while talk.received.count(b"Hello, world!") <= number:
                assert talk.receive()
        assert eleven.memory() - before < 3_000_000


def test_no_more_clients_than_it_is_told_and_the_next_when_one_leaves():
    with lab.serve(HARDENED, "--max-connections", 2) as server:
        talks = [lab.connect(server) for _ in range(2)]
        lab.at_rest(server, sockets=3)
        waiting = lab.connect(server)
        waiting.send(KEPT)
        lab.until(lambda: lab.kernel.accept_queue(server.address)[0] == 1)
        assert server.cpu_share() <= lab.kernel.SPINNING
        for talk in talks:
            talk.send(KEPT)
            read_answers(talk, 1)
        assert lab.kernel.accept_queue(server.address)[0] == 1 and not lab.kernel.unread(
            waiting.socket
        )
        talks[0].close()
        read_answers(waiting, 1)
        for talk in (talks[1], waiting):
            talk.close()
        assert lab.rows.is_hello(lab.get(server.address))


def test_the_limit_of_descriptors_is_raised_as_far_as_it_is_needed():
    with serve("--max-connections", "200", before="ulimit -Sn 64;") as server:
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[0] == 216
        talks = [lab.connect(server) for _ in range(200)]
        lab.until_at_rest(server.pid, 201)
        for talk in talks:
            talk.close()
    assert is_refused(run("0", "--max-connections", "100", before="ulimit -n 100;"), "at most 84")


@pytest.mark.parametrize(("limit", "most"), [(40, 24), (17, 1), (16, 1), (12, 1)])
def test_without_a_number_the_limit_of_descriptors_says_how_many(limit, most):
    with serve(before=f"ulimit -Sn {limit};") as server:
        talks = [lab.connect(server) for _ in range(most + 3)]
        lab.until(lambda: len(server.sockets()) == 1 + most)
        lab.until(lambda: lab.kernel.accept_queue(server.address)[0] == 3)
        assert server.cpu_share(0.1) <= lab.kernel.SPINNING
        for talk in talks:
            talk.send(CLOSING)
            talk.read_all()
            assert statuses(talk.received) == [200]
            talk.close()


def test_out_of_descriptors_it_sleeps_and_goes_on_when_there_are_some():
    """The limit is another's doing, and nobody leaves who could remind it."""
    with lab.serve(HARDENED) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        free = server.descriptors()
        server.limit(resource.RLIMIT_NOFILE, free)
        with lab.connect(server) as talk:
            talk.send(KEPT)
            lab.until(lambda: lab.kernel.accept_queue(server.address)[0] == 1)
            lab.until_blocked(server.pid, "epoll_wait")
            assert server.cpu_share(0.5) <= lab.kernel.SPINNING
            server.limit(resource.RLIMIT_NOFILE, free + 10)
            read_answers(talk, 1)


def test_what_connections_inherit():
    module = load(HARDENED)
    tcp = socket.IPPROTO_TCP
    due = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
        (tcp, socket.TCP_KEEPIDLE, 30),
        (tcp, socket.TCP_KEEPINTVL, 10),
        (tcp, socket.TCP_USER_TIMEOUT, 60_000),
        (tcp, socket.TCP_NODELAY, 1),
    ]
    with module.listen(0) as listener, socket.create_connection(listener.getsockname()) as client:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        connection, _ = listener.accept()
        with connection:
            assert [connection.getsockopt(*each[:2]) for each in due] == [each[2] for each in due]
        assert client.recv(1) == b""


def test_who_has_vanished_is_given_up_idle_or_with_answers_unread(run_folder):
    """Long before a deadline of ours; the kernel finds out."""
    path = lab.variant(HARDENED, "watchful.py", PROBE_AFTER=1, PROBE_EVERY=1, VANISHED=2)
    with lab.serve(path) as server:
        silent, gone = lab.connect(server), lab.connect(server)
        full = lab.connect(server, receive_buffer=1)
        asks_without_end(server, full)
        for talk in (gone, full):
            lab.clients.vanish(talk.socket)
        lab.until(lambda: len(server.sockets()) == 2, 9)
        silent.send(KEPT)
        read_answers(silent, 1)
        for talk in (silent, gone, full):
            lab.clients.reset(talk.socket)


# Signals


@SIGNALS
def test_a_signal_ends_it_at_once_where_nobody_is(eleven, number):
    eleven.send_signal(number)
    assert (eleven.wait(2), eleven.errors(), eleven.output()) == (0, "", "")


@SIGNALS
def test_a_signal_right_at_the_start_is_heard(number):
    """As soon as it has said where it listens."""
    command = [sys.executable, "-u", str(HARDENED), "0"]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stdout.readline().startswith(b"listening on ")
            process.send_signal(number)
            assert process.wait(5) == 0 and process.stderr.read() == b""
        finally:
            process.kill()
            process.communicate()


@SIGNALS
def test_who_waits_in_the_queue_is_answered(eleven, number):
    with eleven.paused():
        talks = [lab.connect(eleven) for _ in range(100)]
        for talk in talks:
            talk.send(KEPT)
        eleven.send_signal(number)
    for talk in talks:
        talk.read_all()
        assert (statuses(talk.received), talk.ended) == ([200], "closed")
        talk.close()
    assert (eleven.wait(), eleven.errors()) == (0, "")


@SIGNALS
def test_all_who_are_there_get_what_they_are_due(small, number):
    """And the door is shut first: nobody is let in who would not be served."""
    with lab.serve(small) as server:
        half, idle, full = (
            lab.connect(server, receive_buffer=size) for size in (None, None, 10_000)
        )
        half.send(KEPT[:20])
        asks_without_end(server, full)
        server.send_signal(number)

        def refuses():
            with contextlib.suppress(ConnectionRefusedError):
                lab.connect(server).close()
                return False
            return True

        lab.until(refuses)
        half.send(KEPT[20:])
        idle.send(KEPT)
        for talk in (half, idle, full):
            talk.read_all()
            assert talk.ended == "closed" and talk.received.endswith(b"Hello, world!")
            assert talk.received.count(b"\r\nConnection: close\r\n") == 1
            talk.close()
        assert (server.wait(), server.errors()) == (0, "")


@SIGNALS
def test_a_second_signal_ends_it_whoever_is_there(eleven, number):
    with lab.connect(eleven) as talk:
        talk.send(KEPT[:9])
        lab.until_at_rest(eleven.pid, 2)
        eleven.send_signal(signal.SIGTERM)
        lab.until(lambda: len(eleven.sockets()) == 1)  # the listener is closed
        eleven.send_signal(number)
        assert (eleven.wait(2), eleven.errors()) == (0, "")
        talk.read_all()
        assert talk.received == b""
