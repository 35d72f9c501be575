"""The press: what rewrites the book's evidence, builds the site and keeps the versions."""

import base64
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import v4

import lab
from _press import archive, build, copies, execute, notebook_text, versions
from conftest import BOOK, ROOT
from lab import notebooks

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed here")


# Outputs: what is kept, what is stored anew.


def stream(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def shown(html, count=1, **data):
    data = {"text/html": html, "text/plain": "<HTML>", **data}
    return v4.new_output("execute_result", data, execution_count=count)


def figure(drawing):
    code = base64.b64encode(drawing.encode()).decode()
    return f'<p>A run</p><img alt="" src="data:image/svg+xml;base64,{code}">'


def notebook(*outputs, count=1, **metadata):
    """A notebook of one cell that has these outputs."""
    cell = v4.new_code_cell("run()", id="one", outputs=list(outputs), execution_count=count)
    return v4.new_notebook(cells=[cell], metadata=metadata)


def merged(old, new, fresh=False):
    """What is stored of a cell that printed `new` where `old` is stored."""
    return execute.merge(notebook(*old), notebook(*new), fresh).cells[0].outputs


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("port", ["8080", "54321"])
def test_an_output_that_differs_in_its_port_alone_stays_as_it_was(host, port):
    old = [stream(f"at {host}:PORT\n")]
    assert merged(old, [stream(f"at {host}:{port}\n")]) == old


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("port", ["8080", "54321"])
def test_another_output_is_stored_with_its_port_hidden(host, port):
    old, new = [stream("nothing\n")], [stream(f"{host}:{port}, {port} bytes\n")]
    assert merged(old, new) == [stream(f"{host}:PORT, {port} bytes\n")]


def test_ports_are_hidden_in_html_and_in_its_plain_text():
    new = [shown("<b>127.0.0.1:8080</b>", **{"text/plain": "[::1]:8080"})]
    assert merged([], new) == [shown("<b>127.0.0.1:PORT</b>", **{"text/plain": "[::1]:PORT"})]


def test_what_is_no_port_is_not_hidden():
    text = "192.168.0.1:8080 127.0.0.1:80 127.0.0.1 10:8080\n"
    assert merged([], [stream(text)]) == [stream(text)]


def test_nothing_is_hidden_in_pictures():
    drawing = "<svg><text>127.0.0.1:8080</text></svg>"
    new = [shown(figure(drawing), **{"image/svg+xml": drawing})]
    assert merged([], new) == new


def test_a_picture_that_alone_has_changed_stays_as_it_was():
    old, new = [shown(figure("<svg>1</svg>"))], [shown(figure("<svg>2</svg>"))]
    assert merged(old, new) == old


def test_a_new_picture_is_stored_where_something_else_has_changed():
    old, new = [shown(figure("<svg>1</svg>"))], [shown(figure("<svg>2</svg>") + "<p>more</p>")]
    assert merged(old, new) == new


def test_fresh_stores_new_pictures_and_hides_ports_all_the_same():
    old = [stream("127.0.0.1:PORT\n"), shown(figure("<svg>1</svg>"))]
    new = [stream("127.0.0.1:8080\n"), shown(figure("<svg>2</svg>"))]
    assert merged(old, new, fresh=True) == [old[0], new[1]]


def test_an_output_that_is_gone_or_has_come_is_a_change():
    one, two = stream("one\n"), shown("two")
    assert merged([one, two], [one]) == [one]
    assert merged([one], [one, two]) == [one, two]
    assert merged([one], []) == []


def test_text_that_came_in_pieces_is_stored_as_one():
    assert merged([], [stream("a\n"), stream("b\n")]) == [stream("a\nb\n")]


def test_text_in_other_pieces_is_no_change():
    whole, pieces = [stream("a\nb\nc\n")], [stream("a\n"), stream("b\n"), stream("c\n")]
    assert merged(whole, pieces) == whole
    assert merged(pieces, whole) == whole
    assert merged(pieces, pieces) == whole, "what is stored in pieces becomes one"


def test_a_picture_beside_text_in_other_pieces_stays_as_it_was():
    old = [stream("a\n"), stream("b\n"), shown(figure("<svg>1</svg>"))]
    new = [stream("a\nb\n"), shown(figure("<svg>2</svg>"))]
    assert merged(old, new) == [new[0], old[2]]


def test_a_port_that_was_torn_apart_is_hidden():
    assert merged([], [stream("127.0.0.1:80"), stream("80\n")]) == [stream("127.0.0.1:PORT\n")]


def test_only_neighbours_of_one_name_become_one():
    outputs = [stream("a\n"), shown("d"), stream("e\n")]
    assert merged([], outputs) == outputs


def test_what_comes_on_standard_error_is_told_and_never_stored():
    outputs = [stream("a\n"), stream("b\n", "stderr"), stream("c\n"), stream("d\n", "stderr")]
    assert execute.complaints(notebook(*outputs)) == ["b\n", "d\n"]
    assert merged([], outputs) == [stream("a\nc\n")]


def test_outputs_stay_and_get_new_counts_where_a_cell_was_inserted_above():
    old = notebook(shown(figure("<svg>1</svg>"), count=3), count=3)
    new = notebook(shown(figure("<svg>2</svg>"), count=5), count=5)
    (cell,) = execute.merge(old, new).cells
    assert cell.execution_count == 5
    assert cell.outputs == [shown(figure("<svg>1</svg>"), count=5)]


def test_metadata_tells_nothing_of_the_machine_nor_of_the_time():
    new = notebook(stream("a\n"), language_info={"name": "python", "version": "3.11.7"}, widgets={})
    new.cells[0].metadata = {"tags": ["claim-1"], "execution": {"iopub.status.busy": "today"}}
    result = execute.merge(notebook(), new)
    assert result.metadata == execute.METADATA
    assert result.cells[0].metadata == {"tags": ["claim-1"]}


def test_a_notebook_in_which_nothing_has_changed_is_not_written(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text("{}")
    old = notebook(stream("127.0.0.1:PORT\n"), shown(figure("<svg>1</svg>")))
    nbformat.write(execute.merge(notebook(), old), path)
    before = path.read_bytes(), path.stat().st_ino
    new = notebook(stream("127.0.0.1:8080\n"), shown(figure("<svg>2</svg>")))
    assert not execute.store(path, new)
    assert (path.read_bytes(), path.stat().st_ino) == before


def test_a_notebook_in_which_something_has_changed_is_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    nbformat.write(execute.merge(notebook(), notebook(stream("a\n"))), path)
    written = []
    monkeypatch.setattr(execute, "write_whole", lambda *file: written.append(file))
    assert execute.store(path, notebook(stream("b\n")))
    ((where, text),) = written
    assert where == path and text.endswith("}\n")
    assert nbformat.reads(text, as_version=4).cells[0].outputs == [stream("b\n")]


# Whole notebooks, in kernels.

OPENING = """
import base64, os
from IPython.display import HTML
drawing = base64.b64encode(f"<svg width='1'>{os.urandom(4).hex()}</svg>".encode()).decode()
HTML(f'<img alt="a run" src="data:image/svg+xml;base64,{drawing}">')
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of its own, of one chapter whose picture is another one on each run."""
    monkeypatch.setattr(notebooks, "BOOK", tmp_path)
    monkeypatch.setattr(execute, "BOOK", tmp_path)
    monkeypatch.setattr(execute, "PICTURE", tmp_path / "picture.svg")
    write_chapter(tmp_path / "02_request_loop.ipynb", OPENING, id="two-opening")
    return tmp_path


def write_chapter(path, *sources, **of_cells):
    cells = [v4.new_code_cell(source.strip(), **of_cells) for source in sources]
    nbformat.write(v4.new_notebook(cells=cells), path)


def files(folder):
    """Each file's place on the disk and its bytes: what is moved there anew has another place."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


def test_notebooks_are_executed_and_written_only_when_something_has_changed(book, capsys):
    execute.execute()
    (cell,) = notebooks.read(book / "02_request_loop.ipynb").cells
    assert cell.execution_count == 1
    first = files(book)
    execute.execute("02_request_loop")
    assert files(book) == first
    execute.execute(fresh=True)
    assert files(book)["02_request_loop.ipynb"] != first["02_request_loop.ipynb"]
    assert files(book)["picture.svg"] != first["picture.svg"]
    told = [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()]
    assert told == ["stored anew", "as it was", "stored anew"]


@pytest.mark.parametrize("named", [[], ["claims"], ["02_request_loop", "claims"]])
def test_the_named_notebooks_are_executed_or_all(book, monkeypatch, named):
    write_chapter(book / "claims.ipynb", "1")
    executed = []
    monkeypatch.setattr(execute, "run", lambda path: executed.append(path.stem) or notebook())
    monkeypatch.setattr(execute, "store", lambda path, new, fresh: True)
    monkeypatch.setattr(execute, "store_picture", lambda: None)
    execute.execute(*named)
    assert executed == (named or ["02_request_loop", "claims"])


def test_the_picture_of_the_readme_is_the_first_one_of_chapter_2_on_white(book):
    cell = v4.new_code_cell("", id="two-opening", outputs=[shown(figure("<svg width='1'>a</svg>"))])
    other = v4.new_code_cell("", id="two-later", outputs=[shown(figure("<svg>b</svg>"))])
    nbformat.write(v4.new_notebook(cells=[other, cell]), book / "02_request_loop.ipynb")
    execute.store_picture()
    assert execute.PICTURE.read_text() == "<svg style=\"background:#fff\" width='1'>a</svg>"


def test_the_stored_picture_of_the_readme_is_that_of_the_stored_chapter(tmp_path, monkeypatch):
    stored = execute.PICTURE.read_text(encoding="utf-8")
    monkeypatch.setattr(execute, "PICTURE", tmp_path / "picture.svg")
    execute.store_picture()
    assert execute.PICTURE.read_text(encoding="utf-8") == stored


def test_a_cell_that_fails_leaves_its_notebook_as_it_was(book):
    write_chapter(book / "02_request_loop.ipynb", "print('a')", "assert False, 'claim 9'")
    before = files(book)
    with pytest.raises(CellExecutionError, match="claim 9"):
        execute.execute()
    assert files(book) == before


def test_an_unknown_notebook_is_one_line_and_nothing_is_executed(book):
    before = files(book)
    with pytest.raises(SystemExit) as ended:
        execute.execute("02_request_loop", "13_nothing")
    assert ended.value.code == "There is no notebook 13_nothing; there are 02_request_loop."
    assert files(book) == before


def press(*words):
    return subprocess.run(
        [sys.executable, "-m", "_press", *words],
        cwd=BOOK,
        capture_output=True,
        encoding="utf-8",
    )


def test_an_unknown_notebook_on_the_command_line_is_one_line_and_a_failure():
    done = press("run", "13_nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("There is no notebook 13_nothing; there are 01_one_request,")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_command_tells_of_those_there_are():
    done = press("bild")
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ") and "\nbuild " in done.stderr


# Copies.


def test_copies_are_the_programs_of_the_chapters_and_nothing_else(book, tmp_path, monkeypatch):
    code = tmp_path / "code"
    monkeypatch.setattr(copies, "CODE", code)
    write_chapter(book / "01_a.ipynb", "%%writefile run/01_a.py\nprint('a')\n\n# ü", "1")
    write_chapter(book / "02_request_loop.ipynb", "%%writefile run/02_request_loop.py\nprint('b')")
    write_chapter(book / "claims.ipynb", "%%writefile run/claims.py\nprint('c')")
    code.mkdir()
    (code / "01_a.py").write_text("old")
    (code / "01_old_name.py").write_text("old")
    (code / "README").write_text("no program")
    copies.write_copies()
    assert {path.name: path.read_text(encoding="utf-8") for path in code.iterdir()} == {
        "01_a.py": "print('a')\n\n# ü\n",
        "02_request_loop.py": "print('b')\n",
        "README": "no program",
    }


def test_nothing_is_copied_or_removed_when_a_chapter_has_no_program(book, tmp_path, monkeypatch):
    code = tmp_path / "code"
    monkeypatch.setattr(copies, "CODE", code)
    code.mkdir()
    (code / "01_old_name.py").write_text("old")
    with pytest.raises(ValueError, match="02_request_loop.ipynb has 0 cells that write"):
        copies.write_copies()
    assert [path.name for path in code.iterdir()] == ["01_old_name.py"]


# The build.

INDEX = """
import os, pathlib, sys
site = pathlib.Path("_build/html")
site.mkdir(parents=True, exist_ok=True)
(site / "index.html").write_text("built")
"""
REPORT = (
    INDEX
    + """
lines = [f"line {number}" for number in range(90)] + ["\\x1b[31mAssertionError\\x1b[0m: claim 9"]
(site / "reports" / "book").mkdir(parents=True)
(site / "reports" / "book" / "02.err.log").write_text("\\n".join(lines))
"""
)


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """Set the program that is run as the builder; returns the folder where it is run."""
    monkeypatch.setattr(build, "ROOT", tmp_path)

    def builder(program):
        monkeypatch.setattr(build, "BUILDER", [sys.executable, "-c", program])
        return tmp_path / "_build" / "html"

    return builder


def failure():
    """Build, which must fail; returns the message."""
    with pytest.raises(SystemExit) as ended:
        build.build()
    assert ended.value.code not in (None, 0), "to a shell this is success"
    return ended.value.code


def test_a_build_tells_where_the_site_is_and_how_long_each_page_took(builder, capsys):
    site = builder(
        INDEX + "print('/book/02_loop.ipynb: \\033[34mExecuted notebook in 3.25 seconds\\033[0m')\n"
        "print('/book/intro.md: Executed notebook in 0.50 seconds')"
    )
    build.build()
    told = capsys.readouterr().out
    assert re.search(r"^02_loop +3\.2 s\nintro +0\.5 s\nall, with the site +\d\.\d s$", told, re.M)
    assert told.splitlines()[-1] == f"Read it: {site / 'index.html'}"
    assert (site / "look.pyz").is_file()


def test_a_builder_that_fails_is_a_failure(builder, capsys):
    builder(INDEX + "sys.exit(1)")
    assert failure() == "The book was not built: see above."
    assert "Read it" not in capsys.readouterr().out


def test_a_builder_that_is_killed_is_a_failure(builder):
    builder(INDEX + "os.kill(os.getpid(), 9)")
    assert failure()


@pytest.mark.parametrize("kind", ["WARNING", "ERROR", "CRITICAL"])
def test_a_builder_that_complains_is_a_failure_whatever_its_status(builder, capsys, kind):
    builder(INDEX + f"print('\\033[91m/a.md:1: {kind}: no such page\\033[0m'); print('then more')")
    assert failure()
    told = capsys.readouterr().out
    assert told.endswith(f"once more:\n/a.md:1: {kind}: no such page\n")


def test_what_a_builder_complains_of_on_standard_error_counts(builder):
    builder(INDEX + "print('a.md:1: WARNING: no such page', file=sys.stderr)")
    assert failure()


def test_a_word_of_warning_in_a_title_is_no_complaint(builder):
    builder(INDEX + "print('reading sources... WARNINGS and ERRORS')")
    build.build()


def test_a_cell_that_failed_is_a_failure_and_its_last_lines_are_shown(builder, capsys):
    builder(REPORT)
    assert failure()
    told = capsys.readouterr().out.splitlines()
    assert told[-41:][:1] == ["02.err.log"] and "line 50" not in told
    assert told[-1] == "AssertionError: claim 9"


def test_a_link_that_leads_nowhere_is_a_failure_and_one_to_the_single_file_is_not(builder, capsys):
    builder(INDEX + "(site / 'index.html').write_text('<a href=look.pyz>one file</a>')")
    build.build()
    builder(INDEX + "(site / 'index.html').write_text('<a href=a.html>a page</a>')")
    assert failure()
    told = capsys.readouterr().out
    assert told.endswith("once more:\nindex.html leads to a.html: there is no such file\n")


def test_a_report_of_an_earlier_build_is_no_failure_of_this_one(builder):
    builder(REPORT)
    assert failure()
    builder(INDEX)
    build.build()


def test_a_builder_that_writes_nothing_is_a_failure_although_an_older_site_is_there(builder):
    site = builder(INDEX)
    build.build()
    builder("print('nothing to do')")
    assert failure()
    assert not (site / "look.pyz").exists()


TINY = {
    "_config.yml": "title: Tiny\nonly_build_toc_files: true\nexecute: {execute_notebooks: 'off'}\n",
    "_toc.yml": "format: jb-book\nroot: first\nchapters: [{file: second}]\n",
    "first.md": "# First\n\n[Second](second.md)\n",
    "second.md": "# Second\n",
}


@pytest.mark.parametrize("link, built", [("second.md", True), ("third.md", False)])
def test_the_real_builder_builds_and_a_dead_link_is_a_failure(
    tmp_path, monkeypatch, capsys, link, built
):
    for name, text in TINY.items():
        (tmp_path / name).write_text(text.replace("second.md", link))
    monkeypatch.setattr(build, "ROOT", tmp_path)
    if built:
        build.build()
        site = tmp_path / "_build" / "html"
        assert {"first.html", "look.pyz"} <= {path.name for path in site.iterdir()}
    else:
        assert failure()
        assert "WARNING" in capsys.readouterr().out.partition("once more:")[2]


# One file that runs with Python alone.


def test_one_file_looks_at_a_process_with_python_alone(tmp_path):
    path = archive.write_archive(tmp_path / "look.pyz", "look")
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            lab.until_blocked(sleeper.pid, "clock_nanosleep")
            done = run_alone([sys.executable, "-I", path, str(sleeper.pid)], tmp_path)
        finally:
            sleeper.kill()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"process {sleeper.pid}")
    assert "asleep in" in done.stdout


def test_one_file_can_be_started_by_its_name_and_complains_in_one_line(tmp_path):
    path = archive.write_archive(tmp_path / "look.pyz", "look")
    done = run_alone([path, "nothing"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("look: ") and len(done.stderr.splitlines()) == 1
    assert path.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def run_alone(command, folder):
    """Run a command in a folder, with nothing of this environment but where programs are."""
    env = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Two small packages in place of the book's; outer's command ends with status 7."""
    monkeypatch.setattr(archive, "ROOMS", tmp_path / "rooms")
    for name in ("inner", "outer", "outer/__pycache__"):
        (tmp_path / "rooms" / name).mkdir(parents=True)
    for name, text in {
        "inner/__init__.py": "STATUS = 7\n" + "# much the same\n" * 99,
        "outer/command.py": "from inner import STATUS\n\n\ndef main():\n    return STATUS\n",
        "outer/__init__.py": "",
        "outer/notes.txt": "not for anybody else",
        "outer/__pycache__/command.cpython-311.pyc": "old",
    }.items():
        (tmp_path / "rooms" / name).write_text(text)
    return tmp_path / "rooms"


def test_one_file_holds_the_sources_alone_and_is_the_same_each_time(tmp_path, rooms):
    one = archive.write_archive(tmp_path / "1.pyz", "outer", "inner")
    os.utime(rooms / "outer" / "command.py", (0, 0))
    two = archive.write_archive(tmp_path / "2.pyz", "outer", "inner")
    assert two.read_bytes() == one.read_bytes()
    with zipfile.ZipFile(one) as file:
        names = ["__main__.py", "inner/__init__.py", "outer/__init__.py", "outer/command.py"]
        assert file.namelist() == names
        assert file.read(names[3]) == (rooms / names[3]).read_bytes()
        assert {each.compress_type for each in file.infolist()} == {zipfile.ZIP_STORED}
    assert run_alone([sys.executable, "-I", one], tmp_path).returncode == 7


# A notebook as text, for git.


def test_a_notebook_as_text_has_its_cells_sources_tags_and_outputs():
    cells = [
        v4.new_markdown_cell("# One\n\nText", id="one"),
        v4.new_code_cell("print(1)", id="two", metadata={"tags": ["claim-1", "hide-input"]}),
        v4.new_code_cell("", id="three"),
    ]
    cells[1].outputs = [
        stream("ü\n\n2\n"),
        v4.new_output("error", ename="KeyError", evalue="'a'", traceback=["long"]),
        v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"}),
        v4.new_output("display_data", {"image/png": "AAAA"}),
    ]
    text = nbformat.writes(v4.new_notebook(cells=cells))
    assert notebook_text.text_of_notebook(text).splitlines() == [
        "##### markdown one", "# One", "", "Text", "",
        "##### code two claim-1 hide-input", "print(1)",
        "> ü", "> ", "> 2", "> KeyError: 'a'", "> <Figure>", "",
        "##### code three",
    ]  # fmt: skip


def test_html_as_text_has_rows_and_links_but_no_pictures_nor_styles():
    markup = (
        "<style>.a {color: red}</style><figure><figcaption>A run</figcaption>"
        '<img class="b" src="data:image/svg+xml;base64,PHN2Zz4=" alt="It sleeps"></figure>'
        "<table><tr><th>who</th><th>ends</th></tr>"
        '<tr><td>1 &lt; 2</td><td><a href="01.ipynb#a"><b>dead</b></a></td></tr></table>'
        '<pre><span class="minus">- a</span><span class="plus">+ b</span></pre><svg>c</svg>'
    )
    assert notebook_text.text_of_html(markup).splitlines() == [
        "A run",
        "[picture: It sleeps]",
        "who | ends",
        "1 < 2 | [dead](01.ipynb#a)",
        "- a",
        "+ b",
    ]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"cells": 1}', '{"cells": [{}]}', "no JSON\n"])
def test_what_is_no_notebook_stays_as_it_is(text):
    assert notebook_text.text_of_notebook(text) == text


def test_the_books_notebooks_as_text_are_short_and_have_every_cell():
    for path in notebooks.notebooks():
        text = notebook_text.text_of_notebook(path.read_text(encoding="utf-8"))
        assert not re.search(r"base64,\w|</\w+>\n|<style", text), path.stem
        assert len(text) < 100_000, path.stem
        ids = re.findall(r"(?m)^##### (?:code|markdown) (\S+)", text)
        assert ids == [cell["id"] for cell in notebooks.cells(path)]


# What make sets up.

UV = """#!/bin/sh
echo uv "$@" >> calls
mkdir -p .venv/bin
"""
PYTHON = """#!/bin/sh
echo python "$@" >> calls
case "$*" in *venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the Makefile needs, in a folder with a space and an umlaut in its name."""
    folder = tmp_path / "ein Büchlein"
    shutil.copytree(BOOK / "_press", folder / "book" / "_press")
    for name in ("Makefile", "requirements.txt", ".gitattributes"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def make(tmp_path, checkout):
    """Run make in the copy, with programs of this test's own; returns how that ended.

    programs: by name, the text of each. without: names of programs that can't be found.
    """

    def make(*words, without=(), **programs):
        bin = tmp_path / "bin"
        shutil.rmtree(bin, ignore_errors=True)
        bin.mkdir()
        (bin / "python3").symlink_to(Path(sys.executable).resolve())
        for name in {"sh", "make", "mkdir", "touch", "cp", "cat", "git"} - set(without):
            if found := shutil.which(name):
                (bin / name).symlink_to(found)
        for name, text in programs.items():
            (bin / name).unlink(missing_ok=True)
            (bin / name).write_text(text)
            (bin / name).chmod(0o755)
        return run_in(checkout, ["make", *words], PATH=str(bin))

    return make


def run_in(folder, command, **env):
    """Run a command with none of our make's settings, nor of our git's."""
    ours = ("MAKE", "MFLAGS", "PYTHON", "VENV", "PINS", "GIT")
    mine = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    mine |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", **env}
    return subprocess.run(command, cwd=folder, env=mine, capture_output=True, encoding="utf-8")


def test_uv_installs_what_is_pinned(make, checkout):
    assert make(".venv/ready", uv=UV).returncode == 0
    calls = (checkout / "calls").read_text().splitlines()
    assert calls[-1].endswith("-r requirements.txt -c book/_press/constraints.txt")


def test_pip_installs_what_is_pinned(make, checkout):
    assert make(".venv/ready", python3=PYTHON).returncode == 0
    calls = (checkout / "calls").read_text().splitlines()
    assert calls[-1].startswith("python -m pip install")
    assert calls[-1].endswith("-r requirements.txt -c book/_press/constraints.txt")


@pytest.mark.parametrize("name", ["requirements.txt", "book/_press/constraints.txt"])
def test_the_environment_is_made_anew_when_a_pin_has_changed(make, name):
    assert make(".venv/ready", uv=UV).returncode == 0
    assert make("-q", ".venv/ready").returncode == 0
    assert make("-q", "-W", name, ".venv/ready").returncode == 1


@pytest.mark.parametrize(
    ("goal", "call"),
    [
        ("book", "-m _press build"),
        ("test", "-m pytest"),
        ("prose", "-m _press prose"),
    ],
)
def test_a_command_that_fails_makes_make_fail(make, checkout, goal, call):
    assert make(".venv/ready", python3=PYTHON).returncode == 0
    python = checkout / ".venv" / "bin" / "python"
    for status in (0, 3):
        python.write_text(f'#!/bin/sh\ncase "$*" in "{call}"*) exit {status};; esac\n')
        assert bool(make(goal).returncode) == bool(status)


@pytest.mark.parametrize("without", [(), ["git"]], ids=["no checkout", "no git"])
def test_make_needs_neither_git_nor_a_checkout(make, checkout, without):
    if without:
        (checkout / ".git").mkdir()
    done = make(".venv/ready", without=without, uv=UV)
    assert (done.returncode, done.stderr) == (0, "")


@needs_git
def test_make_leaves_the_git_of_a_folder_above_alone(make, checkout):
    run_in(checkout.parent, ["git", "init", "-q"])
    before = (checkout.parent / ".git" / "config").read_text()
    assert make(".venv/ready", uv=UV).returncode == 0
    assert (checkout.parent / ".git" / "config").read_text() == before


@pytest.fixture
def git(checkout):
    """Run git in a folder of the copy, which is a checkout of its own; returns what it prints."""

    def git(*words, folder="."):
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        done = run_in(checkout / folder, ["git", *who, *words])
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init", "-q")
    return git


@needs_git
def test_git_shows_a_changed_notebook_as_text(make, checkout, git):
    assert make(".venv/ready", uv=UV).returncode == 0
    path = checkout / "book" / "a b.ipynb"
    nbformat.write(notebook(stream("one\n"), shown(figure("<svg>1</svg>"))), path)
    git("add", "-A")
    git("commit", "-q", "-m", "a")
    nbformat.write(notebook(stream("zwölf\n"), shown(figure("<svg>2</svg>"))), path)
    for folder in (".", "book"):
        diff = git("diff", folder=folder).splitlines()
        changed = [line for line in diff if re.match(r"[+-](?![+-])", line)]
        assert changed == ["-> one", "+> zwölf"]
    assert "+> one" in git("log", "-p").splitlines()


@needs_git
def test_git_shows_a_notebooks_file_where_it_can_not_be_made_into_text(make, checkout, git):
    assert make(".venv/ready", uv=UV).returncode == 0
    nbformat.write(notebook(stream("one\n")), checkout / "a.ipynb")
    git("add", "-A")
    git("commit", "-q", "-m", "a")
    nbformat.write(notebook(stream("two\n")), checkout / "a.ipynb")
    (checkout / "book" / "_press" / "notebook_text.py").unlink()
    assert '+      "two\\n"' in git("diff", "a.ipynb")


# What CI installs and runs.


@pytest.fixture
def ci(tmp_path):
    """Run a script of .ci in a folder of its own; returns how that ended.

    programs: by name, the text of each; besides these there is hardly any.
    """

    def ci(script, **programs):
        folder, bin = tmp_path / "checkout", tmp_path / "bin"
        shutil.copytree(ROOT / ".ci", folder / ".ci", dirs_exist_ok=True)
        bin.mkdir(exist_ok=True)
        for name in ("bash", "env", "dirname", "rm", "id"):
            (bin / name).unlink(missing_ok=True)
            (bin / name).symlink_to(shutil.which(name))
        for name, text in programs.items():
            (bin / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
            (bin / name).chmod(0o755)
        return run_in(folder, [folder / ".ci" / script], PATH=str(bin))

    return ci


def test_programs_that_can_not_be_installed_are_named(ci):
    done = ci("programs", make="", ss="", python3="", ab="", chromium="")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "Not installed, so not shown or not tested: strace wrk nginx"
    ]


def test_a_program_that_nothing_runs_without_is_a_failure(ci):
    done = ci("programs", ss="", python3="exit 1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Please install: make python3-venv"


def test_only_root_installs(ci):
    done = ci("programs", id="echo 1000", make="", ss="", python3="", **{"apt-get": "echo called"})
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_missing_is_installed_and_nothing_else(ci):
    done = ci(
        "programs",
        id="echo 0",
        python3="",
        **{"apt-get": 'echo "apt-get $*"; [[ $* != *wrk ]]'},
        **dict.fromkeys(["make", "ab", "strace", "nginx", "chromium"], ""),
    )
    assert done.stdout.splitlines() == [
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends iproute2",
        "apt-get install -y -qq --no-install-recommends wrk",
    ]


@pytest.mark.parametrize(
    "fails, made", [("", "test book"), ("test", "test"), ("book", "test book")]
)
def test_ci_tests_then_builds_and_fails_where_one_of_them_does(ci, tmp_path, fails, made):
    there = ["ss", "python3", "ab", "strace", "wrk", "nginx", "chromium"]
    make = f'echo "$*" >> {tmp_path}/made; [ "$1" != "{fails}" ]'
    done = ci("run", make=make, **dict.fromkeys(there, ""))
    assert bool(done.returncode) == bool(fails)
    assert (tmp_path / "made").read_text().split() == made.split()


# Versions.


def test_ci_tests_with_every_python_that_the_pages_name():
    workflow = (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
    pythons = re.findall(r'"([\d.]+)"', re.search(r"(?m)^ +python: (.*)$", workflow)[1])
    assert pythons[0] == versions.OLDEST
    assert (pythons[0], pythons[-1]) == ("3.11", "3.13"), (
        "intro: “Python 3.11 to 3.13”; README: “Python 3.11 to 3.13”"
    )


def test_every_dependency_is_pinned_exactly_and_has_a_reason():
    lines = versions.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    previous = ""
    for line in filter(None, lines):
        if not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.]+", line)
            assert previous, f"no reason stands above {line}"
        previous = line


def test_constraints_pin_everything_else_and_tell_nothing_of_the_machine():
    lines = versions.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 100
    for pin in pins:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [\w\s.()<>=!']+)?", pin)
    direct = {versions.canonical(name) for name, _ in versions.requirements()}
    assert not direct & {versions.canonical(pin.partition("==")[0]) for pin in pins}
    assert not re.search(r"https?:|/tmp|/home|/root", "\n".join(lines))


def test_the_newest_are_asked_for_without_pins_but_for_what_must_stay():
    text = "# The book.\njupyter-book==1.0.4.post1\nPyYAML==6.0.3\n"
    assert versions.loosened(text) == "# The book.\njupyter-book<2\nPyYAML\n"


def test_what_requirements_pin_is_left_out_of_the_constraints():
    lines = ["anyio==1", "pyyaml==6.0.3", "nbformat==5 ; python_version < '4'", "nbformat-x==1"]
    assert versions.without_direct(lines) == ["anyio==1", "nbformat-x==1"]


def test_differences_are_named_in_both_versions():
    pinned = {"a": ["1"], "b": ["1", "2"], "c": ["3"], "gone": ["1"]}
    installed = {"c": "4", "a": "1", "b": "2", "new": "1", "b-b": "1", "pip": "99"}
    assert versions.differences(pinned, installed) == [
        "b-b not pinned -> 1",
        "c 3 -> 4",
        "new not pinned -> 1",
    ]


def test_what_is_installed_is_told_by_its_canonical_name():
    there = versions.installed(sys.executable)
    assert there["nbformat"] == nbformat.__version__
    assert {"pyyaml", "jupyter-book"} <= set(there)


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """Try the newest with a make that fails at the goals given; returns the goals it was asked."""

    def trial(*failing):
        asked = []
        monkeypatch.setattr(versions, "ROOT", tmp_path)
        monkeypatch.setattr(versions, "installed", lambda python: {"sphinx": "99"})
        monkeypatch.setattr(
            versions, "_make", lambda goal: asked.append(Path(goal).name) or goal not in failing
        )
        try:
            versions.try_newest()
        except SystemExit as ended:
            return asked, ended.code
        return asked, 0

    return trial


def test_the_newest_are_tested_and_built_with_and_what_differs_is_told(trial, capsys, tmp_path):
    assert trial() == (["ready", "test", "book"], 0)
    assert "\nsphinx 7.4.7 -> 99\n" in capsys.readouterr().out
    asked = (tmp_path / "_build" / "newest" / "requirements.txt").read_text(encoding="utf-8")
    assert "\njupyter-book<2\n" in asked and "==" not in asked


@pytest.mark.parametrize("failing", [["test"], ["book"], ["test", "book"]])
def test_what_breaks_with_the_newest_is_told_and_a_failure(trial, failing, capsys):
    asked, code = trial(*failing)
    assert asked == ["ready", "test", "book"], "the build is tried when the tests have failed, too"
    assert code.startswith(f"With these, `make {'` and `make '.join(failing)}` failed")
    assert "sphinx 7.4.7 -> 99" in capsys.readouterr().out


def test_newest_versions_that_do_not_go_together_are_a_failure(trial):
    asked, code = trial("_build/newest/venv/ready")
    assert asked == ["ready"]
    assert code == "The newest versions can't be installed together: see above."
