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
import ctypes
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
OUTPUT_BYTES = 1_000_000  # kept of each of its streams; the rest is read and dropped


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
            raise ServerError(f"There is no {self.path}: run the cell that writes it first.")
        self.name = self.path.name
        self.port = self.address = self.ended_at = None
        self._printed, self._complained = bytearray(), bytearray()
        self._open = {"stdout", "stderr"}
        self._news = threading.Condition()  # its lock is re-entrant
        program = [str(self.path), "0", *map(str, arguments)]
        self._start([sys.executable, "-u", *before, *program], inherit)
        try:
            self.limit(resource.RLIMIT_CPU, CPU_SECONDS)
            self._wait_until_it_listens(seconds)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def _start(self, command, inherit):
        # For its temporary files: it may be killed before it can remove them.
        self._scratch = tempfile.TemporaryDirectory(prefix=f"{self.path.stem}-")
        read_end, self._lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Jupyter asks for colours, and from 3.13 tracebacks would have them.
                env={**os.environ, "PYTHON_COLORS": "0", "TMPDIR": self._scratch.name},
                process_group=0,
                pass_fds=inherit,
            )
            self.pid = self.process.pid
            fcntl.fcntl(read_end, fcntl.F_SETOWN, self.pid)
            fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC)
        finally:
            os.close(read_end)
        self._hang_up = os.eventfd(0)
        self._reader = threading.Thread(target=self._read, name=f"output of {self.pid}")
        self._reader.daemon = True
        self._reader.start()

    def _read(self):
        """Collect what it prints, until both streams have ended."""
        stdout, stderr = self.process.stdout, self.process.stderr
        streams = {
            stdout.fileno(): ("stdout", stdout, self._printed),
            stderr.fileno(): ("stderr", stderr, self._complained),
        }
        poll = select.poll()
        for fd in (self._hang_up, *streams):
            poll.register(fd, select.POLLIN)
        console = stdout.fileno()
        while streams:
            for fd, _ in poll.poll():
                if fd == self._hang_up:  # close_console(): the stream ends for us
                    os.eventfd_read(fd)
                    if console in streams:
                        self._keep(streams, console, b"", poll)
                elif fd in streams:  # and not closed since poll() returned
                    self._keep(streams, fd, os.read(fd, 65536), poll)
        self.ended_at = time.monotonic()

    def _keep(self, streams, fd, data, poll):
        """Keep what came from a stream, up to the limit; nothing means that it has ended."""
        name, file, kept = streams[fd]
        with self._news:
            if data:
                kept += data[: OUTPUT_BYTES - len(kept)]
            else:
                poll.unregister(fd)
                file.close()
                del streams[fd]
                self._open.discard(name)
            self._news.notify_all()

    def _wait_until_it_listens(self, seconds):
        with self._news:
            self._news.wait_for(lambda: b"\n" in self._printed or not self._open, seconds)
        first = self._text().partition("\n")[0]
        host, _, port = first.rpartition(":")
        if not self._printed and not self._open:
            status = self.wait(seconds)
            own_words = self.errors().strip("\n") or "It printed nothing."
            raise ServerError(f"{self.name} ended with status {status}:\n{own_words}")
        if not self._printed:
            raise ServerError(f"{self.name} printed nothing for {seconds} s.\n{self.errors()}")
        if not host.startswith("listening on ") or not port.isdecimal():
            raise ServerError(
                f"{self.name} should first print 'listening on HOST:PORT', not {first!r}.\n"
                + self.errors()
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
        state = "running" if self.is_running() else f"ended with status {self.process.returncode}"
        return f"<{self.name} on port {self.port}, {state}>"

    def is_running(self):
        """Has it not ended yet?"""
        return self.process.poll() is None

    def output(self):
        """All it printed after `listening on …`, as text."""
        return self._text().partition("\n")[2]

    def errors(self):
        """All it wrote to standard error, as text."""
        with self._news:
            return self._complained.decode("utf-8", "backslashreplace")

    def last_words(self):
        """The last line it wrote to standard error: of a traceback, the exception."""
        return (self.errors().strip().splitlines() or [""])[-1]

    def wait_for(self, text, times=1, seconds=5):
        """Wait until it has printed text so often. Raises ServerError when it does not."""

        def printed():
            return self._text().count(text) >= times

        with self._news:
            self._news.wait_for(lambda: printed() or not self._open, seconds)
        if not printed():
            raise ServerError(f"{self.name} has not printed {text!r}. {self.last_words()}")

    def wait(self, seconds=5):
        """Wait until it has ended by itself; return its exit status, negative for a signal.

        By then all that it printed has been read.
        """
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self.name} is still running after {seconds} s.") from None
        with self._news:  # a child of its own may hold the streams open
            self._news.wait_for(lambda: not self._open, 1)
        return status

    def limit(self, what, soft):
        """Set one of the process's limits, as setrlimit(2): a resource.RLIMIT_… and a number."""
        hard = resource.prlimit(self.pid, what)[1]
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.prlimit(self.pid, what, (soft, hard))

    def send_signal(self, number, thread=None):
        """Send it a signal, or one of its threads, tgkill(2), unless it has ended."""
        if self.is_running() and thread is not None:
            ctypes.CDLL(None).tgkill(self.pid, thread, number)
        elif self.is_running():
            self.process.send_signal(number)

    @contextlib.contextmanager
    def paused(self):
        """Stop the process with SIGSTOP for as long as the block lasts.

        What clients do meanwhile reaches the kernel, in that order, and the server all at once.
        """
        self.send_signal(signal.SIGSTOP)
        try:
            until(lambda: _status(self.pid) in ("stopped", "zombie"), what="the server to stop")
            yield
        finally:
            self.send_signal(signal.SIGCONT)

    def close_console(self):
        """Close the pipe that it prints into, as when a `| head` has seen enough."""
        os.eventfd_write(self._hang_up, 1)
        with self._news:
            self._news.wait_for(lambda: "stdout" not in self._open)

    def stop(self, number=signal.SIGTERM, seconds=3):
        """End it and release all that belongs to it; return its exit status.

        The signal is sent again and again: Python runs a handler between two instructions, and
        one that comes just before a call blocks has to wait until that call returns. A server
        that is still there after so many seconds gets SIGKILL, and so do children that it
        leaves behind. Stopping twice does no harm.
        """
        deadline = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < deadline:
            self.send_signal(number)
            self.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        self.send_signal(signal.SIGKILL)
        self.process.wait()
        if self._lifeline is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.close(self._lifeline)
            self._lifeline = None
            self._reader.join()
            os.close(self._hang_up)
            self._scratch.cleanup()
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


def until_at_rest(pid, count=None, seconds=5):
    """Wait until a process sleeps, has read all, and has so many TCP sockets, if a count is given.

    Raises TimeoutError, and ProcessLookupError when the process has ended.
    """
    sockets = "" if count is None else f" with {count} sockets"
    until(lambda: kernel.is_at_rest(pid, count), seconds, f"process {pid} to rest{sockets}")


_started = {}  # by path: what this notebook has started and not yet stopped


def find(name):
    """The file that a notebook means: `02_request_loop.py` is what its own cell wrote to run/."""
    path = Path(name)
    return (Path("run") / path if path.parent == Path() else path).resolve()


def variant(chapter, name, lines="", start=None, **settings):
    """Write a server like a chapter's, but with something changed, to run/; return its path.

    chapter: `04_level_triggered`, as in code/. name: of the file. settings: constants of that
    module, as BACKLOG=128. lines: what else is to be done to `chapter`, as a program's text. start:
    a module of run/ that uses the chapter's and is to be run in its place.
    """
    path = Path("run", name)
    constants = "".join(f"chapter.{constant} = {value!r}\n" for constant, value in settings.items())
    path.write_text(
        "import importlib, sys\n"
        "sys.path.append('../code')\n"
        f"chapter = importlib.import_module({chapter!r})\n"
        f"{constants}{lines}\n"
        f"importlib.import_module({(start or chapter)!r}).main()\n",
        encoding="utf-8",
    )
    return str(path)


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
