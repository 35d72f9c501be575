"""The steps of a visit to an epoll server, and what it watched after each."""

import pytest

import lab
from conftest import ROOT


@pytest.fixture(scope="module")
def visit():
    with lab.record(ROOT / "code" / "04_level_triggered.py") as run:
        run.connect("visitor").ask()
        lab.at_rest(run.server, sockets=1)
    return lab.Steps(run.recording)


BOTH = "listener: IN|ERR|HUP, visitor: "


def test_the_interest_list_after_each_call(visit):
    assert visit.calls[:2] == ["epoll()", "register listener, IN"]
    assert visit.lists[:2] == ["empty", "listener: IN|ERR|HUP"]
    for call, kept in (
        ("poll → listener: IN", "listener: IN|ERR|HUP"),
        ("register visitor, IN", BOTH + "IN|ERR|HUP"),
        ("visitor.recv → 18 bytes", BOTH + "IN|ERR|HUP"),
        ("modify visitor, OUT", BOTH + "OUT|ERR|HUP"),
        ("visitor.send → 78 bytes", BOTH + "OUT|ERR|HUP"),
        ("modify visitor, -", BOTH + "ERR|HUP"),
        ("poll → visitor: HUP", BOTH + "ERR|HUP"),
        ("unregister visitor", "listener: IN|ERR|HUP"),
    ):
        assert visit.after(call) == kept, call
    assert visit.calls[-2:] == ["epoll.close", "listener.close"]
    assert visit.lists[-2:] == ["empty", "empty"]


def test_the_calls_of_a_name(visit):
    assert visit.of("modify") == ["modify visitor, OUT", "modify visitor, -"]
    assert visit.of("poll")[0] == "poll → listener: IN" and visit.of("sendall") == []


def test_a_call_that_was_not_made(visit):
    with pytest.raises(ValueError):
        visit.after("register nobody, IN")


def test_they_are_shown_with_the_list_where_it_has_changed(visit):
    lines = repr(visit).splitlines()
    assert len(lines) == len(visit.calls) == visit._repr_html_().count("<tr>") - 1
    assert lines[:3] == [
        "epoll() | empty",
        "register listener, IN | listener: IN|ERR|HUP",
        "poll → listener: IN",
    ]
    assert "modify visitor, - | " + BOTH + "ERR|HUP" in lines
