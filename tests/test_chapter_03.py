"""What chapter 3 says beside the words that its cells quote.

Most of it is what a cell has printed: nbval holds the stored outputs to what happens, and here the
prose is held to the outputs. The rest is tried here.
"""

import asyncio
import contextlib
import http.server
import importlib.util
import re
import resource
import select
import socketserver
import threading

import pytest

import lab
from conftest import ROOT, printed, rows
from lab import notebooks

PAGE = "03_thread_per_client"
CODE = ROOT / "code"


def constants(name):
    """Return a chapter's server as a module."""
    spec = importlib.util.spec_from_file_location(name, CODE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_queue():
    queues = [constants(name).BACKLOG for name in ("02_request_loop", PAGE)]
    assert queues == [1, 128], (
        "“The queue has grown from 1 to 128, as this server is to meet many clients at once”"
    )


def test_who_sleeps_where():
    seen = rows(PAGE, "three-run")
    assert seen["the listener's"] == ["main", "accept4"], (
        "“The main thread sleeps in accept throughout”; “What the loop did itself in chapter 2 is "
        "now `talk`, which runs in a thread for each client”"
    )
    assert seen["the second client's"] == ["another", "recvfrom"], (
        "“Here, too, a thread sleeps in `recv` on the silent client's socket, but it is one that "
        "the other clients don't need”; “This server gives each client a thread of its own”"
    )
    seen = rows(PAGE, "three-accept")
    assert [cells[0] for label, cells in seen.items() if label.startswith("the ")] == ["1"] * 3, (
        "“Of many threads that sleep in `accept` the kernel wakes one, and the others sleep on”; "
        "“threads may also accept for themselves”"
    )


def test_the_same_silence_in_chapter_2():
    with lab.record(CODE / "02_request_loop.py") as run:
        silent = run.connect("silent")
        lab.at_rest(run.server, sockets=2)
        lab.together(run.connect("other").ask, silent.ask)
    assert [call.client for call in run.calls("send")] == ["silent", "other"], (
        "“In chapter 2 the same silence kept the others waiting until it was over”"
    )


def test_socketserver():
    assert issubclass(http.server.ThreadingHTTPServer, socketserver.ThreadingMixIn), (
        "“with a thread or a process for each client, and `python -m http.server` runs on it”"
    )
    seen = rows(PAGE, "three-stdlib")
    assert seen["ThreadingTCPServer"] == ["4", "1"], "“Our `talk` fits in as it is”"


def test_a_thread_that_waits():
    seen = rows("04_level_triggered", "four-shared")
    found = (
        seen["closed while a thread is in recv"],
        seen["shut down while a thread is in recv"],
    )
    assert found == (["recv: b'hello'"], ["recv: b''"]), (
        "“Closing its socket in another thread does not wake it, `shutdown` does: chapter 4 tries "
        "both”"
    )


def space_of_threads(number=100):
    """Return the address space of a server with so many silent clients, each of them, in MB."""
    with lab.serve(CODE / f"{PAGE}.py") as server:
        lab.get(server.address)
        before = lab.kernel.address_space(server.pid)
        with lab.Crowd(server.address, number):
            lab.until_threads(server, number + 1)
            return (lab.kernel.address_space(server.pid) - before) / number / 2**20


def test_what_takes_address_space(monkeypatch):
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack != 8 * 2**20:
        pytest.skip("the limit of the stack is not 8 MB here")
    with_arenas = space_of_threads()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    without = space_of_threads()
    # A thread's stack is used again once it has ended, so the first client needs no new one.
    assert 7.5 < without < 8.5 and with_arenas > without + 0.5, (
        "“8 MB of it are the limit of the stack, the rest mostly what the C library's allocator "
        "sets aside for threads, 64 MB at a time”"
    )


def test_a_thousand():
    seen = rows(PAGE, "three-crowd")
    assert seen["memory, per client"][0].startswith("≈ ") and seen["memory, per client"][
        0
    ].endswith("kB"), "“Nearly all of this address space is never touched, and so takes no memory”"
    assert seen["memory, per client"][1].endswith("bytes"), (
        "“So a sleeping thread costs many times what a registered socket does”"
    )
    assert seen["CPU time while all are silent"] == ["0%", "0%"], (
        "claim 32, caveat: “A thread asleep costs a few pages and no CPU time”; “Asleep, a thread "
        "costs a few pages of memory; starting one takes about as much CPU time as the request”"
    )
    assert seen["threads"] == ["1001", "1"], "“to the next chapter's, which has one thread”"


def test_the_start_of_a_thread_is_what_costs():
    said = printed(PAGE, "three-start")
    times = {
        who: float(number)
        for who, number in re.findall(r"(.*) against the loop: ≈ ([\d.]+) times", said)
    }
    assert 1.6 < times["a thread each"] < 3 and times["the pool"] < 1.2, (
        "“What does cost is starting a thread”; “On a single CPU that halves what can be served: "
        "the article is right where each client brings one request. But it is the starting that "
        "costs, and a pool saves it”"
    )


def test_two_that_compute_have_one_cpu():
    together = lab.cost.cpus_used(2, lambda: sum(range(20_000)))
    assert together < 1.25, (
        "“Threads also cost where they compute”; “Two threads that compute, or four, have one CPU "
        "between them”"
    )


def test_its_threads_share_the_console():
    module = constants(PAGE)
    names = {*module.talk.__code__.co_names, *module.is_whole.__code__.co_names}
    shared = {name for name in names if hasattr(module, name)}
    assert shared == {"is_whole", "ANSWER"} and "print" in names, (
        "“this server gets away without locks because its threads share nothing but the console”"
    )


def test_who_keeps_the_list():
    ours, theirs = lab.pair()
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    with select.epoll() as epoll:
        epoll.register(ours, select.EPOLLIN)
        theirs.send(b"hello")
        assert lab.names(epoll.poll()) == "IN", (
            "“when something happens to a socket on it, the kernel notes that socket there and "
            "then on a second list, the ready list”"
        )
        ours.recv(100)
        assert lab.names(epoll.poll(0)) == "nothing", (
            "“Each entry is checked once more as it is handed out”"
        )
        assert lab.entries(epoll) == 1, "“the list stays in the kernel, as the interest list”"


def test_the_pictures_of_the_three_calls():
    said = printed(PAGE, "three-one-active")
    assert "one ready, poll against epoll, with the most: ≈ " in said, (
        "“`select` and `poll` look at every socket at every call, epoll only at those that are "
        "ready”; “So epoll is not fast: it is indifferent to those who say nothing”"
    )
    assert "all ready, epoll against poll, with 800: ≈ 1" in said, (
        "“With all of them ready, nothing is saved by knowing which, and keeping the list costs "
        "something”; “With all of them ready, `poll` is the quicker”"
    )


def test_poll_in_c_and_in_python():
    seen = rows(PAGE, "three-select-limit")
    assert seen["poll in C, the same two"] == ["1, and 2 entries to look at"], (
        "“That the program has to look at every socket itself, as the article holds against "
        "`select`, is true in C, and of `poll` as well. In Python both calls return what is ready”"
    )
    assert seen["select, one socket with number 1024"][0].startswith("select: ValueError"), (
        "“A server with one socket and a thousand open files gets the same error”"
    )


def test_several_loops():
    seen = rows(PAGE, "three-herd")
    assert seen["EPOLLEXCLUSIVE"][0] == seen["SO_REUSEPORT"][0] == "1", (
        "“With EPOLLEXCLUSIVE one worker wakes, and as long as that worker is quick, it is always "
        "the same one”; “With SO_REUSEPORT each worker has a listener of its own, and the kernel "
        "deals out the clients by their addresses”"
    )
    assert seen["one listener"][0] == "4", (
        "“It is different where they sleep in epoll”; “all four are told of every client, and all "
        "four wake: the herd”"
    )
    seen = rows(PAGE, "three-stuck")
    assert set(seen) >= {"one listener", "EPOLLEXCLUSIVE", "SO_REUSEPORT"}, (
        "“On one listener the other three do its work”; “But what if one of the workers is stuck”"
    )


def test_readiness():
    seen = rows(PAGE, "three-readiness")
    assert seen["five bytes come"] == ["IN", "5 bytes", "recv: b'hello'"], (
        "“a `recv` would find something now. The data stays in the kernel until somebody fetches "
        "it”; “Non-blocking sockets report readiness, not completion”"
    )
    assert seen["and are fetched"][2] == "recv: EAGAIN", (
        "“a call that can't be done at once fails at once”"
    )


def test_connecting():
    seen = rows(PAGE, "three-connect")
    assert seen["somebody listens"] == ["connect: EINPROGRESS", "OUT", "0"], (
        '“the word means "I have begun", even where all is over when `connect` returns”'
    )
    assert seen["the queue is full"][1:] == ["nothing", "0"], (
        "“As long as epoll reports nothing, the connection is neither made nor refused”"
    )


def test_what_one_thread_cannot_wait_for():
    seen = rows(PAGE, "three-cannot-wait")
    assert seen["a file on disk"] == ["register: EPERM"], (
        "“there is nothing to watch, and epoll refuses”; “epoll can't wait for files, name "
        "look-ups or computing”"
    )
    assert seen["a name, in asyncio"] == ["1 thread started"], (
        "“A name look-up in asyncio starts a thread that waits in its place”"
    )


def test_a_file_is_always_ready():
    with (CODE / f"{PAGE}.py").open() as file:
        ready = select.select([file], [file], [], 0)
        poll = select.poll()
        poll.register(file, select.POLLIN)
        assert ready[0] == [file] and lab.names(poll.poll(0)) == "IN", (
            '“A file is always "ready", as far as the kernel is concerned”'
        )


def test_asyncios_pool_is_for_look_ups_and_for_what_one_hands_to_it():
    async def in_the_pool():
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo("localhost", 80)
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        return name, [each.name for each in threading.enumerate()]

    name, names = asyncio.run(in_the_pool())
    assert name.startswith("asyncio_") and name in names, (
        "“asyncio's pool of threads is for such look-ups, and for what one hands to "
        "`run_in_executor`”"
    )


def test_what_is_left_to_break():
    words = lab.matrix.stored()
    mine = {client: word for (client, server), word in words.items() if server == "03"}
    before = {client: word for (client, server), word in words.items() if server == "02"}
    for client in ("says nothing", "sends without pause"):
        assert (before[client], mine[client]) == ("frozen", "ok"), (
            "“A silent client froze chapter 2's server, and so did one that sends without pause: "
            "both are served here”; “A thread for each client serves everybody at once”"
        )
    client = "whole request then resets"
    assert (before[client], mine[client]) == ("dead", "ok"), (
        "“And what killed that server kills one thread of this one”"
    )
    assert mine["connects and closes"] == "spinning", (
        "“a client that leaves before it has asked leaves a thread behind that spins for ever”; “A "
        "client that leaves before its request is whole leaves a thread behind that spins”; “A "
        'client that leaves early leaves a thread that receives `b""` for ever”'
    )
    assert mine["bytes that are not UTF-8"] == "wrong", (
        "“one whose request is not UTF-8 gets no answer”; “A thread that dies of a request that is "
        "not UTF-8 takes its client's answer with it”"
    )
    assert mine["more clients than descriptors"] == "dead", (
        "“The server does not survive more clients than it may have descriptors”; “When "
        "descriptors run out it is `accept` that fails, in the main thread, and that ends the "
        "server”"
    )
    assert mine["its console closed"] == "frozen", (
        "“and once the console is closed nobody gets one”; “When the console is closed, every "
        "thread dies of its `print`, and nobody is answered any more”"
    )
    assert mine["says nothing"] == "ok", (
        "“A silent client keeps its own thread waiting, and nobody else”"
    )


def test_more_clients_than_threads():
    with lab.serve(CODE / f"{PAGE}.py") as server:
        lab.get(server.address)
        space = lab.kernel.address_space(server.pid) + 100_000_000
        resource.prlimit(server.pid, resource.RLIMIT_AS, (space, space))
        clients = []
        with contextlib.suppress(ConnectionError):  # it ends before the last of them is there
            for _ in range(40):
                clients.append(lab.connect(server))
        server.wait()
        assert "can't start new thread" in server.last_words(), (
            "“The server does not survive more clients than it may have descriptors or threads”"
        )
        for client in clients:
            client.close()


def test_who_waits_in_the_queue_costs_no_descriptor():
    with lab.serve(CODE / f"{PAGE}.py") as server:
        before = server.descriptors()
        with server.paused():
            waiting = [lab.connect(server, f"client {number}") for number in range(3)]
            assert lab.kernel.accept_queue(server.address)[0] == 3
            assert server.descriptors() == before, (
                "“the other clients wait in the kernel's queue, where they cost the server no "
                "descriptor”"
            )
        for client in waiting:
            client.close()


def test_the_solution_counts_its_threads():
    text = notebooks.program(PAGE, "03_solution.py")
    serve = text[text.index("def serve") :]
    assert serve.index("places.take()") < serve.index("listener.accept()"), (
        "“The main thread counts the threads there are, and waits for a free place before it "
        "accepts”"
    )
