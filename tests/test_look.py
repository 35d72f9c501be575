"""A look at servers that misbehave, each in its own way, and at one that does not."""

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import lab
from conftest import BOOK, said, until_waiting
from look import command, findings, kernel, strace, view
from look.report import WIDTH, report
from look.view import look_at
from survive.server import serve

SCRIPT = BOOK / "look"
EPOLL = BOOK.parent / "code" / "04_level_triggered.py"
LOOP = BOOK.parent / "code" / "02_request_loop.py"
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")

ASYNCIO = """
import asyncio, sys, time
async def talk(reader, writer):
    await reader.readline()
    time.sleep(60)
async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", int(sys.argv[1]))
    print("listening on 127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def look_at_busy(server):
    """A look once it uses a core, of which, on a machine with more to do, it gets none at times."""
    lab.until(lambda: kernel.cpu_share(server.pid, 0.1) > 2 * findings.SPINNING)
    return lab.until(
        lambda: ((view := look_at(server.pid)).calls is not None or view.refused) and view
    )


def words_of(view):
    return " ".join(report(view).split())


def is_traced(pid):
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


@contextlib.contextmanager
def a_spinning_server():
    """The epoll server after a client has connected and closed."""
    with serve(EPOLL) as server:
        lab.Conversation(server.address).close()
        lab.until(lambda: kernel.cpu_share(server.pid, 0.1) > 2 * findings.SPINNING)
        yield server


def script(pid):
    command = [sys.executable, "-I", "-S", SCRIPT, str(pid)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_an_idle_one_has_nothing_wrong():
    with serve(EPOLL) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        view = look_at(server.pid, 0.2)
        server.limit(resource.RLIMIT_NOFILE, len(view.files))
        few = look_at(server.pid, 0.1)
    assert f"{len(view.files)} descriptors are open, and {len(view.files)} are" in said(few)
    ((epoll, (watch,)),) = view.epolls.items()
    assert watch.file == view.listeners[watch.fd] and watch.mask & select.EPOLLIN
    assert view.calls is None and view.share < findings.SPINNING
    assert view.findings == () and re.search(
        rf"- nothing wrong that can be seen from here: it sleeps in epoll_\w+\({epoll}\) threads",
        words_of(view),
    )
    text = report(view)
    assert f"{watch.fd} for IN: listening on 127.0.0.1:{server.port}, 0 waiting, limit 1" in text
    assert f"process {server.pid}: python" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_spinning_one_is_traced_and_lives_on():
    with a_spinning_server() as server:
        view = look_at_busy(server)
        assert server.is_running() and not is_traced(server.pid)
        assert str(lab.get(server.address)) == "200 'Hello, world!'"
        again = look_at_busy(server)  # it can be traced more than once
    assert server.status() == 0  # not what a stop looks like
    (closed,) = view.sockets
    assert view.findings[0].says.startswith("spinning: ")
    assert re.search(
        rf"epoll_\w+\(\d\) \d+ times, which returned 1: ready {closed} \(IN\)", said(view)
    )
    assert re.search(rf"recvfrom\({closed}\) \d+ times, which returned 0 \(end of", said(view))
    assert f"1 socket ({closed}) in CLOSE-WAIT" in said(view)
    assert 0 < len(view.calls) <= strace.CALLS and again.calls


# What uses a core, once a client has connected, and what is said of it.
MOVES = """
    client = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    while True: client.send(b"x"), other.recv(1)
"""
COMPUTES = """
    clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
    while True: pass
"""
WATCHES_FOR_OUT = """
    epoll = select.epoll()
    epoll.register(connection, select.EPOLLIN | select.EPOLLOUT)
    while True: epoll.poll()
"""
HAS_A_THREAD = """
    def spin():
        while True: time.sleep(0)
    threading.Thread(target=spin, daemon=True).start()
    threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        (MOVES, "$"),
        (COMPUTES, "computes: [0-9.]+ of a core, and no system .* Meanwhile 2 clients wait"),
        (
            WATCHES_FOR_OUT,
            r"spinning: .*1: ready (\d) \(OUT\).*\(\1\) watched for OUT with nothing",
        ),
        (HAS_A_THREAD, r"spinning: .*clock_nanosleep \d+ times, which succeeded"),
    ],
    ids=["moves", "computes", "out", "thread"],
)
def test_what_uses_a_core(serving, uses, expected):
    path = serving(
        "import select\ndef serve(listener):\n    connection, _ = listener.accept()" + uses
    )
    with serve(path) as server, lab.Conversation(server.address):
        view = look_at_busy(server)
        assert server.is_running() and not is_traced(server.pid)
    assert uses != MOVES or "times, which moved data" in words_of(view), "told all the same"
    assert re.match(expected, said(view)), (
        "your_own_server: “watched for OUT with nothing unsent”; "
        "your_own_server: “poll never sleeps: ask for OUT only while something is left”"
    )


def test_where_tracing_is_refused_it_says_so(monkeypatch):
    with a_spinning_server() as server:
        monkeypatch.setattr(strace, "SEIZE", strace.DETACH)  # of what is not traced: ESRCH
        view = look_at_busy(server)
    assert re.match(r"busy or spinning: .* tracing failed \(No such process\)", said(view))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
def test_a_signal_while_it_is_traced(monkeypatch, number):
    monkeypatch.setattr(strace, "CALLS", 10**9)
    monkeypatch.setattr(strace, "SECONDS", 30)
    with a_spinning_server() as server:
        monkeypatch.setattr(findings, "SPINNING", -1)  # of whatever it gets of a core
        looking = threading.Thread(target=look_at, args=[server.pid, 0.1])
        looking.start()
        lab.until(lambda: is_traced(server.pid))
        os.kill(server.pid, number)
        looking.join(10)
        assert not looking.is_alive()
        if number == signal.SIGSTOP:
            assert look_at(server.pid, 0.1).findings[0].says.startswith("stopped, by SIGSTOP")
            os.kill(server.pid, signal.SIGCONT)
            assert lab.get(server.address).status == 200
        else:
            assert server.wait() == (0 if number == signal.SIGTERM else -number)


def test_a_silent_client_holds_up_a_blocking_server():
    with serve(LOOP) as server, lab.Conversation(server.address) as silent:
        lab.until_blocked(server.pid, "recvfrom")
        silent.another(), silent.another()
        until_waiting(server, 2)
        view = look_at(server.pid, 0.2)
    fd = view.threads[0].looks[-1].arguments[0]
    assert view.findings[0].says == (
        "one client holds up all: 2 clients wait in the accept queue, while the main thread sleeps "
        f"in recvfrom({fd}) (ESTABLISHED with 127.0.0.1:{silent.port}), with nothing to read"
    )
    assert "is full: 2 wait, and listen(1) lets in 2" in view.findings[1].says


def test_an_asyncio_server_whose_handler_sleeps_is_frozen(write):
    with serve(write(ASYNCIO)) as server, lab.Conversation(server.address) as talk:
        lab.until(lambda: len(kernel.sockets(pid=server.pid)) == 2)
        lab.until_blocked(server.pid, "epoll_wait")
        talk.send(b"\n")
        lab.until_blocked(server.pid, "clock_nanosleep")
        talk.another().send(b"abc")
        until_waiting(server, 1)
        talk.send(b"more!")
        view = look_at(server.pid, 0.1)
    assert view.findings[0].says.startswith(
        "frozen: 1 client waits in the accept queue and 5 bytes of 1 socket unread, while the main "
        "thread sleeps in clock_nanosleep (time.sleep()), not in epoll_wait("
    )
    assert "5 unread, 0 unsent" in report(view) and "1 waiting, limit 100" in report(view)


@pytest.mark.parametrize(
    ("selector", "calls"),
    [("PollSelector", ("poll", "ppoll")), ("SelectSelector", ("select", "pselect6"))],
)
def test_what_poll_and_select_watch(serving, selector, calls):
    path = serving("""
    import selectors
    def serve(listener):
        selector = getattr(selectors, sys.argv[2])()
        selector.register(listener, selectors.EVENT_READ)
        selector.select()
    """)
    with serve(path, selector) as server:
        lab.until(lambda: kernel.is_asleep(server.pid))
        view = look_at(server.pid, 0.1)
    (watch,) = view.threads[0].watches
    assert view.threads[0].looks[-1].call in calls and not view.findings
    assert watch.file == view.listeners[watch.fd] and watch.mask & select.EPOLLIN
    assert f"watches 1\n  {watch.fd} for IN" in report(view)


def test_threads_that_all_serve_a_client(serving):
    path = serving("""
    def serve(listener):
        for _ in range(2):
            connection, _ = listener.accept()
            threading.Thread(target=connection.recv, args=[1]).start()
        threading.Event().wait()
    """)
    with serve(path) as server, lab.Conversation(server.address) as talk:
        talk.another(), talk.another()
        until_waiting(server, 1)
        lab.until(lambda: kernel.is_asleep(server.pid))
        view = look_at(server.pid, 0.1)
        server.stop(signal.SIGKILL)
    assert [finding.says for finding in view.findings] == [
        "all threads are taken: 1 client waits in the accept queue, while 2 threads sleep in "
        "recvfrom, each on a client"
    ]


def test_a_registration_that_a_duplicate_keeps(serving):
    path = serving("""
    import os, select
    def serve(listener):
        connection, _ = listener.accept()
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN)
        epoll.register(connection, select.EPOLLIN)
        duplicate, number = connection.dup(), connection.fileno()
        connection.close()
        reused = os.dup2(listener.fileno(), number)  # the number means another file now
        epoll.register(reused, select.EPOLLIN)
        print(number, flush=True)
        epoll.poll()
    """)
    with serve(path) as server, lab.Conversation(server.address):
        lab.until_blocked(server.pid, "epoll_wait")
        server.wait_for("\n", times=2)
        number = int(server.output())
        view = look_at(server.pid, 0.1)
    (epoll,) = view.epolls
    assert f"{number} for IN: listening on" in report(view)
    assert f"1 socket ({number}) closed here, but watched by epoll {epoll}" in said(view)
    assert f"{number} for IN: watched, but closed here" in report(view)


# Three clients: one watched for nothing, one that does not read, one that leaves.
NEGLECT = """
import select
def serve(listener):
    epoll = select.epoll()
    quiet, _ = listener.accept()
    epoll.register(quiet, 0)
    slow, _ = listener.accept()
    slow.setblocking(False)
    if sys.argv[2] == "OUT": epoll.register(slow, select.EPOLLOUT)
    try:
        while True: slow.send(b"x" * 65536)
    except BlockingIOError: pass
    gone, _ = listener.accept()
    epoll.register(listener, select.EPOLLIN)
    print(quiet.fileno(), slow.fileno(), gone.fileno(), flush=True)
    while True:
        for fd, _ in epoll.poll():
            if fd == slow.fileno(): slow.send(b"x" * 65536)
"""


@pytest.mark.parametrize(("out", "who"), [("OUT", "the process waits"), ("", "nobody watches")])
def test_what_nobody_watches(serving, out, who):
    with serve(serving(NEGLECT), out) as server, lab.Conversation(server.address) as talk:
        talk.send(b"unread")
        slow = talk.another()
        lab.until(lambda: [row for row in kernel.sockets(server.port) if row.timer == "probe"])
        talk.another().close()
        server.wait_for("\n", times=2)
        lab.until_blocked(server.pid, "epoll_wait")
        quiet, stuck, gone = server.output().split()
        view = look_at(server.pid, 0.2)
        assert slow.state() == "ESTABLISHED"
    text = said(view)
    assert f"1 socket ({quiet}) with bytes unread, and nobody watches for IN" in text
    zero = rf"1 socket \({stuck}\) with bytes unsent: .* its window is zero; {who} for OUT"
    assert re.search(zero, text), (
        "your_own_server: “bytes unsent, and the peer's window is zero”; "
        "your_own_server: “the peer does not read: ask for OUT, and wait”"
    )
    assert f"1 socket ({gone}) in CLOSE-WAIT" in text
    assert re.search(rf" {quiet} for nothing.*, 6 unread, 0 unsent", report(view))
    assert re.search(rf" {gone}: CLOSE-WAIT .*, 0 unread, 0 unsent", report(view))  # FIN: no byte


def test_a_program_in_a_folder_with_a_space_is_named_by_the_last_part_of_its_path(tmp_path):
    program = tmp_path / "a folder" / "sleeper"
    program.parent.mkdir()
    program.symlink_to(shutil.which("sleep"))
    with subprocess.Popen([program, "60"]) as process:
        view = look_at(process.pid, 0.05)
        process.kill()
    assert view.command == "sleeper 60"


def test_the_command_line_needs_nothing_but_the_standard_library():
    with serve(EPOLL) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        done = script(server.pid)
    if os.geteuid() and YAMA.exists() and YAMA.read_text().strip() != "0":  # no child of the script
        assert done.returncode == 2 and "ptrace_scope" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert "nothing wrong that can be seen from here" in done.stdout


@pytest.mark.parametrize(
    "words", [(), ("1", "2"), ("python",), ("-1",), ("0",), ("٣",), ("1٣",), ("12345678",)]
)
def test_complaints_of_the_command_line(capsys, words):
    with pytest.raises(SystemExit) as ended:
        command.main(list(words))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out and "-h tells more" in captured.err
    assert captured.err.count("\n") == 1


def test_no_arguments_are_none_and_not_those_of_whoever_calls(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", str(os.getppid())])
    with pytest.raises(SystemExit):
        command.main([])
    assert "give the number of one process" in capsys.readouterr().err


def test_one_that_has_ended():
    child = subprocess.Popen(["true"])
    lab.until(lambda: "State:\tZ" in Path(f"/proc/{child.pid}/status").read_text())
    for _ in range(2):  # a zombie, then nothing
        with pytest.raises(ProcessLookupError):
            look_at(child.pid, 0.05)
        done = script(child.pid)
        assert done.returncode == 2 and f"process {child.pid} has ended" in done.stderr
        assert child.wait() == 0


def test_one_that_is_not_ours(monkeypatch, capsys):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kernel, "blocked_in", refuse)
    assert command.main([str(os.getppid())]) == 2
    words = capsys.readouterr().err
    assert words.count("\n") == 1 and "the same user" in words and "ptrace_scope" in words


def test_a_view_is_of_the_windows_end_and_remembers_its_beginning(monkeypatch):
    """Between the two a socket is opened and watched, in this process, which looks at itself."""
    with select.epoll() as epoll, contextlib.ExitStack() as opened:

        def open_one(seconds):
            sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            epoll.register(sock, select.EPOLLIN)

        monkeypatch.setattr(view.time, "sleep", open_one)
        seen, shares = view._observe(os.getpid(), 1)
        new = seen.files.keys() - seen.earlier.keys()
        assert len(new) == 6 and len(shares) == 2, "one before each look but the first"
        watches = seen.epolls[epoll.fileno()]
        assert {watch.fd for watch in watches} == new == seen.listeners.keys()
        assert all(watch.file == seen.files[watch.fd] for watch in watches)
        assert all(seen.files[fd].text.startswith("listening on 127.0.0.1:") for fd in new)


def test_what_a_view_says_of_the_whole_process(monkeypatch):
    """A tenth of a core in one half of a window, three tenths in the other."""
    monkeypatch.setattr(view.time, "sleep", lambda seconds: None)
    moments = [(10, 1), (10.3, 1), (10.6, 1), (11, 1.1), (11.3, 1.2), (11.6, 1.3), (12, 1.4)]
    samples = iter([view._Sample(when, used, {}) for when, used in moments])
    monkeypatch.setattr(view, "_sample", lambda pid: next(samples))
    monkeypatch.setattr(view, "_threads", lambda *arguments: ())
    seen, shares = view._observe(os.getpid(), 2)
    assert shares == pytest.approx([0.1, 0.3]) and seen.share == pytest.approx(0.2)
    status = Path("/proc/self/status").read_text()
    assert seen.resident / 1024 == pytest.approx(
        int(re.search(r"VmRSS:\s+(\d+)", status)[1]), rel=0.1
    )
    assert seen.descriptor_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert seen.command.startswith("python") and seen.command.count("/python") == 0


def test_the_share_of_a_thread_is_what_it_used_during_the_window(monkeypatch):
    """One of them has come meanwhile: what it used before we saw it is not known."""
    monkeypatch.setattr(view, "_polled", lambda *arguments: [])
    monkeypatch.setattr(view, "_name", lambda *arguments: "name")
    asleep = kernel.Blocked("accept4", "inet_csk_accept", (3,) * 6)
    samples = [
        view._Sample(when, 0, threads)
        for when, threads in (
            (10.0, {1: (1.0, "S", asleep, 5), 3: (0.0, "S", None, 1), 4: (0.0, "S", asleep, 1)}),
            (11.0, {1: (1.0, "R", None, 5), 4: (0.0, "S", asleep, 1)}),
            (12.0, {1: (1.5, "S", asleep, 6), 2: (7.0, "R", None, 1), 4: (0.0, "S", asleep, 1)}),
        )
    ]
    assert view._threads(1, samples, {}) == (
        (1, "name", "S", 0.25, (asleep, None, asleep), False, 1, []),
        (2, "name", "R", 0.0, (None,), False, 0, []),
        (4, "name", "S", 0.0, (asleep,) * 3, True, 0, []),
    )


@pytest.mark.parametrize(("count", "slept"), [(1, True), (2, False)])
def test_who_has_run_in_between_has_not_slept(monkeypatch, count, slept):
    """In the same call, and yet not in the same sleep: voluntary_ctxt_switches has grown."""
    monkeypatch.setattr(view, "_polled", lambda *arguments: [])
    asleep = kernel.Blocked("recvfrom", "sk_wait_data", (3,) * 6)
    moments = [(10.0, 1), (11.0, 1), (12.0, count)]
    samples = [view._Sample(when, 0, {1: (0.0, "S", asleep, n)}) for when, n in moments]
    (thread,) = view._threads(1, samples, {})
    assert thread.slept == slept


@pytest.mark.parametrize("then", [None, kernel.Blocked("poll", "do_poll", (1, 2, 3, 4, 5, 6))])
def test_what_poll_watches_is_told_only_if_it_still_sleeps_there(monkeypatch, then):
    """Else that memory may mean anything by now."""
    blocked = kernel.Blocked("poll", "do_poll", (0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(strace, "polled", lambda pid, blocked: {9: 1, 8: 4})
    monkeypatch.setattr(kernel, "blocked_in", lambda pid, number: blocked)
    watches = view._polled(1, 1, blocked, {9: "a file"})
    assert watches == [(8, 4, None, 0), (9, 1, "a file", 0)]
    monkeypatch.setattr(kernel, "blocked_in", lambda pid, number: then)
    assert view._polled(1, 1, blocked, {}) is None
    assert view._polled(1, 1, None, {}) == []


@pytest.mark.parametrize(("limit", "seconds"), [(5, 30), (10**9, 0.2)])
def test_a_thread_is_traced_for_so_many_calls_or_so_long(monkeypatch, limit, seconds):
    monkeypatch.setattr(strace, "CALLS", limit)
    monkeypatch.setattr(strace, "SECONDS", seconds)
    with a_spinning_server() as server:
        began = time.monotonic()
        calls = strace.trace(server.pid, server.pid)
        assert time.monotonic() - began < 5
    assert 0 < len(calls) <= limit and (limit > 5 or len(calls) == 5)
