"""What chapter 8 says beside the words that its cells quote."""

import shutil
import socket
import subprocess

import pytest

import lab
from conftest import (
    CLOSING,
    KEPT,
    ROOT,
    keep_and_leave,
    masks_and_threads,
    printed,
    rows,
    seconds,
)
from lab import notebooks

PAGE = "08_cork"
EIGHT = ROOT / "code" / f"{PAGE}.py"
TCP = socket.IPPROTO_TCP


def test_the_six_ways():
    seen = rows(PAGE, "eight-when")
    assert seen["send, MSG_MORE"][:2] == ["3", "1"] and seen["TCP_CORK"][:2] == ["5", "1"], (
        "“small pieces stay in until the cork is pulled”; “`MSG_MORE` and the cork are for "
        "pieces that don't exist yet, or can't be given to one call”"
    )
    assert seen["sendmsg"][:2] == ["1", "1"], (
        "“hands over several buffers, copies none of them in Python, and leaves no option to "
        "forget”; “Several buffers are one call”"
    )
    assert seen["cork forgotten"][:2] == ["4", "1"], "“The answer still comes”"
    seen = rows(PAGE, "eight-run")
    assert seen["corked"] == ["4", "12", "2", "1"], (
        "“This server takes several requests at once, over a connection that it keeps, and sends "
        "all that it has for a client as one segment. For that it corks the socket”; “The socket "
        "is corked before the first piece that it is to get, and the cork is pulled after the "
        "last”"
    )
    seen = rows(PAGE, "eight-example-5")
    assert seen["example 5"][0] == seen["example 3"][0] == "1", (
        "“corked or not: there is nothing to keep together”; “One small `send` is one segment. A "
        "cork is for several”"
    )
    assert seen["example 5"][1].endswith("setsockopt, shutdown, close"), (
        "“one corks the socket when the request is complete, the other pulls the cork when the "
        "answer is out. The answer is one bytes object”; “and the last of them isn't even needed”"
    )


def test_a_client_may_keep_its_connection_and_leave():
    with lab.serve(EIGHT) as server:
        keep_and_leave(server)
        assert server.is_running(), (
            "“it answers HTTP/1.1, and a client may send its next requests without waiting for "
            "an answer, which is called pipelining”; “A client of HTTP/1.1 may send several "
            "requests at once, and keeps its connection”; “As connections last, it sees their "
            "end: a client may leave before it asks and when it has read its answers”; “If a "
            "server keeps its connections, the clients leave it in the end; so this one looks "
            'for `b""`”'
        )


def test_it_is_one_thread_and_level_triggered():
    assert masks_and_threads(EIGHT) == (["IN|ERR|HUP"] * 2, 1), (
        "“One thread, level-triggered epoll, answers in pieces, which a cork keeps together”"
    )


def test_the_articles_servers_close_first():
    with lab.serve(ROOT / "code" / "04_level_triggered.py") as server:
        client = lab.connect(server)
        client.ask()
        assert client.ended == "closed", "“the article, whose servers always close first”"


def test_one_that_sends_on_after_its_last_request_may_lose_answers():
    with lab.serve(EIGHT) as server, lab.connect(server) as client:
        with server.paused():
            client.send(CLOSING + KEPT)
        client.read_all()
        assert len(client.answers()) == 1, "“who sends on after the last request may lose answers”"


def test_who_ends_it():
    words = lab.matrix.stored()
    mine = {client: word for (client, server), word in words.items() if server == "08"}
    deadly = ("asks and leaves", "half a request then resets", "bytes that are not UTF-8")
    deadly += ("more clients than descriptors", "its console closed")
    assert [mine[name] for name in deadly] == ["dead"] * 5, (
        "“The server does not survive one that asks and leaves, a reset, a request that is not "
        "UTF-8, more clients than it may have descriptors, or a closed console”; “One client's "
        "error ends this server”; “It dies of what kills chapter 4's server”"
    )
    assert mine["HEAD"] == "wrong", "“and answers HEAD with a body”"
    assert mine["two pipelined requests"] == "ok", (
        "“This server takes several requests at once, and a client that leaves before”; defect "
        "22: “Of two requests in one piece the second is never answered”"
    )
    with lab.serve(EIGHT) as server, lab.connect(server) as client:
        post = KEPT.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 18\r\n\r\n")
        client.send(post + b"GET / HTTP/1.0\r\n\r\n")
        client.read_all()
        assert len(client.answers()) == 2, "“It takes a body for the next request”"


def test_what_a_client_has_sent_is_kept():
    with lab.serve(EIGHT) as server:
        lab.get(server.address)
        before = server.memory()
        with lab.connect(server) as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n" + b"x" * 1000)
            client.read_all()
        with lab.connect(server) as client:
            client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 500_000)
            lab.at_rest(server, sockets=2)
        lab.at_rest(server, sockets=1)
        assert server.memory() - before > 400_000, (
            "“What a client has sent is kept until its descriptor's number is used again”"
        )


def test_what_pulls_a_cork():
    seen = rows(PAGE, "eight-pulls")
    assert seconds(seen["nothing"][0]) > 0.17, (
        "“The kernel doesn't trust us to pull the cork”; defect 41: “the second is skipped, the "
        "answer is 200 ms late”; “Forget to pull it, and every answer is 200 ms late”"
    )
    assert (
        max(seconds(seen[name][0]) for name in seen if name[:3] in ("TCP", "shu", "clo")) < 0.15
    ), (
        "“A cork is pulled by hand, by TCP_NODELAY, `shutdown` or `close`”; “and a server that "
        "closes the connection, as the article's always does, hides even that”"
    )
    seen = rows(PAGE, "eight-timer") | rows(PAGE, "eight-whole")
    assert seconds(seen["with MSG_MORE"][0]) > 0.17, "“they are a floor”"
    assert (
        seconds(seen["in a cork, after TCP_NODELAY"][0])
        > 0.17
        > seconds(seen["two whole segments"][0])
    ), (
        "“TCP_NODELAY lets out what is there, and leaves the cork in. And a cork holds only what "
        "is less than a segment”; “Whole segments pass the cork, and the rest waits”; “whole "
        "segments pass it”; claim 106, caveat: “Whole segments are not kept back at all”"
    )


@pytest.mark.skipif(not shutil.which("ss"), reason="ss is not installed")
def test_what_ss_says_of_a_cork():
    ours, theirs = lab.pair()
    with ours, theirs:
        ours.setsockopt(TCP, socket.TCP_CORK, 1)
        ours.send(b"x" * 100)
        port = ours.getsockname()[1]
        command = ["ss", "-tniH", f"sport = :{port}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "notsent:100" in said, "“While they last, ss -tni calls the bytes notsent”"


def test_a_segment_on_loopback_is_as_long_as_a_packet():
    ours, theirs = lab.pair()
    with ours, theirs:
        longest = ours.getsockopt(TCP, socket.TCP_MAXSEG)
    assert longest > 20_000, "“On loopback one segment holds it all”"


def check(answer):
    """Run the check of exercise 2 on an answer(); return what it says."""
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebooks.cells(CHAPTER)}
    said = []
    names = {"lab": lab, "print": said.append}
    exec(cells["eight-exercise-2-checker"], names)
    names["check_keeps_nothing"](answer)
    return said


CHAPTER = ROOT / "book" / f"{PAGE}.ipynb"
CORK = (TCP, socket.TCP_CORK)


def uncorked(connection, header, body):
    connection.send(header())
    connection.send(body())


def swallows(connection, header, body):
    connection.setsockopt(*CORK, 1)
    try:
        connection.send(header())
        connection.send(body())
    except RuntimeError:
        pass
    finally:
        connection.setsockopt(*CORK, 0)


def pulled_by_the_header_only(connection, header, body):
    connection.setsockopt(*CORK, 1)
    try:
        connection.send(header())
    except RuntimeError:
        connection.setsockopt(*CORK, 0)
        raise
    connection.send(body())
    connection.setsockopt(*CORK, 0)


def more(connection, header, body):
    connection.send(header(), socket.MSG_MORE)
    connection.send(body())


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (uncorked, "not yet: all is well (2 segments)"),
        (swallows, "not yet: the body fails (the error is lost)"),
        (pulled_by_the_header_only, "not yet: the body fails (1 bytes are kept back)"),
        (more, "not yet: the body fails (1 bytes are kept back)"),
    ],
)
def test_the_check_refuses(answer, refused):
    assert refused in check(answer)


def test_the_check_passes_one_call():
    def gathered(connection, header, body):
        connection.sendmsg([header(), body()])

    said = check(gathered)
    assert said and all(line.startswith("solved:") for line in said)


def test_the_server_sleeps_while_its_answers_are_held():
    said = printed(PAGE, "eight-solution-check")
    assert "not yet" not in said and "solved: one call" in said, (
        "“let `write` send all the pieces there are with one `sendmsg`”"
    )


def test_nothing_that_the_article_says_of_it_is_wrong():
    mine = [claim.verdict for claim in lab.claims().values() if claim.chapter == PAGE]
    assert mine and "wrong" not in mine, "“Nothing that is wrong”"
