"""What a Watch finds in exchanges that are known, and what the ladder draws of them."""

import ctypes
import math
import socket
import struct

import pytest

import lab
from lab import ladder
from lab.ladder import Act, Held, Segment
from survive import clients

TCP = socket.IPPROTO_TCP
SERVER = """
def serve(listener):
    connection, _ = listener.accept()
    while connection.recv(100) not in (b"", b"end"):
        connection.send(b"x" * 17)
        connection.send(b"y" * 61)
"""


@pytest.fixture
def watched():
    """Watch a pair of ours: a function that returns the Watch, to be used as a block."""
    server, client = lab.pair()
    return lab.Watch(client, server)


def acts(watch):
    return [f"{each.end} {each.words}" for each in watch.events() if isinstance(each, Act)]


def acknowledge_late(sock):
    sock.setsockopt(TCP, socket.TCP_QUICKACK, 0)


def hold_back(watch):
    """Send 17 bytes and 28 more, which wait for a late acknowledgement; return both ends."""
    client, server = watch.ends
    acknowledge_late(server)
    client.send(b"x" * 17)
    client.send(b"x" * 28)
    return client, server


def test_one_segment_each_way(watched):
    with watched as watch:
        client, server = watch.ends
        client.send(b"hello")
        lab.settled(client)
        assert server.recv(100) == b"hello"
        server.sendall(b"you too")
        lab.settled(server)
    assert watch.arrows() == ["→ 5 bytes", "← ACK", "← 7 bytes", "→ ACK"]
    assert acts(watch) == ["0 send(5 bytes)", "1 recv: 5 bytes", "1 send(7 bytes)"]
    assert watch.held() == []


def test_an_acknowledgement_that_travels_with_data_is_none_of_its_own(watched):
    with watched as watch:
        client, server = watch.ends
        acknowledge_late(server)
        client.send(b"hello")
        server.recv(100)
        server.send(b"you too")
        lab.settled(server)
    assert watch.arrows() == ["→ 5 bytes", "← 7 bytes", "→ ACK"]


def test_bytes_that_nagle_holds_back(watched):
    with watched as watch:
        client, server = watch.ends
        acknowledge_late(server)
        for size in (17, 28, 13):
            client.send(b"x" * size)
        lab.until(lambda: lab.kernel.unread(server) == 58)
    assert watch.arrows() == ["→ 17 bytes", "← ACK", "→ 41 bytes"]
    (held,) = watch.held()
    assert (held.end, held.size) == (0, 41) and 0.02 < held.until - held.since < 0.5


def test_a_fin_lets_go_what_is_held_back_and_travels_with_it(watched):
    with watched as watch:
        client, _ = hold_back(watch)
        client.shutdown(socket.SHUT_WR)
        lab.settled(client)
    assert watch.arrows()[:2] == ["→ 17 bytes", "→ 28 bytes + FIN"]


def test_a_fin_each_way(watched):
    with watched as watch:
        client, server = watch.ends
        client.shutdown(socket.SHUT_WR)
        lab.settled(client)
        server.close()
        lab.settled(client)
    assert watch.arrows() == ["→ FIN", "← ACK", "← FIN", "→ ACK"]
    assert acts(watch) == ["0 shutdown(SHUT_WR)", "1 close()"]


def test_a_half_close_hears_the_answer(watched):
    with watched as watch:
        client, server = watch.ends
        client.send(b"ask")
        client.shutdown(socket.SHUT_WR)
        lab.settled(server).send(b"answer")
        lab.settled(server)
    assert watch.arrows() == ["→ 3 bytes", "← ACK", "→ FIN", "← ACK", "← 6 bytes", "→ ACK"]


@pytest.mark.parametrize("who", [0, 1])
def test_a_reset(watched, who):
    with watched as watch:
        lab.reset(watch.ends[who])
        lab.settled(watch.ends[1 - who])
    assert watch.arrows() == ["→ RST" if who == 0 else "← RST"]
    assert acts(watch) == [f"{who} close(linger 0)"]


def test_unread_data_at_close(watched):
    with watched as watch:
        client, server = watch.ends
        client.send(b"unread")
        lab.settled(client)
        server.close()
        lab.settled(client)
        assert lab.outcome(client.send, b"x") in ("ECONNRESET", "EPIPE")
    assert watch.arrows() == ["→ 6 bytes", "← ACK", "← RST"]
    assert acts(watch)[-1].startswith("0 send: E")


@pytest.mark.parametrize("how", ["close", "SHUT_RDWR"])
def test_a_byte_to_nobody_is_answered_with_a_reset(watched, how):
    with watched as watch:
        client, server = watch.ends
        client.close() if how == "close" else client.shutdown(socket.SHUT_RDWR)
        lab.settled(server).send(b"x")
        lab.settled(server)
    assert watch.arrows() == ["→ FIN", "← ACK", "← 1 byte", "→ RST"]


def test_a_peer_that_has_vanished_gets_nothing(watched):
    with watched as watch:
        client, server = watch.ends
        clients.vanish(server)
        client.send(b"hello")
        lab.until(lambda: lab.kernel.tcp_info(client, "retransmits") == 1)
        clients.reappear(server)
        lab.settled(client)
    first, *again = watch.arrows()
    assert first == "→ 5 bytes ✕" and again[-2:] == ["→ 5 bytes again", "← ACK"]


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_fin_to_a_peer_that_has_vanished_never_comes(watched, gives_up):
    with watched as watch:
        client, server = watch.ends
        clients.vanish(server)
        client.shutdown(socket.SHUT_WR)
        if gives_up:
            lab.reset(client)
    assert watch.arrows()[0] == "→ FIN ✕"


def test_a_call_that_fails_is_noted_with_its_error():
    with lab.Watch() as watch:
        client, server = watch.ends
        client.setblocking(False)
        lab.fill(client)
        client.settimeout(0.01)
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * 10_000_000)
        lab.reset(server)
    assert "0 send: EAGAIN" in acts(watch) and "0 send: ETIMEDOUT" in acts(watch)


def only_syns(sock):
    """Let only SYNs come to a listener: a filter that looks at the flags, in byte 13."""
    program = [(0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    filter_ = struct.pack("HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, clients.SO_ATTACH_FILTER, filter_)


def test_a_handshake():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with lab.Watch(socket.socket()) as watch:
            watch.ends[0].connect(listener.getsockname())
        assert watch.arrows() == ["→ SYN", "← SYN+ACK", "→ ACK"]
        assert acts(watch) == ["0 connect()"]


def test_a_handshake_whose_end_gets_lost():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        only_syns(listener)
        with lab.Watch(socket.socket()) as watch:
            (client,) = watch.ends
            client.connect(listener.getsockname())
            client.send(b"hello")
        assert watch.arrows() == ["→ SYN", "← SYN+ACK", "→ ACK ✕", "→ 5 bytes ✕"]
        assert [end.state for end in watch.looks[-1].ends] == ["ESTABLISHED", "SYN-RECV"]


def test_a_ghost():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        speaker, *_ = lab.crowd.ghosts(listener, 40)
        with lab.Watch(speaker) as watch:
            speaker.socket.send(b"hello")
            lab.until(lambda: lab.kernel.queues_of(speaker.socket)[1] == 5)
            listener.listen(64)
            lab.settled(speaker.socket)
    assert watch.arrows() == [
        "→ SYN ✕", "→ SYN", "← SYN+ACK", "→ ACK ✕",
        "→ 5 bytes ✕", "→ 5 bytes again", "← ACK",
    ]  # fmt: skip


def test_a_server_in_another_process(serving):
    with lab.serve(serving(SERVER)) as server, lab.connect(server) as client:
        with lab.Watch(client) as watch:
            acknowledge_late(client.socket)
            client.send(b"ask")
            while len(client.received) < 78:
                acknowledge_late(client.socket)
                client.receive()
            lab.settled(client.socket)
            client.reset()
            server.wait()
    assert [each for each in watch.arrows() if "ACK" not in each] == [
        "→ 3 bytes", "← 17 bytes", "← 61 bytes", "→ RST",
    ]  # fmt: skip
    assert "1 gives 78 bytes" in acts(watch)
    assert [(each.end, each.size) for each in watch.held()] == [(1, 61)]


def test_what_is_done_after_the_block_is_not_watched(watched):
    with watched as watch:
        pass
    client, server = watch.ends
    client.send(b"hello")
    client.close()
    server.close()
    assert watch.events() == []


def test_a_burst_is_one_segment_and_a_long_wait_has_its_length():
    events = [
        Act(1, 0, "send(5 bytes)"),
        Segment(1.0001, 0, "data", 0, 5),
        Segment(1.04, 1, "ACK", 1),
    ]
    placed, waits, rows = ladder._laid_out(events, with_acts=True)
    assert [row for row, _ in placed][:2] == [0, 0], "an act shares the row of its segment"
    (wait,) = waits
    assert wait.seconds == pytest.approx(0.0399) and wait.bottom - wait.top > 1
    assert placed[2][0] == wait.bottom and rows == wait.bottom + 1
    assert ladder._laid_out(events, with_acts=False)[0][0] == (0, events[1])


def test_the_picture_shows_what_was_found(watched):
    with watched as watch:
        _, server = hold_back(watch)
        lab.until(lambda: lab.kernel.unread(server) == 45)
    picture = ladder.diagram("A title", "An alternative", watch, ("A", "B"))
    assert picture.shows["arrows"] == watch.arrows() == ["→ 17 bytes", "← ACK", "→ 28 bytes"]
    assert picture.shows["acts"] == ["A: send(17 bytes)", "A: send(28 bytes)"]
    (held,), (wait,) = picture.shows["held back"], picture.shows["waits"]
    assert isinstance(held, Held) and math.isclose(wait, held.until - held.since, rel_tol=0.5)
    several = ladder.diagram("A title", "An alternative", {"one": watch, "other": watch})
    assert several.shows == {"one": watch.arrows(), "other": watch.arrows()}


def test_several_are_as_high_as_they_have_to_be():
    with lab.Watch() as short:
        lab.reset(short.ends[0])
    with lab.Watch() as long:
        for _ in range(3):
            long.ends[0].send(b"x")
            lab.settled(long.ends[0])
    found = {str(number): short for number in range(4)} | {"long": long}
    picture = ladder.diagram("A title", "An alternative", found)
    assert picture.shows["0"] == ["→ RST"] and len(picture.shows["long"]) == 6
    assert ladder._heights([1, 1, 1, 1, 6], 3) == [1, 6]


def test_what_the_counts_tell_of_a_handshake_is_drawn_before_the_states():
    """A ghost's handshake is over when the first look finds it."""
    counts = lab.kernel.Counts(2, 1, 0, 4, 1, 0, 0, 0, 0, 0)
    end = ladder.End("ESTABLISHED", counts, False)
    with lab.Watch() as watch:
        pass
    watch.looks = [ladder.Look(1.0, (end, ladder.End(None, None, False)), None)]
    assert watch.arrows() == ["→ SYN ✕", "→ SYN", "← SYN+ACK", "→ ACK ✕"]
    assert ladder.diagram("A title", "An alternative", watch).shows["waits"] == []
