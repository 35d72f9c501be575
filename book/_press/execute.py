"""Execute notebooks and store what they print.

Stored outputs are what nbval compares with. So what changes on every run (ports, pictures) is
written in its sanitised form, and an output that is the same when sanitised is left as it was: a
notebook in which nothing has changed is not written anew. Text that a cell prints in one go may
come in several pieces, which depends on when the kernel flushes it; it is stored as one.
"""

import base64
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from lab import notebooks
from lab.session import write_whole

BOOK = notebooks.BOOK
PICTURE = BOOK / "_static" / "one-client-thinks.svg"
SANITISE = Path(__file__).with_name("sanitize.cfg")
METADATA = {  # the same for every Python
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(*names, fresh=False):
    """Run notebooks, all or those named, and store what they print; say how long each took.

    fresh: store new outputs even where they differ only in what differs on every run. Ends with
    a message when a name is unknown, with a CellExecutionError when a cell fails.
    """
    known = {path.stem: path for path in notebooks.notebooks()}
    for name in names:
        if name not in known:
            sys.exit(f"There is no notebook {name}; there are {', '.join(known)}.")
    for name in names or known:
        began = time.monotonic()
        new = run(known[name])
        print(*complaints(new), sep="", end="")
        changed = store(known[name], new, fresh)
        changes = "stored anew" if changed else "as it was"
        print(f"{name}: {time.monotonic() - began:.1f} s, {changes}")
    store_picture()


def run(path):
    """Execute a notebook in the book's folder; return it with its new outputs.

    Raises CellExecutionError where a cell fails.
    """
    new = notebooks.read(path)
    where = {"metadata": {"path": str(BOOK)}}
    NotebookClient(new, timeout=120, kernel_name="python3", resources=where).execute()
    return new


def complaints(notebook):
    """Return what a notebook's cells have written to standard error, in pieces.

    It is never stored, so that the tests and the build fail as long as there is any.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["text"] for output in outputs if output.get("name") == "stderr"]


def store(path, new, fresh=False):
    """Store an executed notebook where it differs from what is stored; return whether it did."""
    return _write_changed(path, nbformat.writes(merge(notebooks.read(path), new, fresh)) + "\n")


def _write_changed(path, text):
    """Write a text file unless it holds that text already; return whether it was written."""
    if path.exists() and text == path.read_text(encoding="utf-8"):
        return False
    write_whole(path, text)
    return True


def merge(old, new, fresh=False):
    """Return an executed notebook as it is to be stored.

    old: as it is stored. Where a cell's outputs are those of old but for what differs on every
    run, the old ones stay, unless fresh.
    """
    sanitise = sanitiser()
    for before, after in zip(old.cells, new.cells, strict=True):
        after.metadata.pop("execution", None)
        if after.cell_type == "code":
            after.outputs = _merge_outputs(before.outputs, after.outputs, sanitise, fresh)
            for output in after.outputs:
                if "execution_count" in output:
                    output["execution_count"] = after.execution_count
    new.metadata = nbformat.from_dict(METADATA)
    return new


def _merge_outputs(old, new, sanitise, fresh):
    def alike(outputs):
        # A new cell changes the counts of all that follow, and what these print not at all.
        return [{**_texts(output, sanitise), "execution_count": None} for output in outputs]

    old, new = _joined(old), _joined(new)
    if not fresh and alike(old) == alike(new):
        return old
    return [_texts(output, _hide_ports) for output in new]


def _joined(outputs):
    """Return a cell's outputs with the pieces of a stream that follow each other made one.

    What came on standard error is left out.
    """
    joined = []
    for output in [output for output in outputs if output.get("name") != "stderr"]:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            joined[-1] = nbformat.from_dict({**last, "text": last["text"] + output["text"]})
        else:
            joined.append(output)
    return joined


def sanitiser():
    """Return the function that makes texts of different runs alike, by sanitize.cfg."""
    from nbval.plugin import get_sanitize_patterns

    rules = get_sanitize_patterns(SANITISE.read_text(encoding="utf-8"))

    def sanitise(text):
        for pattern, replacement in rules:
            text = re.sub(pattern, replacement, text)
        return text

    return sanitise


def _texts(output, change):
    """Return an output of a cell with every text in it changed, but for pictures."""
    output = output.copy()
    if "text" in output:
        output["text"] = change(output["text"])
    if "data" in output:
        output["data"] = {
            kind: change(value)
            if isinstance(value, str) and not kind.startswith("image/")
            else value
            for kind, value in output["data"].items()
        }
    return nbformat.from_dict(output)


def _hide_ports(text):
    """Return a text with the kernel's choice of ports hidden: stored outputs don't tell it."""
    return re.sub(r"(127\.0\.0\.1|\[::1\]):\d{4,5}", r"\1:PORT", text)


def store_picture():
    """Write the README's picture: the first one of chapter 2, from its stored output, on white."""
    cells = notebooks.read(BOOK / "02_request_loop.ipynb").cells
    html = next(cell for cell in cells if cell.id == "two-opening").outputs[0].data["text/html"]
    wide = re.search(r'<img [^>]*src="data:image/svg\+xml;base64,([^"]+)', html)[1]
    drawing = base64.b64decode(wide).decode()
    _write_changed(PICTURE, drawing.replace("<svg ", '<svg style="background:#fff" ', 1))
