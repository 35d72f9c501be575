"""Chapter 11's server: errors of accept, and each limit, in the process of the test (stage.py)."""

import contextlib
import errno
import os
import socket

import pytest

from conftest import CLOSING, KEPT
from stage import BIT, TICK, feeds, fills, stays

HOST = b"Host: localhost\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
IN, OUT = 1, 4  # EPOLLIN, EPOLLOUT


# Errors of accept


class Unlucky:
    """A listener whose accept raises errors first, one after another, each for one newcomer."""

    def __init__(self, listener, *errors):
        self.listener, self.errors = listener, [*errors]
        self.fileno, self.setblocking = listener.fileno, listener.setblocking
        self.close = listener.close

    def accept(self):
        if self.errors:
            number = self.errors.pop(0)
            if number not in SCARCE:  # the newcomer is lost with it, accept(2)
                self.listener.accept()[0].close()
            raise OSError(number, os.strerror(number))
        return self.listener.accept()


SCARCE = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
OWN = ["ECONNABORTED", "EPROTO", "EPERM", "EINTR", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN"]
OWN += ["ENONET", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH", "ETIMEDOUT", "ECONNRESET"]


@pytest.fixture
def unlucky(stage):
    def unlucky(*errors, **seconds):
        one = stage(**seconds)
        one.loop.listener = Unlucky(one.listener, *errors)
        return one

    return unlucky


@pytest.mark.parametrize("number", SCARCE, ids=errno.errorcode.get)
def test_what_is_scarce_shuts_the_door_for_a_second(unlucky, number):
    one = unlucky(number)

    def script():
        yield 0
        peer = one.connect()
        peer.send(KEPT)
        yield 0
        assert one.waits_for()[one.listener.fileno()] == 0
        yield 1 - BIT
        assert peer.take() == [] and one.wakes == 0
        yield TICK + 2 * BIT
        assert peer.take() == [200] and one.waits_for()[one.listener.fileno()] == IN

    one.play(script())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM], ids=errno.errorcode.get)
def test_who_can_not_be_watched_is_not_let_in(stage, number):
    """A user may watch so many descriptors only, epoll(7): max_user_watches."""
    one = stage()

    def script():
        yield 0
        register = one.register

        def refuse(fd, events):
            one.register = register
            raise OSError(number, os.strerror(number))

        one.register = refuse
        peer = one.connect()
        yield 0
        peer.take()
        assert peer.ended and one.clients() == 0
        other = one.connect()
        other.send(KEPT)
        yield 1 - BIT
        assert other.take() == []
        yield TICK + 2 * BIT
        assert other.take() == [200]

    one.play(script())


def test_while_it_is_scarce_the_door_is_tried_once_a_second(unlucky):
    one = unlucky(*[errno.EMFILE] * 5)

    def script():
        yield 0
        peer = one.connect()
        peer.send(KEPT)
        yield 5
        assert peer.take() == [] and one.wakes <= 5
        yield 5 * TICK
        assert peer.take() == [200]

    one.play(script())


def test_when_somebody_leaves_the_door_opens_at_once(unlucky):
    one = unlucky()

    def script():
        first = one.connect()
        yield 0
        one.loop.listener.errors.append(errno.EMFILE)
        peer = one.connect()
        peer.send(KEPT)
        yield 0.1
        assert peer.take() == []
        first.socket.close()
        yield 0
        assert peer.take() == [200]
        yield 5
        assert one.wakes <= 1 and one.waits_for()[one.listener.fileno()] == IN

    one.play(script())


@pytest.mark.parametrize("name", OWN)
def test_what_is_one_newcomers_own_shuts_nothing(unlucky, name):
    one = unlucky(*[getattr(errno, name)] * 3)

    def script():
        yield 0
        peers = [one.connect() for _ in range(4)]
        for peer in peers:
            with contextlib.suppress(BrokenPipeError):
                peer.send(KEPT)
        yield 0
        assert [peer.take() for peer in peers] == [[], [], [], [200]]
        assert one.now == 1000

    one.play(script())


@pytest.mark.parametrize("name", ["EBADF", "EINVAL", "ENOTSOCK"])
def test_a_listener_that_is_none_any_more_is_an_error(unlucky, name):
    one = unlucky(getattr(errno, name))

    def script():
        one.connect()
        yield 0

    with pytest.raises(OSError) as raised:
        one.play(script())
    assert raised.value.errno == getattr(errno, name)


def test_a_pause_does_not_outlive_the_listener(unlucky):
    one = unlucky()

    def script():
        peer = one.connect()
        peer.send(KEPT[:9])
        yield 0
        one.loop.listener.errors.append(errno.EMFILE)
        one.connect()
        yield 0.5
        assert one.waits_for()[one.listener.fileno()] == 0
        one.signal()
        yield 5
        peer.send(KEPT[9:])
        yield 0
        assert peer.take() == [200] and peer.ended

    one.play(script())


# Limits of what is kept


def long_header(size, start=b"GET / HTTP/1.1\r\n" + HOST, filler=b"y"):
    """Make a whole request header of so many bytes."""
    start += b"X: "
    times = (size - len(start) - 4) // len(filler)
    middle = filler * times
    return start + middle + b"y" * (size - len(start) - len(middle) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("filler", [b"y", b"\r\nX: y", b"y\r\nX: " + b"z" * 5000])
def test_a_header_of_16384_bytes_passes_and_one_more_does_not(played, filler):
    @played()
    def _(one, peer):
        more, split = one.connect(), one.connect()
        yield from feeds(peer, long_header(16_384, filler=filler) + KEPT)
        yield from feeds(more, long_header(16_385, filler=filler) + KEPT)
        for byte in range(0, 16_385, 1000):
            split.send(long_header(16_385, filler=filler)[byte : byte + 1000])
            yield 0
        assert (peer.take(), peer.ended) == ([200, 200], False)
        assert (more.take(), more.ended) == ([431], True)
        assert (split.take(), split.ended) == ([431], True)


@pytest.mark.parametrize("before", [1, 100, 234, 235, 1000])
def test_a_later_header_is_allowed_as_much_and_at_most_a_turn_more(played, before):
    @played()
    def _(one, peer):
        other = one.connect()
        yield from feeds(peer, KEPT * before + long_header(16_384) + KEPT)
        yield from feeds(other, KEPT * before + long_header(16_384 + 8193))
        assert (len(peer.take()), peer.ended) == (before + 2, False)
        assert (other.take()[-1], other.ended) == (431, True)


def test_a_header_after_trailers_is_allowed_as_much(played):
    @played()
    def _(one, peer):
        trailer = b"0\r\nX: " + b"y" * 10_000 + b"\r\n\r\n"
        yield from feeds(peer, CHUNKED + trailer + long_header(16_384))
        assert (peer.take(), peer.ended) == ([405, 200], False)


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", KEPT[:-2], b"GET / HTTP/1."])
def test_a_line_without_end_is_refused(played, start):
    @played()
    def _(one, peer):
        yield from feeds(peer, start + b"1" * 100_000)
        assert (peer.take(), peer.ended) == ([400 if start.endswith(b".") else 431], True)


def test_empty_lines_without_end_are_not_kept(played):
    @played()
    def _(one, peer):
        yield from feeds(peer, b"\r\n" * 50_000)
        (client,) = one.loop.clients.values()
        assert client.request is None and not peer.ended
        peer.send(long_header(16_384))
        yield 0
        assert peer.take() == [200]


def test_empty_lines_of_one_client_take_no_room_from_another(played):
    """The parser that newcomers get is the same until one has begun a request."""

    @played()
    def _(one, peer):
        others = [one.connect() for _ in range(3)]
        yield 0
        for other in others:
            other.send(b"\r\n" * 3500)
            yield 0
        yield from feeds(peer, long_header(16_384))
        assert peer.take() == [200] and not any(other.take() for other in others)


def chunks(size, total):
    """Make a body of so many bytes, in chunks of some size; without its end."""
    whole, rest = divmod(total, size)
    last = b"%x\r\n%b\r\n" % (rest, b"z" * rest) if rest else b""
    return b"%x\r\n%b\r\n" % (size, b"z" * size) * whole + last


def test_a_body_of_a_million_bytes_passes_and_one_more_does_not(played):
    @played()
    def _(one, peer):
        more = one.connect()
        for _ in range(2):  # the second is allowed as much
            yield from feeds(peer, POST + b"Content-Length: 1000000\r\n\r\n" + b"z" * 1_000_000)
        yield from feeds(peer, long_header(16_384))
        yield from feeds(more, POST + b"Content-Length: 1000001\r\n\r\n")
        assert (peer.take(), peer.ended) == ([405, 405, 200], False)
        assert (more.take(), more.ended) == ([413], True)


@pytest.mark.parametrize("size", [1, 7, 8192, 1_000_000, 1_000_001])
def test_a_body_in_chunks_may_have_as_many_whatever_frames_them(played, size):
    @played()
    def _(one, peer):
        more = one.connect()
        yield from feeds(peer, CHUNKED + chunks(size, 1_000_000) + b"0\r\n\r\n" + KEPT)
        yield from feeds(more, CHUNKED + chunks(size, 1_000_001))
        assert (peer.take(), peer.ended) == ([405, 200], False)
        assert (more.take(), more.ended) == ([413], True)


ENDLESS = [b"5;" + b"x" * 50_000, b"0\r\nX: " + b"y" * 50_000, b"0\r\n" + b"X: y\r\n" * 7000]
ENDLESS += [b"0\r\n" + b"Expect: x\r\n" * 4000, b"0\r\n" + b"Host: y\r\n" * 4000, b"0" * 50_000]


@pytest.mark.parametrize("piece", ENDLESS)
@pytest.mark.parametrize("before", [b"", b"1\r\nz\r\n"])
def test_what_is_no_byte_of_a_body_may_take_as_much_as_a_header(played, before, piece):
    """Extensions, trailers and sizes of chunks, of which none is kept for half a minute."""

    @played()
    def _(one, peer):
        more = one.connect()
        yield from feeds(peer, CHUNKED + before + piece[:16_300])
        yield from feeds(more, CHUNKED + before + piece[: 16_384 + 8192])
        assert (peer.take(), peer.ended) == ([], False)
        assert (more.take(), more.ended) == ([431], True)


def test_after_the_last_answer_sixteen_megabytes_are_read_and_no_more(played):
    @played()
    def _(one, peer):
        yield from feeds(peer, CLOSING + b"z" * 15_990_000)
        assert one.clients() == 1 and peer.take() == [200]
        with pytest.raises(OSError):
            yield from feeds(peer, b"z" * 1_000_000)
        assert one.clients() == 0 and one.now == 1000


def test_who_does_not_read_is_not_read_from(played):
    """Back-pressure: what is unsent is bounded by a turn, and the others are served."""

    @played(write=1000)
    def _(one, peer):
        yield 0
        (client,) = one.loop.clients.values()
        yield from fills(peer)
        assert one.waits_for()[client.fd] == OUT
        unsent = len(client.unsent)
        assert 0 < unsent < 100_000
        with pytest.raises(BlockingIOError):
            peer.send(KEPT)
        other = one.connect()
        for _ in range(10):
            other.send(KEPT)
            yield 10
        assert len(other.take()) == 10 and len(client.unsent) == unsent
        assert one.wakes <= 3, "it spins"


def test_who_reads_slowly_is_read_from_when_it_has_taken_all(played):
    """Otherwise more and more would be unsent, a turn of requests for each bit that it takes."""

    @played()
    def _(one, peer):
        yield 0
        (client,) = one.loop.clients.values()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        unsent = []
        for _ in range(200):
            peer.flood(KEPT)
            yield 1
            peer.take()
            unsent.append(len(client.unsent))
        assert max(unsent) < 8192 // len(KEPT) * 150 and len(peer.take()) > 1000


# Limits of a turn


def test_one_that_pipelines_without_pause_leaves_room_for_another(played):
    """Between two turns of his another one has his, each of at most 8192 bytes."""

    @played()
    def _(one, peer):
        other = one.connect()
        yield 0
        turns, answer = [], one.loop.answer
        one.loop.answer = lambda request: turns.append(request.client.fd) or answer(request)
        peer.flood(KEPT * 100)
        for _ in range(3):
            other.send(KEPT)
            before = len(turns)
            ready = one.epoll.poll(0)
            for fd, _ in ready:
                one.loop.serve(fd)
            assert len(ready) == 2 and len(turns) - before <= 8192 // len(KEPT) + 2
            assert turns.count(turns[0]) < len(turns)
            peer.take()
        assert len(other.take()) == 3


def test_newcomers_without_end_leave_room_for_those_who_are_there(played):
    @played(1000)
    def _(one, peer):
        yield 0
        there, answer = [], one.loop.answer
        one.loop.answer = lambda request: there.append(one.clients()) or answer(request)
        many = [one.connect() for _ in range(500)]
        peer.send(KEPT)
        yield 0
        assert peer.take() == [200] and there[0] <= 1 + 64
        assert one.clients() == 1 + len(many)


# The limit of clients


def test_who_is_one_too_many_waits_and_is_served_when_one_leaves(played):
    @played(3)
    def _(one, peer):
        others = [peer, one.connect(), one.connect()]
        yield 0
        waiting = [one.connect() for _ in range(3)]
        for each in waiting:
            each.send(KEPT)
        yield 0
        assert one.clients() == 3 and one.waits_for()[one.listener.fileno()] == 0
        yield 10
        assert one.wakes == 0, "it spins"
        for number, leaver in enumerate(others):
            leaver.socket.close()
            yield 0
            assert [len(each.take()) for each in waiting] == [1] * (number + 1) + [0] * (2 - number)
            assert one.clients() == 3
        for each in waiting:
            each.socket.close()
        yield 0
        assert one.waits_for()[one.listener.fileno()] == IN


def test_who_is_too_long_there_makes_room(played):
    @played(1)
    def _(one, peer):
        yield 0
        waiting = one.connect()
        waiting.send(KEPT)
        yield 60 - BIT
        assert waiting.take() == []
        yield TICK + 2 * BIT
        assert waiting.take() == [200]


def test_with_all_places_taken_sigterm_ends_it_in_order(played):
    @played(1)
    def one(one, peer):
        yield 0
        one.connect()
        yield 0
        one.signal()
        yield from stays(1, peer)
        yield TICK + 2 * BIT
        raise AssertionError("nobody is left")

    assert one.has_ended


# A false alarm


def test_an_event_for_nothing_harms_nobody(played):
    """As one is that was meant for a client who has left, and whose number another has got."""

    @played()
    def _(one, peer):
        peer.send(KEPT[:9])
        yield 0
        for fd in [*one.loop.clients, 12_345]:
            one.loop.serve(fd)
        peer.send(KEPT[9:])
        yield 0
        assert peer.take() == [200] and one.clients() == 1


def test_an_error_ends_one_connection(played):
    @played()
    def _(one, peer):
        gone = one.connect()
        yield from fills(gone)
        gone.socket.shutdown(socket.SHUT_RD)
        gone.socket.close()
        yield 0
        peer.send(KEPT)
        yield 0
        assert one.clients() == 1 and peer.take() == [200]


def test_a_mistake_of_our_own_is_no_mistake_of_the_clients(played):
    """What a callback raises that is no refusal is not answered with 400."""

    def script(one, peer):
        one.loop.answer = lambda request: 1 / 0
        peer.send(KEPT)
        yield 0

    with pytest.raises(Exception) as raised:
        played()(script)
    assert isinstance(raised.value.__context__, ZeroDivisionError)
