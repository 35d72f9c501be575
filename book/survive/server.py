"""A server in the background, with all of its processes: started, watched and stopped.

A server here may spin, freeze, leak or ignore SIGTERM, and whoever started it may be interrupted,
restarted or killed. So every server

- runs in a process group of its own: Jupyter's interrupt sends SIGINT to the kernel's whole
  group, and a server must live through that. Not in a new session: when the kernel dies while
  the server is stopped, an orphaned group of the *same* session gets SIGHUP and SIGCONT;
- is tied to us by its standard input (see lifeline);
- may use a bounded amount of CPU time, each of its processes: one that spins and is forgotten ends
  by itself. The shell sets that limit before it becomes the server, so that it holds for all that
  the server starts, and from its first instruction on;
- is waited for by a pidfd, and reaped by stop() alone: until then nobody else gets its number.
"""

import contextlib
import ctypes
import os
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from look import kernel

from .console import Console
from .lifeline import tie
from .waiting import until

CPU_SECONDS = 30  # of CPU time, for a process's whole life

# From fork to exec a new process holds all our files as well: what one thread closes meanwhile is
# not closed yet.
STARTING = threading.Lock()


class ServerError(Exception):
    """The server did not start, or not do what we waited for.

    The text is the server's own, its traceback if it wrote one; our frames are left out.
    """

    def _render_traceback_(self):
        """Return the lines that IPython shows: not our own stack."""
        return str(self).splitlines()


def says_where(server, seconds):
    """Wait until a server has printed `listening on HOST:PORT` as its first line.

    Returns (host, port). Raises ServerError when it prints something else, nothing, or ends.
    """
    server.printed(lambda text: "\n" in text, seconds)
    first = server.printed().partition("\n")[0]
    host, _, port = first.rpartition(":")
    if not server.printed():
        raise _never_ready(server, f"printed nothing for {seconds} s.", seconds)
    if not host.startswith("listening on ") or not port.isdecimal():
        raise ServerError(
            f"{server.name} should first print 'listening on HOST:PORT', not {first!r}.\n"
            + server.errors()
        )
    return host.removeprefix("listening on ").strip("[]"), int(port)


def listens_at(address):
    """Make a way to know that a server is ready: one of its processes listens at an address.

    address: (host, port). Returns a function like says_where.
    """

    def ready(server, seconds):
        def listens():
            return not server.is_running() or any(
                each.state == "LISTEN" and each.local[1] == address[1] for each in server.sockets()
            )

        with contextlib.suppress(TimeoutError):
            until(listens, seconds)
            if server.is_running():
                return address
        raise _never_ready(server, f"does not listen on port {address[1]} after {seconds} s.")

    return ready


def _never_ready(server, what, seconds=5):
    """Make the error of a server that is not ready in time, or has ended."""
    if server.is_running() and not server.console.has_ended():
        return ServerError(f"{server.name} {what}\n{server.errors()}")
    status = server.wait(seconds)
    own_words = server.errors().strip("\n") or "It printed nothing."
    return ServerError(f"{server.name} ended with status {status}:\n{own_words}")


class Server:
    """One server with all the processes of its group, ready as soon as this returns.

    command: its words. ready: a function (server, seconds) that waits until it listens and returns
    (host, port), or raises ServerError. name: what messages call it. inherit: descriptors that it
    gets. seconds: how long it may take to be ready. log_file: have its standard output go to a file
    in its scratch folder, whose path is `log`, and not to a pipe that we read.

    Raises ServerError, with what the server has said, if it ends instead, at once.
    """

    def __init__(
        self, command, ready=says_where, name=None, inherit=(), seconds=10, log_file=False
    ):
        self.name = name or Path(command[0]).name
        self.port = self.address = self.log = None
        if not shutil.which(command[0]):
            raise ServerError(f"There is no program {command[0]}.")
        self._start(command, inherit, log_file)
        try:
            self.address = ready(self, seconds)
            self.port = self.address[1]
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def _start(self, command, inherit, log_file):
        # For its temporary files: it may be killed before it can remove them.
        self._scratch = tempfile.TemporaryDirectory(prefix=f"{Path(self.name).stem}-")
        self.log = Path(self._scratch.name, "log") if log_file else None
        read_end, self._lifeline = os.pipe()
        try:
            with STARTING, contextlib.ExitStack() as files:
                log = files.enter_context(self.log.open("xb")) if log_file else subprocess.PIPE
                self.process = subprocess.Popen(
                    [*_limited(), *command],
                    stdin=read_end,
                    stdout=log,
                    stderr=subprocess.PIPE,
                    # Jupyter asks for colours, and from 3.13 tracebacks would have them.
                    env={**os.environ, "PYTHON_COLORS": "0", "TMPDIR": self._scratch.name},
                    process_group=0,
                    pass_fds=inherit,
                )
            self.pid = self.process.pid
            tie(read_end, self.pid)
        finally:
            os.close(read_end)
        self._pidfd = os.pidfd_open(self.pid)
        self.console = Console(self.process.stdout, self.process.stderr, f"output of {self.pid}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def __repr__(self):
        state = "running" if self.is_running() else f"ended with status {self.status()}"
        return f"<{self.name} on port {self.port}, {state}>"

    # Its end

    def is_running(self):
        """Tell whether the server's first process has not ended yet."""
        return self.status() is None

    def status(self):
        """Return the exit status of its first process, minus the signal's number; or None."""
        if self.process.returncode is None:  # otherwise it has been reaped
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if not (end := os.waitid(os.P_PIDFD, self._pidfd, how)):
                return None
            return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        return self.process.returncode

    def wait(self, seconds=5):
        """Wait until the server has ended by itself; return its exit status, negative for a signal.

        By then all that it printed has been read.
        """
        if not self._ends_within(seconds):
            raise ServerError(f"{self.name} is still running after {seconds} s.")
        self.console.wait_for(lambda: False, 1)  # a child of its own may hold the streams open
        return self.status()

    def _ends_within(self, seconds):
        if self.process.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(1000 * seconds))
        return True

    def stop(self, number=signal.SIGTERM, seconds=3):
        """End it, with all of its group, and release what belongs to it; return its exit status.

        The signal is sent again and again: Python runs a handler between two instructions, and
        one that comes just before a call blocks has to wait until that call returns. Who is still
        there after so many seconds gets SIGKILL. Stopping twice does no harm.
        """
        if self._lifeline is None:
            return self.status()
        deadline = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < deadline:
            self._signal_group(number)
            self._signal_group(signal.SIGCONT)
            self._ends_within(0.1)
        self._signal_group(signal.SIGKILL)
        until(lambda: not self.pids(), what=f"the processes of {self.name} to end")
        self.process.wait()
        os.close(self._pidfd)
        os.close(self._lifeline)
        self._lifeline = None
        self.console.close()
        self._scratch.cleanup()
        return self.status()

    # Signals and limits

    def send_signal(self, number, thread=None):
        """Send a signal to its first process, or to one of that one's threads, tgkill(2)."""
        if self.is_running() and thread is not None:
            ctypes.CDLL(None).tgkill(self.pid, thread, number)
        elif self.is_running():
            signal.pidfd_send_signal(self._pidfd, number)

    def _signal_group(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @contextlib.contextmanager
    def paused(self):
        """Stop all of its processes with SIGSTOP for as long as the block lasts.

        What clients do meanwhile reaches the kernel, in that order, and the server all at once.
        """
        self._signal_group(signal.SIGSTOP)
        try:
            until(self.is_stopped, what="the server to stop")
            yield
        finally:
            self._signal_group(signal.SIGCONT)

    def is_stopped(self):
        """Tell whether every thread of every process has stopped: they don't stop at once."""
        return all(kernel.state(pid, thread) in "TZX" for pid, thread in self._each(kernel.threads))

    def limit(self, what, soft):
        """Set a limit of its first process, as setrlimit(2): a resource.RLIMIT_… and a number."""
        hard = resource.prlimit(self.pid, what)[1]
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.prlimit(self.pid, what, (soft, hard))

    # What it prints

    def printed(self, condition=None, seconds=0):
        """Return all it printed, as text.

        condition: wait until it is true of the text, or so many seconds have passed, or nothing
        more can come.
        """

        def text():
            return self.log.read_text("utf-8", "backslashreplace") if self.log else console.text()

        console = self.console
        if condition and self.log:  # nobody tells us when a file grows
            with contextlib.suppress(TimeoutError):
                until(lambda: condition(text()) or console.has_ended(), seconds)
        elif condition:
            console.wait_for(lambda: condition(text()), seconds)
        return text()

    def output(self):
        """Return all it printed after `listening on …`, as text."""
        return self.printed().partition("\n")[2]

    def errors(self):
        """Return all it wrote to standard error, as text."""
        return self.console.text("stderr")

    def last_words(self):
        """Return the last line that it wrote to standard error: of a traceback, the exception."""
        return (self.errors().strip().splitlines() or [""])[-1]

    def wait_for(self, text, times=1, seconds=5):
        """Wait until it has printed text so often. Raises ServerError when it does not."""
        if self.printed(lambda printed: printed.count(text) >= times, seconds).count(text) < times:
            raise ServerError(f"{self.name} has not printed {text!r}. {self.last_words()}")

    def close_console(self):
        """Close the pipe that it prints into, as when a `| head` has seen enough."""
        with STARTING:
            self.console.hang_up("stdout")

    def fill_console(self):
        """Fill the pipe that it prints into, and read it no more, until it is stopped."""
        self.console.fill("stdout")

    # What all of its processes have and do

    def pids(self):
        """Return the numbers of its processes that have not ended, the first one's first."""
        return kernel.group(self.pid)

    def _each(self, question):
        """Yield (pid, answer) for each answer to a question about each process that is there."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                yield from ((pid, answer) for answer in question(pid))

    def _sum(self, question):
        """Add up the answers to a question; raises ProcessLookupError if none is left to ask."""
        answers = [answer for _, answer in self._each(lambda pid: [question(pid)])]
        if not answers:
            raise ProcessLookupError(f"{self.name} has ended")
        return sum(answers)

    def cpu_time(self):
        """Return the CPU time that its processes have used, in seconds."""
        return self._sum(kernel.cpu_time)

    def cpu_share(self, seconds=0.25):
        """Return the part of one core that they use during a window of so many seconds."""
        return kernel.share_of_a_core(self.cpu_time, seconds)

    def descriptors(self):
        """Return how many descriptors its processes have open. Raises ProcessLookupError."""
        return self._sum(kernel.descriptors)

    def memory(self):
        """Return the bytes of memory that its processes have written to, each alone."""
        return self._sum(kernel.memory)

    def sockets(self):
        """Return its TCP sockets, as kernel.sockets(); one that is shared is there once."""
        found = self._each(lambda pid: kernel.sockets(pid=pid))
        return list({each.inode: each for _, each in found}.values())

    def is_asleep(self):
        """Tell whether every thread of every process sleeps. Raises ProcessLookupError."""
        return self._sum(lambda pid: not kernel.is_asleep(pid)) == 0

    def is_at_rest(self):
        """Tell whether every process sleeps, with nothing unread. Raises ProcessLookupError."""
        return self._sum(lambda pid: not kernel.is_at_rest(pid)) == 0


def _limited():
    """Return the words in front of a command that limit its CPU time; they take 1 ms."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    seconds = CPU_SECONDS if hard == resource.RLIM_INFINITY else min(CPU_SECONDS, hard)
    return ["/bin/sh", "-c", f'ulimit -S -t {seconds}; exec "$@"', "sh"]


def serve(path, *arguments, before=(), inherit=(), seconds=10, log_file=False):
    """Start `python path 0 [arguments]`, a program that prints where it listens, as Server.

    before: what stands between the interpreter and the path (a recorder puts itself there).
    inherit, seconds, log_file: as Server has them. Raises ServerError, also when there is no such
    file.
    """
    path = Path(path)
    if not path.is_file():
        raise ServerError(f"There is no {path}: run the cell that writes it first.")
    program = [str(path), "0", *map(str, arguments)]
    command = [sys.executable, "-u", *before, *program]
    return Server(command, name=path.name, inherit=inherit, seconds=seconds, log_file=log_file)


_reserved = []  # abstract sockets: they hold a port for this process, and go with it


def free_port():
    """Reserve a port that nobody else gets between two binds; return its number.

    It lies outside the range from which the kernel takes ports for outgoing connections, and has
    no trace of an older connection. An abstract Unix socket of its name, unix(7), keeps it from
    whoever else calls this.
    """
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest, highest = map(int, path.read_text().split())
    unused = [*range(10_000, lowest), *range(highest + 1, 65_536)]
    for port in random.sample(unused, min(200, len(unused))):
        if kernel.sockets(port):
            continue
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0the-ready-list-port-{port}")
            _reserved.append(holder)
            return port
        except OSError:
            holder.close()
    raise RuntimeError(f"found no free port outside the kernel's own, {lowest} to {highest}")
