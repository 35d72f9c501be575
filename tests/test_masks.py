"""The table of masks: situations are brought about in order, and told as they are."""

import socket

import pytest

import lab
from lab.masks import End, expired_timer, pipe

PAGE = "what_epoll_reports"


def they_send(ours, theirs):
    theirs.send(b"hello")


def they_close(ours, theirs):
    theirs.close()


def test_a_row_says_what_is_reported_and_what_the_calls_do():
    seen = lab.Masks()
    held = seen.row("data, and the end", they_send, they_close)
    assert held == seen["data, and the end"] == ("IN|OUT|RDHUP", "nothing", "data, b''", "done")


def test_each_act_waits_until_the_one_before_has_arrived():
    states = []

    def they_end_and_we_look(ours, theirs):
        states.append(lab.kernel.state_of(ours))

    for _ in range(20):
        lab.Masks().row("closed", they_close, they_end_and_we_look)
    assert states == 40 * ["CLOSE-WAIT"], "“brought about twice on fresh sockets”"


def test_everything_is_closed_afterwards_even_if_an_act_fails():
    files = []

    def start():
        files.extend(lab.pair())
        return files[-2:]

    def fail(ours, theirs):
        raise ZeroDivisionError

    lab.Masks().row("fine", start=start)
    with pytest.raises(ZeroDivisionError):
        lab.Masks().row("fails", fail, start=start)
    assert len(files) == 6 and {file.fileno() for file in files} == {-1}


def test_a_row_that_nobody_has_asked_for_is_not_shown():
    seen = lab.Masks()
    seen.row("idle")
    with pytest.raises(ValueError, match="no assertion has asked for"):
        seen._repr_html_()


def test_marks_of_what_is_reported_unasked_and_asked():
    seen = lab.Masks()
    seen.rows["some"] = ("IN|OUT|ERR|HUP", "ERR|HUP", "data, b''", "EPIPE")
    assert seen["some"]
    shown = seen._repr_html_()
    cells = shown[shown.index("<tbody>") :].replace("</td>", "").split("<td>")[1:]
    assert cells[0] == "some<br><small>recv: data, b''<br>send: EPIPE</small>"
    assert cells[1:7] == ["○", "○", "", "", "●", "●"]
    assert cells[7] == "data, b&#x27;&#x27;" and cells[8].startswith("EPIPE")
    head = shown[: shown.index("<tbody>")]
    places = [head.index(f">{name}<") for name in ("IN", "OUT", "PRI", "RDHUP", "HUP", "ERR")]
    assert places == sorted(places) and head.index(">recv<") < head.index(">send<")


def test_files_that_are_no_sockets_take_the_same_part():
    reader, writer = pipe()
    assert writer.send(b"hello") == 5 and reader.recv(100) == b"hello"
    reader.setblocking(False)
    assert lab.outcome(reader.recv, 100) == "EAGAIN"
    writer.close()
    writer.close()
    assert (writer.fileno(), reader.recv(100)) == (-1, b"")
    reader.close()
    (timer,) = expired_timer()
    assert isinstance(timer, End) and int.from_bytes(timer.recv(8), "little") == 1
    timer.close()


def test_what_is_not_tcp_has_nothing_on_its_way():
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(type=socket.SOCK_DGRAM) as udp:
        theirs.send(b"unread")
        udp.bind(("127.0.0.1", 0))
        udp.connect(udp.getsockname())
        udp.send(b"unread")
        assert lab.settled(ours) is ours and lab.settled(udp) is udp
        assert lab.settled(7) == 7
