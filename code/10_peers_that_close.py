"""One thread, level-triggered epoll: a client's end harms no other.

Whoever asks is answered, half-closed or not. An error ends the
connection that it came from. Connections last as HTTP/1.1 has it; after
the last answer comes a FIN, and what the client still sends is thrown
away until its FIN comes, or a second is over. Out of descriptors, the
server accepts nobody until one is free. A client that has vanished is
given up after a minute. What the console does not take is not printed.

It lacks deadlines and limits: a silent client that is there holds its
descriptor for ever, a header may grow without end, and a console that
is full, and waits to be read, stops all. Of HTTP it knows little: a
body is not read, and the answer to its request is the last one. A body
in chunks, whose length nobody has told, is refused.
"""

import contextlib
import errno
import os
import re
import select
import signal
import socket
import sys
import time

BACKLOG = 128
PATIENCE = 1  # seconds: for a client to end, or a descriptor to be free
IDLE, EVERY, VANISHED = 30, 10, 60  # seconds: see watch_over
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 13\r\n%b\r\n%b"
)
REFUSAL = b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
END = re.compile(rb"\n\r?\n")  # of a header: an empty line
ASKS = re.compile(rb"(?:\r?\n)?([A-Z]+) \S+ HTTP/1\.([01])\r?\n")
CHUNKED = re.compile(rb"(?im)^transfer-encoding")
LAST = re.compile(rb"(?im)^(connection:.*\bclose\b|content-length)")


def answer_to(request):
    """Return what a request gets, and whether nothing follows it."""
    asks = ASKS.match(request)
    if not asks:
        return REFUSAL % b"400 Bad Request", True
    if CHUNKED.search(request):
        return REFUSAL % b"411 Length Required", True
    is_last = asks[2] == b"0" or bool(LAST.search(request))
    body = b"" if asks[1] == b"HEAD" else b"Hello, world!"
    return ANSWER % (b"Connection: close\r\n" * is_last, body), is_last


def say(request):
    """Print a request as bytes: no control character gets through."""
    lines = ["-" * 40, *map(repr, map(bytes, request.splitlines())), ""]
    if sys.stdout:  # past its buffer, which would keep what is not taken
        with contextlib.suppress(OSError):  # it is full now, or is gone
            os.write(sys.stdout.fileno(), "\n".join(lines).encode())


def watch_over(listener):
    """Have the kernel find out who has vanished.

    Connections inherit both: a client silent for IDLE seconds is probed,
    one that acknowledges nothing for VANISHED is given up, tcp(7).
    """
    tcp = socket.IPPROTO_TCP
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(tcp, socket.TCP_KEEPIDLE, IDLE)
    listener.setsockopt(tcp, socket.TCP_KEEPINTVL, EVERY)
    listener.setsockopt(tcp, socket.TCP_USER_TIMEOUT, VANISHED * 1000)


class Client:
    """A connection, part of a request, and what is unsent."""

    def __init__(self, connection):
        self.connection, self.has_asked_all = connection, False
        self.received, self.unsent = bytearray(), bytearray()


class Loop:
    """The event loop. clients, deadlines: by descriptor.

    All deadlines are equally long: the first made is the first due.
    """

    def __init__(self, listener):
        self.listener, self.epoll = listener, select.epoll()
        self.clients, self.deadlines = {}, {}

    def run(self):
        self.listener.setblocking(False)
        with self.epoll:
            self.epoll.register(self.listener, select.EPOLLIN)
            while True:
                for fd, _ in self.epoll.poll(self.seconds_left()):
                    self.serve(fd)
                while self.seconds_left() == 0:
                    self.give_up(next(iter(self.deadlines)))

    def serve(self, fd):
        """Do what comes next for a descriptor, whatever its event."""
        try:
            if fd == self.listener.fileno():
                self.admit()
            elif self.clients[fd].unsent:
                self.write(fd)
            else:
                self.read(fd)
        except BlockingIOError:
            pass  # a false alarm; if it was not, it is reported again
        except OSError as error:
            if fd in self.clients:
                self.drop(fd)
            elif error.errno in SCARCE:
                self.pause()  # any other: that newcomer is gone

    def admit(self):
        connection, address = self.listener.accept()
        connection.setblocking(False)
        # An urgent byte among the others: unread it makes close a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.epoll.register(connection, select.EPOLLIN)
        self.clients[connection.fileno()] = Client(connection)

    def read(self, fd):
        client = self.clients[fd]
        data = client.connection.recv(65536)
        if not data:  # it sends no more, and all it asked for is sent
            self.drop(fd)
        elif not client.has_asked_all:
            seam = client.received[-2:] + data  # may have the end
            client.received += data
            if END.search(seam):
                self.answer(client)
                self.epoll.modify(fd, select.EPOLLOUT)

    def answer(self, client):
        *requests, rest = END.split(client.received)
        client.received = bytearray(rest)
        for request in requests:
            if not client.has_asked_all:
                say(request)
                reply, client.has_asked_all = answer_to(request + b"\n")
                client.unsent += reply

    def write(self, fd):
        client = self.clients[fd]
        del client.unsent[: client.connection.send(client.unsent)]
        if not client.unsent:
            self.epoll.modify(fd, select.EPOLLIN)
            if client.has_asked_all:
                client.connection.shutdown(socket.SHUT_WR)
                self.deadlines[fd] = time.monotonic() + PATIENCE

    def drop(self, fd):
        self.deadlines.pop(fd, None)
        self.clients.pop(fd).connection.close()  # and is off the list
        self.resume()

    def pause(self):
        self.epoll.modify(self.listener, 0)
        due = time.monotonic() + PATIENCE
        self.deadlines[self.listener.fileno()] = due

    def resume(self):
        if self.deadlines.pop(self.listener.fileno(), None):
            self.epoll.modify(self.listener, select.EPOLLIN)

    def give_up(self, fd):
        """A deadline is over: a client's, or the listener's pause."""
        if fd in self.clients:
            self.drop(fd)
        else:
            self.resume()

    def seconds_left(self):
        """Return how long until the first deadline, None without."""
        if not self.deadlines:
            return None
        first = next(iter(self.deadlines.values()))
        return max(0, first - time.monotonic())


def serve(listener):
    watch_over(listener)
    Loop(listener).run()


def main():
    """Listen on 127.0.0.1, at the command line's port or 8080, and serve.

    Ctrl-C and SIGTERM unwind the stack, so every socket is closed on the way out.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    port = sys.argv[1] if len(sys.argv) > 1 else "8080"
    is_number = port.isdecimal() and len(port) < 6
    if len(sys.argv) > 2 or not is_number or int(port) > 65535:
        complain("give one port, a number from 0 (any free one) to 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", int(port)))
            listener.listen(BACKLOG)
        except OSError as error:
            complain(f"port {port}: {error.strerror}; try another, or 0")
        print("listening on {}:{}".format(*listener.getsockname()), flush=True)
        serve(listener)


def stop(number, frame):
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second one must not disturb the first
    sys.exit(0)


def complain(reason):
    print(f"{sys.argv[0]}: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
