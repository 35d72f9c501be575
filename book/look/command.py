"""The command line of a look: the process's number in, the report out."""

import argparse
import json
import os
import re
import sys
import time

from .report import as_data, report
from .view import look_at

DOES = "Say what a running server waits for, and what is wrong with it. It changes nothing."
STATUS = """\
exit status: 0 nothing found, 1 something found, 2 it could not be looked at.
It reads /proc and asks the kernel for its sockets. Only a process that uses a core all the time
is traced as well, as by strace, one thread for 0.3 s at the most; the report says so."""
WHICH = "give the number of one process of yours, as `ps` or `pgrep -f name` tells it"
FOUND, REFUSED = 1, 2  # exit statuses


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        message = WHICH if "required" in message else message
        print(f"look: {message}; -h tells more", file=sys.stderr)
        sys.exit(REFUSED)


def _process(text):
    if re.fullmatch("[1-9][0-9]{0,6}", text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no process: {WHICH}")


def _parser():
    parser = _Parser(
        prog="look",
        description=DOES,
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pid", type=_process, metavar="PID", help="the process's number")
    parser.add_argument("--json", action="store_true", help="write a line of JSON, for machines")
    parser.add_argument("--watch", action="store_true", help="look again and again, until Ctrl-C")
    parser.add_argument(
        "--seconds", type=float, default=0.5, metavar="S", help="of a look (default: 0.5)"
    )
    return parser


def main(arguments=None):
    """Print the report of the process that the arguments name; return the exit status.

    arguments: of the command line, unless given. With --watch the status is the last look's.
    """
    options, status = _parser().parse_args(arguments), 0
    try:
        while view := _look(options):
            status = FOUND if view.findings else 0
            _print(json.dumps(as_data(view)) if options.json else report(view))
            if not options.watch:
                return status
            time.sleep(1)  # between two looks
        return REFUSED
    except KeyboardInterrupt:
        return status


def _print(text):
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; what is left must not raise it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _look(options):
    """Return the View, or None if it can't be looked at, having said why."""
    pid = options.pid
    try:
        return look_at(pid, options.seconds)
    except ProcessLookupError as error:
        reason = f"{error.strerror}, or never was: `ps` tells which are there"
    except PermissionError:
        reason = (
            f"process {pid} is not yours to look at: be the same user; where the sysctl "
            "kernel.yama.ptrace_scope is 1, look at your own children only, or use sudo; in a "
            "container, give it the capability SYS_PTRACE"
        )
    print(f"look: {reason}", file=sys.stderr)
    return None
