"""A crowd: many silent connections to one server, held by a process of their own.

    with lab.Crowd(server.address, 10_000) as crowd:
        ...

Their descriptors then count against that process's limit and not the notebook's. When it goes, all
its connections are reset at once (SO_LINGER, socket(7)): ten thousand orderly ends would leave as
many TIME-WAITs behind, which every later look at the kernel's tables would have to wade through.

Run as a script, this file is that process: `crowd.py HOST PORT NUMBER SECONDS`. It ends when its
standard input does, and in any case after so many seconds.
"""

import errno
import signal
import socket
import struct
import subprocess
import sys

if __name__ == "__main__":
    import kernel  # beside this file
else:
    from . import kernel

SPARE = 100  # descriptors that a process needs for other things


def within_limit(number, least=1000):
    """As many connections as a process may have descriptors for: number, or fewer.

    Raises OSError where not even the least is allowed: the hard limit of `ulimit -Hn` is too low.
    """
    allowed = kernel.allow_descriptors() - SPARE
    if allowed < least:
        raise OSError(
            errno.EMFILE,
            f"this needs {least + SPARE} descriptors, and `ulimit -Hn` allows {allowed + SPARE}",
        )
    return min(number, allowed)


class Crowd:
    """So many open connections to an address, (host, port), that say nothing.

    seconds: how long making them may take, and four times that the longest they live. `number`
    tells how many there are. Raises ConnectionError when they could not all be made.
    """

    def __init__(self, address, number, seconds=15):
        self.number = number
        command = [sys.executable, __file__, *map(str, (*address, number, seconds))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        said = self.process.stdout.readline()  # it ends in time, one way or the other
        if said != f"{number}\n":
            self.close()
            raise ConnectionError(said.strip() or f"no {number} connections in {seconds} s")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Reset all the connections. Twice does no harm."""
        if self.process.stdin.closed:
            return
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def main():
    host, port, number, seconds = sys.argv[1], *map(int, sys.argv[2:])
    kernel.allow_descriptors()
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
