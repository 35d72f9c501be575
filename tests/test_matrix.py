"""The book's matrix: its columns, the verdicts that are stored, what is said where they differ."""

import re
from pathlib import Path

import pytest

from conftest import BOOK, ROOT
from lab import matrix
from lab.matrix import COLUMNS, EXPLAINED_IN, Column
from survive import clients, rows
from survive.rows import ROWS, is_hello
from survive.scene import VERDICTS, Verdict


def test_every_cell_has_a_stored_verdict():
    cells = {(row.name, column.label) for row in ROWS for column in COLUMNS}
    assert set(matrix.stored()) == cells
    assert set(matrix.stored().values()) <= set(VERDICTS)


def test_nothing_is_said_where_nothing_differs(capsys):
    matrix.compare({cell: Verdict(word) for cell, word in matrix.stored().items()})
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("cell", [("HEAD", "03"), ("bytes that are not UTF-8", "05′")])
def test_a_verdict_that_differs_is_named_with_both_words_and_its_reason(capsys, cell):
    stored = matrix.stored()
    seen = {each: Verdict(word) for each, word in stored.items()}
    seen[cell] = Verdict("frozen", "in one of the repeats")
    matrix.compare(seen)
    client, server = cell
    said = f"{client} against {server}: stored {stored[cell]}, seen frozen: in one of the repeats\n"
    assert capsys.readouterr() == ("", said)


def test_a_new_client_is_said_to_be_stored_nowhere(capsys):
    matrix.compare({("a new one", "04"): Verdict("ok")})
    assert capsys.readouterr().err == "a new one against 04: stored nothing, seen ok\n"


def test_what_explains_a_row_names_rows_and_chapters():
    assert set(EXPLAINED_IN) <= {row.name for row in ROWS}
    assert set(EXPLAINED_IN.values()) <= {column.chapter for column in COLUMNS}


def test_every_column_can_give_a_long_answer_whose_length_is_right(monkeypatch):
    monkeypatch.chdir(BOOK)  # where notebooks are at work
    for column in map(Column.written, COLUMNS):
        with column.start(long_answer=True) as server:
            answer = clients.get(server.address)
        body = answer.body
        assert body.startswith(b"Hello, world!...") and len(body) >= matrix.LONG, column.label
        assert int(answer.headers["content-length"]) == len(body), column.label
        with column.start() as server:
            assert is_hello(clients.get(server.address)), column.label


def test_the_long_answer_is_more_than_a_send_buffer_can_hold(run_folder, serving):
    largest = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    text = Path(matrix.with_long_answer(ROOT / "code" / "04_level_triggered.py")).read_text()
    length = int(re.search(r"Content-Length: (\d+)", text)[1])
    assert length == max(8_000_000, 2 * largest)


def test_a_server_whose_answer_is_not_found_has_no_long_one(serving):
    path = serving("def serve(listener):\n    listener.accept()\n")
    both = path.read_text() + "MORE = b'Hello, world!'\n"
    assert matrix.with_long_answer(path) and matrix.with_long_answer(path).endswith("_long.py")
    path.write_text(path.read_text().replace("Hello", "Goodbye"))
    assert matrix.with_long_answer(path) == ""
    path.write_text(both.replace("b'Hello, world!'", 'b"Hello, world!"'))
    assert matrix.with_long_answer(path) == ""
    row = rows.row("never reads a long answer")
    assert str(matrix.judge(row, Column("mine", str(path)))) == "n/a: its answer is short"


def test_a_column_may_have_changes_and_arguments(monkeypatch, serving):
    monkeypatch.chdir(BOOK)
    ten = next(column for column in COLUMNS if column.label == "10")
    text = Path(ten.written().path).read_text(encoding="utf-8")
    original = (ROOT / "code" / "10_peers_that_close.py").read_text(encoding="utf-8")
    changed = [line for line in text.splitlines() if line not in original.splitlines()]
    assert [line.partition("  #")[0] for line in changed] == ["IDLE, EVERY, VANISHED = 1, 1, 2"]
    says = "def serve(listener):\n    print(sys.argv[2:], flush=True)\n    listener.accept()\n"
    column = Column("mine", str(serving(says)), arguments=("-v", "--more", 2)).written()
    for log_file in (False, True):
        with column.start(log_file=log_file) as server:
            server.wait_for("['-v', '--more', '2']")
            assert bool(server.log) == log_file


def stays(serving, serve, capsys):
    matrix.check_stays(serving(serve), "asks and leaves", "half a request then closes")
    return capsys.readouterr().out


KEEPS_THE_FIRST = """
def serve(listener):
    first, _ = listener.accept()
    for _ in range(2):
        rude, _ = listener.accept()
        rude.recv(1024)
        rude.close()
    {then}
    first.recv(1024)
    first.sendall(ANSWER)
    first.close()
    listener.accept()
"""


def test_who_came_before_the_rude_clients_stays_or_does_not(serving, capsys):
    answered = stays(serving, KEEPS_THE_FIRST.format(then="pass"), capsys)
    assert answered == "solved: a client that came before them is answered\n"
    for then in ("first.close(); time.sleep(60)", "sys.exit()"):
        lost = stays(serving, KEEPS_THE_FIRST.format(then=then), capsys)
        assert lost == "not yet: a client that came before them is answered\n", then


def test_solved_cases_are_said_in_one_line_and_others_in_one_each(capsys):
    matrix.say_solved({"one": "", "two": "too late", "three": ""})
    assert capsys.readouterr().out == "solved: one, three\nnot yet: two (too late)\n"
    matrix.say_solved({"one": Verdict("dead")})
    assert capsys.readouterr().out.startswith("not yet: one (dead")


def test_an_exercises_server_may_have_a_long_answer_of_its_own(serving, capsys):
    own = serving(
        """
        ANSWER = ANSWER.replace(b"13", b"8000000").replace(b"Hello, world!", bytes(8_000_000))
        def serve(listener):
            while True:
                connection = listener.accept()[0]
                connection.recv(1024)
                threading.Thread(target=connection.sendall, args=[ANSWER], daemon=True).start()
        """
    )
    matrix.check(own, "never reads a long answer", long_answer=True)
    assert capsys.readouterr().out == "solved: never reads a long answer\n"
