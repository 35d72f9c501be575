"""One loop for the sockets, four threads for the database, and one-shot
between them.

The loop hands a socket that is ready to a worker. The kernel does not
report that socket again until the worker arms it, so one thread has it
at a time. An error ends the worker that meets it: a reset, a client
that asks and leaves, a request that is not UTF-8, a closed console.
After four of them the server takes connections and answers none. A
client that leaves before its request is whole makes the server spin;
more clients than it may have descriptors end it.
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


class Client:
    def __init__(self, connection):
        self.connection, self.request, self.unsent = connection, b"", b""


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
    clients = {}  # by descriptor; only the loop touches it
    ready = queue.SimpleQueue()  # what to do, and for which client

    def admit():
        connection, address = listener.accept()
        connection.setblocking(False)
        clients[connection.fileno()] = Client(connection)
        epoll.register(connection, select.EPOLLIN | ONE_SHOT)

    def arm(client, events):
        epoll.modify(client.connection, events | ONE_SHOT)
        # From here on another worker may have this client.

    def read(client, database):
        client.request += client.connection.recv(1024)
        if is_whole(client.request):
            print("-" * 40 + "\n" + client.request.decode()[:-2], flush=True)
            (body,) = database.execute(QUERY).fetchone()
            client.unsent = ANSWER % (len(body), body)
            arm(client, select.EPOLLOUT)
        else:
            arm(client, select.EPOLLIN)

    def write(client, database):
        sent = client.connection.send(client.unsent)
        client.unsent = client.unsent[sent:]
        if client.unsent:
            arm(client, select.EPOLLOUT)
        else:
            client.connection.shutdown(socket.SHUT_RDWR)
            arm(client, 0)  # reported as HUP, at once: so the loop gets it back

    def forget(fd):
        epoll.unregister(fd)
        clients.pop(fd).connection.close()

    def work(path):
        with contextlib.closing(connect(path)) as database:
            while task := ready.get():
                act, client = task
                act(client, database)

    listener.setblocking(False)
    with tempfile.NamedTemporaryFile(suffix=".db") as file, select.epoll() as epoll:
        fill(file.name)
        workers = [
            threading.Thread(target=work, args=[file.name], daemon=True)
            for _ in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        epoll.register(listener, select.EPOLLIN)
        try:
            while True:
                for fd, events in epoll.poll():
                    if fd == listener.fileno():
                        admit()
                    elif events & select.EPOLLIN:
                        ready.put((read, clients[fd]))
                    elif events & select.EPOLLOUT:
                        ready.put((write, clients[fd]))
                    else:
                        forget(fd)
        finally:  # each worker ends its task, before epoll and the file are gone
            for _ in workers:
                ready.put(None)
            for worker in workers:
                worker.join(0.5)


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
