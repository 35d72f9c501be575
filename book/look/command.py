"""The command line of a look: the process's number in, the report out."""

import re
import sys

from .report import report
from .view import look_at

USAGE = "give the number of one process of yours, as `ps` or `pgrep -f name` tells it"


def main(arguments=None):
    """Print the report of the process that the arguments name; return the exit status.

    arguments: of the command line, unless given. 0: it was looked at; 2: it could not be.
    """
    text = " ".join(sys.argv[1:] if arguments is None else arguments)
    try:
        if re.fullmatch("[1-9][0-9]{0,6}", text):
            print(report(look_at(int(text))))
            return 0
        reason = USAGE
    except ProcessLookupError as error:
        reason = f"{error.strerror}, or never was: `ps` tells which are there"
    except PermissionError:
        reason = f"process {text} is not yours to look at: be the same user; and where the sysctl "
        reason += "kernel.yama.ptrace_scope is 1, look at your own children only, or use sudo"
    print(f"look: {reason}", file=sys.stderr)
    return 2
