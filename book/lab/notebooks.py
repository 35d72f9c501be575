"""The notebooks as files: which there are, what stands in them, and the programs in their cells."""

import json
import re
from pathlib import Path

from .session import write_whole

BOOK = Path(__file__).resolve().parent.parent


def notebooks():
    """Return the paths of the notebooks, in the order of their names."""
    return sorted(BOOK.glob("*.ipynb"))


def chapters():
    """Return the paths of those that build a server: 01_one_request.ipynb and so on."""
    return [path for path in notebooks() if re.match(r"\d\d_", path.name)]


def read(path):
    """Read a notebook as nbformat has it."""
    import nbformat

    return nbformat.read(path, as_version=4)


def cells(path):
    """Read a notebook's cells as plain JSON: nbformat checks the whole schema, for a second."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def title(path):
    """Return the heading that a notebook begins with."""
    return "".join(cells(path)[0]["source"]).removeprefix("# ").strip()


WORDS, LINES = 200, 30  # that one reads in a minute: of prose, of scripts
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


def minutes(path):
    """Return how many minutes it takes to read a notebook, its scripts in view included."""
    words = lines = 0
    for cell in cells(path):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            words += len(source.split())
        elif not FOLDED & set(cell["metadata"].get("tags", [])):
            lines += sum(bool(line.strip()) for line in source.splitlines())
    return round(words / WORDS + lines / LINES)


def program(chapter, name):
    """Return the program that a chapter's cell writes to run/NAME, as text.

    chapter: `02_request_loop`. Raises ValueError if it has no such cell, or more than one.
    """
    magic = f"%%writefile run/{name}\n"
    found_in = cells(BOOK / f"{chapter}.ipynb")
    sources = ["".join(cell["source"]) for cell in found_in if cell["cell_type"] == "code"]
    found = [each.removeprefix(magic) + "\n" for each in sources if each.startswith(magic)]
    if len(found) != 1:
        raise ValueError(f"{chapter}.ipynb has {len(found)} cells that write run/{name}, not one")
    return found[0]


def write_program(chapter, name):
    """Write such a program to run/, where its own chapter does; return its path."""
    return write_whole(BOOK / "run" / name, program(chapter, name))
