"""Build the site, strictly, and say where it is and what took how long."""

import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
