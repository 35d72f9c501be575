"""Clients: a plain one, one that can be led by hand, and the awkward ones.

`get` is what most cells need. A `Conversation` is a connection led step by step, which remembers
what it sent and got and when. The awkward clients at the bottom are functions of a connected
conversation and the server; chapters, the survival matrix and the tests use the same ones.

Nothing here waits for ever: every operation has a deadline.
"""

import contextlib
import ctypes
import errno
import functools
import http.client
import io
import resource
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass

from . import kernel
from .server import until

REQUEST = b"GET / HTTP/1.0\r\n\r\n"
HALF = b"GET / HT"
SECONDS = 5
MOST = 64_000_000  # bytes that a conversation takes in
SO_ATTACH_FILTER, BPF_RET = 26, 0x06  # asm-generic/socket.h, linux/bpf_common.h


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: status as a number, headers by lower-case name, body in bytes."""

    status: int
    headers: dict
    body: bytes

    def __str__(self):
        return f"{self.status} {self.body.decode('utf-8', 'backslashreplace')!r}"


class _Unclosed(io.BytesIO):
    """Bytes that http.client may read as a connection, one answer after another."""

    def makefile(self, mode):
        return self

    def close(self):
        pass


def parse_answers(raw, method="GET"):
    """The complete HTTP answers that raw bytes hold, as a list; what is not HTTP ends it."""
    source, answers = _Unclosed(raw), []
    while source.tell() < len(raw):
        response = http.client.HTTPResponse(source, method=method)
        try:
            response.begin()
            body = response.read()
        except (http.client.HTTPException, ValueError):
            break
        headers = {name.lower(): value for name, value in response.getheaders()}
        answers.append(Answer(response.status, headers, body))
    return answers


class Conversation:
    """One connection, led by hand: connect, send, receive, half-close, close, reset.

    address: (host, port). name: what pictures call it. seconds: the deadline of every operation,
    after which it raises TimeoutError. `received` is all that came so far, `ended` how the other
    side's half ended: "closed", "reset", or None. `events` lists (time, what, bytes).
    """

    def __init__(self, address, name="client", seconds=SECONDS):
        self.address, self.name, self.seconds = address, name, seconds
        self.events, self.received, self.ended = [], b"", None
        self.others = []  # conversations that this one has opened beside it
        self.has_said_all = False  # has it come to the point where it only listens?
        self._sender, self._enough = None, threading.Event()
        began = time.monotonic()
        self.socket = socket.create_connection(address, timeout=seconds)
        self.port = self.socket.getsockname()[1]  # our own: the kernel's tables know us by it
        self.events.append((began, "calls", 0))
        self._note("connected")

    def _note(self, what, count=0):
        self.events.append((time.monotonic(), what, count))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def is_closed(self):
        """Has our own end been closed?"""
        return self.socket.fileno() < 0

    def state(self):
        """The state of our end, as TCP names it."""
        return kernel.state_of(self.socket)

    def another(self):
        """A second conversation with the same server; it ends when this one does."""
        other = Conversation(self.address, f"{self.name}, again", self.seconds)
        self.others.append(other)
        return other

    def send(self, data):
        """Send all of data. Raises TimeoutError, BrokenPipeError, ConnectionResetError."""
        self.socket.sendall(data)
        self._note("sent", len(data))

    def send_on(self, piece):
        """Send a piece again and again from now on, in a thread, until rest() or the end."""
        self.socket.settimeout(0.1)  # how long rest() may have to wait
        self._enough.clear()
        self._sender = threading.Thread(target=self._send_on, args=[piece])
        self._sender.start()

    def _send_on(self, piece):
        with contextlib.suppress(ConnectionError):
            while not self._enough.is_set():
                with contextlib.suppress(TimeoutError):
                    self._note("sent", self.socket.send(piece))

    def rest(self):
        """End what send_on() has begun, if anything."""
        if self._sender:
            self._enough.set()
            self._sender.join()
            self._sender = None
            self.socket.settimeout(self.seconds)

    def receive(self, size=65536):
        """Receive what is there, at the most size bytes, waiting for the first one.

        Returns b"" at the end of input; `ended` then says whether it came by a close or a reset.
        """
        try:
            data = self.socket.recv(size)
        except ConnectionResetError:
            data, self.ended = b"", "reset"
        else:
            self.ended = self.ended or (None if data else "closed")
        self._note("got" if data else self.ended, len(data))
        self.received += data
        return data

    def read_all(self):
        """Receive until the end of input, the deadline, or MOST bytes; return all of it."""
        self.has_said_all = True
        deadline = time.monotonic() + self.seconds
        with contextlib.suppress(TimeoutError):
            while len(self.received) < MOST and (left := deadline - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if not self.receive():
                    break
        self.socket.settimeout(self.seconds)
        return self.received

    def answers(self, method="GET"):
        """The complete HTTP answers received so far."""
        return parse_answers(self.received, method)

    def half_close(self):
        """Send no more (a FIN goes out), but stay to listen."""
        self.socket.shutdown(socket.SHUT_WR)
        self._note("half-closed")

    def close(self):
        """Close: a FIN, or a reset if input is left unread. Twice does no harm."""
        self.rest()
        for other in self.others:
            other.close()
        if not self.is_closed:
            self.socket.close()
            self._note("left")

    def reset(self):
        """Leave with a reset."""
        self.rest()
        reset(self.socket)
        self._note("reset it")


def pair():
    """The two ends of a TCP connection over loopback, as sockets: the one accepted, its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        return listener.accept()[0], theirs


def reset(sock):
    """Close a socket with a reset: SO_LINGER on, with no time to linger, socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def vanish(sock):
    """Nothing that is sent to a TCP socket arrives from now on, nor is it acknowledged.

    A filter of one instruction, "keep no byte", is attached to it: socket(7), SO_ATTACH_FILTER,
    and struct sock_filter in linux/filter.h. What the socket itself sends does go out.
    """
    keep_nothing = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(keep_nothing))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def drain(sock, amount):
    """Receive so many bytes, and forget them. Raises ConnectionError if it ends before."""
    while amount:
        data = sock.recv(min(amount, 1 << 20))
        if not data:
            raise ConnectionError(f"the other end has closed, {amount} bytes too soon")
        amount -= len(data)


def outcome(call, *arguments):
    """What a call returns, or the name of the error that it raises: "EAGAIN" and so on.

    A deadline of the socket's own (settimeout) is "ETIMEDOUT", as a connection's is.
    """
    try:
        return call(*arguments)
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode[error.errno]


def fill(sock):
    """Send on a non-blocking socket until its buffer, which this keeps from growing, stays full."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)

    def sent():
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                count += sock.send(b"x" * 65536)
        return count

    until(lambda: sent() == 0, what="the send buffer to stay full")


def get(address, seconds=SECONDS):
    """Ask for / and return the Answer. Raises TimeoutError or ConnectionError without one."""
    with Conversation(address, seconds=seconds) as talk:
        talk.send(REQUEST)
        talk.read_all()
        answers = talk.answers()
        if not answers:
            how = talk.ended or f"silent for {seconds} s"
            raise ConnectionError(f"no answer: the connection was {how}")
        return answers[0]


# The awkward clients. Each is a function (talk, server): talk is a Conversation, connected just
# now, that nobody has used; server is a Server. When it returns without closing talk, it stays.


def plain_get(talk, server):
    """Asks, and reads the answer to its end."""
    talk.send(REQUEST)
    talk.read_all()


def one_byte_at_a_time(talk, server):
    """Sends its request in segments of one byte, each when the last one has been read."""
    talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ends = talk.socket.getpeername(), talk.socket.getsockname()  # as the server has them
    for number in range(len(REQUEST)):
        talk.send(REQUEST[number : number + 1])
        with contextlib.suppress(TimeoutError):  # one that is frozen doesn't read
            until(lambda: not (end := kernel.find_socket(*ends)) or not end.unread, 0.5)
    talk.read_all()


def two_at_once(talk, server):
    """Two connections ask at the same time; then each reads its answer."""
    other = talk.another()
    talk.send(REQUEST)
    other.send(REQUEST)
    talk.read_all()
    other.read_all()


TOGETHER = 10


def ten_while_it_is_busy(talk, server):
    """Nine more connect while the server is stopped, as far as they are let in; then all ask."""
    with contextlib.suppress(TimeoutError):  # who has come before is accepted, if that can be
        until(lambda: not kernel.accept_queue(server.address)[0], 0.5)
    with server.paused():
        while len(talk.others) < TOGETHER - 1:
            waiting, limit = kernel.accept_queue(server.address)
            if waiting > limit:
                break  # it is full: the next one would be let in after a second
            talk.another()
    together = (talk, *talk.others)
    for each in together:
        each.send(REQUEST)
    for each in together:
        each.read_all()


def says_nothing(talk, server):
    """Connects, says nothing and stays."""


def connects_and_closes(talk, server):
    """Connects and closes: a FIN, and not one byte."""
    talk.close()


def half_a_request_then_closes(talk, server):
    """Sends the first eight bytes of a request, then closes."""
    talk.send(HALF)
    talk.close()


def half_a_request_then_resets(talk, server):
    """Sends the first eight bytes of a request and a reset while the server is stopped."""
    with server.paused():
        talk.send(HALF)
        talk.reset()


def whole_request_then_resets(talk, server):
    """Sends a whole request and a reset while the server is stopped: it finds both."""
    with server.paused():
        talk.send(REQUEST)
        talk.reset()


def asks_and_leaves(talk, server):
    """Asks and closes without reading; a cork keeps request and FIN in one segment."""
    talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    talk.send(REQUEST)
    talk.close()


def half_closes_after_asking(talk, server):
    """Asks, sends a FIN in the same segment, and stays to read the answer."""
    talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    talk.send(REQUEST)
    talk.half_close()
    talk.read_all()


def half_closes_and_vanishes(talk, server):
    """Half a request and a FIN; and nothing that the server sends now is ever acknowledged."""
    with server.paused():
        talk.send(HALF)
        talk.half_close()
        until(lambda: talk.state() == "FIN-WAIT-2", what="the FIN to be acknowledged")
        vanish(talk.socket)


def bytes_that_are_not_utf8(talk, server):
    """Asks for a path of two bytes that no UTF-8 text has."""
    talk.send(b"GET /\xff\xfe HTTP/1.0\r\n\r\n")
    talk.read_all()


def a_body_left_unread(talk, server):
    """Posts 4 kB in one piece: all of it is there before the server has read a byte."""
    body = b"x" * 4096
    with server.paused():
        talk.send(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    talk.read_all()


def two_pipelined_requests(talk, server):
    """Sends two requests of HTTP/1.1 in one segment, the second asking to close."""
    talk.send(
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    talk.read_all()


def a_header_without_end(talk, server):
    """Sends header lines, 64 kB of them, never the empty one, and stays."""
    talk.send(b"GET / HTTP/1.0\r\n" + b"X-More: and more\r\n" * 3640)


def sends_without_pause(talk, server):
    """Sends without a line end, as fast as it is taken, and goes on; returns after 2 MB or 1 s."""
    # Small buffers: a server that has let it go on has soon read what is left.
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    talk.send_on(b"x" * 16384)
    with contextlib.suppress(TimeoutError):
        until(lambda: sum(count for _, _, count in talk.events) > 2_000_000, 1)


def never_reads_a_long_answer(talk, server):
    """Asks, with the smallest receive buffer there is, and reads nothing."""
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    talk.send(REQUEST)


DESCRIPTORS = 16


def more_clients_than_descriptors(talk, server):
    """Twice as many silent clients as the server may have descriptors; then all leave."""
    limit = kernel.descriptors(server.pid) + DESCRIPTORS
    server.limit(resource.RLIMIT_NOFILE, limit)

    def no_more():
        return kernel.descriptors(server.pid) >= limit

    with contextlib.suppress(OSError):  # nobody listens any more
        for _ in range(2 * DESCRIPTORS):
            talk.another()
            # One at a time: a short queue must not be full before the descriptors are gone.
            until(lambda: no_more() or kernel.is_asleep(server.pid), 3)
            if no_more():
                talk.seconds = 0.05  # the others will find the queue full
    talk.close()


def head(talk, server):
    """Asks for the header alone."""
    talk.send(b"HEAD / HTTP/1.0\r\n\r\n")
    talk.read_all()


def a_bare_line_feed(talk, server):
    """Sends two line feeds, which ask for nothing, and a FIN, and waits for the end."""
    talk.send(b"\n\n")
    talk.half_close()
    talk.read_all()


@functools.cache
def tls_hello():
    """The first bytes of a TLS client, made by the ssl module, with no empty line among them."""
    while True:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        engine = ssl.create_default_context().wrap_bio(
            incoming, outgoing, server_hostname="localhost"
        )
        with contextlib.suppress(ssl.SSLWantReadError):
            engine.do_handshake()
        hello = outgoing.read()
        if b"\n\n" not in hello and b"\n\r\n" not in hello:
            return hello


def a_tls_hello(talk, server):
    """Takes the server for an https one, and waits for its certificate."""
    talk.send(tls_hello())
    talk.seconds = 0.5
    talk.read_all()


def its_console_closed(talk, server):
    """Asks when nobody reads any more what the server prints, and it has no other work."""
    until(lambda: kernel.is_asleep(server.pid))
    server.close_console()
    plain_get(talk, server)
