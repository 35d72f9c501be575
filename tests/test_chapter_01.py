"""What chapter 1 says beside the words that its cells quote."""

import errno
import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import lab
from conftest import ROOT, SERVERS, printed, rows
from survive import awkward

PAGE = "01_one_request"
ONE = ROOT / "code" / f"{PAGE}.py"


@pytest.fixture
def server():
    with lab.serve(ONE) as server:
        yield server


def test_what_it_calls():
    calls = [line.split()[0] for line in printed(PAGE, "one-calls").splitlines()]
    assert calls == ["accept", "recv", "send", "close", "close"], (
        "“it waits for one client, reads what that client asks, answers, and ends”; "
        "“A blocking server that answers one request and ends”"
    )
    assert "request += connection.recv(1024)" in printed(PAGE, "one-calls"), (
        "“It holds every call on a socket, and the line of the server that made it”"
    )


def test_the_second_client(server):
    first = lab.connect(server)
    lab.at_rest(server, sockets=2)
    second = lab.connect(server)
    second.send(lab.REQUEST)
    lab.settled(second.socket)
    assert lab.kernel.find_socket(*second.ends).unread == len(lab.REQUEST), (
        "“It connected, it asked before the first one did, and its request arrived”; “A second "
        "client is more than it can serve”"
    )
    first.ask()
    second.read_all()
    assert (second.received, second.ended, server.wait()) == (b"", "reset", 0), (
        "“Then the server ended, and the kernel threw the request away and sent a reset”; “Nobody "
        "can ever accept its connection now, and the kernel says so in the only way that TCP has, "
        "with a reset”"
    )


def served_beside(talk, server):
    """Is somebody served who comes after another client?"""
    with lab.Conversation(server.address, seconds=0.3) as bystander:
        return bool(bystander.ask())


def test_one_that_says_nothing(server):
    with lab.connect(server) as talk:
        asleep = lab.until_blocked(server.pid, "recvfrom")
        served = served_beside(talk, server)
    assert asleep and not served, (
        "“One that says nothing freezes it: the server waits for that client for ever, and nobody "
        "else is served”; “a client that says nothing (it waits for ever)”"
    )


def test_one_that_leaves(server):
    with lab.connect(server) as talk:
        lab.at_rest(server, sockets=2)
        awkward.connects_and_closes(talk, server)
        share = max(lab.kernel.cpu_share(server.pid) for _ in range(3))
        served = served_beside(talk, server)
    assert share > 0.02 and not served, (
        "“One that leaves before it has asked freezes the server too, and makes it spin: the "
        "server uses all the CPU time it can get, and gets nowhere”; “one that leaves before its "
        "request is whole (it spins)”; “A client that leaves before its request is whole makes "
        'this server spin for ever, since `recv` returns `b""` at once, every time”'
    )


def test_what_ends_it():
    one = {client: word for (client, number), word in lab.matrix.stored().items() if number == "01"}
    assert one["bytes that are not UTF-8"] == "dead", (
        "“A path that is not UTF-8 ends the server”; “or a request that is not UTF-8”"
    )
    assert one["half a request then resets"] == "dead", "“a reset, or a request that is not UTF-8”"
    assert one["says nothing"] == one["connects and closes"] == "frozen", "“This listing breaks on”"
    assert one["HEAD"] == one["two pipelined requests"] == "wrong", (
        "“A HEAD should get no body, and two requests in one segment two answers; this server "
        "looks at neither”"
    )


def test_main_is_the_same_lines_everywhere():
    texts = [path.read_text(encoding="utf-8") for path in SERVERS if path.stem != "07_backlog"]
    tails = {text[text.index("\ndef main():") :] for text in texts}
    assert len(tails) == 1, "“`main` is the same lines everywhere”"


def test_a_listening_socket():
    seen = rows(PAGE, "one-passive")
    assert seen["listen(1)"] == ["LISTEN"] and seen["bind()"] == seen["socket()"], (
        "“`socket()` makes a socket that can still become anything; `bind` gives it an address. "
        "Only `listen` turns it into a listening socket”"
    )
    assert (os.strerror(errno.ENOTCONN), os.strerror(errno.EPIPE)) == (
        "Transport endpoint is not connected",
        "Broken pipe",
    ), (
        '“`recv` fails with ENOTCONN, "Transport endpoint is not connected". Nor is there anybody '
        'to write to: `send` fails with EPIPE, "Broken pipe"”'
    )
    assert seen["recv(1)"] == ["recv: ENOTCONN"], (
        "“it carries no data, but has a queue for connections”; “A listening socket has a queue "
        "and no data”; “There is nothing to read from a listening socket”"
    )


def test_where_it_sleeps_and_what_wakes_it(server):
    lab.until_blocked(server.pid, "accept4")
    proc = Path("/proc", str(server.pid))
    number = (proc / "syscall").read_text().split()[0]
    assert lab.kernel.system_call(int(number)) == "accept4", (
        "“Every process has a file that names the system call it is in”; “The two files are "
        "`/proc/PID/syscall`”"
    )
    assert (proc / "wchan").read_text() == "inet_csk_accept", (
        "“another that names the kernel function in which it fell asleep”; “The two files are "
        "`/proc/PID/syscall` and `/proc/PID/wchan`”; “`/proc` says what it is blocked in”"
    )
    assert lab.kernel.cpu_share(server.pid, 0.1) == 0, "“A blocked thread uses no CPU time”"
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0, "“the kernel wakes it when a client comes, or a signal”"


def test_the_handshake():
    seen = rows(PAGE, "one-handshake")
    assert seen["the server's end"] == ["ESTABLISHED", "18 bytes", "no"], (
        "“against a program that was not running. The kernel did the whole three-way handshake "
        "itself, because `listen` had told it to. It made the second socket, put it into the "
        "listening socket's accept queue, and took the request in for it”"
    )
    assert seen["the client's end"][0] == "ESTABLISHED", (
        '“A client that sees "connected" knows that a kernel is up and that some program once '
        'called `listen`, not that the program is still awake”; “"Connected" says nothing about '
        "the program”"
    )
    assert "readable at once: recv: b'sent before accept'" in printed(PAGE, "one-pair"), (
        "“gives it a descriptor, and what the client has sent meanwhile can be read at once”; "
        "“The kernel completes connections and takes data in before `accept` is called”; "
        "“So the connection is not `accept`'s work”"
    )
    assert printed(PAGE, "one-pair").startswith("socket and tuple"), (
        "“What `accept` hands us is a pair, a socket and the address of whoever is at the other "
        "end”"
    )


@pytest.mark.skipif(not shutil.which("ss"), reason="no ss here")
def test_the_same_three_sockets_by_ss(server):
    with server.paused(), lab.connect(server) as client:
        lab.settled(client.socket)
        listed = subprocess.run(["ss", "-tan"], capture_output=True, text=True, check=True).stdout
    # Another client may have had the server's number for its own port, and left a TIME-WAIT.
    lines = [line for line in listed.splitlines() if f":{server.port} " in line]
    lines = [line for line in lines if "LISTEN" in line or f":{client.port} " in line]
    mine = [line.split()[0] for line in lines]
    assert sorted(mine) == ["ESTAB", "ESTAB", "LISTEN"], (
        "“In a terminal `ss -tan` shows the same three sockets”"
    )


def test_a_connection_is_told_from_the_others_by_both_its_ends(server):
    with server.paused(), lab.connect(server) as one, lab.connect(server) as other:
        here = [lab.kernel.find_socket(*talk.ends) for talk in (one, other)]
    assert here[0].local == here[1].local and here[0].remote != here[1].remote, (
        "“a connection is told from the others by both its ends”"
    )


def test_recv_returns_what_is_there():
    ours, theirs = lab.pair()
    got = []
    for size in (1, 3000):
        theirs.sendall(b"x" * size)
        lab.settled(theirs)
        got.append(len(ours.recv(1024)))
    assert got == [1, 1024], (
        "“TCP delivers bytes, not messages, and `recv(1024)` returns whatever is there, from one "
        "byte to 1,024”"
    )


def test_the_line_that_ends_it(server):
    with lab.connect(server) as talk:
        awkward.bytes_that_are_not_utf8(talk, server)
    server.wait()
    assert "print(request.decode(), flush=True)" in server.errors(), (
        '“And one byte that is not UTF-8 ends the server, in the line that prints the request "to '
        'check"”'
    )
    assert server.last_words().startswith("UnicodeDecodeError"), "“one byte that is not UTF-8”"


def test_what_a_send_takes():
    seen = rows(PAGE, "one-send-all")
    assert seen["send, to a client that reads"][0] == "100%", (
        "“To a client that reads, `send` slept until the kernel had the last byte”"
    )
    assert seen["send, to one that leaves"][1] == "send: ECONNRESET", (
        "“When the client left in the middle, `send` returned what had been taken by then, and "
        "raised nothing: the exception, ECONNRESET, comes from the next call”; “So a program that "
        "ignores the number that `send` returns works until a client leaves, or until somebody "
        "adds a `settimeout`”; “`send` may take a part. `sendall` takes all or raises”; “But "
        "`send` promises only to take some of what it is given”"
    )


def test_with_a_timeout_it_takes_what_the_buffers_hold():
    ours, theirs = lab.pair()
    ours.settimeout(60)
    taken = ours.send(b"x" * 20_000_000)
    lab.until(lambda: lab.kernel.unread(theirs) + lab.kernel.queues_of(ours)[1] == taken)
    assert not os.get_blocking(ours.fileno()) and taken < 20_000_000, (
        "“With a timeout, `send` took what the buffers of both ends would hold, and came back at "
        "once. A timeout in Python makes the descriptor non-blocking underneath”"
    )


def test_the_kernel_has_it_and_the_client_has_not():
    ours, theirs = lab.pair()
    ours.sendall(b"Hello, world!")
    lab.settled(ours)
    assert lab.kernel.unread(theirs) == 13, (
        "“And neither of the two means that the client has the answer. The kernel has it”; “either "
        "way the kernel has it, not the client”"
    )


def test_who_holds_the_queue():
    seen = rows(PAGE, "one-queue")
    assert seen["one of its two holders"] == ["1 answer", "closed"], (
        "“The queue goes with the last descriptor of the listening socket. So a server can be "
        "replaced without a reset: the old process lets the new one inherit the listening socket, "
        "and then closes its own”; “When its last descriptor is closed, the clients in the queue "
        "are reset”"
    )
    assert seen["its only holder"] == ["0 answers", "reset"], (
        "“A server that just closes and is started anew resets every client in its queue, and a "
        'deployment "loses a few requests"”'
    )


def test_who_comes_in_the_instant_between():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    assert lab.tried(listener.accept) == "accept: EAGAIN"
    with lab.Conversation(listener.getsockname()) as late:
        late.send(lab.REQUEST)
        listener.close()
        late.read_all()
    assert late.ended == "reset", (
        "“Only a client that comes between the last `accept` and the `close` gets a reset”"
    )


def test_what_a_close_says():
    seen = rows(PAGE, "one-close")
    assert seen["one of its two descriptors"] == ["nothing"], (
        "“A close says nothing as long as the socket has another descriptor, and a socket that is "
        "closed with bytes unread sends a reset instead”; “As a rule, to close is to send a FIN”"
    )
    assert seen["with bytes unread"] == ["a reset"], "“with bytes unread sends a reset instead”"


def test_both_flags():
    seen = rows(PAGE, "one-warm-measured")
    refused = "EADDRINUSE"
    assert seen["the server closed first"] == [refused, refused, refused, "works"], (
        "“It has to be set on both sockets, on the old one, which left a connection behind, and on "
        "the new one. Set it only after you have been bitten, and it won't help you this time”; "
        "“`SO_REUSEADDR` belongs on every listener from the first day: it works only if the old "
        "socket had it, too”"
    )
    assert set(seen["the client closed first"] + seen["nobody came"]) == {"works"}, (
        "“In the two rows above them there is nothing in the way to begin with”; “Sometimes. It "
        "depends on who closed first”"
    )
    assert set(seen["the old one listens"]) == {refused}, (
        "“a port on which somebody listens is never given away”"
    )
    assert rows(PAGE, "one-everywhere")["0.0.0.0, then 127.0.0.1"] == ["in use", "free"], (
        "“Something of that kind is possible on Linux, too, among sockets that don't listen”"
    )


def test_a_body_that_is_left_unread(server):
    with lab.connect(server) as talk:
        awkward.a_body_left_unread(talk, server)
    assert (len(talk.answers()), talk.ended) == (1, "reset"), (
        "“the client gets its answer and a reset, since `recv(1024)` took a part and the rest was "
        "never read”"
    )


def test_how_many_claims_there_are():
    mine = [claim for claim in lab.claims().values() if claim.chapter == PAGE]
    count = Counter(claim.verdict for claim in mine)
    assert len(mine) == 19, "“The article's preface and its first example make nineteen claims”"
    assert (count["wrong"], count["caveat"]) == (2, 8), (
        "“Two are wrong. Eight hold with a caveat, and three of those”"
    )
    assert all(lab.claims()[number].place == "introduction" for number in (1, 2)), (
        "“What the article's introduction says of Python is quickly tried”"
    )


def test_the_next_server_can_be_stopped_without_a_byte():
    assert lab.matrix.stored()["says nothing", "02"] == "frozen", (
        "“The loop also gives one client the power to stop the server for all the others, without "
        "sending a byte”"
    )


def test_what_create_server_sets():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        flag = listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert flag == 1, "“`socket.create_server` sets it for you”"
