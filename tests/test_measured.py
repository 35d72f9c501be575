"""Values in their bands, and tables that hold nothing but what was measured."""

import re
import time

import pytest

import lab
from _press.execute import sanitiser


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (2.5, "s", "≈ 2.5 s"),
        (1, "s", "≈ 1.0 s"),
        (0.0119, "s", "≈ 12 ms"),
        (0.0011, "s", "≈ 1.1 ms"),
        (0.000_000_8, "s", "≈ 0.80 µs"),
        (0.000_009_97, "s", "≈ 10 µs"),
        (222, "bytes", "≈ 222 bytes"),
        (6300, "bytes", "≈ 6.3 kB"),
        (16_000_000, "bytes", "≈ 16 MB"),
        (37.4, "% free", "≈ 37 % free"),
        (0.976, "times as long", "≈ 0.98 times as long"),
        (1_234_567, "times a second", "≈ 1,234,567 times a second"),
    ],
)
def test_a_measured_number_in_words(value, unit, said):
    about = lab.about(value, unit, 0, 1e9)
    assert about == said and about.value == value


def test_what_varies_is_left_out_and_nothing_else():
    sanitise = sanitiser()
    for said in ("≈ 12 ms", "≈ 1.1 s", "≈ 0.80 µs"):
        assert sanitise(f"poll: {said}, then 40 ms") == "poll: ≈ N, then 40 ms"
    assert sanitise("≈ 1,234 times a second") == "≈ N times a second"
    assert sanitise("≈ 37 % free") == "≈ N % free"
    assert sanitise("<td>≈ 6.3 kB</td>") == "<td>≈ N</td>"
    assert sanitise("12 ms") == "12 ms"


@pytest.mark.parametrize("value", [0.99, 2.01])
def test_a_number_out_of_its_band_is_none(value):
    with pytest.raises(AssertionError, match=re.escape(f"{value} s: not between 1 and 2")):
        lab.about(value, "s", 1, 2)
    assert lab.about(1, "s", 1, 2) and lab.about(2, "s", 1, 2)


def test_how_long_a_call_takes():
    assert 0.05 <= lab.timed(time.sleep, 0.05) < 1


def test_a_call_that_took_too_long_is_made_again():
    pauses = [0.1, 0.1, 0, 0.1]

    def call(name):
        pause = pauses.pop(0)
        time.sleep(pause)
        return name, pause

    assert lab.within(0.05, call, "x") == ("x", 0) and pauses == [0.1]


def test_a_call_that_always_takes_too_long_is_told():
    with pytest.raises(TimeoutError, match="sleep: never within 0.01 s, in 3 tries"):
        lab.within(0.01, time.sleep, 0.02, tries=3)


def test_a_row_holds_what_was_measured():
    seen = lab.Table("when", "here", "there")
    assert seen.row("before", 1, "x") == (1, "x") == seen["before"]
    one = lab.Table("when", "here")
    assert one.row("before", 1) == 1 == one["before"]


def test_a_table_is_shown_when_every_row_was_asked_for():
    seen = lab.Table("when", "here")
    seen.row("before", "IN|<OUT>")
    seen.row("after", 2)
    assert seen["before"]
    with pytest.raises(ValueError, match=r"no assertion has asked for \['after'\]"):
        seen._repr_html_()
    assert seen["after"] == 2
    shown = seen._repr_html_()
    assert "<th>when</th><th>here</th>" in shown
    assert "<td>before</td><td>IN|<wbr>&lt;OUT&gt;</td>" in shown
    assert shown.index("before") < shown.index("after")
    assert repr(seen) == "when | here\nbefore | IN|<OUT>\nafter | 2"


def test_a_row_that_does_not_fit_is_refused():
    seen = lab.Table("when", "here", "there")
    with pytest.raises(ValueError, match="'before': 1 cells"):
        seen.row("before", 1)
    seen.row("before", 1, 2)
    with pytest.raises(ValueError, match="'before' is there already"):
        seen.row("before", 3, 4)
    with pytest.raises(KeyError, match=r"no row 'after'; there are \['before'\]"):
        seen["after"]


def test_a_column_without_a_name_is_refused():
    seen = lab.Table("", "here")
    seen.row("before", 1)
    assert seen["before"] == 1
    with pytest.raises(ValueError, match="has no name"):
        seen._repr_html_()
