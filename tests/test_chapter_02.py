"""What chapter 2 says beside the words that its cells quote."""

import contextlib
import difflib
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

import lab
from conftest import ROOT, printed, rows
from lab import notebooks
from survive import awkward

PAGE = "02_request_loop"
ONE, LOOP = (ROOT / "code" / f"{name}.py" for name in ("01_one_request", PAGE))


@pytest.fixture
def server():
    with lab.serve(LOOP) as server:
        yield server


def loop_of(path):
    """Return the lines of a server's serve(), without their indent."""
    text = path.read_text(encoding="utf-8")
    lines = text[text.index("def serve(") : text.index("\ndef main(")].splitlines()
    return [line.strip() for line in lines if line.strip()]


def test_what_has_changed():
    changes = list(difflib.ndiff(loop_of(ONE), loop_of(LOOP)))
    gained = [line[2:] for line in changes if line.startswith("+ ")]
    lost = [line[2:] for line in changes if line.startswith("- ")]
    assert gained[0] == "while True:" and len(gained) == 2 and len(lost) == 1, (
        "“The server before has gained a `while True`, and prints a line between the requests”"
    )
    assert gained[1].startswith('print("-" * 40') and lost[0].startswith("print(request"), (
        "“and prints a line between the requests”"
    )


def test_while_a_client_is_silent(server):
    with lab.connect(server) as silent:
        blocked = lab.until_blocked(server.pid, "recvfrom")
        with lab.Conversation(server.address, seconds=0.3) as other:
            assert other.ask() == b"", (
                "“If the silent client never asks, nobody is ever served again”; “But it serves "
                "one client at a time, and a silent client has the server to itself”; “a client "
                "that says nothing (all others wait)”"
            )
        assert lab.until_blocked(server.pid, "recvfrom").arguments == blocked.arguments, (
            "“It is not busy: it sleeps, in `recv`, on one particular socket”; “A blocking server "
            "waits for one client at a time. While it waits, the others' requests lie in the "
            "kernel, complete and unread”"
        )
        silent.ask()
        assert lab.rows.hello(silent)


def test_what_the_sockets_hold():
    seen = rows(PAGE, "two-sockets")
    assert seen["the listener"] == ["LISTEN", "1 client", "yes"], (
        "“Meanwhile a client whose request is complete waits in the listener's queue”"
    )
    assert seen["the silent client's"][2] == "yes" and seen["the waiting client's"][2] == "no", (
        "“The listening socket never carries a byte, and each client has a socket of its own, all "
        "at the same port”"
    )


def test_a_silent_connection_sends_nothing_and_is_not_asked():
    ours, theirs = lab.pair()

    def segments():
        """What has gone out and come in, tcpi_segs_out and tcpi_segs_in."""
        return [
            struct.unpack_from("2I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 136)
            for sock in (ours, theirs)
        ]

    before = segments()
    time.sleep(0.3)  # a window in which something could be sent
    assert before == segments(), "“While neither side has anything to say, TCP sends nothing”"
    idle = int(Path("/proc/sys/net/ipv4/tcp_keepalive_time").read_text())
    assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (
        "“TCP's keepalive would ask whether the client is still there, but it is off unless a "
        "program turns it on”"
    )
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle


def test_calls_that_sleep():
    seen = rows(PAGE, "two-blocking")
    assert [seen[each][0] for each in seen if seen[each][0]][1:] == [
        "accept4",
        "recvfrom",
        "sendto",
    ], (
        "“A call on a blocking socket suspends its thread until there is a result. Here each "
        "sleeps, in a thread that we can watch, until something happens”"
    )
    assert seen["a client connects"] == ["accept4", "accept: done"], (
        "“The article is right about `accept`”"
    )
    assert seen["the client reads 20 MB"][1] == "send: 20000000", (
        "“It says of `send` that the call returns when all the data is in the kernel's queue, and "
        "so it does if nothing disturbs it”"
    )
    assert seen["nothing is left to come"] == ["", "recv: b''"], (
        "“When the client has closed its end, there is nothing left to wait for, so `recv` does "
        'not wait. It returns `b""`, at once”'
    )
    taken = rows(PAGE, "two-part")
    assert taken["a signal comes"][0].startswith("≈") and taken["the client leaves"], (
        "“A timeout disturbs it, and a client that leaves, and so does a signal”; “A `send` that "
        "has taken a part when a signal comes returns the part”"
    )


def test_the_end_of_input_comes_again_and_again():
    ours, theirs = lab.pair()
    theirs.close()
    lab.settled(ours)
    assert [lab.tried(ours.recv, 1024) for _ in range(100)] == ["recv: b''"] * 100, (
        "“at once, and so it will each time it is asked. That is end of input, and it is not an "
        'error: no exception, no flag”; “`recv` returning `b""` means that the other side will '
        "send no more. It returns at once, every time”"
    )


def test_the_loop_that_spins():
    said = printed(PAGE, "two-spin-recorded").splitlines()
    assert said[0].endswith("what they receive is {0} bytes") and len(said) == 4, (
        '“Our loop adds `b""` to its request, finds no empty line in it, and asks again”; “What is '
        "missing is a line that asks `if not data`”; “a loop that does not check for it spins”"
    )
    seen = rows(PAGE, "two-spin")
    assert [cells[1] for cells in seen.values()][1:] == ["0 answers"] * 2, (
        "“If that client leaves without asking, it gets worse”; “nobody is answered”; “(it spins, "
        "and all wait)”; “From inside, the first server sleeps, and the second burns all the CPU "
        "time that it can get, until somebody kills it”"
    )


def test_what_the_matrix_calls_frozen_and_spinning():
    words = lab.matrix.stored()
    assert words["says nothing", "02"] == words["connects and closes", "02"] == "frozen", (
        "“The matrix calls both frozen”"
    )
    assert words["connects and closes", "04"] == "spinning", (
        "“A server that does so and yet answers others, as chapter 4's will, is spinning in the "
        "words of the matrix”"
    )
    for name in ("says nothing", "a header without end", "a TLS hello"):
        assert words[name, "02"] == "frozen", (
            "“But the server waits for every client whose header does not end: a silent one, one "
            "that sends a header without end, or a TLS hello”"
        )
    for name in ("one byte at a time", "asks and leaves"):
        assert words[name, "02"] == "ok", (
            "“A client may send its request in pieces, and it may leave once it has asked”"
        )


def test_the_kernel_connects_until_the_queue_is_full(server):
    with contextlib.ExitStack() as stack:
        spinning = stack.enter_context(lab.connect(server))
        lab.at_rest(server, sockets=2)
        awkward.connects_and_closes(spinning, server)
        for _ in range(2):
            stack.enter_context(lab.connect(server))
        assert lab.until(lambda: lab.kernel.accept_queue(server.address) == (2, 1)), (
            "“the server is up, connections are made by the kernel until the queue is full”"
        )


def test_what_came_before_a_reset_can_be_read():
    ours, theirs = lab.pair()
    theirs.send(b"hello")
    lab.settled(theirs)
    lab.reset(theirs)
    lab.settled(ours)
    calls = [lab.tried(ours.recv, 1024), lab.tried(ours.recv, 1024)]
    assert calls == ["recv: b'hello'", "recv: ECONNRESET"], (
        "“What had arrived before the reset can still be read; the call after that fails”; “After "
        "a reset, a call fails as soon as what came before it has been read”"
    )
    assert lab.tried(ours.send, b"x") == "send: EPIPE", (
        "“A reset tears the connection down in both directions”"
    )


def test_what_it_dies_of():
    seen = rows(PAGE, "two-deaths")
    for name in ("half a request then resets", "whole request then resets"):
        assert seen[name][0].startswith("ConnectionResetError"), (
            "“In this server nothing catches the exception, so one client's broken connection ends "
            "the server for everybody”; “Uncaught, one client's accident ends the server”; “a "
            "reset, a request that is not UTF-8, or a closed console”"
        )
    assert seen["its console closed"] == ["BrokenPipeError: [Errno 32] Broken pipe"], (
        "“the pipe's reader left, and the next `print` had nowhere to go. A server that writes for "
        "a human to see lives only as long as somebody looks”"
    )


def test_how_it_ends():
    seen = rows(PAGE, "two-finally")
    assert seen["SIGINT"][:2] == ["runs", "-2"] and seen["SIGTERM"][0] == "does not run", (
        "“Ctrl-C sends SIGINT, which becomes an exception, so `finally` runs, and a traceback is "
        "printed for good measure”; “`finally` runs for Ctrl-C and not for SIGTERM, which process "
        "number 1 of a container never gets without a handler”"
    )
    assert seen["SIGTERM"][1:] == ["-15", "143", "0"], (
        "“and the process is gone in the middle of a line”; “Our `main` turns both signals into "
        "`SystemExit`, which unwinds the stack”"
    )
    assert seen["SIGKILL"] == ["does not run", "-9", "137", "-9"], (
        "“And yet in all six cases of the table nobody listens any more: the next client is "
        "refused. The kernel closes what a process had open, however it ended”; “The kernel closes "
        "the sockets in any case”"
    )
    said = printed(PAGE, "two-first-process")
    assert said.splitlines() == [
        "PID 1 at SIGTERM: without a handler it goes on, with our main it ends",
        "PID 1 at Ctrl-C, without a handler: it ends",
    ], (
        "“Every signal that process number 1 of a PID namespace has no handler for is dropped”; "
        "“So the server without a handler goes on”; “For Ctrl-C Python has a handler”"
    )


def test_nothing_that_the_article_says_of_it_is_wrong():
    mine = [claim.verdict for claim in lab.claims().values() if claim.chapter == PAGE]
    assert mine and "wrong" not in mine, "“Nothing that the article says of this program is wrong”"


def test_the_solution_is_a_bandage(run_folder):
    """A client that sends a byte in each of the seconds that it is given is never given up."""
    for name in (f"{PAGE}.py", "02_solution.py"):
        (run_folder / name).write_text(notebooks.program(PAGE, name), encoding="utf-8")
    with lab.serve("run/02_solution.py") as server, lab.connect(server) as talk:
        enough = threading.Event()

        def drip():
            with contextlib.suppress(OSError):
                while not enough.wait(0.4):
                    talk.send(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        with lab.Conversation(server.address, seconds=2.4) as other:
            waited = other.ask()
        enough.set()
        thread.join()
        told = talk.state()
    assert waited == b"" and told == "ESTABLISHED", (
        "“a client that sends one byte every 0.9 seconds still owns the server”"
    )
    assert "connection.settimeout(1)" in notebooks.program(PAGE, "02_solution.py"), (
        "“The second exercise is a bandage”"
    )


def test_no_descriptor_of_a_client_is_left(server):
    """The loop stays within what it has: one client at a time, and each is closed."""
    for _ in range(20):
        assert lab.rows.is_hello(lab.get(server.address))
    assert os.path.exists(f"/proc/{server.pid}") and lab.kernel.descriptors(server.pid) == 4, (
        "“it answers whoever comes, for as long as you like”; “A blocking server that answers one "
        "client after another”"
    )
