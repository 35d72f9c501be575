"""Four rooms: who may import whom, under which names, and what runs with Python alone."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from types import ModuleType

import pytest

import lab
from conftest import BOOK, ROOT
from survive.rows import ROWS
from survive.server import serve

MAY_IMPORT = {  # of our own
    "_press": {"lab", "survive", "look"},
    "lab": {"survive", "look"},
    "survive": {"look"},
    "look": set(),
}
WITH_PYTHON_ALONE = ("survive", "look")
FILES = [path for room in MAY_IMPORT for path in sorted((BOOK / room).glob("*.py"))]


def by_name(path):
    return f"{path.parent.name}/{path.stem}"


def imported(path):
    """Yield each module that a file imports, in full: `look.kernel`; also inside of functions."""
    room = path.parent.name
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, "no room stands inside another"
            base = ".".join(filter(None, [room * node.level, node.module]))
            names = [f"{base}.{each.name}" for each in node.names]
            modules = [name for name in names if is_ours(name)]
            yield from modules
            if len(modules) < len(names):  # the others are names of the module itself
                yield base


def is_ours(name):
    """Is a full name, `look.kernel`, that of one of our modules?"""
    return BOOK.joinpath(*name.split(".")).with_suffix(".py").is_file()


def rooms_of(path):
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_a_room_imports_only_what_stands_right_of_it(path):
    room = path.parent.name
    assert rooms_of(path) & MAY_IMPORT.keys() <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name in WITH_PYTHON_ALONE], ids=by_name
)
def test_look_and_survive_need_the_standard_library_alone(path):
    assert rooms_of(path) - MAY_IMPORT.keys() <= sys.stdlib_module_names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_module_imports_itself_by_a_detour(room):
    files = [path for path in FILES if path.parent.name == room]
    names = {f"{room}.{path.stem}".removesuffix(".__init__"): path for path in files}
    left = {name: names.keys() & set(imported(path)) - {name} for name, path in names.items()}
    while free := [name for name, needs in left.items() if not needs]:
        for name in free:
            del left[name]
        for needs in left.values():
            needs -= set(free)
    assert not left, "these import each other in a circle"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_name_of_a_room_hides_its_module(room):
    package = importlib.import_module(room)
    for path in (BOOK / room).glob("[!_]*.py"):
        assert isinstance(getattr(package, path.stem, package), ModuleType), path.stem
    exported = {name for name, value in vars(package).items() if not inspect.ismodule(value)}
    assert not exported & {path.stem for path in (BOOK / room).glob("*.py")}


@pytest.mark.parametrize("folder", [ROOT / "code", BOOK, BOOK / "_press", ROOT / "tests"])
def test_no_file_is_named_as_a_standard_module(folder):
    names = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not names & sys.stdlib_module_names
    assert not (ROOT / "code" / "__init__.py").exists()


def test_only_what_is_run_by_itself_touches_the_path_of_imports():
    """The recorder's half sets it for itself, and then for the server that it runs."""
    touched = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
                touched[by_name(path)] = touched.get(by_name(path), 0) + 1
    assert touched == {"look/__main__": 1, "survive/__main__": 1, "lab/_recorded": 2}


def run_alone(room, *arguments):
    """Run a room's command isolated, from a folder that is not ours, with nothing installed."""
    command = [sys.executable, "-I", "-S", BOOK / room, *arguments]
    return subprocess.run(
        command,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_look_runs_with_python_alone():
    done = run_alone("look")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("look: give the number of one process")
    with serve(ROOT / "code" / "04_level_triggered.py") as server:
        lab.until_blocked(server.pid, "epoll_wait")
        done = run_alone("look", str(server.pid))
    # Where ptrace is restricted to one's own children, the script may not look at a sister.
    seen = f"process {server.pid}: " in done.stdout and done.returncode == 0
    refused = "ptrace_scope" in done.stderr and done.returncode == 2
    assert seen or refused, done.stderr


def test_the_awkward_clients_are_listed_with_python_alone():
    done = run_alone("survive")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [re.split("  +", line)[0] for line in lines] == [row.name for row in ROWS]
    assert all(re.search(r"  \S.*\.$", line) for line in lines), "what each does is said"
    width = max(len(row.name) for row in ROWS)
    assert {len(re.match(r".*?  +", line)[0]) for line in lines} == {width + 2}, "in a column"


def test_what_survive_does_not_know_is_one_line_and_status_2():
    done = run_alone("survive", "--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"survive: .*\n", done.stderr)
