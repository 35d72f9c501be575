"""Starting, watching and stopping: whatever a server does, nothing hangs and nothing is left."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

import lab
from conftest import BOOK
from survive.console import KEPT_BYTES
from survive.server import CPU_SECONDS, ServerError, serve

LOOP = BOOK.parent / "code" / "02_request_loop.py"


def test_a_syntax_error_is_shown_at_once(write):
    began = time.monotonic()
    with pytest.raises(ServerError, match="SyntaxError") as caught:
        serve(write("def broken(:\n"))
    assert "def broken(:" in str(caught.value)
    assert time.monotonic() - began < 5
    assert caught.value._render_traceback_()[0].startswith("server.py ended with status 1")


def test_one_that_dies_at_start_shows_its_own_traceback(write):
    with pytest.raises(ServerError, match="ZeroDivisionError"):
        serve(write("1 / 0\n"))


def test_its_traceback_has_no_colours(write, monkeypatch):
    """Jupyter sets FORCE_COLOR; from Python 3.13 on a traceback would follow it."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(ServerError, match="\nZeroDivisionError: division by zero") as caught:
        serve(write("1 / 0\n"))
    assert "\x1b" not in str(caught.value)


def test_one_that_ends_without_a_word(write):
    with pytest.raises(ServerError, match="ended with status 0:\nIt printed nothing"):
        serve(write("pass\n"))


def test_one_that_never_says_that_it_listens(write):
    with pytest.raises(ServerError, match="printed nothing for 0.3 s"):
        serve(write("import time; time.sleep(60)\n"), seconds=0.3)


@pytest.mark.parametrize("line", ["hello", "listening on nowhere", "listening on :x"])
def test_one_that_says_something_else(write, line):
    with pytest.raises(ServerError, match="should first print"):
        serve(write(f"print({line!r}, flush=True); import time; time.sleep(60)\n"))


def test_a_file_that_is_not_there():
    with pytest.raises(ServerError, match="run the cell that writes it first"):
        serve("run/99_nothing.py")


def test_one_that_ignores_sigterm_is_killed(serving):
    path = serving(
        """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        def serve(listener):
            while True:
                time.sleep(1)
        """
    )
    server = serve(path)
    began = time.monotonic()
    assert server.stop(seconds=0.3) == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - began < 3


def test_a_stopped_one_can_be_stopped():
    server = serve(LOOP)
    server.send_signal(signal.SIGSTOP)
    assert server.stop() == 0


def test_stopping_twice_and_its_last_words():
    server = serve(LOOP)
    lab.get(server.address)
    server.stop()
    assert server.stop() == 0
    assert "GET / HTTP/1.0" in server.output()
    assert server.errors() == ""


def test_it_gives_back_every_descriptor():
    serve(LOOP).stop()
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        serve(LOOP).stop()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_descriptors_after_a_failed_start(write):
    path = write("1 / 0\n")
    for _ in range(3):
        with pytest.raises(ServerError):
            serve(path)
        before = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_lives_through_an_interrupt_of_our_group():
    """Jupyter interrupts a kernel by a signal to its whole group."""
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        script = (
            "import os, signal, sys, lab\n"
            "signal.signal(signal.SIGINT, lambda *_: None)\n"
            "with lab.serve(sys.argv[1]) as server:\n"
            "    os.killpg(0, signal.SIGINT)\n"
            "    lab.get(server.address)\n"
            "    print('alive', server.is_running())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, LOOP], cwd=BOOK, capture_output=True, text=True,
            timeout=20, process_group=0, env={**os.environ, "PYTHONPATH": "."},
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, old)
    assert done.stdout == "alive True\n", done.stderr


def orphan(path, stopped=False):
    """Start a server from a process that is then killed by SIGKILL; wait until it dies too."""
    script = (
        "import signal, sys, time, lab\n"
        "server = lab.serve(sys.argv[1])\n"
        f"{stopped} and server.send_signal(signal.SIGSTOP)\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, path], cwd=BOOK, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.communicate()
    lab.until(lambda: not is_alive(pid), what="the orphan to die")


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_it_dies_with_a_kernel_that_is_killed(stopped):
    """By SIGKILL, so that nothing of the parent's can run; and even if it is stopped itself."""
    orphan(LOOP, stopped)


def test_one_that_ignores_signals_dies_with_its_kernel_too(serving):
    """SIGIO is what the pipe's end would send without F_SETSIG, SIGHUP what an orphan may get."""
    path = serving(
        """
        import signal
        for number in (signal.SIGIO, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        def serve(listener):
            while True:
                time.sleep(1)
        """
    )
    orphan(path)


def test_a_kernel_that_ends_in_good_order_says_goodbye(serving, tmp_path):
    """atexit stops what start() has started, with SIGTERM: a server can close its sockets."""
    path = serving(
        f"""
        import pathlib, signal
        def goodbye(*_):
            pathlib.Path({str(tmp_path / "goodbye")!r}).touch()
            sys.exit(0)
        signal.signal(signal.SIGTERM, goodbye)
        def serve(listener):
            listener.accept()
        """
    )
    script = f"import lab; lab.start({str(path)!r})"
    subprocess.run(
        [sys.executable, "-c", script], cwd=BOOK, check=True, timeout=20,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert (tmp_path / "goodbye").exists()


def test_children_of_a_server_are_stopped_with_it(serving):
    path = serving(
        """
        import os
        def serve(listener):
            if os.fork() == 0:
                time.sleep(60)
            print("forked", flush=True)
            listener.accept()
        """
    )
    with serve(path) as server:
        server.wait_for("forked")
        (child,) = psutil.Process(server.pid).children()
    lab.until(lambda: not is_alive(child.pid), what="the server's child to die")


def test_output_without_flush_and_of_any_bytes(write):
    path = write(
        """
        import os, sys, time
        print("listening on 127.0.0.1:1")
        print("not flushed")
        os.write(1, b"\\xff out\\n")
        os.write(2, b"\\xff err\\n")
        time.sleep(60)
        """
    )
    with serve(path) as server:
        server.wait_for("out")
        assert server.output() == "not flushed\n\\xff out\n"
        lab.until(lambda: server.errors() == "\\xff err\n")


def test_much_complaint_does_not_stop_it_nor_fill_anything(serving):
    path = serving(
        """
        def serve(listener):
            print("x" * 3_000_000, file=sys.stderr, flush=True)
            listener.accept()[0].send(ANSWER)
        """
    )
    with serve(path) as server:
        assert lab.rows.is_hello(lab.get(server.address))
        assert len(server.errors()) <= KEPT_BYTES


@pytest.mark.parametrize("first", ["", "hello"])
def test_one_that_says_something_else_and_dies_shows_both(write, first):
    path = write(f"import sys; print({first!r}, flush=True); sys.exit('so it ends')\n")
    began = time.monotonic()
    with pytest.raises(ServerError, match="should first print"):
        serve(path)
    assert time.monotonic() - began < 5


def test_paused_means_stopped():
    with serve(LOOP) as server:
        with server.paused():
            assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
        assert lab.rows.is_hello(lab.get(server.address))


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_servers_of_a_thread_pool_outlive_the_pool():
    """A parent-death signal follows the thread that started the process; this must not."""
    started = []
    thread = threading.Thread(target=lambda: started.append(serve(LOOP)))
    thread.start()
    thread.join()
    with started[0] as server:
        assert lab.rows.is_hello(lab.get(server.address))


def test_one_that_spins_and_is_forgotten_ends_by_itself(serving):
    path = serving("def serve(listener):\n    while True: pass\n")
    with serve(path) as server:
        server.limit(resource.RLIMIT_CPU, 1)
        assert server.wait(seconds=30) == -signal.SIGXCPU


def test_every_server_has_a_cpu_limit():
    with serve(LOOP) as server:
        soft, _ = resource.prlimit(server.pid, resource.RLIMIT_CPU)
        assert 0 < soft <= CPU_SECONDS  # no limit would be -1


def test_much_output_does_not_stop_it(serving):
    path = serving(
        """
        def serve(listener):
            print("x" * 3_000_000, flush=True)
            listener.accept()[0].send(ANSWER)
        """
    )
    with serve(path) as server:
        assert lab.rows.is_hello(lab.get(server.address))
        assert len(server.output()) <= KEPT_BYTES


def test_a_closed_console_is_a_broken_pipe(serving):
    path = serving(
        """
        def serve(listener):
            listener.accept()
            print("anybody there?", flush=True)
        """
    )
    with serve(path) as server:
        server.close_console()
        with lab.Conversation(server.address):
            assert server.wait() == 1
        assert server.last_words().startswith("BrokenPipeError")


def test_until_says_what_it_waited_for():
    with pytest.raises(TimeoutError, match="waited 0.01 s for a miracle"):
        lab.until(lambda: False, 0.01, what="a miracle")


@pytest.mark.parametrize(("count", "what"), [(None, "to rest$"), (7, "to rest with 7 sockets$")])
def test_waiting_for_rest_says_what_it_waited_for(count, what):
    with serve(LOOP) as server, server.paused(), lab.Conversation(server.address):
        with pytest.raises(TimeoutError, match=f"waited 0.05 s for process {server.pid} {what}"):
            lab.until_at_rest(server.pid, count, seconds=0.05)


def test_waiting_for_output_that_never_comes():
    with (
        serve(LOOP) as server,
        pytest.raises(ServerError, match="has not printed 'never'"),
    ):
        server.wait_for("never", seconds=0.05)


def test_closing_the_console_while_it_prints_and_twice(serving):
    """The reader must not read a descriptor that it has just closed."""
    prints = """
def serve(listener):
    while True:
        try:
            print("x" * 1000, flush=True)
        except BrokenPipeError:
            time.sleep(60)
"""
    for _ in range(10):
        with serve(serving(prints)) as server:
            server.wait_for("x")
            server.close_console()
            server.close_console()
            lab.until_blocked(server.pid, "clock_nanosleep")


KEEPS_A_FILE = """
    import tempfile
    def serve(listener):
        with tempfile.NamedTemporaryFile() as file:
            print(file.name, flush=True)
            listener.accept()
"""


def test_what_a_killed_server_leaves_in_its_scratch_folder_is_removed(serving):
    with serve(serving(KEEPS_A_FILE)) as server:
        server.wait_for("\n", times=2)
        left = Path(server.output().strip())
        server.send_signal(signal.SIGKILL)
        server.wait()
        assert left.exists(), "it had no time to remove it"
    assert not left.exists() and not left.parent.exists()


def test_every_server_has_a_scratch_folder_of_its_own(serving):
    path = serving(KEEPS_A_FILE)
    with serve(path) as one, serve(path) as other:
        folders = [Path(psutil.Process(each.pid).environ()["TMPDIR"]) for each in (one, other)]
        assert len({*folders, Path(tempfile.gettempdir())}) == 3
        for server, folder in zip((one, other), folders, strict=True):
            server.wait_for("\n", times=2)
            assert Path(server.output().strip()).parent == folder


def test_no_scratch_folder_is_left_by_a_failed_start(write, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(ServerError):
        serve(write("1 / 0\n"))
    assert not list(folder.iterdir())
