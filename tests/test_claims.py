"""The reasons of the verdicts, in whole sentences: a cell quotes as much of one as fits a line.

What the cells have printed is so: nbval holds it to what happens.
"""

import asyncio
import contextlib
import errno
import os
import re
import select
import selectors
import signal
import socket
import socketserver
import threading

import pytest

import lab
from conftest import ROOT, printed, rows


def number(cell):
    """Return the number of a measured cell, `≈ 1,023 events`."""
    return float(re.search(r"[\d.,]*\d", cell)[0].replace(",", ""))


def test_chapter_1():
    said = printed("01_one_request", "one-preface")
    assert "anon_inode:[eventpoll]" in said, (
        "claim 1, caveat: “epoll is a handful of system calls, not a library, and only Python for "
        "Linux has the API”"
    )
    assert "U+00A0" in said, (
        "claim 2, holds: “The programs are, but the page's text has no-break spaces in it. Pasted "
        "as it stands, every listing is a syntax error”"
    )
    seen = rows("01_one_request", "one-passive")
    assert (seen["bind()"], seen["listen(1)"]) == (["CLOSE"], ["LISTEN"]), (
        "claim 6, holds: “It creates a socket. Only listen, three lines further down, makes it a "
        "listening one”"
    )
    seen = rows("01_one_request", "one-handshake")
    assert seen["the server's end"] == ["ESTABLISHED", "18 bytes", "no"], (
        "claim 12, caveat: “The new socket has been there since the handshake, and may have data "
        "in it. accept takes it out of a queue”"
    )
    seen = rows("01_one_request", "one-whole")
    assert seen["GET / HTTP/1.0\\r\\n\\r\\n"][0] == seen["\\n\\n"][0] == "200 'Hello, world!'", (
        "claim 15, caveat: “True of requests without a body. But two line feeds are enough for a "
        "200 OK”"
    )
    seen = rows("01_one_request", "one-send-all")
    assert seen["send, to a client that reads"] == ["100%", "send: 1"], (
        "claim 17, caveat: “Without a timeout one send takes all of it, unless the client leaves "
        "or a signal comes in the middle; with a timeout, what fits”"
    )


def test_chapter_2():
    assert lab.matrix.stored()["says nothing", "02"] == "frozen", (
        "claim 20, caveat: “Strictly one at a time. A client that says nothing keeps all others "
        "waiting, for ever if it likes”"
    )
    seen = rows("02_request_loop", "two-finally")
    assert seen["SIGKILL"][0] == seen["SIGTERM"][0] == "does not run", (
        "claim 22, caveat: “Not on SIGTERM, which is how servers are usually stopped, nor on "
        "SIGKILL. The kernel closes it in any case”"
    )
    seen = rows("02_request_loop", "two-blocking")
    assert seen["nothing is left to come"] == ["", "recv: b''"], (
        "claim 25, caveat: “At the end of input it returns nothing, at once and every time, and "
        "this loop then spins on a core for ever”"
    )
    seen = rows("02_request_loop", "two-part")
    assert 0 < number(seen["a signal comes"][0]) < 100, (
        "claim 26, caveat: “But with a timeout, or if a signal comes or the client leaves in the "
        "middle, it returns a part”"
    )


def test_chapter_3():
    seen = rows("03_thread_per_client", "three-accept")
    assert [woken for woken, _ in list(seen.values())[1:]] == ["1", "1", "1"], (
        "claim 28, caveat: “One design of several. Workers may also accept for themselves”"
    )
    seen = rows("03_thread_per_client", "three-lock")
    assert (
        number(seen["four that compute"][0])
        < 1.2
        < number(seen["two that hash, without the lock"][0])
    ), (
        "claim 29, caveat: “Not while it is blocked. Once it computes, all threads share one "
        "interpreter lock”"
    )
    times = re.findall(
        r"against the loop: ≈ ([\d.]+)", printed("03_thread_per_client", "three-start")
    )
    assert float(times[0]) > 1.3 > float(times[1]), (
        "claim 32, caveat: “Starting one for each client does cost, about twice the CPU time of "
        "the same request in a loop; a pool saves it”"
    )
    seen = rows("03_thread_per_client", "three-connect")
    assert {says for says, *_ in list(seen.values())[1:]} == {"connect: EINPROGRESS"}, (
        "claim 35, caveat: “Or neither. A connect says EINPROGRESS whether it is done, has failed, "
        "or is still on its way”"
    )
    idle, active = (
        number(line.partition("≈")[2])
        for line in printed("03_thread_per_client", "three-one-active").splitlines()[1:3]
    )
    assert idle > 100 and active > 1, (
        "claim 42, caveat: “With mostly idle sockets, by orders of magnitude. With all of them "
        "active, poll is faster”"
    )
    assert idle > 100, (
        "claim 43, wrong: “The kernel notes events as they happen, and puts what is ready into a "
        "list. When asked, it checks that list only”"
    )


def test_chapter_4():
    seen = rows("04_level_triggered", "four-level")
    assert seen["poll again"] == seen["the client leaves"], (
        "claim 47, caveat: “In the default mode it tells what is so now, as often as it is asked”"
    )
    assert seen["a client connects"] == ["IN", ""], (
        "claim 55, caveat: “When its accept queue is not empty, which is before anybody accepts”"
    )
    bill = rows("04_level_triggered", "four-bill")
    assert bill["epoll_ctl"][0] == "4" and "(2, 2)" in printed(
        "04_level_triggered", "four-solution-check"
    ), (
        "claim 48, holds: “Every change is a system call, and example 3 makes twice as many as it "
        "needs”"
    )
    seen = rows("04_level_triggered", "four-poll-measured")
    assert (
        seen["poll(), 1,200 ready"][0] == "1,023 events" and seen["poll(0.0001)"][0] == "nothing"
    ), "claim 57, holds: “In whole milliseconds, with a limited number of events a call”"
    seen = rows("04_level_triggered", "four-stale")
    assert seen["room to send"][1].endswith("asleep in sendto"), (
        "claim 61, holds: “It has to be. On Linux it does not inherit that from the listener”"
    )


def test_chapter_5():
    level, edge = rows("04_level_triggered", "four-level"), rows("05_edge_triggered", "five-state")
    assert level["bytes come"][0] == "IN, IN" and edge["five bytes arrive"][0] == "IN|OUT", (
        "claim 83, caveat: “So it does in the other mode”"
    )
    with select.epoll() as epoll:
        ours, theirs = lab.pair()
        epoll.register(ours, select.EPOLLIN | select.EPOLLET)
        theirs.send(b"hello")
        lab.settled(ours)
        polls = [epoll.poll(0) != [] for _ in range(3)]
        assert (polls, ours.recv(100)) == ([True, False, False], b"hello"), (
            "claim 84, wrong: “It may call poll as often as it likes, and nothing is lost”"
        )
    seen = rows("05_edge_triggered", "five-deaf")
    assert seen["of these, answered then"] == ["0", "2"], (
        "claim 88, caveat: “Until it would block. Other errors mean other things, and after "
        "running out of descriptors nobody is accepted until another client arrives, if one can”"
    )
    assert printed("05_edge_triggered", "five-asyncio") == "IN|ERR|HUP IN|ERR|HUP IN|ERR|HUP", (
        "claim 94, holds: “Not only then. asyncio and libuv use it, which are new”"
    )


def test_chapters_7_and_8():
    seen = rows("07_backlog", "seven-limits")
    assert seen["listen(100_000)"] == ["net.core.somaxconn"], (
        "claim 99, caveat: “Up to net.core.somaxconn. What is asked for beyond that is cut off "
        "without a word”"
    )
    seen = rows("08_cork", "eight-example-5")
    assert seen["example 5"][0] == seen["example 3"][0] == "1", (
        "claim 108, caveat: “For answers in several pieces. Example 5 sends one piece, and there "
        "the option changes nothing”"
    )


def test_what_a_queue_must_hold_is_a_product():
    for rate, seconds in ((100, 0.2), (400, 0.05)):
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            callers, lasted = lab.crowd.keep_coming(listener.getsockname(), rate, seconds)
            inside = [caller.state() for caller in callers].count("ESTABLISHED")
        assert 0 <= inside - rate * lasted <= 1, (
            "claim 104, caveat: “What counts is the rate of arrival times the longest stall, not "
            "how many are connected”"
        )


def test_chapter_10():
    said = printed("10_peers_that_close", "ten-accident").split()
    assert said[:8] == ["recv", "0", "shutdown", "done", "recv", "0", "shutdown", "OSError"], (
        "claim 116, wrong: “The loop has no break, so it goes round again, and again; and it "
        "closes nothing”; claim 117, wrong: “The loop ends by an accident, an error of the "
        "second shutdown”; claim 119, caveat: “They need not; there is no mistake to guard "
        "against”"
    )
    seen = rows("10_peers_that_close", "ten-half")
    assert seen["the note's lines, edge"] == ["0", "3"] and seen["this chapter's"] == ["3", "0"], (
        "claim 118, wrong: “It means that no more will come. The client may have asked, closed its "
        "half, and be waiting for the answer”"
    )


def test_a_listener_carries_no_data():
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(OSError) as raised:
        listener.recv(100)
    assert raised.value.errno == errno.ENOTCONN, (
        "claim 21, holds: “It can't be; recv on it is an error”"
    )


def test_who_waits_uses_no_time():
    seen = rows("02_request_loop", "two-blocking")
    assert seen["five bytes come"] == ["recvfrom", "recv: b'hello'"], (
        "claim 23, holds: “Its thread is; blocked in recv, it uses no CPU time”"
    )


def test_servers_of_the_standard_library_take_a_thread_or_a_process():
    threads, processes = socketserver.ThreadingTCPServer, socketserver.ForkingTCPServer
    assert issubclass(threads, socketserver.ThreadingMixIn)
    assert issubclass(processes, socketserver.ForkingMixIn), (
        "claim 27, holds: “The standard library's socketserver does, with ThreadingTCPServer and "
        "ForkingTCPServer”"
    )


def test_what_blocks_goes_to_a_thread():
    async def here_and_there():
        return threading.get_ident(), await asyncio.to_thread(threading.get_ident)

    here, there = asyncio.run(here_and_there())
    assert here != there, "claim 39, holds: “asyncio.to_thread is this idea today”"


def test_python_has_three_calls():
    has = {name for name in ("select", "poll", "epoll") if hasattr(select, name)}
    above = {"SelectSelector", "PollSelector", "EpollSelector"}
    assert len(has) == 3 and above < set(vars(selectors)), (
        "claim 40, holds: “Three to this day; selectors and asyncio stand above them”"
    )
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        assert isinstance(loop._selector, selectors.EpollSelector)


def test_an_epoll_is_a_descriptor():
    with select.epoll() as epoll:
        assert not os.get_inheritable(epoll.fileno()), (
            "claim 45, holds: “It is a descriptor, and closes on exec”"
        )
    assert epoll.closed, "claim 49, holds: “A with statement does it”"


def test_an_edge_is_reported_once_and_a_level_again():
    ours, theirs = lab.pair()
    theirs.send(b"hello")
    lab.settled(ours)
    seen = {}
    for mode in (0, select.EPOLLET):
        with select.epoll() as epoll:
            epoll.register(ours, select.EPOLLIN | mode)
            seen[mode] = [len(epoll.poll(0)) for _ in range(3)]
    assert seen == {0: [1, 1, 1], select.EPOLLET: [1, 0, 0]}, (
        "claim 47, caveat: “In edge-triggered mode that is so. In the default mode it tells what "
        "is so now”; intro: “difference between level-triggered and edge-triggered? Three ways to”"
    )


def test_room_to_send_is_no_success():
    ours, _ = lab.pair()
    ours.shutdown(socket.SHUT_WR)
    with select.epoll() as epoll:
        epoll.register(ours, select.EPOLLOUT)
        ((_, event),) = epoll.poll(0)
    with pytest.raises(BrokenPipeError):
        ours.send(b"more")
    assert event & select.EPOLLOUT, (
        "claim 67, holds: “OUT says that send will not block, not that it will succeed”"
    )


def test_an_empty_mask_reports_a_reset():
    ours, theirs = lab.pair()
    with select.epoll() as epoll:
        epoll.register(ours, 0)
        lab.reset(theirs)
        ((_, event),) = epoll.poll(2)
    assert event == select.EPOLLHUP | select.EPOLLERR, (
        "claim 69, holds: “Hang-ups and errors are reported all the same”"
    )


def test_the_kernel_closes_what_a_process_had_open():
    with lab.serve(ROOT / "code" / "04_level_triggered.py") as server:
        with lab.Conversation(server.address) as talk:
            talk.send(b"GET")
            lab.until(lambda: len(server.sockets()) > 1, what="the client to be accepted")
            os.kill(server.pid, signal.SIGKILL)
            talk.read_all()
    assert talk.ended, "claim 80, holds: “By the kernel. Clients not yet accepted get a reset”"
