"""Chapter 10's server: each client's end is its own affair."""

import fcntl
import http.client
import os
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

import lab
from conftest import CLOSING, KEPT, ROOT, address_in, ends_in_order, interest, read_answers
from survive import awkward

TEN = ROOT / "code" / "10_peers_that_close.py"


@pytest.fixture
def ten():
    with lab.serve(TEN) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        yield server
        if server.is_running():
            lab.until_at_rest(server.pid, 1)
            assert lab.kernel.cpu_share(server.pid, 0.1) <= lab.kernel.SPINNING


def reset_before_it_asks(talk, server):
    talk.reset()


def reset_when_it_is_answered(talk, server):
    talk.send(KEPT)
    read_answers(talk, 1)
    talk.reset()


def reset_after_the_farewell(talk, server):
    awkward.plain_get(talk, server)
    talk.reset()


def reset_while_it_is_sent_to(talk, server):
    """Answers are waiting for room in the send buffer."""
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    talk.keep_sending(KEPT * 20)
    epoll = lab.until_blocked(server.pid, "epoll_wait").arguments[0]
    out = select.EPOLLOUT

    def waits_for_room():
        return any(mask & out for mask in interest(server, epoll).values())

    lab.until(waits_for_room, 10)
    talk.reset()


@pytest.mark.parametrize(
    "act",
    [
        reset_before_it_asks,
        awkward.half_a_request_then_resets,
        awkward.whole_request_then_resets,
        reset_when_it_is_answered,
        reset_after_the_farewell,
        reset_while_it_is_sent_to,
    ],
)
def test_a_reset_ends_one_connection_whenever_it_comes(ten, act):
    other = lab.Conversation(ten.address)
    for _ in range(3):
        with lab.Conversation(ten.address) as talk:
            act(talk, ten)
        lab.until_at_rest(ten.pid, 2)
    other.send(CLOSING)
    other.read_all()
    assert lab.rows.hello(other), (
        "10_peers_that_close: “An error ends the connection that it came from”; "
        "10_peers_that_close: “One try round the work for one client”"
    )
    other.close()


def test_who_sends_on_after_the_farewell_is_cut_off_after_a_second(ten):
    with lab.Conversation(ten.address) as talk:
        talk.send(CLOSING)
        talk.read_all()
        assert lab.rows.hello(talk)
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < began + 5:
                talk.send(b"more")
                time.sleep(0.01)  # it need not be fast
        assert 0.5 < time.monotonic() - began < 3


def test_the_first_deadline_is_kept_when_others_follow(ten):
    """Five clients who stay after their answer; each is given up, and the server sleeps."""
    talks = []
    for _ in range(5):
        talks.append(lab.Conversation(ten.address))
        awkward.plain_get(talks[-1], ten)
        time.sleep(0.05)  # deadlines that differ
    assert lab.kernel.descriptors(ten.pid) == 10
    lab.until_at_rest(ten.pid, 1)  # all are given up
    assert lab.kernel.descriptors(ten.pid) == 5
    for talk in talks:
        talk.close()


def test_an_upload_that_is_not_wanted_does_not_cost_the_answer(ten):
    connection = http.client.HTTPConnection(*ten.address, timeout=10)
    connection.request("POST", "/", bytes(16_000_000))
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"Hello, world!")
    connection.close()


def test_out_of_descriptors_it_sleeps_and_lets_them_in_when_one_leaves(ten):
    free = lab.kernel.descriptors(ten.pid)
    ten.limit(resource.RLIMIT_NOFILE, free + 2)
    talks = [lab.Conversation(ten.address) for _ in range(4)]
    lab.until(lambda: lab.kernel.descriptors(ten.pid) == free + 2)
    lab.until_blocked(ten.pid, "epoll_wait")
    assert lab.kernel.cpu_share(ten.pid, 0.3) <= lab.kernel.SPINNING
    assert lab.kernel.accept_queue(ten.address)[0] == 2
    for talk in talks:
        awkward.plain_get(talk, ten)
        assert lab.rows.hello(talk)
        talk.close()


def test_when_one_leaves_the_next_is_let_in_at_once(run_folder):
    """And not when the pause is over, which takes a minute here."""
    path = lab.variant(ROOT / "code" / "10_peers_that_close.py", "patient.py", PATIENCE=60)
    with lab.serve(path) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        free = lab.kernel.descriptors(server.pid)
        server.limit(resource.RLIMIT_NOFILE, free + 1)
        talks = [lab.Conversation(server.address) for _ in range(2)]
        lab.until(lambda: lab.kernel.descriptors(server.pid) == free + 1)
        lab.until_blocked(server.pid, "epoll_wait")
        for talk in talks:
            awkward.plain_get(talk, server)
            assert lab.rows.hello(talk)
            talk.close()


def test_out_of_descriptors_without_a_client_it_tries_again(ten):
    """Somebody else may have had them: nobody leaves who could remind it."""
    ten.limit(resource.RLIMIT_NOFILE, lab.kernel.descriptors(ten.pid))
    with lab.Conversation(ten.address) as talk:
        lab.until(lambda: lab.kernel.accept_queue(ten.address)[0] == 1)
        lab.until_blocked(ten.pid, "epoll_wait")
        ten.limit(resource.RLIMIT_NOFILE, lab.kernel.descriptors(ten.pid) + 10)
        awkward.plain_get(talk, ten)
        assert lab.rows.hello(talk)


def test_what_it_prints_is_harmless(ten):
    with lab.Conversation(ten.address) as talk:
        talk.send(b"GET /\x1b]0;x\x07\xff HTTP/1.1\r\nX: \x9b1m\rok\r\nConnection: close\r\n\r\n")
        talk.read_all()
        assert lab.rows.hello(talk)
    ten.wait_for("Connection: close")
    printed = ten.output()
    assert "GET /\\x1b]0;x\\x07\\xff HTTP/1.1" in printed
    assert all(letter.isprintable() or letter == "\n" for letter in printed)


def test_an_urgent_byte_does_not_cost_the_answer(ten):
    """The client reads when the server has given it up, so that a reset would be seen."""
    with lab.Conversation(ten.address) as talk:
        talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        with ten.paused():
            talk.send(KEPT * 1000 + CLOSING)
            talk.socket.send(b"!", socket.MSG_OOB)
        lab.until(lambda: lab.kernel.descriptors(ten.pid) == 6)
        lab.until(lambda: lab.kernel.descriptors(ten.pid) == 5)
        talk.read_all()
        assert len(talk.answers()) == 1001 and talk.ended == "closed"


def test_what_it_costs_does_not_grow_with_what_was_answered(ten):
    """Thirty megabytes of a header after an answered request: each byte is looked at once."""
    with lab.Conversation(ten.address, seconds=30) as talk:
        talk.send(KEPT)
        read_answers(talk, 1)
        before = lab.kernel.cpu_time(ten.pid)
        talk.send(b"GET / HTTP/1.1\r\nX: " + b"y" * 30_000_000)
        lab.until(lambda: not lab.kernel.queues_of(talk.socket)[1], 30)
        lab.until_at_rest(ten.pid, seconds=30)
        took = lab.kernel.cpu_time(ten.pid) - before
    assert took < 1.5, "copied again and again it would take some five seconds"


def test_what_one_recv_does_not_take_is_reported_again(ten):
    """More than it asks for is there before it reads: it is level-triggered."""
    with lab.Conversation(ten.address) as talk:
        talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
        with ten.paused():
            talk.send(b"GET / HTTP/1.0\r\nX: " + b"y" * 150_000 + b"\r\n\r\n")
        talk.read_all()
        assert lab.rows.hello(talk)


def test_many_small_requests_hold_nobody_up(ten):
    with lab.Conversation(ten.address) as talk:
        before = lab.kernel.cpu_time(ten.pid)
        talk.send(b"G / HTTP/1.1\n\n" * 4681)
        read_answers(talk, 4681)
        assert lab.kernel.cpu_time(ten.pid) - before < 0.3


def test_without_a_console_and_without_descriptors_everybody_is_answered(ten):
    ten.limit(resource.RLIMIT_NOFILE, lab.kernel.descriptors(ten.pid) + 1)
    ten.close_console()
    for _ in range(3):
        assert lab.rows.is_hello(lab.get(ten.address))


def test_a_closed_console_does_not_matter_not_even_at_the_end(ten):
    ten.close_console()
    for _ in range(3):
        assert lab.rows.is_hello(lab.get(ten.address))
    ten.send_signal(signal.SIGTERM)
    assert (ten.wait(), ten.errors()) == (0, "")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", 200),
        (b"\r\nGET / HTTP/1.1", 200),
        (b"DELETE /x?y HTTP/1.0", 200),
        (b"HEAD / HTTP/1.1", 200),
        (b"get / HTTP/1.1", 400),
        (b"GET /", 400),
        (b"GET / HTTP/2.0", 400),
        (b"", 400),
        (b"\x16\x03\x01", 400),
    ],
)
def test_what_is_a_request(ten, request_line, status):
    method = "HEAD" if request_line.startswith(b"HEAD") else "GET"
    with lab.Conversation(ten.address) as talk:
        talk.send(request_line + b"\r\nConnection: close\r\n\r\n" if request_line else b"\r\n\r\n")
        talk.read_all()
        (answer,) = talk.answers(method)
        assert answer.status == status and talk.ended == "closed"
        body = b"Hello, world!" if (status, method) == (200, "GET") else b""
        assert talk.received.partition(b"\r\n\r\n")[2] == answer.body == body


@pytest.mark.parametrize("says", [b"Content-Length: 35", b"content-length : 35"])
def test_a_body_is_not_taken_for_a_request(ten, says):
    with lab.Conversation(ten.address) as talk:
        talk.send(b"POST / HTTP/1.1\r\n" + says + b"\r\n\r\n" + KEPT)
        talk.read_all()
        assert lab.rows.hello(talk)
    lab.until_at_rest(ten.pid, 1)
    ten.wait_for("HTTP/1.1")
    assert ten.output().count("HTTP/1.1") == 1


UNLUCKY = """
import errno
class Unlucky(chapter.Loop):
    begun = False
    def admit(self):
        if self.begun:
            return super().admit()
        self.begun = True
        self.listener.accept()[0].close()
        raise OSError(errno.{name}, "one newcomer's")
chapter.Loop = Unlucky
"""


@pytest.mark.parametrize(
    ("name", "pauses"),
    [
        *((name, False) for name in ("ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN", "EAGAIN")),
        *((name, True) for name in ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")),
    ],
)
def test_only_what_is_scarce_shuts_the_door(run_folder, name, pauses):
    """It is shut for a minute here; accept(2) asks to try again after the others."""
    path = lab.variant(TEN, "unlucky.py", UNLUCKY.format(name=name), PATIENCE=60)
    with lab.serve(path) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        with lab.connect(server) as first:
            assert first.receive() == b""
            lab.until_blocked(server.pid, "epoll_wait")
        if not pauses:
            assert lab.rows.is_hello(lab.get(server.address))
            return
        with lab.connect(server) as talk:
            lab.until(lambda: lab.kernel.accept_queue(server.address)[0] == 1)
            lab.until_blocked(server.pid, "epoll_wait")
            assert lab.kernel.watched(server.pid) == ["ERR|HUP"]
            assert lab.kernel.accept_queue(server.address)[0] == 1
            talk.close()


NERVOUS = """
class Nervous(chapter.Loop):
    def serve(self, fd):
        super().serve(fd)
        if fd in self.clients or fd == self.listener.fileno():
            super().serve(fd)
chapter.Loop = Nervous
"""


def test_a_false_alarm_costs_nobody_the_connection(run_folder):
    """Each event is served twice, the second time as a rule for nothing: EAGAIN."""
    with lab.serve(lab.variant(TEN, "nervous.py", NERVOUS)) as server:
        talks = [lab.connect(server) for _ in range(3)]
        for talk in talks:
            talk.send(KEPT[:10])
            lab.at_rest(server, sockets=4)
        for talk in talks:
            talk.send(KEPT[10:])
            assert len(read_answers(talk, 1)) == 1 and talk.ended is None
            talk.send(CLOSING)
            talk.read_all()
            assert len(talk.answers()) == 2
            talk.close()


def test_a_console_that_is_full_for_a_moment_is_written_to_again(at_a_console):
    """Somebody has made it non-blocking: what does not fit then is not printed, nor kept."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with open(reader, "rb", buffering=0) as console, open(writer, "wb", buffering=0) as end:
        process = at_a_console(TEN, end)
        address = address_in(console.read(1000))
        for _ in range(200):
            assert lab.rows.is_hello(lab.get(address))
        assert len(console.read(65536)) > 4000
        with lab.Conversation(address) as talk:
            talk.send(b"GET /afterwards HTTP/1.0\r\n\r\n")
            talk.read_all()
            assert lab.rows.hello(talk)
        assert b"/afterwards" in console.read(65536), (
            "10_peers_that_close: “What the console does not take is not printed”"
        )
        for _ in range(200):
            assert lab.rows.is_hello(lab.get(address))
        assert ends_in_order(process)


def test_a_terminal_that_is_hung_up_does_not_matter(at_a_console):
    """Writing to it fails with EIO, not with EPIPE as to a pipe."""
    ours, theirs = pty.openpty()
    process = at_a_console(TEN, theirs)
    os.close(theirs)
    address = address_in(os.read(ours, 1000))
    os.close(ours)
    for _ in range(3):
        assert lab.rows.is_hello(lab.get(address))
    assert ends_in_order(process)


def test_a_log_that_can_not_grow_for_a_moment_is_written_to_again(at_a_console, tmp_path):
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = at_a_console(TEN, file)
    address = address_in(lab.until(log.read_bytes))
    written = log.stat().st_size
    hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (written, hard))
    assert lab.rows.is_hello(lab.get(address))
    assert log.stat().st_size == written
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert lab.rows.is_hello(lab.get(address))
    assert log.read_bytes().count(b"GET /") == 1
    assert ends_in_order(process)


def test_without_any_console_everybody_is_answered():
    port = lab.free_port()
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, str(TEN), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        lab.until(lambda: lab.kernel.sockets(port))
        for _ in range(3):
            assert lab.rows.is_hello(lab.get(("127.0.0.1", port)))
        assert ends_in_order(process)
    finally:
        process.kill()
        process.communicate()


CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_chunked_body_is_refused_and_not_taken_for_requests(ten):
    with lab.connect(ten) as talk:
        talk.send(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(KEPT), KEPT))
        talk.read_all()
        (answer,) = talk.answers()
        assert (answer.status, answer.headers["connection"]) == (411, "close")
        assert talk.ended == "closed"
    lab.at_rest(ten, sockets=1)
    assert ten.output().count("HTTP/1.1") == 1


def test_a_refusal_is_the_last_answer_and_says_so(ten):
    with lab.connect(ten) as talk:
        talk.send(b"what?\r\n\r\n" + KEPT)
        talk.read_all()
        (answer,) = talk.answers()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert talk.ended == "closed"


@pytest.fixture
def watchful(run_folder):
    with lab.serve(lab.variant(TEN, "watchful.py", IDLE=1, EVERY=1, VANISHED=2)) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        yield server


def test_who_has_vanished_is_given_up_and_who_is_silent_is_not(watchful):
    silent, gone = lab.connect(watchful), lab.connect(watchful)
    lab.at_rest(watchful, sockets=3)
    lab.clients.vanish(gone.socket)
    lab.until(lambda: len(watchful.sockets()) == 2, 10)
    lab.at_rest(watchful, sockets=2)
    awkward.plain_get(silent, watchful)
    assert lab.rows.hello(silent)
    silent.close()
    gone.close()


def test_who_vanishes_while_an_answer_waits_is_given_up(watchful):
    """Keepalive does not probe while bytes are unacknowledged: it is TCP_USER_TIMEOUT."""
    with lab.connect(watchful, receive_buffer=1) as talk:
        talk.keep_sending(KEPT * 20)
        epoll = lab.until_blocked(watchful.pid, "epoll_wait").arguments[0]

        def waits_for_room():
            return any(mask & select.EPOLLOUT for mask in interest(watchful, epoll).values())

        lab.until(waits_for_room, 10)
        lab.clients.vanish(talk.socket)
        lab.until(lambda: len(watchful.sockets()) == 1, 10)
        talk.stop_sending()


def test_clients_that_vanish_do_not_fill_it_for_good(watchful):
    free = lab.kernel.descriptors(watchful.pid)
    watchful.limit(resource.RLIMIT_NOFILE, free + 3)
    gone = [lab.connect(watchful) for _ in range(3)]
    lab.until(lambda: lab.kernel.descriptors(watchful.pid) == free + 3)
    for talk in gone:
        lab.clients.vanish(talk.socket)
    assert lab.rows.is_hello(lab.get(watchful.address, seconds=10))
    for talk in gone:
        talk.close()
