"""Notebooks in real kernels: interrupted, killed, restarted, run twice, run side by side."""

import queue
import threading
import time

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

import lab
from conftest import BOOK
from lab import notebooks

LOOP = "02_request_loop"


class Kernel:
    """A kernel in the book's folder, with what it prints."""

    def __init__(self, folder=BOOK):
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(folder))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code, seconds=30):
        """Run a cell; returns (what it printed, the lines of its error)."""
        self.begin(code)
        return self.end(seconds)

    def begin(self, code):
        self.asked = self.client.execute(code)

    def end(self, seconds=30):
        printed, error = "", []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=deadline - time.monotonic())
            except queue.Empty:
                break
            if message["parent_header"].get("msg_id") != self.asked:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "error":
                error = content["traceback"]
            elif content.get("execution_state") == "idle":
                return printed, error
        raise TimeoutError(f"the cell is still running after {seconds} s; so far: {printed}")

    def chapter(self, name=LOOP):
        """Run All: the errors of a notebook's cells."""
        cells = [c for c in notebooks.read(BOOK / f"{name}.ipynb").cells if c.cell_type == "code"]
        return [error for cell in cells if (error := self.run(cell.source, 60)[1])]

    def servers(self):
        return [
            child
            for child in psutil.Process(self.manager.provisioner.pid).children(recursive=True)
            if any(word.endswith(".py") for word in child.cmdline())
        ]


@pytest.fixture
def kernel():
    with Kernel() as kernel:
        printed, error = kernel.run("import lab")
        assert (printed, error) == ("", [])
        yield kernel


START = f"server = lab.start('../code/{LOOP}.py'); print(server.pid, server.port)"


def started(kernel):
    printed, error = kernel.run(START)
    assert not error
    pid, port = map(int, printed.split()[-2:])
    return psutil.Process(pid), ("127.0.0.1", port)


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_interrupt_leaves_the_servers_running(kernel):
    process, address = started(kernel)
    kernel.begin("print('asleep', flush=True)\nlab.until(lambda: False, 60)")
    while kernel.client.get_iopub_msg(timeout=10)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    _, error = kernel.end()
    assert "KeyboardInterrupt" in error[-1]
    assert lab.rows.is_hello(lab.get(address))
    assert not gone(process)


def test_a_killed_kernel_takes_its_servers_along(kernel):
    process, _ = started(kernel)
    psutil.Process(kernel.manager.provisioner.pid).kill()
    lab.until(lambda: gone(process), what="the server to die")


def test_a_restart_takes_the_servers_along(kernel):
    process, _ = started(kernel)
    kernel.manager.restart_kernel()
    lab.until(lambda: gone(process), what="the server to die")


def test_a_shutdown_takes_the_servers_along(kernel):
    process, _ = started(kernel)
    kernel.manager.shutdown_kernel()
    lab.until(lambda: gone(process), what="the server to die")


def test_a_server_that_can_not_start_shows_its_own_traceback(kernel):
    kernel.run("open('run/99_broken.py', 'w').write('import socket\\nsocket.bind(1)\\n')")
    began = time.monotonic()
    _, error = kernel.run("lab.start('99_broken.py')")
    kernel.run("import os; os.unlink('run/99_broken.py')")
    text = "\n".join(error)
    assert time.monotonic() - began < 10
    assert "AttributeError" in text and "socket.bind(1)" in text
    assert "server.py" not in text.replace("99_broken.py", ""), "the laboratory's own frames"


def test_run_all_twice_and_out_of_order(kernel):
    """One chapter is enough here: nbval runs every notebook, in order, each in a fresh kernel."""
    name = "01_one_request"
    assert kernel.chapter(name) == []
    cells = [c for c in notebooks.read(BOOK / f"{name}.ipynb").cells if c.cell_type == "code"]
    some = {cell.id: cell for cell in cells}
    for name_of_cell in ("one-queue", "one-asleep", "one-run"):
        assert kernel.run(some[name_of_cell].source)[1] == []
    assert kernel.chapter(name) == []
    lab.until(lambda: not kernel.servers(), what="nothing to be left over")


def test_the_same_notebook_in_two_kernels_at_once():
    errors = []

    def run_all():
        with Kernel() as kernel:
            errors.extend(kernel.chapter("01_one_request"))

    threads = [threading.Thread(target=run_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_another_working_folder_gives_a_clear_message(tmp_path):
    with Kernel(tmp_path) as kernel:
        _, error = kernel.run(f"import sys; sys.path.insert(0, {str(BOOK)!r}); import lab")
        assert "This notebook works in its own folder" in error[-1]
        assert len(error[-1].splitlines()) == 1
