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
        "“It hands each socket that is ready to a worker thread, and the kernel says no more of "
        "that socket until the worker gives it back”; “The queue carries what to do and for which "
        "client. A worker does it”; “The article recommends this division of labour in passing”"
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
        "“the last thing that it does is to arm the socket again: from that call on the socket "
        "may be in another's hands. So touch nothing after `arm`, and let every way through a "
        "worker end there”; “Arming hands it over: it comes last, and it mustn't be forgotten”"
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
        "“What belongs to a client is touched only by whoever has it, the dictionary only by the "
        "loop, and the queue has its own”"
    )
    names = {node.attr for node in ast.walk(serve) if isinstance(node, ast.Attribute)}
    assert not names & {"Lock", "RLock", "acquire"}, "“There is no lock of our own”"


def test_disarmed():
    seen = rows(PAGE, "six-disarmed-table")
    assert seen["the client resets"] == ["nothing", "ONESHOT"], (
        "“The socket stays, and its events go: it is disarmed. Even `ERR` and `HUP`, which the "
        "kernel adds to everything, are gone; a client may leave and nobody is told”; “It stays on "
        "the list, and not even a hang-up is reported meanwhile”"
    )
    assert seen["modified: armed again"] == ["IN|ERR|HUP", "ONESHOT"], (
        "“And when it arms the socket, the loop is told everything that is true by then, so "
        "nothing gets lost between two calls of `arm`”; “until `modify` arms it”"
    )
    assert seen["asked again"] == ["nothing", "ONESHOT"], (
        "“But an event that no `if` asks for, or a thread that forgets to arm: under one-shot "
        "such a socket is silent for ever, and there is no error anywhere”"
    )
    said = printed(PAGE, "six-strikes")
    assert "has got b''" in said, (
        "“the thread that has the socket will hear of it from its own `recv` or `send`”"
    )
    mine = [claim for claim in article.claims().values() if claim.chapter == PAGE]
    assert sorted(claim.verdict for claim in mine) == 4 * ["holds"], (
        "“Its four sentences on this hold, one of them only since it has been translated”"
    )


def test_without_one_shot():
    said = printed(PAGE, "six-without-run")
    assert "armed: 1 - reported: ≈ " in said, (
        "“Level-triggered, a socket is reported as long as something is unread, and nothing is "
        "read before a worker comes round to it”; “And all the while the loop ran at full speed, "
        "reporting the same thing again and again”"
    )
    assert "workers left: 0 of 2, after a BlockingIOError each; the client got b''" in said, (
        "“The first worker read the request. The second found the socket empty, and died”"
    )
    said = printed(PAGE, "six-lost")
    assert said.endswith("kept: b'TP/1.0\\r\\n\\r\\n'"), (
        "“each thread looked at what had been there, then waited, then wrote back its own sum”; "
        "“where they take each other's bytes”"
    )
    assert printed(PAGE, "six-thousands") == "armed: 300 - reported: 300", (
        "“once to read, once to write, and once for the end, and never without having been armed”; "
        "“So a socket is in one pair of hands at a time”"
    )
    seen = rows(PAGE, "six-herd")
    assert seen["level-triggered"][0] == "4" and seen["edge-triggered"] == ["1", "1"], (
        "“some are woken by a byte; before they have read it, another byte comes”; "
        "“Level-triggered wakes them all, edge-triggered one for each piece of news. So two "
        "threads have the same socket after all. Only one-shot keeps it in one pair of hands”"
    )


def test_what_wakes_a_loop():
    seen = rows(PAGE, "six-wake")
    assert seen["arms a socket with bytes unread"] == ["poll: IN"], (
        "“`epoll_ctl` looks at the socket at once, and if it is ready, wakes whoever sleeps”; "
        "“Arming from another thread wakes the loop”"
    )
    assert seen["writes to an eventfd"] == ["poll: IN"], (
        "“a number in the kernel, with a descriptor. Write to it, and it is readable; read it, and "
        "it is zero”; “To wake it without a socket, use an eventfd”"
    )
    assert seen["closes a socket"] == ["still asleep in epoll_wait"], (
        "“A `close` wakes nobody: neither the loop, from whose list the socket is gone, nor a "
        "thread in `recv`”"
    )
    recv = rows("04_level_triggered", "four-shared")
    assert recv["closed while a thread is in recv"] == ["recv: b'hello'"]
    assert recv["shut down while a thread is in recv"] == ["recv: b''"]
    assert seen["shuts one down"] == ["poll: IN|HUP"], (
        "“`shutdown` wakes them all, on a listener those in `accept` as well”"
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
        "“A loop that polls without a limit then goes on sleeping. Python has run the handler all "
        "right”; “A handler that sets a flag doesn't wake `poll`; one that raises usually does; a "
        "wake-up descriptor on the list always”"
    )
    assert seen["raises"] == ["ends", "sleeps on, the flag is not set"], (
        "“But it isn't watertight either”; “the other thread takes the signal, and the main thread "
        "isn't interrupted at all”"
    )
    assert seen["wake-up descriptor"] == ["ends", "ends"], (
        "“the handler in C, in the moment of the signal, writes a byte into a socket that is on "
        "the list”"
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
        "“Its loop reads and writes, and only the query goes to a thread. So no two threads ever "
        "meet at one socket”"
    )
    (query,) = (call for call in run.calls("execute") if call.thread != "MainThread")
    assert query.took > 0.004, "“which has a loop, a queue and threads of its own”"


def test_many_waits_at_once():
    said = printed(PAGE, "six-throughput")
    assert "four workers: ≈ " in said, (
        "“waiting is all that these threads do, and all that is wanted of them”"
    )


def test_an_exception_in_a_pool_is_nobodys(capfd):
    def fails():
        raise OSError("of one client")

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fails)
        worker = pool.submit(lambda: "still there")
        assert worker.result() == "still there"
    assert str(future.exception()) == "of one client" and capfd.readouterr() == ("", ""), (
        "“With a pool of `concurrent.futures` the workers would survive, and the traceback would "
        "be gone: it lies in a future that nobody asks”"
    )


def test_who_makes_a_worker_stumble():
    said = printed(PAGE, "six-strikes")
    assert "workers left: 0 of 4" in said and "is ESTABLISHED and has got b''" in said, (
        "“An exception in a thread ends the thread. The server prints a traceback and goes on, one "
        "worker short”; “No process has died, so nothing restarts it. Its port is open, it "
        "accepts, its CPU is idle, and a health check that only connects says that all is well”; "
        "“a client that makes a worker stumble takes that worker with it”; “this server accepts "
        "everybody and answers nobody”; “An exception in a worker costs a worker”"
    )
    words = lab.matrix.stored()
    mine = {client: word for (client, server), word in words.items() if server == "06"}
    assert mine["asks and leaves"] == mine["its console closed"] == "frozen"
    assert mine["half a request then closes"] == "spinning", (
        "“A client that leaves before its request is whole makes it spin”"
    )
