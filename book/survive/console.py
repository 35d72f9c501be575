"""What a process prints: both of its streams, read by a thread as it comes.

A pipe that nobody reads stops its writer as soon as it is full. So all is read, and of each stream
the first bytes are kept.
"""

import contextlib
import os
import select
import threading
import time

KEPT_BYTES = 1_000_000  # of each stream; the rest is read and dropped


class Console:
    """The standard output and the standard error of a process.

    stdout, stderr: the files that we read them from; they are closed when they have ended. stdout
    is None where it goes elsewhere. name: of the thread that reads. `ended_at` is when both had
    ended, on the monotonic clock, or None.
    """

    def __init__(self, stdout, stderr, name):
        self.ended_at = None
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}  # by stream
        self._files = {"stdout": stdout, "stderr": stderr} if stdout else {"stderr": stderr}
        self._open, self._unwanted = set(self._files), set()
        self._to_leave, self._left = set(), set()  # full pipes: not read while their writers live
        self._news = threading.Condition()  # with a re-entrant lock
        self._hang_up = os.eventfd(0)
        self._reader = threading.Thread(target=self._read, name=name)
        self._reader.daemon = True
        self._reader.start()

    def text(self, stream="stdout"):
        """Return what has come from a stream (`stdout`, `stderr`) so far."""
        with self._news:
            return self._kept[stream].decode("utf-8", "backslashreplace")

    def wait_for(self, condition, seconds):
        """Wait until condition() is true or both streams have ended; return whether it is true."""
        with self._news:
            self._news.wait_for(lambda: condition() or not self._open, seconds)
            return condition()

    def has_ended(self):
        """Tell whether both streams have ended."""
        return not self._open

    def hang_up(self, *streams):
        """Close our end of some streams, as when a `| head` has seen enough."""
        with self._news:
            self._unwanted |= set(streams) & self._open
        os.eventfd_write(self._hang_up, 1)
        with self._news:
            self._news.wait_for(lambda: not self._unwanted & self._open)

    def fill(self, stream):
        """Read a stream no more, and fill its pipe, so that whoever writes to it has to wait.

        The file of the reading end, opened again for writing, is the same pipe: fifo(7), proc(5).
        When its writers are gone, it is read to the end. Returns how many bytes it took.
        """
        with self._news:
            self._to_leave.add(stream)
        os.eventfd_write(self._hang_up, 1)
        with self._news:
            self._news.wait_for(lambda: stream in self._left or stream not in self._open)
        if stream not in self._open:
            return 0
        filled = 0
        path = f"/proc/self/fd/{self._files[stream].fileno()}"
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            for size in (select.PIPE_BUF, 1):  # at the end a byte at a time: a page may have room
                with contextlib.suppress(BlockingIOError):
                    while True:
                        filled += os.write(pipe, b"." * size)
        finally:
            os.close(pipe)
        return filled

    def close(self, seconds=1):
        """Release what reads the streams, when both have ended or so many seconds have passed.

        A process that has left its group, as a daemon does, may hold them open for ever.
        """
        self.wait_for(self.has_ended, seconds)
        self.hang_up("stdout", "stderr")
        self._reader.join()
        os.close(self._hang_up)

    def _read(self):
        streams = {file.fileno(): (name, file) for name, file in self._files.items()}
        poll = select.poll()
        for fd in (self._hang_up, *streams):
            poll.register(fd, select.POLLIN)
        while streams:
            for fd, _ in poll.poll():
                if fd == self._hang_up:
                    os.eventfd_read(fd)
                    for each in [fd for fd in streams if streams[fd][0] in self._unwanted]:
                        self._take(streams, each, b"", poll)  # the stream ends for us
                    self._leave(streams, poll)
                elif fd in streams:  # and not closed since poll() returned
                    self._take(streams, fd, os.read(fd, 65536), poll)
        self.ended_at = time.monotonic()

    def _leave(self, streams, poll):
        """Have poll() report nothing but the end of the streams that are to be left."""
        with self._news:
            for fd, (name, _) in streams.items():
                if name in self._to_leave:
                    poll.modify(fd, 0)
            self._left |= self._to_leave
            self._news.notify_all()

    def _take(self, streams, fd, data, poll):
        """Keep data that came from a stream, up to the limit; no data: the stream has ended."""
        name, file = streams[fd]
        with self._news:
            if data:
                kept = self._kept[name]
                kept += data[: KEPT_BYTES - len(kept)]
            else:
                poll.unregister(fd)
                file.close()
                del streams[fd]
                self._open.discard(name)
            self._news.notify_all()
