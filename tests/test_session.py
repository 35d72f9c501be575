"""What a notebook has running and has written: variants of servers, and files that are whole."""

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import lab
from conftest import BOOK, ROOT
from lab import session
from lab.session import write_whole


def test_a_name_without_a_folder_is_a_file_in_run(run_folder):
    assert session.find("server.py") == run_folder / "server.py"
    assert session.find("../code/server.py") == run_folder.parent.parent / "code" / "server.py"


LEVEL = ROOT / "code" / "04_level_triggered.py"


def test_a_variant_has_other_settings_and_is_the_same_program(run_folder):
    path = lab.variant(LEVEL, "variant.py", BACKLOG=7)
    assert path == "run/variant.py"
    with lab.serve(path) as server:
        assert lab.kernel.accept_queue(server.address) == (0, 7)
        assert lab.rows.is_hello(lab.get(server.address))


def test_a_variant_may_change_what_it_likes_in_the_chapter(run_folder):
    lines = "chapter.ANSWER = chapter.ANSWER.replace(b'world', b'there')"
    with lab.serve(
        lab.variant(ROOT / "code" / "02_request_loop.py", "variant.py", lines)
    ) as server:
        assert lab.get(server.address).body == b"Hello, there!"


STALE = "raise SystemExit('left behind in run/')\n"


def test_a_server_with_a_line_changed_is_another_program(run_folder):
    path = lab.edited(LEVEL, "edited.py", {"BACKLOG = 1\n": "BACKLOG = 7\n"})
    assert path == "run/edited.py"
    with lab.serve(path) as server:
        assert lab.kernel.accept_queue(server.address) == (0, 7)


@pytest.mark.parametrize("old", ["BACKLOG", "no such line"])
def test_what_is_to_be_changed_must_be_there_once(run_folder, old):
    with pytest.raises(ValueError, match=f"'{old}' is there . times in"):
        lab.edited(LEVEL, "edited.py", {old: ""})
    assert not (run_folder / "edited.py").exists()


def test_a_stale_file_in_run_does_not_stand_for_the_chapter(run_folder):
    (run_folder / "04_level_triggered.py").write_text(STALE)
    with lab.serve(lab.variant(LEVEL, "variant.py", BACKLOG=7)) as server:
        assert lab.kernel.accept_queue(server.address) == (0, 7)
        assert lab.rows.is_hello(lab.get(server.address))


def test_a_variant_of_a_file_in_run_is_what_the_reader_has_made_of_it(run_folder):
    changed = LEVEL.read_text(encoding="utf-8").replace("Hello, world!", "Hello, there!")
    (run_folder / LEVEL.name).write_text(changed, encoding="utf-8")
    with lab.serve(lab.variant(LEVEL.name, "variant.py", BACKLOG=7)) as server:
        assert lab.kernel.accept_queue(server.address) == (0, 7)
        assert lab.get(server.address).body == b"Hello, there!"


OTHER_LOOP = """
import importlib
chapter = importlib.import_module("04_level_triggered")
def serve(listener):
    print("another loop", flush=True)
    listener.accept()[0].sendall(chapter.ANSWER)
    listener.accept()
chapter.serve = serve
if __name__ == "__main__":
    chapter.main()
"""


def test_a_variant_of_another_loop_has_the_chapters_settings(run_folder):
    """A module of run/, that is not stale: and the chapter that it imports is the changed one."""
    (run_folder / "04_level_triggered.py").write_text(STALE)
    (run_folder / "other.py").write_text(OTHER_LOOP + "main = chapter.main\n")
    path = lab.variant(LEVEL, "variant.py", start="other", BACKLOG=7)
    with lab.serve(path) as server:
        server.wait_for("another loop")
        assert lab.kernel.accept_queue(server.address) == (0, 7)
        with lab.Conversation(server.address) as talk:
            assert talk.receive().startswith(b"HTTP/1.0 200 OK")


def test_starting_again_stops_the_one_before(serving, capsys):
    path = serving("def serve(listener):\n    listener.accept()\n")
    first = lab.start(path)
    second = lab.start(path)
    assert not first.is_running() and second.is_running()
    lab.stop_all()
    assert not second.is_running()
    said = [line.rpartition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["server.py is listening on 127.0.0.1"] * 2


def test_a_file_is_found_whole_at_any_moment(tmp_path):
    """By a reader in a loop, while long and short texts replace each other."""
    path, texts = tmp_path / "file.py", {"x" * 300_000, "y" * 10}
    write_whole(path, "y" * 10)
    done, seen = threading.Event(), set()

    def read():
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        for text in texts:
            write_whole(path, text)
    lab.until(lambda: seen)
    done.set()
    reader.join()
    assert seen <= texts
    assert os.listdir(tmp_path) == ["file.py"]


def test_a_new_file_may_be_read_by_everybody_and_says_what_was_written(tmp_path):
    path = write_whole(str(tmp_path / "file.py"), "é\n")
    assert path == tmp_path / "file.py" and path.read_bytes() == "é\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_it_is_written_beside_its_place(tmp_path, monkeypatch):
    """To be moved it must be on the same disk, and /tmp may be on another."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    assert write_whole(tmp_path / "file.py", "whole").read_text() == "whole"


def fail(*arguments):
    raise OSError("no room on the disk")


@pytest.mark.parametrize("step", ["replace", "fchmod"])
def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path, monkeypatch, step):
    path = write_whole(tmp_path / "file.py", "old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no room"):
        write_whole(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.py"]


def test_a_text_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file.py", "whole but for \udcff")
    assert not os.listdir(tmp_path)


@pytest.fixture
def shells(run_folder):
    """Two real IPython shells, as a notebook's kernel has one: as it comes, and with our magic.

    They keep no history: it is a file in the home folder.
    """
    settings = Config({"HistoryManager": {"enabled": False}})
    own, ours = InteractiveShell(config=settings), InteractiveShell(config=settings)
    session.add_magic(ours)
    return own, ours


def writefile(shell, line, cell):
    return shell.run_cell(f"%%writefile {line}\n{cell}")


@pytest.mark.parametrize(
    "line", ["run/a.py", "./run/a.py", "~/a.py", "'run/a.py'", '"run/a b.py"', "-a run/a.py"]
)
def test_the_magic_says_and_does_what_ipythons_own_does(
    shells, run_folder, capsys, monkeypatch, line
):
    """Both are asked to write the same file twice."""
    monkeypatch.setenv("HOME", str(run_folder))
    outcomes = []
    for shell in shells:
        assert writefile(shell, line, "x = 1\n").success
        assert writefile(shell, line, "x = 1\n").success
        written = {path.name: path.read_text() for path in run_folder.glob("*.py")}
        outcomes.append((capsys.readouterr().out, written))
        for path in run_folder.glob("*.py"):
            path.unlink()
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0].startswith("Writing ") and len(outcomes[0][1]) == 1


@pytest.mark.parametrize("line", ["", "-a", "-x run/a.py", "run/no_folder/a.py"])
def test_the_magic_explains_a_mistake_as_ipython_does(shells, run_folder, line):
    said = []
    for shell in shells:
        result = writefile(shell, line, "x = 1\n")
        assert not result.success and not os.listdir(run_folder)
        said.append(type(result.error_in_exec))
    assert said[0] == said[1]


def test_the_magic_writes_whole_or_not_at_all(shells, run_folder, monkeypatch):
    _, shell = shells
    writefile(shell, "run/a.py", "old = 1\n")
    monkeypatch.setattr(os, "replace", fail)
    assert isinstance(writefile(shell, "run/a.py", "new = 1\n").error_in_exec, OSError)
    assert (run_folder / "a.py").read_text() == "old = 1\n"
    assert os.listdir(run_folder) == ["a.py"]


def test_the_book_has_its_run_folder():
    assert Path(BOOK / "run").is_dir(), "made by `import lab`"
