"""A look at servers in the states that real ones get into.

For each finding there is one that deserves it, and one that just does not.

Each state is forced and waited for: who connects is in the queue, who is to sleep sleeps there.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import lab
from conftest import kinds, said, until_waiting
from look import findings, kernel
from look import view as looking
from look.report import report
from look.view import File, look_at
from survive.server import serve


def ask(talk):
    talk.send(lab.REQUEST)
    return talk


@contextlib.contextmanager
def upstream():
    """Somebody whom a server asks, and who lets it in and never answers; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# What a handler of asyncio does in place of awaiting, and where the loop sleeps then.
ASYNCIO = """
import asyncio, socket, sys, threading, time
{extra}
async def talk(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    {does}
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
    writer.close()
async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", int(sys.argv[1]))
    print("listening on 127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
ASKS_UPSTREAM = """with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as database:
        database.settimeout({timeout})
        database.recv(1)"""
METRICS = """
import http.server
metrics = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
threading.Thread(target=metrics.serve_forever, daemon=True).start()
"""
BLOCKING = {
    "a sleep": ("time.sleep(60)", "", "clock_nanosleep"),
    "a sleep, beside a thread at rest": ("time.sleep(60)", METRICS, "clock_nanosleep"),
    "a query": (ASKS_UPSTREAM.format(timeout=None), "", "recvfrom"),
    "a query with a timeout": (ASKS_UPSTREAM.format(timeout=60), "", "poll"),
    "a lock": ("lock.acquire()", "lock = threading.Lock(); lock.acquire()", "futex"),
}


@pytest.mark.parametrize("what", BLOCKING)
def test_a_blocking_call_in_a_loop(write, what):
    does, extra, call = BLOCKING[what]
    with upstream() as port:
        with serve(write(ASYNCIO.format(does=does, extra=extra)), str(port)) as server:
            with lab.Conversation(server.address) as talk:
                lab.until_blocked(server.pid, "epoll_wait")
                ask(talk)
                lab.until_blocked(server.pid, call)
                alone = look_at(server.pid)
                for _ in range(2):
                    ask(talk.another())
                until_waiting(server, 2)
                waited_for = look_at(server.pid)
    if what != "a sleep, beside a thread at rest":  # its own listener's list is nobody's business
        assert kinds(alone) == ["blocked"], said(alone)
    assert kinds(waited_for) == ["locked" if call == "futex" else "frozen"], said(waited_for)
    assert "2 clients wait in the accept queue" in said(waited_for) and call in said(waited_for)


def test_an_asyncio_server_that_waits_as_it_should(write):
    path = write(ASYNCIO.format(does="await asyncio.sleep(60)", extra=METRICS))
    with serve(path) as server, lab.Conversation(server.address) as talk:
        for each in (talk, talk.another(), talk.another()):
            ask(each)
        lab.until(lambda: len(kernel.sockets(pid=server.pid)) == 5)
        lab.until_blocked(server.pid, "epoll_wait")
        view = look_at(server.pid)
    assert kinds(view) == [], said(view)
    assert "nothing wrong that can be seen from here: it sleeps in epoll_wait(" in report(view)


SLOW = """
import os
def serve(listener):
    database = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    while True:
        client, _ = listener.accept()
        client.recv(1000)
        database.send(b"?")
        database.recv(1)
        client.sendall(ANSWER)
        client.close()
"""


@pytest.mark.parametrize(("clients", "kind"), [(4, ["slow"]), (1, [])])
def test_slow_is_one_for_whom_others_wait(serving, clients, kind):
    """They ask without a pause, and a database takes 30 ms for each answer."""
    with socket.create_server(("127.0.0.1", 0)) as database, ThreadPoolExecutor(5) as pool:
        pool.submit(answer_after, database, 0.03)
        with serve(serving(SLOW), str(database.getsockname()[1])) as server:
            done, answered = threading.Event(), []
            for _ in range(clients):
                pool.submit(ask_on_and_on, server.address, done, answered)
            lab.until(lambda: len(answered) > 8)
            before, view = len(answered), look_at(server.pid)
            assert len(answered) > before, "it serves all the time"
            done.set()
    assert kinds(view) == kind, said(view)
    assert not kind or "recvfrom(" in said(view) and "It does work, but" in said(view)


def answer_after(database, pause):
    """Answer each byte after a pause, until the other side is gone."""
    connection, _ = database.accept()
    with connection, contextlib.suppress(OSError):
        while connection.recv(1):
            time.sleep(pause)
            connection.send(b"!")


def ask_on_and_on(address, done, answered):
    while not done.is_set():
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as client:
            client.sendall(lab.REQUEST)
            while client.recv(1000):
                pass
            answered.append(time.monotonic())


DEADLOCK = """
first, second = threading.Lock(), threading.Lock()
def talk(client, one, other):
    with one:
        met.wait()
        with other:
            client.recv(100)
met = threading.Barrier(2)
def serve(listener):
    import select
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    locks = [(first, second), (second, first)]
    keep = []
    while poll.poll():
        keep.append(listener.accept()[0])
        if len(keep) > 2: continue
        pair = locks.pop()
        threading.Thread(target=talk, args=(keep[-1], *pair), daemon=True).start()
"""


def test_threads_in_a_deadlock(serving):
    with serve(serving(DEADLOCK)) as server, lab.Conversation(server.address) as talk:
        for each in (talk, talk.another()):
            ask(each)
        lab.until(lambda: len(kernel.threads(server.pid)) == 3 and kernel.is_asleep(server.pid))
        lab.until(lambda: sum(row.unread for row in kernel.sockets(pid=server.pid)) == 36)
        view = look_at(server.pid)
        server.stop(signal.SIGKILL)
    assert kinds(view) == ["locked"], said(view)
    assert "36 bytes of 2 sockets unread, while 2 threads sleep in futex" in said(view)


EDGES = """
import select
def serve(listener):
    mode = {"ET": select.EPOLLET, "": 0, "ONESHOT": select.EPOLLONESHOT}
    listening, talking = (mode[word] for word in sys.argv[2:])
    epoll, clients = select.epoll(), {}
    epoll.register(listener, select.EPOLLIN | listening)
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                client, _ = listener.accept()
                clients[client.fileno()] = client
                epoll.register(client, select.EPOLLIN | talking)
            else:
                clients[fd].recv(16)
"""


@pytest.mark.parametrize(
    ("listening", "talking", "kind"),
    [
        ("ET", "", "spent edge"),
        ("", "ET", "spent edge"),
        ("ONESHOT", "", "not watched"),
        ("", "ONESHOT", "disarmed"),
        ("", "", None),
    ],
)
def test_what_was_told_once(serving, listening, talking, kind):
    """Five clients at once, of whom one is accepted; or 35 bytes, of which 16 are read."""
    with serve(serving(EDGES), listening, talking) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        with server.paused():
            talks = [lab.Conversation(server.address) for _ in range(5 if listening else 1)]
            until_waiting(server, len(talks))
        talks[0].send(b"x" * 35)
        lab.until(lambda: kernel.is_asleep(server.pid) and not kernel.cpu_share(server.pid, 0.05))
        view = look_at(server.pid)
        for talk in talks:
            talk.close()
    assert kinds(view) == [kind] * (kind is not None), said(view)
    if listening:
        assert "4 clients wait" in said(view)
    elif kind:
        assert "19 bytes unread" in said(view)


UNIX = """
import asyncio, os, sys, time
async def talk(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    time.sleep(60)
async def main():
    server = await asyncio.start_unix_server(talk, sys.argv[2], backlog=3)
    print("listening on 127.0.0.1:1", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.mark.parametrize("clients", [0, 2, 4])
def test_a_unix_listener(write, tmp_path, clients):
    path = str(tmp_path / "app.sock")
    with serve(write(UNIX), path) as server, contextlib.ExitStack() as opened:

        def connect():
            client = opened.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect(path)
            client.send(lab.REQUEST)

        if clients:
            connect()
            lab.until_blocked(server.pid, "clock_nanosleep")
        for _ in range(clients):
            connect()
        view = look_at(server.pid)
    expected = {0: [], 2: ["frozen"], 4: ["frozen", "full queue"]}[clients]
    assert kinds(view) == expected, said(view)
    assert f"listening on {path}, {clients} waiting, limit 3" in report(view)


# Parents and children


PREFORK = """
import os, select
def serve(listener):
    if os.fork() == 0:
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN)
        epoll.poll()
        print("in", flush=True)
        time.sleep(60)
    os.wait()
"""


def test_a_parent_whose_child_serves(serving):
    with serve(serving(PREFORK)) as server:
        lab.until(lambda: len(kernel.group(server.pid)) == 2)
        _, child = kernel.group(server.pid)
        lab.until_blocked(child, "epoll_wait")
        idle = look_at(server.pid, 0.1)
        with lab.Conversation(server.address) as talk:
            server.wait_for("\nin\n")
            until_waiting(server, 1)
            lab.until_blocked(child, "clock_nanosleep")
            parent, frozen = look_at(server.pid, 0.1), look_at(child, 0.1)
            assert talk.state() == "ESTABLISHED"
        server.stop(signal.SIGKILL)
    assert kinds(idle) == []
    assert kinds(parent) == ["not watched"] and f"shared with {child}: look at" in said(parent)
    assert kinds(frozen) == ["frozen"] and f"is shared with {server.pid}" in said(frozen)
    assert f"is shared with {child}" in report(parent)


# What can't be seen


# SIOCSIFFLAGS, IFF_UP: the loopback interface of a new namespace is down.
LOOPBACK = """
import fcntl, struct
keep = []
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1))
"""


def test_another_network_namespace(write):
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    queue_two = (
        'keep[1:] = [socket.create_connection(writer.get_extra_info("sockname")) for _ in "12"]'
    )
    source = ASYNCIO.format(does=f"{queue_two}; time.sleep(60)", extra=LOOPBACK)
    ask = "keep.append(socket.create_connection(server.sockets[0].getsockname())); "
    ask += 'keep[0].send(b"GET / HTTP/1.0\\r\\n\\r\\n")\n    '
    source = source.replace("int(sys.argv[1])", "0").replace("await server.", ask + "await server.")
    process = subprocess.Popen(["unshare", "-rn", sys.executable, write(source)], stdout=-1)
    try:
        process.stdout.readline()
        lab.until_blocked(process.pid, "clock_nanosleep")
        view = look_at(process.pid)
    finally:
        process.kill()
        process.communicate()
    assert kinds(view) == ["frozen"], said(view)
    assert "2 clients wait in the accept queue" in said(view)
    text = " ".join(report(view).split())
    assert "another network namespace, whose tables tell neither" in text
    assert f"nsenter -n -t {process.pid}" in text and "sockets: none" not in text


# What spins, and what is merely silent


ERROR_QUEUE = """
import select
def serve(listener):
    client, _ = listener.accept()
    client.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
    client.setblocking(False)
    client.send(b"x" * 100, 0x4000000)  # MSG_ZEROCOPY: its completion is a message of its own
    epoll = select.epoll()
    epoll.register(client, select.EPOLLIN)
    while True:
        epoll.poll()
        try:
            client.recv(100)
        except BlockingIOError:
            pass
"""


def test_an_error_queue_that_nobody_reads(serving):
    with serve(serving(ERROR_QUEUE)) as server, lab.Conversation(server.address):
        lab.until(lambda: kernel.cpu_share(server.pid, 0.1) > 2 * kernel.SPINNING)
        view = lab.until(lambda: (view := look_at(server.pid)).calls and view)
    assert kinds(view) == ["spinning"]
    assert "failed with EAGAIN (ERR is reported for its error queue, which recvmsg" in said(view)


@pytest.mark.parametrize(("keepalive", "told"), [(0, ["silent clients"]), (1, [])])
def test_clients_that_have_long_been_silent(serving, monkeypatch, keepalive, told):
    monkeypatch.setattr(findings, "SILENT", 0.1)
    path = serving(f"""
    import select
    def serve(listener):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, {keepalive})
        epoll, clients = select.epoll(), []
        epoll.register(listener, select.EPOLLIN)
        while True:
            for _ in epoll.poll():
                clients.append(listener.accept()[0])
                epoll.register(clients[-1], select.EPOLLIN)
    """)
    with serve(path) as server:
        lab.until_blocked(server.pid, "epoll_wait")  # who comes before the option goes without
        with lab.Conversation(server.address):
            lab.until(lambda: len(kernel.sockets(pid=server.pid)) == 2)
            assert kinds(look_at(server.pid, 0.3)) == told


HIDDEN = {
    "io_uring": {9: File("io_uring", 9, None)},
    "neither TCP, UDP nor Unix": {9: File("socket", 9, None)},
}


@pytest.mark.parametrize("words", HIDDEN)
def test_what_can_not_be_seen_is_said(words):
    (said,) = looking._hidden(os.getpid(), HIDDEN[words], HIDDEN[words])
    assert words in said
    assert looking._hidden(os.getpid(), {}, {}) == []


@pytest.mark.parametrize(("bits", "words"), [(32, ["32 bits"]), (64, []), (None, [])])
def test_a_program_of_32_bits_has_other_numbers_for_its_calls(monkeypatch, bits, words):
    monkeypatch.setattr(looking, "_bits", lambda pid: bits)
    hidden = looking._hidden(os.getpid(), {}, {})
    assert len(hidden) == len(words) and all(w in h for w, h in zip(words, hidden, strict=True))
    monkeypatch.setattr(looking.platform, "machine", lambda: "riscv64")
    assert "those of riscv64" in looking._hidden(os.getpid(), {}, {})[0]


def test_bits_are_read_from_the_program():
    assert looking._bits(os.getpid()) == (64 if sys.maxsize > 2**32 else 32)
    assert looking._bits(2**30) is None
