"""The smallest loop: how long it is, what it survives, and that each of its lines is tried."""

import ast
import re

import pytest

import lab
from conftest import KEPT, ROOT, SERVERS, printed
from lab import notebooks

PAGE = "smallest_loop"
CHAPTER = ROOT / "book" / f"{PAGE}.ipynb"
LISTING = notebooks.program(PAGE, f"{PAGE}.py")
START, END = LISTING.index("class Client:"), LISTING.index('if __name__ == "__main__":')
LOOP = [line for line in LISTING[START:END].splitlines() if line.strip()]
WORDS = lab.matrix.stored()

# What can't be taken out: names, the beginnings of blocks, and what is empty at the beginning.
STRUCTURE = {
    "def __init__(self, connection):",
    "self.connection, self.is_done = connection, False",
    'self.received, self.unsent = b"", b""',
    "def send_or_receive(self):",
    "if self.unsent:",
    "self.unsent, self.received, self.is_done = answer(asked)",
    "def serve(listener):",
    "epoll, clients, is_full = select.epoll(), {}, False",
    "while True:",
    "for fd, _ in events:",
    "try:",
    "if client:",
    "else:",
}


@pytest.fixture
def changed(write):
    """Write the loop with a text of it changed; returns the path."""

    def changed(old, new):
        assert LISTING.count(old) == 1, old
        return write(LISTING.replace(old, new))

    return changed


def test_it_has_forty_three_lines():
    assert len(LOOP) == 43 < 45, "“Forty-three lines of Python are enough for a socket server”"


def test_no_single_client_of_the_matrix_does_it_harm():
    words = {client: word for (client, label), word in WORDS.items() if label == "loop"}
    assert len(words) == len(lab.rows.ROWS)
    harmed = {client: word for client, word in words.items() if word != "ok"}
    many = {row.name for row in lab.rows.ROWS if row.overstays}
    assert {harmed.pop(client) for client in many} == {"frozen"}
    told = {row.name for row in lab.rows.ROWS if row.ends}
    assert {harmed.pop(client) for client in told} == {"dead"}, (
        "“Of that signal the loop dies at once”"
    )
    assert harmed == {"a header without end": "leaking", "its log's disk full then not": "n/a"}, (
        "“that no single client of the survival matrix freezes, kills or makes spin: `Client` and "
        "`serve` in this file”; “In the matrix, *says nothing* is `ok`, as nobody else suffers. "
        "With *a header without end* the loop is `leaking`, and with *silent at the descriptor "
        "limit* it is `frozen`”"
    )
    tables = [printed(PAGE, cell["id"]) for cell in notebooks.cells(CHAPTER) if plays(cell)]
    come_by = set(re.findall(r"\| \w+ \(([\w ]+)\)$", "\n".join(tables), re.MULTILINE))
    assert len(come_by) > 5 and {words[client] for client in come_by} == {"ok"}, (
        "“As it is, the loop is `ok` with all who come by here”"
    )


def plays(cell):
    return cell["cell_type"] == "code" and "seen = play(" in "".join(cell["source"])


def originals():
    """Yield what the page's cells change in the listing: the keys of their dictionaries."""
    names = {}
    for cell in notebooks.cells(CHAPTER):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or source.startswith("%%"):
            continue
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                    names[name] = text
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                    pairs = zip(targets, values, strict=True)
                    names |= {each.id: v.value for each, v in pairs if isinstance(v, ast.Constant)}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Dict):
                for key in filter(None, node.keys):  # none stands for **
                    code = ast.unparse(key)
                    yield eval(code, dict(names))  # a text, a name, or an f-string of names


def test_each_line_is_changed_or_taken_out_but_those_that_hold_it_together():
    touched = set()
    for old in originals():
        if LISTING.count(old) == 1:  # another key is a label
            first = LISTING.count("\n", 0, LISTING.index(old))
            touched |= {first + number for number in range(len(old.splitlines()))}
    lines = LISTING.splitlines()
    begin = LISTING.count("\n", 0, START)
    end = LISTING.count("\n", 0, END)
    left = [lines[n] for n in range(begin, end) if lines[n].strip() and n not in touched]
    assert {line.strip() for line in left} == STRUCTURE, (
        "“Further down every line that does something is changed or taken out, and the client who "
        "needs it comes by”"
    )


def test_what_is_unsent_waits_for_out(changed):
    long = changed('13\\r\\n\\r\\nHello, world!"', '20000000\\r\\n\\r\\n" + bytes(20_000_000)')
    with lab.serve(long) as server, lab.connect(server, receive_buffer=65536) as client:
        client.send(lab.REQUEST)
        lab.until(lambda: lab.kernel.unread(client.socket))
        lab.at_rest(server, sockets=2)
        watched = sorted(lab.kernel.watched(server.pid))
        client.read_all()
        answers = client.answers()
    assert watched == ["IN|ERR|HUP", "OUT|ERR|HUP"], "“The rest waits until epoll reports `OUT`”"
    assert [len(answer.body) for answer in answers] == [20_000_000]


def test_a_kept_connection_is_answered_again_and_others_are_served_meanwhile(changed):
    with lab.serve(changed("a false alarm", "it")) as server, lab.connect(server) as client:
        client.send(KEPT)
        assert len(client.received) == 0
        lab.until(lambda: lab.kernel.unread(client.socket))
        assert lab.rows.is_hello(lab.get(server.address))
        client.send(KEPT + KEPT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        client.read_all()
        assert len(client.answers()) == 3 and client.ended == "closed"


def test_the_error_that_descriptors_run_out_with(changed):
    column = lab.matrix.Column(PAGE, str(changed("(OSError, EOFError)", "EOFError")))
    verdict = lab.matrix.judge(lab.rows.row("more clients than descriptors"), column)
    assert str(verdict) == "dead: OSError: [Errno 24] Too many open files", (
        "“Out of descriptors: [Errno 24] Too many open files”; “When descriptors run out, `accept` "
        "fails, the client stays in the queue”"
    )


def test_which_event_it_was_is_not_looked_at():
    kinds = "connects and closes", "half a request then resets", "half closes and vanishes"
    harmless = {WORDS[kind, "loop"] for kind in kinds} == {"ok"}
    names = [node for node in ast.walk(ast.parse(LISTING)) if isinstance(node, ast.Name)]
    looked_at = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assert harmless and "for fd, _ in events:" in LISTING and "_" not in looked_at, (
        "“Which event it was doesn't matter, and `_` is never looked at: whatever has happened, an "
        "end or a reset, that one call says it”"
    )


def test_a_connection_that_blocks_while_everybody_reads(changed):
    path = changed("                    connection.setblocking(False)\n", "")
    verdict = lab.matrix.judge(lab.rows.row("plain GET"), lab.matrix.Column(PAGE, str(path)))
    assert verdict.word == "ok", "“A connection that blocks is no harm while everybody reads”"


def test_the_queue_that_is_made_by_itself(changed):
    with lab.serve(changed("a false alarm", "it")) as server:
        _, limit = lab.kernel.accept_queue(server.address)
    assert limit >= 10, "“`create_server` makes a queue that is long enough, and with a short one”"


@pytest.mark.parametrize(
    ("error", "ends"), [("ValueError", True), ("EOFError", False), ("ConnectionError", False)]
)
def test_an_error_in_answer(changed, error, ends):
    with lab.serve(
        changed("    *requests, rest =", f"    raise {error}\n    *requests, rest =")
    ) as it:
        with lab.connect(it) as client:
            client.ask()
            assert client.received == b""
        if ends:
            it.wait()
        else:
            lab.at_rest(it, sockets=1)
        has_ended = not it.is_running()
        assert has_ended == ends, (
            "“And an error in your `answer` that is neither an `OSError` nor an `EOFError` ends "
            "the server”"
        )


def test_what_chapter_10_has_besides():
    codes = {path.stem: path.read_text(encoding="utf-8") for path in SERVERS}
    ten = codes["10_peers_that_close"]
    has_said_goodbye = "shutdown(socket.SHUT_WR)\n                self.deadlines[fd] = "
    assert has_said_goodbye in ten and "tcp, socket.TCP_USER_TIMEOUT" in ten, (
        "“has one for a client who stays after its last answer, and has the kernel find out who "
        "has vanished”"
    )
    kinds = [row.name for row in lab.rows.ROWS if row.overstays or row.ends]
    eleven = (ROOT / "code" / "11_hardened.py").read_text(encoding="utf-8")
    phases = re.findall(r'^    \("(\w+)", \d', eleven, re.MULTILINE)
    assert phases == ["idle", "header", "body", "write", "drain"]
    assert {WORDS[kind, "11"] for kind in kinds} == {"ok", "ends"}, (
        "“Chapter 11's server has one for everything, and answers whoever waits when `SIGTERM` "
        "comes”"
    )


def test_an_error_of_accept_stops_newcomers_for_a_second_at_the_most(changed):
    path = changed("listener.accept()", "next(tries)(listener)")
    text = path.read_text()
    fails = """
def tries_of_accept():
    def refuse(listener):
        raise PermissionError(1, "Operation not permitted")
    yield refuse
    while True:
        yield socket.socket.accept
tries = tries_of_accept()

class Client:"""
    path.write_text(text.replace("\nclass Client:", fails, 1))
    with lab.serve(path) as server, lab.connect(server) as client:
        took = lab.timed(client.ask)
        assert client.answers()
    assert 0.9 < took < 3, (
        "“Any other error of `accept` counts as one descriptor too few, and stops newcomers until "
        "the next event, or for a second”"
    )
