"""The words of experiments: what they say, and that they wait until it is so."""

import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import lab
from conftest import ROOT
from lab import experiment

LEVEL = ROOT / "code" / "04_level_triggered.py"
IN, OUT, RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP


@pytest.fixture
def ends():
    """A connection's two ends."""
    ours, theirs = lab.pair()
    with ours, theirs:
        yield ours, theirs


def test_what_an_end_is_told(ends):
    ours, theirs = ends
    assert lab.told(ours) == lab.told(theirs) == "nothing"
    ours.shutdown(socket.SHUT_RD)
    assert lab.told(theirs) == "nothing"
    ours.shutdown(socket.SHUT_WR)
    assert (lab.told(theirs), lab.told(ours)) == ("a FIN", "nothing")
    theirs.close()
    assert lab.told(ours) == "a FIN"


def test_a_reset_is_told_even_where_the_port_was_used_before(ends):
    """A connection from the same port that ended before is still in TIME-WAIT."""
    ours, theirs = ends
    here = ours.getsockname()
    with socket.socket() as before, socket.create_server(("127.0.0.1", 0)) as listener:
        before.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        before.bind(("127.0.0.1", 0))
        before.connect(listener.getsockname())
        accepted, _ = listener.accept()
        before.shutdown(socket.SHUT_WR)
        accepted.close()
        assert lab.told(before) == "a FIN"  # its port is in TIME-WAIT from now on
        port = before.getsockname()
    with socket.socket() as again, socket.create_server(("127.0.0.1", 0)) as listener:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(port)
        again.connect(listener.getsockname())
        accepted, _ = listener.accept()
        lab.reset(accepted)
        assert lab.told(again) == "a reset"
    lab.reset(theirs)
    assert lab.told(ours) == "a reset" and ours.getsockname() == here


def test_a_reset_that_was_reported_is_told_still(ends):
    ours, theirs = ends
    lab.reset(theirs)
    assert lab.tried(ours.recv, 1) == "recv: ECONNRESET"
    assert lab.told(ours) == "a reset"


def test_what_is_reported(ends):
    ours, theirs = ends
    assert lab.reported(ours, IN | OUT) == "OUT"
    theirs.send(b"hello")
    assert lab.reported(ours, IN | OUT) == "IN|OUT"
    assert lab.reported(ours) == "nothing"
    theirs.close()
    assert lab.reported(ours, IN | RDHUP) == "IN|RDHUP"


def test_a_full_buffer_is_settled_for_its_reader_has_no_room():
    ours, theirs = lab.pair(receive_buffer=20_000)
    with ours, theirs:
        ours.setblocking(False)
        assert lab.fill(ours) > 100_000
        assert lab.settled(ours) is ours and lab.told(theirs) == "nothing"
        theirs.shutdown(socket.SHUT_WR)
        assert lab.told(ours) == "a FIN"


def test_what_is_on_its_way_is_waited_for(ends, monkeypatch):
    """Bytes not acknowledged, an end not answered, a peer that is gone: that is not settled."""
    ours, theirs = ends
    here, there = ours.getsockname(), ours.getpeername()
    found = {}
    monkeypatch.setattr(experiment.kernel, "find_socket", lambda *ends: found.get(ends))

    def seen(state, unsent=0, timer="off"):
        return lab.kernel.Socket(state, here, there, 0, unsent, timer, 0, 1)

    def has_settled(mine, peer):
        found.update({(here, there): mine, (there, here): peer})
        return experiment._settled(here, there)

    calm = seen("ESTABLISHED")
    assert has_settled(calm, calm) and has_settled(None, None)
    assert has_settled(seen("TIME-WAIT"), None)
    assert has_settled(seen("ESTABLISHED", 5, "probe"), calm)
    assert not has_settled(calm, None), "a reset is on its way"
    assert not has_settled(seen("ESTABLISHED", 5, "retransmit"), calm)
    assert not has_settled(calm, seen("ESTABLISHED", 5, "retransmit"))
    assert not has_settled(None, seen("LAST-ACK"))
    for state in ("SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "CLOSING", "LAST-ACK"):
        assert not has_settled(seen(state), calm) and not has_settled(calm, seen(state)), state
    found.update({(here, there): calm, (there, here): None})
    with pytest.raises(TimeoutError, match="a connection to settle"):
        lab.settled(ours, seconds=0.05)


def test_a_socket_without_a_peer_has_settled():
    with socket.socket() as alone:
        assert lab.settled(alone) is alone and lab.reported(alone, OUT) == "OUT|HUP"


def test_both_ends_of_a_visit():
    with lab.serve(LEVEL) as server:
        client = lab.connect(server)
        assert lab.both_ends(client) == ("ESTABLISHED", "ESTABLISHED")
        client.ask()
        lab.at_rest(server, sockets=1)
        assert lab.both_ends(client) == ("CLOSE-WAIT", "FIN-WAIT-2")
        client.close()
        assert lab.both_ends(client) == ("gone", "TIME-WAIT")
        other = lab.connect(server)
        other.ask()
        lab.at_rest(server, sockets=1)
        other.send(b"?")
        assert lab.both_ends(other) == ("CLOSE", "gone")
        other.close()


def test_a_client_may_have_a_receive_buffer_that_does_not_grow():
    with lab.serve(LEVEL) as server, lab.connect(server, "small", receive_buffer=20_000) as client:
        size = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert client.name == "small" and size == 40_000  # the kernel doubles it, socket(7)


def test_names_of_what_poll_returned():
    assert lab.names([]) == "nothing"
    assert lab.names([(4, IN | RDHUP)]) == "IN|RDHUP"
    assert lab.names([(4, IN), (5, OUT)]) == "IN, OUT"


def test_what_came_of_a_call(ends):
    ours, theirs = ends
    ours.setblocking(False)
    assert lab.tried(ours.recv, 9) == "recv: EAGAIN"
    theirs.send(b"hello")
    assert lab.tried(lab.settled(ours).recv, 9) == "recv: b'hello'"
    assert lab.tried(ours.shutdown, socket.SHUT_WR) == "shutdown: done"
    with select.epoll() as epoll:
        assert lab.entries(epoll) == 0
        epoll.register(ours, IN)
        assert lab.entries(epoll) == 1
    assert lab.tried(epoll.poll) == "poll: ValueError: I/O operation on closed epoll object"


def test_a_call_that_sleeps(ends):
    ours, theirs = ends
    sleeper = lab.asleep(ours.recv, 9)
    assert sleeper.call == "recvfrom" and not sleeper.is_over
    with pytest.raises(TimeoutError, match="sleeps in recvfrom"):
        sleeper.result(seconds=0.05)
    theirs.send(b"hello")
    assert sleeper.result() == "recv: b'hello'" and sleeper.is_over


def test_what_a_call_raises_is_the_last_line_of_its_traceback(ends):
    ours, _ = ends
    assert lab.raised(ours.send, "hello") == (
        "TypeError: a bytes-like object is required, not 'str'"
    )
    with pytest.raises(AssertionError, match="send raised nothing, and returned 5"):
        lab.raised(ours.send, b"hello")


def test_a_call_that_has_been_woken_for_nothing():
    """Two sleep in epolls of their own on one listener: both are woken, and one can accept."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        def accept():
            with select.epoll() as epoll:
                epoll.register(listener, IN)
                while epoll.poll() and lab.tried(listener.accept) == "accept: EAGAIN":
                    pass

        sleepers = [lab.asleep(accept) for _ in range(2)]
        assert [each.has_run for each in sleepers] == [False, False]
        for over in (1, 2):
            with socket.create_connection(listener.getsockname()):
                lab.until(lambda: all(each.has_run for each in sleepers))
                lab.until(lambda over=over: sum(each.is_over for each in sleepers) == over)


def test_a_call_that_does_not_sleep(ends):
    ours, theirs = ends
    theirs.send(b"hello")
    sleeper = lab.asleep(lab.settled(ours).recv, 9)
    assert sleeper.result() == "recv: b'hello'" and sleeper.call is None


def test_acts_together_run_at_once_and_in_their_order():
    began, all_there = [], threading.Barrier(3, timeout=5)

    def act(name):
        began.append(name)
        all_there.wait()

    lab.together(lambda: act("a"), lambda: act("b"), lambda: act("c"))
    assert began == ["a", "b", "c"]


def test_what_fails_among_acts_together_is_raised_when_all_are_over():
    done = []

    def fails():
        raise ValueError("the first")

    def late():
        time.sleep(0.1)
        done.append("late")
        raise OSError("the second")

    with pytest.raises(ValueError, match="the first"):
        lab.together(fails, late)
    assert done == ["late"]


def test_a_child_holds_what_it_has_inherited(ends):
    ours, theirs = ends
    with lab.inherited(ours):
        ours.close()
        assert lab.told(theirs) == "nothing"
    assert lab.told(theirs) == "a FIN"


def test_a_child_that_holds_a_socket_ends_with_us(tmp_path):
    """Its input ends: nothing else could tell it that we were killed."""
    program = (
        "import lab, socket, os, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "with lab.inherited(listener):\n"
        "    print(listener.getsockname()[1], flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "book")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    address = ("127.0.0.1", int(killed.stdout))
    lab.until(lambda: not lab.kernel.find_socket(address), what="the child to end")


def test_a_child_acts_on_what_it_has_inherited(ends):
    ours, theirs = ends
    program = "import socket, sys; socket.socket(fileno=int(sys.argv[2])).send(b'x'); print('sent')"
    assert lab.run_in_child(program, theirs, ours) == "sent"
    assert theirs.recv(9) == b"x"
    with pytest.raises(subprocess.CalledProcessError):
        lab.run_in_child("import sys; sys.exit(3)", ours)


def test_a_pair_that_talks_tls():
    ours, theirs = lab.tls_pair()
    with ours, theirs:
        theirs.send(b"x" * 5000)
        assert len(ours.recv(1000)) == 1000 and ours.pending() == 4000
        ours.send(b"back")
        assert theirs.recv(9) == b"back"


def test_what_is_sent_without_copying_leaves_a_receipt(ends):
    ours, theirs = ends
    assert lab.send_without_copying(ours, b"hello") == 5
    assert theirs.recv(9) == b"hello"
    assert lab.reported(ours) == "ERR"
    ours.recvmsg(0, 100, socket.MSG_ERRQUEUE)
    assert lab.reported(ours) == "nothing"


def test_what_an_epoll_of_ours_watches(ends):
    ours, theirs = ends
    with select.epoll() as epoll:
        assert lab.listed(epoll) == "nothing"
        epoll.register(ours, IN)
        assert lab.listed(epoll) == "IN|ERR|HUP"
        epoll.register(theirs, OUT | select.EPOLLONESHOT)
        assert set(lab.listed(epoll).split(", ")) == {"IN|ERR|HUP", "OUT|ERR|HUP|ONESHOT"}


def test_who_is_not_woken_is_still_asleep(ends):
    ours, theirs = ends
    with select.epoll() as epoll:
        epoll.register(ours, IN)
        sleeper = lab.asleep(epoll.poll)
        epoll.modify(ours, OUT)  # there is room: it is woken at once
        assert sleeper.now() == f"poll: [({ours.fileno()}, {OUT})]" and sleeper.is_over
        epoll.modify(ours, IN)
        sleeper = lab.asleep(epoll.poll)
        epoll.modify(ours, 0)
        assert sleeper.now() == "still asleep in epoll_wait"
        epoll.modify(ours, OUT)
        sleeper.result()


SIGNALLED = """
import signal
def serve(listener):
    other = threading.Thread(target=threading.Event().wait, daemon=True)
    other.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGUSR1, lambda *_: None)
    listener.accept()
"""


def test_what_a_signal_makes_of_a_server(serving):
    with lab.serve(serving(SIGNALLED)) as server:
        lab.until_threads(server, 2)
        lab.until_blocked(server.pid, "accept4")
        for number, thread in ((10, 0), (10, 1), (15, 1)):
            assert lab.signalled(server, number, thread) == "sleeps on"
        # The other thread took the SIGTERM, and its handler waits for the main thread.
        assert lab.signalled(server, 10) == "ends" and server.status() == 0


def test_a_signal_to_another_thread_may_wake_the_main_one(serving):
    woken = """
    import signal
    def serve(listener):
        inside, outside = socket.socketpair()
        outside.setblocking(False)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.set_wakeup_fd(outside.fileno())
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        inside.recv(1)
    """
    for _ in range(5):
        with lab.serve(serving(textwrap.dedent(woken))) as server:
            lab.until_threads(server, 2)
            lab.until_blocked(server.pid, "recvfrom")
            assert lab.signalled(server, 15, thread=1) == "ends" and server.status() == 0


@pytest.mark.parametrize("flag", [0, select.EPOLLET, select.EPOLLONESHOT])
def test_who_is_woken_wakes_the_next(ends, flag):
    ours, theirs = ends
    with select.epoll() as epoll:
        epoll.register(ours, IN | flag)
        sleepers = [lab.asleep(epoll.poll) for _ in range(4)]
        assert lab.woken(sleepers) == 0
        theirs.send(b"?")
        lab.settled(ours)
        assert lab.woken(sleepers) == (1 if flag else 4)
        epoll.modify(ours, OUT)
        assert lab.woken(sleepers) == 4


def test_where_the_threads_of_a_server_sleep():
    with (
        lab.serve(ROOT / "code" / "03_thread_per_client.py") as server,
        lab.connect(server) as client,
    ):
        lab.until_threads(server, 2)
        lab.at_rest(server, sockets=2)
        found = [("main", "accept4", 0), ("another", "recvfrom", client.port)]
        assert lab.sleeping(server) == found


def test_how_many_threads_something_wakes(serving):
    """Two processes sleep in epolls of their own on one listener; another thread minds nothing."""
    herd = """
    import os, select
    def serve(listener):
        listener.setblocking(False)
        threading.Thread(target=time.sleep, args=[60], daemon=True).start()
        os.fork()
        with select.epoll() as epoll:
            epoll.register(listener, select.EPOLLIN)
            while epoll.poll():
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    pass
    """
    with lab.serve(serving(herd)) as server:
        lab.until(lambda: len(lab.kernel.group(server.pid)) == 2)
        assert lab.woken_by(server, lambda: lab.connect(server).read_all()) == 2
        assert lab.woken_by(server, lambda: None) == 0


def test_a_call_that_a_signal_interrupts_has_taken_a_part(ends):
    ours, theirs = ends
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    sender = lab.asleep(ours.send, b"x" * 20_000_000)
    sender.interrupt()
    taken = int(sender.result().removeprefix("send: "))
    signal.signal(signal.SIGUSR1, before)
    assert 0 < taken < 20_000_000
    assert theirs.recv(1) == b"x"


DEAF = """
def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(ANSWER)
"""


def test_the_first_process_of_a_namespace_gets_no_signal_without_a_handler(serving):
    deaf, hears = serving(DEAF), ROOT / "code" / "02_request_loop.py"
    seen = [lab.as_pid_1(path, signal.SIGTERM) for path in (deaf, hears)]
    assert seen in (["goes on", "ends"], ["may not be tried here"] * 2)
    if seen[0] == "goes on":
        assert lab.as_pid_1(deaf, signal.SIGKILL) == "ends"


@pytest.mark.parametrize("command", [["there-is-no-unshare"], ["sh", "-c", "echo unshare: no >&2"]])
def test_where_nobody_may_make_a_namespace_nothing_is_tried(monkeypatch, command):
    monkeypatch.setattr(experiment, "IN_NAMESPACE", command)
    assert lab.as_pid_1(LEVEL, signal.SIGTERM) == "may not be tried here"


def test_a_server_that_does_not_start_in_a_namespace_says_why(monkeypatch, write):
    monkeypatch.setattr(experiment, "IN_NAMESPACE", ["env"])
    with pytest.raises(lab.ServerError, match="ZeroDivisionError"):
        lab.as_pid_1(write("1 / 0"), signal.SIGTERM)


def test_who_is_asked_about_has_settled_before(monkeypatch):
    ours, theirs = lab.pair()
    asked = []
    monkeypatch.setattr(lab.experiment, "settled", lambda sock: asked.append(sock) or sock)
    with ours, theirs:
        lab.reported(ours, select.EPOLLIN)
    assert asked == [ours]
