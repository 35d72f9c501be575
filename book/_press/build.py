"""Build the site, strictly, and say where it is and what took how long.

Jupyter Book ends with a status of 0 when a warning came from beside Sphinx, or when it has built
nothing at all (2.x does). So the status alone is not believed: a build has failed, too, when it
has warned of something, has left no index.html, or has links that lead nowhere: Sphinx does not
see those that cells print.
"""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import site_check
from .archive import write_archive

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from jupyter_book.cli.main import main; main()"  # its script may not bear spaces
BUILDER = [sys.executable, "-c", MAIN, "build", ".", "--all", "-W", "--keep-going"]


def build():
    """Execute every page and build the site and look.pyz; end with a message if that fails."""
    began = time.monotonic()
    site = ROOT / "_build" / "html"
    index, reports, archive = site / "index.html", site / "reports", site / "look.pyz"
    forget(index, reports, archive)
    status, lines = _run_builder()
    complaints = [*warnings(lines), *failed_cells(reports)]
    if built := index.exists():
        write_archive(archive, "look")
        complaints += site_check.complaints(site)
    if status or complaints or not built:
        print("\nWhat was wrong, once more:", *complaints, sep="\n")
        sys.exit("The book was not built: see above.")
    print()
    for name, seconds in [*durations(lines), ("all, with the site", time.monotonic() - began)]:
        print(f"{name:24} {seconds:5.1f} s")
    print(f"Read it: {index}")


def forget(*paths):
    """Remove files and folders that an earlier build has left, where they are."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _run_builder():
    """Run the builder, and show what it says as it comes; return its status and its lines."""
    lines = []
    with subprocess.Popen(
        BUILDER,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stdout:
            lines.append(_plain(line))
            print(line, end="", flush=True)
    return process.returncode, lines


def _plain(text):
    """Return a text without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def warnings(lines):
    """Return those lines of a build's output that warn, or tell of an error."""
    return [line.rstrip() for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL):", line)]


def failed_cells(folder):
    """Return the last lines of the report of each failed cell."""
    return [
        "\n".join([report.name, *_plain(report.read_text(encoding="utf-8")).splitlines()[-40:]])
        for report in sorted(folder.rglob("*.err.log"))
    ]


def durations(lines):
    """Return (page, seconds) of each page whose execution a build's output tells of."""
    told = re.compile(r"([^/\\]+)\.(?:ipynb|md): Executed notebook in ([\d.]+) seconds")
    return [(found[1], float(found[2])) for line in lines if (found := told.search(line))]
