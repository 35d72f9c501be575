"""A blocking server with a thread for each client.

A silent client keeps its own thread waiting, and nobody else. The
server does not survive more clients than it may have descriptors
or threads. A client that leaves before its request is whole leaves
a thread behind that spins; one whose request is not UTF-8 gets no
answer, and once the console is closed nobody gets one.
"""

import signal
import socket
import sys
import threading

BACKLOG = 128
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


def talk(connection):
    with connection:
        request = b""
        while not is_whole(request):
            request += connection.recv(1024)
        print("-" * 40 + "\n" + request.decode()[:-2], flush=True)
        connection.send(ANSWER)


def serve(listener):
    while True:
        connection, address = listener.accept()
        # A daemon thread does not keep the process alive.
        threading.Thread(
            target=talk, args=[connection], daemon=True
        ).start()


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
