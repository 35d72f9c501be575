"""Chapter 11's server: in whatever pieces requests come, and mixed with whose, is nothing to it.

The loop is fed by hand, without sockets and deadlines; hypothesis chooses requests and pieces, the
same in each run.
"""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_server_11_http import (
    ANSWERED,
    EXPECT,
    FIRST,
    HEAD,
    HOST,
    LAST,
    LENGTH,
    POST,
    REFUSED,
    SIZED,
    UNSIZED,
)

from conftest import KEPT
from stage import HARDENED, load

WHOLE = [*(each for each, _ in ANSWERED), *LAST, KEPT, SIZED, UNSIZED, HEAD]
WHOLE += [FIRST + HOST + EXPECT + LENGTH + b"\r\nhello", POST + EXPECT + LENGTH + b"\r\nhello"]
BROKEN = [each for each, _, _ in REFUSED]


def mutilated(request_, at, how):
    """Return a request with one byte at some place left out, doubled or made another."""
    at %= len(request_)
    middle = {"left out": b"", "doubled": request_[at : at + 1] * 2}.get(how, how)
    return request_[:at] + middle + request_[at + 1 :]


CHANGES = st.sampled_from(["left out", "doubled", b"\r", b"\n", b" ", b"\0", b":", b"\xff", b"0"])
MUTILATED = st.builds(mutilated, st.sampled_from(WHOLE), st.integers(0, 200), CHANGES)
SPOKEN = st.lists(
    st.one_of(st.sampled_from(WHOLE), st.sampled_from(WHOLE), st.sampled_from(BROKEN), MUTILATED),
    min_size=1,
    max_size=6,
).map(b"".join)
CUTS = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),  # the sizes of pieces, in turn
    st.just([1]),
    st.lists(st.integers(1, 400), min_size=1, max_size=3),
)


def cut(data, sizes):
    pieces = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    return pieces


class Wire:
    """In place of a client's socket: it takes one piece at a time, and all that is sent."""

    def __init__(self, number):
        self.number, self.piece, self.sent, self.ended = number, b"", b"", False

    def fileno(self):
        return self.number

    def recv(self, size):
        assert len(self.piece) <= size
        return self.piece

    def send(self, data):
        self.sent += data
        return len(data)

    def shutdown(self, how):
        self.ended = True


class Parsing:
    """A Loop of chapter 11's that is fed by hand, without epoll, and without a clock."""

    module = load(HARDENED)

    def __init__(self):
        seconds = self.module.SECONDS | {name: each for name, each, _ in self.module.DEADLINES}
        self.loop, self.number = self.module.Loop(None, None, seconds, 10), 1000

    def client(self):
        self.number += 1
        return self.module.Client(Wire(self.number))

    def feed(self, client, data):
        while data:
            client.socket.piece, data = (
                data[: self.module.TURN_BYTES],
                data[self.module.TURN_BYTES :],
            )
            self.loop.read(client)

    def verdict(self, client):
        """Return what a client has got but for dates, whether it has ended, and its phase."""
        assert not client.unsent
        got = re.sub(rb"Date: [^\r]*", b"Date:", client.socket.sent)
        return got, client.socket.ended, client.phase

    def close(self):
        self.loop.epoll.close()


def alone(pieces):
    parsing = Parsing()
    client = parsing.client()
    for piece in pieces:
        parsing.feed(client, piece)
    parsing.close()
    return parsing.verdict(client)


def test_the_same_is_answered_alike_whoever_has_asked_before():
    """By one loop, in any order: what it remembers of one is nothing to another."""
    parsing, requests = Parsing(), [*WHOLE, *BROKEN, *(each + KEPT for each in WHOLE)]
    due = {request: alone([request]) for request in requests}
    for request in [*requests, *reversed(requests), *requests]:
        client = parsing.client()
        parsing.feed(client, request)
        assert parsing.verdict(client) == due[request], request
        if not client.is_leaving and not client.request:
            parsing.feed(client, request)
            got, ended, phase = due[request]
            assert parsing.verdict(client) == (got * 2, ended, phase), request
    parsing.close()


deterministic = settings(
    derandomize=True,
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # the machine may have other things to do
)


@pytest.mark.parametrize("before", [b"", KEPT, SIZED, UNSIZED], ids=["", "GET", "sized", "chunked"])
def test_a_request_may_be_split_at_any_place(before):
    """Each of those that are accepted, and of those that are refused, alone and after another."""
    for request in [*WHOLE, *BROKEN]:
        data = before + request + KEPT
        due = alone([data])
        for at in range(max(1, len(before) - 5), len(before + request) + 1):
            assert alone([data[:at], data[at:]]) == due, (data[:at], data[at:])


@deterministic
@given(SPOKEN, CUTS)
def test_any_split_gives_the_same_answers(data, sizes):
    assert alone(cut(data, sizes)) == alone([data])


@deterministic
@given(st.lists(st.tuples(SPOKEN, CUTS), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_nobodys_bytes_get_into_anybody_elses_request(talks, chance):
    """Two or three clients of one loop, whose pieces come in any order."""
    parsing = Parsing()
    due = [(parsing.client(), cut(data, sizes)) for data, sizes in talks]
    left = [number for number, (_, pieces) in enumerate(due) for _ in pieces]
    chance.shuffle(left)
    places = [iter(pieces) for _, pieces in due]
    for number in left:
        parsing.feed(due[number][0], next(places[number]))
    parsing.close()
    for (client, _), (data, _) in zip(due, talks, strict=True):
        assert parsing.verdict(client) == alone([data])
