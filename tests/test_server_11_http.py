"""Chapter 11's server as a speaker of HTTP/1.1: what it answers, what it refuses, and in order.

The loop runs in this process, beside a script (stage.py): what a client sends is read at
once. What is asked of it stands in RFC 9110 (HTTP) and RFC 9112 (HTTP/1.1).
"""

import calendar
import email.utils
import socket
import time
from types import SimpleNamespace

import pytest

import lab
from conftest import CLOSING, KEPT
from stage import HARDENED, statuses
from survive.clients import parse_answers

HOST = b"Host: localhost\r\n"
FIRST = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HEAD = KEPT.replace(b"GET", b"HEAD")
EXPECT = b"Expect: 100-continue\r\n"
SIZED, UNSIZED = POST + b"Content-Length: 5\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"


@pytest.fixture
def ask(stage):
    """A function that sends pieces, each of which is read alone; returns the Peer, all taken."""

    def ask(*pieces):
        each = stage()
        peer = each.connect()

        def script():
            yield 0
            for piece in pieces:
                peer.send(piece)
                yield 0
            peer.take()

        each.play(script())
        return peer

    return ask


def header(answer):
    """Return the header of the first answer in raw bytes: {lower-case name: value}."""
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(": ") for line in lines)}


# What it answers

ANSWERED = [  # request, statuses; the connection is kept
    (KEPT, [200]),
    (b"GET /any/path?x=y HTTP/1.1\r\nhOST:localhost\r\n\r\n", [200]),
    (b"GET http://elsewhere/x HTTP/1.1\r\n" + HOST + b"\r\n", [200]),  # 9112, 3.2.2
    (b"GET https://[::1]?x HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", [405]),  # 9112, 3.2.4
    (FIRST + b"Host:\r\n\r\n", [200]),  # 9112, 3.2: without an authority it is empty
    (FIRST + b"Host: [::1]:8080\r\n\r\n", [200]),
    (FIRST + b"Host: \t localhost \t \r\n\r\n", [200]),  # 9112, 5.1: OWS
    (FIRST + HOST + b"X: caf\xe9 \xff\r\n\r\n", [200]),  # 9110, 5.5: obs-text
    (FIRST + HOST + b"X:\r\nX: a\tb\r\n\r\n", [200]),
    (FIRST + HOST + b"!#$%&'*+-.^_`|~: token\r\n\r\n", [200]),  # 9110, 5.6.2
    (b"\r\n\r\n" + KEPT, [200]),  # 9112, 2.2
    (FIRST + HOST + b"Connection: keep-alive\r\n\r\n", [200]),
    (FIRST + HOST + b"Connection: closed, Closer\r\n\r\n", [200]),
    (POST + b"\r\n", [405]),  # 9112, 6.3: no length, no body
    (SIZED, [405]),
    (POST + b"Content-Length: 0\r\n\r\n", [405]),
    (POST + b"Content-Length: \t 00005 \r\n\r\nhello", [405]),
    (FIRST + HOST + b"Content-Length: 5\r\n\r\nhello", [200]),  # 9110, 9.3.1: a body of GET
    (UNSIZED, [405]),
    (FIRST + HOST + b"Transfer-Encoding: ChunKed\r\n\r\n0\r\n\r\n", [200]),
    (CHUNKED + b'5;a;b=c;d="e;f"\r\nhello\r\n0;x\r\n\r\n', [405]),  # 9112, 7.1.1
    (CHUNKED + b"005\r\nhello\r\nA\r\n0123456789\r\nb\r\n0123456789-\r\n000\r\n\r\n", [405]),
    (CHUNKED + b"0\r\nX: y\r\nHost: other\r\n\r\n", [405]),  # 9112, 7.1.2: trailers
    (CHUNKED + b"0\r\nHost: no host\r\nExpect: x\r\n\r\n", [405]),  # which tell nothing
    *((method + KEPT[3:], [405]) for method in (b"PUT", b"DELETE", b"TRACE", b"PATCH", b"OPTIONS")),
    (b"PROPFIND" + KEPT[3:], [501]),
]


@pytest.mark.parametrize(("request_", "expected"), ANSWERED)
def test_what_is_answered(ask, request_, expected):
    """In the order asked, and the connection stays: none of it is taken for another request."""
    peer = ask(request_ + KEPT, KEPT)
    assert (peer.take(), peer.ended) == ([*expected, 200, 200], False)
    assert b"Connection:" not in peer.received


def test_leading_zeros_without_end_are_a_number_all_the_same(ask):
    """Python's int() reads no more than 4,300 digits."""
    peer = ask(POST + b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\nhello" + KEPT)
    assert (peer.take(), peer.ended) == ([405, 200], False)


def test_the_answer_has_thirteen_bytes_a_length_a_type_and_a_date(ask):
    raw = ask(KEPT).received
    said = header(raw)
    date = email.utils.parsedate(said.pop("date"))
    assert abs(calendar.timegm(date) - time.time()) < 5
    assert said == {"content-length": "13", "content-type": "text/plain"}
    assert raw.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
    assert raw.partition(b"\r\n\r\n")[2] == b"Hello, world!"


def test_head_is_told_what_get_would_be_and_gets_no_body(ask):
    """RFC 9110, 9.3.2."""
    get, head = ask(KEPT).received, ask(HEAD).received
    assert head.endswith(b"\r\n\r\n")
    told, due = header(head), header(get)
    assert told.pop("date") and due.pop("date") and told == due


def test_a_head_among_others_does_not_shift_them(ask):
    peer = ask(KEPT + HEAD + KEPT + HEAD.replace(b"/ ", b"* ") + KEPT)
    assert (peer.take(), peer.ended) == ([200, 200, 200, 400], True)
    assert peer.received.count(b"Hello, world!") == 2
    assert peer.received.endswith(b"\r\n\r\n")


def test_who_asks_for_something_else_is_told_what_is_allowed(ask):
    """RFC 9110, 15.5.6: Allow. An answer without a body says so."""
    said = header(ask(SIZED).received)
    assert said.pop("date") and said == {"content-length": "0", "allow": "GET, HEAD"}


def test_the_date_is_not_older_than_a_second(stage):
    one = stage()
    peer = one.connect()
    clock = SimpleNamespace(formatdate=lambda usegmt: f"{one.now:.2f} {usegmt}")
    one.module.email = SimpleNamespace(utils=clock)

    def script():
        for seconds in (0, 0.5, 0.75, 0.5, 0.5, 10):
            yield seconds
            for request_, status in ((KEPT, 200), (HEAD, 200), (SIZED, 405)):
                peer.received = b""
                peer.send(request_)
                yield 0
                assert peer.take() == [status]
                date, usegmt = header(peer.received)["date"].split()
                assert one.now - 1 <= float(date) <= one.now and usegmt == "True"

    one.play(script())


# What it refuses

LENGTH, CODED = b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"
REFUSED = [  # what is sent, status, the section of RFC 9112 where no other is named
    (POST + LENGTH + LENGTH + b"\r\nhello", 400, "6.3: MAY reject"),
    (POST + LENGTH + b"Content-Length: 6\r\n\r\nhello!", 400, "6.3"),
    (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400, "6.3: MAY reject"),
    (POST + b"Content-Length: 5, 6\r\n\r\nhello!", 400, "6.3"),
    (POST + b"Content-Length: -5\r\n\r\nhello", 400, "6.2"),
    (POST + b"Content-Length: +5\r\n\r\nhello", 400, "6.2"),
    (POST + b"Content-Length: 0x5\r\n\r\nhello", 400, "6.2"),
    (POST + b"Content-Length: 5 5\r\n\r\nhello", 400, "6.2"),
    (POST + b"Content-Length: 5x\r\n\r\nhello", 400, "6.2"),
    (POST + b"Content-Length:\r\n\r\n", 400, "6.2"),
    (POST + b"Content-Length: 18446744073709551621\r\n\r\nhello", 400, "6.2: overflow"),
    (POST + LENGTH + CODED + b"\r\n0\r\n\r\n", 400, "6.1: MAY reject"),
    (POST + CODED + LENGTH + b"\r\n0\r\n\r\n", 400, "6.1: MAY reject"),
    (POST + CODED + CODED + b"\r\n0\r\n\r\n", 400, "6.1: chunked once"),
    (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, "6.1: chunked once"),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "6.1: unknown coding"),
    (POST + b"Transfer-Encoding: gzip\r\n" + CODED + b"\r\n0\r\n\r\n", 501, "6.1; 9110, 5.3"),
    (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, "6.1"),
    (POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501, "6.1"),
    (POST + b"Transfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n", 501, "6.1"),
    (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400, "6.3: not chunked at last"),
    (POST + CODED + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400, "6.3"),
    (POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400, "6.3"),
    (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "5.5"),
    (POST.replace(b"1.1", b"1.0") + CODED + b"\r\n0\r\n\r\n", 400, "6.1: faulty framing"),
    (FIRST + HOST + b"X: a\r\n b\r\n\r\n", 400, "5.2: obs-fold"),
    (FIRST + HOST + b"X: a\r\n\tb\r\n\r\n", 400, "5.2: obs-fold"),
    (FIRST + HOST + b"X: a\rb\r\n\r\n", 400, "2.2: bare CR"),
    (b"GET /\rx HTTP/1.1\r\n" + HOST + b"\r\n", 400, "2.2: bare CR"),
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400, "2.2: MAY accept LF"),
    (FIRST + b"Host: localhost\nX: y\r\n\r\n", 400, "2.2: MAY accept LF"),
    (FIRST + HOST + b"\n", 400, "2.2: MAY accept LF"),
    (b"GET / HTTP/1.1\r" + HOST + b"\r\n", 400, "2.2"),
    (FIRST + b"Host : localhost\r\n\r\n", 400, "5.1: space before the colon"),
    (FIRST + HOST + b"X\t: y\r\n\r\n", 400, "5.1: space before the colon"),
    (FIRST + b" X: y\r\n" + HOST + b"\r\n", 400, "2.2: space before the first field"),
    (FIRST + b"\r\n", 400, "3.2: no Host"),
    (FIRST + HOST + HOST + b"\r\n", 400, "3.2: two Hosts"),
    (FIRST + HOST + b"X: y\r\nhost: other\r\n\r\n", 400, "3.2: two Hosts"),
    (FIRST.replace(b"1.1", b"1.0") + HOST + HOST + b"\r\n", 400, "3.2: two Hosts"),
    *(
        (FIRST + b"Host: " + host + b"\r\n\r\n", 400, "3.2: not a host")
        for host in (b"a b", b"a/b", b"a@b", b"a,b\\", b"<a>", b"a?b", b'"a"', b"caf\xe9", b"a\tb")
    ),
    (FIRST + HOST + b"X: a\0b\r\n\r\n", 400, "9110, 5.5: NUL"),
    (FIRST + HOST + b"X: a\x07b\r\n\r\n", 400, "9110, 5.5: other controls"),
    (FIRST + HOST + b"X\0: y\r\n\r\n", 400, "9110, 5.6.2"),
    (FIRST + HOST + b"X(y): z\r\n\r\n", 400, "9110, 5.6.2"),
    (FIRST + HOST + b": y\r\n\r\n", 400, "9110, 5.6.2"),
    (FIRST + HOST + b"X\r\n\r\n", 400, "5: no colon"),
    (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400, "3"),
    (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "3.2: no white space"),
    (b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "3.2"),
    (b"GET nowhere HTTP/1.1\r\n" + HOST + b"\r\n", 400, "3.2: none of the four forms"),
    (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400, "3.2.4: of OPTIONS alone"),
    (b"POST * HTTP/1.1\r\n" + HOST + b"\r\n", 400, "3.2.4: of OPTIONS alone"),
    (b"GET http:///y HTTP/1.1\r\n" + HOST + b"\r\n", 400, "9110, 4.2.1: no host"),
    (b"GET http:// HTTP/1.1\r\n" + HOST + b"\r\n", 400, "9110, 4.2.1: no host"),
    (b"GET http://:80/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "9110, 4.2.1: no host"),
    (b"GET / RTSP/1.0\r\n" + HOST + b"\r\n", 400, "2.3: not HTTP"),
    (b"GET /  RTSP/1.0\r\n" + HOST + b"\r\n", 400, "2.3: not HTTP"),
    (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400, "2.3"),
    (b"GET / HTTP/1,1\r\n" + HOST + b"\r\n", 400, "2.3"),
    (b"GET / HTTP/11\r\n" + HOST + b"\r\n", 400, "2.3"),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, "9110, 15.6.6"),
    (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505, "9110, 15.6.6"),
    (b"GET / HTTP/2.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n", 505, "9110, 15.6.6"),
    (b"GET /\r\n\r\n", 505, "3: HTTP/0.9"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "9113, 3.4: HTTP/2"),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "9110, 9.1: as another method"),
    (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "9110, 9.1"),
    (b"GET/ HTTP/1.1\r\n" + HOST + b"\r\n", 501, "3"),
    (b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "2.2"),
    (b"\x16\x03\x01\x02\x00", 501, "3: TLS"),
    (CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nhello", 400, "7.1: overflow"),
    (CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n", 400, "7.1: overflow"),
    (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"g\r\nhello\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"\r\nhello\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"5\nhello\r\n0\r\n\r\n", 400, "7.1; 2.2: bare LF"),
    (CHUNKED + b"5\r\nhello\n0\r\n\r\n", 400, "7.1; 2.2: bare LF"),
    (CHUNKED + b"5\r\nhello0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", 400, "7.1"),
    (CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n", 400, "7.1.1; 2.2: bare LF"),
    (CHUNKED + b"0\r\nX : y\r\n\r\n", 400, "7.1.2; 5.1"),
    (CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n", 400, "7.1.2; 5.2"),
    (CHUNKED + b"0\r\n\n", 400, "7.1; 2.2"),
]


@pytest.mark.parametrize(("request_", "status", "section"), REFUSED)
def test_what_is_refused(ask, request_, status, section):
    """It is the last answer, says so, and ends the connection; what follows is not a request.

    Whether it comes at once, byte by byte, or after an answered request.
    """
    for before in (b"", KEPT):
        for after in (KEPT * 3, UNSIZED + KEPT):
            peer = ask(before + request_ + after)
            expected = [200] * bool(before) + [status]
            assert (peer.take(), peer.ended) == (expected, True), section
            assert peer.received.count(b"\r\nConnection: close\r\n") == 1
            assert header(peer.received[peer.received.rindex(b"HTTP/1.1") :])["connection"]


@pytest.mark.parametrize(("request_", "status", "section"), REFUSED)
def test_it_is_refused_byte_by_byte(ask, request_, status, section):
    pieces = [bytes([byte]) for byte in request_ + KEPT]
    assert ask(*pieces).take() == [status], section


def test_no_answer_follows_the_last_over_tcp_and_a_fin_ends_it():
    """All of the refusals at one server, each with its end in order, no reset."""
    with lab.serve(HARDENED) as server:
        for request_, status, section in REFUSED:
            with lab.connect(server) as talk:
                talk.send(request_ + KEPT)
                talk.read_all()
                assert (statuses(talk.received), talk.ended) == ([status], "closed"), section
        lab.at_rest(server, sockets=1)


# Nothing of a body is taken for a request

SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        FIRST + HOST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        CHUNKED
        + b"0;"
        + b"x" * 100
        + b"\r\nX: "
        + SMUGGLED[:-8].replace(b"\r\n", b" ")
        + b"\r\n\r\n",
    ],
)
def test_a_body_is_no_request(ask, request_):
    peer = ask(request_ + HEAD)
    assert len(peer.take()) == 2 and not peer.ended


@pytest.mark.parametrize("known", [KEPT, HEAD, SIZED, UNSIZED])
def test_a_body_is_none_that_looks_like_a_request_that_has_been_answered(ask, known):
    """Each piece is read alone, and the same request is asked before and afterwards."""
    (status,) = ask(known).take()
    sized = POST + b"Content-Length: %d\r\n\r\n" % len(known)
    peer = ask(known, known, sized, known, known)
    assert (peer.take(), peer.ended) == ([status, status, 405, status], False)


@pytest.mark.parametrize(
    "request_",
    [
        POST + LENGTH + EXPECT + b"\r\n" + SMUGGLED,  # 405 at once
        POST + b"Content-Length: 1000001\r\n\r\n" + SMUGGLED,  # 413
        POST + LENGTH + b"Expect: else\r\n\r\n" + SMUGGLED,  # 417
        POST + b"Transfer-Encoding: gzip\r\n" + CODED + b"\r\n" + SMUGGLED,
        CHUNKED + b"5\r\nhello!\r\n" + SMUGGLED,
        CLOSING + SMUGGLED,
        b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
        FIRST + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n" + SMUGGLED,
        b"GET / HTTP/1.0\r\n\r\n" + SMUGGLED,
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, None])
def test_what_follows_the_last_request_is_not_answered(ask, request_, pieces):
    at = request_.index(SMUGGLED)
    whole = request_ + SMUGGLED
    each = {
        1: [whole],
        2: [whole[:at], whole[at:]],
        None: [whole[i : i + 1] for i in range(at + 9)],
    }
    peer = ask(*each[pieces])
    assert (len(peer.take()), peer.ended) == (1, True)


# Expect, Connection, Upgrade


@pytest.mark.parametrize(
    "body", [LENGTH + b"%b\r\nhello", CODED + b"%b\r\n5\r\nhello\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_who_expects_to_be_told_to_go_on_is_told_before_the_body(stage, body, method):
    """RFC 9110, 10.1.1. And once, in whatever pieces the body comes."""
    one = stage()
    peer = one.connect()
    head, _, rest = (method + FIRST[3:] + HOST + body % EXPECT).partition(b"\r\n\r\n")

    def script():
        peer.send(head + b"\r\n\r")
        yield 0
        assert peer.take() == []
        peer.send(b"\n")
        yield 0
        peer.take()
        assert peer.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        for byte in rest:
            peer.send(bytes([byte]))
            yield 0
        assert peer.take() == [100, 200] and not peer.ended
        peer.send(KEPT)
        yield 0
        assert peer.take() == [100, 200, 200]

    one.play(script())


@pytest.mark.parametrize(
    ("request_", "expected", "ended"),
    [
        (FIRST + HOST + EXPECT + b"\r\n", [200], False),  # it has no body to send
        (FIRST + HOST + EXPECT + b"Content-Length: 0\r\n\r\n", [200], False),
        (
            FIRST + HOST + LENGTH + EXPECT.upper().replace(b"EXPECT", b"Expect") + b"\r\n",
            [100],
            False,
        ),
        (POST + EXPECT + LENGTH + b"\r\n", [405], True),
        (POST + EXPECT + CODED + b"\r\n", [405], True),
        (b"BREW / HTTP/1.1\r\n" + HOST + EXPECT + LENGTH + b"\r\n", [501], True),
        (b"PROPFIND / HTTP/1.1\r\n" + HOST + EXPECT + LENGTH + b"\r\n", [501], True),
        (FIRST + HOST + EXPECT + b"Content-Length: 1000001\r\n\r\n", [413], True),
        (FIRST + EXPECT + LENGTH + b"\r\n", [400], True),
        (FIRST + HOST + b"Expect: 200-ok\r\n" + LENGTH + b"\r\n", [417], True),
        (FIRST + HOST + b"Expect: 200-ok\r\n" + EXPECT + LENGTH + b"\r\n", [417], True),
        (FIRST + HOST + b"Expect: 200-ok\r\n\r\n", [417], True),
        (FIRST.replace(b"1.1", b"1.0") + EXPECT + LENGTH + b"\r\nhello", [200], True),
        (FIRST.replace(b"1.1", b"1.0") + b"Expect: x\r\n\r\n", [200], True),
    ],
)
def test_what_becomes_of_an_expectation(ask, request_, expected, ended):
    """Where it is refused the body is not asked for; of HTTP/1.0 an expectation is ignored."""
    peer = ask(request_)
    assert (peer.take(), peer.ended) == (expected, ended)


LAST = [
    CLOSING,
    FIRST + HOST + b"connection: CLOSE\r\n\r\n",
    FIRST + HOST + b"Connection: x, close\r\n\r\n",
    FIRST + HOST + b"Connection: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    FIRST + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    FIRST + HOST + b"Connection: close\r\n" + LENGTH + b"\r\nhello",
    FIRST + HOST + CODED + b"\r\n0\r\nConnection: close\r\n\r\n",  # as a trailer
]


@pytest.mark.parametrize("last", LAST)
def test_the_last_request_ends_the_connection_after_all_answers(ask, last):
    peer = ask(KEPT + last + KEPT, KEPT)
    assert (peer.take(), peer.ended) == ([200, 200], True)
    first, second = parse_answers(peer.received)
    assert "connection" not in first.headers and second.headers["connection"] == "close"


def test_connect_is_not_allowed_and_what_follows_is_no_http(ask):
    peer = ask(KEPT + b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n" + KEPT)
    assert (peer.take(), peer.ended) == ([200, 405], True)


MIXED = [KEPT, HEAD, SIZED, UNSIZED, b"PROPFIND" + KEPT[3:], b"\r\n" + KEPT]
STATUSES = [200, 200, 405, 405, 501, 200]


def test_three_hundred_and_more_of_all_kinds_are_answered_in_their_order():
    """Over TCP, all at once; each answer is what its request is due."""
    with lab.serve(HARDENED) as server, lab.connect(server) as talk:
        with server.paused():
            talk.send(b"".join(MIXED) * 60 + CLOSING)
        talk.read_all()
        assert statuses(talk.received) == STATUSES * 60 + [200]
        assert talk.received.count(b"Hello, world!") == 2 * 60 + 1
        assert talk.ended == "closed"


def test_who_sends_no_more_still_gets_its_answers_and_an_end_in_order():
    """Over TCP: half-closed after three requests, and after half a one, which gets none."""
    with lab.serve(HARDENED) as server:
        for left in (b"", KEPT[:20], SIZED[:-3]):
            with lab.connect(server) as talk:
                talk.send(KEPT * 3 + left)
                talk.half_close()
                talk.read_all()
                assert (statuses(talk.received), talk.ended) == ([200] * 3, "closed")


def test_an_urgent_byte_is_a_byte_like_any_other():
    """Over TCP. Unread it would turn the end into a reset."""
    with lab.serve(HARDENED) as server, lab.connect(server) as talk:
        talk.send(KEPT)
        talk.socket.send(b"\n", socket.MSG_OOB)
        talk.send(CLOSING)
        talk.read_all()
        assert (statuses(talk.received), talk.ended) == ([200, 200], "closed")
