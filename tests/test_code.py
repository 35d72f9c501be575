"""The servers in code/, run as a reader would run them, from a terminal."""

import os
import re
import select
import signal
import socket
import subprocess
import sys

import pytest

import lab
from conftest import BOOK, ROOT
from lab import chapters

SERVERS = sorted((ROOT / "code").glob("*.py"))


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
    names = {path.stem for path in chapters.chapters()}
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
    written = chapters.program(path.stem, path.name)
    assert path.read_text(encoding="utf-8") == written, "`make code` makes the copies anew"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_it_fits_a_page(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 88
    assert len(lines) <= 140  # two screens


def test_main_is_the_same_in_all():
    def tail(path):
        text = path.read_text(encoding="utf-8")
        return text[text.index("\ndef main():") :]

    assert len({tail(path) for path in SERVERS}) == 1


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "arguments",
    [["x"], ["-1"], ["65536"], ["8e3"], ["9" * 5000], ["²"], [""], ["1", "2"]],
)
def test_a_bad_port_is_one_line_and_status_2(path, arguments):
    done = run(path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r".*: give one port, a number from 0 .* to 65535\n", done.stderr)


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
    with lab.server.Server(path) as server:
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        server.send_signal(number)
        assert server.wait() == 0
        assert server.errors() == ""


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_while_it_talks_to_one(path, number):
    with lab.server.Server(path) as server, lab.Conversation(server.address) as talk:
        lab.until(lambda: len(lab.kernel.sockets(pid=server.pid)) == 2)
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        server.send_signal(number)
        assert server.wait() == 0
        assert (talk.receive(), talk.ended) == (b"", "closed")
        assert server.errors() == ""


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_how_it_listens(path):
    """SO_REUSEADDR, so that it can be restarted at once, and the article's queue of one.

    The servers with threads are none of the article's, and have Python's own default.
    """
    with lab.record(path) as run:
        lab.until(lambda: lab.kernel.is_asleep(run.server.pid))
    set_option, _, listen = run.recording["calls"][:3]
    queue = 128 if path.stem in ("03_thread_per_client", "06_one_shot") else 1
    assert set_option["given"] == [socket.SOL_SOCKET, socket.SO_REUSEADDR, 1]
    assert listen["sockets"][str(listen["fd"])] == ["LISTEN", 0, queue]


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_it_listens_on_loopback_alone(path):
    with lab.server.Server(path) as server:
        (listener,) = lab.kernel.sockets(pid=server.pid)
        assert listener.local[0] == "127.0.0.1"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_the_answer_and_what_is_printed(path):
    with lab.server.Server(path) as server:
        answer = lab.get(server.address)
        server.wait_for("GET / HTTP/1.0")
        assert (answer.status, answer.body) == (200, b"Hello, world!")
        assert answer.headers == {"content-type": "text/plain", "content-length": "13"}


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_it_runs_under_the_c_locale(path):
    done = run(path, "x", env={"LANG": "C", "PATH": os.environ["PATH"]})
    assert done.returncode == 2


def test_what_tells_one_from_the_loop():
    one, loop = (ROOT / "code" / name for name in ("01_one_request.py", "02_request_loop.py"))
    with lab.server.Server(one) as server:
        lab.get(server.address)
        assert server.wait() == 0
    with lab.server.Server(loop) as server:
        for _ in range(50):
            assert lab.survival.is_hello(lab.get(server.address))
        assert lab.kernel.descriptors(server.pid) == 4


@pytest.fixture
def four():
    with lab.server.Server(ROOT / "code" / "04_level_triggered.py") as server:
        lab.until_blocked(server.pid, "epoll_wait")
        yield server


def test_the_threads_are_as_many_as_the_clients():
    with lab.server.Server(ROOT / "code" / "03_thread_per_client.py") as server:
        talks = [lab.Conversation(server.address) for _ in range(5)]
        lab.until(lambda: len(lab.kernel.threads(server.pid)) == 6)
        for talk in talks:
            lab.clients.plain_get(talk, server)
            assert lab.survival.hello(talk)
        lab.until(lambda: len(lab.kernel.threads(server.pid)) == 1)
        assert lab.kernel.descriptors(server.pid) == 4


def test_one_thread_serves_the_last_first(four):
    talks = [lab.Conversation(four.address) for _ in range(5)]
    for talk in reversed(talks):
        lab.clients.plain_get(talk, four)
        assert lab.survival.hello(talk)
    assert len(lab.kernel.threads(four.pid)) == 1
    lab.until(lambda: lab.kernel.descriptors(four.pid) == 5)


def interest(server):
    """What the server's epoll instance watches, for what: {descriptor: mask}."""
    return lab.kernel.interest_list(server.pid, 4)


def test_what_it_watches_at_each_step(four):
    """Level-triggered, IN and then OUT, and no entry left behind."""
    hang_up = select.EPOLLERR | select.EPOLLHUP
    (listener,) = interest(four).values()
    assert listener == select.EPOLLIN | hang_up
    with lab.Conversation(four.address) as talk:
        lab.until(lambda: len(interest(four)) == 2)
        assert set(interest(four).values()) == {select.EPOLLIN | hang_up}
        lab.clients.plain_get(talk, four)
        lab.until(lambda: len(interest(four)) == 1)


def test_its_calls_for_one_request():
    with lab.record(ROOT / "code" / "04_level_triggered.py") as run:
        lab.clients.plain_get(run.talk("client"), run.server)
        lab.until(lambda: lab.kernel.descriptors(run.server.pid) == 6)  # one is the recorder's
    calls = [call["call"] for call in run.recording["calls"]]
    assert [call for call in calls if call in ("register", "modify", "unregister")] == [
        "register", "register", "modify", "modify", "unregister",
    ]  # fmt: skip


def test_a_slow_reader_does_not_stop_the_others(tmp_path):
    """Its answer leaves in portions, for as long as it takes."""
    text = (ROOT / "code" / "04_level_triggered.py").read_text(encoding="utf-8")
    path = tmp_path / "long.py"
    path.write_text(text.replace('b"Hello, world!"\n)', 'b"Hello, world!"\n) * 100_000'))
    with lab.server.Server(path) as server:
        slow = lab.Conversation(server.address)
        slow.send(lab.clients.REQUEST)
        lab.until(lambda: lab.kernel.unread(slow.socket))
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        with lab.Conversation(server.address) as other:
            lab.clients.plain_get(other, server)
            assert len(other.received) == 7_800_000
        slow.read_all()
        assert len(slow.received) == 7_800_000 and slow.ended == "closed"
        slow.close()
