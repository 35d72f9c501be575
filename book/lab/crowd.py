"""Many clients at once: silent ones in a process of their own, and ones that ask, in one thread.

A Crowd holds thousands of silent connections. Their descriptors count against the limit of its
process and not the notebook's. When it goes, all its connections are reset at once (SO_LINGER,
socket(7)): ten thousand orderly ends would leave as many TIME-WAITs behind, which every later look
at the kernel's tables would have to wade through.

An Asker is what `ab` has many of, with its own story kept: a client whose connection nobody waits
for. `ask_all` drives any number of them with one epoll instance: each asks as soon as it is
connected, and reads its answer to the end.
"""

import errno
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from look import kernel
from survive.clients import REQUEST, reset

HOLDER = Path(__file__).with_name("_crowd.py")  # that process
SPARE = 100  # descriptors that a process needs for other things


def within_limit(number, least=1000):
    """Return how many connections a process may have descriptors for: number, or fewer.

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
    """Open connections to a server that say nothing, in a process of their own.

    address: (host, port). number: how many. seconds: how long making them may take, and four times
    that the longest they live. Raises ConnectionError when they could not all be made.
    """

    def __init__(self, address, number, seconds=15):
        self.number = number
        command = [sys.executable, str(HOLDER), *map(str, (*address, number, seconds))]
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


class Asker:
    """A non-blocking client. Creating one sends its SYN; ask_all() connects, asks and reads.

    began, connected, answered: when, on the monotonic clock; None before. `received` is what came.
    error: the OSError that ended it, or None.
    """

    def __init__(self, address):
        self.received, self.error = b"", None
        self.connected = self.answered = None
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.began = time.monotonic()
        self.socket.connect_ex(address)  # EINPROGRESS; what else it may be, SO_ERROR tells again

    def state(self):
        """Return the state of its end, as TCP names it: SYN-SENT while nobody has let it in."""
        return kernel.state_of(self.socket)

    def retries(self):
        """Return how often its SYN has been sent again; 0 as soon as it is connected."""
        return kernel.tcp_info(self.socket, "retransmits")

    def waited(self):
        """Return the seconds from its SYN until it was connected, or None."""
        return None if self.connected is None else self.connected - self.began

    def close(self):
        """Leave, however far it has come. Twice does no harm."""
        self.socket.close()

    def _go_on(self, asks):
        """Do what can be done now; return whether this one is through."""
        if self.connected is None:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "the connection failed")
            self.connected = time.monotonic()
            if asks:
                self.socket.send(REQUEST)
            return not asks
        data = self.socket.recv(65536)
        self.received += data
        if not data:
            self.answered = time.monotonic()
            reset(self.socket)  # or it would leave a TIME-WAIT of the server's behind, each of them
        return not data


def ask_all(askers, seconds, asks=True, replace_with=None):
    """Drive askers until all are through, or so many seconds have passed; return who is through.

    asks: ask and read the answer, or else be content to be connected, and stay. replace_with: a
    function of an asker that is through, which returns one to take its place, or None. Who is left
    stays open, and may be driven on.
    """
    deadline, done = time.monotonic() + seconds, []
    under_way = {}
    with select.epoll() as epoll:

        def add(asker):
            under_way[asker.socket.fileno()] = asker
            waits_for = select.EPOLLOUT if asker.connected is None else select.EPOLLIN
            epoll.register(asker.socket, waits_for)

        for asker in askers:
            add(asker)
        while under_way and (left := deadline - time.monotonic()) > 0:
            for fd, _ in epoll.poll(left):
                asker = under_way[fd]
                try:
                    through = asker._go_on(asks)
                except OSError as error:
                    asker.error, through = error, True
                    asker.close()
                if not through:
                    epoll.modify(fd, select.EPOLLIN)
                    continue
                del under_way[fd]
                if asker.socket.fileno() >= 0:
                    epoll.unregister(fd)
                done.append(asker)
                if replace_with and (another := replace_with(asker)):
                    add(another)
    return done
