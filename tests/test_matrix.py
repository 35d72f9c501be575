"""The book's matrix: its columns, the verdicts that are stored, what is said where they differ."""

import pytest

from lab import matrix
from lab.matrix import COLUMNS, EXPLAINED_IN
from survive.rows import ROWS
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
