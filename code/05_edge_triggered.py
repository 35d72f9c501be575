"""One thread, edge-triggered epoll: it is told once, and takes all there is.

It accepts, receives and sends until the kernel has no more for it, and
takes every error for that. A client that ends its half of the connection,
with or without a request, stops the server for good: at the end of input
nothing raises. A client that sends without pause stops the server as long
as it sends, and fills its memory. More clients than the server may have
descriptors, and than fit into its queue, leave it deaf. A reset leaves a
descriptor behind; just before the shutdown, it ends the server. So does a
request that is not UTF-8, and so does a closed console.
"""

import contextlib
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
        with contextlib.suppress(OSError):
            while True:
                connection, address = listener.accept()
                connection.setblocking(False)
                fd = connection.fileno()
                epoll.register(fd, select.EPOLLIN | select.EPOLLET)
                connections[fd] = connection
                requests[fd], unsent[fd] = b"", ANSWER

    def read(fd):
        with contextlib.suppress(OSError):
            while True:
                requests[fd] += connections[fd].recv(1024)
        if is_whole(requests[fd]):
            epoll.modify(fd, select.EPOLLOUT | select.EPOLLET)
            print("-" * 40 + "\n" + requests[fd].decode()[:-2], flush=True)

    def write(fd):
        with contextlib.suppress(OSError):
            while unsent[fd]:
                sent = connections[fd].send(unsent[fd])
                unsent[fd] = unsent[fd][sent:]
        if not unsent[fd]:
            epoll.modify(fd, select.EPOLLET)
            connections[fd].shutdown(socket.SHUT_RDWR)

    def forget(fd):
        epoll.unregister(fd)
        connections.pop(fd).close()

    listener.setblocking(False)
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN | select.EPOLLET)
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
