"""One loop for the sockets, four threads for the database, and one-shot between them.

The loop hands a socket that is ready to a worker. The kernel reports it no more until the
worker arms it again, so it is in one pair of hands at a time. An error of one client costs
a worker: after four of them (a reset, a request that is not UTF-8, a closed console, a
client that asks and leaves) the server takes connections and answers none. One that leaves
before its request is whole makes it spin; more clients than it may have descriptors end it.
"""

import contextlib
import queue
import select
import signal
import socket
import sqlite3
import sys
import tempfile
import threading

BACKLOG = 128
WORKERS = 4
ONE_SHOT = select.EPOLLONESHOT
QUERY = "SELECT body FROM pages"
ANSWER = (
    b"HTTP/1.0 200 OK\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: %d\r\n"
    b"\r\n"
    b"%b"
)


def is_whole(request):
    """Has the header ended? An empty line ends it, with or without carriage returns."""
    return b"\n\r\n" in request or b"\n\n" in request


def connect(path):
    return sqlite3.connect(path)


def fill(path):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE pages (body BLOB)")
        database.execute("INSERT INTO pages VALUES (?)", [b"Hello, world!"])


def serve(listener):
    connections, requests, unsent = {}, {}, {}  # each by descriptor
    ready = queue.SimpleQueue()  # what to do, and with which socket

    def admit():
        connection, address = listener.accept()
        connection.setblocking(False)
        fd = connection.fileno()
        epoll.register(fd, select.EPOLLIN | ONE_SHOT)
        connections[fd], requests[fd] = connection, b""

    def arm(fd, events):
        epoll.modify(fd, events | ONE_SHOT)  # from here on it may be another worker's

    def read(fd, database):
        requests[fd] += connections[fd].recv(1024)
        if is_whole(requests[fd]):
            print("-" * 40 + "\n" + requests[fd].decode()[:-2], flush=True)
            (body,) = database.execute(QUERY).fetchone()
            unsent[fd] = ANSWER % (len(body), body)
            arm(fd, select.EPOLLOUT)
        else:
            arm(fd, select.EPOLLIN)

    def write(fd, database):
        sent = connections[fd].send(unsent[fd])
        unsent[fd] = unsent[fd][sent:]
        if unsent[fd]:
            arm(fd, select.EPOLLOUT)
        else:
            connections[fd].shutdown(socket.SHUT_RDWR)
            arm(fd, 0)

    def forget(fd):
        epoll.unregister(fd)
        connections.pop(fd).close()

    def work(path):
        with contextlib.closing(connect(path)) as database:
            while True:
                act, fd = ready.get()
                act(fd, database)

    listener.setblocking(False)
    with tempfile.NamedTemporaryFile(suffix=".db") as file, select.epoll() as epoll:
        fill(file.name)
        for _ in range(WORKERS):
            threading.Thread(target=work, args=[file.name], daemon=True).start()
        epoll.register(listener, select.EPOLLIN)
        while True:
            for fd, events in epoll.poll():
                if fd == listener.fileno():
                    admit()
                elif events & select.EPOLLIN:
                    ready.put((read, fd))
                elif events & select.EPOLLOUT:
                    ready.put((write, fd))
                elif events & select.EPOLLHUP:
                    forget(fd)


def main():
    """Listen on 127.0.0.1, at the command line's port or 8080, and serve.

    Ctrl-C and SIGTERM unwind the stack, so every socket is closed on the way out.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, frame: sys.exit(0))
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


def complain(reason):
    print(f"{sys.argv[0]}: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
