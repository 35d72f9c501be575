"""The words of experiments: what a cell says in one line, with its waiting and tidying inside.

    client = connect(server)               a client that has said nothing yet
    client.ask()                           its request, and the answer to its end
    at_rest(server, sockets=1)             wait until the server sleeps, with this many sockets
    both_ends(client)                      ("CLOSE-WAIT", "FIN-WAIT-2"), when all has arrived
    ours, theirs = pair()                  two ends of a connection (tls_pair: of an encrypted one)
    told(theirs)                           what an end was told: "nothing", "a FIN", "a reset"
    reported(ours, select.EPOLLIN)         what epoll says of it now: "IN|RDHUP", or "nothing"
    names(epoll.poll(0))                   what a poll has returned, in the same words
    tried(ours.recv, 100)                  "recv: ECONNRESET", "recv: b'hello'"
    raised(ours.recv, 100)                 the last line of its traceback, as it is printed
    listed(epoll)                          the masks on its interest list: "IN|ERR|HUP"
    sleeper = asleep(ours.sendall, data)   a call in a thread, as soon as it sleeps
    sleeper.now()                          "still asleep in sendto", or what came of it
    woken(sleepers)                        how many of these sleepers have been woken
    signalled(server, signal.SIGTERM)      what its main thread does then: "ends", "sleeps on"
    sleeping(server), woken_by(server, f)  where its threads sleep, how many of them f() wakes
    together(one, another)                 several acts at once, each in a thread
    with inherited(ours): ...              a child process that holds a socket
    run_in_child(program, epoll, ours)     a child process that inherits files and runs a program
    as_pid_1("x.py", signal.SIGTERM)       what it does as the first process of a container

The two ends of a connection are two sockets: to look at one right after the other has acted is a
race. So a word that looks at a socket waits first until nothing is on its way to it, by settled().
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from look import kernel
from survive.clients import Conversation, get, outcome, pair
from survive.server import Server, ServerError
from survive.waiting import until, until_at_rest, until_blocked

from .session import find

# A connection in one of these states waits for its peer's answer to what it has sent.
UNANSWERED = {"SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "CLOSING", "LAST-ACK"}
TOLD = {
    "ESTABLISHED": "nothing",
    "FIN-WAIT-2": "nothing",
    "CLOSE-WAIT": "a FIN",
    "TIME-WAIT": "a FIN",
}
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000  # asm-generic/socket.h, linux/socket.h
STEP = 0.04  # seconds between the beginnings of acts together
IN_NAMESPACE = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
NOT_TO_BE_TRIED = "may not be tried here"


def connect(server, name="client", receive_buffer=None):
    """Connect to a server; return the Conversation.

    receive_buffer: the size of the client's, in bytes, if it must not grow.
    """
    return Conversation(server.address, name, receive_buffer=receive_buffer)


def at_rest(server, sockets=None):
    """Wait until a server sleeps, has read all, and has this many TCP sockets, with its listener.

    Raises TimeoutError, and ProcessLookupError when the server has ended.
    """
    until_at_rest(server.pid, sockets)


def settled(sock, seconds=5):
    """Wait until nothing is on its way between one of our own sockets and its peer; return it.

    On its way are bytes not yet acknowledged, unless the kernel only probes a peer without room; an
    end; and a reset, when its sender is gone and the socket has not been told. What is not TCP has
    nothing on its way. Raises TimeoutError.
    """
    if not _is_tcp(sock):
        return sock
    try:
        here, there = sock.getsockname(), sock.getpeername()
    except OSError:  # without a peer nothing can be on its way
        return sock
    until(lambda: _settled(here, there), seconds, "a connection to settle")
    return sock


def _is_tcp(sock):
    families = socket.AF_INET, socket.AF_INET6
    return getattr(sock, "family", 0) in families and sock.type == socket.SOCK_STREAM


def _settled(here, there):
    ours, theirs = kernel.find_socket(here, there), kernel.find_socket(there, here)
    if not ours or ours.state == "TIME-WAIT":
        return not theirs or not _on_its_way(theirs)
    return bool(theirs) and not _on_its_way(ours) and not _on_its_way(theirs)


def _on_its_way(end):
    return end.state in UNANSWERED or (end.unsent and end.timer != "probe")


def both_ends(client):
    """Return the states of a Conversation's socket and of the server's: "gone" where it has none.

    It waits until the connection has settled. A closed socket may still have a state. Raises
    TimeoutError.
    """
    there, here = client.ends
    until(lambda: _settled(here, there), what="a connection to settle")
    ends = [kernel.find_socket(here, there), kernel.find_socket(there, here)]
    ours, theirs = (end.state if end else "gone" for end in ends)
    # A socket that was reset is in no table of the kernel's, but it can be asked.
    return (ours if client.is_closed or ours != "gone" else client.state()), theirs


def tls_pair():
    """Connect two sockets by TLS, without certificates; return them, the accepted one first."""
    contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in contexts:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # the last that needs no certificate
        context.set_ciphers("aNULL:@SECLEVEL=0")
    ours, theirs = pair()
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(contexts[0].wrap_socket, ours, server_side=True)
        peer = contexts[1].wrap_socket(theirs)
        return accepted.result(), peer


def told(sock):
    """Return what one of our own sockets has been told by its peer: "nothing", "a FIN", "a reset".

    What was told before a reset is forgotten. Raises TimeoutError when the socket does not settle.
    """
    state = kernel.state_of(settled(sock))
    return TOLD[state] if state != "CLOSE" else "a FIN" if _ended_in_order(sock) else "a reset"


def _ended_in_order(sock):
    """Was a socket in state CLOSE closed by the FINs of both ends? Then the kernel has a TIME-WAIT.

    A reset leaves an error on the socket, until a call reports it. That is looked for first, as an
    earlier connection may have left a TIME-WAIT at the same port.
    """
    poll = select.poll()
    poll.register(sock, 0)
    if any(mask & select.POLLERR for _, mask in poll.poll(0)):
        return False
    here = sock.getsockname()
    rows = kernel.sockets(here[1])
    return any(row.local == here and row.state == "TIME-WAIT" for row in rows)


def names(reports):
    """Return what a poll returned, in names: "IN|RDHUP"; "IN, OUT" of two; "nothing" of none."""
    return ", ".join(kernel.mask_names(mask) for _, mask in reports) or "nothing"


def reported(sock, mask=0):
    """Return what a new epoll, level-triggered, says of a socket of ours that has settled."""
    settled(sock)
    with select.epoll() as epoll:
        epoll.register(sock, mask)
        return names(epoll.poll(0))


def entries(epoll):
    """Count what stands on the interest list of an epoll object of our own."""
    return len(kernel.registrations(os.getpid(), epoll.fileno()))


def listed(epoll):
    """Return what an epoll object of our own watches its sockets for, in names: "IN|ERR|HUP"."""
    watched = kernel.interest_list(os.getpid(), epoll.fileno())
    return ", ".join(map(kernel.mask_names, watched.values())) or "nothing"


def tried(call, *arguments):
    """Call something; return what came of it, in words: "accept: EAGAIN", "recv: b''"."""
    try:
        result = outcome(call, *arguments)
    except ValueError as error:
        result = f"ValueError: {error}"
    return f"{call.__name__}: {'done' if result is None else result}"


def raised(call, *arguments):
    """Call something that fails; return the last line of its traceback, "TypeError: …".

    Raises AssertionError when it doesn't fail.
    """
    try:
        result = call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"{call.__name__} raised nothing, and returned {result!r}")


def asleep(call, *arguments):
    """Make a call in a thread of its own, wait until it sleeps, and return the Sleeper."""
    return Sleeper(call, arguments)


class Sleeper:
    """A call in a daemon thread of its own, which does not keep the process alive."""

    def __init__(self, call, arguments):
        self._blocked, self._outcome = None, None
        self._thread = threading.Thread(target=self._run, args=[call, *arguments], daemon=True)
        self._thread.start()
        until(self._sleeps_now, what=f"{call.__name__} to sleep")
        self._sleeps = self._count()

    def _run(self, call, *arguments):
        self._outcome = tried(call, *arguments)

    def _blocked_in(self):
        with contextlib.suppress(ProcessLookupError):
            return kernel.blocked_in(os.getpid(), self._thread.native_id)

    def _sleeps_now(self):
        blocked = self._blocked_in()
        if blocked and blocked.call != "futex":  # there it waits for Python's lock, not in the call
            self._blocked = blocked
        return self._blocked or self.is_over

    @property
    def call(self):
        """The system call that the thread sleeps in; None if it was never seen asleep."""
        return self._blocked and self._blocked.call

    def _count(self):
        with contextlib.suppress(ProcessLookupError):
            return kernel.sleeps(os.getpid(), self._thread.native_id)

    @property
    def has_run(self):
        """Has the thread been woken since it fell asleep, if only to go to sleep again?"""
        return self._count() != self._sleeps

    def interrupt(self, number=signal.SIGUSR1):
        """Send the thread a signal, pthread_kill(3). The signal must have a handler."""
        signal.pthread_kill(self._thread.ident, number)

    @property
    def is_over(self):
        """Has the call returned?"""
        return not self._thread.is_alive()

    def now(self):
        """Return "still asleep in recvfrom", or what came of the call if it has been woken.

        A thread that is woken does not sleep any more when the call that has woken it returns. So
        the answer is sure if one asks after that call.
        """
        # On its way out of the call the thread may be held up in another function of the kernel.
        until(
            lambda: self.is_over or self._blocked_in() == self._blocked,
            what="a call to return, or to sleep again",
        )
        return self._outcome if self.is_over else f"still asleep in {self.call}"

    def result(self, seconds=5):
        """Wait until the call has returned; return what came of it, as tried() says it.

        Raises TimeoutError.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"waited {seconds} s for a call that sleeps in {self.call}")
        return self._outcome


def woken(sleepers):
    """Count the sleepers that have been woken, with those that the first ones woke in turn."""
    before, count = None, 0
    while count != before:  # one that is woken wakes the next before its own call returns
        before, count = count, sum(not each.now().startswith("still") for each in sleepers)
    return count


def until_threads(server, number):
    """Wait until a server has this many threads. Raises TimeoutError, ProcessLookupError."""
    until(lambda: len(kernel.threads(server.pid)) == number, what=f"{number} threads")


def sleeping(server):
    """Return where each thread of a server sleeps, on whose socket: [(thread, call, port)].

    thread: "main", which comes first, or "another". port: of the socket's peer; a listener's is 0.
    Raises KeyError where a thread sleeps on no TCP socket.
    """
    inodes = kernel.files(server.pid, "socket")
    ports = {sock.inode: sock.remote[1] for sock in kernel.sockets(pid=server.pid)}
    found = []
    for thread in kernel.threads(server.pid):
        blocked = until(lambda thread=thread: kernel.blocked_in(server.pid, thread))
        name = "another" if found else "main"
        found.append((name, blocked.call, ports[inodes[blocked.arguments[0]]]))
    return found


def woken_by(server, act):
    """Call act() while a server sleeps; return how many of the server's threads that has woken.

    Threads of all the server's processes count, also those that have gone to sleep again. act must
    not return before what it does has reached the server.
    """
    until(server.is_asleep, what=f"{server.name} to sleep")
    before = _sleeps(server)
    act()
    until(server.is_asleep, what=f"{server.name} to sleep again")
    after = _sleeps(server)
    return sum(after.get(thread) != count for thread, count in before.items())


def _sleeps(server):
    """Count how often each thread of a server's processes has gone to sleep: {thread: number}."""
    return {
        thread: kernel.sleeps(pid, thread)
        for pid in kernel.group(server.pid)
        for thread in kernel.threads(pid)
    }


def signalled(server, number, thread=0):
    """Send a signal to a thread of a server that sleeps; return what its main thread does then.

    "ends": the server has ended. "sleeps on": its handler, if it has run, has changed nothing, and
    the main thread sleeps in the same call again. number: of the signal. thread: of the server's
    threads, 0 is the main one.
    """
    sleeps_in = until(lambda: kernel.blocked_in(server.pid)).call

    def is_settled():
        if not server.is_running():
            return True
        with contextlib.suppress(ProcessLookupError):  # it ends just now
            blocked = kernel.is_asleep(server.pid) and kernel.blocked_in(server.pid)
            return blocked and blocked.call == sleeps_in

    server.send_signal(number, kernel.threads(server.pid)[thread])
    for _ in range(2):  # another thread, which is looked at last, may have woken the main one
        until(is_settled, what=f"{server.name} to end, or to sleep again")
    return "sleeps on" if server.is_running() else "ends"


def together(*acts):
    """Do several acts at once, each in a thread, a moment apart; wait for all of them.

    Raises what the first act to fail has raised.
    """
    errors = []

    def do(act):
        try:
            act()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=do, args=[act]) for act in acts]
    for thread in threads:
        thread.start()
        time.sleep(STEP)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def send_without_copying(sock, data):
    """Send data that the kernel takes from where they lie: MSG_ZEROCOPY, Linux 4.14.

    When the data may be changed again, a receipt comes through the socket's error queue.
    """
    sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    return sock.send(data, MSG_ZEROCOPY)


@contextlib.contextmanager
def inherited(*files):
    """Have a child process hold some sockets, as long as the block lasts, and do nothing else.

    The child ends with its standard input, so also when this process is killed.
    """
    numbers = [file.fileno() for file in files]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=numbers):
        yield


def run_in_child(program, *files):
    """Run a Python program in a child process that inherits some files of ours; return its output.

    The program's arguments are the files' descriptors, which have the same numbers there. Raises
    CalledProcessError.
    """
    numbers = [file.fileno() for file in files]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, numbers)],
        pass_fds=numbers,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=20,
        check=True,
    )
    return done.stdout.strip()


def as_pid_1(name, number):
    """Send a signal to a server that is the first process of a PID namespace, as in a container.

    name: a file in run/, or a path. number: the signal's. Returns "goes on", "ends", or, where
    nobody may make a namespace, "may not be tried here".
    """
    if not shutil.which(IN_NAMESPACE[0]):
        return NOT_TO_BE_TRIED
    command = [*IN_NAMESPACE, sys.executable, "-u", str(find(name)), "0"]
    try:
        server = Server(command, name=find(name).name)
    except ServerError as error:
        if "unshare:" not in str(error):
            raise
        return NOT_TO_BE_TRIED
    try:
        _, first = server.pids()  # that of unshare itself comes before it
        until_blocked(first, "accept4")
        os.kill(first, number)
        with contextlib.suppress(ConnectionError):
            get(server.address)
            return "goes on"
        server.wait()
        return "ends"
    finally:
        server.stop(signal.SIGKILL)
