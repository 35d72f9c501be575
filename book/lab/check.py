"""The exercises' checks.

An exercise asks for a server that survives some client; `check` plays that client of the survival
matrix against the reader's file and says what became of it.
"""

from pathlib import Path

from . import survival
from .server import ServerError, find


def check(name, client, *more, **traits):
    """Play clients of the survival matrix, by their names, against a server of the reader's own.

    name: a file in run/, or a path. traits: what sets the server apart, as survival.Column has
    it: answers_once, one_at_a_time, long_answer. Prints a line for each client.
    """
    column = survival.Column(Path(name).stem, str(find(name)), **traits)
    rows = [survival.row(each) for each in (client, *more)]
    try:
        verdicts = survival.survey(rows, [column])
    except ServerError as error:
        print(error)
        return
    for row in rows:
        verdict = verdicts[row.name, column.label]
        done = "solved" if verdict.word in ("ok", "ends") else "not yet"
        print(f"{row.name}: {done} ({verdict})")
