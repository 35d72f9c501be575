"""The process that holds a Crowd: `_crowd.py HOST PORT NUMBER SECONDS`.

It ends when its standard input does, and in any case after so many seconds.
"""

import resource
import signal
import socket
import struct
import sys


def main():
    host, port, number, seconds = sys.argv[1], *map(int, sys.argv[2:])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.alarm(seconds)
    connections = []
    try:
        for _ in range(number):
            connections.append(socket.create_connection((host, port)))
            connections[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError as error:
        sys.exit(print(f"{len(connections)} connections, then: {error}", flush=True))
    signal.alarm(4 * seconds)
    print(len(connections), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
