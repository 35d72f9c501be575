"""The awkward clients: each a function that says in its docstring what it does on the wire.

Each takes (talk, server): talk is a Conversation, connected just now, that nobody has used; server
is a Server. When it returns without closing talk, its client stays. Each forces the order of
events, by a cork, SIGSTOP or a handshake: what comes of it is never how a race went.
"""

import contextlib
import functools
import resource
import socket
import ssl

from look import kernel

from .clients import REQUEST, vanish
from .waiting import until

HALF = b"GET / HT"
DELIVERY = 3  # seconds in which a segment must have reached the other end of a loopback connection


def _cork(talk):
    """Cork a connection: what is sent from now on waits for the FIN, and shares its segment."""
    talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)


def _until_read(talk, seconds):
    """Wait until the server has read all that has arrived, or is gone; at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        until(lambda: not (end := kernel.find_socket(*talk.ends)) or not end.unread, seconds)


def _until_let_in(talk):
    """Wait until the server's end of a new connection is established: it is queued, or accepted.

    Our end is established as soon as we have the server's answer, its end when it has ours.
    """

    def let_in():
        end = kernel.find_socket(*talk.ends)
        return end.state != "SYN-RECV" if end else talk.state() != "ESTABLISHED"

    until(let_in, DELIVERY, "a client to be let in")


def _send_and_wait(talk, data):
    """Send the first data to a stopped server, and wait until all of it has arrived."""
    talk.send(data)

    def is_there():
        end = kernel.find_socket(*talk.ends)
        return end and end.unread == len(data)

    until(is_there, DELIVERY, "data to arrive")


def _reset_and_wait(talk):
    """Leave with a reset, and wait until the other end is off the kernel's list of sockets.

    A busy machine hands segments on in a thread of the kernel's (ksoftirqd), perhaps after our
    next call.
    """
    talk.reset()
    until(lambda: not kernel.find_socket(*talk.ends), DELIVERY, "a reset to arrive")


def plain_get(talk, server):
    """Asks, and reads the answer to its end."""
    talk.send(REQUEST)
    talk.read_all()


def one_byte_at_a_time(talk, server):
    """Sends its request in segments of one byte, each when the last one has been read."""
    talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(len(REQUEST)):
        talk.send(REQUEST[number : number + 1])
        _until_read(talk, 0.5)  # one that is frozen doesn't read
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
    """Nine more connect while the server is stopped, if the queue has room; then all ask."""
    with contextlib.suppress(TimeoutError):  # the first client is accepted, if the server can
        until(lambda: not kernel.accept_queue(server.address)[0], 0.5)
    with server.paused():
        while len(talk.others) < TOGETHER - 1:
            waiting, limit = kernel.accept_queue(server.address)
            if waiting > limit:
                break  # the queue is full: one more would wait for a second
            _until_let_in(talk.another())
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
    """Sends the first eight bytes of a request and a FIN, in one segment."""
    _cork(talk)
    talk.send(HALF)
    talk.close()


def half_a_request_then_resets(talk, server):
    """Sends the first eight bytes of a request and a reset while the server is stopped."""
    with server.paused():
        _send_and_wait(talk, HALF)
        _reset_and_wait(talk)


def whole_request_then_resets(talk, server):
    """Sends a whole request and a reset while the server is stopped, which then finds both."""
    with server.paused():
        _send_and_wait(talk, REQUEST)
        _reset_and_wait(talk)


def asks_and_leaves(talk, server):
    """Asks and closes without reading; a cork keeps request and FIN in one segment."""
    _cork(talk)
    talk.send(REQUEST)
    talk.close()


def half_closes_after_asking(talk, server):
    """Asks, sends a FIN in the same segment, and stays to read the answer."""
    _cork(talk)
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
    talk.send(b"GET /\xff\x81 HTTP/1.0\r\n\r\n")
    talk.read_all()


def a_body_left_unread(talk, server):
    """Posts 4 kB in one piece: all of it is there before the server has read a byte."""
    body = b"x" * 4096
    with server.paused():
        _send_and_wait(talk, b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
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
    """Sends bytes without a line end, as fast as they are taken, and never stops."""
    # Small buffers: a server that has let it go on has soon read what is left.
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    talk.keep_sending(b"x" * 16384)
    with contextlib.suppress(TimeoutError):
        until(lambda: sum(count for _, _, count in talk.events) > 2_000_000, 1)


def never_reads_a_long_answer(talk, server):
    """Asks, with the smallest receive buffer there is, and reads nothing."""
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    talk.send(REQUEST)


DESCRIPTORS = 16


def more_clients_than_descriptors(talk, server):
    """Twice as many silent clients as the server may have descriptors; then all leave."""
    limit = kernel.descriptors(server.pid) + DESCRIPTORS  # of its first process
    server.limit(resource.RLIMIT_NOFILE, limit)

    def no_more():
        return kernel.descriptors(server.pid) >= limit

    def has_reacted():  # the server has let the newcomer in, or does not
        return no_more() or not kernel.accept_queue(server.address)[0] or server.is_asleep()

    with contextlib.suppress(OSError):  # nobody listens any more
        for _ in range(2 * DESCRIPTORS):
            _until_let_in(talk.another())
            # One at a time: a short queue must not be full before the descriptors are gone.
            until(has_reacted, DELIVERY)
            if no_more():
                talk.seconds = 0.05  # the others will find the queue full
    talk.close()


def head(talk, server):
    """Asks for the header alone."""
    talk.send(b"HEAD / HTTP/1.0\r\n\r\n")
    talk.read_all()


def a_bare_line_feed(talk, server):
    """Sends two line feeds, which ask for nothing, and a FIN in the same segment; stays to read."""
    _cork(talk)
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
    """Asks when nobody reads any more what the server prints."""
    until(server.is_asleep)
    server.close_console()
    plain_get(talk, server)
