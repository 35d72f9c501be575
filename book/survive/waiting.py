"""Wait for what has happened, with a deadline, instead of sleeping and hoping."""

import time

from look import kernel


def until(condition, seconds=5, what=None):
    """Wait until condition() is true, and return its value; it is called every 2 ms.

    Raises TimeoutError after so many seconds; its text says `what` was waited for.
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
