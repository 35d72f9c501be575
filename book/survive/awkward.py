"""The awkward clients: each a function that says in its docstring what it does on the wire.

Each takes (talk, server): talk is a Conversation, connected just now, that nobody has used; server
is a Server. When it returns without closing talk, its client stays. Each forces the order of
events, by a cork, SIGSTOP or a handshake: what comes of it is never how a race went.

Those that overstay are many: as many as the server's first process has descriptors left. They come
one at a time, do the same, and stay.
"""

import contextlib
import functools
import resource
import signal
import socket
import ssl
import time

from look import kernel

from .clients import KEPT, REQUEST, is_full, vanish
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


def _until_quiet(server):
    """Wait until the server has served who came before: it sleeps, with nothing unread.

    Or it can't, and sleeps on and on though somebody waits.
    """
    asleep_since = None

    def is_quiet():
        nonlocal asleep_since
        if not server.is_asleep():
            asleep_since = None
            return False
        asleep_since = asleep_since or time.monotonic()
        return server.is_at_rest() or time.monotonic() - asleep_since > 0.5

    with contextlib.suppress(TimeoutError):
        until(is_quiet, DELIVERY)


def _has_arrived(talk):
    """Tell whether all that we have sent has arrived, or the connection has been reset."""
    return talk.state() == "CLOSE" or not kernel.queues_of(talk.socket)[1]


def _until_dealt_with(talk, server, seconds=DELIVERY):
    """Wait until what we have sent has arrived, and the server sleeps again; at most `seconds`.

    It is awake from the moment at which something arrives that it waits for. Tells whether it came
    to sleep.
    """
    with contextlib.suppress(TimeoutError):
        until(lambda: _has_arrived(talk), seconds, "data to arrive")
        return bool(until(server.is_asleep, seconds, "the server to sleep"))
    return False


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
            if is_full(server.address):
                break  # one more would wait for a second
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
    talk.send(KEPT + b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    talk.read_all()


HEADER = 64_000_000  # bytes
HEADER_LINES = (b"X-More: " + b"x" * 1014 + b"\r\n") * 64  # 64 kB
HEADER_LEAST, SLOW = 1_000_000, 10_000_000  # less is enough if fewer are taken in a second


def a_header_without_end(talk, server):
    """Sends up to 64 MB of header lines, as fast as they are read, never the empty one; stays."""
    _until_quiet(server)  # who came before has been served, also by one that reads without end
    before = server.memory()
    began = time.monotonic()
    sent = 0

    def on_its_way():  # sent, and not read yet
        end = kernel.find_socket(*talk.ends)
        return kernel.queues_of(talk.socket)[1] + end.unread if end else 0

    def until_fewer_wait(most):
        while (waiting := on_its_way()) > most:
            until(lambda: on_its_way() < waiting, 2, "some of it to be read")

    def is_enough():
        took = time.monotonic() - began
        return sent - on_its_way() > HEADER_LEAST and took > 1 and sent < SLOW * took

    talk.send(b"GET / HTTP/1.0\r\n")
    with contextlib.suppress(TimeoutError):  # it reads nothing for a while: that is enough, too
        while sent + len(HEADER_LINES) <= HEADER and not is_enough():
            until_fewer_wait(3 * len(HEADER_LINES))
            talk.send(HEADER_LINES)  # raises an error when it is refused
            sent += len(HEADER_LINES)
        until_fewer_wait(0)
    talk.taken = before, sent - on_its_way()


def sends_without_pause(talk, server):
    """Sends bytes without a line end, as fast as they are taken, and never stops."""
    # Small buffers: a server that has let it go on has soon read what is left.
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    talk.keep_sending(b"x" * 16384)
    with contextlib.suppress(TimeoutError):
        until(lambda: sum(count for _, _, count in talk.events) > 2_000_000, 1)


def asks_without_pause(talk, server):
    """Pipelines requests as fast as they are taken, reads each answer at once, and never stops."""

    def has_sent(size):
        return sum(n for _, what, n in talk.events if what == "sent") > size

    _until_quiet(server)
    with server.paused():  # a queue is there from the beginning, and is never worked off
        talk.keep_sending(KEPT * 400)
        until(lambda: has_sent(1_000_000), DELIVERY, "the send buffer to fill")
    talk.keep_doing(lambda: bool(talk.receive()))
    with contextlib.suppress(TimeoutError):
        until(lambda: has_sent(4_000_000) or not talk.is_active(), 1)


DESCRIPTORS = 16
DRIP, SIP = 0.1, 1  # seconds between two bytes: of those that drip, of those that sip


def _limit_descriptors(server):
    """Leave the server's first process so many descriptors; return how many it may have in all."""
    limit = kernel.descriptors(server.pid) + DESCRIPTORS
    server.limit(resource.RLIMIT_NOFILE, limit)
    return limit


def _come_until_full(talk, server, begin):
    """Have clients come one at a time until the server's first process has no descriptor left.

    begin: what each does first, a function of its Conversation, and of one that waits until the
    server has dealt with what it is given, a Conversation. The next client comes when the server
    has dealt with that. Fewer come if the server lets no more in, or has ended; none if the first
    comes alone.
    """

    def wait(client):
        _until_dealt_with(client, server, seconds)

    def start(client):
        with contextlib.suppress(ConnectionError):  # it has been turned away
            begin(client, wait)
            wait(client)

    _until_let_in(talk)
    # For one that never sleeps, because it has something else to do, nobody waits long.
    seconds = DELIVERY if _until_dealt_with(talk, server) else 0.05
    if talk.comes_alone:
        return start(talk)
    limit = _limit_descriptors(server)
    with contextlib.suppress(OSError):  # it has ended
        start(talk)
        while len(talk.others) < 2 * DESCRIPTORS:
            if kernel.descriptors(server.pid) >= limit or is_full(server.address):
                break
            client = talk.another()
            _until_let_in(client)
            wait(client)
            start(client)
    return None


def _keep_all_doing(talk, step, pause):
    """Have all clients take a step again and again; one that has been turned away takes no more."""

    def all_do():
        for client in (talk, *talk.others):
            if client.ended or client.is_closed:
                continue
            try:
                step(client)
            except OSError:
                client.ended = client.ended or "reset"

    talk.keep_doing(all_do, pause)


def _drip(talk, server, start):
    """Have clients come, each of whom sends a start, and then a byte ten times a second."""

    def begin(client, wait):
        client.send(start)
        wait(client)
        client.send(b"x")

    _come_until_full(talk, server, begin)
    _keep_all_doing(talk, lambda client: client.send(b"x"), DRIP)


def _ask_with_a_small_buffer(client, wait):
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.send(REQUEST)


def silent_at_the_descriptor_limit(talk, server):
    """As many as the server has descriptors for connect one by one, say nothing and stay."""
    _come_until_full(talk, server, lambda client, wait: None)


def drips_a_header(talk, server):
    """As many begin a header line, to which they add a byte ten times a second, for ever."""
    _drip(talk, server, KEPT[:-2] + b"X-Drip: ")


def drips_a_body(talk, server):
    """As many send a header and then its body, a megabyte, at ten bytes a second."""
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    _drip(talk, server, head)


def never_reads_a_long_answer(talk, server):
    """As many ask, with the smallest receive buffer there is, and read nothing of a long answer."""
    _come_until_full(talk, server, _ask_with_a_small_buffer)


def reads_a_long_answer_one_byte_a_second(talk, server):
    """As many ask, with the smallest receive buffer there is, and read a byte each second."""

    def sip(client):
        if kernel.unread(client.socket):
            client.receive(1)

    _come_until_full(talk, server, _ask_with_a_small_buffer)
    _keep_all_doing(talk, sip, SIP)


def vanishes_while_idle(talk, server):
    """As many connect, and are gone: nothing that the server sends is ever acknowledged."""
    _come_until_full(talk, server, lambda client, wait: client.vanish())


def vanishes_with_an_answer_unread(talk, server):
    """As many ask for a long answer, and are gone when the server has begun to send it."""

    def begin(client, wait):
        _ask_with_a_small_buffer(client, wait)
        wait(client)
        client.vanish()

    _come_until_full(talk, server, begin)


def more_clients_than_descriptors(talk, server):
    """Twice as many silent clients as the server may have descriptors; then all leave."""
    limit = _limit_descriptors(server)

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


def its_console_full_and_not_read(talk, server):
    """Asks when the pipe that the server prints into is full, and nobody reads it."""
    _until_quiet(server)
    server.fill_console()
    plain_get(talk, server)


def its_logs_disk_full_then_not(talk, server):
    """Asks when the file that the server prints into can't grow; when it can, another one asks."""
    _until_quiet(server)
    before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[0]
    # EFBIG stands for ENOSPC: Python ignores the signal that would come with it, SIGXFSZ.
    server.limit(resource.RLIMIT_FSIZE, server.log.stat().st_size)
    talk.send(REQUEST)
    talk.read_all(is_all=False)
    server.limit(resource.RLIMIT_FSIZE, before)
    size = len(server.printed())
    other = talk.another()
    other.send(b"GET /room HTTP/1.0\r\n\r\n")
    other.read_all()
    if "/room" not in server.printed(lambda log: "/room" in log[size:], 1)[size:]:
        talk.fault = "its log stays empty after the disk has room"


def _tell_to_end(server, talk):
    """Send SIGTERM to the server's main thread: of those of a stopped process any might get it."""
    talk.note("SIGTERM")
    server.send_signal(signal.SIGTERM, server.pid)


def _until_told(server):
    """Wait until the server has acted on SIGTERM, as far as one can tell.

    It has ended, or it listens no more and sleeps. One that is about to end does not sleep.
    """

    def has_acted():
        if not server.is_running():
            return True
        return not kernel.find_socket(server.address) and server.is_asleep()

    with contextlib.suppress(TimeoutError, ProcessLookupError):
        until(has_acted, DELIVERY)


def _read_the_rest(talk):
    """Read to the end; what has come whole, and ended in order, is no fault."""
    talk.read_all()
    if talk.answers() and talk.ended == "closed":
        talk.fault = ""


def sigterm_while_clients_wait_in_the_queue(talk, server):
    """Ten ask while the server is stopped, or as many as its queue takes; then SIGTERM comes."""
    plain_get(talk, server)
    _until_dealt_with(talk, server)
    with server.paused():
        while len(talk.others) < TOGETHER:
            if is_full(server.address):
                break
            _until_let_in(talk.another())
            _send_and_wait(talk.others[-1], REQUEST)
        _tell_to_end(server, talk)
    deadline = time.monotonic() + talk.seconds
    for each in talk.others:
        each.seconds = max(0.1, deadline - time.monotonic())
        each.read_all()
    lost = [each.ended for each in talk.others if len(each.answers()) != 1]
    if lost:
        what = "were reset" if set(lost) == {"reset"} else "got no answer"
        talk.fault = f"{len(lost)} of {len(talk.others)} queued requests {what}"


def sigterm_while_a_request_is_half_read(talk, server):
    """Sends half a request; when that has been read, SIGTERM comes, and then the other half."""
    talk.fault = "the request that was half read got no answer"
    talk.send(HALF)
    _until_read(talk, 1)
    _until_dealt_with(talk, server)
    _tell_to_end(server, talk)
    _until_told(server)
    talk.send(REQUEST[len(HALF) :])
    _read_the_rest(talk)


def sigterm_while_an_answer_is_half_read(talk, server):
    """Asks for a long answer; when some has been read, SIGTERM comes, and then the rest is read."""
    talk.fault = "the answer that was half read was cut off"
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    talk.send(REQUEST)
    talk.receive()
    _until_dealt_with(talk, server)
    _tell_to_end(server, talk)
    _until_told(server)
    _read_the_rest(talk)
