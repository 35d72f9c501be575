"""The recorder, against runs whose calls are known."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

import lab
from conftest import BOOK, FRAME, ROOT
from lab import recorder
from lab.recorder import Call, Client, Event, Recording
from survive import awkward
from survive.awkward import plain_get

LOOP = BOOK.parent / "code" / "02_request_loop.py"


def calls(run, *names):
    return run.recording.calls(*names)


def in_accept(run):
    """Wait until the server waits for the next client."""
    lab.until_blocked(run.server.pid, "accept4")


def test_the_calls_of_one_request_in_their_order():
    with lab.record(LOOP) as run:
        talk = run.connect("only")
        plain_get(talk, run.server)
        in_accept(run)
    made = [(call.name, call.got) for call in calls(run)]
    assert [name for name, _ in made] == [
        "setsockopt", "bind", "listen", "accept", "recv", "send", "close", "accept", "close",
    ]  # fmt: skip
    accept, recv, send = calls(run)[3:6]
    assert accept.got[1] == ["127.0.0.1", talk.port]
    assert recv.got == {"bytes": 18, "begins": "GET / HTTP/1.0\r\n\r\n"}
    assert recv.given == [1024] and recv.fd == accept.accepted
    assert send.given[0]["bytes"] == send.got == 78
    assert made[-2] == ("accept", None) and calls(run)[-2].error == "SystemExit"


def test_lines_and_calls_agree_with_the_source():
    with lab.record(LOOP) as run:
        plain_get(run.connect("only"), run.server)
    source = run.recording.source
    for call in calls(run, "accept", "recv", "send"):
        assert f".{call.name}(" in source[call.line - 1]
    executed = {line for _, _, line in run.recording.lines}
    assert all(call.line in executed for call in calls(run))


def test_one_clock_for_the_server_and_its_clients():
    with lab.record(LOOP) as run:
        in_accept(run)
        talk = run.connect("only")
        lab.until_blocked(run.server.pid, "recvfrom")
        with run.server.paused():  # or it might have read before we note that we have sent
            talk.send(lab.clients.REQUEST)
        talk.read_all()
    events = {what: t for t, what, _ in run.recording.clients[0].events}
    accept, recv, send = calls(run, "accept", "recv", "send")[:3]
    assert accept.began < events["calls"] < accept.began + accept.took
    assert events["sent"] < recv.began + recv.took < send.began < events["got"]
    assert accept.began + accept.took <= recv.began


def test_a_blocked_call_is_as_long_as_it_blocked():
    with lab.record(LOOP) as run:
        talk = run.connect("slow")
        lab.until_blocked(run.server.pid, "recvfrom")
        blocked_from = time.monotonic()
        lab.until(lambda: time.monotonic() > blocked_from + 0.1)
        plain_get(talk, run.server)
    (recv,) = calls(run, "recv")
    assert 0.1 <= recv.took < 5


def test_states_and_queues_after_each_call():
    with lab.record(LOOP) as run:
        first = run.connect("first")
        lab.until_blocked(run.server.pid, "recvfrom")
        second = run.connect("second")
        plain_get(first, run.server)
        plain_get(second, run.server)
    listen, accept, recv = (calls(run, name)[0] for name in ("listen", "accept", "recv"))
    assert listen.sockets[listen.fd] == ("LISTEN", 0, 1)
    assert accept.sockets[accept.accepted] == ("ESTABLISHED", 0, 0)
    assert recv.sockets[listen.fd] == ("LISTEN", 1, 1), "the second one waits"


def test_a_call_that_never_returns_is_there():
    with lab.record(LOOP) as run:
        in_accept(run)
        run.server.send_signal(signal.SIGKILL)
        run.server.wait()
    last = calls(run)[-1]
    assert (last.name, last.took, last.got) == ("accept", None, None)
    assert run.recording.status == -signal.SIGKILL


def test_an_error_is_recorded_by_its_name():
    with lab.record(LOOP) as run:
        awkward.half_a_request_then_resets(run.connect("rude"), run.server)
        run.server.wait()
    assert calls(run, "recv")[-1].error == "ConnectionResetError"
    assert run.recording.status == 1


def test_the_cap_is_kept_and_told():
    with lab.record(LOOP, most_calls=50) as run:
        run.connect("leaves").close()
        lab.until(run.is_full)
    assert run.recording.capped
    assert len(calls(run)) == 50
    assert size(run.recording) < 100_000


def test_a_run_below_the_cap_is_not_capped():
    with lab.record(LOOP) as run:
        plain_get(run.connect("only"), run.server)
    assert not run.recording.capped


def size(recording):
    """How many bytes a recording is as JSON: it is plain data."""
    return len(json.dumps(asdict(recording)))


def test_it_is_plain_data():
    with lab.record(LOOP) as run:
        plain_get(run.connect("only"), run.server)
    assert size(run.recording) < 20_000


EPOLL = """
    import select
    def serve(listener):
        with select.epoll() as epoll:
            epoll.register(listener, select.EPOLLIN)
            (fd, event), = epoll.poll(5)
            connection, _ = listener.accept()
            epoll.register(connection, select.EPOLLIN)
            epoll.modify(connection, select.EPOLLOUT | select.EPOLLET)
            epoll.poll(5)
            connection.recv(1024)
            connection.sendall(ANSWER)
            epoll.unregister(connection)
            connection.close()
"""


def test_epoll_calls_and_the_interest_list_after_each(serving):
    with lab.record(serving(EPOLL)) as run:
        plain_get(run.connect("only"), run.server)
        run.server.wait()
    made = calls(run, "register", "modify", "unregister", "poll")
    names = [call.name for call in made]
    assert names == ["register", "poll", "register", "modify", "poll", "unregister"]
    listener, connection = made[0].given[0]["fd"], made[2].given[0]["fd"]
    assert list(made[0].interest.values()) == [made[0].watched]
    assert made[0].watched == {listener: "IN|ERR|HUP"}
    assert made[3].watched == {listener: "IN|ERR|HUP", connection: "OUT|ERR|HUP|ET"}
    assert made[5].watched == {listener: "IN|ERR|HUP"}
    assert made[1].got == [[listener, 1]]


def test_threads_have_lanes_of_their_own(serving):
    path = serving(
        """
        def answer(connection):
            with connection:
                connection.recv(1024)
                connection.sendall(ANSWER)
        def serve(listener):
            for number in range(2):
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=[connection], name=f"worker {number}").start()
        """
    )
    with lab.record(path) as run:
        for name in ("first", "second"):
            plain_get(run.connect(name), run.server)
        run.server.wait()
    lanes = {call.thread for call in calls(run, "recv", "sendall")}
    assert lanes == {"worker 0", "worker 1"}
    assert {call.thread for call in calls(run, "accept")} == {"MainThread"}
    assert {thread for _, thread, _ in run.recording.lines} == lanes | {"MainThread"}


def test_one_that_runs_without_calling_anything_is_seen(serving):
    path = serving(
        """
        def serve(listener):
            listener.accept()
            for number in range(1000):
                number += 1
        """
    )
    with lab.record(path) as run:
        run.connect("only")
        run.server.wait()
    assert len(run.recording.lines) > 2000
    assert not calls(run, "(runs)")


LOCKED = """
    def spin():
        while not over.is_set():
            pass
    def serve(listener):
        global over
        over = threading.Event()
        threading.Thread(target=spin, daemon=True).start()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for _ in range(20):
            try:
                ours.recv(1)
            except BlockingIOError:
                pass
        time.sleep(0)
        theirs.settimeout(0.05)
        try:
            theirs.recv(1)
        except TimeoutError:
            over.set()
"""


def test_who_waits_for_pythons_lock_does_not_sleep_in_the_call(serving):
    """A call gives that lock away and takes it again, which may put the thread to sleep."""
    with lab.record(serving(LOCKED)) as run:
        run.server.wait()
    *without, blocking = calls(run, "recv")
    assert [call.slept for call in without] == [0] * 20 and blocking.slept > 0


def test_the_server_can_not_tell(serving):
    """It sees its own arguments, its own folder, and a class named socket."""
    path = serving(
        """
        import os
        def serve(listener):
            print(sys.argv[0] == __file__, sys.path[0] == os.path.dirname(__file__), flush=True)
            print(type(listener).__name__, isinstance(listener, socket.socket), flush=True)
            print(any(each.startswith("look") for each in sys.modules), flush=True)
        """
    )
    with lab.record(path) as run:
        run.server.wait()
        assert run.server.output() == "True True\nsocket True\nFalse\n"


def test_one_that_does_not_start():
    with pytest.raises(lab.ServerError), lab.record("run/99_nothing.py"):
        pass


def test_every_kind_of_call_is_recorded(serving):
    path = serving(
        """
        import select
        def serve(listener):
            listener.settimeout(5)
            ours = socket.socket()
            ours.setblocking(True)
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ours.connect(listener.getsockname())
            theirs, _ = listener.accept()
            for send in (ours.send, ours.sendall, lambda data: ours.sendmsg([data])):
                send(b"12")
            theirs.recv_into(bytearray(2))
            theirs.recv(4)
            ours.shutdown(socket.SHUT_WR)
            with select.epoll() as epoll:
                epoll.register(theirs)
                epoll.poll(1)
                epoll.modify(theirs, 0)
                epoll.unregister(theirs)
                epoll.close()
                select.epoll.fromfd(select.epoll().fileno()).fileno()
            other = socket.socket()
            other.connect_ex(listener.getsockname())
        """
    )
    with lab.record(path) as run:
        assert run.server.wait() == 0, run.server.errors()
    names = {call.name for call in calls(run)}
    assert names == {
        "bind", "listen", "settimeout", "setblocking", "setsockopt", "connect", "accept", "send",
        "sendall", "sendmsg", "recv_into", "recv", "shutdown", "register", "poll", "modify",
        "unregister", "close", "connect_ex",
    }  # fmt: skip
    closed = [call for call in calls(run, "close") if call.fd is not None]
    assert closed and all(call.took is not None for call in calls(run))


def test_threads_that_close_each_others_sockets_are_not_disturbed(serving):
    """The state of a socket that another thread has just closed can't be asked; that is no news."""
    path = serving(
        """
        def answer(connection):
            connection.recv(1024)
            connection.sendall(ANSWER)
            connection.close()
        def serve(listener):
            while True:
                threading.Thread(target=answer, args=[listener.accept()[0]]).start()
        """
    )
    with lab.record(path) as run:

        def ask():
            for _ in range(5):
                assert lab.rows.is_hello(lab.get(run.server.address))

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(ask) for _ in range(6)]:
                done.result()
    assert len(calls(run, "sendall")) == 30
    assert len(calls(run)) == len({(call.began, call.thread) for call in calls(run)})


def test_it_ended_when_the_server_did():
    with lab.record(LOOP) as run:
        awkward.half_a_request_then_resets(run.connect("rude"), run.server)
        run.server.wait()
        later = time.monotonic() + 0.3
        lab.until(lambda: time.monotonic() > later)
    last = calls(run)[-1]
    assert run.recording.ended < last.began + last.took + 0.25


def test_clients_are_closed_in_the_end():
    with lab.record(LOOP) as run:
        run.connect("forgotten")
    assert run.recording.clients[0].events[-1].what == "left"


def test_epoll_under_selectors_and_asyncio_is_recorded_too(serving):
    """`selectors` has bound select.epoll before the recorder could replace it."""
    loop = """
import asyncio

async def talk(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(ANSWER)
    writer.close()

async def run(listener):
    async with await asyncio.start_server(talk, sock=listener) as server:
        await server.serve_forever()

def serve(listener):
    asyncio.run(run(listener))
"""
    with lab.record(serving(loop)) as run:
        awkward.plain_get(run.connect("client"), run.server)
    calls = [call.name for call in run.recording.calls()]
    for name in ("register", "poll", "accept", "recv", "send", "unregister", "close"):
        assert name in calls


WORKER = """
    import queue, sqlite3
    def work(ready):
        database = sqlite3.connect(":memory:")
        database.create_function("pause", 1, time.sleep)
        with ready.get() as connection:
            database.execute("SELECT pause(?)", [0.1])
            connection.sendall(ANSWER)
    def serve(listener):
        ready = queue.SimpleQueue()
        worker = threading.Thread(target=work, args=[ready], name="worker")
        worker.start()
        connection, _ = listener.accept()
        connection.recv(1024)
        ready.put(connection)
        worker.join()
"""


def test_a_worker_is_seen_to_wait_in_a_queue_and_in_a_query(serving):
    with lab.record(serving(WORKER)) as run:
        talk = run.connect("only")
        lab.until_at_rest(run.server.pid, 2)
        blocked_from = time.monotonic()
        lab.until(lambda: time.monotonic() > blocked_from + 0.1)
        plain_get(talk, run.server)
        run.server.wait()
    (get,), (execute,) = calls(run, "get"), calls(run, "execute")
    for call in (get, execute):
        assert call.thread == "worker" and 0.1 <= call.took < 5
        assert f".{call.name}(" in run.recording.source[call.line - 1]
    assert execute.given == ["SELECT pause(?)", [0.1]]
    assert get.began + get.took <= execute.began


POOL = """
from concurrent.futures import ThreadPoolExecutor
def answer(connection):
    with connection:
        connection.recv(1024)
        connection.sendall(ANSWER)
def serve(listener):
    with ThreadPoolExecutor(1, "pool") as pool:
        pool.submit(answer, listener.accept()[0]).result()
"""


def test_a_module_of_the_servers_folder_is_recorded_and_a_library_is_not(write):
    """A variant of a server imports it; the pool, whose thread waits in a queue, is a library's."""
    write(FRAME + POOL, "pool.py")
    path = write("import pool\npool.main()\n", "variant.py")
    with lab.record(path) as run:
        plain_get(run.connect("only"), run.server)
        run.server.wait()
    of_threads = {"MainThread": [], "pool_0": []}
    for call in calls(run):
        of_threads[call.thread].append((call.name, call.line))
    assert of_threads["pool_0"] == [("recv", None), ("sendall", None), ("close", None)]
    assert ("accept", 2) in of_threads["MainThread"], "the variant's own line"


def test_a_client_asks_in_a_thread():
    with lab.record(ROOT / "code" / "02_request_loop.py") as run:
        talk, thread = run.asks("client")
        thread.join()
    assert lab.rows.hello(talk)
    assert [client.name for client in run.recording.clients] == ["client"]


def made(name, fd=5, got=None, took=0.5, **more):
    return Call(name, fd, "MainThread", 1, 1.0, [], took, got, **more)


@pytest.mark.parametrize(
    ("call", "moved"),
    [
        (made("recv", got={"bytes": 18, "begins": ""}), 18),
        (made("recv", got={"bytes": 0, "begins": ""}), 0),
        (made("send", got=78), 78),
        (made("sendmsg", got=78), 78),
        (made("sendall"), None),
        (made("recv", error="ConnectionResetError"), None),
        (made("poll", got=[[3, 1]]), None),
        (made("fileno", got=7), None),
    ],
)
def test_how_many_bytes_a_call_has_moved(call, moved):
    assert call.moved == moved


def test_what_a_call_has_accepted_watched_and_when_it_returned():
    peer = [{"fd": 7}, ["127.0.0.1", 4000]]
    assert made("accept", got=peer).accepted == 7
    assert made("accept").accepted is None and made("recv", got=peer).accepted is None
    assert made("poll", interest={4: {3: "IN"}, 9: {8: "OUT"}}).watched == {3: "IN"}
    assert made("recv").watched == made("recv", interest={}).watched == {}
    assert made("recv").returned == 1.5 and made("recv", took=None).returned is None


def accepts(fd, port, began):
    return Call("accept", 3, "MainThread", 1, began, [], 0.1, [{"fd": fd}, ["127.0.0.1", port]])


def a_recording(*calls, clients=()):
    return Recording("s.py", [], None, 9.0, list(calls), [], list(clients), False)


def test_a_recording_answers_questions():
    """The number of a descriptor is used again: whose it is depends on when."""
    first, second = Client("first", 1001, []), Client("second", 1002, [])
    calls = [
        made("listen", 3), accepts(5, 1001, 1), made("recv"), made("close"),
        accepts(5, 1002, 2), made("recv"), made("send"), accepts(6, 4711, 3), made("recv", 6),
    ]  # fmt: skip
    run = a_recording(*calls, clients=[first, second])
    assert run.calls() == calls
    assert run.calls("recv", "send") == [calls[2], calls[5], calls[6], calls[8]]
    assert run.of("first") == calls[2:4] and run.of("second") == calls[5:7]
    assert run.of("second", "send") == [calls[6]] and run.of("nobody") == []
    assert calls[0].client == calls[8].client == ""
    assert run.client("second") is second
    with pytest.raises(ValueError, match=r"no client 'third'; there are \['first', 'second'\]"):
        run.client("third")
    named = [names.copy() for _, names in run.named()]
    assert named[3] == {5: "first"} and named[4] == {5: "second"}
    assert named[-1] == {5: "second", 6: ""}


def test_when_something_first_happened_to_a_client():
    events = [Event(0.1, "calls", 0), Event(0.2, "got", 3), Event(0.3, "got", 4)]
    client = Client("first", 1001, events)
    assert client.first("got") == 0.2 and client.first("calls") == 0.1
    with pytest.raises(ValueError, match="first: never 'reset'"):
        client.first("reset")


def test_what_is_watched_is_read_after_the_call(serving):
    """What a register, modify or unregister has changed is seen after itself, not later."""
    with lab.record(serving(EPOLL)) as run:
        plain_get(run.connect("only"), run.server)
        run.server.wait()
    before = {}
    for call in run.recording.calls("register", "modify", "unregister"):
        assert call.watched != before, call.name
        before = call.watched


def lines(*records, torn=b""):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records) + torn


def begins(number, t, name="recv", lines=()):
    facts = {"thread": "MainThread", "line": 1, "name": name, "fd": 5, "given": []}
    return {"begins": number, "t": t, "lines": list(lines)} | facts


def returns(number, t):
    return {"returns": number, "t": t, "seen": t, "got": 3, "error": None, "slept": 1,
            "sockets": {"5": ["LISTEN", 0, 1]}, "interest": {"4": {"5": "IN"}}}  # fmt: skip


def test_beginnings_and_returns_are_put_together():
    """In the order in which they began; a last line that was torn by the end is left out."""
    written = lines(
        begins(2, 12.0, lines=[[11.5, 7], [11.6, 8]]), begins(1, 11.0), returns(2, 12.5),
        begins(3, 13.0, "(runs)", lines=[[11.1, 9]]), returns(3, 13.0),
        torn=b'{"returns": 1, "t": 14',
    )  # fmt: skip
    calls, executed, capped = recorder._merge(written, 10.0)
    assert [(call.began, call.took) for call in calls] == [(1.0, None), (2.0, 0.5)]
    assert calls[1].sockets == {5: ("LISTEN", 0, 1)} and calls[1].interest == {4: {5: "IN"}}
    assert [line for _, _, line in executed] == [9, 7, 8] and not capped
    assert executed[0][0] == pytest.approx(1.1)
    assert recorder._merge(lines({"capped": 2}), 0) == ([], [], True)


@pytest.mark.parametrize(("most", "capped"), [(9, False), (8, True)])
def test_the_cap_is_one_call_more_than_is_recorded(most, capped):
    """One request takes nine calls until the server is stopped."""
    with lab.record(LOOP, most_calls=most) as run:
        plain_get(run.connect("only"), run.server)
        in_accept(run)
    assert len(calls(run)) == most and run.recording.capped == capped


def test_the_word_that_tells_the_cap_may_come_in_two_pieces(tmp_path):
    run = recorder.Run.__new__(recorder.Run)
    run._file, run._looked_at, run._full = (tmp_path / "written").open("w+b", 0), 0, False
    with run._file:
        for piece, is_full in (
            (b"", 0),
            (b'{"begins": 9}\n{"ca', 0),
            (b'pped"', 1),
            (b": 50}\n", 1),
        ):
            run._file.write(piece)
            assert run.is_full() == run.is_full() == is_full


def test_what_a_call_calls_in_its_turn_is_not_recorded(serving):
    """accept() on a listener with a timeout sets the new socket to block: its own affair."""
    path = serving("""
        def serve(listener):
            listener.settimeout(5)
            listener.accept()[0].close()
    """)
    with lab.record(path) as run:
        run.connect("only")
        run.server.wait()
    names = [call.name for call in run.recording.calls()]
    assert names[names.index("settimeout") :] == ["settimeout", "accept", "close"]


def test_a_run_answers_for_its_recording():
    with lab.record(LOOP) as run:
        run.connect("only").ask(pieces=2)
    assert run.calls("send") == run.recording.calls("send") and run.calls() == run.recording.calls()
    assert run.of("only", "recv") == run.recording.of("only", "recv") != []
    assert run.client("only") is run.recording.clients[0]
    assert [count for _, count in run.client("only").all("sent")] == [9, 9]
    assert run.client("only").all("was reset") == []
    send = run.calls("send")[0]
    assert (send.offered, send.state) == (78, "ESTABLISHED")
    assert run.recording.code(send.line).startswith("connection.send")
    recv, close = run.calls("recv")[0], run.of("only", "close")[0]
    assert recv.offered is None and close.state == "gone"


def test_the_share_of_a_call():
    """Of 0.4 s, 0.3 s in recv: the last accept takes the rest, and never returned."""
    calls = [
        Call("accept", 3, "MainThread", 1, 10.0, [], took=0.05),
        Call("recv", 4, "MainThread", 2, 10.05, [], took=0.1, got={"bytes": 1}),
        Call("recv", 4, "MainThread", 2, 10.15, [], took=0.2, got={"bytes": 1}),
        Call("accept", 3, "MainThread", 1, 10.35, []),
    ]
    recording = Recording("server.py", [], 0, 10.4, calls, [], [], False)
    assert recording.share("recv") == pytest.approx(0.75)
    assert recording.share("accept") == pytest.approx(0.25)
    assert recording.share("send") == 0


def test_a_call_whose_effect_a_client_has_seen_has_returned(serving):
    path = serving("""
        import os
        import time

        write = os.write

        def slowly(fd, data):
            if b"returns" in data:
                began = time.monotonic()
                while time.monotonic() < began + 0.05:
                    pass
            return write(fd, data)

        os.write = slowly

        def serve(listener):
            connection, address = listener.accept()
            connection.send(b"hello")
            connection.recv(100)
    """)
    with lab.record(path) as run:
        client = run.connect("client")
        client.receive()
    assert calls(run, "send")[0].got == 5
