"""One file that runs with Python alone: `python3 -I look.pyz PID`.

Python runs a zip file that holds a __main__.py, and ignores a first line for the shell before it.
The file is the same, byte for byte, wherever it is made: its entries are sorted, stored as they
are (what a compressor makes depends on its version) and dated 1980.
"""

import zipfile
from pathlib import Path

ROOMS = Path(__file__).resolve().parents[1]  # what holds the packages
SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = "import sys\n\nfrom {}.command import main\n\nsys.exit(main())\n"


def write_archive(path, *packages):
    """Write packages of book/ as one executable file; return its path.

    The first one's command is what the file runs: `main` of its module `command`.
    """
    sources = sorted(file for name in packages for file in (ROOMS / name).glob("*.py"))
    with open(path, "wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_entry("__main__.py"), MAIN.format(packages[0]))
            for source in sources:
                archive.writestr(_entry(source.relative_to(ROOMS)), source.read_bytes())
    path.chmod(0o755)
    return path


def _entry(name):
    entry = zipfile.ZipInfo(str(name))
    entry.external_attr = 0o644 << 16
    return entry
