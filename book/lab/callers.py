"""Many clients at once, from one thread: what `ab` does, with every client's own story kept.

A Caller is a connect that nobody waits for. `attend` drives a crowd of them with one epoll
instance: each asks as soon as it is connected, and reads its answer to the end.
"""

import select
import socket
import time

from . import kernel
from .clients import REQUEST, reset


class Caller:
    """A client whose SYN has been sent by the time this returns; the rest is up to attend().

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
        """The state of its end, as TCP names it: SYN-SENT while nobody has let it in."""
        return kernel.state_of(self.socket)

    def retries(self):
        """How often its SYN has been sent again. 0 as soon as it is connected."""
        return kernel.tcp_info(self.socket, "retransmits")

    def waited(self):
        """Seconds from its SYN until it was connected, or None."""
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


def attend(callers, seconds, asks=True, then=None):
    """Drive callers until all are through, or so many seconds have passed; return who is through.

    asks: ask and read the answer, or else be content to be connected, and stay. then: a function of
    a caller that is through, which returns one to take its place, or None. Who is left stays open,
    and may be attended to again.
    """
    deadline, done = time.monotonic() + seconds, []
    under_way = {}
    with select.epoll() as epoll:

        def add(caller):
            under_way[caller.socket.fileno()] = caller
            waits_for = select.EPOLLOUT if caller.connected is None else select.EPOLLIN
            epoll.register(caller.socket, waits_for)

        for caller in callers:
            add(caller)
        while under_way and (left := deadline - time.monotonic()) > 0:
            for fd, _ in epoll.poll(left):
                caller = under_way[fd]
                try:
                    through = caller._go_on(asks)
                except OSError as error:
                    caller.error, through = error, True
                    caller.close()
                if not through:
                    epoll.modify(fd, select.EPOLLIN)
                    continue
                del under_way[fd]
                if caller.socket.fileno() >= 0:
                    epoll.unregister(fd)
                done.append(caller)
                if then and (another := then(caller)):
                    add(another)
    return done
