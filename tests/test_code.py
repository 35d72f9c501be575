"""The servers in code/, run as a reader would run them, from a terminal."""

import contextlib
import http.client
import os
import re
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
from conftest import BOOK, ROOT
from lab import notebooks
from survive import awkward

SERVERS = sorted((ROOT / "code").glob("*.py"))
FOUR, FIVE, SIX, SEVEN, EIGHT, NINE, TEN = SERVERS[3:10]


def run(path, *arguments, **options):
    """Run a server to its end; returns the finished process. For arguments that it must refuse."""
    return subprocess.run(
        [sys.executable, path, *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        **options,
    )


def test_every_chapter_has_its_copy_and_no_other_file_is_there():
    names = {path.stem for path in notebooks.chapters()}
    assert names == {path.stem for path in SERVERS}
    assert {path.name for path in (ROOT / "code").iterdir()} - {"__pycache__"} == {
        path.name for path in SERVERS
    }


def test_no_file_is_named_as_a_standard_module():
    files = [*SERVERS, *(BOOK / "lab").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    public = {path.stem for path in files if path.parent.name != "lab"}
    assert not public & sys.stdlib_module_names
    assert not (ROOT / "code" / "__init__.py").exists()


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_the_copy_agrees_with_the_notebook(path):
    written = notebooks.program(path.stem, path.name)
    assert path.read_text(encoding="utf-8") == written, "`make code` makes the copies anew"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_it_fits_a_page(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 88
    assert len(lines) <= 175  # two screens


def test_main_is_the_same_in_all():
    def tail(path):
        text = path.read_text(encoding="utf-8").replace("    BACKLOG = take_backlog()\n", "")
        return text[text.index("\ndef main():") :]

    assert len({tail(path) for path in SERVERS}) == 1


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "arguments",
    [["x"], ["-1"], ["65536"], ["8e3"], ["9" * 5000], ["²"], [""], ["1", "2", "3"]],
)
def test_a_bad_port_is_one_line_and_status_2(path, arguments):
    done = run(path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r".*: give one port, a number from 0 .* to 65535\n", done.stderr)


@pytest.mark.parametrize("path", [path for path in SERVERS if path != SEVEN], ids=lambda p: p.stem)
def test_a_second_argument_is_one_too_many(path):
    done = run(path, "0", "2")
    assert (done.returncode, done.stdout) == (2, "") and "give one port" in done.stderr


@pytest.mark.parametrize("length", ["x", "-1", "65536", "9" * 5000, "²", "", "1e3"])
def test_a_bad_length_of_the_queue_is_one_line_and_status_2(length):
    done = run(SEVEN, "0", length)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r".*: the length of the queue is a number from 0 to 65535\n", done.stderr)


@pytest.mark.parametrize(("length", "limit"), [(None, 1), (0, 0), (5, 5), (65535, None)])
def test_the_queue_is_as_long_as_it_is_told(length, limit):
    """65535 is more than any system allows by default: it gets what there is."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    arguments = [] if length is None else [length]
    with lab.serve(SEVEN, *arguments) as server:
        expected = min(65535, most) if limit is None else limit
        assert lab.kernel.accept_queue(server.address) == (0, expected)


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_a_port_in_use_is_one_line_and_status_2(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(path, str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf".*: port {port}: Address already in use; try .*\n", done.stderr)


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_the_default_port_is_8080(path):
    """Where 8080 is free the server takes it; where it is not, it says so."""
    process = subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=5)
    assert first == "listening on 127.0.0.1:8080\n" or "port 8080: Address already" in errors


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_while_it_waits_for_clients(path, number):
    with lab.serve(path) as server:
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        server.send_signal(number)
        assert server.wait() == 0
        assert server.errors() == ""


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_while_it_talks_to_one(path, number):
    with lab.serve(path) as server, lab.Conversation(server.address) as talk:
        lab.until(lambda: len(lab.kernel.sockets(pid=server.pid)) == 2)
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        server.send_signal(number)
        assert server.wait() == 0
        assert (talk.receive(), talk.ended) == (b"", "closed")
        assert server.errors() == ""


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_how_it_listens(path):
    """SO_REUSEADDR, so that it can be restarted at once, and the article's queue of one.

    The servers with threads, and the one that is mended, have Python's own default.
    """
    with lab.record(path) as run:
        lab.until(lambda: lab.kernel.is_asleep(run.server.pid))
    set_option, _, listen = run.recording.calls()[:3]
    queue = 128 if path.stem[:2] in ("03", "06", "10") else 1
    assert set_option.given == [socket.SOL_SOCKET, socket.SO_REUSEADDR, 1]
    assert listen.sockets[listen.fd] == ("LISTEN", 0, queue)


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_it_listens_on_loopback_alone(path):
    with lab.serve(path) as server:
        (listener,) = lab.kernel.sockets(pid=server.pid)
        assert listener.local[0] == "127.0.0.1"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_the_answer_and_what_is_printed(path):
    with lab.serve(path) as server:
        answer = lab.get(server.address)
        server.wait_for("GET / HTTP/1.0")
        assert (answer.status, answer.body) == (200, b"Hello, world!")
        said = {"content-type": "text/plain", "content-length": "13"}
        assert answer.headers == said | ({"connection": "close"} if path == TEN else {})


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_it_runs_under_the_c_locale(path):
    done = run(path, "x", env={"LANG": "C", "PATH": os.environ["PATH"]})
    assert done.returncode == 2


def test_what_tells_one_from_the_loop():
    one, loop = (ROOT / "code" / name for name in ("01_one_request.py", "02_request_loop.py"))
    with lab.serve(one) as server:
        lab.get(server.address)
        assert server.wait() == 0
    with lab.serve(loop) as server:
        for _ in range(50):
            assert lab.rows.is_hello(lab.get(server.address))
        assert lab.kernel.descriptors(server.pid) == 4


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


def interest(server, epoll=4):
    """What the server's epoll instance watches, for what: {descriptor: mask}."""
    return lab.kernel.interest_list(server.pid, epoll)


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
        awkward.plain_get(run.talk("client"), run.server)
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
        awkward.plain_get(run.talk("client"), run.server)
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


KEPT = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSING = KEPT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
ANSWER_SIZE = 78  # at the least
pipelining = pytest.mark.parametrize("path", [EIGHT, NINE, TEN], ids=["08", "09", "10"])


def read_answers(talk, number):
    """Receive until so many answers are there; the connection is kept."""
    while len(talk.received) < number * ANSWER_SIZE:
        assert talk.receive()
    return talk.answers()


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
        talk = run.talk("client")
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
    assert lab.rows.hello(other)
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


def test_when_one_leaves_the_next_is_let_in_at_once(monkeypatch):
    """And not when the pause is over, which takes a minute here."""
    monkeypatch.chdir(BOOK)
    path = lab.variant("10_peers_that_close", "test_patient.py", PATIENCE=60)
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
    Path(path).unlink()


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
