"""One thread, level-triggered epoll, answers in pieces, which a cork keeps together.

A client of HTTP/1.1 may send several requests at once, and keeps its connection. All
that it is to get leaves in as few segments as possible: the socket is corked before
the first piece, and the cork is pulled after the last. As connections last, their end
is seen: who leaves costs nothing, asked or not. The server does not survive a client
that asks and leaves, a reset, a request that is not UTF-8, more clients than it may
have descriptors, or a closed console.
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


def is_last(request):
    """Does the client expect us to close? HTTP/1.0 does, and whoever says so."""
    return b"HTTP/1.1" not in request or b"connection: close" in request.lower()


def cork(connection, on):
    """Keep back what does not fill a segment, or let it go, tcp(7)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)


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
        while not is_over[fd] and (end := END.search(requests[fd])):
            request, requests[fd] = requests[fd][: end.end()], requests[fd][end.end() :]
            print("-" * 40 + "\n" + request.decode()[:-2], flush=True)
            unsent[fd] += PIECES
            is_over[fd] = is_last(request)
        if unsent[fd]:
            epoll.modify(fd, select.EPOLLOUT)
            cork(connections[fd], True)
        elif not data:
            forget(fd)

    def write(fd):
        sent = connections[fd].send(unsent[fd][0])
        unsent[fd][0] = unsent[fd][0][sent:]
        if not unsent[fd][0]:
            unsent[fd].pop(0)
        if unsent[fd]:
            return
        cork(connections[fd], False)
        if is_over[fd]:
            epoll.modify(fd, 0)
            connections[fd].shutdown(socket.SHUT_RDWR)
        else:
            epoll.modify(fd, select.EPOLLIN)

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
