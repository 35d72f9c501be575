"""Starting, watching and stopping: whatever a server does, nothing hangs and nothing is left."""

import os
import resource
import signal
import socket
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
from look import kernel
from survive import server as server_module
from survive.console import KEPT_BYTES, Console
from survive.server import CPU_SECONDS, Server, ServerError, _limited, listens_at, serve

LOOP = BOOK.parent / "code" / "02_request_loop.py"


# A first process that waits, and three workers that answer who says something; "work" takes time.
PRE_FORKED = """
import os, signal
def work(listener):
    while True:
        with listener.accept()[0] as connection:
            if connection.recv(1024) == b"work":
                until = time.process_time() + 0.05
                while time.process_time() < until:
                    pass
            connection.sendall(ANSWER)
def serve(listener):
    if {ignores}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            work(listener)
    {then}
"""
PATIENT = PRE_FORKED.format(ignores=False, then="signal.pause()")


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


@pytest.mark.parametrize(
    "line",
    ["hello", "hello:80", "listening on nowhere", "listening on :x", "listening on 127.0.0.1:-1"],
)
def test_one_that_says_something_else(write, line):
    with pytest.raises(ServerError, match="should first print 'listening on HOST:PORT'"):
        serve(write(f"print({line!r}, flush=True); import time; time.sleep(60)\n"))


def test_a_file_that_is_not_there():
    with pytest.raises(ServerError, match="run the cell that writes it first"):
        serve("run/99_nothing.py")


def test_any_command_may_be_a_server(tmp_path):
    """It says nothing that we know; that one of its processes listens is enough."""
    (tmp_path / "page").write_text("as it should be")
    port = lab.free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    address = ("127.0.0.1", port)
    with Server([*command, "-d", str(tmp_path)], listens_at(address), "a name") as server:
        assert (server.address, server.port, server.name) == (address, port, "a name")
        answer = lab.get(server.address)
        assert answer.status == 200 and b"page" in answer.body
    assert server.stop() == -signal.SIGTERM


def test_a_worker_may_be_who_listens():
    address = "127.0.0.1", lab.free_port()
    program = (
        "import os, signal, socket\n"
        "if os.fork() == 0:\n"
        f"    listener = socket.create_server({address!r})\n"
        "signal.pause()\n"
    )
    with Server([sys.executable, "-c", program], listens_at(address)) as server:
        assert server.name.startswith("python") and len(server.pids()) == 2


def test_one_that_listens_elsewhere_is_not_ready(serving):
    path, port = serving("def serve(listener):\n    time.sleep(60)\n"), lab.free_port()
    with pytest.raises(ServerError, match=f"does not listen on port {port} after 0.5 s"):
        Server([sys.executable, path, "0"], listens_at(("127.0.0.1", port)), seconds=0.5)


def test_one_that_never_listens_though_another_does():
    with socket.create_server(("127.0.0.1", 0)) as ours:
        address = ours.getsockname()
        began = time.monotonic()
        with pytest.raises(ServerError) as caught:
            Server(["sleep", "60"], listens_at(address), seconds=0.3)
    assert str(caught.value) == f"sleep does not listen on port {address[1]} after 0.3 s.\n"
    assert 0.3 <= time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "sh ended with status 0:\nIt printed nothing."),
        ("echo oh dear >&2; exit 3", "sh ended with status 3:\noh dear"),
        ("kill -9 $$", "sh ended with status -9:\nIt printed nothing."),
    ],
)
def test_one_that_ends_before_it_listens(script, said):
    began = time.monotonic()
    with pytest.raises(ServerError) as caught:
        Server(["sh", "-c", script], listens_at(("127.0.0.1", lab.free_port())))
    assert str(caught.value) == said and time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["no_such_program", "./no_such_program", "/"])
def test_a_program_that_is_not_there_is_one_line(name):
    with pytest.raises(ServerError) as caught:
        Server([name, "--help"], listens_at(("127.0.0.1", 1)))
    assert str(caught.value) == f"There is no program {name}."


def test_an_address_of_ipv6_is_understood(write):
    path = write("print('listening on [::1]:5', flush=True); import time; time.sleep(60)\n")
    with serve(path) as server:
        assert server.address == ("::1", 5)


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


def orphan(path, stopped=False, processes=1):
    """Start a server from a process that is then killed by SIGKILL; wait until it dies too.

    processes: as many as it has are waited for before, and all have died after.
    """
    script = (
        "import signal, sys, time, lab\n"
        "server = lab.serve(sys.argv[1])\n"
        f"lab.until(lambda: len(server.pids()) == {processes})\n"
        f"{stopped} and server.paused().__enter__()\n"
        "print(*server.pids(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, path], cwd=BOOK, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == processes and all(map(is_alive, pids))
    parent.kill()
    parent.communicate()
    lab.until(lambda: not any(map(is_alive, pids)), what="the orphans to die")


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_it_dies_with_a_kernel_that_is_killed(stopped):
    """By SIGKILL, so that nothing of the parent's can run; and even if it is stopped itself."""
    orphan(LOOP, stopped)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_workers_die_with_a_kernel_that_is_killed(serving, stopped):
    """The signal of the lifeline goes to the whole group."""
    orphan(serving(PATIENT), stopped, processes=4)


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


@pytest.fixture
def pre_forked(serving):
    """A server of four processes that all sleep."""
    with serve(serving(PATIENT)) as server:
        lab.until(lambda: len(server.pids()) == 4 and server.is_at_rest())
        yield server


def test_its_processes_are_those_of_its_group(pre_forked):
    children = sorted(child.pid for child in psutil.Process(pre_forked.pid).children())
    assert pre_forked.pids() == [pre_forked.pid, *children]


def test_descriptors_and_memory_are_those_of_all_its_processes(pre_forked):
    pids = pre_forked.pids()
    assert pre_forked.descriptors() == sum(map(lab.kernel.descriptors, pids)) == 16
    assert pre_forked.memory() == sum(map(lab.kernel.memory, pids))


def test_a_socket_that_its_processes_share_is_there_once(pre_forked):
    (listener,) = pre_forked.sockets()
    assert (listener.state, listener.local) == ("LISTEN", pre_forked.address)
    with lab.Conversation(pre_forked.address) as talk:
        lab.until(lambda: len(pre_forked.sockets()) == 2 and pre_forked.is_at_rest())
        accepted = next(each for each in pre_forked.sockets() if each.state != "LISTEN")
        assert accepted.remote[1] == talk.port


def test_the_cpu_time_is_that_of_all_its_processes(pre_forked):
    before, of_the_first = pre_forked.cpu_time(), lab.kernel.cpu_time(pre_forked.pid)
    for _ in range(4):
        with lab.Conversation(pre_forked.address) as talk:
            talk.send(b"work")
            talk.read_all()
    assert pre_forked.cpu_time() - before >= 4 * 0.05
    assert lab.kernel.cpu_time(pre_forked.pid) - of_the_first < 0.05
    lab.until(pre_forked.is_at_rest)
    assert pre_forked.cpu_share(0.05) == 0


@pytest.mark.parametrize(
    ("state", "stopped"),
    [("T", True), ("Z", True), ("X", True), ("S", False), ("R", False), ("D", False)],
)
def test_all_are_stopped_when_each_is_or_has_ended(pre_forked, monkeypatch, state, stopped):
    for pid in pre_forked.pids():
        monkeypatch.setattr(kernel, "state", lambda *who, pid=pid: state if pid in who else "T")
        assert pre_forked.is_stopped() == stopped
    monkeypatch.undo()


@pytest.mark.parametrize("question", ["is_asleep", "is_at_rest"])
def test_what_all_its_processes_do_is_what_each_of_them_does(pre_forked, monkeypatch, question):
    asked = getattr(pre_forked, question)
    for awake in pre_forked.pids():
        monkeypatch.setattr(kernel, question, lambda pid, awake=awake: pid != awake)
        assert not asked()
    monkeypatch.setattr(kernel, question, lambda pid: True)
    assert asked()


def test_it_is_not_at_rest_while_a_worker_is_not(pre_forked):
    with lab.Conversation(pre_forked.address) as talk:
        lab.until(lambda: len(pre_forked.sockets()) == 2 and pre_forked.is_at_rest())
        with pre_forked.paused():
            talk.send(b"x")
            lab.until(lambda: not lab.kernel.queues_of(talk.socket)[1])  # it has arrived
            assert not pre_forked.is_at_rest()
        talk.read_all()
    lab.until(pre_forked.is_at_rest)


def test_paused_stops_every_thread_of_every_process(serving):
    thread = "    threading.Thread(target=time.sleep, args=[60], daemon=True).start()\n"
    begins = "def work(listener):\n"
    with serve(serving(PATIENT.replace(begins, begins + thread))) as server:
        lab.until(lambda: len(list(server._each(lab.kernel.threads))) == 7)
        with server.paused():
            states = [lab.kernel.state(*each) for each in server._each(lab.kernel.threads)]
            assert states == ["T"] * 7
            with lab.Conversation(server.address, seconds=0.1) as talk:
                talk.send(b"x")
                assert talk.read_all() == b""
        assert lab.rows.is_hello(lab.get(server.address))


@pytest.mark.parametrize("ignores", [False, True], ids=["polite", "deaf"])
def test_stopping_ends_all_its_processes(serving, ignores):
    path = serving(PRE_FORKED.format(ignores=ignores, then="signal.pause()"))
    server = serve(path)
    lab.until(lambda: len(server.pids()) == 4)
    pids = server.pids()
    assert server.stop(seconds=0.3) == -(signal.SIGKILL if ignores else signal.SIGTERM)
    assert server.pids() == [] and not any(map(is_alive, pids))


def test_workers_that_outlive_their_parent_are_stopped_too(serving):
    """The first process has ended, with a status of its own, but for its workers it is there."""
    with serve(serving(PRE_FORKED.format(ignores=True, then="os._exit(3)"))) as server:
        assert server.wait() == 3 and not server.is_running()
        workers = server.pids()
        assert len(workers) == 3 and server.pid not in workers
        assert server.descriptors() == 3 * 4
    assert not any(map(is_alive, workers)) and server.status() == 3
    with pytest.raises(ProcessLookupError, match=r"server.py has ended"):
        server.descriptors()


def test_stopping_waits_until_all_its_processes_have_ended(monkeypatch):
    server = serve(LOOP)
    left = iter([[1, 2], [2], []])
    monkeypatch.setattr(server, "pids", lambda: next(left))
    server.stop()
    assert next(left, "asked no more") == "asked no more"


def test_it_has_a_group_of_its_own_in_our_session_and_no_colours():
    with serve(LOOP) as server:
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)
        assert os.getsid(server.pid) == os.getsid(0)
        assert psutil.Process(server.pid).environ()["PYTHON_COLORS"] == "0"


def test_its_number_is_nobody_elses_until_itis_stopped():
    """It has ended, and is a zombie, whatever is asked of it."""
    with serve(LOOP) as server:
        server.send_signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL == server.status()
        assert not server.is_running() and "ended with status -9" in repr(server)
        server.send_signal(signal.SIGTERM)  # to nobody
        with server.paused():
            pass
        assert lab.kernel.state(server.pid) == "Z"
    assert lab.kernel.state(server.pid) == "X"
    assert server.status() == server.stop() == -signal.SIGKILL


def test_a_signal_may_go_to_one_of_its_threads(serving):
    path = serving("""
    import signal
    def serve(listener):
        thread = threading.Thread(target=time.sleep, args=[60], daemon=True)
        thread.start()
        signal.signal(signal.SIGUSR1, lambda *_: print("here", flush=True))
        print(thread.native_id, flush=True)
        while True:
            time.sleep(0.01)
    """)
    with serve(path) as server:
        server.wait_for("\n", times=2)
        server.send_signal(signal.SIGUSR1, int(server.output()))
        server.wait_for("here")


def test_one_that_has_left_the_group_and_holds_the_streams_open_does_not_hold_us_up(serving):
    """As a daemon does: it is not ours to end, and we don't wait for it."""
    path = serving(
        """
        import os
        def serve(listener):
            if os.fork() == 0:
                os.setsid()
                print(os.getpid(), flush=True)
                time.sleep(60)
            listener.accept()
        """
    )
    server = serve(path)
    server.wait_for("\n", times=2)
    daemon = int(server.output())
    began = time.monotonic()
    try:
        assert server.stop() == -signal.SIGTERM
        assert time.monotonic() - began < 4 and is_alive(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


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


def test_every_process_of_a_server_has_a_cpu_limit(pre_forked):
    for pid in pre_forked.pids():
        assert resource.prlimit(pid, resource.RLIMIT_CPU)[0] == CPU_SECONDS


def test_the_cpu_limit_is_set_before_the_server_runs(tmp_path, monkeypatch):
    """Whoever started it sees it for the first time when it has long looked at its limit."""
    told = tmp_path / "limit"

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            lab.until(lambda: told.exists() and told.read_text().endswith("\n"))

    monkeypatch.setattr(subprocess, "Popen", Popen)
    says = f"ulimit -S -t >{told}; echo listening on 127.0.0.1:1; exec sleep 60"
    with Server(["sh", "-c", says], name="sh"):
        assert told.read_text() == f"{CPU_SECONDS}\n"


@pytest.mark.parametrize(("hard", "soft"), [(-1, 30), (31, 30), (30, 30), (29, 29)])
def test_the_cpu_limit_is_no_more_than_is_allowed(monkeypatch, hard, soft):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (hard, hard))
    assert _limited()[2] == f'ulimit -S -t {soft}; exec "$@"'


@pytest.mark.parametrize(("hard", "soft"), [(-1, 50), (51, 50), (50, 50), (49, 49)])
def test_a_limit_is_no_more_than_is_allowed(monkeypatch, hard, soft):
    with serve(LOOP) as server:
        limits = []
        monkeypatch.setattr(
            resource, "prlimit", lambda *given: limits.append(given) or (hard, hard)
        )
        server.limit(resource.RLIMIT_NOFILE, 50)
    assert limits[1:] == [(server.pid, resource.RLIMIT_NOFILE, (soft, hard))]


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


def test_when_it_has_been_waited_for_all_that_it_wrote_has_been_read(serving, monkeypatch):
    """The thread that reads is slow, and it has ended long before."""
    take = Console._take

    def take_late(self, *arguments):
        time.sleep(0.2)
        take(self, *arguments)

    monkeypatch.setattr(Console, "_take", take_late)
    with serve(serving("def serve(listener):\n    sys.exit('its last words')\n")) as server:
        assert server.wait() == 1
        assert server.last_words() == "its last words"


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


def test_a_console_is_closed_for_good_when_no_process_is_being_started(monkeypatch):
    """One that is being started holds all our files until it has become another program."""
    held = threading.Lock()
    monkeypatch.setattr(server_module, "STARTING", held)
    with serve(LOOP) as server:
        with held:
            closing = threading.Thread(target=server.close_console)
            closing.start()
            closing.join(0.1)
            assert closing.is_alive() and not server.console._unwanted
        closing.join(5)
        assert not closing.is_alive()


SAYS = """
def serve(listener):
    while True:
        with listener.accept()[0] as connection:
            print(connection.recv(1024).decode(), flush=True)
            connection.sendall(ANSWER)
"""


def test_its_standard_output_may_be_a_file(serving):
    with serve(serving(SAYS), log_file=True) as server:
        lab.get(server.address)
        server.wait_for("GET / HTTP/1.0")
        assert server.output().startswith("GET") and server.errors() == ""
        assert server.log.read_text().partition("\n")[0].startswith("listening on 127.0.0.1:")
        assert kernel.files(server.pid, "pipe").keys() == {0, 2}
        with pytest.raises(ServerError, match="has not printed 'more'"):
            server.wait_for("more", seconds=0.1)
        assert server.printed(lambda text: "POST" in text, 0.1) == server.log.read_text()
        log = server.log
    assert not log.exists()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("1 / 0\n", "ZeroDivisionError"),
        ("import time; time.sleep(60)\n", "printed nothing for 0.5 s"),
        ("print('hello', flush=True); import time; time.sleep(60)\n", "not 'hello'"),
    ],
)
def test_one_with_a_file_that_does_not_start(write, program, said):
    with pytest.raises(ServerError, match=said):
        serve(write(program), log_file=True, seconds=0.5)


def test_a_pipe_that_is_full_stops_who_prints(serving):
    with serve(serving(SAYS)) as server, lab.connect(server) as client:
        server.fill_console()
        client.send(lab.REQUEST)
        assert lab.until_blocked(server.pid, "write")
        assert not client.received
    assert server.status() is not None
