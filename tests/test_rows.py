"""What the rows call right: each expectation, met and just missed, on hand-made conversations."""

from types import SimpleNamespace

import pytest

from survive import awkward, rows
from survive.clients import Answer
from survive.rows import Traits

HELLO = Answer(200, {}, b"Hello, world!")
NOT_FOUND = Answer(404, {}, b"Hello, world!")
SHORT = Answer(200, {}, b"Hello, world")


def talk(*answers, ended="closed", others=(), received=b"", fault=""):
    return SimpleNamespace(
        answers=lambda method="GET": list(answers),
        ended=ended,
        others=others,
        received=received,
        fault=fault,
    )


@pytest.mark.parametrize(
    ("expects", "had", "met"),
    [
        (rows.hello, talk(HELLO), True),
        (rows.hello, talk(), False),
        (rows.hello, talk(HELLO, HELLO), False),
        (rows.hello, talk(NOT_FOUND), False),
        (rows.hello, talk(SHORT), False),
        (rows.hello, talk(HELLO, ended="reset"), False),
        (rows.hello, talk(HELLO, ended=None), False),
        (rows.hello_each, talk(HELLO), True),
        (rows.hello_each, talk(HELLO, others=[talk(HELLO)]), True),
        (rows.hello_each, talk(HELLO, others=[talk(HELLO), talk()]), False),
        (rows.hello_each, talk(others=[talk(HELLO)]), False),
        (rows.hello_each, talk(HELLO, others=[talk(HELLO, ended=None)]), False),
        (rows.hello_all, talk(HELLO, others=[talk(HELLO)] * 8), False),
        (rows.hello_all, talk(HELLO, others=[talk(HELLO)] * 9), True),
        (rows.hello_all, talk(HELLO, others=[talk(HELLO)] * 8 + [talk()]), False),
        (rows.hello_twice, talk(HELLO), False),
        (rows.hello_twice, talk(HELLO, HELLO), True),
        (rows.hello_twice, talk(HELLO, HELLO, HELLO), False),
        (rows.hello_twice, talk(HELLO, NOT_FOUND), False),
        (rows.hello_twice, talk(HELLO, HELLO, ended="reset"), False),
        (rows.some_answer, talk(), False),
        (rows.some_answer, talk(NOT_FOUND), True),
        (rows.some_answer, talk(NOT_FOUND, NOT_FOUND), False),
        (rows.some_answer, talk(NOT_FOUND, ended="reset"), False),
        (rows.no_success, talk(), True),
        (rows.no_success, talk(Answer(299, {}, b"")), False),
        (rows.no_success, talk(Answer(300, {}, b""), NOT_FOUND, ended="reset"), True),
        (rows.no_success, talk(NOT_FOUND, HELLO), False),
        (rows.header_alone, talk(HELLO, received=b"HTTP/1.0 200 OK\r\n\r\n"), True),
        (rows.header_alone, talk(HELLO, received=b"HTTP/1.0 200 OK\r\n\r\nH"), False),
        (rows.header_alone, talk(received=b"\r\n\r\n"), False),
        (rows.header_alone, talk(HELLO, HELLO, received=b"\r\n\r\n"), False),
        (rows.no_fault, talk(), True),
        (rows.no_fault, talk(HELLO, fault="its log stays empty"), False),
        (rows.hello_and_no_fault, talk(HELLO, others=[talk(HELLO)]), True),
        (rows.hello_and_no_fault, talk(HELLO, others=[talk(HELLO)], fault="lost"), False),
        (rows.hello_and_no_fault, talk(HELLO, others=[talk()]), False),
        (rows.whatever, talk(), True),
        (rows.whatever, talk(NOT_FOUND, ended="reset"), True),
    ],
)
def test_what_is_right_for_a_client(expects, had, met):
    assert expects(had) == met


def test_ten_are_together():
    assert awkward.TOGETHER == 10


@pytest.mark.parametrize(
    ("asked", "traits", "why"),
    [
        (rows.any_server, Traits(True, True, True), ""),
        (rows.answers_one, Traits(), ""),
        (rows.answers_one, Traits(answers_once=True), "it answers one client"),
        (rows.answers_shortly, Traits(), "its answer is short"),
        (rows.answers_shortly, Traits(long_answer=True), ""),
        (rows.logs_nothing, Traits(), "no log of its requests is known"),
        (rows.logs_nothing, Traits(logs=True), ""),
        (rows.serves_one_at_a_time, Traits(), ""),
        (rows.serves_one_at_a_time, Traits(one_at_a_time=True), "it holds one client at a time"),
    ],
)
def test_why_a_case_cannot_arise(asked, traits, why):
    assert asked(traits) == why


def test_names_of_rows_are_unique_and_unknown_ones_are_told():
    names = [row.name for row in rows.ROWS]
    assert len(set(names)) == len(names) >= 35
    assert {"plain GET", "HEAD", "bytes that are not UTF-8", "a TLS hello"} <= set(names)
    assert {"its log's disk full then not", "SIGTERM while a request is half read"} <= set(names)
    with pytest.raises(ValueError, match="no client is called 'nobody'; there are 'plain GET'"):
        rows.row("nobody")


def test_a_row_is_found_by_its_name_and_by_what_its_client_does():
    row = rows.row("a TLS hello")
    assert rows.row(awkward.a_tls_hello) is row is not rows.row("HEAD")


def test_every_awkward_client_of_the_room_has_a_row():
    """Each function of a Conversation and a Server does something that a server must stand."""
    acts = {
        value
        for name, value in vars(awkward).items()
        if getattr(value, "__module__", "") == awkward.__name__
        and getattr(value, "__code__", None)
        and value.__code__.co_varnames[: value.__code__.co_argcount] == ("talk", "server")
    }
    assert acts == {row.act for row in rows.ROWS}


def test_what_needs_a_long_answer_can_do_without_it_nowhere():
    for row in rows.ROWS:
        assert ("long_answer" in row.needs) == bool(row.not_applicable(Traits(logs=True))), row.name
        assert ("log_file" in row.needs) == bool(row.not_applicable(Traits(long_answer=True))), (
            row.name
        )
        assert set(row.needs) <= {"long_answer", "log_file"} and not (row.overstays and row.ends)


def test_any_200_is_a_success_and_hello_is_one_of_them():
    assert rows.is_success(SHORT) and not rows.is_hello(SHORT) and not rows.is_success(NOT_FOUND)
