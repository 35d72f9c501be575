"""What chapter 9 says beside the words that its cells quote."""

import shutil
import socket
import subprocess
import time

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

PAGE = "09_nodelay"
CHAPTER = ROOT / "book" / f"{PAGE}.ipynb"
NINE = ROOT / "code" / f"{PAGE}.py"
TCP = socket.IPPROTO_TCP


def acknowledges(sock):
    """Return how the kernel acknowledges what comes for one of our own sockets."""
    return "at once" if sock.getsockopt(TCP, socket.TCP_QUICKACK) else "late"


def late_pair():
    """Make a connection whose other end acknowledges late."""
    ours, theirs = lab.pair()
    theirs.setsockopt(TCP, socket.TCP_QUICKACK, 0)
    return ours, theirs


def test_it_is_chapter_8s_server_with_another_option():
    eight, nine = (
        (ROOT / "code" / f"{name}.py").read_text().partition("import re\n")[2].splitlines()
        for name in ("08_cork", PAGE)
    )
    gone = [line.strip() for line in eight if line not in nine]
    come = [line.strip() for line in nine if line not in eight]
    assert [line.partition("(")[0] for line in gone if line.startswith(("def", "cork"))] == [
        "def cork",
        "cork",
        "cork",
    ], (
        "“`cork` and its two calls have gone, `send_at_once` and its one call have come; the rest "
        "is chapter 8's server”"
    )
    assert come == [
        "def send_at_once(listener):",
        '"""Switch Nagle\'s algorithm off, for all connections that will be made, tcp(7)."""',
        "listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)",
        "send_at_once(listener)",
    ]
    assert len(gone) == 5, "“The option changes when pieces leave, and nothing else”"


def test_the_option_is_set_on_the_listener_once_it_listens():
    with lab.record(NINE) as run:
        lab.until_blocked(run.server.pid, "epoll_wait")
    (call,) = run.calls("setsockopt")[1:]  # the first is SO_REUSEADDR
    assert (call.given[:2], call.state) == ([TCP, socket.TCP_NODELAY], "LISTEN"), (
        "“That takes one line, TCP_NODELAY on its listening socket”; “The option is set on the "
        "*listening* socket, which never sends a byte”; “and so does ours: a client that "
        "connects in between goes without the option”; “`serve` gets a socket that listens "
        "already”; “on a listener set it before `listen`”"
    )


def test_who_sets_it_before_listen_misses_nobody():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setsockopt(TCP, socket.TCP_NODELAY, 1)
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            option = accepted.getsockopt(TCP, socket.TCP_NODELAY)
    assert option == 1, "“Set the option before listen”; “on a listener set it before `listen`”"


def test_both_are_asleep_until_the_timer_of_the_clients_kernel_runs_out():
    delayed = lab.kernel.counter("DelayedACKs")
    ours, theirs = late_pair()
    ours.send(b"x")
    ours.send(b"y")
    with ours, theirs:
        lab.until(lambda: lab.kernel.unread(theirs) == 2)
        assert lab.kernel.counter("DelayedACKs") > delayed, (
            "“Both are asleep, each waiting for the other, until a timer in the *client's* kernel "
            "runs out”; “an acknowledgement waits, since the program may soon have something to "
            "send”"
        )


def test_pieces_leave_at_once_though_nothing_is_acknowledged():
    def piece_by_piece():
        ours, theirs = late_pair()
        ours.setsockopt(TCP, socket.TCP_NODELAY, 1)
        for number in range(1, 4):
            ours.send(b"x")
            assert lab.kernel.unread(theirs) == number
        return lab.kernel.tcp_info(ours, "unacked")

    assert lab.within(0.03, piece_by_piece) == 3, (
        "“With TCP_NODELAY each piece of an answer leaves at once, though the one before it has "
        "not been acknowledged”; “no piece waits until the one before it has been acknowledged”; "
        "“answers in pieces, and no piece waits for another”"
    )


def test_a_small_piece_waits_for_a_small_one_only():
    def one_byte_behind(whole):
        ours, theirs = late_pair()
        ours.send(b"x" * (ours.getsockopt(TCP, socket.TCP_MAXSEG) if whole else 1))
        ours.send(b"y")
        return lab.kernel.not_sent(ours)

    kept = [lab.within(0.03, one_byte_behind, whole) for whole in (False, True)]
    assert kept == [1, 0], (
        "“while something that was sent is not acknowledged yet, a small piece waits, and may "
        "grow meanwhile”; “there a small piece waits only for an earlier small one”"
    )


def test_what_makes_a_connection_interactive():
    def sends_soon():
        ours, theirs = lab.pair()
        ours.send(b"x")
        theirs.recv(1)
        before = acknowledges(theirs)
        theirs.send(b"y")
        return ours, theirs, before, acknowledges(theirs)

    ours, theirs, before, after = lab.within(0.02, sends_soon)
    assert (before, after) == ("at once", "late"), (
        "“unless it takes the connection for interactive: then the acknowledgement waits. A "
        "connection is taken for interactive when we send something less than 40 ms after we "
        "have received something”; “and here once is enough”"
    )
    ours.send(b"z")
    lab.until(lambda: acknowledges(theirs) == "at once")
    assert lab.kernel.tcp_info(ours, "unacked") == 0, (
        "“and no longer when the timer has run out in vain”"
    )

    ours, theirs = lab.pair()
    ours.send(b"x")
    theirs.recv(1)
    time.sleep(0.06)  # it thinks
    theirs.send(b"y")
    assert acknowledges(theirs) == "at once", "“think for 60 ms before each request”"


def test_what_is_read_is_acknowledged_if_the_connection_is_not_interactive():
    def reads():
        ours, theirs = lab.pair()
        unread = 0
        while lab.kernel.tcp_info(ours, "unacked") == 0 and unread < 100:
            ours.send(b"x")
            unread += 1
        before = lab.kernel.tcp_info(ours, "unacked")
        theirs.recv(1000)
        return before, lab.kernel.tcp_info(ours, "unacked")

    assert lab.within(0.03, reads) == (1, 0), (
        "“Linux acknowledges as soon as the program has read”; “A Linux program that only reads "
        "acknowledges as it reads”"
    )


def test_rounds():
    seen = rows(PAGE, "nine-quick")
    modes = [[cell.partition(",")[0] for cell in row] for row in seen.values()][1:]
    assert modes == [["at once", "at once"]] + 3 * [["late", "at once"]], (
        "“nearly each of the others”; “every round but the first is late”; “The first round is "
        "quick, and so is each round after a pause. To see the delay, send a second request at "
        "once”"
    )
    seen = rows(PAGE, "nine-controlled")
    assert seconds(seen["Nagle's algorithm"][0]) > 0.035 > seconds(seen["TCP_NODELAY"][0]), (
        "your_own_server: “nothing, but answers come 40 ms late | two small writes and a read: "
        "Nagle's algorithm”"
    )
    seen = rows(PAGE, "nine-http-seen")
    assert seen["as it is"][1] == "12", (
        "“a demonstration that opens a connection for each request shows nothing”; “with one "
        "request on a new connection, and you don't see the delay”"
    )


def test_the_far_end():
    seen = rows(PAGE, "nine-far")
    assert list(seen)[1:] == ["acknowledges late", "only reads", "echoes each"], (
        "“Here somebody sends one small thing every 5 ms”; “Thirty keys, one every 5 ms”"
    )


def test_what_the_option_leaves_as_it_was():
    (taken, unsent), (_, rest) = list(rows(PAGE, "nine-buffer").values())[1:]
    assert float(unsent.split()[1]) > float(taken.split()[1]) / 2, (
        "“The option switches off *one* reason to wait. The receiver's window stays, and `send` "
        'returns when the kernel has *taken* the bytes”; “TCP_NODELAY is neither "no '
        'buffering" nor the opposite of a cork”'
    )
    assert rest == "190 bytes", "“The congestion window stays as well”"
    seen = rows(PAGE, "nine-both")
    assert seen["the cork is pulled"] == ["14 bytes, 0 kept back"], (
        "“Both may be on”; “with TCP_NODELAY on, pulling the cork lets everything go”"
    )


def test_a_buffered_wfile():
    said = printed(PAGE, "nine-solution")
    assert "not yet" not in said and "solved: 20 kB" in said, (
        "“A buffered `wfile` is flushed once, when the handler is through with the request; what "
        "is longer than its buffer is written at once”"
    )


@pytest.mark.skipif(not shutil.which("ss"), reason="ss is not installed")
def test_what_ss_says_of_a_piece_that_waits():
    def look():
        ours, _ = late_pair()
        ours.send(b"x")
        ours.send(b"x" * 100)
        command = ["ss", "-tniH", f"sport = :{ours.getsockname()[1]}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    said = lab.within(0.035, look, tries=200)
    assert "notsent:100" in said, "“at the sender `ss -ti` says `notsent` while a piece waits”"


def test_example_6_has_no_second_piece():
    four = (ROOT / "code" / "04_level_triggered.py").read_text()
    assert four.count(".send(") == 1, (
        "“sends its answer with one `send` and closes. There is never a second piece that could "
        "wait for the first”"
    )
    blocking = "    listener.setblocking(False)\n"
    assert four.count(blocking) == 1


@pytest.mark.parametrize("option", [0, 1])
def test_the_option_changes_nothing_in_example_6(run_folder, option):
    blocking = "    listener.setblocking(False)\n"
    line = f"    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, {option})\n"
    four = ROOT / "code" / "04_level_triggered.py"
    with lab.serve(lab.edited(four, "example_6.py", {blocking: blocking + line})) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        client = lab.connect(server)
        client.socket.setsockopt(TCP, socket.TCP_QUICKACK, 0)
        client.ask()
        segments = lab.kernel.tcp_info(client.socket, "data_segs_in")
        assert segments == 1, "“and the option changes nothing”"


def test_a_socket_of_pythons():
    with socket.socket() as sock:
        assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 0, (
            "“A Python socket doesn't have TCP_NODELAY until somebody sets it”"
        )


def test_sockets_that_say_what_they_are():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert (listener.proto, accepted.proto) == (0, 0), (
                "“those that `accept` makes of a `create_server` socket don't say”"
            )


def test_a_client_may_keep_its_connection_and_leave():
    with lab.serve(NINE) as server:
        keep_and_leave(server)
        assert server.is_running(), (
            "“A client of HTTP/1.1 may send several requests at once, and keeps its connection”; "
            "“As connections last, the server sees their end: a client may leave before it asks "
            "and when it has read its answers”"
        )


def test_it_is_one_thread_and_level_triggered():
    assert masks_and_threads(NINE) == (["IN|ERR|HUP"] * 2, 1), (
        "“One thread, level-triggered epoll, answers in pieces, and no piece waits for another”"
    )


def test_one_that_sends_on_after_its_last_request_may_lose_answers():
    with lab.serve(NINE) as server, lab.connect(server) as client:
        with server.paused():
            client.send(CLOSING + KEPT)
        client.read_all()
        assert len(client.answers()) == 1, "“who sends on after the last request may lose answers”"


def test_who_ends_it():
    words = lab.matrix.stored()
    eight, nine = (
        {client: word for (client, server), word in words.items() if server == label}
        for label in ("08", "09")
    )
    assert eight == nine, "“One client's error ends this server, as it ends chapter 8's”"
    deadly = ("asks and leaves", "half a request then resets", "bytes that are not UTF-8")
    deadly += ("more clients than descriptors", "its console closed")
    assert [nine[name] for name in deadly] == ["dead"] * 5, (
        "“The server does not survive one that asks and leaves, a reset, a request that is not "
        "UTF-8, more clients than it may have descriptors, or a closed console”; “One client's "
        "error ends this server”"
    )
    assert nine["HEAD"] == "wrong", "“and answers HEAD with a body”"
    with lab.serve(NINE) as server, lab.connect(server) as client:
        post = KEPT.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 18\r\n\r\n")
        client.send(post + b"GET / HTTP/1.0\r\n\r\n")
        client.read_all()
        assert len(client.answers()) == 2, "“It takes a body for the next request”"


def test_what_a_client_has_sent_is_kept():
    with lab.serve(NINE) as server:
        lab.get(server.address)
        before = server.memory()
        with lab.connect(server) as client:
            client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 500_000)
            lab.at_rest(server, sockets=2)
        lab.at_rest(server, sockets=1)
        assert server.memory() - before > 400_000, (
            "“What a client has sent is kept until its descriptor's number is used again”"
        )


CELLS = {cell["id"]: "".join(cell["source"]) for cell in notebooks.cells(CHAPTER)}
NAMES = "import socket, statistics, threading, time\nTCP = socket.IPPROTO_TCP\nLATE = 0\n"


def checked(name, solution):
    """Run a check of the chapter's on a solution, a program; return what it says, in lines."""
    said = []
    names = {"lab": lab, "print": said.append}
    exec(NAMES, names)
    for source in (CELLS["nine-inherits"].split("\n\n\n")[0], CELLS["nine-pieces"]):
        if "def has" in source:
            exec(source, names)
        else:
            (held,) = (
                part for part in source.split("\n\n\n") if part.startswith("def acknowledge")
            )
            exec(held, names)
    exec(CELLS["nine-http"], names)
    exec(CELLS[f"nine-exercise-{name}-checker"], names)
    exec(solution, names)
    names["check_handler" if name == 1 else "check_client"](
        names["Quick"] if name == 1 else names["ask"]
    )
    return said


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("disable_nagle_algorithm = True", "not yet: a short answer (the option is set)"),
        ("protocol_version = 'HTTP/1.0'", "not yet: a short answer (12 connections)"),
        ("wbufsize = 0", "not yet: a short answer (it takes over 30 ms)"),
        ("rbufsize = 0", "not yet: a short answer (it takes over 30 ms)"),
        ("wbufsize = 8192", "not yet: 20 kB (it takes over 30 ms)"),
    ],
)
def test_the_check_of_a_handler_refuses(line, refused):
    assert refused in checked(1, f"class Quick(Keeps):\n    {line}\n")


RECEIVE = "    return sock.recv(10, socket.MSG_WAITALL)\n"


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (
            "    sock.setsockopt(TCP, socket.TCP_NODELAY, 1)\n"
            "    sock.sendall(header)\n    sock.sendall(body)\n",
            "not yet: twelve requests (an option was set)",
        ),
        (
            "    sock.setsockopt(TCP, socket.TCP_CORK, 1)\n"
            "    sock.sendall(header)\n    sock.sendall(body)\n"
            "    sock.setsockopt(TCP, socket.TCP_CORK, 0)\n",
            "not yet: twelve requests (an option was set)",
        ),
        ("    sock.sendmsg([header, body])\n", "not yet: 8 MB (TimeoutError)"),
        (
            "    sent = sock.sendmsg([header, body])\n    sock.sendall(body[sent:])\n",
            "not yet: 8 MB (TimeoutError)",
        ),
        (
            "    sock.sendall(header)\n    sock.sendall(body)\n",
            "not yet: twelve requests (it takes over 30 ms)",
        ),
        ("    sock.sendall(body + header)\n", "not yet: twelve requests (the request is another)"),
    ],
)
def test_the_check_of_a_client_refuses(body, refused):
    assert refused in checked(2, f"def ask(sock, header, body):\n{body}{RECEIVE}")


@pytest.mark.parametrize(
    "body",
    [
        "    sock.sendall(header + body)\n",
        "    sock.sendall(header, socket.MSG_MORE)\n    sock.sendall(body)\n",
    ],
)
def test_the_check_of_a_client_passes(body):
    said = checked(2, f"def ask(sock, header, body):\n{body}{RECEIVE}")
    assert said and all(line.startswith("solved:") for line in said)


def test_the_chapters_solutions_pass():
    solution = CELLS["nine-solution"].partition("check_handler")[0]
    for number in (1, 2):
        said = checked(number, solution)
        assert said and all(line.startswith("solved:") for line in said), (
            "“without the option, and let it keep its connections. It has to be quick with 20 kB”"
        )


def test_nothing_that_the_article_says_of_it_is_wrong():
    mine = [claim.verdict for claim in lab.claims().values() if claim.chapter == PAGE]
    assert mine and "wrong" not in mine, "“Nothing that is wrong; some of it wants a caveat”"
