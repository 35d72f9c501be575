"""The notebooks as files: read a program out of a cell, execute them, store what they print.

`make code`, `make notebooks` and `make book` end up here. Stored outputs are what nbval compares
with, so what changes on every run (ports, pictures) is written in its sanitised form, and an
output that is the same when sanitised is left as it was.
"""

import base64
import json
import re
import subprocess
import sys
import time
from pathlib import Path

BOOK = Path(__file__).resolve().parent.parent
ROOT = BOOK.parent
CODE = ROOT / "code"
PICTURE = BOOK / "_static" / "one-client-thinks.svg"
SANITISE = ROOT / "tests" / "sanitize.cfg"


def notebooks():
    """The notebooks of the book, in the order of their names."""
    return sorted(BOOK.glob("*.ipynb"))


def chapters():
    """Those that build a server: 01_one_request.ipynb and so on."""
    return [path for path in notebooks() if re.match(r"\d\d_", path.name)]


def read(path):
    """A notebook as nbformat has it."""
    import nbformat

    return nbformat.read(path, as_version=4)


def cells(path):
    """A notebook's cells as plain JSON: nbformat checks the whole schema, which takes a second."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def title(path):
    """The heading that a notebook begins with."""
    return "".join(cells(path)[0]["source"]).removeprefix("# ").strip()


def program(chapter, name):
    """The program that a chapter's cell writes to run/NAME, as text.

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
    path = BOOK / "run" / name
    path.write_text(program(chapter, name), encoding="utf-8")
    return path


def write_copies():
    """Make code/ from the notebooks, and nothing else in it."""
    CODE.mkdir(exist_ok=True)
    copies = {f"{path.stem}.py": program(path.stem, f"{path.stem}.py") for path in chapters()}
    for stale in {path.name for path in CODE.glob("*.py")} - set(copies):
        (CODE / stale).unlink()
    for name, text in copies.items():
        (CODE / name).write_text(text, encoding="utf-8")
        print(f"code/{name}")


def sanitiser():
    """The function that makes texts of different runs alike, by tests/sanitize.cfg."""
    from nbval.plugin import get_sanitize_patterns

    rules = get_sanitize_patterns(SANITISE.read_text(encoding="utf-8"))

    def sanitise(text):
        for pattern, replacement in rules:
            text = re.sub(pattern, replacement, text)
        return text

    return sanitise


def _texts(output, change):
    """An output of a cell with every text in it changed, but for pictures."""
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
    return output


# What must be hidden from a reader of stored outputs. Pictures have to stay.
def _hide_ports(text):
    return re.sub(r"(127\.0\.0\.1|\[::1\]):\d{4,5}", r"\1:PORT", text)


def execute(*names, fresh=False):
    """Run notebooks, all or those named, and store what they print; say how long each took.

    fresh: store new outputs even where they differ only in what differs on every run.
    """
    known = {path.stem: path for path in notebooks()}
    for name in names or known:
        if name not in known:
            sys.exit(f"There is no notebook {name}; there are {', '.join(known)}.")
        print(f"{name}: {_execute(known[name], fresh):.1f} s")
    store_picture()


def store_picture():
    """The README's picture: the first one of chapter 2, from its stored output, on white."""
    cells = read(BOOK / "02_request_loop.ipynb").cells
    html = next(cell for cell in cells if cell.id == "two-opening").outputs[0].data["text/html"]
    wide = re.search(r'<img [^>]*src="data:image/svg\+xml;base64,([^"]+)', html)[1]
    drawing = base64.b64decode(wide).decode()
    PICTURE.write_text(drawing.replace("<svg ", '<svg style="background:#fff" ', 1), "utf-8")


def _execute(path, fresh):
    """Run one in its folder and store it; raises CellExecutionError where a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    old, new = read(path), read(path)
    began = time.monotonic()
    client = NotebookClient(
        new,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(BOOK)}},
    )
    client.execute()
    sanitise = sanitiser()
    for before, after in zip(old.cells, new.cells, strict=True):
        after.metadata.pop("execution", None)
        if after.cell_type != "code":
            continue
        same = not fresh and [_texts(output, sanitise) for output in before.outputs] == [
            _texts(output, sanitise) for output in after.outputs
        ]
        if same:
            after.outputs = before.outputs
        else:
            after.outputs = [nbformat.from_dict(_texts(o, _hide_ports)) for o in after.outputs]
        for output in after.outputs:
            if "execution_count" in output:
                output["execution_count"] = after.execution_count
    new.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    nbformat.write(new, path)
    return time.monotonic() - began


def _plain(text):
    """A text without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _complaints(lines, since):
    """What a build's output warns of, and the last lines of each cell that has failed."""
    yield from (line.rstrip() for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL):", line))
    for report in sorted((ROOT / "_build").rglob("*.err.log")):
        if report.stat().st_mtime >= since:
            text = _plain(report.read_text(encoding="utf-8"))
            yield "\n".join([report.name, *text.splitlines()[-40:]])


def build():
    """Execute every page, build the site strictly, and say where it is and what took how long."""
    began, today = time.monotonic(), time.time()
    call = "from jupyter_book.cli.main import main; main()"  # its script may not bear spaces
    with subprocess.Popen(
        [sys.executable, "-c", call, "build", ".", "--all", "-W", "--keep-going"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(_plain(line))
            print(line, end="", flush=True)
    if process.returncode:
        print("\nWhat was wrong, once more:", *_complaints(lines, today), sep="\n")
        sys.exit("The book was not built: see above.")
    print()
    for line in lines:
        if found := re.search(
            r"([^/\\]+)\.(?:ipynb|md): Executed notebook in ([\d.]+) seconds", line
        ):
            print(f"{found[1]:24} {float(found[2]):5.1f} s")
    print(f"{'all, with the site':24} {time.monotonic() - began:5.1f} s")
    print(f"Read it: {ROOT / '_build' / 'html' / 'index.html'}")
