"""The survival matrix of the book: every server against every awkward client.

What a cell is and how it is judged is survive's; here are the book's own columns, the chapter that
explains each row, and the exercises' checks, which play rows against a reader's own file.
"""

import contextlib
import html
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from survive import scene
from survive.clients import Conversation
from survive.rows import ROWS, Traits, row
from survive.server import ServerError, serve
from survive.waiting import until

from . import notebooks
from .session import edited, find, write_whole

# The chapter that explains what a row does to a server.
EXPLAINED_IN = {
    "two at once": "02_request_loop",
    "ten while it is busy": "07_backlog",
    "says nothing": "02_request_loop",
    "connects and closes": "02_request_loop",
    "half a request then closes": "02_request_loop",
    "half a request then resets": "02_request_loop",
    "whole request then resets": "02_request_loop",
    "asks and leaves": "04_level_triggered",
    "half closes after asking": "05_edge_triggered",
    "half closes and vanishes": "10_peers_that_close",
    "bytes that are not UTF-8": "01_one_request",
    "a body left unread": "01_one_request",
    "two pipelined requests": "01_one_request",
    "a header without end": "11_hardened",
    "sends without pause": "05_edge_triggered",
    "more clients than descriptors": "03_thread_per_client",
    "HEAD": "01_one_request",
    "a bare line feed": "01_one_request",
    "a TLS hello": "02_request_loop",
    "its console closed": "02_request_loop",
    "asks without pause": "11_hardened",
    "silent at the descriptor limit": "11_hardened",
    "drips a header": "11_hardened",
    "drips a body": "11_hardened",
    "never reads a long answer": "11_hardened",
    "reads a long answer one byte a second": "11_hardened",
    "vanishes while idle": "11_hardened",
    "vanishes with an answer unread": "11_hardened",
    "its console full and not read": "11_hardened",
    "its log's disk full then not": "11_hardened",
    "SIGTERM while clients wait in the queue": "11_hardened",
    "SIGTERM while a request is half read": "11_hardened",
    "SIGTERM while an answer is half read": "11_hardened",
}


@dataclass(frozen=True)
class Column:
    """A server of the book: its file, the chapter that explains it, and what sets it apart.

    path: a file; or a name without a folder, and then a cell of that chapter writes it to run/.
    label: what stands above the column; the chapter's number, unless given. arguments: words of the
    command line, after the port. changes: {old text: new text} of the file, for a server that would
    take its minutes otherwise.
    """

    chapter: str
    path: str
    label: str = ""
    traits: Traits = field(default_factory=Traits)
    arguments: tuple = ()
    changes: dict = field(default_factory=dict)
    long_path: str = None

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or self.chapter[:2])

    def file(self):
        """Return the path of its file, which is written first where a chapter's cell holds it."""
        path = self.path
        if "/" not in path:
            path = str(notebooks.write_program(self.chapter, path))
        return edited(path, f"matrix_{Path(path).name}", self.changes) if self.changes else path

    def written(self):
        """Return the column with its files written, that with the long answer among them."""
        if self.long_path is not None:
            return self
        path = self.file()
        return replace(self, path=path, changes={}, long_path=with_long_answer(path))

    def start(self, long_answer=False, log_file=False):
        """Start the server, with a long answer or its standard output in a file, if so asked."""
        path = (self.long_path or self.path) if long_answer else self.path
        return serve(path, *self.arguments, log_file=log_file)


# What a server answers, in each of the book's: the length, if it is told in figures, and the body,
# which may be the last in parentheses.
LENGTH, BODY = re.compile(r"(Content-Length: )13\b"), re.compile(r'(Hello, world!"(?:\n\))?)')
STARTS = "\nchapter.main()\n"  # how a variant of a chapter's server ends
LONG = 8_000_000  # bytes: twice what Linux lets a send buffer grow to, tcp(7), tcp_wmem


def with_long_answer(path):
    """Write a server to run/ whose answer no buffer holds; return the path, "" if that can't be.

    path: of a server whose file has the article's answer in the way of the book's, or takes it from
    a chapter that it imports.
    """
    text = Path(path).read_text(encoding="utf-8")
    largest = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    length = max(LONG, 2 * largest)
    more = f" + b'.' * {length - 13}"
    if len(BODY.findall(text)) == 1:
        text = BODY.sub(rf"\1{more}", LENGTH.sub(rf"\g<1>{length}", text))
    elif text.endswith(STARTS):
        answer = f"chapter.ANSWER.replace(b'13', b'{length}'){more}"
        text = text.removesuffix(STARTS) + f"\nchapter.ANSWER = {answer}{STARTS}"
    else:
        return ""
    return str(write_whole(notebooks.BOOK / "run" / f"{Path(path).stem}_long.py", text))


LOGS = Traits(logs=True)
COLUMNS = [
    Column(
        "01_one_request",
        "../code/01_one_request.py",
        traits=Traits(answers_once=True, one_at_a_time=True, logs=True),
    ),
    Column(
        "02_request_loop",
        "../code/02_request_loop.py",
        traits=Traits(one_at_a_time=True, logs=True),
    ),
    Column("03_thread_per_client", "../code/03_thread_per_client.py", traits=LOGS),
    Column("04_level_triggered", "../code/04_level_triggered.py", traits=LOGS),
    Column("05_edge_triggered", "../code/05_edge_triggered.py", traits=LOGS),
    Column("06_one_shot", "../code/06_one_shot.py", traits=LOGS),
    Column("07_backlog", "../code/07_backlog.py", traits=LOGS),
    Column("08_cork", "../code/08_cork.py", traits=LOGS),
    Column("09_nodelay", "../code/09_nodelay.py", traits=LOGS),
    # It gives up who has vanished after a minute; here that is made two seconds.
    Column(
        "10_peers_that_close",
        "../code/10_peers_that_close.py",
        traits=Traits(logs=True, deadline=3),
        changes={"IDLE, EVERY, VANISHED = 30, 10, 60": "IDLE, EVERY, VANISHED = 1, 1, 2"},
    ),
    Column(
        "11_hardened",
        "../code/11_hardened.py",
        traits=Traits(logs=True, deadline=4),
        arguments=(
            "-v",
            *("--header-timeout", "1", "--idle-timeout", "1", "--body-timeout", "1"),
            *("--write-timeout", "1", "--drain-timeout", "2"),
        ),
    ),
    Column("smallest_loop", "smallest_loop.py", "loop"),
    # Chapters 4 and 5 with the lines that the translator's note puts into their reading.
    Column("10_peers_that_close", "10_rewrite_level.py", "04′", LOGS),
    Column("10_peers_that_close", "10_rewrite_edge.py", "05′", LOGS),
]


def judge(row, column):
    """Play one cell; return its Verdict. Raises ServerError if the server does not start at all."""
    column = column.written()
    has_long = column.traits.long_answer or bool(column.long_path)
    traits = replace(column.traits, long_answer=has_long)
    return scene.judge(row, column.start, traits)


def survey(rows=None, columns=None, at_once=4):
    """Judge every cell, at_once of them at a time; return {(row name, column label): Verdict}.

    rows and columns: all, unless given. Raises ServerError if a server does not start at all.
    """
    rows = ROWS if rows is None else rows
    columns = COLUMNS if columns is None else columns
    columns = [column.written() for column in columns]  # one writing each
    cells = [(row, column) for row in rows for column in columns]
    with ThreadPoolExecutor(at_once) as pool:
        names = [(row.name, column.label) for row, column in cells]
        return dict(zip(names, pool.map(lambda cell: judge(*cell), cells), strict=True))


def stored():
    """Return the verdicts that the matrix's page has stored, {(row name, column label): word}."""
    cells = notebooks.cells(notebooks.BOOK / "survival.ipynb")
    outputs = json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)
    found = re.findall(r'title=\\"([^"]+) against ([^"]+): ([^"]+)\\"', outputs)
    return {(html.unescape(client), server): word for client, server, word in found}


def compare(verdicts):
    """Say on standard error which verdicts differ from the stored ones, and why, a line for each.

    An output on standard error fails the tests and the build, and is never stored.
    """
    known = stored()
    for (client, server), verdict in verdicts.items():
        if verdict.word != known.get((client, server)):
            was = known.get((client, server), "nothing")
            print(f"{client} against {server}: stored {was}, seen {verdict}", file=sys.stderr)


def check_stays(name, *rude):
    """Let rude clients of the matrix come and go; say whether an earlier client keeps its server.

    name: a file in run/, or a path. rude: their names. The earlier client asks last:
    a server that starts afresh after each rude one has lost it.
    """
    with serve(find(name)) as server, Conversation(server.address) as first:
        until(lambda: len(server.sockets()) > 1, what="the first client to be accepted")
        with contextlib.suppress(OSError):  # they may have ended the server
            for each in rude:
                with Conversation(server.address) as talk:
                    row(each).act(talk, server)
            first.ask()
        print(
            "solved:" if first.answers() else "not yet:",
            "a client that came before them is answered",
        )


def check(name, client, *more, **traits):
    """Play clients of the matrix, by their names, against a server of the reader's own.

    Where many would overstay, one does: deadlines are another exercise.

    name: a file in run/, or a path. traits: what sets the server apart, as survive.rows.Traits
    has it. Prints those that are solved in one line, and one for each that is not, with why.
    """
    column = Column(Path(name).stem, str(find(name)), traits=Traits(**traits))
    rows = [row(each).alone() for each in (client, *more)]
    try:
        verdicts = survey(rows, [column])
    except ServerError as error:
        print(error)
        return
    mine = {each.name: verdicts[each.name, column.label] for each in rows}
    say_solved({name: "" if v.word in ("ok", "ends") else v for name, v in mine.items()})


def say_solved(cases):
    """Print the solved cases of an exercise in one line, and one for each that is not, with why.

    cases: {case: what is wrong, "" if nothing is}.
    """
    if solved := [case for case, wrong in cases.items() if not wrong]:
        print("solved:", ", ".join(solved))
    for case, wrong in cases.items():
        if wrong:
            print(f"not yet: {case} ({wrong})")
