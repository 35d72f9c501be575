"""Tie a process group to us: it dies when we do, however we end.

A server may ignore every polite signal, be stopped, or have forked workers, and we may be killed
by SIGKILL, when nothing of ours can run any more. So its standard input is a pipe of which we hold
the writing end. `fcntl(2)`: with O_ASYNC and F_SETSIG the kernel sends a signal of our choice,
SIGKILL, when the pipe's last writer goes; with F_SETOWN and a negative number it sends it to a
whole process group, so that workers don't outlive their parent.

Not PR_SET_PDEATHSIG: that follows the *thread* that started the process, and a thread pool would
kill its servers as it ends. Not a thread in the server that waits for end of file: it would show
up in every measurement, and sleeps while the server is stopped.
"""

import fcntl
import os
import signal


def tie(read_end, leader):
    """Have the kernel kill a process group when a pipe's last writer is gone.

    read_end: the pipe's descriptor that is read from, which the group has open too. leader: the
    number of the process that the group is named after.
    """
    fcntl.fcntl(read_end, fcntl.F_SETOWN, -leader)
    fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC)
