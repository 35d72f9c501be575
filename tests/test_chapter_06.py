"""What chapter 6 says beside the words that its cells quote."""

import ast
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

import lab
from conftest import ROOT, printed, rows
from lab import article, notebooks

PAGE = "06_one_shot"
SIX = ROOT / "code" / f"{PAGE}.py"


@pytest.fixture
def programs(run_folder):
    """Write all programs of the chapter to a run/ of its own."""
    for cell in notebooks.cells(ROOT / "book" / f"{PAGE}.ipynb"):
        source = "".join(cell["source"])
        if source.startswith("%%writefile run/"):
            name = source.partition("\n")[0].removeprefix("%%writefile run/")
            (run_folder / name).write_text(notebooks.program(PAGE, name), encoding="utf-8")
    return run_folder


def test_who_does_what():
    seen = rows(PAGE, "six-hands")
    assert seen["recv"] == seen["send"] == seen["execute"] == ["0", "5"], (
        "“This one hands each socket that is ready to a worker thread, and the kernel reports "
        "nothing more about that socket until the worker gives it back”; “The queue carries "
        "tasks: what to do, and for which client”; “The article recommends this division of "
        "labour in passing”"
    )
    assert seen["accept"] == seen["close"] == ["5", "0"], "“the dictionary only by the loop”"
    said = printed(PAGE, "six-run")
    assert "the loop sleeps in epoll_wait" in said and "futex futex futex futex" in said


def test_a_worker_arms_the_socket_last():
    with lab.record(SIX) as run:
        lab.until_threads(run.server, 5)
        for number in range(5):
            run.connect(f"client {number}").ask()
            lab.at_rest(run.server, sockets=1)
    after = []
    for thread in {call.thread for call in run.calls("recv", "send")}:
        mine = [call.name for call in run.calls() if call.thread == thread]
        after += [mine[n + 1] for n, name in enumerate(mine[:-1]) if name == "modify"]
    assert after == ["get"] * 10, (
        "“The queue carries tasks: what to do, and for which client. The last thing that a "
        "worker does in a task is to arm the socket again, that is, to ask the kernel for one "
        "more event. From that call on another worker may have the socket. So touch nothing of "
        "the client after arm, and let every task end with it, or that socket is never reported "
        "again”; “To arm it is to hand it on: do that last, and always”"
    )


def test_who_touches_the_dictionary():
    """Only what the loop calls: admit, forget, and the loop itself."""
    (serve,) = (
        node
        for node in ast.parse(SIX.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "serve"
    )
    inner = [node for node in serve.body if isinstance(node, ast.FunctionDef)]
    touch = {
        function.name
        for function in inner
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and node.id == "clients"
    }
    assert touch == {"admit", "forget"}, (
        "“a client's data is touched only by the thread that has its socket, the dictionary only "
        "by the loop, and the queue has a lock inside”"
    )
    names = {node.attr for node in ast.walk(serve) if isinstance(node, ast.Attribute)}
    assert not names & {"Lock", "RLock", "acquire"}, "“There is no lock of our own”"


def test_disarmed():
    seen = rows(PAGE, "six-disarmed-table")
    assert seen["the client resets"] == ["nothing", "ONESHOT"], (
        "“The socket stays on the list, and its events go: it is disarmed. To register it again "
        "raises FileExistsError; modify arms it. Even ERR and HUP, which the kernel adds to "
        "every registration, are gone; a client may leave, and poll tells nobody”; “It stays on "
        "the list, and not even a hang-up is reported meanwhile”"
    )
    assert seen["modified: armed again"] == ["IN|ERR|HUP", "ONESHOT"], (
        "“And when the thread arms the socket, the loop is told everything that is true by then, "
        "so nothing gets lost between two calls of arm”; “until `modify` arms it”"
    )
    assert seen["asked again"] == ["nothing", "ONESHOT"], (
        "“There is a trap in it. If the loop has no if for an event, or a thread forgets to arm, "
        "the socket is silent for ever, and no error says so”"
    )
    said = printed(PAGE, "six-strikes")
    assert "has got b''" in said, (
        "“the thread that has the socket learns of it from its own recv or send”"
    )
    mine = [claim for claim in article.claims().values() if claim.chapter == PAGE]
    assert sorted(claim.verdict for claim in mine) == 4 * ["holds"], (
        "“The article's four sentences on this hold, one of them only in the translation”"
    )


def test_without_one_shot():
    said = printed(PAGE, "six-without-run")
    assert "armed: 1 - reported: ≈ " in said, (
        "“Level-triggered epoll reports a socket as long as something in it is unread, and "
        "nothing is read before a worker gets to its task”; “All the while the loop ran at full "
        "speed, and put the same socket in the queue again and again”"
    )
    assert "workers left: 0 of 2, after a BlockingIOError each; the client got b''" in said, (
        "“The first worker read the request. The second found the socket empty, and died”"
    )
    said = printed(PAGE, "six-lost")
    assert said.endswith("kept: b'TP/1.0\\r\\n\\r\\n'"), (
        "“Each thread looked up request, which was empty, then waited in recv, then stored what "
        "it had looked up and its own piece”; “Two threads at one socket take each other's bytes”"
    )
    assert printed(PAGE, "six-thousands") == "armed: 300 - reported: 300", (
        "“once to read, once to write, and once for the end, and never without having been "
        "armed”; “So one thread has a socket at a time”"
    )
    seen = rows(PAGE, "six-herd")
    assert seen["level-triggered"][0] == "4" and seen["edge-triggered"] == ["1", "1"], (
        "“Four threads sleep in `poll` when a byte comes, and before anybody has read it, "
        "another byte”; “Level-triggered mode wakes all four, edge-triggered mode one for each "
        "byte that comes. So two threads have the same socket after all. Only one-shot leaves it "
        "to one thread, as”"
    )


def test_what_wakes_a_loop():
    seen = rows(PAGE, "six-wake")
    assert seen["arms a socket with bytes unread"] == ["poll: IN"], (
        "“To arm is a call of epoll_ctl. The call looks at the socket at once, and if the socket "
        "is ready, wakes the thread in poll. Where there is no socket, use an eventfd: a number "
        "in the kernel, with a descriptor. Write to it, and it is readable; read it, and the "
        "number is zero”; “Arming from another thread wakes the loop”"
    )
    assert seen["writes to an eventfd"] == ["poll: IN"], (
        "“a number in the kernel, with a descriptor. Write to it, and it is readable; read it, "
        "and the number is zero”; “To wake it without a socket, use an eventfd”"
    )
    assert seen["closes a socket"] == ["still asleep in epoll_wait"], (
        "“A close wakes nobody: not the loop, from whose list the socket is gone, and not a "
        "thread in recv”"
    )
    recv = rows("04_level_triggered", "four-shared")
    assert recv["closed while a thread is in recv"] == ["recv: b'hello'"]
    assert recv["shut down while a thread is in recv"] == ["recv: b''"]
    assert seen["shuts a socket down"] == ["poll: IN|HUP"], (
        "“shutdown wakes both, and on a listener a thread in accept as well”"
    )


def test_a_close_does_not_wake_who_is_in_accept():
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    sleeper = lab.asleep(listener.accept)
    listener.close()
    assert sleeper.now() == "still asleep in accept4", "“A `close` wakes nobody”"
    with socket.create_connection(address):
        assert sleeper.result().startswith("accept: (<socket"), "and it still accepts"


def test_who_hears_a_signal():
    seen = rows(PAGE, "six-stop")
    assert seen["sets a flag"][0] == "sleeps on, the flag is set", (
        "“A loop that polls without a timeout goes on sleeping. Python does run the handler”; “A "
        "handler that sets a flag doesn't wake `poll`; one that raises usually does; a wake-up "
        "descriptor on the list always”"
    )
    assert seen["raises"] == ["ends", "sleeps on, the flag is not set"], (
        "“But such a handler may come too late as well”; “the other thread takes the signal, and "
        "nothing interrupts the main thread”"
    )
    assert seen["wake-up descriptor"] == ["ends", "ends"], (
        "“at the moment of the signal the interpreter's handler in C writes a byte into a pair "
        "of sockets, the other end of which is on the list”"
    )


def test_a_plain_kill_goes_to_the_main_thread(programs):
    for _ in range(5):
        with lab.serve(programs / "06_stop.py", "raises") as server:
            lab.at_rest(server)
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0, "“A plain `kill` goes to the main thread if it can”"
    with lab.serve(SIX) as server:
        lab.until_threads(server, 5)
        lab.at_rest(server)
        assert lab.signalled(server, signal.SIGTERM) == "ends", (
            "“A handler that raises, like the one in this book's `main`, gets out of `poll`”"
        )


def test_a_loop_of_asyncio_reads_and_writes_and_its_threads_look_up(programs):
    with lab.record(programs / "06_asyncio.py") as run:
        run.connect("client").ask()
    makes = {name: {call.thread for call in run.of("client", name)} for name in ("recv", "send")}
    assert makes == {"recv": {"MainThread"}, "send": {"MainThread"}}, (
        "“asyncio's loop reads and writes, and only the query goes to a thread. So no two "
        "threads ever meet at one socket”"
    )
    (query,) = (call for call in run.calls("execute") if call.thread != "MainThread")
    assert query.took > 0.004, "“which has a loop, a queue and threads of its own”"


def test_many_waits_at_once():
    said = printed(PAGE, "six-throughput")
    assert "four workers: ≈ " in said, "“waiting is all that these threads do”"


def test_an_exception_in_a_pool_is_nobodys(capfd):
    def fails():
        raise OSError("of one client")

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fails)
        worker = pool.submit(lambda: "still there")
        assert worker.result() == "still there"
    assert str(future.exception()) == "of one client" and capfd.readouterr() == ("", ""), (
        "“With a pool of concurrent.futures the workers would survive, but nobody would see the "
        "traceback: it lies in a future that nobody asks”"
    )


def test_who_makes_a_worker_stumble():
    said = printed(PAGE, "six-strikes")
    assert "workers left: 0 of 4" in said and "is ESTABLISHED and has got b''" in said, (
        "“An exception in a thread ends the thread. The server prints a traceback and goes on, "
        "one worker short”; “No process has died, so nothing restarts the server. Its port is "
        "open, it accepts, its CPU is idle, and a health check that only connects says that all "
        "is well”; “an error that a client causes ends its worker”; “this server accepts "
        "everybody and answers nobody”; “An exception that a worker doesn't catch ends it”"
    )
    words = lab.matrix.stored()
    mine = {client: word for (client, server), word in words.items() if server == "06"}
    assert mine["asks and leaves"] == mine["its console closed"] == "frozen"
    assert mine["half a request then closes"] == "spinning", (
        "“A client that leaves before its request is whole makes the server spin”"
    )
