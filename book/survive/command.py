"""The command line: which awkward clients there are, and what each does."""

import inspect
import sys

from .rows import ROWS


def main(arguments=None):
    """Print the awkward clients; return the exit status, 2 if anything else was asked for.

    arguments: of the command line, unless given.
    """
    if sys.argv[1:] if arguments is None else arguments:
        print("survive: it takes no arguments, and lists the awkward clients", file=sys.stderr)
        return 2
    width = max(len(row.name) for row in ROWS)
    for row in ROWS:
        print(f"{row.name:{width}}  {inspect.getdoc(row.act).splitlines()[0]}")
    return 0
