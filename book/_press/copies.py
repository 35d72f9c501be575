"""Make code/ from the notebooks: the tested copy of each chapter's server."""

from pathlib import Path

from lab import notebooks

CODE = Path(__file__).resolve().parents[2] / "code"


def write_copies():
    """Make code/ from the notebooks, and nothing else in it."""
    CODE.mkdir(exist_ok=True)
    copies = {
        f"{path.stem}.py": notebooks.program(path.stem, f"{path.stem}.py")
        for path in notebooks.chapters()
    }
    for stale in {path.name for path in CODE.glob("*.py")} - set(copies):
        (CODE / stale).unlink()
    for name, text in copies.items():
        (CODE / name).write_text(text, encoding="utf-8")
        print(f"code/{name}")
