"""What was measured: a value in its band, and tables that hold nothing else.

    seen = lab.Table("when", "the client's end", "the server's end")
    seen.row("it has closed", *lab.both_ends(client))
    assert seen["it has closed"] == ("gone", "TIME-WAIT")
    seen

A table is shown only when each of its rows has been asked for by its label: labels that have
changed places would go unnoticed otherwise. A value that varies is marked with ≈, and what stands
behind that mark, and nothing else, is left out when outputs are compared (_press/sanitize.cfg).
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
    """Return a measured number in words, `≈ 1.2 ms`, with two digits, to be shown.

    unit: "s" and "bytes" become what suits the number, ms or kB; another one stays as it is.
    Raises AssertionError where the value is not between least and most, in the given unit.
    """
    assert least <= value <= most, f"{value} {unit}: not between {least} and {most}"
    scales = SCALES.get(unit, ((1, unit),))
    factor, name = next((each for each in scales if value * each[0] >= 1), scales[-1])
    shown = value * factor
    said = About(f"≈ {shown:,.0f} {name}" if shown >= 10 else f"≈ {shown:#.2g} {name}")
    said.value = value
    return said


def timed(call, *arguments):
    """Call something; return how long it took, in seconds."""
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def within(seconds, call, *arguments, tries=50):
    """Call something again and again, until it takes no longer than so many seconds; return what it
    returned then.

    So one looks at what a timer of the kernel's is about to change, and not too late, though the
    machine may be busy. Raises TimeoutError after so many tries.
    """
    for _ in range(tries):
        began = time.perf_counter()
        result = call(*arguments)
        if time.perf_counter() - began <= seconds:
            return result
    raise TimeoutError(f"{call.__name__}: never within {seconds} s, in {tries} tries")


class Table:
    """Rows of what was measured, each with a label, under a header.

    header: the columns' names, that of the labels first. `table[label]` is what a row holds: a
    tuple, or the one value where there is one column beside the labels.
    """

    def __init__(self, *header):
        self.header, self.rows, self._asked = header, {}, set()

    def row(self, label, *cells):
        """Add a row; return what it holds. Raises ValueError if it does not fit, or is there."""
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
