"""One thread, epoll, HTTP/1.1: a deadline and a limit for everything.

Chapter 10 with what it lacks. Each phase of a connection has a deadline, and
no client's bytes are kept without end. Who does not take an answer is not read
from. httptools parses; what RFC 9112 wants refused is refused. The log never
makes the loop wait. After SIGTERM the server answers what has been asked, and
ends with status 0. A listener that is handed over, as systemd does, is taken.

It answers any path with the same 13 bytes, on one core, and without TLS.
"""

import argparse
import contextlib
import email.utils
import errno
import http
import math
import os
import re
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time

import httptools

BODY = b"Hello, world!"
HEADER_BYTES = 16_384  # of a request's header, or trailer, or 431
BODY_BYTES = 1_000_000  # of its body, or 413
DISCARDED_BYTES = 16_000_000  # after the last answer, or a reset
TURN_BYTES = 8192  # read from a client in one turn: 327 requests of 25 bytes
TURN_NEWCOMERS = 64  # accepted
KNOWN = 128  # requests that are not parsed again, see remember
RESERVED = 16  # descriptors that no client gets
BACKLOG = 4096  # the kernel may cut it down to net.core.somaxconn
TICK = 0.25  # seconds: see Deadlines
DEADLINES = [  # seconds, unless the command line says otherwise
    ("idle", 60, "for a request to begin"),
    ("header", 10, "for the whole of its header"),
    ("body", 30, "for the whole of its body"),
    ("write", 30, "for a client to take some more of its answers"),
    ("drain", 30, "after SIGTERM, for all"),
]
SECONDS = {"farewell": 2, "last call": 1, "pause": 1}
PROBE_AFTER, PROBE_EVERY, VANISHED = 30, 10, 60  # seconds: see prepare

# The last one is epoll_ctl's: a user may watch so many descriptors, and no more.
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
BROKEN = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}  # the listener itself
NO_ROOM = {errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

METHODS = {method.value.encode() for method in http.HTTPMethod}
TELLING = {b"connection", b"content-length", b"transfer-encoding", b"expect"}
HOST = re.compile(rb"[\w.~!$&'()*+,;=:%[\]-]*", re.ASCII)  # RFC 3986, 3.2.2
TARGET = re.compile(rb"/|[A-Za-z]+://[^/?#:]")  # but for OPTIONS and CONNECT


def make_answer(status, is_head, is_last):
    """Return an answer as bytes, with the date of now."""
    body = BODY if status == 200 else b""
    lines = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        f"Date: {email.utils.formatdate(usegmt=True)}",
        f"Content-Length: {len(body)}",
        *["Content-Type: text/plain"] * (status == 200),
        *["Allow: GET, HEAD"] * (status == 405),
        *["Connection: close"] * is_last,
    ]
    header = "\r\n".join([*lines, "\r\n"]).encode()
    return header if is_head else header + body


class Refused(Exception):
    """What has been asked gets no other answer than Request.status."""


class Request:
    """A request while it comes in. httptools calls the methods on_…

    A client has one as long as it sends: who is idle costs no parser.
    """

    def __init__(self, loop):
        self.loop, self.client, self.host = loop, None, None
        self.parser = httptools.HttpRequestParser(self)
        self.is_begun, self.has_header, self.room = False, False, HEADER_BYTES
        self.method = self.target = self.header = b""

    def feed(self, data):
        """Parse data. room: so many bytes may come that are not of a body."""
        in_header = self.is_begun and not self.has_header
        self.header = self.header + data if in_header else data
        while len(data) >= self.room:
            piece, data = data[: self.room], data[self.room :]
            self.room = 0
            self.parser.feed_data(piece)
            if not self.room:  # no header has ended, and no body gone on
                self.refuse(431)
        self.room -= len(data)
        self.parser.feed_data(data)

    def refuse(self, status):
        self.status = status
        raise Refused

    def on_message_begin(self):
        if self.client.is_leaving:
            raise Refused
        self.is_begun, self.status, self.method, self.target = True, 200, b"", b""
        self.hosts, self.fields, self.length = 0, {}, 0

    def on_url(self, piece):
        self.target += piece

    def on_header(self, name, value):
        name = name.lower()
        if self.has_header:
            pass  # a trailer
        elif name == b"host":
            self.hosts += 1
            if value != self.host:
                if not HOST.fullmatch(value.strip()):
                    self.refuse(400)
                self.host = value
        elif name in TELLING:
            value = value.strip().lower()
            if name in self.fields:  # two lines are a list, RFC 9110, 5.3
                value = self.fields[name] + b", " + value
            self.fields[name] = value

    def on_headers_complete(self):
        self.has_header, self.room = True, HEADER_BYTES
        self.method = self.parser.get_method()
        self.is_last = not self.parser.should_keep_alive()
        if self.method not in (b"GET", b"HEAD"):
            self.status = 405 if self.method in METHODS else 501
        # Otherwise it is HTTP/1.1, as who speaks 1.0 has to ask for keep-alive.
        usual = self.hosts == 1 and self.status == 200 and self.target[:1] == b"/"
        if self.fields or self.is_last or not usual:
            self.check()

    def check(self):
        """Refuse what httptools lets through and what is too much."""
        version, fields = self.parser.get_http_version(), self.fields
        coding = fields.get(b"transfer-encoding")
        # Python reads no number of over 4,300 digits, zeros included.
        length = int(fields.get(b"content-length", b"").lstrip(b"0") or 0)
        if version not in ("1.0", "1.1"):
            self.refuse(505)
        is_aimed = TARGET.match(self.target) or self.method in (b"OPTIONS", b"CONNECT")
        if self.hosts > 1 or (version == "1.1" and not self.hosts) or not is_aimed:
            self.refuse(400)
        # RTSP has a version 1.0, too, and httptools doesn't say whose it is.
        if version == "1.0" and (coding or b" RTSP/1.0\r\n" in self.header):
            self.refuse(400)
        if coding and coding != b"chunked":
            self.refuse(501)
        if length > BODY_BYTES:
            self.refuse(413)
        if version == "1.0" or self.parser.should_upgrade():
            self.is_last = True
        elif b"expect" in fields:
            if fields[b"expect"] != b"100-continue":
                self.refuse(417)
            if self.status != 200:
                self.refuse(self.status)  # at once: it need not send its body
            if coding or length:
                self.client.unsent.extend(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, piece):
        self.length, self.room = self.length + len(piece), HEADER_BYTES
        if self.length > BODY_BYTES:
            self.refuse(413)

    def on_message_complete(self):
        if self.fields and not self.parser.should_keep_alive():
            self.is_last = True  # as a trailer says
        self.loop.answer(self)
        self.is_begun, self.has_header, self.room = False, False, HEADER_BYTES


class Timer:
    """Something that has a deadline. seen: when Deadlines has a look at it."""

    phase, due, seen = None, math.inf, math.inf


class Client(Timer):
    """A connection. request: the one that comes in. unsent: its answers."""

    def __init__(self, connection):
        self.socket, self.fd = connection, connection.fileno()
        self.request, self.unsent = None, bytearray()
        self.watched = select.EPOLLIN
        self.is_leaving, self.discarded = False, 0


class Deadlines:
    """Who is to be seen at which tick: everybody by his deadline, or earlier.

    Whose deadline has been put off by then is put where it is now. So a request
    that is answered moves nobody; and who leaves is taken out at once, where a
    heap would keep him till his time has come.
    """

    def __init__(self):
        self.ticks, self.first = {}, math.inf

    def put(self, who):
        seen = (who.due // TICK + 1) * TICK
        if seen < who.seen:
            self.remove(who)
            who.seen = seen
            self.ticks.setdefault(seen, set()).add(who)
            self.first = min(self.first, seen)

    def remove(self, who):
        self.ticks.get(who.seen, set()).discard(who)
        who.seen = math.inf

    def over(self, now):
        """Take out those whose deadline is over, and return them."""
        over = []
        while self.first <= now:
            for who in self.ticks.pop(self.first):
                who.seen = math.inf
                if who.due <= now:
                    over.append(who)
                else:
                    self.put(who)
            self.first = min(self.ticks, default=math.inf)
        return over

    def seconds_left(self, now):
        return max(0, self.first - now) if self.ticks else None


class Log:
    """A line for each answer on standard output, which is never waited for."""

    def __init__(self):
        self.fd, self.lost, self.output = None, 0, select.poll()
        if sys.stdout:
            self.fd = unblocked(sys.stdout.fileno())
            self.output.register(self.fd, select.POLLOUT)

    def say(self, request):
        asked = repr(request.method + b" " + request.target)[2:-1]
        try:
            peer = "{}:{}".format(*request.client.socket.getpeername())
        except OSError:
            peer = "gone"
        line = f"{time.strftime('%H:%M:%S')} {peer} {request.status} {asked[:500]}\n"
        if self.lost:
            line = f"{self.lost} lines were lost\n{line}"
        if self.write(line.encode()):
            self.lost = 0
        else:
            self.lost += 1

    def write(self, line):
        """Write a line if there is room for it, and tell whether there was.

        A pipe that is ready for writing has room for a page, pipe(7).
        """
        if self.fd is None or not self.output.poll(0):
            return False
        try:
            return os.write(self.fd, line) == len(line)
        except OSError as error:
            if error.errno not in NO_ROOM:
                self.fd = None  # nobody reads it any more
            return False


def unblocked(fd):
    """Return a way of our own to a pipe or a terminal, on which no write waits.

    A terminal is ready with room for one byte. And O_NONBLOCK on the descriptor
    itself would hold for all who share it.
    """
    if os.isatty(fd) or stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError):  # it may be another user's
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            return os.open(f"/proc/self/fd/{fd}", flags)
    return fd


class Loop:
    """The event loop. clients: by descriptor. most: of them at a time.

    signals: a descriptor that gets a byte for each signal. seconds: by phase.
    """

    def __init__(self, listener, signals, seconds, most, log=None):
        self.listener, self.signals, self.seconds = listener, signals, seconds
        self.most, self.log = most, log
        self.epoll, self.clients, self.fresh = select.epoll(), {}, Request(self)
        self.answers, self.answers_until = {}, -math.inf
        self.known, self.given = {}, (200, False, False)
        self.deadlines, self.pause, self.end = Deadlines(), Timer(), Timer()
        self.is_open, self.is_draining, self.is_over = True, False, False
        self.now = time.monotonic()

    def run(self):
        """Serve until SIGTERM has come and nobody is left, or has come again."""
        self.listener.setblocking(False)
        self.epoll.register(self.listener, select.EPOLLIN)
        self.epoll.register(self.signals, select.EPOLLIN)
        while not self.is_over and (self.clients or not self.is_draining):
            ready = self.epoll.poll(self.deadlines.seconds_left(self.now))
            self.now = time.monotonic()
            if self.now >= self.answers_until:
                self.answers, self.answers_until = {}, self.now + 1
            for fd, _ in ready:
                self.serve(fd)
            for who in self.deadlines.over(self.now):
                self.give_up(who)

    def serve(self, fd):
        """Do what comes next for a descriptor, whatever its event."""
        if client := self.clients.get(fd):
            try:
                if client.unsent:
                    self.write(client)
                else:
                    self.read(client)
            except BlockingIOError:
                pass  # a false alarm; if it was not, it is reported again
            except OSError:
                self.drop(client)
        elif fd == self.signals:
            self.take_signals()
        elif fd == self.listener.fileno():
            self.admit()

    def admit(self):
        """Accept newcomers; return whether there may be more."""
        for _ in range(TURN_NEWCOMERS):
            if len(self.clients) >= self.most:
                return self.close_door()
            try:
                connection, _ = self.listener.accept()
                connection.setblocking(False)
                self.epoll.register(connection, select.EPOLLIN)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in BROKEN:
                    raise
                if error.errno in SCARCE:
                    self.enter(self.pause, "pause")
                    return self.close_door()
                continue  # that newcomer's own, accept(2)
            client = Client(connection)
            self.clients[client.fd] = client
            self.enter(client, "idle")
        return True

    def close_door(self):
        self.is_open = False
        self.epoll.modify(self.listener, 0)
        return False

    def open_door(self):
        self.is_open = True
        self.deadlines.remove(self.pause)
        self.epoll.modify(self.listener, select.EPOLLIN)

    def read(self, client):
        data = client.socket.recv(TURN_BYTES)
        if not data:  # it sends no more, and all it asked for is sent
            self.drop(client)
        elif client.is_leaving:
            client.discarded += len(data)
            if client.discarded > DISCARDED_BYTES:
                self.reset(client)
        else:
            key = None if client.request else self.known.get(data)
            if key:
                client.unsent += self.answer_of(key)
            else:
                self.parse(client, data)
            if client.unsent:
                self.write(client)
            elif client.phase != phase_of(client):
                self.enter(client, phase_of(client))

    def parse(self, client, data):
        request = client.request or self.fresh
        request.client = client
        try:
            request.feed(data)
        except httptools.HttpParserUpgrade:
            pass  # we don't, and it was the last request
        except (Refused, httptools.HttpParserCallbackError) as error:
            if not isinstance(error.__context__ or error, Refused):
                raise
            self.refuse(request, request.status)
        except httptools.HttpParserInvalidMethodError:
            self.refuse(request, 501)
        except httptools.HttpParserError:
            self.refuse(request, 400)
        if client.is_leaving or request.is_begun or client.request:
            self.hand_over(client, request)
        else:
            request.room = HEADER_BYTES  # empty lines may have come
            if client.unsent == self.answer_of(self.given):
                self.remember(data, self.given)

    def remember(self, data, key):
        """Answer these bytes alike when a client sends them again.

        They were one whole request, and the parser's judgement depends on nothing
        else. On a connection that is kept most requests are like one before.
        """
        if not self.log:
            if len(self.known) == KNOWN:
                self.known.clear()
            self.known[data] = key

    def hand_over(self, client, request):
        """Let a client keep the request that it has begun, and nobody else's."""
        keeps = request.is_begun and not client.is_leaving
        client.request = request if keeps else None
        if request is self.fresh:
            self.fresh = Request(self)
        if not keeps:
            request.parser = None  # the two hold each other

    def refuse(self, request, status):
        if not request.client.is_leaving:  # nothing after the last request counts
            request.status, request.is_last = status, True
            self.answer(request)

    def answer(self, request):
        client = request.client
        client.is_leaving = is_last = request.is_last or self.is_draining
        self.given = request.status, request.method == b"HEAD", is_last
        client.unsent += self.answer_of(self.given)
        if self.log:
            self.log.say(request)

    def answer_of(self, key):
        """Return an answer, which is made anew in each second, for its date."""
        answer = self.answers.get(key)
        if not answer:
            answer = self.answers[key] = make_answer(*key)
        return answer

    def write(self, client):
        try:
            sent = client.socket.send(client.unsent)
        except BlockingIOError:
            sent = 0
        if sent == len(client.unsent):
            client.unsent.clear()
            self.rest(client)
        else:
            del client.unsent[:sent]
            if client.watched != select.EPOLLOUT:
                self.watch(client, select.EPOLLOUT)
            if sent or client.phase != "write":
                self.enter(client, "write")

    def rest(self, client):
        """All that it has asked for is sent."""
        if client.watched != select.EPOLLIN:
            self.watch(client, select.EPOLLIN)
        if client.is_leaving:
            client.socket.shutdown(socket.SHUT_WR)
            self.enter(client, "farewell")
        else:
            self.enter(client, phase_of(client))

    def watch(self, client, events):
        client.watched = events
        self.epoll.modify(client.fd, events)

    def enter(self, who, phase):
        who.phase = phase
        who.due = due = self.now + self.seconds[phase]
        if due < who.seen:
            self.deadlines.put(who)

    def give_up(self, who):
        """Somebody's deadline is over."""
        if who is self.pause:
            self.open_door()
        elif who is self.end:
            self.is_over = True
        elif self.has_acted(who):
            pass
        elif who.phase in ("header", "body"):
            self.refuse(who.request, 408)
            self.hand_over(who, who.request)
            self.serve(who.fd)
        elif who.phase == "write":
            self.reset(who)
        else:
            self.drop(who)

    def has_acted(self, client):
        """Serve a client once more: it may have acted while we were stopped."""
        self.serve(client.fd)
        return self.clients.get(client.fd) is not client or client.due > self.now

    def reset(self, client):
        """Drop a client with all that the kernel holds for it, socket(7)."""
        linger = struct.pack("ii", 1, 0)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.drop(client)

    def drop(self, client):
        del self.clients[client.fd]
        self.deadlines.remove(client)
        if client.request:
            client.request.parser = client.request.client = None
        client.socket.close()  # and is off the list
        if not (self.is_open or self.is_draining):
            self.open_door()

    def take_signals(self):
        if len(os.read(self.signals, 64)) > 1 or self.is_draining:
            self.is_over = True
        else:
            self.drain()

    def drain(self):
        """Let in who is waiting, nobody else, and serve till all have their answers."""
        while self.is_open and self.admit():
            pass
        self.is_draining, self.known = True, {}
        self.deadlines.remove(self.pause)
        self.epoll.unregister(self.listener)  # another process may hold it, too
        self.listener.close()
        for client in self.clients.values():
            if client.phase == "idle":
                self.enter(client, "last call")
        self.enter(self.end, "drain")


def phase_of(client):
    """Return the phase of a client to whom nothing is unsent."""
    if not client.request:
        return "idle"
    return "body" if client.request.has_header else "header"


def prepare(listener):
    """Set what connections inherit from their listener, tcp(7).

    The kernel probes who is silent, and gives up who acknowledges nothing for
    VANISHED seconds. No answer waits for an acknowledgement. An urgent byte is
    read like any other: unread it would turn a close into a reset.
    """
    tcp = socket.IPPROTO_TCP
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    listener.setsockopt(tcp, socket.TCP_KEEPIDLE, PROBE_AFTER)
    listener.setsockopt(tcp, socket.TCP_KEEPINTVL, PROBE_EVERY)
    listener.setsockopt(tcp, socket.TCP_USER_TIMEOUT, VANISHED * 1000)
    listener.setsockopt(tcp, socket.TCP_NODELAY, 1)


def listen(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    prepare(listener)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
    except OSError as error:
        complain(f"port {port}: {error.strerror}; try another, or 0")
    return listener


def take_over():
    """Return the listener that is handed over, sd_listen_fds(3), or None."""
    number = os.environ.get("LISTEN_FDS", "0")
    if number == "0" or os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if number != "1":
        complain(f"hand over one listener, not {number}")
    try:
        listener = socket.socket(fileno=3)
        prepare(listener)
        if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return listener
    except OSError:
        pass
    return complain("descriptor 3, handed over, is no TCP socket that listens")


def watch_signals():
    """Return a descriptor that gets a byte for each SIGTERM and each Ctrl-C."""
    signals, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    return signals


def most_clients(asked):
    """Return how many clients there may be, with a descriptor for each of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = asked or max(1, soft - RESERVED)
    if most + RESERVED > hard:
        complain(f"--max-connections {most}: here at most {hard - RESERVED}")
    if most + RESERVED > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most + RESERVED, hard))
    return most


def options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.error = complain
    add = parser.add_argument
    add("port", nargs="?", type=int, default=8080, help="0: any free one")
    add("-v", "--verbose", action="store_true", help="print a line for each answer")
    for name, seconds, what in DEADLINES:
        add(f"--{name}-timeout", type=float, default=seconds, metavar="S", help=what)
    add("--max-connections", type=int, default=0, metavar="N", help="at a time")
    asked = parser.parse_args()
    if not 0 <= asked.port <= 65535:
        complain("give one port, a number from 0 (any free one) to 65535")
    asked.seconds = {name: getattr(asked, f"{name}_timeout") for name, *_ in DEADLINES}
    if not all(0 < seconds <= 86_400 for seconds in asked.seconds.values()):
        complain("give each timeout in seconds, more than 0 and at most a day")
    if asked.max_connections < 0:
        complain("--max-connections: give a number, or 0 for what the limit allows")
    return asked


def main():
    """Listen on 127.0.0.1, or at what is handed over, and serve until SIGTERM."""
    signals, asked = watch_signals(), options()
    most = most_clients(asked.max_connections)
    with take_over() or listen(asked.port) as listener:
        host, number = listener.getsockname()[:2]
        log = Log()
        log.write(b"listening on %b:%d\n" % (host.encode(), number))
        seconds = SECONDS | asked.seconds
        Loop(listener, signals, seconds, most, log if asked.verbose else None).run()


def complain(reason):
    print(f"{sys.argv[0]}: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
