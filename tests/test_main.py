"""What the servers of chapters 1 to 10 have in common, run as a reader would, from a terminal.

Their `main` is proved to be the same in all, so one of them is asked for what it does; and chapter
7's, whose second argument is its own. The signals are sent to all: where one strikes depends on
`serve`.
"""

import ast
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tokenize

import pytest

import lab
from conftest import HARDENED, ROOT, SERVERS
from lab import notebooks

ONE, SEVEN = SERVERS[0], SERVERS[6]
ALL = [*SERVERS, HARDENED]


def run(path, *arguments, **options):
    """Run a server to its end; returns the finished process. For arguments that it must refuse."""
    return subprocess.run(
        [sys.executable, path, *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        **options,
    )


def test_every_chapter_has_its_copy_and_no_other_file_is_there():
    names = {path.stem for path in notebooks.chapters()}
    assert names == {path.stem for path in ALL}
    assert {path.name for path in (ROOT / "code").iterdir()} - {"__pycache__"} == {
        path.name for path in ALL
    }


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_copy_agrees_with_the_notebook(path):
    written = notebooks.program(path.stem, path.name)
    assert path.read_text(encoding="utf-8") == written, "`make code` makes the copies anew"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_fits_a_page(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 88
    has_a_class = any(line.startswith("class Loop") for line in lines)
    screens = 230 if has_a_class else 175  # three screens, two
    assert len(lines) <= (660 if path == HARDENED else screens)


def lines_of_code(node, text):
    """Return the numbers of its lines, without blank ones, comments and docstrings."""
    inside = range(node.lineno, node.end_lineno + 1)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    spans = [range(each.start[0], each.end[0] + 1) for each in tokens if each.type not in nothing]
    code = {line for span in spans for line in span if line in inside}
    for each in ast.walk(node):
        if isinstance(each, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(each):
            code -= set(range(each.body[0].lineno, each.body[0].end_lineno + 1))
    return code


def test_the_loop_of_the_last_has_340_lines_of_code():
    """With what it is made of: a request, a client, its deadlines."""
    text = HARDENED.read_text(encoding="utf-8")
    classes = {each.name: each for each in ast.parse(text).body if isinstance(each, ast.ClassDef)}
    names = ("Request", "Timer", "Client", "Deadlines", "Loop")
    assert 0 < sum(len(lines_of_code(classes[name], text)) for name in names) <= 340


def test_main_is_the_same_in_all():
    def tail(path):
        text = path.read_text(encoding="utf-8").replace("    BACKLOG = take_backlog()\n", "")
        return text[text.index("\ndef main():") :]

    assert len({tail(path) for path in SERVERS}) == 1


one_of_each_kind = pytest.mark.parametrize("path", [ONE, SEVEN], ids=["01", "07"])


@one_of_each_kind
@pytest.mark.parametrize(
    "arguments",
    [["x"], ["-1"], ["65536"], ["8e3"], ["9" * 5000], ["²"], [""], ["1", "2", "3"]],
)
def test_a_bad_port_is_one_line_and_status_2(path, arguments):
    done = run(path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r".*: give one port, a number from 0 .* to 65535\n", done.stderr)


def test_the_highest_port_is_a_port():
    """It is taken, or can be had; but it is no mistake."""
    done = run_until_it_listens(ONE, "65535")
    assert done.startswith(
        ("listening on 127.0.0.1:65535\n", f"{ONE}: port 65535: Address already")
    )


def test_a_second_argument_is_one_too_many():
    done = run(ONE, "0", "2")
    assert (done.returncode, done.stdout) == (2, "") and "give one port" in done.stderr


@pytest.mark.parametrize("length", ["x", "-1", "65536", "9" * 5000, "²", "", "1e3"])
def test_a_bad_length_of_the_queue_is_one_line_and_status_2(length):
    done = run(SEVEN, "0", length)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r".*: the length of the queue is a number from 0 to 65535\n", done.stderr)


@one_of_each_kind
def test_a_port_in_use_is_one_line_and_status_2(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(path, str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf".*: port {port}: Address already in use; try .*\n", done.stderr)


def run_until_it_listens(path, *arguments):
    """Run a server until it has said its first word; returns what it has said, on either stream."""
    process = subprocess.Popen(
        [sys.executable, path, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=5)
    return first + errors


def test_the_default_port_is_8080():
    """Where 8080 is free the server takes it; where it is not, it says so."""
    said = run_until_it_listens(ONE)
    assert said.startswith(("listening on 127.0.0.1:8080\n", f"{ONE}: port 8080: Address already"))


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_while_it_waits_for_clients(path, number):
    with lab.serve(path) as server:
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        server.send_signal(number)
        assert server.wait() == 0
        assert server.errors() == ""


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_while_it_talks_to_one(path, number):
    with lab.serve(path) as server, lab.Conversation(server.address) as talk:
        lab.until(lambda: len(lab.kernel.sockets(pid=server.pid)) == 2)
        lab.until(lambda: lab.kernel.is_asleep(server.pid))
        server.send_signal(number)
        assert server.wait() == 0
        assert (talk.receive(), talk.ended) == (b"", "closed")
        assert server.errors() == ""


SIGNALLED = """
import os
def serve(listener):
    try:
        os.kill(os.getpid(), {first:d})
        time.sleep(60)
    finally:  # it is on its way out
        os.kill(os.getpid(), {second:d})
        time.sleep(0)
        print("every socket is closed", flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_disturb_the_first(run_folder, first, second):
    """It comes while the stack is unwound, and is over when the next line would run."""
    serve = SIGNALLED.format(first=first, second=second)
    lines = f"import time\n{serve}chapter.serve = serve\n"
    with lab.serve(
        lab.variant(ROOT / "code" / "01_one_request.py", "signalled.py", lines)
    ) as server:
        assert (server.wait(), server.errors()) == (0, "")
        assert server.output() == "every socket is closed\n"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_how_it_listens(path):
    """SO_REUSEADDR, so that it can be restarted at once, and the article's queue of one.

    The servers with threads, and the one that is mended, have Python's own default.
    """
    with lab.record(path) as run:
        lab.until(lambda: lab.kernel.is_asleep(run.server.pid))
    set_option, _, listen = run.recording.calls()[:3]
    queue = 128 if path.stem[:2] in ("03", "06", "10") else 1
    assert set_option.given == [socket.SOL_SOCKET, socket.SO_REUSEADDR, 1]
    assert listen.sockets[listen.fd] == ("LISTEN", 0, queue)


def test_it_listens_on_loopback_alone():
    with lab.serve(ONE) as server:
        (listener,) = lab.kernel.sockets(pid=server.pid)
        assert listener.local[0] == "127.0.0.1", "intro: “All traffic stays on 127.0.0.1”"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_the_answer_and_what_is_printed(path):
    with lab.serve(path) as server:
        answer = lab.get(server.address)
        server.wait_for("GET / HTTP/1.0")
        assert (answer.status, answer.body) == (200, b"Hello, world!")
        said = {"content-type": "text/plain", "content-length": "13"}
        assert answer.headers == said | (
            {"connection": "close"} if path.stem.startswith("10") else {}
        )


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_two_line_feeds_end_a_request(path):
    with lab.serve(path) as server, lab.Conversation(server.address) as talk:
        talk.send(b"GET / HTTP/1.0\n\n")
        talk.read_all()
        assert [lab.rows.is_hello(answer) for answer in talk.answers()] == [True]


def test_it_runs_under_the_c_locale():
    done = run(ONE, "x", env={"LANG": "C", "PATH": os.environ["PATH"]})
    assert done.returncode == 2
