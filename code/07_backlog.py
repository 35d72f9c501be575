"""One thread, level-triggered epoll, an accept queue of any length.

    python 07_backlog.py [PORT] [BACKLOG]

The kernel lets in BACKLOG + 1 clients, 1 + 1 unless told otherwise,
before the server has accepted one, and never more than
net.core.somaxconn + 1. The next client gets in after a second or more.
What the server does not survive is the same at any length: a client
that asks and leaves, a reset, a request that is not UTF-8, more
clients than it may have descriptors, a closed console. One that
leaves before its request is whole makes the server spin.
"""

import select
import signal
import socket
import sys

BACKLOG = 1
ANSWER = (
    b"HTTP/1.0 200 OK\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: 13\r\n"
    b"\r\n"
    b"Hello, world!"
)


def is_whole(request):
    """Has the header ended? An empty line ends it, with or without carriage returns."""
    return b"\n\r\n" in request or b"\n\n" in request


def serve(listener):
    connections, requests, unsent = {}, {}, {}  # each by descriptor

    def admit():
        connection, address = listener.accept()
        connection.setblocking(False)
        fd = connection.fileno()
        epoll.register(fd, select.EPOLLIN)
        connections[fd], requests[fd], unsent[fd] = connection, b"", ANSWER

    def read(fd):
        requests[fd] += connections[fd].recv(1024)
        if is_whole(requests[fd]):
            epoll.modify(fd, select.EPOLLOUT)
            print("-" * 40 + "\n" + requests[fd].decode()[:-2], flush=True)

    def write(fd):
        sent = connections[fd].send(unsent[fd])
        unsent[fd] = unsent[fd][sent:]
        if not unsent[fd]:
            epoll.modify(fd, 0)
            connections[fd].shutdown(socket.SHUT_RDWR)

    def forget(fd):
        epoll.unregister(fd)
        connections.pop(fd).close()

    listener.setblocking(False)
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


def take_backlog():
    """Take the queue's length off the command line, or 1; main wants the port."""
    if len(sys.argv) < 3:
        return 1
    length = sys.argv.pop(2)
    if not length.isdecimal() or len(length) > 5 or int(length) > 65535:
        complain("the length of the queue is a number from 0 to 65535")
    return int(length)


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
    BACKLOG = take_backlog()
    main()
