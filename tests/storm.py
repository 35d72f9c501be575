"""A storm of random clients: each behaves as it happens to, and knows what answers it is due.

All clients run in one thread, on asyncio with bare sockets. What is random comes from one seed;
what the kernel and the server make of it in time does not.
"""

import asyncio
import collections
import contextlib
import random
import re
import signal
import socket
import time

from awkward_requests import MUST_NOT, REQUESTS
from survive.clients import reset, vanish

PATIENCE = 30  # seconds, for a whole visit
MARGIN = 0.3  # seconds before a deadline: who is so late himself is not judged
SOONEST = 0.25  # of a deadline: the server looks at the clock once a turn, which may be stopped
TICK = 0.02  # seconds
DATE = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
ANY_DATE = re.compile(rb"Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n")
PHRASES = {200: "OK", 405: "Method Not Allowed", 501: "Not Implemented", 408: "Request Timeout"}
PHRASES |= {413: "Request Entity Too Large"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ANSWER = re.compile(
    rb"HTTP/1\.1 \d{3} [A-Za-z ]+\r\n" + DATE + rb"Content-Length: (13|0)\r\n"
    rb"(Content-Type: text/plain\r\n)?(Allow: GET, HEAD\r\n)?(Connection: close\r\n)?\r\n"
    rb"(Hello, world!)?|" + CONTINUE
)
REFUSAL = re.compile(
    rb"HTTP/1\.1 [45]\d\d [A-Za-z ]+\r\n" + DATE + rb"Content-Length: 0\r\n"
    rb"(Allow: GET, HEAD\r\n)?Connection: close\r\n\r\n"
)
BROKEN = [  # hosts aside, some of which no server refuses
    each.data
    for each in REQUESTS
    if each.wants == MUST_NOT and not each.then and not each.name.startswith("Host ")
]


def answer(status, is_head=False, is_last=False):
    """Return an answer as the server has to give it, with a date that stands for any."""
    body = b"Hello, world!" if status == 200 else b""
    return b"".join(
        [
            b"HTTP/1.1 %d %b\r\n" % (status, PHRASES[status].encode()),
            DATE + b"Content-Length: %d\r\n" % len(body),
            b"Content-Type: text/plain\r\n" * (status == 200),
            b"Allow: GET, HEAD\r\n" * (status == 405),
            b"Connection: close\r\n" * is_last + b"\r\n",
            b"" if is_head else body,
        ]
    )


def chunked(chance, body):
    """Return a body in chunks of random sizes, with extensions and trailers now and then."""
    pieces = []
    while body:
        size = chance.randint(1, 20_000)
        piece, body = body[:size], body[size:]
        extension = chance.choice([b"", b"", b";a=b", b';a="b c"'])
        pieces.append(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece))
    trailer = chance.choice([b"", b"", b"X: y\r\n", b"Host: y\r\n"])
    return b"".join(pieces) + b"0\r\n" + trailer + b"\r\n"


def request(chance, is_last=False, largest=20_000):
    """Return a random valid request, and the answer that is due."""
    method = chance.choice(["GET"] * 6 + ["HEAD"] * 2 + ["POST", "PUT", "OPTIONS", "PROPFIND"])
    target = chance.choice(["/", "/", f"/{chance.random()}?q", "http://x/y"])
    fields = [chance.choice(["Host: x", "host:x", "Host: [::1]:80", "HOST:\t127.0.0.1"])]
    fields += [f"X-{i}: {'y' * chance.randint(0, 99)}" for i in range(chance.choice([0, 0, 3, 60]))]
    body = b""
    if method in ("POST", "PUT") or chance.random() < 0.05:
        body = chance.randbytes(chance.choice([0, 1, chance.randint(0, largest)]))
        if is_chunked := chance.random() < 0.5:
            body = chunked(chance, body)
        length = f"Content-Length: {len(body)}"
        fields.append("Transfer-Encoding: chunked" if is_chunked else length)
    fields += ["Connection: close"] * is_last
    chance.shuffle(fields)
    header = "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "\r\n"]).encode()
    status = {"GET": 200, "HEAD": 200, "PROPFIND": 501}.get(method, 405)
    return header + body, answer(status, method == "HEAD", is_last)


def requests(chance, most=20, is_last=None):
    """Return some valid requests in a row, and their answers; the last asks for the end or not."""
    number = chance.randint(1, most)
    is_last = chance.random() < 0.5 if is_last is None else is_last
    pairs = [request(chance) for _ in range(number - 1)] + [request(chance, is_last)]
    asked, due = map(b"".join, zip(*pairs, strict=True))
    return asked, due, is_last


class Wrong(Exception):
    """What a client got is not what it was due."""


class Visit:
    """One client's connection. began: when it was called, or the last request was begun.

    late: it took so long itself that it may have been given up.
    """

    def __init__(self, storm):
        self.storm, self.chance, self.raw, self.end = storm, storm.chance, bytearray(), None
        self.loop, self.late = asyncio.get_running_loop(), False

    async def __aenter__(self):
        self.began = time.monotonic()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if self.chance.random() < 0.2:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await self.loop.sock_connect(self.socket, self.storm.address)
        return self

    async def __aexit__(self, *exception):
        self.socket.close()

    def got(self):
        return ANY_DATE.sub(DATE, bytes(self.raw))

    async def send(self, data):
        """Send all; who takes none of it any more says so when it is read."""
        with contextlib.suppress(ConnectionError):
            await self.loop.sock_sendall(self.socket, data)
        self.late |= time.monotonic() - self.began > self.storm.deadline - MARGIN

    async def send_in_pieces(self, data, most=200):
        pieces = sorted(self.chance.sample(range(len(data)), min(len(data), most) // 2))
        for start, end in zip([0, *pieces], [*pieces, len(data)], strict=True):
            await self.send(data[start:end])
            await asyncio.sleep(0)

    async def receive(self, size=None, most=65536):
        """Receive so many bytes all in all, or to the end."""
        while not self.end and (size is None or len(self.raw) < size):
            try:
                data = await self.loop.sock_recv(self.socket, most)
            except ConnectionError:
                self.end = "reset"
            else:
                self.end = None if data else "closed"
                self.raw += data

    def judge(self, due, refusal=False, sure=True, about=b""):
        """Raise Wrong unless what came is what is due, and a refusal after it if there is to be.

        Who was late, or is not sure by what it did, may have got a part of it, or a 408.
        """
        got = self.got()
        if got.startswith(due) and bool(REFUSAL.fullmatch(got[len(due) :])) == refusal:
            if (refusal or got == due) and (self.end != "reset" or not sure):
                return
        elif not sure or self.late:
            got = got[: got.rfind(b"\n") + 1]  # half a date is none
            start = len(due) if got.startswith(due) else got.rfind(b"HTTP/1.1 408")
            before, after = (got, b"") if start < 0 else (got[:start], got[start:])
            if due.startswith(before) and (not after or REFUSAL.fullmatch(after)):
                self.storm.counted["late"] += sure
                return
        if self.late and self.end == "reset" and due.startswith(got):
            self.storm.counted["late"] += 1
            return
        what = f"due {due[-300:]!r}, and a refusal: {refusal}, came {got[-300:]!r}, {self.end}"
        took = time.monotonic() - self.began
        raise Wrong(f"{what}, after {took:.2f} s, {len(got)} of {len(due)} bytes {about!r}")


# What clients do


async def asks_once(visit):
    asked, due = request(visit.chance, is_last=True)
    await visit.send(asked)
    await visit.receive()
    visit.judge(due)


async def keeps_and_asks(visit):
    all_due = b""
    for _ in range(visit.chance.randint(2, 10)):
        await asyncio.sleep(visit.chance.choice([0, 0, 0.05]))
        asked, due = request(visit.chance)
        asks = time.monotonic()
        await visit.send(asked)
        all_due += due
        await visit.receive(len(all_due))
        visit.judge(all_due)
        if visit.late:
            return
        visit.began = asks  # the server may have answered at once


async def pipelines(visit):
    asked, due, is_last = requests(visit.chance, 50)
    await both(visit, visit.send(asked), None if is_last else len(due))
    visit.judge(due)


async def splits(visit):
    asked, due, is_last = requests(visit.chance, 5)
    await both(visit, visit.send_in_pieces(asked), None if is_last else len(due))
    visit.judge(due)


async def both(visit, sending, size):
    """Send and receive at the same time; who sends more than a turn may wait for the server."""
    receiving = asyncio.ensure_future(visit.receive(size))
    try:
        await sending
        await receiving
    finally:
        receiving.cancel()
    visit.late |= time.monotonic() - visit.began > visit.storm.deadline - MARGIN


async def half_closes(visit):
    asked, due, _ = requests(visit.chance, 30, is_last=False)
    half = request(visit.chance)[0]
    asked += half[: visit.chance.randrange(visit.chance.choice([1, len(half)]))]

    async def send():
        await visit.send(asked)
        with contextlib.suppress(OSError):
            visit.socket.shutdown(socket.SHUT_WR)

    await both(visit, send(), None)
    visit.judge(due)


async def posts_much(visit):
    asked, due = request(visit.chance, is_last=True, largest=500_000)
    await both(visit, visit.send(asked), None)
    visit.judge(due)


async def posts_too_much(visit):
    body = bytes(visit.chance.randint(1_000_001, 4_000_000))
    fields = b"Content-Length: %d\r\n\r\n" % len(body)
    if visit.chance.random() < 0.5:
        fields, body = b"Transfer-Encoding: chunked\r\n\r\n", chunked(visit.chance, body)
    await both(visit, visit.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + fields + body), None)
    visit.judge(b"", refusal=True)


async def expects(visit):
    method = visit.chance.choice([b"GET", b"GET", b"POST"])
    body = visit.chance.randbytes(visit.chance.randint(1, 9000))
    fields = b" / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    await visit.send(method + fields % len(body))
    if method == b"POST":
        await visit.receive()
        visit.judge(answer(405, is_last=True))
        return
    await visit.receive(len(CONTINUE))
    visit.late |= time.monotonic() - visit.began > visit.storm.deadline - MARGIN
    visit.judge(CONTINUE)
    if not visit.late:
        await visit.send(body)
        await visit.receive(len(CONTINUE + answer(200)))
        visit.judge(CONTINUE + answer(200))


async def breaks(visit):
    asked, due, _ = requests(visit.chance, 5, is_last=False)
    broken = visit.chance.choice(BROKEN)
    await both(visit, visit.send(asked + broken + asked), None)
    visit.judge(due, refusal=True, about=broken[:200])


async def mangles(visit):
    """Some bytes of it are others: what it is due then nobody knows, but answers they must be."""
    asked = bytearray(requests(visit.chance, 5)[0])
    for _ in range(visit.chance.randint(1, 5)):
        place = visit.chance.randrange(len(asked))
        new = visit.chance.choice([b"", b"\r\n", b" ", b"\0", b":", visit.chance.randbytes(2)])
        asked[place : place + visit.chance.randint(0, 2)] = new
    await both(visit, visit.send(bytes(asked)), None)
    got = visit.got()
    while found := ANSWER.match(got):
        got = got[found.end() :]
    if got:
        raise Wrong(f"after {bytes(asked[-300:])!r} came {got[:300]!r}")


async def sends_something(visit):
    asked, due, _ = requests(visit.chance, 30)
    await visit.send(asked[: visit.chance.randint(0, len(asked))])
    if visit.chance.random() < 0.5:
        await visit.receive(visit.chance.randint(1, len(due)))
        visit.judge(due, sure=False)
    await asyncio.sleep(visit.chance.choice([0, 0, 0.01, 0.1]))


async def leaves(visit):
    await sends_something(visit)


async def resets(visit):
    await sends_something(visit)
    reset(visit.socket)


async def vanishes(visit):
    if visit.chance.random() < 0.5:
        await sends_something(visit)
    vanish(visit.socket)
    await visit.send(request(visit.chance)[0] * visit.chance.randint(0, 3))
    await asyncio.sleep(visit.chance.uniform(0, 2))
    reset(visit.socket)


async def drips(visit):
    """A byte now and then moves no end: a 408 comes after the deadline, not sooner."""
    header = b"POST / HTTP/1.1\r\nHost: x\r\n"
    start, piece = visit.chance.choice(
        [
            (header, b"X: y\r\n"),
            (b"G", b"E"),
            (header + b"X: ", b"y"),
            (header + b"Content-Length: 500000\r\n\r\n", b"y"),
            (header + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n"),
            (header + b"Transfer-Encoding: chunked\r\n\r\n1;", b"y"),
            (header + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        ]
    )
    if start == b"G":
        start, piece = b"GET /", b"y"
    before = visit.chance.choice([(b"", b""), request(visit.chance)])
    await visit.send(before[0] + start)
    receiving = asyncio.ensure_future(visit.receive())
    while not receiving.done():
        await visit.send(piece)
        await asyncio.wait([receiving], timeout=0.05)
    took = time.monotonic() - visit.began
    visit.judge(before[1], refusal=True, sure=False)
    if took < visit.storm.deadline * SOONEST:
        raise Wrong(f"given up after {took} s: {visit.got()!r}")


async def is_silent(visit):
    before = visit.chance.choice([b"", b"", b"\r\n", KEPT])
    await visit.send(before)
    await visit.receive()
    took = time.monotonic() - visit.began
    visit.judge(answer(200) if before == KEPT else b"")
    if took < visit.storm.deadline * SOONEST:
        raise Wrong(f"given up after {took} s")


KEPT = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def reads_slowly(visit):
    """Its answers wait for room at the server: as many as it takes to fill the buffers."""
    number = visit.chance.randint(1000, 30_000)
    due = answer(200) * number
    sending = asyncio.ensure_future(visit.send(KEPT * number))
    until = min(visit.storm.until, visit.began + 5)
    try:
        while not visit.end and len(visit.raw) < len(due) and time.monotonic() < until:
            await visit.receive(len(visit.raw) + 1, visit.chance.choice([100, 65536, 300_000]))
            await asyncio.sleep(visit.chance.choice([0, 0, 0.1]))
    finally:
        sending.cancel()
    visit.judge(due, sure=False)


async def never_reads(visit):
    """It asks till nothing is taken any more, and is given up; or leaves, if the server lags."""
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < visit.began + PATIENCE / 3:
            await visit.loop.sock_sendall(visit.socket, KEPT * 1000)


async def floods(visit):
    number = 100 * visit.chance.randint(50, 200)
    await both(visit, visit.send(KEPT * number), len(answer(200)) * number)
    visit.judge(answer(200) * number)


async def sends_urgent_data(visit):
    asked, due, _ = requests(visit.chance, 3, is_last=True)
    place = visit.chance.randint(1, min(len(asked), 4000))
    try:
        visit.socket.send(asked[:place], socket.MSG_OOB)
    except BlockingIOError:
        return
    await both(visit, visit.send(asked[place:]), None)
    visit.judge(due)


CLIENTS = {
    asks_once: 6,
    keeps_and_asks: 6,
    pipelines: 5,
    splits: 5,
    half_closes: 4,
    posts_much: 2,
    posts_too_much: 1,
    expects: 3,
    breaks: 6,
    mangles: 6,
    leaves: 4,
    resets: 4,
    vanishes: 2,
    drips: 4,
    is_silent: 4,
    reads_slowly: 1,
    never_reads: 1,
    floods: 1,
    sends_urgent_data: 2,
}


class Storm:
    """So many clients at a time, for some seconds, who visit a server whose deadlines are short.

    deadline: the server's, of each phase. `counted` says who has come how often; `wrong` lists
    what went wrong, in words.
    """

    def __init__(self, server, seed, deadline, crowd=40):
        self.server, self.address = server, server.address
        self.chance, self.deadline, self.crowd = random.Random(seed), deadline, crowd
        self.counted, self.wrong = collections.Counter(), []
        self._behind, self._ticked = 0, time.monotonic()

    def rage(self, seconds, ends=False):
        """Let it rage; ends: the server is told to end meanwhile, and nothing is asserted then."""
        asyncio.run(self._rage(seconds, ends))

    async def _rage(self, seconds, ends):
        self.until, self.ends = time.monotonic() + seconds, ends
        visitors = [self._visit_again() for _ in range(self.crowd)]
        ticking = asyncio.ensure_future(self._tick())
        await asyncio.gather(*visitors, self._stop_now_and_then())
        ticking.cancel()

    def is_over(self):
        return time.monotonic() > self.until or len(self.wrong) > 20

    async def _tick(self):
        while True:
            await asyncio.sleep(TICK)
            self._behind, self._ticked = self.behind(), time.monotonic()

    def behind(self):
        """Return how many seconds this thread has come too late, all in all: a busy machine."""
        return self._behind + max(0, time.monotonic() - self._ticked - TICK)

    async def _visit_again(self):
        while not self.is_over():
            await self._visit()
            await asyncio.sleep(self.chance.choice([0, 0, 0.05]))

    async def _visit(self):
        (client,) = self.chance.choices(list(CLIENTS), CLIENTS.values())
        try:
            async with asyncio.timeout(PATIENCE), Visit(self) as visit:
                await client(visit)
            self.counted[client.__name__] += 1
        except ConnectionRefusedError:
            if not self.ends:
                self.wrong.append(f"{client.__name__}: refused")
            await asyncio.sleep(0.1)
        except Wrong as error:
            if not self.ends:
                self.wrong.append(f"{client.__name__}: {error}")
        except TimeoutError:
            self.wrong.append(f"{client.__name__}: waited {PATIENCE} s, got {visit.got()[-300:]!r}")

    async def _stop_now_and_then(self):
        """Stop the server for a moment: what comes meanwhile it sees all at once."""
        while not self.is_over():
            await asyncio.sleep(self.chance.uniform(0.5, 2))
            self.server.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(self.chance.uniform(0.01, 0.25))
            finally:
                self.server.send_signal(signal.SIGCONT)
