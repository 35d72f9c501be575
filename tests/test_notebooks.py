"""The notebooks as files: what must be so before nbval runs them."""

import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

import lab
from _press.prose import PROGRAM as CODE_CELL
from conftest import BOOK, ROOT
from lab import notebooks

NOTEBOOKS = notebooks.notebooks()
CHAPTERS = notebooks.chapters()
TEXTS = [*NOTEBOOKS, BOOK / "intro.md", ROOT / "README.md"]


def test_there_are_eleven_chapters_three_of_them_on_the_modes_of_epoll():
    assert len(CHAPTERS) == 11, (
        "intro: “After these eleven chapters”; README: “Eleven chapters: the”"
    )
    modes = [path.stem for path in CHAPTERS[3:6]]
    assert modes == ["04_level_triggered", "05_edge_triggered", "06_one_shot"], (
        "README: “threads, epoll level-triggered, edge-triggered and one-shot”"
    )


def test_the_licence_is_the_one_that_the_readme_names():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Attribution 4.0 International licence (CC BY 4.0)" in licence, (
        "README: “under CC BY 4.0”"
    )


def by_name(path):
    return path.stem


def prose(path):
    return "\n".join(
        cell.source for cell in notebooks.read(path).cells if cell.cell_type == "markdown"
    )


def outputs(path):
    """Each code cell with the text of all its outputs."""
    for cell in notebooks.read(path).cells:
        if cell.cell_type == "code":
            yield cell, json.dumps(cell.outputs)


def test_cell_ids_are_unique_across_the_book():
    ids = Counter(cell.id for path in NOTEBOOKS for cell in notebooks.read(path).cells)
    assert max(ids.values()) == 1, ids.most_common(3)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_outputs_are_stored_and_tell_nothing_of_the_machine(path):
    for cell, text in outputs(path):
        assert cell.execution_count, f"{cell.id} was never run: `make notebooks`"
        assert '"output_type": "error"' not in text, cell.id
        found = re.search(r"/(root|home|work|tmp)/\w+|site-packages|127\.0\.0\.1:\d{4,5}", text)
        assert not found, f"{cell.id}: {found}"


def test_ten_thousand_clients_were_there_when_the_book_was_made():
    """How many there can be depends on a machine's limits."""
    said = {cell.id: text for cell, text in outputs(BOOK / "04_level_triggered.ipynb")}
    assert "idle clients: 10,000; threads: 1" in said["four-c10k"], (
        "intro: “ten thousand clients in one thread: Ten thousand”"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_every_cell_is_compared(path):
    cells = [cell for cell, _ in outputs(path)]
    ignored = [c.id for c in cells if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert len(ignored) * 10 <= len(cells), f"too many are not compared: {ignored}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_metadata_is_the_same_for_every_python(path):
    assert notebooks.read(path).metadata == {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }


ARTICLE = {claim.chapter for claim in lab.claims().values()}  # pages that it has a say in


@pytest.mark.parametrize("path", CHAPTERS, ids=by_name)
def test_the_anatomy_of_a_chapter(path):
    text = prose(path)
    article = ["What the article says"] * (path.stem in ARTICLE)
    for heading in ("The server", *article, "Break it", "In short", "Exercises"):
        assert f"\n## {heading}" in text or text.startswith(f"## {heading}"), heading
    assert "**Next:**" in text
    assert f"../code/{path.stem}.py" in text
    assert 1500 <= words(path) <= 3500, words(path)


UNSEEN = r"<style>.*?</style>|<script.*?</script>|<details.*?</details>|<[^>]+>"


def words(path):
    """Words that a reader reads: prose, tables and verdicts, not code nor what is folded away."""
    cells = notebooks.read(path).cells
    shown = " ".join(
        re.sub(UNSEEN, " ", text, flags=re.DOTALL)
        for cell in cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for text in [output.get("data", {}).get("text/html", "")]
    )
    return len((prose(path) + shown).split())


@pytest.mark.parametrize("path", CHAPTERS, ids=by_name)
def test_hardly_200_words_without_a_cell_or_a_picture(path):
    run = longest = 0
    for cell in notebooks.read(path).cells:
        prose = re.sub(r"(?m)^#+ .*", "", cell.source)
        run = run + len(prose.split()) if cell.cell_type == "markdown" else 0
        longest = max(longest, run)
    assert longest <= 230


LONGEST, MOST, IN_VIEW = 40, 450, 0.75  # lines of a cell, of a chapter; the share that is in view
LAST = 550  # lines of the last chapter, whose server has five times the lines of the others


def experiments(name):
    """The cells of a chapter that are experiments, as (cell, its lines that are not blank)."""
    for cell in notebooks.read(BOOK / f"{name}.ipynb").cells:
        if cell.cell_type == "code" and not cell.source.startswith("%%writefile"):
            yield cell, sum(bool(line.strip()) for line in cell.source.splitlines())


def is_folded(cell):
    return bool(notebooks.FOLDED & set(cell.metadata.get("tags", [])))


@pytest.mark.parametrize("name", [path.stem for path in CHAPTERS])
def test_an_experiment_reads_like_a_script(name):
    """Short, in view, and where it is folded, the button says what it opens."""
    found = list(experiments(name))
    lines = sum(count for _, count in found)
    most = LAST if name == CHAPTERS[-1].stem else MOST
    assert lines <= most, f"{lines} lines of experiment"
    in_view = sum(count for cell, count in found if not is_folded(cell))
    assert in_view >= IN_VIEW * lines, f"{in_view} of {lines} lines are in view"
    long = {cell.id: count for cell, count in found if count > LONGEST}
    assert not long, f"too long: {long}"
    for cell in notebooks.read(BOOK / f"{name}.ipynb").cells:
        if "hide-input" in cell.metadata.get("tags", []):
            prompts = cell.metadata.get("mystnb", {})
            assert prompts.keys() == {"code_prompt_show", "code_prompt_hide"}, cell.id


def test_the_readme_says_how_long_an_experiment_may_be():
    limits = LONGEST, MOST, LAST, IN_VIEW
    assert limits == (40, 450, 550, 0.75), (
        "README: “at most 40 lines a cell and 450 a chapter, 550 in the last one, 75% of them in "
        "view”"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_one_downloaded_alone_says_what_to_clone(path, tmp_path):
    setup = next(cell for cell in notebooks.read(path).cells if cell.cell_type == "code")
    done = subprocess.run(
        [sys.executable, "-c", setup.source],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("This notebook needs the folder lab beside it: clone")
    assert len(done.stderr.splitlines()) == 1


def test_the_introduction_runs():
    """nbval does not read MyST; the build would notice, but only if this failed too."""
    text = (BOOK / "intro.md").read_text(encoding="utf-8")
    cells = CODE_CELL.findall(text)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells)],
        cwd=BOOK,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr
    assert len(cells) == 3 and done.stdout.splitlines()[-1].endswith("200 'Hello, world!'")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path):
    text = prose(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_table_of_contents_names_every_page():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"book/{path.stem}\n" in toc + "\n", path.stem


def write_notebook(folder, name, *sources, kind="code"):
    """Write a notebook of cells of a kind, as little as the lab asks of one."""
    cells = [{"cell_type": kind, "metadata": {}, "source": [source]} for source in sources]
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5}))
    return path


PROGRAM = "%%writefile run/one.py\nx = 1"


def test_a_program_is_what_one_cell_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "BOOK", tmp_path)
    (tmp_path / "run").mkdir()
    write_notebook(tmp_path, "01_one", "x = 2", PROGRAM)
    assert notebooks.program("01_one", "one.py") == "x = 1\n"
    assert notebooks.write_program("01_one", "one.py") == tmp_path / "run" / "one.py"
    assert (tmp_path / "run" / "one.py").read_text() == "x = 1\n"


@pytest.mark.parametrize(
    ("sources", "kind", "number"),
    [((), "code", 0), ((PROGRAM,), "markdown", 0), ((PROGRAM, PROGRAM), "code", 2)],
)
def test_none_is_no_program_nor_are_two(tmp_path, monkeypatch, sources, kind, number):
    monkeypatch.setattr(notebooks, "BOOK", tmp_path)
    write_notebook(tmp_path, "01_one", *sources, kind=kind)
    with pytest.raises(ValueError, match=f"01_one.ipynb has {number} cells that write run/one.py"):
        notebooks.program("01_one", "one.py")


def test_notebooks_are_in_the_order_of_their_names_and_chapters_have_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "BOOK", tmp_path)
    names = ["survival", "02_two", "10_ten", "01_one", "1_no_chapter"]
    for name in names:
        write_notebook(tmp_path, name, "# The title", "# Another", kind="markdown")
    assert [path.stem for path in notebooks.notebooks()] == sorted(names)
    assert [path.stem for path in notebooks.chapters()] == ["01_one", "02_two", "10_ten"]
    assert notebooks.title(tmp_path / "01_one.ipynb") == "The title"
