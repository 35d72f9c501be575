"""Chapter 11's server: each deadline, beside a clock of the test's own, and its end.

The loop runs in this process (stage.py): a minute takes no time, and is exact. What takes a process
of its own, and TCP, is in test_server_11_process.py.
"""

import gc
import random
import socket

import pytest

from conftest import CLOSING, KEPT
from stage import BIT, HARDENED, TICK, drips, fills, goes, load, stays

HOST = b"Host: localhost\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
IN = 1  # EPOLLIN


# Deadlines, alone


@pytest.fixture
def deadlines():
    return load(HARDENED).Deadlines()


class Timer:
    """Something that has a deadline, and that nobody has put anywhere."""

    def __init__(self, due):
        self.due, self.seen = due, float("inf")


def test_a_deadline_is_seen_to_never_early_and_at_most_a_tick_late(deadlines):
    chance = random.Random(11)
    for due in [0.0, 0.25, 0.3, 1e6, *(chance.uniform(0, 1e5) for _ in range(1000))]:
        who = Timer(due)
        deadlines.put(who)
        assert due < who.seen <= due + TICK
        assert deadlines.over(due) == []
        assert deadlines.seconds_left(due) == pytest.approx(who.seen - due)
        assert deadlines.over(due + TICK) == [who]
        assert deadlines.seconds_left(due) is None


def test_who_has_put_off_its_deadline_is_put_where_it_is_now(deadlines):
    who = Timer(10)
    deadlines.put(who)
    who.due = 20
    deadlines.put(who)  # later: no reason to do anything
    assert deadlines.seconds_left(10) == TICK
    assert deadlines.over(10 + TICK) == []
    assert deadlines.seconds_left(10 + TICK) == 10
    assert deadlines.over(20 + TICK) == [who]


def test_who_has_brought_it_forward_is_seen_sooner_and_once(deadlines):
    who = Timer(20)
    deadlines.put(who)
    who.due = 5
    deadlines.put(who)
    assert deadlines.seconds_left(0) == 5 + TICK
    assert deadlines.over(5 + TICK) == [who]
    assert deadlines.over(100) == [] and not deadlines.ticks


def test_who_is_taken_out_is_not_seen_any_more(deadlines):
    gone, stays = Timer(10), Timer(10)
    for who in (gone, stays):
        deadlines.put(who)
    deadlines.remove(gone)
    deadlines.remove(gone)
    assert deadlines.over(100) == [stays] and not deadlines.ticks


def test_all_that_are_over_are_returned_however_late_it_is(deadlines):
    timers = [Timer(number / 10) for number in range(100)]
    for who in random.Random(11).sample(timers, 100):
        deadlines.put(who)
    early, late = (
        {who for who in timers if (who.seen <= 5) is is_early} for is_early in (True, False)
    )
    assert early and set(deadlines.over(5)) == early
    assert late and set(deadlines.over(100)) == late
    assert deadlines.seconds_left(100) is None


def test_ten_thousand_are_kept_by_tick_and_not_each_by_its_own(deadlines):
    """What poll's timeout needs does not depend on how many there are."""
    for number in range(10_000):
        deadlines.put(Timer(60 + number / 10_000))
    assert len(deadlines.ticks) <= 5
    assert deadlines.seconds_left(0) == 60 + TICK


def test_an_answered_request_moves_nobody(played):
    """For eight minutes, beside a hundred who wait; the loop wakes for requests alone."""

    @played(200, idle=600)
    def one(one, peer):
        others = [one.connect() for _ in range(100)]
        yield 0
        seen = {client: client.seen for client in one.loop.clients.values()}
        for _ in range(500):
            peer.send(KEPT)
            yield 1
            peer.take()
        assert len(peer.take()) == 500
        assert seen == {client: client.seen for client in one.loop.clients.values()}
        assert len(seen) == 1 + len(others)

    assert one.wakes == 0


# Deadlines, each


def test_who_never_asks_is_dropped_after_a_minute(played):
    @played()
    def _(one, peer):
        yield from stays(60, peer)
        yield from goes(peer)
        assert peer.received == b"" and one.clients() == 0


def test_an_answer_begins_the_minute_anew(played):
    @played()
    def _(one, peer):
        yield 50
        peer.send(KEPT)
        yield from stays(60, peer)
        yield from goes(peer)
        assert peer.take() == [200]


def test_empty_lines_do_not_put_off_the_end(played):
    @played()
    def _(one, peer):
        yield 0
        yield from drips(one, peer, b"\r\n", 60 - BIT)
        yield from goes(peer)
        assert peer.received == b""


@pytest.mark.parametrize("before", [b"", KEPT, POST + b"Content-Length: 5\r\n\r\nhello"])
def test_a_header_that_drips_has_ten_seconds_from_its_first_byte(played, before):
    @played()
    def _(one, peer):
        yield 33
        peer.send(before + b"GET /")
        yield 0
        yield from drips(one, peer, b"x", 10 - BIT)
        peer.take()
        yield from goes(peer)
        assert peer.take()[-1] == 408 and b"\r\nConnection: close\r\n" in peer.received
        peer.send(b"x" * 20_000)  # on time no more
        yield 1.5
        assert one.clients() == 1
        yield 1
        assert one.clients() == 0


BODIES = [POST + b"Content-Length: 100\r\n\r\n", CHUNKED + b"64\r\n", CHUNKED + b"0\r\nX: "]


@pytest.mark.parametrize("request_", BODIES)
def test_a_body_that_drips_has_half_a_minute_from_its_header_on(played, request_):
    @played()
    def _(one, peer):
        peer.send(request_[:9])
        yield 9
        peer.send(request_[9:])
        yield 0
        yield from drips(one, peer, b"x", 30 - BIT)
        yield from goes(peer)
        assert peer.take() == [408]


def test_a_body_that_one_is_told_to_send_has_half_a_minute_too(played):
    @played()
    def _(one, peer):
        peer.send(
            b"GET / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        )
        yield 0
        yield from drips(one, peer, b"x", 8.5)
        yield from stays(21.5, peer)
        yield from goes(peer)
        assert peer.take() == [100, 408]


def test_who_takes_nothing_of_its_answers_is_dropped_after_half_a_minute(played):
    @played()
    def _(one, peer):
        yield from fills(peer)
        yield 30 - BIT
        assert one.clients() == 1
        yield TICK + 2 * BIT
        assert one.clients() == 0


def test_who_takes_some_has_half_a_minute_again(played):
    @played()
    def _(one, peer):
        yield 0
        (client,) = one.loop.clients.values()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        peer.send(KEPT * 230)
        yield 0
        for _ in range(4):
            left = len(client.unsent)
            yield 29
            peer.take()
            yield 0
            assert 0 < len(client.unsent) < left
        yield 30 - BIT
        assert one.clients() == 1
        yield TICK + 2 * BIT
        assert one.clients() == 0


def test_who_takes_all_at_last_is_read_from_again(played):
    @played()
    def _(one, peer):
        sent = 0
        while more := peer.flood(KEPT):
            sent += more
            yield 0
        for _ in range(100):
            peer.take()
            yield 0
        peer.send(KEPT[sent % len(KEPT) :])
        yield 0
        assert one.waits_for()[next(iter(one.loop.clients))] == IN
        assert peer.take() == [200] * (sent // len(KEPT) + 1)
        yield from stays(60, peer)
        yield from goes(peer)


def test_the_farewell_is_two_seconds_whatever_is_sent(played):
    @played()
    def _(one, peer):
        peer.send(CLOSING)
        yield 0
        assert peer.take() == [200] and peer.ended  # its end is there at once
        for _ in range(19):
            peer.send(KEPT)
            yield 0.1
        assert one.clients() == 1
        yield 0.1 + TICK + BIT
        assert one.clients() == 0 and peer.take() == [200]


def test_who_leaves_is_let_go_at_once(played):
    @played()
    def _(one, peer):
        half = one.connect()
        half.send(KEPT[:9])
        peer.send(CLOSING)
        yield 0
        for each in (peer, half):
            each.socket.close()
        yield 0
        assert one.clients() == 0 and not any(one.loop.deadlines.ticks.values())


def test_who_has_acted_in_time_is_not_given_up_unseen(played):
    """More than one poll returns have asked when it looks again, all deadlines over."""

    @played(2000)
    def _(one, peer):
        peers = [one.connect() for _ in range(1500)]
        halves = set(peers[::3])
        for half in halves:
            half.send(KEPT[:9])
        yield 0
        for each in peers:
            each.send(KEPT[9:] if each in halves else KEPT)
        one.now += 61
        yield 0
        assert [each.take() for each in peers] == [[200]] * 1500
        yield 0.5
        assert peer.take() == [] and peer.ended and one.clients() == 1500


# After SIGTERM


def test_nobody_there_it_ends_at_once(stage):
    one = stage()

    def script():
        yield 5
        one.signal()
        yield 0
        raise AssertionError("it goes on")

    assert one.play(script())


def test_who_is_idle_may_ask_once_more(played):
    @played()
    def one(one, peer):
        silent = one.connect()
        peer.send(KEPT)
        yield 10
        one.signal()
        yield from stays(1, silent, peer)
        peer.send(KEPT + KEPT)
        yield from goes(silent, peer)
        assert (silent.received, peer.take()) == (b"", [200, 200])
        assert peer.received.count(b"\r\nConnection: close\r\n") == 1
        peer.socket.close()
        yield 0
        raise AssertionError("nobody is left")

    assert one.has_ended and one.clients() == 0


def test_who_waits_in_the_queue_is_let_in_and_nobody_afterwards(stage):
    """Three turns of newcomers are there when the signal comes, all unseen."""
    one = stage(1000)

    def script():
        yield 0
        peers = [one.connect() for _ in range(200)]
        for peer in peers:
            peer.send(KEPT)
        one.signal()
        yield 0
        assert [(peer.take(), peer.ended) for peer in peers] == [([200], True)] * 200
        with pytest.raises(ConnectionRefusedError):
            one.connect()
        for peer in peers:
            peer.socket.close()
        yield 0

    assert one.play(script())


def test_what_is_half_asked_is_answered_when_it_is_whole(played):
    @played()
    def one(one, peer):
        sized = one.connect()
        peer.send(KEPT[:20])
        sized.send(POST + b"Content-Length: 5\r\n\r\nhe")
        yield 0
        one.signal()
        yield 5
        peer.send(KEPT[20:] + KEPT)
        sized.send(b"llo" + KEPT)
        yield 0
        assert [(each.take(), each.ended) for each in (peer, sized)] == [
            ([200], True),
            ([405], True),
        ]
        yield 2 + TICK

    assert one.has_ended


def test_what_is_half_answered_is_answered_to_its_end(played):
    """What it has not read yet it does not answer; but the last that it says is a whole answer."""

    @played()
    def one(one, peer):
        yield from fills(peer)
        one.signal()
        while not peer.ended:
            yield 1
            before = len(peer.received)
            peer.take()
            assert len(peer.received) > before
        assert peer.received.endswith(b"Hello, world!")
        peer.socket.close()
        yield 0

    assert one.has_ended


def test_after_half_a_minute_it_ends_all_the_same(played):
    @played(header=1000)
    def one(one, peer):
        peer.send(KEPT[:9])
        yield 1
        one.signal()
        yield from stays(30, peer)
        yield TICK + 2 * BIT
        raise AssertionError("it goes on")

    assert one.has_ended and one.clients() == 1


@pytest.mark.parametrize("pause", [0, 1])
def test_a_second_signal_ends_it_at_once(played, pause):
    @played()
    def one(one, peer):
        peer.send(KEPT[:9])
        yield 0
        one.signal()
        if pause:
            yield pause
            assert one.clients() == 1
        one.signal()
        yield 0
        raise AssertionError("it goes on")

    assert one.has_ended


# Nothing stays


def test_whoever_leaves_however_leaves_no_object(stage):
    """Nor a deadline; without the garbage collector, which comes when it likes."""
    one = stage(5000, idle=100)
    request = one.module.Request

    def script():
        kinds = [
            b"",
            b"\r\n",
            KEPT,
            KEPT[:9],
            KEPT + KEPT[:9],
            CLOSING,
            b"BREW\r\n",
            POST[:-3] + b"\r\n\r\n",
        ]
        kinds += [POST + b"Content-Length: 9\r\n\r\nhe", POST + b"Content-Length: 2000000\r\n\r\n"]
        kinds += [KEPT[:-2] + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", KEPT + CLOSING]
        for seconds in (0, 0, 11, 31, 101):
            for _ in range(50):
                peers = [one.connect() for _ in kinds]
                for peer, asked in zip(peers, kinds, strict=True):
                    peer.send(asked)
                yield 0
                if not seconds:
                    for peer in peers:
                        peer.socket.close()
                    one.peers.clear()
                    yield 0
            yield seconds
            yield 31  # those that got an answer late
            for peer in one.peers:
                peer.socket.close()
            one.peers.clear()
            yield 0.5
            assert one.clients() == 0 and not any(one.loop.deadlines.ticks.values())
            assert len(one.loop.deadlines.ticks) <= 500
            there = [each for each in gc.get_objects() if type(each) is request]
            assert len(there) <= 10, f"{len(there)} requests are left, of hundreds"

    gc.collect()
    gc.disable()
    try:
        one.play(script())
    finally:
        gc.enable()
