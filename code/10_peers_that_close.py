"""One thread, level-triggered epoll, and each client's end is its own affair.

Whoever asks is answered, half-closed or not. An error ends the connection that it came
from. Connections last as HTTP/1.1 has it; after the last answer comes a FIN, and what
the client still sends is thrown away until it ends, too, or a second is over. Out of
descriptors, the server accepts none until one is free.

What it lacks are deadlines and limits: a silent client holds its descriptor for ever,
a header may grow without end, and a console that is full, and not read, stops all. Of
HTTP it knows little: a body is not read, and the answer to it is the last one.
"""

import contextlib
import os
import re
import select
import signal
import socket
import sys
import time

BACKLOG = 128
PATIENCE = 1  # seconds: for a client to end, or a descriptor to be free again
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n%b\r\n%b"
)
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
END = re.compile(rb"\n\r?\n")  # of a header: an empty line
ASKS = re.compile(rb"(?:\r?\n)?([A-Z]+) \S+ HTTP/1\.([01])\r?\n")
LAST = re.compile(rb"(?im)^(connection:.*\bclose\b|content-length|transfer-encoding)")


def answer_to(request):
    """What a request gets, and whether the connection carries no more after it."""
    asks = ASKS.match(request)
    if not asks:
        return REFUSAL, True
    is_last = asks[2] == b"0" or bool(LAST.search(request))
    body = b"" if asks[1] == b"HEAD" else b"Hello, world!"
    return ANSWER % (b"Connection: close\r\n" * is_last, body), is_last


def say(request):
    """Print it as bytes, line by line: no control character reaches the terminal."""
    try:
        print("-" * 40, *map(bytes, request.splitlines()), sep="\n", flush=True)
    except OSError:  # the console is gone; from now on it goes nowhere, if it can
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Client:
    """A connection: what came and is no whole request yet, and what is to be sent."""

    def __init__(self, connection):
        self.connection, self.has_asked_all = connection, False
        self.received, self.unsent = bytearray(), bytearray()


def serve(listener):
    clients, deadlines = {}, {}  # by descriptor; the first deadline is the first due

    def admit():
        connection, address = listener.accept()
        connection.setblocking(False)
        # An urgent byte among the others: left unread, it makes close a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        epoll.register(connection, select.EPOLLIN)
        clients[connection.fileno()] = Client(connection)

    def read(fd):
        client, data = clients[fd], clients[fd].connection.recv(65536)
        if not data:  # it sends no more, and all that it asked for is sent
            drop(fd)
        elif not client.has_asked_all:
            seam = client.received[-2:] + data  # an end may lie across two pieces
            client.received += data
            if END.search(seam):
                answer(client)
                epoll.modify(fd, select.EPOLLOUT)

    def answer(client):
        *requests, rest = END.split(client.received)
        client.received = bytearray(rest)
        for request in requests:
            if not client.has_asked_all:
                say(request)
                reply, client.has_asked_all = answer_to(request + b"\n")
                client.unsent += reply

    def write(fd):
        client = clients[fd]
        del client.unsent[: client.connection.send(client.unsent)]
        if not client.unsent:
            epoll.modify(fd, select.EPOLLIN)
            if client.has_asked_all:
                client.connection.shutdown(socket.SHUT_WR)
                deadlines[fd] = time.monotonic() + PATIENCE

    def drop(fd):
        deadlines.pop(fd, None)
        clients.pop(fd).connection.close()  # which takes it off the interest list
        resume()

    def pause():
        epoll.modify(listener, 0)
        deadlines[listener.fileno()] = time.monotonic() + PATIENCE

    def resume():
        if deadlines.pop(listener.fileno(), None):
            epoll.modify(listener, select.EPOLLIN)

    def seconds_left():
        """Until the first deadline; None if there is none."""
        due = next(iter(deadlines.values()), None)
        return due and max(0, due - time.monotonic())

    listener.setblocking(False)
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in epoll.poll(seconds_left()):
                try:
                    if fd == listener.fileno():
                        admit()
                    elif clients[fd].unsent:
                        write(fd)
                    else:
                        read(fd)
                except (BlockingIOError, ConnectionAbortedError):
                    pass  # a false alarm; if it was not, it is reported again
                except OSError:  # no descriptor for a newcomer; or one client's wreck
                    drop(fd) if fd in clients else pause()
            while seconds_left() == 0:
                fd = next(iter(deadlines))
                drop(fd) if fd in clients else resume()


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
