"""Clients: a plain one, and a conversation that is led by hand.

`get` asks and returns the answer. A `Conversation` is a connection led step by step, which
remembers what it sent and got and when. Nothing here waits for ever: every operation has a
deadline.
"""

import contextlib
import ctypes
import errno
import http.client
import io
import socket
import struct
import threading
import time
from dataclasses import dataclass

from look import kernel

from .waiting import until

REQUEST = b"GET / HTTP/1.0\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"  # its connection is kept
SECONDS = 5
ENDS = {"closed": "closed", "reset": "was reset"}  # the name of an end among the events
MOST_RECEIVED = 64_000_000  # bytes, in a conversation
SO_ATTACH_FILTER, SO_DETACH_FILTER, BPF_RET = 26, 27, 0x06  # asm-generic/socket.h, bpf_common.h


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: status as a number, headers by lower-case name, body in bytes."""

    status: int
    headers: dict
    body: bytes

    def __str__(self):
        return f"{self.status} {self.body.decode('utf-8', 'backslashreplace')!r}"


class _Unclosed(io.BytesIO):
    """A file of bytes that http.client can't close: it reads one answer after another from it."""

    def makefile(self, mode):
        return self

    def close(self):
        pass


def parse_answers(raw, method="GET"):
    """Return the complete HTTP answers in raw bytes, up to the first that is not HTTP."""
    source, answers = _Unclosed(raw), []
    while (start := source.tell()) < len(raw):
        response = http.client.HTTPResponse(source, method=method)
        try:
            response.begin()
            if not raw[start : source.tell()].endswith((b"\n\r\n", b"\n\n")):
                break  # http.client takes the end of input for the end of a header
            body = response.read()
        except (http.client.HTTPException, ValueError):
            break
        headers = {name.lower(): value for name, value in response.getheaders()}
        answers.append(Answer(response.status, headers, body))
    return answers


class _Habit:
    """A thread that takes one step again and again, until stop() or an error of a connection.

    step: a function; what it returns ends the thread if it is False. pause: seconds between two.
    """

    def __init__(self, step, pause):
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self._go_on, args=[step, pause])
        self.thread.start()

    def _go_on(self, step, pause):
        with contextlib.suppress(ConnectionError):
            goes_on = True
            while goes_on is not False and not self.enough.wait(pause):
                with contextlib.suppress(TimeoutError):
                    goes_on = step()

    def stop(self):
        self.enough.set()
        self.thread.join()


class Conversation:
    """One connection, led by hand: connect, send, receive, half-close, close, reset.

    address: (host, port). name: what pictures call it. seconds: the deadline of every operation,
    after which it raises TimeoutError. receive_buffer: its size in bytes, SO_RCVBUF, which keeps it
    from growing. `received` is all that came so far, `ended` how the other
    side's half ended: "closed", "reset", or None. `events` lists (time, what, bytes), where what is
    "calls", "connected", "sent", "half-closed", "vanished", "left" or "reset", which are its own
    acts, or "got", "closed" or "was reset", which are the other side's. What an awkward client
    finds out about the server: `fault` says what the client can't tell by its own answer, in
    words; `taken` is (bytes of memory that the server had before, bytes that it then took).
    comes_alone: where many would overstay, it stays alone.
    """

    def __init__(self, address, name="client", seconds=SECONDS, receive_buffer=None):
        self.address, self.name, self.seconds = address, name, seconds
        self.events, self._received, self.ended = [], bytearray(), None
        self.others = []  # conversations that this one has opened beside it
        self.has_said_all = False  # has it come to the point where it only listens?
        self.fault, self.taken, self.comes_alone = "", None, False
        self._habits, self._has_vanished = [], False
        began = time.monotonic()
        self.socket = socket.create_connection(address, timeout=seconds)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        local = self.socket.getsockname()
        self.port = local[1]  # our own: the kernel's tables know us by it
        self.ends = address, local  # as the server has them; a socket that was reset forgets them
        self.events.append((began, "calls", 0))
        self.note("connected")

    def note(self, what, count=0):
        """Remember that something happened now, as one of the events."""
        self.events.append((time.monotonic(), what, count))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def received(self):
        """Return all bytes received so far, in a bytearray that grows in place."""
        return bytes(self._received)

    @property
    def is_closed(self):
        """Tell whether our own end has been closed."""
        return self.socket.fileno() < 0

    def state(self):
        """Return the state of our end, as TCP names it."""
        return kernel.state_of(self.socket)

    def another(self):
        """Begin another conversation with the same server; it is closed with this one."""
        other = Conversation(self.address, f"{self.name}, again", self.seconds)
        self.others.append(other)
        return other

    def send(self, data):
        """Send all of data. Raises TimeoutError, BrokenPipeError, ConnectionResetError."""
        self.socket.sendall(data)
        self.note("sent", len(data))

    def keep_doing(self, step, pause=0):
        """Take a step again and again from now on, in a thread, until stop_sending().

        step: a function; the thread ends when it returns False, or raises ConnectionError. pause:
        seconds between two steps.
        """
        self.socket.settimeout(0.1)  # how long stop_sending() may have to wait
        self._habits.append(_Habit(step, pause))

    def keep_sending(self, piece):
        """Send a piece again and again from now on, in a thread, until stop_sending()."""
        self.keep_doing(lambda: self.note("sent", self.socket.send(piece)))

    def is_active(self):
        """Tell whether a thread still does what keep_sending() or keep_doing() has begun."""
        return any(habit.thread.is_alive() for habit in self._habits)

    def stop_sending(self):
        """End what keep_sending() and keep_doing() have begun, if anything."""
        for habit in self._habits:
            habit.stop()
        if self._habits:
            self._habits = []
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
        self.note("got" if data else ENDS[self.ended], len(data))
        self._received += data
        return data

    def read_all(self, is_all=True):
        """Receive until the end of input, the deadline, or MOST_RECEIVED bytes; return all.

        is_all: it does nothing else from now on.
        """
        self.has_said_all = is_all
        deadline = time.monotonic() + self.seconds
        with contextlib.suppress(TimeoutError):
            while len(self._received) < MOST_RECEIVED and (left := deadline - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if not self.receive():
                    break
        self.socket.settimeout(self.seconds)
        return self.received

    def ask(self, pieces=1, pause=0):
        """Send a request in some pieces, and receive until the end of input; return all bytes.

        pause: seconds between two pieces.
        """
        size = -(-len(REQUEST) // pieces)
        for start in range(0, len(REQUEST), size):
            time.sleep(pause if start else 0)
            self.send(REQUEST[start : start + size])
        return self.read_all()

    def read_slowly(self, piece, pause):
        """Receive at most `piece` bytes, wait `pause` seconds, and so on to the end of input.

        The first wait is for the first byte.
        """
        until(lambda: kernel.unread(self.socket), self.seconds, "an answer to begin")
        while self.receive(piece):
            time.sleep(pause)

    def answers(self, method="GET"):
        """Return the complete HTTP answers received so far."""
        return parse_answers(self.received, method)

    def half_close(self):
        """Send no more (a FIN goes out), but stay to listen."""
        self.socket.shutdown(socket.SHUT_WR)
        self.note("half-closed")

    def vanish(self):
        """Acknowledge nothing from now on, and hear nothing."""
        vanish(self.socket)
        self._has_vanished = True
        self.note("vanished")

    def close(self):
        """Close: sends a FIN, or a reset if input is unread. To close twice does no harm.

        One that has vanished leaves with a reset: a FIN would be sent again and again.
        """
        self.stop_sending()
        for other in self.others:
            other.close()
        if not self.is_closed:
            if self._has_vanished:
                reset(self.socket)
            else:
                self.socket.close()
            self.note("left")

    def reset(self):
        """Leave with a reset."""
        self.stop_sending()
        reset(self.socket)
        self.note("reset")


def pair(send_buffer=None, receive_buffer=None):
    """Make a TCP connection over loopback; return its two sockets: the accepted one, its peer.

    send_buffer: of the accepted one, receive_buffer: of its peer, in bytes; then it does not grow.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    if send_buffer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    if receive_buffer:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    return ours, theirs


def reset(sock):
    """Close a socket with a reset: SO_LINGER on, with no time to linger, socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def vanish(sock):
    """Make a TCP socket deaf: the kernel drops every segment for it, and acknowledges nothing.

    What it sends still goes out. A filter of one instruction, "keep no byte", is attached to it:
    socket(7), SO_ATTACH_FILTER, and struct sock_filter in linux/filter.h.
    """
    keep_nothing = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(keep_nothing))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def reappear(sock):
    """Let a socket that has vanished hear again: what is sent from now on reaches it."""
    sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def drain(sock, amount):
    """Receive amount bytes, and forget them. Raises ConnectionError at an earlier end."""
    while amount:
        data = sock.recv(min(amount, 1 << 20))
        if not data:
            raise ConnectionError(f"the other end has closed, {amount} bytes too soon")
        amount -= len(data)


def outcome(call, *arguments):
    """Return what a call returns, or the name of the error that it raises: "EAGAIN" and so on.

    A deadline of the socket's own (settimeout) is "ETIMEDOUT", as a connection's is.
    """
    try:
        return call(*arguments)
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode[error.errno]


def is_full(address):
    """Tell whether the accept queue of a listener is so full that a SYN is dropped."""
    waiting, limit = kernel.accept_queue(address)
    return waiting > limit


def fill(sock, buffer=200_000):
    """Send on a non-blocking socket until its buffer, which this keeps from growing, stays full.

    buffer: its size, which the kernel doubles. Returns how many bytes were taken.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    sent = 0

    def stays_full():
        nonlocal sent
        before = sent
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += sock.send(b"x" * 65536)
        return sent == before

    until(stays_full, what="the send buffer to stay full")
    return sent


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
