"""Servers in background processes, started, watched and stopped.

A server here may spin, freeze, leak or ignore SIGTERM, and the notebook that started it may be
interrupted, restarted or killed. So every server

- runs in a process group of its own: Jupyter's interrupt sends SIGINT to the kernel's whole
  group, and a server must live through that. Not in a new session: when the kernel dies while
  the server is stopped, an orphaned group of the *same* session gets SIGHUP and SIGCONT;
- is tied to the kernel by its standard input, a pipe. `fcntl(2)`: with O_ASYNC and F_SETSIG the
  kernel sends a signal of our choice, SIGKILL, when the pipe's last writer goes, however it goes.
  (PR_SET_PDEATHSIG follows the *thread* that started the process: a thread pool would kill its
  servers as it ends. A thread in the server that waits for end of file would show up in every
  measurement, and sleeps while the server is stopped.)
- may use a bounded amount of CPU time: one that spins and is forgotten ends by itself.
"""

import atexit
import contextlib
import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from . import kernel

CPU_SECONDS = 30  # of CPU time, for a server's whole life
OUTPUT_BYTES = 1_000_000  # kept of what a server prints; the rest is read and dropped


class ServerError(Exception):
    """A server that did not start, or did not do what was waited for: its own words, no others'."""

    def _render_traceback_(self):
        """IPython shows this instead of the laboratory's own stack."""
        return str(self).splitlines()


class Server:
    """One server process: `python path 0 [arguments]`, ready as soon as this returns.

    path: the program; it must print `listening on HOST:PORT` as its first line.
    arguments: what follows the port on its command line.
    before: what stands between the interpreter and the path (the recorder puts itself there),
    inherit: descriptors that the process gets, seconds: how long it may take to start.

    Raises ServerError with the server's own traceback if it ends instead, at once.
    """

    def __init__(self, path, *arguments, before=(), inherit=(), seconds=10):
        self.path = Path(path)
        if not self.path.is_file():
            raise ServerError(
                f"There is no {self.path}: run the cell that writes it first."
            )
        self.name = self.path.name
        self.port = None
        self._printed = b""
        self._news = threading.Condition()  # its lock is re-entrant
        self._reading = True
        self._stderr = tempfile.TemporaryFile()
        command = [
            sys.executable,
            "-u",
            *before,
            str(self.path),
            "0",
            *map(str, arguments),
        ]
        self._start(command, inherit)
        try:
            self._wait_until_it_listens(seconds)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def _start(self, command, inherit):
        read_end, self._lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=read_end,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                # Jupyter asks for colours, and from 3.13 tracebacks would have them.
                env={**os.environ, "PYTHON_COLORS": "0"},
                process_group=0,
                pass_fds=inherit,
            )
            self.pid = self.process.pid
            fcntl.fcntl(read_end, fcntl.F_SETOWN, self.pid)
            fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC)
            self.limit(resource.RLIMIT_CPU, CPU_SECONDS)
        finally:
            os.close(read_end)
        self._hang_up = os.eventfd(0)
        self._reader = threading.Thread(target=self._read, name=f"output of {self.pid}")
        self._reader.daemon = True
        self._reader.start()

    def _read(self):
        """Collect what it prints, until it ends or close_console() hangs up."""
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        poll.register(self._hang_up, select.POLLIN)
        with self.process.stdout as stdout:
            while all(fd != self._hang_up for fd, _ in poll.poll()):
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    break
                with self._news:
                    self._printed = (self._printed + data)[:OUTPUT_BYTES]
                    self._news.notify_all()
        with self._news:
            self._reading = False
            self._news.notify_all()

    def _wait_until_it_listens(self, seconds):
        with self._news:
            if not self._news.wait_for(
                lambda: b"\n" in self._printed or not self._reading, seconds
            ):
                raise ServerError(
                    f"{self.name} printed nothing for {seconds} s; it was stopped."
                )
        first = self._text().partition("\n")[0]
        host, _, port = first.rpartition(":")
        if not first:
            status = self.wait(seconds)
            own_words = self.errors().strip("\n") or "It printed nothing."
            raise ServerError(f"{self.name} ended with status {status}:\n{own_words}")
        if not host.startswith("listening on ") or not port.isdecimal():
            raise ServerError(
                f"{self.name} should first print 'listening on HOST:PORT', not {first!r}."
            )
        self.port = int(port)
        self.address = (host.removeprefix("listening on ").strip("[]"), self.port)

    def _text(self):
        with self._news:
            return self._printed.decode("utf-8", "backslashreplace")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def __repr__(self):
        state = (
            "running"
            if self.is_running()
            else f"ended with status {self.process.returncode}"
        )
        return f"<{self.name} on port {self.port}, {state}>"

    def is_running(self):
        return self.process.poll() is None

    def output(self):
        """All it printed after `listening on …`, as text."""
        return self._text().partition("\n")[2]

    def errors(self):
        """All it wrote to standard error, as text."""
        if self._stderr.closed:
            return self._stderr_text
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode(
            "utf-8", "backslashreplace"
        )

    def last_words(self):
        """The last line it wrote to standard error: of a traceback, the exception."""
        return (self.errors().strip().splitlines() or [""])[-1]

    def wait_for(self, text, times=1, seconds=5):
        """Wait until it has printed text so often. Raises ServerError when it does not."""

        def printed():
            return self._text().count(text) >= times

        with self._news:
            self._news.wait_for(lambda: printed() or not self._reading, seconds)
        if not printed():
            raise ServerError(
                f"{self.name} has not printed {text!r}. {self.last_words()}"
            )

    def wait(self, seconds=5):
        """Wait until it has ended by itself; return its exit status, negative for a signal.

        By then all that it printed has been read.
        """
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"{self.name} is still running after {seconds} s."
            ) from None
        with self._news:
            self._news.wait_for(lambda: not self._reading, seconds)
        return status

    def limit(self, what, soft):
        """Set one of the process's limits, as setrlimit(2): a resource.RLIMIT_… and a number."""
        hard = resource.prlimit(self.pid, what)[1]
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.prlimit(self.pid, what, (soft, hard))

    def send_signal(self, number):
        """Send it a signal, unless it has ended. Returns nothing."""
        if self.is_running():
            self.process.send_signal(number)

    @contextlib.contextmanager
    def paused(self):
        """Stop the process with SIGSTOP for as long as the block lasts.

        What clients do meanwhile reaches the kernel, in that order, and the server all at once.
        """
        self.send_signal(signal.SIGSTOP)
        until(
            lambda: _status(self.pid) in ("stopped", "zombie"),
            what="the server to stop",
        )
        try:
            yield
        finally:
            self.send_signal(signal.SIGCONT)

    def close_console(self):
        """Close the pipe that it prints into, as a terminal window that is closed."""
        os.eventfd_write(self._hang_up, 1)
        self._reader.join()

    def stop(self, number=signal.SIGTERM, seconds=3):
        """End it and release all that belongs to it; return its exit status.

        One that ignores the signal, or is stopped or frozen, gets SIGKILL after so many seconds.
        Stopping twice does no harm.
        """
        self.send_signal(number)
        self.send_signal(signal.SIGCONT)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGKILL)
            self.process.wait()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
            self.close_console()
            os.close(self._hang_up)
            self._stderr_text = self.errors()
            self._stderr.close()
        return self.process.returncode


def _status(pid):
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return "zombie"


def until(condition, seconds=5, what=None):
    """Wait until condition() is true, and return what it returned; it is asked every 2 ms.

    Raises TimeoutError, which says what was waited for, after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what or condition}")
        time.sleep(0.002)
    return value


def until_blocked(pid, call, thread=None, seconds=5):
    """Wait until a thread (default: the main one) sleeps in a system call; return the Blocked.

    call: as the kernel names it: accept4, recvfrom, sendto. Raises TimeoutError, and
    ProcessLookupError when the process has ended.
    """

    def asleep():
        blocked = kernel.blocked_in(pid, thread)
        return blocked if blocked and blocked.call == call else None

    return until(asleep, seconds, f"process {pid} to sleep in {call}")


_started = {}  # by path: what this notebook has started and not yet stopped


def find(name):
    """The file that a notebook means: `02_request_loop.py` is what its own cell wrote to run/."""
    path = Path(name)
    return (Path("run") / path if path.parent == Path() else path).resolve()


def start(name, *arguments):
    """Start a server in the background, say where it listens, and return it.

    name: a file in run/, or a path. Starting a file again stops the one started before.
    """
    path = find(name)
    if path in _started:
        _started.pop(path).stop()
    server = Server(path, *arguments)
    _started[path] = server
    print(f"{server.name} is listening on {server.address[0]}:{server.port}")
    return server


def stop_all():
    """Stop every server that start() has started."""
    while _started:
        _started.popitem()[1].stop()


atexit.register(stop_all)
