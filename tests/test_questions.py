"""The page of questions: what its table, its headings and its links say is so."""

import errno
import os
import re
import socket

import pytest

import lab
from conftest import BOOK, rows
from lab import notebooks

PAGE = "questions"
SAID = [line for line in rows(PAGE, "ask-table") if ": " in line]
CELLS = list(notebooks.cells(BOOK / f"{PAGE}.ipynb"))
TABLE = next("".join(cell["source"]) for cell in CELLS if cell["id"] == "ask-table")
ROWS = re.findall(r'"(.+?)": \("(.+?)", "([\w-]+)"\)', TABLE)
ANCHORS = {line: anchor for line, _, anchor in ROWS}


def section(anchor):
    """Return the Markdown from a name to the next one, without the marks of code."""
    text = "\n".join("".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown")
    return text.partition(f"({anchor})=")[2].partition(")=\n## ")[0].replace("`", "")


def test_each_line_leads_to_a_section_that_has_it_word_for_word():
    assert list(ANCHORS) == SAID and len(SAID) == 21
    for line, anchor in ANCHORS.items():
        assert line in section(anchor) or line.partition(": ")[2] in section(anchor), line


def test_lines_that_lead_to_the_same_section_are_told_apart():
    means = {line.partition("] ")[2] or line: what for line, what, _ in ROWS}
    assert (means["File exists"], means["No such file or directory"]) == (
        "registered already",
        "not registered",
    )
    assert means["Operation not permitted"] == "epoll and a file"
    assert (means["Address already in use"], means["Cannot assign requested address"]) == (
        "the port is taken",
        "not your address",
    )
    assert means["Operation now in progress"] == "not yet connected"
    assert (means["TimeoutError: timed out"], means["Connection timed out"]) == (
        "your deadline has passed",
        "the kernel gave up",
    )


def copied(name):
    """Return what a cell of the page defines, for one who has copied it and nothing else."""
    (cell,) = (cell for cell in CELLS if cell["id"] == name)
    names = {}
    exec("".join(cell["source"]), names)
    return names


def test_what_is_there_to_be_copied_needs_nothing_else():
    connect = copied("ask-connect")["connect"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with connect(address, 5) as client, listener.accept()[0] as server:
            talk = copied("ask-exactly")
            client.setblocking(True)
            for body in (b"hello", b"", bytes(100_000)):
                talk["send_message"](server, body)
                assert talk["receive_message"](client) == body
            talk["send_message"](server, bytes(11))
            with pytest.raises(ValueError, match="a message of 11 bytes"):
                talk["receive_message"](client, most=10)
            server.shutdown(socket.SHUT_WR)
            assert talk["receive_exactly"](client, 11) == bytes(11)
            with pytest.raises(EOFError, match="after 0 of 4 bytes"):
                talk["receive_message"](client)
    with pytest.raises(ConnectionRefusedError, match=r"\[Errno 111\] Connection refused"):
        connect(address, 5)


def test_a_connect_that_fails_leaves_no_descriptor(door):
    connect = copied("ask-connect")["connect"]
    full = door(0)
    with socket.create_connection(full.getsockname()):
        before = lab.kernel.descriptors(os.getpid())
        with pytest.raises(TimeoutError):
            connect(full.getsockname(), 0.01)
        assert lab.kernel.descriptors(os.getpid()) == before


def test_the_headings_are_what_python_says():
    assert "OSError: [Errno 24] Too many open files" in SAID, (
        "“OSError: [Errno 24] Too many open files”; "
        "intro: “an exception's text, `[Errno 24]` and others”"
    )
    assert "BlockingIOError: [Errno 11] Resource temporarily unavailable" in SAID, (
        "“BlockingIOError: [Errno 11] Resource temporarily unavailable”"
    )
    assert "BrokenPipeError: [Errno 32] Broken pipe" in SAID, (
        "“BrokenPipeError: [Errno 32] Broken pipe”"
    )
    assert "ConnectionResetError: [Errno 104] Connection reset by peer" in SAID, (
        "“ConnectionResetError: [Errno 104] Connection reset by peer”"
    )
    assert "ConnectionRefusedError: [Errno 111] Connection refused" in SAID, (
        "“ConnectionRefusedError: [Errno 111] Connection refused, and Docker”"
    )
    assert "OSError: [Errno 98] Address already in use" in SAID, (
        "“OSError: [Errno 98] Address already in use”"
    )
    assert "OSError: [Errno 99] Cannot assign requested address" in SAID, (
        "“OSError: [Errno 99] Cannot assign requested address is another matter”"
    )
    assert "OSError: [Errno 107] Transport endpoint is not connected" in SAID, (
        "“OSError: [Errno 107] Transport endpoint is not connected”"
    )
    assert "OSError: [Errno 9] Bad file descriptor" in SAID, (
        "“OSError: [Errno 9] Bad file descriptor”"
    )
    assert "ValueError: file descriptor cannot be a negative integer (-1)" in SAID, (
        "“ValueError: file descriptor cannot be a negative integer (-1)”; "
        "“epoll's methods ask for the number and raise ValueError”"
    )
    assert "ValueError: Invalid file descriptor: -1" in SAID, (
        "“selectors says ValueError: Invalid file descriptor: -1”"
    )
    assert "AttributeError: module 'select' has no attribute 'epoll'" in SAID, (
        "“AttributeError: module 'select' has no attribute 'epoll'”"
    )
    assert "ValueError: filedescriptor out of range in select()" in SAID, (
        "“ValueError: filedescriptor out of range in select()”"
    )
    assert "BlockingIOError: [Errno 115] Operation now in progress" in SAID, (
        "“BlockingIOError: [Errno 115] Operation now in progress: a connect with a deadline”; "
        "“A connect that doesn't block says [Errno 115]”"
    )
    assert "TimeoutError: timed out" in SAID, "“it raises TimeoutError: timed out when”"
    assert "TimeoutError: [Errno 110] Connection timed out" in SAID, (
        "“or the kernel does: TimeoutError: [Errno 110] Connection timed out”"
    )
    assert "TypeError: a bytes-like object is required, not 'str'" in SAID, (
        "“TypeError: a bytes-like object is required, not 'str'”"
    )
    assert "OSError: [Errno 90] Message too long" in SAID, (
        "“A datagram of more than 65,507 bytes is OSError: [Errno 90] Message too long”"
    )


def test_what_one_does_not_see_any_more():
    error = OSError(errno.EINTR, os.strerror(errno.EINTR))
    assert f"{type(error).__name__}: {error}" == (
        "InterruptedError: [Errno 4] Interrupted system call"
    ), "“InterruptedError: [Errno 4] Interrupted system call”"


def test_a_loop_that_is_told_once_goes_deaf():
    waiting_while_it_sleeps, *_ = list(rows("05_edge_triggered", "five-deaf").values())[1:]
    assert waiting_while_it_sleeps == ["2", "2"], "“or, with EPOLLET, goes deaf”"


def test_epoll_reports_out_of_a_connection_that_was_refused():
    asked, *_ = rows("what_epoll_reports", "masks-connect-rows")["connecting was refused"]
    assert "OUT" in asked.split("|"), (
        "“OUT says that it is over”; “epoll reports OUT for the connection that was refused, too”"
    )


def test_after_a_one_shot_event_a_socket_is_modified():
    seen = rows("06_one_shot", "six-disarmed-table")
    assert "register: EEXIST" in seen and list(seen.values())[-1][0].startswith("IN|"), (
        "“also after EPOLLONESHOT”"
    )
