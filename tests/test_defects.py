"""The defects, in whole sentences: a cell quotes as much of one as fits a line.

What the cells and the matrix have printed is so: nbval holds it to what happens.
"""

import lab
from conftest import ROOT, printed, rows, seconds

LEVEL = ROOT / "code" / "04_level_triggered.py"
WORDS = lab.matrix.stored()
LEAVES, SILENT = "half a request then closes", "says nothing"


def test_a_client_leaves_or_resets():
    assert WORDS[LEAVES, "01"] == WORDS[LEAVES, "02"] == "frozen", (
        "defect 2: “A client that closes before its request is whole: recv gives nothing, at once "
        "and for ever, and nobody else is served”"
    )
    assert WORDS[LEAVES, "05"] == "frozen", (
        "defect 4: “The loop waits for an exception, which the end of input never raises. The "
        "server stops for everybody”"
    )
    seen = rows("05_edge_triggered", "five-swallowed")
    assert seen["half a request"][1] == "10 descriptors stay", (
        "defect 9: “The error is swallowed, and the edge with it. Every client that resets leaves "
        "a descriptor”"
    )


def test_too_many_and_too_much():
    more = "more clients than descriptors"
    caught = printed("defects", "defects-caught")
    assert WORDS[more, "04"] == "dead" and "of a core" in caught, (
        "defect 10: “More clients than descriptors: accept raises EMFILE, and the server ends. If "
        "that is merely caught, it spins”"
    )
    seen = rows("05_edge_triggered", "five-deaf")
    assert seen["a newcomer gets"][0] == "get: ETIMEDOUT", (
        "defect 11: “EMFILE spends the listener's edge. With a full queue no other comes, and "
        "nobody is ever let in again”"
    )
    seen = rows("defects", "defects-grow")
    assert seen["100 kB without an end"][0].endswith("times looked at"), (
        "defect 16: “A request without an end is kept without a limit, and copied and searched "
        "from its beginning with every piece”"
    )
    seen = rows("05_edge_triggered", "five-fast")
    assert seen["asks beside the fast one"] == ["is answered", "waits"], (
        "defect 17: “A client that sends without pause keeps the receive loop to itself. All "
        "others wait”"
    )
    assert "before the first is read" in printed("defects", "defects-flood"), (
        "defect 18: “The accept loop has no end either: however many come, all are accepted before "
        "anybody is read”"
    )
    assert [WORDS[SILENT, chapter] for chapter in ("01", "02", "04")] == ["frozen"] * 2 + ["ok"], (
        "defect 19: “A client that connects and says nothing keeps example 1 and 2 waiting, and "
        "costs the others a descriptor, for ever”"
    )
    waited = [cell for (cell,) in list(rows("07_backlog", "seven-run").values())[1:]]
    assert [cell.endswith(" s") for cell in waited] == [False, False, True, True], (
        "defect 29: “listen(1) lets two in. The third client waits for a second if the server is "
        "busy”"
    )


def test_what_a_client_has_sent_stays():
    with lab.serve(LEVEL) as server:
        lab.at_rest(server, sockets=1)
        kept = [server.memory()]
        for size in (1_000_000, 0):
            with lab.connect(server) as client:
                client.send(b"GET /" + b"x" * size + b" HTTP/1.0\r\n\r\n")
                client.read_all()
            lab.at_rest(server, sockets=1)
            kept.append(server.memory())
    assert kept[1] - kept[0] > 800_000 > kept[2] - kept[0], (
        "defect 20: “What a client has sent stays in a dictionary when the client has gone, "
        "until its descriptor's number is used again”"
    )


def test_how_the_server_closes():
    assert WORDS["a body left unread", "01"] != "ok", (
        "defect 21: “close with unread input sends a reset. A short answer usually survives it”"
    )
    seen = rows("01_one_request", "one-send-all")
    assert seen["send, with a timeout"][0].endswith("%"), (
        "defect 27: “One send and no look at what it returned: with a timeout or a signal, only a "
        "part is sent”"
    )
    seen = rows("04_level_triggered", "four-hup-watched")
    assert seen["leaves"] == ["gone", "TIME-WAIT"], (
        "defect 31: “The server closes first, so every connection that ends without a reset leaves "
        "it a TIME-WAIT”"
    )


def test_what_it_costs_and_prints():
    bill = rows("04_level_triggered", "four-bill")
    assert bill["epoll_wait"][0] == bill["epoll_ctl"][0] == "4", (
        "defect 32: “It waits for OUT before it has tried to send: an epoll_ctl and an epoll_wait "
        "for nothing”"
    )
    late = rows("08_cork", "eight-pulls")["nothing"][0]
    assert 0.18 < seconds(late) < 0.26, (
        "defect 41: “If one adds a try, and the second is skipped, the answer is 200 ms late”"
    )
    assert "sleeps in write" in printed("defects", "defects-console"), (
        "defect 14: “The output is a pipe that nobody reads: once it is full the server sleeps in "
        "write, and everybody waits”"
    )
    with lab.serve(LEVEL) as server, lab.connect(server) as client:
        client.send(b"GET /\x1b[2J HTTP/1.0\r\n\r\n")
        client.read_all()
        server.wait_for("HTTP/1.0")
        assert "\x1b[2J" in server.output(), (
            "defect 15: “The request is printed as it came, escape sequences and all”"
        )
    assert "U+00A0" in printed("01_one_request", "one-preface"), (
        "defect 1: “The listings, pasted as the page has them, are syntax errors: there are "
        "no-break spaces in them”"
    )


def test_the_lines_of_the_translator():
    seen = rows("10_peers_that_close", "ten-vanish")
    assert seen["the note's lines, edge"] == ["0", "spins"], (
        "defect 43: “No break: the loop ends when a second shutdown fails, and if the FIN is not "
        "acknowledged it doesn't fail. The server spins, and serves nobody”"
    )
    seen = rows("10_peers_that_close", "ten-half")
    assert seen["the note's lines, edge"] == ["0", "3"], (
        "defect 44: “A client that half-closes after asking gets nothing, and its descriptor stays”"
    )
    assert printed("10_peers_that_close", "ten-batch").endswith("recv: EAGAIN"), (
        "defect 35: “A handler closes another client, a newcomer gets the number, and an event "
        "of the same batch hits the newcomer. Not in these programs, each handler of which "
        "touches its own descriptor only. It comes with the first timeout, or the first handler "
        "that closes another client”"
    )
