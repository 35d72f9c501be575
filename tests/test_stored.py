"""What the pages have stored behind ≈ lies in the bands of its cell."""

import ast
import re

import pytest

from lab import notebooks
from lab.measured import SCALES


def constant(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def bands(source):
    """The bands of the calls of lab.about in a cell: [(unit, least, most)]."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lab.about":
            unit, least, most = ([constant(each) for each in node.args[1:]] + [None] * 3)[:3]
            found.append((unit, least, most))
    return found


def is_in(number, rest, unit, least, most):
    """Whether a stored number, with what stands behind it, may be of a band: it has two digits."""
    if None in (unit, least, most):
        return True  # not said in the call itself
    for factor, name in SCALES.get(unit, ((1, unit),)):
        if rest.startswith(f" {name}"):
            value = number / factor
            return least * 0.94 <= value <= most * 1.06
    return False


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda path: path.stem)
def test_what_varies_is_stored_in_its_band(path):
    wrong = []
    for cell in notebooks.cells(path):
        if cell["cell_type"] != "code" or "lab.about(" not in "".join(cell["source"]):
            continue
        known = bands("".join(cell["source"]))
        texts = [
            "".join(each.get("text") or each.get("data", {}).get(kind, ""))
            for each in cell["outputs"]
            for kind in ("text/plain", "text/html")
        ]
        for digits, rest in re.findall(r"≈ ([\d,.]*\d)([^\n≈]*)", "\n".join(texts)):
            number = float(digits.replace(",", ""))
            if not any(is_in(number, rest, *band) for band in known):
                wrong.append((cell["id"], digits + rest[:20]))
    assert not wrong, wrong
