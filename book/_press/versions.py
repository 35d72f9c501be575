"""The versions that the book is made with, and the newest ones beside them.

requirements.txt pins what the project asks for itself; constraints.txt pins what that brings along,
for every Python that the book runs with. Both go into .venv, through uv and through pip alike. A
release of anybody's changes nothing here, then, until `make constraints` is run. What would change
is what `make newest` says: it leaves all pins away, in an environment of its own.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements.txt"
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
BUILD = ROOT / "_build"
TRIAL = "_build/newest"  # seen from ROOT, since make does not take spaces in a path

UV = "uv==0.13.9"  # what finds versions that fit; pip finds those of one Python only
OLDEST = "3.11"  # the oldest Python that the book runs with
STAYS = {"jupyter-book": "<2"}  # 2.x does not read _config.yml
BROUGHT = {"pip", "setuptools"}  # what a new environment has of itself, in Python's own versions
HEADER = """\
# What requirements.txt brings along, for Python 3.11 and newer.
# `make constraints` writes this file.
"""


def requirements():
    """Return (name, version) of each package that requirements.txt pins."""
    return re.findall(r"(?m)^([\w.-]+)==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"))


def canonical(name):
    """Return a package's name as PEP 503 normalises it: PyYAML is pyyaml, a_b is a-b."""
    return re.sub(r"[-_.]+", "-", name).lower()


def write_constraints():
    """Write constraints.txt: the newest versions that go with requirements.txt today."""
    tools = BUILD / "uv"
    subprocess.run([sys.executable, "-m", "venv", "--clear", tools], check=True)
    pip = [tools / "bin" / "python", "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", UV], check=True)
    find = [tools / "bin" / "uv", "pip", "compile", "-q", "--no-header", "--no-annotate"]
    find += ["--universal", "--python-version", OLDEST, REQUIREMENTS.name]
    found = subprocess.run(find, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    lines = without_direct(found.stdout.splitlines())
    CONSTRAINTS.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{CONSTRAINTS.relative_to(ROOT)}: {len(lines)} lines")


def without_direct(lines):
    """Return the pins among those of a whole environment that requirements.txt does not make."""
    direct = {canonical(name) for name, _ in requirements()}
    return [line for line in lines if canonical(line.partition("==")[0]) not in direct]


def loosened(text):
    """Return requirements without their pins, but for what must stay."""
    return re.sub(r"(?m)^([\w.-]+)==\S+", lambda pin: pin[1] + STAYS.get(pin[1], ""), text)


def pinned():
    """Return the versions that each package is pinned to: one, or one for each range of Pythons."""
    pins = requirements()
    pins += re.findall(r"(?m)^([\w.-]+)==(\S+)", CONSTRAINTS.read_text(encoding="utf-8"))
    versions = {}
    for name, version in pins:
        versions.setdefault(canonical(name), []).append(version)
    return versions


def differences(pinned, installed):
    """Return a line for each package that is installed in a version other than the pinned ones.

    What a new environment has of itself is left out.
    """
    return [
        f"{name} {' or '.join(pinned.get(name, ['not pinned']))} -> {version}"
        for name, version in sorted(installed.items())
        if name not in BROUGHT and version not in pinned.get(name, [])
    ]


def installed(python):
    """Return the version of every package that an environment's Python has."""
    ask = "import json; from importlib.metadata import distributions as all; "
    ask += "print(json.dumps([(each.name, each.version) for each in all()]))"
    done = subprocess.run([python, "-I", "-c", ask], check=True, stdout=subprocess.PIPE, text=True)
    return {canonical(name): version for name, version in json.loads(done.stdout)}


def try_newest():
    """Test and build the book with the newest of everything; end with a message if that fails.

    The site in _build/html is built anew with them.
    """
    shutil.rmtree(ROOT / TRIAL, ignore_errors=True)
    (ROOT / TRIAL).mkdir(parents=True)
    newest = loosened(REQUIREMENTS.read_text(encoding="utf-8"))
    (ROOT / TRIAL / "requirements.txt").write_text(newest, encoding="utf-8")
    if not _make(f"{TRIAL}/venv/ready"):
        sys.exit("The newest versions can't be installed together: see above.")
    changes = differences(pinned(), installed(ROOT / TRIAL / "venv" / "bin" / "python"))
    broken = [goal for goal in ("test", "book") if not _make(goal)]
    print("\nOther than pinned:", *changes or ["nothing"], sep="\n")
    if broken:
        sys.exit(f"With these, `make {'` and `make '.join(broken)}` failed: see above.")
    print("With these, all tests pass and the book is built.")


def _make(goal):
    """Make a goal with the newest versions; return whether that went well."""
    settings = [f"VENV={TRIAL}/venv", f"PINS=-r {TRIAL}/requirements.txt"]
    return subprocess.run(["make", *settings, goal], cwd=ROOT).returncode == 0
