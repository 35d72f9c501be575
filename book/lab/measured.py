"""Measured values, each within its limits, and tables that hold nothing else.

    seen = lab.Table("when", "the client's end", "the server's end")
    seen.row("it has closed", *lab.both_ends(client))
    assert seen["it has closed"] == ("gone", "TIME-WAIT")
    seen

A table is shown only when each of its rows has been asked for by its label: otherwise nobody would
notice two labels that have changed places. A value that varies is marked with ≈. When outputs are
compared, what stands behind that mark is left out, and nothing else (_press/sanitize.cfg).
"""

import time

from . import show

SCALES = {
    "s": ((1, "s"), (1e3, "ms"), (1e6, "µs")),
    "bytes": ((1e-6, "MB"), (1e-3, "kB"), (1, "bytes")),
}


class About(str):
    """A measured number in words, `≈ 1.2 ms`; `.value` is the number itself."""

    value: float


def about(value, unit, least, most):
    """Return a measured number in words, with two digits: `≈ 1.2 ms`.

    unit: "s" and "bytes" become what suits the number, ms or kB; any other unit stays as it is.
    Raises AssertionError if the value, in the given unit, is not between least and most.
    """
    assert least <= value <= most, f"{value} {unit}: not between {least} and {most}"
    scales = SCALES.get(unit, ((1, unit),))
    factor, name = next((each for each in scales if value * each[0] >= 1), scales[-1])
    shown = value * factor
    said = About(f"≈ {shown:,.0f} {name}" if shown >= 9.95 else f"≈ {shown:#.2g} {name}")
    said.value = value
    return said


def timed(call, *arguments):
    """Call something; return how long it took, in seconds."""
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def within(seconds, call, *arguments, tries=50):
    """Call something until one call takes no longer than `seconds`; return what that call returned.

    This is for what a timer of the kernel's is about to change: on a busy machine a slow look may
    come too late. Raises TimeoutError after `tries` calls.
    """
    for _ in range(tries):
        began = time.perf_counter()
        result = call(*arguments)
        if time.perf_counter() - began <= seconds:
            return result
    raise TimeoutError(f"{call.__name__}: never within {seconds} s, in {tries} tries")


class Table:
    """Rows of what was measured, each with a label, under a header.

    header: the columns' names, that of the labels first. `table[label]` is the row: a tuple, or the
    value alone where the table has one column beside the labels.
    """

    def __init__(self, *header):
        self.header, self.rows, self._asked = header, {}, set()

    def row(self, label, *cells):
        """Add a row; return its cells. Raises ValueError if their number or the label is wrong."""
        if len(cells) != len(self.header) - 1:
            raise ValueError(f"{label!r}: {len(cells)} cells under {self.header[1:]}")
        if label in self.rows:
            raise ValueError(f"{label!r} is there already")
        self.rows[label] = cells
        return self._held(label)

    def __getitem__(self, label):
        if label not in self.rows:
            raise KeyError(f"no row {label!r}; there are {list(self.rows)}")
        self._asked.add(label)
        return self._held(label)

    def _held(self, label):
        cells = self.rows[label]
        return cells[0] if len(cells) == 1 else cells

    def _repr_html_(self):
        if left := [label for label in self.rows if label not in self._asked]:
            raise ValueError(f"no assertion has asked for {left}")
        return show.table(self.header, [(label, *cells) for label, cells in self.rows.items()]).data

    def __repr__(self):
        lines = [self.header, *((label, *cells) for label, cells in self.rows.items())]
        return "\n".join(" | ".join(map(str, line)) for line in lines)
