"""What a look must stand, and what it must not disturb: healthy servers under load, a crowd of
sockets, threads and processes that end meanwhile, other users, other Pythons."""

import ast
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lab
from conftest import BOOK, ROOT, kinds, said
from look import command, kernel
from look.report import report
from look.view import look_at
from survive.server import serve

LOOK = BOOK / "look"


# Healthy, and under load
# -----------------------

APPLICATION = """
async def app(scope, receive, send):
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    await send(head)
    await send({"type": "http.response.body", "body": b"ok"})

def plain(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
ASYNCIO = """
import asyncio, sys
async def talk(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
    writer.close()
async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""
GUNICORN = "-m gunicorn app:plain --pythonpath {folder} -b 127.0.0.1:{port} --no-control-socket"
COMMANDS = {
    "asyncio": "{folder}/asyncio_server.py {port}",
    "uvicorn": "-m uvicorn app:app --app-dir {folder} --port {port} --log-level warning",
    "gunicorn, sync": f"{GUNICORN} --log-level warning",
    "gunicorn, threads": f"{GUNICORN} --threads 4",
    "http.server": "-m http.server {port} --bind 127.0.0.1 --directory {folder}",
} | {f"chapter {name[:2]}": f"{ROOT}/code/{name} {{port}}" for name in (
    "03_thread_per_client.py", "04_level_triggered.py", "05_edge_triggered.py", "06_one_shot.py",
    "10_peers_that_close.py",
)}  # fmt: skip


@contextlib.contextmanager
def running(folder, words):
    """Run a server that people run; yields the Server once it answers."""
    (folder / "app.py").write_text(APPLICATION)
    (folder / "asyncio_server.py").write_text(ASYNCIO)
    address = "127.0.0.1", lab.free_port()
    words = [word.format(port=address[1], folder=folder) for word in words.split()]

    def answers(server, seconds):
        lab.until(lambda: is_answered(address), seconds, "it to answer")
        return address

    with lab.Server([sys.executable, *words], answers, seconds=20) as server:
        yield server


def is_answered(address):
    with contextlib.suppress(OSError), socket.create_connection(address, 10) as client:
        client.sendall(lab.REQUEST)
        return client.recv(1000).startswith(b"HTTP/1.")
    return False


def ask_on_and_on(address, done, took):
    """Ask, one request a connection, until it is done; note how long each answer took, or None."""
    while not done.is_set():
        began = time.monotonic()
        answered = is_answered(address)
        took.append(time.monotonic() - began if answered else None)


@contextlib.contextmanager
def under_load(address, clients=3):
    """Keep a server busy; yields the list of how long the answers took."""
    done, took = threading.Event(), []
    with ThreadPoolExecutor(clients) as pool:
        for _ in range(clients):
            pool.submit(ask_on_and_on, address, done, took)
        try:
            lab.until(lambda: len(took) > 10)
            yield took
        finally:
            done.set()


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_found_in_a_healthy_server_under_load(tmp_path, name):
    # Chapters 3 to 6 listen(1): two at a time is what they let in.
    allowed = {"full queue"} if "chapter 0" in name else set()
    with running(tmp_path, COMMANDS[name]) as server:
        with under_load(server.address) as took:
            for pid in kernel.group(server.pid):
                for _ in range(3):
                    view = look_at(pid)
                    assert not {*kinds(view)} - allowed, report(view)
        assert None not in took, "no request was lost"
        for pid in kernel.group(server.pid):
            assert not look_at(pid).findings, "nor is anything found when it is at rest"


def test_a_look_disturbs_nobody(tmp_path):
    """A hundred looks at a server under load: all are answered, and about as soon."""
    with running(tmp_path, COMMANDS["chapter 10"]) as server:
        with under_load(server.address, 2) as took:
            lab.until(lambda: len(took) > 300)
            before = len(took)
            for _ in range(100):
                look_at(server.pid, 0.02)
            took = list(took)
    assert None not in took and len(took) - before > 100
    calm, watched = statistics.median(took[:before]), statistics.median(took[before:])
    assert watched - calm < 0.02, "in seconds"


# A crowd, and what ends meanwhile
# --------------------------------

CROWD = """
import resource, select, socket
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
number = min(4000, (hard - 100) // 2)
listener, epoll, keep = socket.create_server(("127.0.0.1", 0), backlog=4096), select.epoll(), []
epoll.register(listener, select.EPOLLIN)
for _ in range(number):
    keep += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
    epoll.register(keep[-1], select.EPOLLIN)
print(2 * number + 2, flush=True)
epoll.poll()
"""


def test_a_look_at_one_of_eight_thousand_and_beside_them():
    crowd = subprocess.Popen([sys.executable, "-c", CROWD], stdout=subprocess.PIPE, text=True)
    try:
        number = int(crowd.stdout.readline())
        with serve(ROOT / "code" / "10_peers_that_close.py") as server:
            lab.until_blocked(server.pid, "epoll_wait")
            began = time.process_time()
            assert len(look_at(server.pid).files) < 20
            beside = time.process_time() - began
        lab.until_blocked(crowd.pid, "epoll_wait")
        began = time.process_time()
        view = look_at(crowd.pid)
        at = time.process_time() - began
    finally:
        crowd.kill()
        crowd.communicate()
    assert len(view.files) >= number and "and " in report(view)
    assert not {"frozen", "blocked", "not watched"} & {each.kind for each in view.findings}
    assert beside < 0.5 and at < 1.5, "seconds of CPU time, the window of half a second not counted"


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3])
def test_one_that_ends_meanwhile(after):
    ends = f"import time; print(flush=True); time.sleep({after})"
    child = subprocess.Popen([sys.executable, "-c", ends], stdout=subprocess.PIPE)
    child.stdout.readline()
    with pytest.raises(ProcessLookupError):
        while True:  # the look that is under way when it ends
            look_at(child.pid, 0.4)
    child.communicate()


def test_threads_that_come_and_go(serving):
    path = serving("""
    def serve(listener):
        while True:
            thread = threading.Thread(target=time.sleep, args=[0.01])
            thread.start()
            thread.join()
    """)
    with serve(path) as server:
        for _ in range(10):
            view = look_at(server.pid, 0.05)
            assert view.threads[0].number == server.pid and "frozen" not in said(view)


# Users, namespaces, machines


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_process_of_another_user():
    with serve(ROOT / "code" / "10_peers_that_close.py") as server:
        reading, writing = os.pipe()
        if not (child := os.fork()):  # not exec: nobody may not read this folder
            os.dup2(writing, 1), os.dup2(writing, 2)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
            os.setuid(65534)
            status = command.main([str(server.pid)])
            sys.stderr.flush()
            os._exit(status)
        os.close(writing)
        with open(reading) as said:
            words = said.read()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert words.count("\n") == 1 and f"process {server.pid} is not yours to look at" in words


def test_limits_are_read_where_prlimit_is_refused(monkeypatch):
    """As for root in a container, without CAP_SYS_RESOURCE."""
    import resource

    def refused(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "prlimit", refused)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert look_at(os.getpid(), 0.02).descriptor_limit == limit


PYTHONS = [
    path
    for version in ("3.8", "3.9", "3.10", "3.12", "3.13", "3.14")
    for path in Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python")
]
LATER = {"removeprefix", "removesuffix", "pairwise", "bit_count", "batched", "cache"}


def test_it_is_written_for_python_3_8():
    for path in sorted(LOOK.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
        names = {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
        imported = {
            alias.name
            for each in ast.walk(tree)
            if isinstance(each, ast.ImportFrom)
            for alias in each.names
        }
        assert not LATER & (names | imported), path.name
        keywords = {each.arg for each in ast.walk(tree) if isinstance(each, ast.keyword)}
        assert "strict" not in keywords, f"{path.name}: zip(strict=…) is of 3.10"


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parts[-3])
def test_other_pythons_look_as_well(python):
    with serve(ROOT / "code" / "10_peers_that_close.py") as server:
        lab.until_blocked(server.pid, "epoll_wait")
        words = [python, "-I", LOOK, str(server.pid), "--json", "--seconds", "0.1"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    if done.returncode == 2 and "ptrace_scope" in done.stderr:
        pytest.skip("the server is no child of the one who looks")
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)["findings"] == []


# The command line


def test_help_fits_one_screen(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["-h"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and len(text.splitlines()) <= 24
    assert all(word in text for word in ("--json", "--watch", "exit status: 0 nothing found"))


def test_the_exit_status_says_whether_something_was_found(capsys):
    with serve(ROOT / "code" / "10_peers_that_close.py") as server:
        lab.until_blocked(server.pid, "epoll_wait")
        assert command.main([str(server.pid), "--seconds", "0.05"]) == 0
        with server.paused():
            assert command.main([str(server.pid), "--seconds", "0.05", "--json"]) == 1
    healthy, _, data = capsys.readouterr().out.rpartition("\n{")
    assert "nothing wrong" in healthy and json.loads("{" + data)["findings"][0]["kind"] == "stopped"


def test_looking_on_until_ctrl_c():
    with serve(ROOT / "code" / "10_peers_that_close.py") as server:
        words = [sys.executable, "-I", LOOK, str(server.pid), "--watch", "--seconds", "0.05"]
        # Where we are run in the background SIGINT is ignored, and a child would inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        watching = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        signal.signal(signal.SIGINT, before)
        lines = [watching.stdout.readline()]
        while sum(line.startswith("process") for line in lines) < 2:
            lines.append(watching.stdout.readline())
        with server.paused():
            while "stopped" not in lines[-1]:
                lines.append(watching.stdout.readline())
            watching.send_signal(signal.SIGINT)
            assert watching.wait(10) == 1, "the last look found something"
        watching.stdout.close()


def test_who_reads_only_the_beginning_gets_no_traceback():
    shell = f"{sys.executable} -I {LOOK} {os.getpid()} --seconds 0.05 | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("process ") or "ptrace_scope" in done.stderr
    assert "Traceback" not in done.stderr
