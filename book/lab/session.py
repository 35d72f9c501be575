"""The servers that a notebook has running, and the files that it has written to run/.

A notebook's working folder is book/. Its servers are written to run/, which notebooks share: the
same notebook may be open in two kernels. So a file there is written whole or not at all: another
kernel may start it at any moment.
"""

import atexit
import os
import tempfile
from pathlib import Path

from survive.server import serve

_started = {}  # by path: what this notebook has started and not yet stopped


def find(name):
    """Return the path of a file that a notebook names: `02_request_loop.py` is one in run/."""
    path = Path(name)
    return (Path("run") / path if path.parent == Path() else path).resolve()


def start(name, *arguments):
    """Start a server in the background, say where it listens, and return it.

    name: a file in run/, or a path. Starting a file again stops the server started from it before.
    """
    path = find(name)
    if path in _started:
        _started.pop(path).stop()
    server = serve(path, *arguments)
    _started[path] = server
    print(f"{server.name} is listening on {server.address[0]}:{server.port}")
    return server


def stop_all():
    """Stop every server that start() has started."""
    while _started:
        _started.popitem()[1].stop()


atexit.register(stop_all)


def write_whole(path, text):
    """Write a text file so that nobody ever finds less than all of it; return its path.

    The text goes into a file beside it, which is then moved to its place, rename(2).
    """
    path = Path(path)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        try:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return path


def variant(original, name, lines="", start=None, **settings):
    """Write a program to run/ that runs a server with some changes; return the program's path.

    original: the server, a file in run/ as the reader has left it, or a path, as that of the tested
    copy, `../code/04_level_triggered.py`. name: of the new file. settings: constants of its module
    with their new values, as BACKLOG=128. lines: program text that changes the module further,
    under its name `chapter`. start: a module of run/ that imports the original by its name, and
    whose main() is run in place of the original's.
    """
    path = find(original)
    module = path.stem
    constants = "".join(f"chapter.{constant} = {value!r}\n" for constant, value in settings.items())
    text = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location({module!r}, {str(path)!r})\n"
        f"chapter = sys.modules[{module!r}] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(chapter)\n"
        f"{constants}{lines}\n"
        f"importlib.import_module({(start or module)!r}).main()\n"
    )
    return str(write_whole(Path("run", name), text))


def edited(original, name, changes):
    """Write a copy of a server to run/, with some of its text replaced; return the copy's path.

    original: as for variant(). name: of the copy. changes: {old text: new text}. Raises ValueError
    if an old text is not in the original, or more than once.
    """
    text = find(original).read_text(encoding="utf-8")
    for old, new in changes.items():
        if (count := text.count(old)) != 1:
            raise ValueError(f"{old!r} is there {count} times in {original}")
        text = text.replace(old, new)
    return str(write_whole(Path("run", name), text))


def add_magic(shell):
    """Have `%%writefile` write its file whole or not at all; the rest of it is IPython's own."""
    original = shell.find_cell_magic("writefile")

    def writefile(line, cell):
        words = line.split()
        if len(words) == 1 and words[0][0] not in "-'\"":
            path = os.path.expanduser(words[0])
            print(f"{'Overwriting' if os.path.exists(path) else 'Writing'} {path}")
            write_whole(path, cell)
        else:  # `-a FILE`, a name in quotes, or a mistake that IPython explains
            original(line, cell)

    shell.register_magic_function(writefile, "cell", "writefile")
