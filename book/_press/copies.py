"""Make code/ from the notebooks: the tested copy of each chapter's server."""

from pathlib import Path

from lab import notebooks
from lab.session import write_whole

CODE = Path(__file__).resolve().parents[2] / "code"


def write_copies():
    """Write the program of every chapter to code/, and remove those that are of no chapter."""
    CODE.mkdir(exist_ok=True)
    copies = {
        f"{path.stem}.py": notebooks.program(path.stem, f"{path.stem}.py")
        for path in notebooks.chapters()
    }
    for stale in {path.name for path in CODE.glob("*.py")} - set(copies):
        (CODE / stale).unlink()
    for name, text in copies.items():
        write_whole(CODE / name, text)
        print(f"code/{name}")
