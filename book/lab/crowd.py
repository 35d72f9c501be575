"""Many clients at once: silent ones in a process of their own, and ones that ask, in one thread.

A Crowd holds thousands of silent connections. Their descriptors count against the limit of its
process and not the notebook's. When it goes, all its connections are reset at once (SO_LINGER,
socket(7)): ten thousand orderly ends would leave as many TIME-WAITs behind, which every later look
at the kernel's tables would have to wade through.

An Asker is a non-blocking client, such as `ab` has many of, which notes when it was connected and
answered. `ask_all` drives any number of them with one epoll instance: each asks as soon as it is
connected, and reads its answer to the end.

    callers = queue_up(address, 4)              each is in the queue, or found it full
    callers, seconds = keep_coming(address, rate=50, seconds=0.2)
    answered, left = closed_loop(server, 100, seconds=0.8)     what `ab` does
    lost = ghosts(listener, 40)                 connected, and the server's kernel knows nothing
    times = resent(7)                           when a SYN is sent again that nobody answers
    ab(server, requests=2000)                   what `ab` itself says
"""

import errno
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from look import kernel
from survive.clients import REQUEST, is_full, reset
from survive.waiting import until

from .experiment import settled

HOLDER = Path(__file__).with_name("_crowd.py")  # the program of the other process
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
        """Reset all the connections. To close twice does no harm."""
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
        """Leave, whatever it has done so far. To close twice does no harm."""
        self.socket.close()

    def _go_on(self, asks):
        """Do what can be done now; return whether this asker is done."""
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
    """Drive askers until all are done, or so many seconds have passed; return those done.

    asks: whether they ask and read the answer, or only connect, and stay. replace_with: a function
    of an asker that is done, which returns one to take its place, or None. The askers that are left
    stay open, and can be driven on.
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
                except BlockingIOError:
                    continue  # of a closed socket that a child just being started still holds
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


def queue_up(address, number):
    """Let clients come one by one, each when the last one is in the queue; return the Askers.

    As soon as the queue is full they come without waiting: their SYNs are dropped.
    """
    callers = []
    for _ in range(number):
        caller = Asker(address)
        callers.append(caller)
        until(lambda caller=caller: caller.state() != "SYN-SENT" or is_full(address))
        settled(caller.socket)
    return callers


def keep_coming(address, rate, seconds):
    """Let clients come evenly spaced, at a rate a second, for some seconds.

    Returns the Askers, as many as are due by the end, and how many seconds they came for.
    """
    callers, began, past = [], time.monotonic(), 0
    while past < seconds or len(callers) < rate * past:
        if len(callers) <= rate * past:
            callers += queue_up(address, 1)
        else:
            time.sleep(min(len(callers) / rate, seconds) - past)
        past = time.monotonic() - began
    return callers, past


def closed_loop(server, number, seconds):
    """Do what `ab` does: so many clients at once, each followed by another when it is answered.

    All are connecting before the server runs. After so many seconds nobody follows any more.
    Returns the Askers that were answered, and those that were not, who are left open. Raises the
    OSError of one that failed.
    """
    with server.paused():
        everyone = queue_up(server.address, number)

    def another(asker):
        everyone.append(Asker(server.address))
        return everyone[-1]

    left = everyone[0].began + seconds - time.monotonic()
    answered = set(ask_all(everyone[:number], left, replace_with=another))
    for asker in answered:
        if asker.error:
            raise asker.error
    return list(answered), [asker for asker in everyone if asker not in answered]


def resent(seconds):
    """Connect to a queue that stays full for some seconds; return when the SYN was sent again.

    Each time in seconds after the first.
    """
    times = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        inside, caller = queue_up(listener.getsockname(), 2)
        while time.monotonic() < caller.began + seconds:
            if caller.retries() > len(times):
                times.append(time.monotonic() - caller.began)
            time.sleep(0.01)
        inside.close()
        caller.close()
    return times


SEVERAL = 4  # clients who have come back in one tick of their kernel's clock
TICK = 0.05  # seconds: how long such a tick lasts at the most


def ghosts(listener, number):
    """Turn clients away from a listener of ours, make room, and wait until they come back.

    number: how many. Those that come back in the same instant all find the same room for one.
    Returns the ghosts, SEVERAL at the least: Askers that are connected, as their own end says, and
    for which the kernel has no socket at the listener's end. Raises TimeoutError.
    """
    address = listener.getsockname()
    callers = queue_up(address, kernel.queues_of(listener)[1] + 1 + number)

    def come_back():
        """Return the ghosts, if enough have come in one tick; else make room again."""
        time.sleep(TICK)
        found = [caller for caller in callers if _is_ghost(caller, address)]
        if len(found) >= SEVERAL:
            return found
        for _ in range(kernel.queues_of(listener)[0]):
            listener.accept()[0].close()
        return None

    found = until(come_back, 8, "clients to come back together")
    for caller in callers:
        if caller not in found:
            caller.close()
    return found


def _is_ghost(caller, address):
    """Tell whether a client is a ghost: connected, and to no socket."""
    there = caller.socket.getsockname()
    return caller.state() == "ESTABLISHED" and not kernel.find_socket(address, there)


class Report(NamedTuple):
    """What ab reports: how many requests were answered, and the longest time to connect.

    waited: that time, in seconds. ended: whether ab has ended by itself.
    """

    answered: int
    waited: float
    ended: bool


def ab(server, requests, held=False, seconds=4):
    """Let ab(1) loose on a server, a hundred clients at a time; return its Report, or None where it
    is not installed.

    requests: how many. held: whether the server is stopped once clients are outside, until they
    have come back, a second later; so they find an empty queue. seconds: after which ab is
    interrupted, once the server has nothing to do, and reports on what is done. Raises RuntimeError
    if ab says nothing, TimeoutError if the server is to be held and no client is outside.
    """
    if not shutil.which("ab"):
        return None
    url = "http://{}:{}/".format(*server.address)
    command = ["ab", "-q", "-c", "100", "-n", str(requests), url]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    ended = True
    with subprocess.Popen(command, **output) as process:
        try:
            if held:
                _hold(process, server.address)
            said, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            until(lambda: server.cpu_share() < 0.05, 10, "a server without work")
            ended = process.poll() is not None
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=5)
        finally:
            process.kill()
    answered = re.search(r"^Complete requests: +(\d+)$", said, re.MULTILINE)
    waited = re.search(r"^Connect:(?: +[\d.]+){4} +(\d+)$", said, re.MULTILINE)
    if not answered or not waited:
        raise RuntimeError(errors.strip() or said)
    return Report(int(answered[1]), int(waited[1]) / 1000, ended)


def _hold(process, address):
    """Stop a process from when some of its clients are outside until these have come back."""

    def outside():
        rows = kernel.sockets(address[1])
        return {row.local for row in rows if (row.remote, row.state) == (address, "SYN-SENT")}

    until(lambda: len(outside()) > 50, what="clients that are turned away")
    process.send_signal(signal.SIGSTOP)
    try:
        left = outside()
        until(lambda: left - outside(), what="one of them to come in")
        time.sleep(TICK)
    finally:
        process.send_signal(signal.SIGCONT)
