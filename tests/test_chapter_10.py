"""What chapter 10 says beside the words that its cells quote."""

import contextlib
import fcntl
import io
import os
import re
import resource
import select
import socket
import struct
import subprocess
import sys
import time

import pytest

import lab
from conftest import CLOSING, KEPT, ROOT, printed, read_answers, rows
from lab import notebooks
from survive import awkward

PAGE = "10_peers_that_close"
TEN = ROOT / "code" / f"{PAGE}.py"
TCP = socket.IPPROTO_TCP


def test_the_opening():
    said = printed(PAGE, "ten-opening-seen").splitlines()
    assert said[0] == "chapter 4's answers: half-closes, posts 4 kB", (
        "“Chapter 4's dies of the third of these four, and a slow client, who has done nothing "
        "wrong”; “Chapter 4's server: the third goodbye is the end”; “one half-closes, one posts "
        "a body; the third leaves, and ends it”"
    )
    assert said[1] == "this chapter's answers: slow, half-closes, posts 4 kB", (
        "“Clients may leave this server as they like”; “This chapter's server: four goodbyes, "
        "and it sleeps”; “a fourth that resets, and the slow one is answered in the end”"
    )


def all_that_is_known(sock):
    """Return what calls and events say of a socket, without sending anything."""
    sock.setblocking(False)
    options = [(socket.SOL_SOCKET, socket.SO_ERROR), (TCP, socket.TCP_INFO)]
    state = sock.getsockopt(*options[1], 1)
    masks = lab.reported(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP)
    waiting = fcntl.ioctl(sock, 0x541B, struct.pack("i", 0))  # FIONREAD
    peer = sock.getpeername()[0]
    calls = lab.tried(sock.recv, 100), lab.tried(sock.recv, 100, socket.MSG_PEEK)
    return sock.getsockopt(*options[0]), state, masks, waiting, peer, calls


def test_the_five_ways():
    seen = rows(PAGE, "ten-ends")
    assert len(seen) - 1 == 5, (
        "intro: “or only half-closed? Five ways to end”; “Five ways to end”; “A peer ends a "
        "connection in one of five ways”"
    )
    assert seen["close"][:2] == seen["SHUT_WR"][:2] == ["IN|RDHUP", "b''"], (
        "“The other three begin with the same FIN and look the same”; “An empty `recv` is the "
        "peer's FIN, once and for all. It doesn't say that nobody listens: answer, and see whether "
        "a reset comes back”; claim 114, holds: “And EPOLLRDHUP, if asked for”"
    )
    assert seen["SHUT_RDWR"] == seen["close"] and seen["close"][2] == "1, EPIPE", (
        "“To the other side `SHUT_RDWR` is the `close` of a peer that has read all”; "
        "“Of the end of reading nothing is on the wire at first; but a byte that comes all the "
        "same is answered with a reset”; “The first and the fourth reset then, and how much of "
        "the answer was read, the server doesn't learn”"
    )
    assert seen["close, unread"][1:] == ["ECONNRESET", "EPIPE, EPIPE"], (
        "“In the second row the peer has not read all; `linger 0` is SO_LINGER with no time to "
        "linger”; “the connection is gone, and what we send is lost”; “Unread input turns "
        "`close` into a reset, which destroys the answer”; claim 115, caveat: “But recv raises "
        "ECONNRESET if the other side has left something unread itself”"
    )


def test_nothing_tells_who_has_left_from_who_listens():
    left, listens = lab.pair(), lab.pair()
    left[1].close()
    listens[1].shutdown(socket.SHUT_WR)
    assert all_that_is_known(left[0]) == all_that_is_known(listens[0]), (
        "“At that moment no call and no event tells a client that has left from one that has "
        "said all and still listens. So a server has to answer as if somebody listened”"
    )


def test_of_one_that_has_vanished_nothing_is_known():
    gone, silent = lab.pair(), lab.pair()
    lab.clients.vanish(gone[1])
    assert all_that_is_known(gone[0]) == all_that_is_known(silent[0]), (
        "“Nothing is known of a client that has vanished, so it counts as there”; “nothing comes "
        "at all”"
    )


def test_SO_LINGER_knows_nothing_of_unread_input():
    ours, theirs = lab.pair()
    theirs.send(b"unread")
    lab.settled(ours).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    ours.send(b"answer")
    ours.close()
    assert lab.told(theirs) == "a reset", (
        "“SO_LINGER is something else: it lets close wait until what was sent is acknowledged”"
    )


def test_what_was_unread_comes_first():
    ours, theirs = lab.pair()
    theirs.send(b"hello")
    theirs.close()
    lab.settled(ours)
    assert [ours.recv(100), ours.recv(100)] == [b"hello", b""], (
        "claim 115, caveat: “After what was still unread”"
    )


@pytest.mark.parametrize(("unread", "told"), [(b"", "a FIN"), (b"unread", "a reset")])
def test_the_kernel_closes_for_a_process_that_is_killed(unread, told):
    ours, theirs = lab.pair()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[theirs.fileno()]) as holder:
        ours.send(unread)
        lab.settled(ours)
        theirs.close()
        holder.kill()
        holder.wait()
    assert lab.told(ours) == told, (
        "“When a process ends, the kernel closes for it: the first row, or the second”"
    )


def test_what_the_kernel_finds_out():
    seen = rows(PAGE, "ten-finds-seen")
    closed, half = seen["closed"], seen["half-closed"]
    assert (closed[0], half[0]) == ("ERR|HUP", "nothing"), (
        "“So keepalive does tell a client that has left from one that listens, only later”; "
        "“SO_KEEPALIVE has it probe a silent peer, whose kernel must acknowledge an empty "
        "segment”; “and answers the next probe with a reset; one that listens goes on "
        "acknowledging”"
    )
    assert seen["vanished"][2] == "ETIMEDOUT", (
        "“A client that has vanished acknowledges no probe. The end of its connection is an "
        "error, ETIMEDOUT”; “A client that vanishes says nothing: SO_KEEPALIVE finds a silent "
        "one, TCP_USER_TIMEOUT one that owes an acknowledgement”"
    )
    assert seen["vanished, and we sent"][0] == "nothing", (
        "“While a byte is unacknowledged nothing is probed”; “nothing comes at all”"
    )
    assert seen["the same, user timeout"][2] == "ETIMEDOUT", (
        "“TCP_USER_TIMEOUT says how long sent bytes may wait for their acknowledgement”"
    )
    assert seen["reads nothing, user timeout"][2] == "ETIMEDOUT", (
        "“TCP_USER_TIMEOUT bounds that, and ends the connection of a peer that acknowledges all "
        "and leaves no room”"
    )


def test_its_listener_has_the_options_and_its_connections_inherit_them():
    with lab.record(TEN) as run:
        lab.at_rest(run.server)
        client = run.connect("client")
        lab.at_rest(run.server, sockets=2)
        timer = lab.kernel.find_socket(*client.ends).timer
    given = [call.given for call in run.calls("setsockopt")]
    mine = [call.given for call in run.of("client", "setsockopt")]
    assert timer == "keepalive" and [socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1] not in mine, (
        "“This chapter's server sets both options on its listener, and each connection inherits "
        "them”; “This chapter's server sets both options on its listener, and each connection "
        "inherits them”"
    )
    idle, every = [TCP, socket.TCP_KEEPIDLE, 30], [TCP, socket.TCP_KEEPINTVL, 10]
    assert all(each in given for each in (idle, every, [TCP, socket.TCP_USER_TIMEOUT, 60_000])), (
        "“A client that has vanished is given up after a minute”"
    )


def test_hup():
    seen = rows(PAGE, "ten-hup")
    assert seen["the client: close"] == ["RDHUP"] and seen["we: SHUT_WR"] == ["nothing"]
    assert seen["the client closes"] == ["HUP|RDHUP"], (
        "“HUP takes two”; “`HUP` says that both directions are shut. A client that closes shuts "
        "its own”; “`HUP`: both halves are shut. A close shuts one; the other is yours. `RDHUP`: "
        "a FIN or a reset has come”; “HUP comes when the client's FIN does, and if the client "
        "stays, not at all. So SHUT_WR needs a deadline”; “In the last two rows we shut down "
        "first, with SHUT_WR alone”"
    )
    assert seen["close, and we send"] == ["ERR|HUP|RDHUP"], (
        "“So a server that waits for `EPOLLHUP` to learn that a client has closed waits until it "
        "closes itself, or until it sends to nobody”"
    )
    assert seen["the client: SHUT_WR"] == ["RDHUP"], (
        "“`EPOLLRDHUP` comes with the FIN, before anything is read”; “a server that cancels the "
        "query on RDHUP cancels it for half-closed clients too”"
    )


def test_after_SHUT_RDWR_there_is_nothing_to_drain():
    ours, theirs = lab.pair()
    ours.shutdown(socket.SHUT_RDWR)
    assert ours.recv(100) == b"" and lab.told(theirs) == "a FIN"
    theirs.send(b"more")
    assert lab.told(theirs) == "a reset", (
        "“SHUT_RDWR is no better: there is nothing to drain after it, as recv ends at once, and "
        "the client's next byte is answered with a reset”; “or shut both halves down, and only "
        "the beginning of the answer arrives, then a reset”"
    )


def test_the_farewells():
    (cell,) = (c for c in notebooks.cells(CHAPTER) if c["id"] == "ten-linger")
    names = {"lab": lab, "socket": socket}
    exec("".join(cell["source"]), names)
    got = {way: names["arrived"][way] for way in names["FAREWELLS"]}
    assert len(got) == 4, "“Then the server ends the connection, in four ways”"
    assert 0 < got["close"][0] < 300_000 and got["close"][1], (
        "“A `close` with unread input sends a reset in place of a FIN”; “And the reset doesn't "
        "queue behind the answer: what is still in the send buffer is thrown away. On Linux the "
        "client can read what has arrived”"
    )
    assert lab.matrix.stored()["a body left unread", "04"] == "ok", (
        "“The article's answer is so short that it usually arrives before the reset. That is luck”"
    )
    assert [way for way, (size, _) in got.items() if size == 300_000] == ["SHUT_WR, drain"], (
        "“Shut down writing, and read what is still coming before the close, and all of the 300 "
        "kB arrive”; “`SHUT_WR`, read to the end with a deadline, close”; “It sends 300 kB to a "
        "client that is slow to read, and that sends a few bytes more meanwhile”"
    )


def test_posts():
    seen = rows(PAGE, "ten-post")
    assert seen["chapter 4, 16 MB at once"] == ["an exception"], (
        "“The answer is lost if a client sends all before it reads, as Python's http.client "
        'does”; “So a server that answers "413, too large" and closes isn\'t understood by '
        "clients of this kind”"
    )
    assert seen["this chapter, 2 MB in 2 s"] == ["an exception"], (
        "“This needs a deadline, since a client may send for ever: the last row is cut off after "
        "our second”"
    )


def test_its_docstring():
    with lab.serve(TEN) as server, lab.connect(server) as client:
        lab.at_rest(server, sockets=2)
        assert lab.kernel.watched(server.pid) == ["IN|ERR|HUP"] * 2, (
            "“One thread, level-triggered epoll: a client's end harms no other”"
        )
        client.send(KEPT)
        read_answers(client, 1)
        client.send(CLOSING)
        client.read_all()
        began = time.monotonic()
        assert lab.told(client.socket) == "a FIN"
        client.send(b"thrown away")
        lab.at_rest(server, sockets=1)
        assert 0.5 < time.monotonic() - began < 3, (
            "“Connections last as HTTP/1.1 has it; after the last answer comes a FIN, and what "
            "the client still sends is thrown away until its FIN comes, or a second is over”; "
            "“After the last answer write calls SHUT_WR, and what the client still sends is read "
            "and thrown away. The deadlines need no heap: everybody gets one second”"
        )


def test_a_console_that_waits_to_be_read_stops_all():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with open(reader, "rb", buffering=0) as console, open(writer, "wb", buffering=0) as end:
        process = subprocess.Popen([sys.executable, str(TEN), "0"], stdout=end)
        try:
            port = int(console.read(1000).decode().rpartition(":")[2])
            with lab.Conversation(("127.0.0.1", port)) as talk:
                talk.send(KEPT * 300)
                assert lab.until_blocked(process.pid, "write"), (
                    "“a console that is full, and waits to be read, stops all”"
                )
        finally:
            process.kill()
            process.wait()


def test_what_the_server_does():
    seen = rows(PAGE, "ten-http")
    assert seen["Content-Length"][0] == "200" and seen["chunked"][0] == "411", (
        "“Of HTTP it knows little: a body is not read, and the answer to its request is the last "
        "one. A body in chunks, whose length nobody has told, is refused”"
    )
    assert "get it: True\ndescriptors kept: 0 - it sleeps: True" in printed(PAGE, "ten-storm"), (
        "“At each event, be it IN, HUP or ERR, the server does what comes next for this client, "
        "write if something is unsent, else read, and the call tells what has happened”"
    )
    with lab.serve(TEN) as server, lab.connect(server) as client:
        with server.paused():
            client.send(KEPT)
            client.half_close()
        client.read_all()
        assert len(client.answers()) == 1, "“Whoever asks is answered, half-closed or not”"


def test_what_is_scarce():
    source = TEN.read_text(encoding="utf-8")
    (scarce,) = re.findall(r"SCARCE = \{(.*)\}", source)
    seen = rows(PAGE, "ten-unlucky")
    assert scarce.count("errno.") == 4 and seen["EMFILE"][0] not in ("", *seen["EPERM"]), (
        "“For these four errors alone the server takes the listener's events away, until somebody "
        "leaves or for a second”"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN)
        with socket.create_connection(listener.getsockname()):
            often = [lab.names(epoll.poll(5)) for _ in range(100)]
    assert often == ["IN"] * 100, (
        "“the newcomer stays in the queue, and level-triggered epoll would report the listener "
        "for ever”"
    )


def test_a_stale_event_hits_the_newcomer():
    listener, epoll = socket.create_server(("127.0.0.1", 0)), select.epoll()
    inside, clients = {}, []
    for _ in range(2):
        clients.append(socket.create_connection(listener.getsockname()))
        accepted, _ = listener.accept()
        epoll.register(accepted, select.EPOLLIN)
        inside[accepted.fileno()] = accepted
    one, two = inside
    clients[0].send(b"hello")
    lab.settled(inside[one])
    lab.reset(clients[1])
    lab.settled(inside[two])
    batch = dict(epoll.poll(0))
    assert len(batch) == 2 and batch[two] & select.EPOLLHUP, "“Two clients have sent something”"
    newcomer = socket.create_connection(listener.getsockname())
    inside.pop(two).close()
    accepted, _ = listener.accept()
    inside[accepted.fileno()] = accepted  # under the number two
    inside.pop(two).close()  # what the second event is taken for
    assert accepted.fileno() == -1 and two > one, (
        "“Descriptors are numbers, and the kernel gives out the lowest one that is free”"
    )
    assert lab.told(newcomer) == "a FIN", "“if the event says HUP, it closes the wrong client”"
    epoll.close()


def as_in_chapter(name, lines, own):
    """Return serve of one of the note's servers, with the chapter's own lines for the note's."""
    text = notebooks.program(PAGE, name)
    serve = re.search(r"def serve\(.*?(?=\n\n\nchapter)", text, re.DOTALL)[0]
    assert serve.count(lines) == 1
    return serve.replace(lines, own).replace("EDGE", "select.EPOLLET").replace("chapter.", "")


def test_the_note_s_servers_are_the_chapters_with_its_lines():
    def serve(name):
        text = (ROOT / "code" / name).read_text(encoding="utf-8")
        text = text.replace("  # each by descriptor", "")
        return re.search(r"def serve\(.*?(?=\n\n\ndef main)", text, re.DOTALL)[0]

    lines = """\
                data = connections[fd].recv(1024)
                if not data:
                    epoll.modify(fd, EDGE)
                    connections[fd].shutdown(socket.SHUT_RDWR)
                else:
                    requests[fd] += data
"""
    own = "                requests[fd] += connections[fd].recv(1024)\n"
    assert as_in_chapter("10_rewrite_edge.py", lines, own) == serve("05_edge_triggered.py"), (
        "“Chapter 5's server, edge-triggered, with the translator's lines”; “With his lines, the "
        "loop in chapter 5's read is this”"
    )
    lines = re.sub("^ {8}", "", lines, flags=re.MULTILINE).replace("EDGE", "0")
    own = own.removeprefix("        ")
    level = as_in_chapter("10_rewrite_level.py", lines, own)
    assert level == serve("04_level_triggered.py"), (
        "“Chapter 4's server, level-triggered, with the translator's lines”; “And here is "
        "chapter 4's level-triggered server with the same lines. They stand in one branch there, "
        "without a loop”"
    )


def test_the_note():
    words = lab.matrix.stored()
    assert words["connects and closes", "05"] == "frozen", (
        "“He had seen the spin of the edge-triggered server”"
    )
    assert words["connects and closes", "05′"] == "ok", "“The lines do mend the spin”"
    said = printed(PAGE, "ten-accident").split()
    assert said[:6] == ["recv", "0", "shutdown", "done", "recv", "0"], (
        "“Look at the third line. The loop has no `break`: after the `shutdown` it calls `recv` "
        "again, gets nothing again, and calls `shutdown` again; and that raises, `ENOTCONN`”"
    )
    seen = rows(PAGE, "ten-vanish")
    assert seen["the note's lines, edge"] == ["0", "spins"], (
        "“So it ends by an accident, which depends on the client's kernel: it has to acknowledge "
        "the server's FIN before the loop comes round. On loopback it does”; “its FIN has come "
        "through, and what the server sends from then on does not”"
    )
    seen = rows(PAGE, "ten-half")
    assert seen["the note's lines, edge"] == ["0", "3"], (
        "“The edge-triggered form reads to the end of input first, and shuts the connection down "
        "before it has looked whether anything was asked. Then it asks for `OUT`, can't send, and "
        "never closes: three clients, three descriptors”"
    )
    assert seen["the note's lines, level"] == ["3", "0"], (
        "“The level-triggered form answers them, but by luck: it stops reading at the empty line, "
        "and never gets to see the end”"
    )


def test_while_its_fin_is_not_acknowledged_the_note_s_server_does_nothing_else(tmp_path):
    path = tmp_path / "edge.py"
    text = notebooks.program(PAGE, "10_rewrite_edge.py")
    path.write_text(text.replace('"../code"', repr(str(ROOT / "code"))), encoding="utf-8")
    with lab.record(path, most_calls=300) as run:
        client = run.connect("client")
        lab.at_rest(run.server, sockets=2)
        awkward.half_closes_and_vanishes(client, run.server)
        lab.until(run.is_full)
    last = [call.name for call in run.calls()][-100:]
    assert {*last} == {"recv", "modify", "shutdown"}, (
        "“any client is some milliseconds away, and for that long, whenever one leaves, the "
        "server only calls recv, modify and shutdown”"
    )


def test_the_note_s_claims():
    mine = [claim for claim in lab.claims().values() if claim.chapter == PAGE]
    assert (len(mine), [each.verdict for each in mine].count("wrong")) == (6, 3), (
        "“Of the note's six claims three are wrong”"
    )


def test_only_who_has_shut_its_own_reading_sees_more_after_an_end():
    ours, theirs = lab.pair()
    ours.shutdown(socket.SHUT_RD)
    first = ours.recv(100)
    theirs.send(b"more")
    lab.settled(theirs)
    assert (first, ours.recv(100)) == (b"", b"more"), (
        "“Only a socket that we have shut down for reading ourselves may see data after it”"
    )


OK = ("ok", "ends", "n/a")
STAY = {  # no client of these rows leaves before the server has failed
    "a header without end",
    "silent at the descriptor limit",
    "drips a header",
    "its console full and not read",
    "SIGTERM while clients wait in the queue",
    "SIGTERM while a request is half read",
    "SIGTERM while an answer is half read",
}


def test_the_matrix():
    stored = lab.matrix.stored()
    red = {row for (row, server), word in stored.items() if server == "10" and word not in OK}
    assert red <= STAY, "“this server stands every client that leaves”"
    assert "silent at the descriptor limit" in red, (
        "“But clients who stay, by the hundred, leave it no descriptor”"
    )


# The exercises

CHAPTER = ROOT / "book" / f"{PAGE}.ipynb"


def check(number, answer):
    """Run the check of an exercise on an answer; return the lines that it prints."""
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebooks.cells(CHAPTER)}
    names = {"lab": lab, "socket": socket, "time": time}
    for each in range(1, number + 1):
        exec(cells[f"ten-exercise-{each}-checker"], names)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        names[("check_state", "check_close_gently")[number - 1]](answer)
    return said.getvalue().splitlines()


def by_reading(sock):
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        try:
            return "there" if sock.recv(1) else "says no more"
        except ConnectionError:
            return "gone"
    return "there"


def by_peeking(sock):
    try:
        found = sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return "there"
    except ConnectionError:
        return "gone"
    return "there" if found else "says no more"


def by_rdhup_alone(sock):
    with select.epoll() as epoll:
        epoll.register(sock, select.EPOLLRDHUP)
        return "gone" if epoll.poll(0) else "there"


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (by_reading, "not yet: stays (something was taken)"),
        (by_peeking, "not yet: half-closes (there)"),
        (by_rdhup_alone, "not yet: closes (gone)"),
    ],
)
def test_what_is_no_answer_to_the_first(answer, refused):
    assert refused in check(1, answer)


def shuts(sock, seconds):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    sock.close()


def lingers(sock, seconds):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, int(seconds) or 1))
    sock.close()


def drains(sock, seconds, how=socket.SHUT_WR, caught=OSError):
    with sock, contextlib.suppress(caught):
        sock.shutdown(how)
        sock.settimeout(seconds)
        while sock.recv(65536):
            pass


def shuts_both(sock, seconds):
    drains(sock, seconds, socket.SHUT_RDWR)


def catches_no_deadline(sock, seconds):
    drains(sock, seconds, caught=ConnectionError)


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (shuts, "not yet: has more to send (its answer has no proper end)"),
        (lingers, "not yet: has more to send (its answer has no proper end)"),
        (shuts_both, "not yet: has more to send (its answer has no proper end)"),
        (drains, "not yet: sends on (over 2 s)"),
        (catches_no_deadline, "not yet: is silent (close_gently: ETIMEDOUT)"),
    ],
)
def test_what_is_no_answer_to_the_second(answer, refused):
    def close_gently(sock, seconds):
        answer(sock, seconds)

    assert refused in check(2, close_gently)


def test_the_solutions():
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebooks.cells(CHAPTER)}
    own = {"lab": lab, "socket": socket, "time": time, "select": select}
    exec(cells["ten-solution"], own)
    said = check(1, own["state"]) + check(2, own["close_gently"])
    assert len(said) == 2 and all(line.startswith("solved:") for line in said), (
        "“RDHUP tells of the end of input without reading up to it, and one deadline holds for "
        "the whole farewell, not for each recv”"
    )


def test_those_who_stay_fill_it(run_folder):
    path = lab.variant(TEN, "patient.py", PATIENCE=60)
    with lab.serve(path) as server:
        lab.at_rest(server)
        server.limit(resource.RLIMIT_NOFILE, server.descriptors() + 2)
        staying = [lab.connect(server) for _ in range(2)]
        lab.at_rest(server, sockets=3)
        newcomer = lab.Conversation(server.address, seconds=0.5)
        newcomer.ask()
        assert newcomer.answers() == [], (
            "“But clients who stay, by the hundred, leave it no descriptor”; “This server can't "
            "get rid of a client that stays and says nothing: that needs deadlines”; “a silent "
            "client that is there holds its descriptor for ever”; “Out of descriptors, the "
            "server accepts nobody until one is free”"
        )
        staying[0].close()
        newcomer.seconds = 5
        newcomer.read_all()
        assert len(newcomer.answers()) == 1, (
            "“Out of descriptors, the server accepts nobody until one is free”"
        )
        staying[1].close()
        newcomer.close()


def test_a_batch_names_no_descriptor_twice():
    ours, theirs = lab.pair()
    theirs.send(b"hello")
    lab.settled(ours)
    with select.epoll() as epoll:
        epoll.register(ours, select.EPOLLIN | select.EPOLLOUT)
        assert lab.names(epoll.poll(0)) == "IN|OUT", "“and a batch names none twice”"


def test_a_thousand_reads():
    assert printed(PAGE, "ten-thousand") == "a thousand reads: b''", (
        "claim 119, caveat: “one empty read is final, as TCP cannot take a FIN back”"
    )
