"""Clients: what they put on the wire, and that none of them waits for ever."""

import contextlib
import socket
import struct
import threading
import time
from types import SimpleNamespace

import pytest

import lab
from conftest import BOOK
from survive import awkward, clients
from survive.clients import Conversation, parse_answers
from survive.server import serve

LOOP = BOOK.parent / "code" / "02_request_loop.py"


class Listener:
    """A listening socket whose connections a test reads for itself."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()

    def all_that_comes(self):
        """Accept one connection and read to its end: (bytes, "closed" or "reset")."""
        connection, _ = self.socket.accept()
        data = b""
        with connection:
            connection.settimeout(2)
            while True:
                try:
                    more = connection.recv(65536)
                except ConnectionResetError:
                    return data, "reset"
                if not more:
                    return data, "closed"
                data += more


class Stopped:
    """Stands for a server that is not there to be stopped."""

    def paused(self):
        return self

    def is_at_rest(self):
        return True

    def is_asleep(self):
        return True

    def memory(self):
        return 100

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.mark.parametrize(
    ("act", "sent", "end"),
    [
        (awkward.connects_and_closes, b"", "closed"),
        (awkward.half_a_request_then_closes, b"GET / HT", "closed"),
        (awkward.half_a_request_then_resets, b"GET / HT", "reset"),
        (awkward.whole_request_then_resets, clients.REQUEST, "reset"),
        (awkward.asks_and_leaves, clients.REQUEST, "closed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_those_that_leave(act, sent, end):
    with Listener() as listener:
        act(Conversation(listener.address), Stopped())
        assert listener.all_that_comes() == (sent, end)


@pytest.mark.parametrize(
    ("act", "sent"),
    [
        (awkward.half_closes_after_asking, clients.REQUEST),
        (awkward.a_bare_line_feed, b"\n\n"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_those_that_half_close(act, sent):
    with Listener() as listener, Conversation(listener.address) as talk:
        thread = threading.Thread(target=act, args=[talk, Stopped()])
        thread.start()
        assert listener.all_that_comes() == (sent, "closed")
        thread.join()
        assert talk.ended == "closed"


@pytest.mark.parametrize(
    ("act", "starts"),
    [
        (awkward.plain_get, b"GET / HTTP/1.0\r\n\r\n"),
        (awkward.bytes_that_are_not_utf8, b"GET /\xff\x81 HTTP/1.0\r\n\r\n"),
        (
            awkward.a_body_left_unread,
            b"POST / HTTP/1.0\r\nContent-Length: 4096\r\n\r\nxxxx",
        ),
        (awkward.head, b"HEAD / HTTP/1.0\r\n\r\n"),
        (awkward.a_header_without_end, b"GET / HTTP/1.0\r\nX-More: xxxx"),
        (awkward.asks_without_pause, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / "),
        (awkward.sends_without_pause, b"xxxxxxxx"),
        (awkward.a_tls_hello, b"\x16\x03\x01"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_those_that_stay(act, starts):
    """They stay until their time is up, whether or not anybody reads."""
    with Listener() as listener, Conversation(listener.address, seconds=0.2) as talk:
        act(talk, Stopped())
        assert not talk.is_closed
        connection, _ = listener.socket.accept()
        with connection:
            assert connection.recv(65536).startswith(starts)


def sent(talk):
    """How many bytes a conversation has sent so far."""
    return sum(count for _, what, count in talk.events if what == "sent")


def take(connection, count):
    """Receive so many bytes and no more."""
    connection.settimeout(5)
    while count:
        data = connection.recv(min(count, 65536))
        assert data, "it ended too early"
        count -= len(data)


def test_it_sends_on_until_it_rests():
    with Listener() as listener, Conversation(listener.address) as talk:
        connection, _ = listener.socket.accept()
        before = set(threading.enumerate())
        talk.stop_sending()  # there is nothing to end
        taken = 0
        for _ in range(2):  # it can begin again
            more = sent(talk) - taken + 100_000
            talk.keep_sending(b"x" * 1000)
            take(connection, more)
            taken += more
            talk.stop_sending()
            assert set(threading.enumerate()) <= before
            assert talk.socket.gettimeout() == talk.seconds
        take(connection, sent(talk) - taken)
        talk.close()
        assert connection.recv(1) == b""
        connection.close()


@pytest.mark.parametrize(
    ("leave", "end"), [(Conversation.close, "closed"), (Conversation.reset, "reset")]
)
def test_leaving_ends_sending_on_at_once(leave, end):
    """Nobody reads, so it is stuck in a send, which has five seconds."""
    with Listener() as listener:
        before = set(threading.enumerate())
        talk = Conversation(listener.address)
        talk.keep_sending(b"x" * 65536)
        lab.until(lambda: talk.events[-1][0] < time.monotonic() - 0.2)
        began = time.monotonic()
        leave(talk)
        assert time.monotonic() - began < 2
        assert set(threading.enumerate()) <= before
        data, how = listener.all_that_comes()
        assert how == end
        assert len(data) == sent(talk) or how == "reset"


def test_sending_on_survives_the_peers_reset():
    with Listener() as listener, Conversation(listener.address) as talk:
        connection, _ = listener.socket.accept()
        before = set(threading.enumerate())
        talk.keep_sending(b"x" * 1000)
        take(connection, 100_000)
        clients.reset(connection)
        lab.until(lambda: set(threading.enumerate()) <= before)
        talk.stop_sending()
        assert talk.socket.gettimeout() == talk.seconds


def test_one_that_sends_without_pause_goes_on_when_its_act_is_over():
    with Listener() as listener, Conversation(listener.address) as talk:
        connection, _ = listener.socket.accept()
        act = threading.Thread(target=awkward.sends_without_pause, args=[talk, Stopped()])
        act.start()
        take(connection, 2_500_000)
        act.join()
        take(connection, 10_000_000)
        talk.stop_sending()
        assert not talk.has_said_all
        connection.close()


def test_it_has_said_all_as_soon_as_it_only_listens():
    with Listener() as listener, Conversation(listener.address) as talk:
        talk.send(clients.REQUEST)
        assert not talk.has_said_all
        thread = threading.Thread(target=talk.read_all)
        thread.start()
        lab.until(lambda: talk.has_said_all)
        assert thread.is_alive(), "nobody has answered yet"
        listener.socket.accept()[0].close()
        thread.join()


def segments_in(connection):
    """Segments that an accepted connection has received, the SYN included: TCP_INFO, tcp(7)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return struct.unpack_from("=I", info, 140)[0]


@pytest.mark.parametrize("act", [awkward.asks_and_leaves, awkward.half_closes_after_asking])
def test_request_and_fin_travel_in_one_segment(act):
    """SYN, the acknowledgement that ends the handshake, and one segment with both."""
    with Listener() as listener, Conversation(listener.address, seconds=0.1) as talk:
        act(talk, Stopped())
        connection, _ = listener.socket.accept()
        with connection:
            assert lab.kernel.state_of(connection) == "CLOSE-WAIT"
            assert segments_in(connection) == 3


def test_one_byte_at_a_time_is_many_reads():
    with lab.record(LOOP) as run:
        awkward.one_byte_at_a_time(run.connect("slow"), run.server)
    reads = [call.moved for call in run.recording.calls("recv")]
    assert sum(reads) == len(clients.REQUEST) and len(reads) > len(clients.REQUEST) / 2


def test_never_reading_means_a_small_buffer(serving):
    with serve(serving(SILENT)) as server, Conversation(server.address) as talk:
        awkward.never_reads_a_long_answer(talk, server)
        for each in (talk, *talk.others):
            assert each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 10_000
            assert [what for _, what, _ in each.events][2:] == ["sent"]


# It keeps all who come, and says how many bytes it has read of each as soon as it is at its limit.
SILENT = """
import select
def serve(listener):
    clients = {}
    while True:
        for ready in select.select([listener, *clients], [], [])[0]:
            if ready is not listener:
                clients[ready] += len(ready.recv(1024))
                print("read", sorted(clients.values()), flush=True)
                continue
            try:
                clients[listener.accept()[0]] = 0
            except OSError:
                time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("act", "least"),
    [
        (awkward.silent_at_the_descriptor_limit, 0),
        (awkward.drips_a_header, len(clients.REQUEST) + 5),
        (awkward.drips_a_body, len(clients.REQUEST) + 5),
        (awkward.vanishes_while_idle, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_as_many_come_to_stay_as_there_are_descriptors(serving, act, least):
    with serve(serving(SILENT)) as server, Conversation(server.address) as talk:
        act(talk, server)
        assert len(talk.others) == awkward.DESCRIPTORS
        assert lab.kernel.accept_queue(server.address)[0] == 0, "all of them are in"
        with Conversation(server.address):
            lab.until(lambda: lab.kernel.accept_queue(server.address)[0] == 1)
            said = server.output().count("read")
            if least:  # and they go on, all of them
                server.wait_for("read", said + 3 * awkward.DESCRIPTORS)
                counts = eval(server.output().splitlines()[-2].removeprefix("read"))
                assert len(counts) == awkward.DESCRIPTORS + 1 and min(counts) > least
            talk.stop_sending()


@pytest.mark.parametrize(
    ("act", "reads"),
    [
        (awkward.reads_a_long_answer_one_byte_a_second, True),
        (awkward.vanishes_with_an_answer_unread, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_who_sips_reads_a_byte_and_who_has_vanished_none(serving, monkeypatch, act, reads):
    monkeypatch.setattr(awkward, "SIP", 0.05)
    answering = SILENT.replace("recv(1024))", "recv(1024)) or ready.close() or 0").replace(
        "clients[ready] +=", "ready.send(ANSWER); clients[ready] +="
    )
    with serve(serving(answering)) as server, Conversation(server.address) as talk:
        act(talk, server)
        assert len(talk.others) == awkward.DESCRIPTORS
        everybody = (talk, *talk.others)
        assert all(lab.kernel.unread(each.socket) for each in everybody)
        if reads:
            lab.until(lambda: all(len(each.received) > 3 for each in everybody))
            assert {n for each in everybody for _, what, n in each.events if what == "got"} == {1}
        talk.stop_sending()
        assert all(len(each.received) > 3 for each in everybody) == reads


def test_who_overstays_comes_no_more_when_the_queue_is_full(serving):
    """One client holds the server; three wait in its queue, and the next would not get in."""
    busy = "def serve(listener):\n    listener.listen(2)\n    kept = listener.accept()\n"
    with serve(serving(busy + "    time.sleep(60)\n")) as server:
        with Conversation(server.address) as talk:
            awkward.silent_at_the_descriptor_limit(talk, server)
            assert len(talk.others) == 3


def test_a_habit_ends_when_its_step_says_so_or_it_is_stopped():
    with Listener() as listener, Conversation(listener.address) as talk:
        steps = []
        talk.keep_doing(lambda: steps.append(1) or len(steps) < 3)
        lab.until(lambda: not talk.is_active())
        assert len(steps) == 3
        talk.keep_doing(lambda: steps.append(1), pause=0.01)
        lab.until(lambda: len(steps) > 6)
        assert talk.is_active()
        talk.stop_sending()
        assert not talk.is_active() and talk.socket.gettimeout() == talk.seconds


def test_one_that_has_vanished_leaves_nothing_behind():
    with Listener() as listener:
        talk = Conversation(listener.address)
        connection, _ = listener.socket.accept()
        with connection:
            talk.vanish()
            connection.send(b"hello?")
            talk.close()
            assert [what for _, what, _ in talk.events][2:] == ["vanished", "left"]
            assert not lab.kernel.find_socket(talk.ends[1], talk.ends[0])


def test_a_dribble_does_not_prolong_the_deadline(serving):
    path = serving(
        """
        def serve(listener):
            connection, _ = listener.accept()
            while True:
                connection.send(b"x")
                time.sleep(0.02)
        """
    )
    with serve(path) as server, Conversation(server.address, seconds=0.3) as talk:
        began = time.monotonic()
        assert talk.read_all()
        assert time.monotonic() - began < 2


def test_one_byte_at_a_time_is_many_segments():
    with serve(LOOP) as server, Conversation(server.address) as talk:
        awkward.one_byte_at_a_time(talk, server)
        assert lab.rows.hello(talk)
        sent = [count for _, what, count in talk.events if what == "sent"]
        assert sent == [1] * len(clients.REQUEST)


def test_a_tls_hello_never_holds_an_empty_line():
    assert b"\n\n" not in awkward.tls_hello() and b"\n\r\n" not in awkward.tls_hello()
    assert len(awkward.tls_hello()) > 100


def test_two_at_once_are_two_connections():
    with serve(LOOP) as server, Conversation(server.address) as talk:
        awkward.two_at_once(talk, server)
        assert lab.rows.hello_each(talk) and len(talk.others) == 1


def test_get_says_why_there_is_no_answer(serving):
    path = serving(
        """
        def serve(listener):
            connection = listener.accept()[0]
            connection.recv(1024)
            connection.close()
            listener.accept()
        """
    )
    with serve(path) as server:
        with pytest.raises(ConnectionError, match="no answer: the connection was closed"):
            lab.get(server.address)
    with serve(serving("def serve(listener):\n    time.sleep(60)\n")) as server:
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="silent for 0.2 s"):
            lab.get(server.address, seconds=0.2)
        assert time.monotonic() - began < 2


def test_events_are_in_order_and_complete():
    with serve(LOOP) as server:
        talk = Conversation(server.address)
        awkward.plain_get(talk, server)
        talk.close()
        talk.close()
    assert [what for _, what, _ in talk.events] == [
        "calls", "connected", "sent", "got", "closed", "left",
    ]  # fmt: skip
    times = [t for t, _, _ in talk.events]
    assert times == sorted(times)


ONE = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("raw", "bodies"),
    [
        (b"", []),
        (b"nonsense", []),
        (ONE, [b"hi"]),
        (ONE + ONE, [b"hi", b"hi"]),
        (ONE[:-1], []),
        (ONE + ONE[:-1], [b"hi"]),
        (b"HTTP/1.0 200 OK\r\n\r\nall the rest", [b"all the rest"]),
        (b"HTTP/1.0 200 OK\n\nall the rest", [b"all the rest"]),
        (b"HTTP/1.0 200 OK\r\n", []),
        (b"HTTP/1.0 200 OK\r\nServer: half a hea", []),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            [b"hi"],
        ),
    ],
)
def test_parsing_answers(raw, bodies):
    assert [answer.body for answer in parse_answers(raw)] == bodies


def test_head_has_no_body():
    (answer,) = parse_answers(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_nothing_reaches_one_that_has_vanished():
    ours, theirs = clients.pair()
    with ours, theirs:
        clients.vanish(theirs)
        ours.send(b"hello")
        theirs.settimeout(0.1)
        with pytest.raises(TimeoutError):
            theirs.recv(10)
        assert lab.kernel.queues_of(ours)[1] == 5, "nor is it acknowledged"
        theirs.send(b"I am here")
        assert ours.recv(10) == b"I am here"
        clients.reset(theirs)  # else our kernel would send it again for a quarter of an hour


def test_one_that_reappears_hears_what_is_sent_again():
    ours, theirs = clients.pair()
    with ours, theirs:
        clients.vanish(theirs)
        ours.send(b"hello")
        assert lab.kernel.unread(theirs) == 0
        clients.reappear(theirs)
        theirs.settimeout(10)
        assert theirs.recv(10) == b"hello"


def test_an_outcome_is_what_came_back_or_the_errors_name():
    ours, theirs = clients.pair()
    with ours, theirs:
        ours.setblocking(False)
        assert clients.outcome(ours.recv, 10) == "EAGAIN"
        assert clients.outcome(theirs.send, b"hello") == 5
        lab.until(lambda: lab.kernel.unread(ours) == 5)
        assert clients.outcome(ours.recv, 10) == b"hello"
        with pytest.raises(TypeError):
            clients.outcome(ours.recv, "ten")


def test_a_fin_to_one_that_vanishes_is_never_acknowledged(serving):
    def states(*arguments, **named):
        return [row.state for row in lab.kernel.sockets(*arguments, **named)]

    path = serving(
        """
        def serve(listener):
            with listener.accept()[0] as connection:
                while connection.recv(100):
                    pass
                connection.shutdown(socket.SHUT_RDWR)
                listener.accept()
        """
    )
    with serve(path) as server, clients.Conversation(server.address) as talk:
        awkward.half_closes_and_vanishes(talk, server)
        lab.until(lambda: "LAST-ACK" in states(pid=server.pid))
        assert talk.state() == "FIN-WAIT-2"
        talk.reset()
        lab.until(lambda: "LAST-ACK" not in states(server.port))


def test_as_many_bytes_as_are_asked_for_are_drained():
    ours, theirs = clients.pair()
    with ours, theirs:
        theirs.send(b"12345")
        clients.drain(ours, 3)
        assert ours.recv(10) == b"45"
        theirs.send(b"6")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError, match="1 bytes too soon"):
            clients.drain(ours, 2)


@pytest.mark.parametrize(("sent", "got"), [(9, 9), (10, 10), (20, 10)])
def test_a_conversation_receives_so_much_and_no_more(monkeypatch, sent, got):
    """What is too much stays in the kernel: who sends without end is not read for ever."""
    monkeypatch.setattr(clients, "MOST_RECEIVED", 10)
    receive = Conversation.receive
    monkeypatch.setattr(Conversation, "receive", lambda self: receive(self, 5))
    with Listener() as listener, Conversation(listener.address, seconds=0.2) as talk:
        with listener.socket.accept()[0] as connection:
            connection.send(b"x" * sent)
            lab.until(lambda: lab.kernel.unread(talk.socket) == sent)
            assert len(talk.read_all()) == got


def happened(talk):
    return [(what, count) for _, what, count in talk.events]


def test_who_has_reset_is_told_apart(serving):
    """`reset` is our own act, `was reset` the other side's."""
    with Listener() as listener:
        ours, theirs = Conversation(listener.address), Conversation(listener.address)
        accepted = [listener.socket.accept()[0] for _ in range(2)]
        ours.send(b"abc")
        ours.reset()
        ours.close()
        clients.reset(accepted[1])
        assert (theirs.receive(), theirs.ended) == (b"", "reset")
        theirs.close()
        accepted[0].close()
    before = [("calls", 0), ("connected", 0)]
    assert happened(ours) == [*before, ("sent", 3), ("reset", 0)]
    assert happened(theirs) == [*before, ("was reset", 0), ("left", 0)]
    assert ours.ended is None and ours.is_closed


def test_what_is_sent_and_got_is_counted_in_the_events():
    with Listener() as listener, Conversation(listener.address) as talk:
        with listener.socket.accept()[0] as connection:
            talk.send(b"12345")
            talk.half_close()
            assert connection.recv(5) == b"12345"
            connection.sendall(b"123")
            assert talk.receive(2) == b"12" and talk.receive() == b"3"
        assert talk.receive() == talk.receive() == b"" and talk.ended == "closed"
    assert happened(talk)[2:] == [
        ("sent", 5), ("half-closed", 0), ("got", 2), ("got", 1), ("closed", 0), ("closed", 0),
        ("left", 0),
    ]  # fmt: skip


def test_a_reset_after_the_end_is_told_as_one():
    with Listener() as listener, Conversation(listener.address) as talk:
        connection, _ = listener.socket.accept()
        connection.shutdown(socket.SHUT_WR)
        assert (talk.receive(), talk.ended) == (b"", "closed")
        connection.close()
        talk.close()
    assert [what for what, _ in happened(talk)].count("closed") == 1


def test_a_conversation_closes_those_that_it_has_opened():
    with Listener() as listener, Conversation(listener.address, "one", 3) as talk:
        other = talk.another()
        assert (other.name, other.seconds, talk.others) == ("one, again", 3, [other])
        for _ in range(2):
            listener.socket.accept()[0].close()
    assert talk.is_closed and other.is_closed


@pytest.mark.parametrize(
    ("error", "name"), [(TimeoutError(), "ETIMEDOUT"), (OSError(32, ""), "EPIPE")]
)
def test_an_outcome_has_the_name_of_an_error(error, name):
    def fails():
        raise error

    assert clients.outcome(fails) == name


def test_a_send_buffer_that_was_filled_stays_full():
    ours, theirs = clients.pair()
    with ours, theirs:
        ours.setblocking(False)
        clients.fill(ours)
        assert clients.outcome(ours.send, b"x") == "EAGAIN"
        assert lab.kernel.not_sent(ours) > 0


def test_an_answer_in_words():
    assert str(clients.Answer(200, {}, b"caf\xc3\xa9 \xff")) == "200 'café \\\\xff'"


def test_reading_all_waits_for_each_piece_only_as_long_as_is_left(monkeypatch):
    """And the conversation's deadline is its own again afterwards."""
    now, timeouts = iter([0, 1, 2, 4, 9]), []

    def receive(self):
        timeouts.append(self.socket.gettimeout())
        return b"x"

    with Listener() as listener, Conversation(listener.address, seconds=5) as talk:
        with monkeypatch.context() as patched:
            patched.setattr(Conversation, "receive", receive)
            patched.setattr(clients, "time", SimpleNamespace(monotonic=lambda: next(now)))
            talk.read_all()
        assert timeouts == [4, 3, 1] and talk.socket.gettimeout() == 5


def test_nobody_has_ended_while_there_is_data_and_a_reset_stays_one():
    with Listener() as listener, Conversation(listener.address) as talk:
        connection, _ = listener.socket.accept()
        connection.sendall(b"data")
        assert (talk.receive(), talk.ended) == (b"data", None)
        clients.reset(connection)
        assert (talk.receive(), talk.ended) == (b"", "reset")
        assert (talk.receive(), talk.ended) == (b"", "reset"), "the kernel tells it once"


def test_a_conversation_calls_before_it_is_connected(monkeypatch):
    connect = socket.create_connection

    def slowly(*arguments, **keywords):
        time.sleep(0.05)
        return connect(*arguments, **keywords)

    monkeypatch.setattr(socket, "create_connection", slowly)
    with Listener() as listener, Conversation(listener.address) as talk:
        (calls, _, _), (connected, _, _) = talk.events
        assert connected - calls >= 0.05


def test_filling_goes_on_until_nothing_is_taken():
    """The kernel moves what it has taken on, and has room again."""
    takes = iter([10, None, 5, None, None, "too often"])

    def send(data):
        if (taken := next(takes)) is None:
            raise BlockingIOError
        return taken

    clients.fill(SimpleNamespace(setsockopt=lambda *option: None, send=send))
    assert next(takes) == "too often"


def test_names_of_headers_are_in_lower_case():
    (answer,) = parse_answers(b"HTTP/1.0 200 OK\r\nX-One: A\r\nCONTENT-length: 2\r\n\r\nhi")
    assert answer.headers == {"x-one": "A", "content-length": "2"}


def test_a_header_without_end_has_no_empty_line():
    with Listener() as listener, Conversation(listener.address) as talk:
        thread = threading.Thread(target=awkward.a_header_without_end, args=[talk, Stopped()])
        thread.start()
        with listener.socket.accept()[0] as connection:
            lines, end = bytearray(), b"x\r\n"
            while len(lines) < awkward.HEADER - 65536 or not lines.endswith(end):
                lines += connection.recv(1 << 20)
            thread.join()
        assert 63_900_000 < len(lines) < 64_000_100 and b"\n\r\n" not in lines
        assert talk.taken == (100, len(lines) - len(b"GET / HTTP/1.0\r\n"))


def test_a_header_ends_when_it_is_refused():
    with Listener() as listener, Conversation(listener.address) as talk:
        thread = threading.Thread(target=ignore_errors, args=[awkward.a_header_without_end, talk])
        thread.start()
        with listener.socket.accept()[0] as connection:
            connection.recv(65536)
        thread.join(5)
        assert not thread.is_alive() and talk.taken is None


def ignore_errors(act, talk):
    with contextlib.suppress(OSError):
        act(talk, Stopped())


def test_a_header_ends_after_a_megabyte_where_it_is_taken_slowly(monkeypatch):
    monkeypatch.setattr(awkward, "SLOW", 1_000_000_000)
    with Listener() as listener, Conversation(listener.address) as talk:
        thread = threading.Thread(target=ignore_errors, args=[awkward.a_header_without_end, talk])
        thread.start()
        with listener.socket.accept()[0] as connection:
            taken = 0
            while thread.is_alive():
                taken += len(connection.recv(8192))
                time.sleep(0.003)
        assert talk.taken[1] - taken < 400_000 and 1_000_000 < talk.taken[1] < 30_000_000


@pytest.mark.parametrize("bad", [b"\x16\n\n", b"\x16\n\r\n"])
def test_a_tls_hello_with_an_empty_line_is_made_anew(monkeypatch, bad):
    """Its random bytes hold one, once in a while."""
    made = iter([bad, b"\x16\r\n"])
    monkeypatch.setattr(awkward.ssl, "MemoryBIO", lambda: SimpleNamespace(read=lambda: next(made)))
    engine = SimpleNamespace(do_handshake=lambda: None)
    context = SimpleNamespace(wrap_bio=lambda *ends, server_hostname: engine)
    monkeypatch.setattr(awkward.ssl, "create_default_context", lambda: context)
    assert awkward.tls_hello.__wrapped__() == b"\x16\r\n"


def test_a_request_in_pieces_with_pauses(serving):
    """Its pieces arrive one by one, and the answer is read to its end."""
    path = serving(
        """
        def serve(listener):
            connection, _ = listener.accept()
            while data := connection.recv(1024):
                print(len(data), flush=True)
                if data.endswith(b"\\n\\r\\n"):
                    break
            connection.sendall(ANSWER)
            connection.close()
            listener.accept()
        """
    )
    with lab.serve(path) as server, lab.connect(server) as client:
        began = time.monotonic()
        assert client.ask(pieces=3, pause=0.1) == client.received
        assert time.monotonic() - began >= 0.2
        assert client.ended == "closed" and len(client.answers()) == 1
        sent = [count for _, what, count in client.events if what == "sent"]
        assert sent == [6, 6, 6] and sum(sent) == len(clients.REQUEST)
        server.wait_for("6", times=3)


def test_one_who_reads_slowly_gets_all_of_it_piece_by_piece(serving):
    path = serving(
        """
        def serve(listener):
            connection, _ = listener.accept()
            connection.sendall(b"x" * 100)
            connection.close()
            listener.accept()
        """
    )
    with lab.serve(path) as server, lab.connect(server) as client:
        began = time.monotonic()
        client.read_slowly(piece=40, pause=0.05)
        assert time.monotonic() - began >= 0.15
        assert [count for _, what, count in client.events if what == "got"] == [40, 40, 20]
        assert client.received == b"x" * 100 and client.ended == "closed"


def test_the_buffers_of_a_pair():
    ours, theirs = clients.pair(send_buffer=30_000, receive_buffer=20_000)
    with ours, theirs:
        sizes = [
            ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
            theirs.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        ]
        assert sizes == [60_000, 40_000]  # the kernel doubles them, socket(7)
        assert ours.getpeername() == theirs.getsockname()


def test_filling_tells_how_much_it_took():
    ours, theirs = clients.pair()
    with ours, theirs:
        ours.setblocking(False)
        sent = clients.fill(ours)
        clients.drain(theirs, sent)
        theirs.setblocking(False)
        assert clients.outcome(theirs.recv, 1) == "EAGAIN"
