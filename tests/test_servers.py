"""The servers of chapters 1 to 9: what each does, beside what all of them do (test_main)."""

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import lab
from conftest import ANSWER_SIZE, CLOSING, KEPT, ROOT, SERVERS, interest, read_answers
from survive import awkward

FOUR, FIVE, SIX, SEVEN, EIGHT, NINE, TEN = SERVERS[3:10]


def test_what_tells_one_from_the_loop():
    one, loop = (ROOT / "code" / name for name in ("01_one_request.py", "02_request_loop.py"))
    with lab.serve(one) as server:
        lab.get(server.address)
        assert server.wait() == 0
    with lab.serve(loop) as server:
        for _ in range(50):
            assert lab.rows.is_hello(lab.get(server.address))
        assert lab.kernel.descriptors(server.pid) == 4


PATH = "/caf\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.mark.parametrize("path", SERVERS[:9], ids=lambda path: path.stem)
def test_the_form_in_which_a_request_is_printed(path):
    """As it came; from chapter 2 on below a line, and without the last of its line ends."""
    request = f"GET {PATH} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    is_first = path == SERVERS[0]
    form = request + "\n" if is_first else "-" * 40 + f"\n{request[:-2]}\n"
    with lab.serve(path) as server:
        for number in (1,) if is_first else (1, 2):
            with lab.connect(server) as talk:
                talk.send(request.encode())
                assert talk.read_all()
            server.wait_for(form, times=number)
            assert server.output() == form * number


@pytest.mark.parametrize(("length", "limit"), [(None, 1), (0, 0), (5, 5), (65535, None)])
def test_the_queue_is_as_long_as_it_is_told(length, limit):
    """65535 is more than any system allows by default: it gets what there is."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    arguments = [] if length is None else [length]
    with lab.serve(SEVEN, *arguments) as server:
        expected = min(65535, most) if limit is None else limit
        assert lab.kernel.accept_queue(server.address) == (0, expected)


@pytest.fixture
def four():
    with lab.serve(ROOT / "code" / "04_level_triggered.py") as server:
        lab.until_blocked(server.pid, "epoll_wait")
        yield server


def test_the_threads_are_as_many_as_the_clients():
    with lab.serve(ROOT / "code" / "03_thread_per_client.py") as server:
        talks = [lab.Conversation(server.address) for _ in range(5)]
        lab.until(lambda: len(lab.kernel.threads(server.pid)) == 6)
        for talk in talks:
            awkward.plain_get(talk, server)
            assert lab.rows.hello(talk)
        lab.until(lambda: len(lab.kernel.threads(server.pid)) == 1)
        assert lab.kernel.descriptors(server.pid) == 4


def test_one_thread_serves_the_last_first(four):
    talks = [lab.Conversation(four.address) for _ in range(5)]
    for talk in reversed(talks):
        awkward.plain_get(talk, four)
        assert lab.rows.hello(talk)
    assert len(lab.kernel.threads(four.pid)) == 1
    lab.until(lambda: lab.kernel.descriptors(four.pid) == 5)


def test_what_it_watches_at_each_step(four):
    """Level-triggered, IN and then OUT, and no entry left behind."""
    hang_up = select.EPOLLERR | select.EPOLLHUP
    (listener,) = interest(four).values()
    assert listener == select.EPOLLIN | hang_up
    with lab.Conversation(four.address) as talk:
        lab.until(lambda: len(interest(four)) == 2)
        assert set(interest(four).values()) == {select.EPOLLIN | hang_up}
        awkward.plain_get(talk, four)
        lab.until(lambda: len(interest(four)) == 1)


def test_its_calls_for_one_request():
    with lab.record(ROOT / "code" / "04_level_triggered.py") as run:
        awkward.plain_get(run.connect("client"), run.server)
        lab.until(lambda: lab.kernel.descriptors(run.server.pid) == 6)  # one is the recorder's
    calls = [call.name for call in run.recording.calls()]
    assert [call for call in calls if call in ("register", "modify", "unregister")] == [
        "register", "register", "modify", "modify", "unregister",
    ]  # fmt: skip


def test_a_slow_reader_does_not_stop_the_others(tmp_path):
    """Its answer leaves in portions, for as long as it takes."""
    text = (ROOT / "code" / "04_level_triggered.py").read_text(encoding="utf-8")
    path = tmp_path / "long.py"
    path.write_text(text.replace('b"Hello, world!"\n)', 'b"Hello, world!"\n) * 100_000'))
    with lab.serve(path) as server:
        slow = lab.Conversation(server.address)
        slow.send(lab.clients.REQUEST)
        lab.until(lambda: lab.kernel.unread(slow.socket))
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        with lab.Conversation(server.address) as other:
            awkward.plain_get(other, server)
            assert len(other.received) == 7_800_000
        slow.read_all()
        assert len(slow.received) == 7_800_000 and slow.ended == "closed"
        slow.close()


def test_all_is_edge_triggered_at_each_step():
    with lab.record(FIVE) as run:
        lab.until_blocked(run.server.pid, "epoll_wait")
        awkward.plain_get(run.connect("client"), run.server)
        lab.until_at_rest(run.server.pid, 1)
    seen = [
        mask
        for call in run.recording.calls()
        for watched in call.interest.values()
        for mask in watched.values()
    ]
    assert list(dict.fromkeys(seen)) == ["IN|ERR|HUP|ET", "OUT|ERR|HUP|ET", "ERR|HUP|ET"]


@pytest.mark.parametrize(("path", "answers"), [(FOUR, True), (FIVE, False)], ids=["04", "05"])
def test_one_that_half_closes_stops_the_edge_triggered_server(path, answers):
    with lab.serve(path) as server:
        other = lab.Conversation(server.address)
        lab.until_at_rest(server.pid, 2)
        with lab.Conversation(server.address, seconds=5 if answers else 0.3) as talk:
            awkward.half_closes_after_asking(talk, server)
            assert lab.rows.hello(talk) == answers
            other.send(lab.clients.REQUEST)
            other.seconds = talk.seconds
            other.read_all()
            assert lab.rows.hello(other) == answers
            if not answers:
                ours = other.socket.getsockname()
                assert lab.kernel.find_socket(server.address, ours).unread, "nor read at all"
        other.close()


def test_the_edge_triggered_server_is_deaf_after_too_many_clients():
    with lab.serve(FIVE) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        free = lab.kernel.descriptors(server.pid)
        server.limit(resource.RLIMIT_NOFILE, free + 1)
        with lab.Conversation(server.address) as talk:
            lab.until_at_rest(server.pid, 2)
            with server.paused():
                late = [lab.Conversation(server.address, seconds=0.3) for _ in range(2)]
            lab.until_blocked(server.pid, "epoll_wait")
            awkward.plain_get(talk, server)
            assert lab.rows.hello(talk)
        lab.until(lambda: lab.kernel.descriptors(server.pid) == free)
        for each in late:
            awkward.plain_get(each, server)
            assert each.received == b"" and not each.ended
        lab.until_blocked(server.pid, "epoll_wait")
        assert lab.kernel.find_socket(server.address).unread == 2
        with pytest.raises(TimeoutError):  # the queue is full: its length is 1, and one more
            lab.Conversation(server.address, seconds=0.3)
        for each in late:
            each.close()


GATED = """
import importlib.util, sqlite3
spec = importlib.util.spec_from_file_location("chapter", {six!r})
chapter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chapter)

def wait():
    print("a query begins", flush=True)
    open({gate!r}).close()

def connect(path):
    database = sqlite3.connect(path)
    database.create_function("wait", 0, wait)
    return database

chapter.connect = connect
chapter.QUERY += " WHERE wait() IS NULL"
chapter.main()
"""
QUERY = "a query begins"


@pytest.fixture
def gated(write, tmp_path):
    """Start the one-shot server, with queries that wait at a gate: a FIFO without a writer."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    path = write(GATED.format(six=str(SIX), gate=str(gate)))

    @contextlib.contextmanager
    def gated(clients):
        """Yield the server and so many clients that have asked, with four queries under way."""
        with lab.serve(path) as server:
            lab.until(lambda: len(lab.kernel.threads(server.pid)) == 5)
            talks = [lab.Conversation(server.address) for _ in range(clients)]
            for number, talk in enumerate(talks, 1):
                talk.send(lab.clients.REQUEST)
                server.wait_for(QUERY, times=min(number, 4))
            lab.until_blocked(server.pid, "epoll_wait")
            yield server, talks
        for talk in talks:
            talk.close()

    return gated


@pytest.fixture
def open_gate(tmp_path):
    """Open that gate for as long as a block lasts; opened for both, a FIFO waits for nobody."""
    return lambda: open(tmp_path / "gate", "r+b", buffering=0)


def one_shot_interest(server):
    return interest(server, 5)  # number 4 is the database


def test_a_socket_is_disarmed_while_its_query_is_under_way(gated, open_gate):
    """It stays on the list, for nothing: not even for a hang-up."""
    with gated(1) as (server, (talk,)):
        listener = select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP
        assert {*one_shot_interest(server).values()} == {listener, select.EPOLLONESHOT}
        with open_gate():
            assert talk.read_all() and lab.rows.hello(talk)
        lab.until(lambda: len(one_shot_interest(server)) == 1)


def test_four_queries_run_at_a_time_and_a_fifth_waits(gated, open_gate):
    with gated(5) as (server, talks):
        lab.until(lambda: [*one_shot_interest(server).values()].count(select.EPOLLONESHOT) == 5)
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        of_the_fifth = lab.kernel.find_socket(server.address, talks[4].socket.getsockname())
        assert of_the_fifth.unread == len(lab.clients.REQUEST)
        assert server.output().count(QUERY) == 4
        with open_gate():
            for talk in talks:
                assert talk.read_all() and lab.rows.hello(talk)
        server.wait_for(QUERY, times=5)


def test_the_one_shot_server_answers_five_hundred_requests():
    with lab.serve(SIX) as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: lab.get(server.address), range(500)))
        assert all(map(lab.rows.is_hello, answers))
        lab.until_at_rest(server.pid, 1)
        assert len(lab.kernel.threads(server.pid)) == 5
        assert (server.stop(), server.errors()) == (0, "")


def test_every_worker_is_told_that_it_is_the_end():
    """Or the server would wait in vain for those who are not, half a second each."""
    with lab.record(SIX) as run:
        lab.until_threads(run.server, 5)
        lab.at_rest(run.server)
    last = {call.thread: call for call in run.calls("get")}
    assert len(last) == 4
    assert [(call.took is not None, call.got) for call in last.values()] == [(True, None)] * 4


def scratch(server):
    """The folder where the server puts its temporary files."""
    return Path(psutil.Process(server.pid).environ()["TMPDIR"])


def test_the_database_is_removed_at_the_end():
    with lab.serve(SIX) as server:
        folder = scratch(server)
        lab.until(lambda: len(lab.kernel.threads(server.pid)) == 5)
        assert lab.rows.is_hello(lab.get(server.address))
        assert [path.suffix for path in folder.iterdir()] == [".db"]
        lab.until_at_rest(server.pid)
        server.send_signal(signal.SIGTERM)
        assert server.wait(3) == 0
        assert not list(folder.iterdir())


def test_sigterm_ends_it_while_queries_are_under_way(gated, open_gate):
    """They come back when the loop has ended; it waits for them, a second for each."""
    for _ in range(10):
        with gated(4) as (server, talks):
            folder = scratch(server)
            server.send_signal(signal.SIGTERM)
            lab.until_blocked(server.pid, "futex")
            with open_gate():
                assert server.wait(3) == 0
            assert server.errors() == ""
            assert not list(folder.iterdir())
            assert [talk.receive() for talk in talks] == [b""] * 4


def keep_asking(address, enough):
    """Ask again and again, until it is enough, or the server has gone."""
    with contextlib.suppress(OSError):
        while not enough.is_set():
            lab.get(address, 1)


def test_signals_end_the_one_shot_server_quietly_under_load():
    """As from a terminal, where its output is buffered; and though the signal comes again."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, SIX, "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        address = "127.0.0.1", int(process.stdout.readline().rpartition(":")[2])
        enough = threading.Event()
        clients = [threading.Thread(target=keep_asking, args=[address, enough]) for _ in range(10)]
        for client in clients:
            client.start()
        for _ in range(40):  # of the lines that it prints
            process.stdout.readline()
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        enough.set()
        for client in clients:
            client.join()
        assert (process.returncode, errors) == (0, "")


pipelining = pytest.mark.parametrize("path", [EIGHT, NINE, TEN], ids=["08", "09", "10"])


@pipelining
@pytest.mark.parametrize("number", [1, 2, 30, 1000])
def test_pipelined_requests_are_all_answered(path, number):
    with lab.serve(path) as server, lab.Conversation(server.address) as talk:
        sender = threading.Thread(target=talk.send, args=[KEPT * (number - 1) + CLOSING])
        sender.start()
        talk.read_all()
        sender.join()
        answers = talk.answers()
        assert len(answers) == number and all(map(lab.rows.is_hello, answers))
        assert talk.ended == "closed"


@pipelining
def test_a_request_may_be_split_anywhere(path):
    both = KEPT + CLOSING
    with lab.serve(path) as server:
        for at in range(1, len(both)):
            with lab.Conversation(server.address) as talk:
                talk.send(both[:at])
                lab.until_at_rest(server.pid, 2)
                talk.send(both[at:])
                talk.read_all()
                assert lab.rows.hello_twice(talk), at
            lab.until_at_rest(server.pid, 1)


@pipelining
@pytest.mark.parametrize("last", [CLOSING, b"GET / HTTP/1.0\r\n\r\n", CLOSING.lower()])
def test_nothing_is_answered_after_the_last(path, last):
    with lab.serve(path) as server, lab.Conversation(server.address) as talk:
        talk.send(KEPT + last.replace(b"http/1.1", b"HTTP/1.1") + KEPT)
        talk.read_all()
        assert len(talk.answers()) == 2


@pipelining
@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"GET / HTTP/1.0\r\nX: GET / HTTP/1.1", False),
        (b"GET / HTTP/1.1\r\nConnection:close", False),
        (b"GET / HTTP/1.1\r\nconnection: Keep-Alive, Close", False),
        (b"GET / HTTP/1.1\r\nX-Proxy-Connection: close", True),
        (b"GET /close HTTP/1.1\r\nConnection: keep-alive", True),
    ],
)
def test_whether_a_connection_is_kept(path, line, kept):
    with lab.serve(path) as server, lab.Conversation(server.address) as talk:
        talk.send(line + b"\r\n\r\n")
        read_answers(talk, 1)
        if kept:
            talk.send(KEPT)
            assert len(read_answers(talk, 2)) == 2
        else:
            assert talk.receive() == b"" and talk.ended == "closed"


@pipelining
def test_a_long_answer_leaves_in_portions_and_whole(path, tmp_path):
    """Its pieces are longer than the send buffer, and the client reads slowly at first."""
    text = path.read_text(encoding="utf-8")
    long = tmp_path / "long.py"
    body = bytes(range(256)) * 20_000
    for old, new in (
        ("Content-Length: 13", f"Content-Length: {len(body)}"),
        ('b"Hello, world!"', "bytes(range(256)) * 20_000"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    long.write_text(text)
    with lab.serve(long) as server, lab.Conversation(server.address) as talk:
        talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        talk.send(KEPT + CLOSING)
        lab.until(lambda: lab.kernel.unread(talk.socket))
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        talk.read_all()
        assert [answer.body == body for answer in talk.answers()] == [True, True]


@pipelining
def test_a_kept_connection_is_given_up_when_its_client_leaves(path):
    with lab.serve(path) as server:
        for _ in range(20):
            with lab.Conversation(server.address) as talk:
                for number in (1, 2):
                    talk.send(KEPT)
                    read_answers(talk, number)
                assert talk.ended is None
            lab.until_at_rest(server.pid, 1)
        assert lab.kernel.cpu_share(server.pid, 0.1) <= lab.kernel.SPINNING


@pipelining
def test_one_that_half_closes_gets_what_it_has_asked_for(path):
    with lab.serve(path) as server, lab.Conversation(server.address) as talk:
        with server.paused():
            talk.send(KEPT * 3)
            talk.half_close()
        talk.read_all()
        assert len(talk.answers()) == 3 and talk.ended == "closed"
        lab.until_at_rest(server.pid, 1)


@pipelining
def test_a_client_that_does_not_read_stops_nobody(path):
    with lab.serve(path) as server, lab.Conversation(server.address) as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        deaf.keep_sending(KEPT * 20)
        lab.until(lambda: sum(count for _, _, count in deaf.events) > 500_000, 5)
        assert lab.rows.is_hello(lab.get(server.address))
        deaf.stop_sending()


def segments_of(path, request, number):
    """(segments of data that a client gets, the calls on its socket), of pipelined answers."""
    with lab.record(path) as run:
        talk = run.connect("client")
        lab.until_at_rest(run.server.pid, 2)
        talk.send(request)
        read_answers(talk, number)
        segments = lab.kernel.tcp_info(talk.socket, "data_segs_in")
    return segments, run.recording.of("client")


def test_the_cork_is_in_before_the_first_piece_and_out_after_the_last():
    segments, calls = segments_of(EIGHT, KEPT * 5, 5)
    assert segments == 1
    cork = [socket.IPPROTO_TCP, socket.TCP_CORK]
    spelled = [call.given if call.name == "setsockopt" else call.name for call in calls]
    assert [*cork, True] in spelled and [*cork, False] in spelled
    first, last = spelled.index([*cork, True]), spelled.index([*cork, False])
    assert spelled[first + 1 : last] == ["send"] * 15
    assert "send" not in spelled[:first] + spelled[last:]


def test_an_answer_is_never_kept_back_by_the_cork():
    with lab.serve(EIGHT) as server, lab.Conversation(server.address) as talk:
        took = []
        for number in range(1, 21):
            began = time.monotonic()
            talk.send(KEPT)
            read_answers(talk, number)
            took.append(time.monotonic() - began)
        assert sorted(took)[15] < 0.1


def late_rounds(path, number=12):
    """What rounds take, with a client that acknowledges late; seconds, sorted."""
    with lab.serve(path) as server:
        lab.until_blocked(server.pid, "epoll_wait")  # it listens before the option is set
        talk = lab.Conversation(server.address)
        took = []
        for each in range(1, number + 1):
            began = time.monotonic()
            talk.send(KEPT)
            while len(talk.received) < each * ANSWER_SIZE:
                talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                talk.receive()
            took.append(time.monotonic() - began)
        talk.close()
    return sorted(took)


def test_no_piece_waits_for_an_acknowledgement(tmp_path):
    """And without the option it does."""
    text = NINE.read_text(encoding="utf-8")
    without = tmp_path / "nagle.py"
    without.write_text(text.replace("    send_at_once(listener)\n", ""))
    assert without.read_text() != text
    assert late_rounds(NINE)[8] < 0.02
    assert late_rounds(without)[3] > 0.03


def test_the_option_is_set_once_on_the_listener():
    _, calls = segments_of(NINE, KEPT, 1)
    assert "setsockopt" not in [call.name for call in calls]
    with lab.record(NINE) as run:
        lab.until_blocked(run.server.pid, "epoll_wait")
    given = [call.given for call in run.recording.calls() if call.name == "setsockopt"]
    assert [socket.IPPROTO_TCP, socket.TCP_NODELAY, 1] in given
