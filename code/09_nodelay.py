"""One thread, level-triggered epoll, answers in pieces, and no
piece waits for another.

A client of HTTP/1.1 may send several requests at once, and keeps its
connection. With TCP_NODELAY each piece of an answer leaves at once,
though the one before it has not been acknowledged. Connections inherit
the option from the listener; a client that connects before it is set
there goes without. As connections last, the server sees their end: a
client may leave before it asks and when it has read its answers. The server does not
survive one that asks and leaves, a reset, a request that is not UTF-8,
more clients than it may have descriptors, or a closed console. It takes
a body for the next request, and answers HEAD with a body; who sends on
after the last request may lose answers. What a client has sent is kept
until its descriptor's number is used again.
"""

import re
import select
import signal
import socket
import sys

BACKLOG = 1
PIECES = (
    b"HTTP/1.1 200 OK\r\n",
    b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n",
    b"Hello, world!",
)
END = re.compile(rb"\n\r?\n")  # of a header: an empty line
KEPT = re.compile(rb".* HTTP/1\.1\r?\n")
CLOSE = re.compile(rb"^connection:.*\bclose\b", re.IGNORECASE | re.MULTILINE)


def is_whole(request):
    """Has the header ended? An empty line ends it, with or without carriage returns."""
    return b"\n\r\n" in request or b"\n\n" in request


def is_last(request):
    """Does the client expect us to close? HTTP/1.0 does, and who says close."""
    return not KEPT.match(request) or bool(CLOSE.search(request))


def send_at_once(listener):
    """Switch Nagle's algorithm off, for all connections that will be made, tcp(7)."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def serve(listener):
    connections, requests, unsent, is_over = {}, {}, {}, {}  # each by descriptor

    def admit():
        connection, address = listener.accept()
        connection.setblocking(False)
        fd = connection.fileno()
        epoll.register(fd, select.EPOLLIN)
        connections[fd], requests[fd], unsent[fd] = connection, b"", []
        is_over[fd] = False

    def read(fd):
        data = connections[fd].recv(1024)
        requests[fd] += data
        while is_whole(requests[fd]) and not is_over[fd]:
            end = END.search(requests[fd]).end()
            request, requests[fd] = requests[fd][:end], requests[fd][end:]
            print("-" * 40 + "\n" + request.decode()[:-2], flush=True)
            unsent[fd] += PIECES
            is_over[fd] = is_last(request)
        if unsent[fd]:
            epoll.modify(fd, select.EPOLLOUT)
        elif not data:
            forget(fd)

    def write(fd):
        sent = connections[fd].send(unsent[fd][0])
        unsent[fd][0] = unsent[fd][0][sent:]
        if not unsent[fd][0]:
            unsent[fd].pop(0)
        if unsent[fd]:
            return
        if is_over[fd]:
            epoll.modify(fd, 0)
            connections[fd].shutdown(socket.SHUT_RDWR)
        else:
            epoll.modify(fd, select.EPOLLIN)

    def forget(fd):
        epoll.unregister(fd)
        connections.pop(fd).close()

    listener.setblocking(False)
    send_at_once(listener)
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        while True:
            for fd, events in epoll.poll(1):
                if fd == listener.fileno():
                    admit()
                elif events & select.EPOLLIN:
                    read(fd)
                elif events & select.EPOLLOUT:
                    write(fd)
                elif events & select.EPOLLHUP:
                    forget(fd)


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
