"""The glossary: what each of its words means can be tried, and its links lead somewhere."""

import contextlib
import errno
import os
import re
import select
import signal
import socket

import pytest

import lab
from _press.passages import blocks
from conftest import BOOK, rows
from lab import notebooks
from survive.scene import VERDICTS

PAGE = "glossary"
LINK = re.compile(r"\]\((?:glossary\.ipynb)?#([\w-]+)\)")
TCP = socket.IPPROTO_TCP


def markdown(page):
    """Return all the Markdown of a page."""
    cells = notebooks.cells(BOOK / f"{page}.ipynb")
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


TERMS = re.findall(r"^### (.+)$", markdown(PAGE), re.MULTILINE)


def slug(term):
    """Return the anchor of a heading."""
    return re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-")


def test_its_index_names_each_word_once_and_in_order():
    index = re.findall(r"\[([^\]]+)\]\(#([\w-]+)\)(?: ·|$)", markdown(PAGE), re.MULTILINE)
    words = [(term, slug(term)) for term in sorted(TERMS, key=str.lower)]
    assert index == words, (
        "“bystander · CLOSE-WAIT · closed loop”; “descriptor · EAGAIN · edge · edge-triggered”; "
        "“errno · FIN · FIN-WAIT-2 · frozen”; “herd · HUP and RDHUP · inode”; "
        "“leaking · level-triggered · listener”; “non-blocking · one-shot · open file · PID 1”; "
        "“system call · TIME-WAIT · window”; “A server hangs in CLOSE-WAIT, a client gets a reset”"
    )
    assert len(set(TERMS)) == len(TERMS) > 50, (
        "“CLOSE-WAIT”; “EAGAIN”; “FIN”; “FIN-WAIT-2”; “HUP and RDHUP”; “PID 1”; “TIME-WAIT”; "
        "“edge-triggered”; “level-triggered”; “one-shot”"
    )


def test_bytes_are_cut_as_the_kernels_like():
    ours, theirs = lab.pair()
    with ours, theirs:
        ours.send(b"one, ")
        ours.send(b"two")
        lab.settled(ours)
        assert theirs.recv(100) == b"one, two", "“so two `send` may make one `recv`”"
        before = lab.kernel.tcp_info(theirs, "data_segs_in")
        ours.sendall(b"x" * 300_000)
        parts = []
        while sum(parts) < 300_000:
            parts.append(len(theirs.recv(300_000)))
        segments = lab.kernel.tcp_info(theirs, "data_segs_in") - before
    assert segments > 1, "“so two `send` may make one `recv`, and one `send` several”"


def test_a_syn_that_finds_the_queue_full_is_sent_again_after_a_second(door):
    listener = door(0)
    with socket.create_connection(listener.getsockname()), socket.socket() as late:
        late.setblocking(False)
        late.connect_ex(listener.getsockname())
        state, again = lab.kernel.state_of(late), lab.kernel.tcp_info(late, "rto")
        assert lab.kernel.accept_queue(listener.getsockname()) == (1, 0), (
            "“The accept queue takes one more than that”"
        )
        assert lab.kernel.drops(listener) == 1, "“One that finds the accept queue full is dropped”"
    assert (state, again) == ("SYN-SENT", 1_000_000), (
        "“and the client's kernel sends it again after a second”"
    )


def test_a_connection_is_made_while_the_program_is_stopped():
    with lab.serve(BOOK.parent / "code" / "01_one_request.py") as server, server.paused():
        with lab.connect(server) as client:
            client.send(b"GET")
            ends = lab.both_ends(client)
            end = lab.kernel.find_socket(*client.ends)
        assert ends == ("ESTABLISHED", "ESTABLISHED"), (
            "“The kernels do it alone, while the programs may be asleep”; "
            "“Connections that the kernel has made and no program has accepted yet. Who is in”"
        )
        assert end.inode == 0, "“it is 0 there until somebody accepts”"


def test_close_and_half_close_say_the_same():
    seen = []
    for act in (socket.socket.close, lambda sock: sock.shutdown(socket.SHUT_WR)):
        ours, theirs = lab.pair()
        with ours, theirs:
            act(theirs)
            seen.append((lab.reported(ours, select.EPOLLIN | select.EPOLLRDHUP), lab.told(ours)))
            assert [ours.recv(1), ours.recv(1)] == [b"", b""], (
                "“The other end's FIN has come, and all before it has been read. `recv`”"
            )
            assert lab.kernel.state_of(ours) == "CLOSE-WAIT"
    assert seen == [("IN|RDHUP", "a FIN")] * 2, (
        "“`close` sends the same one as `shutdown(SHUT_WR)`”; "
        "“`RDHUP`: the other end's FIN has come, or a reset”"
    )


def test_who_half_closes_still_reads():
    ours, theirs = lab.pair()
    with ours, theirs:
        theirs.send(b"?")
        theirs.shutdown(socket.SHUT_WR)
        assert ours.recv(10) + ours.recv(10) == b"?"
        ours.send(b"!")
        assert theirs.recv(10) == b"!", (
            "“`shutdown(SHUT_WR)`: one has sent its FIN, and still reads”"
        )


def test_when_a_kernel_sends_a_reset():
    ours, theirs = lab.pair()
    with ours:
        ours.send(b"unread")
        lab.settled(ours)
        theirs.close()
        assert lab.told(ours) == "a reset", "“in place of a FIN when a socket is closed with bytes”"
        both = lab.reported(ours, select.EPOLLRDHUP)
        assert lab.tried(ours.recv, 1) == "recv: ECONNRESET", "“104 is ECONNRESET. In Python”"
    assert both == "ERR|HUP|RDHUP", (
        "“`RDHUP`: the other end's FIN has come, or a reset”; "
        "“A segment, RST, that ends both directions at once”; "
        "“`HUP`: both halves of the connection are shut, or there is none”"
    )
    assert errno.ECONNRESET == 104, "“`[Errno 104]`, and several have a class”"
    ours, theirs = lab.pair()
    with ours:
        theirs.close()
        ours.send(b"for nobody")
        lab.until(lambda: lab.kernel.state_of(ours) == "CLOSE")
        assert lab.tried(ours.send, b"x") == "send: EPIPE", (
            "“for a connection that it doesn't have”"
        )


def test_what_options_are_off_until_somebody_sets_them():
    ours, theirs = lab.pair()
    with ours, theirs:
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0, (
            "“They are off until a program sets SO_KEEPALIVE”"
        )
        assert ours.getsockname()[0] == "127.0.0.1", "“The network inside one machine, 127.0.0.1”"


def test_who_keeps_small_pieces_back():
    ours, theirs = lab.pair()
    with ours, theirs:
        lab.clients.vanish(theirs)  # nothing is acknowledged any more
        ours.send(b"a")
        ours.send(b"b")
        assert lab.kernel.not_sent(ours) == 1, "“as an earlier one has not been acknowledged”"
        ours.setsockopt(TCP, socket.TCP_NODELAY, 1)
        assert lab.kernel.not_sent(ours) == 0, "“TCP_NODELAY switches that off”"
        assert lab.kernel.queues_of(ours)[1] == 2, (
            "“Here the kernel keeps what `send` has taken until the other end has acknowledged it”"
        )
    ours, theirs = lab.pair()
    with ours, theirs:
        ours.setsockopt(TCP, socket.TCP_CORK, 1)
        ours.send(b"a")
        ours.send(b"b")
        assert lab.kernel.not_sent(ours) == 2, "“With TCP_CORK set, small pieces stay in the send”"
        ours.setsockopt(TCP, socket.TCP_CORK, 0)
        lab.settled(ours)
        assert lab.kernel.tcp_info(theirs, "data_segs_in") == 1, "“and leave together, when”"


def test_an_answer_makes_a_connection_interactive():
    ours, theirs = lab.pair()
    with ours, theirs:

        def answers():
            theirs.send(b"?")
            ours.recv(1)
            ours.send(b"!")
            theirs.recv(1)
            return ours.getsockopt(TCP, socket.TCP_QUICKACK)

        found = lab.until(lambda: answers() == 0, what="a connection to become interactive")
    assert found, "“and `getsockopt(TCP_QUICKACK)` is 0”"


def test_a_number_is_given_out_again():
    first, second = socket.socket(), socket.socket()
    number = first.fileno()
    first.close()
    with second, socket.socket() as third:
        assert third.fileno() == number, "“A new one is the lowest that is free”"
        inode = os.fstat(third.fileno()).st_ino
        assert os.readlink(f"/proc/self/fd/{number}") == f"socket:[{inode}]", (
            "“Its number ties a descriptor in `/proc/PID/fd`”"
        )


def test_an_open_file_goes_with_its_last_descriptor():
    ours, theirs = lab.pair()
    with ours:
        copy = theirs.dup()
        theirs.close()
        assert lab.told(ours) == "nothing", (
            "“After `dup` or `fork` several descriptors lead to the”"
        )
        copy.close()
        assert lab.told(ours) == "a FIN", "“and it goes with the last of them”"


def test_a_call_that_would_have_to_wait():
    ours, theirs = lab.pair()
    with ours, theirs:
        ours.setblocking(False)
        try:
            ours.recv(1)
        except BlockingIOError as error:
            number = error.errno
    assert number == errno.EAGAIN == 11, (
        "“fails at once, with EAGAIN”; “Its number is 11, its class `BlockingIOError`”"
    )


def reports(mask, polls=2):
    """Return what polls in a row say of a socket in which bytes lie, and then one more arrives."""
    ours, theirs = lab.pair()
    with ours, theirs, select.epoll() as epoll:
        epoll.register(ours, mask)
        said = []
        for _ in range(2):
            theirs.send(b"x")
            lab.settled(theirs)
            said += [lab.names(epoll.poll(0)) for _ in range(polls)]
        return said, lab.entries(epoll), lab.listed(epoll)


def test_how_often_something_is_reported():
    level, *_ = reports(select.EPOLLIN)
    edge, *_ = reports(select.EPOLLIN | select.EPOLLET)
    once, entries, left = reports(select.EPOLLIN | select.EPOLLONESHOT)
    assert level == ["IN"] * 4, (
        "“epoll reports a socket at every `poll`, as long as something is so”"
    )
    assert edge == ["IN", "nothing"] * 2, (
        "“epoll reports a socket once for an edge, with EPOLLET. So one goes on until EAGAIN”"
    )
    assert (once, entries, left) == (["IN"] + ["nothing"] * 3, 1, "ONESHOT"), (
        "“epoll reports a socket once, with EPOLLONESHOT, and then it is *disarmed*”"
    )
    ours, theirs = lab.pair()
    with ours, theirs:
        theirs.send(b"x")
        said = lab.reported(ours, select.EPOLLIN | select.EPOLLOUT)
    assert said == "IN|OUT", "“Several events in one number, such as `IN|OUT`”"


def test_what_is_watched_and_what_is_ready():
    ours, theirs = lab.pair()
    other, silent = lab.pair()
    with ours, theirs, other, silent, select.epoll() as epoll:
        for sock in (ours, other):
            epoll.register(sock, select.EPOLLIN)
        assert lab.entries(epoll) == 2, "“an entry for each registered socket, with its mask”"
        theirs.send(b"one request, and another")
        lab.settled(theirs)
        assert epoll.poll(0) == [(ours.fileno(), select.EPOLLIN)], (
            "“Those entries of the interest list for which something has happened”"
        )
        assert lab.kernel.unread(ours) == 24, (
            "“This is all that epoll reports: the data is still in the kernel”; "
            "“Here the kernel keeps what has come until `recv` takes it”"
        )
        assert len(ours.recv(100)) == 24, "“One `recv` may then return several requests”"
        assert lab.kernel.unread(ours) == 0


def test_a_listener_carries_no_data(door):
    assert lab.tried(door(1).recv, 1) == "recv: ENOTCONN", (
        "“A listening socket. It carries no data”"
    )


def test_a_spent_edge_makes_a_loop_deaf(door):
    listener = door(5)
    address = listener.getsockname()
    with contextlib.ExitStack() as stack, select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN | select.EPOLLET)
        for _ in range(2):
            stack.enter_context(socket.create_connection(address))
        told = [len(epoll.poll(0)), len(epoll.poll(0))]
        waiting, _ = lab.kernel.accept_queue(address)
        stack.enter_context(socket.create_connection(address))
        assert (told, waiting, len(epoll.poll(0))) == ([1, 0], 2, 1), (
            "“while clients wait in its accept queue: the edge that told of them is spent, and "
            "only another client's arrival makes a new one”"
        )


def test_one_client_may_get_all_the_turns():
    beside = rows("05_edge_triggered", "five-fast")["asks beside the fast one"]
    assert beside == ["is answered", "waits"], (
        "“One client gets all the turns, and the others none”"
    )


def test_the_words_of_the_matrix():
    assert "a bystander was not served" in VERDICTS["frozen"], (
        "“A server that does not serve a bystander”"
    )
    assert "nothing left to do" in VERDICTS["spinning"], (
        "“A server that has nothing to do and uses CPU time”"
    )
    assert "descriptors or memory" in VERDICTS["leaking"], (
        "“A server that keeps a descriptor, or memory”"
    )
    order = list(VERDICTS)
    assert order.index("frozen") < order.index("spinning"), (
        "“one that spins and serves nobody is frozen there”"
    )
    _, silent, left = rows("02_request_loop", "two-spin").values()
    assert silent[1] == left[1] == "0 answers", "“from outside that looks the same”"


def test_one_event_wakes_the_herd():
    woken = {label: cells[0] for label, cells in rows("03_thread_per_client", "three-herd").items()}
    assert woken["one listener"] == "4", (
        "“Several threads or processes that all wake for one event”"
    )


def test_a_ghost_is_connected_at_its_own_end_alone():
    seen = rows("07_backlog", "seven-ghosts")
    assert seen["what the silent ones are"] == ["ESTABLISHED"] and seen["in the queue"] == ["1"], (
        "“A client that counts as connected at its own end and not at the server's”"
    )


def test_the_number_of_sigterm():
    assert signal.SIGTERM == 15, "“SIGTERM, 15, asks it to end. A call that sleeps is interrupted”"


def anchors(page):
    """Return what a link from another page can name: the headings of a page, as anchors."""
    return {slug(words) for words in re.findall(r"^#+ (.+)$", markdown(page), re.MULTILINE)}


def test_each_word_leads_to_where_it_is_shown():
    for definition in re.split(r"^### ", markdown(PAGE), flags=re.MULTILINE)[1:]:
        term, _, text = definition.partition("\n")
        links = re.findall(r"\]\((\w+)\.ipynb(?:#([^)]+))?\)", text)
        assert links, term
        for page, anchor in links:
            assert not anchor or anchor in anchors(page), f"{term}: {page} has no #{anchor}"


@pytest.mark.parametrize("page", [path.stem for path in notebooks.notebooks()])
def test_each_link_to_a_word_finds_it(page):
    for anchor in re.findall(r"\]\(glossary\.ipynb#([^)]+)\)", markdown(page)):
        assert anchor in anchors(PAGE)


def test_a_diagram_draws_what_was_seen_and_nothing_else():
    walk = lab.states.Walk()
    client, server = lab.pair()
    with client, server:
        assert walk.begin(client, server) == ("ESTABLISHED", "ESTABLISHED")
        client.shutdown(socket.SHUT_WR)
        assert walk.until("half", "FIN-WAIT-2", "CLOSE-WAIT") == ("FIN-WAIT-2", "CLOSE-WAIT")
        server.shutdown(socket.SHUT_WR)
        walk.until("whole", "TIME-WAIT", "CLOSE")
    causes = dict.fromkeys(walk.steps, "FIN")
    assert list(walk.steps) == [
        ("ESTABLISHED", "FIN-WAIT-2"), ("ESTABLISHED", "CLOSE-WAIT"),
        ("FIN-WAIT-2", "TIME-WAIT"), ("CLOSE-WAIT", "CLOSE"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="seen without a cause"):
        lab.states.diagram("a title", walk, causes | {("LISTEN", "SYN-RECV"): "SYN"})
    del causes["ESTABLISHED", "CLOSE-WAIT"]
    with pytest.raises(ValueError, match="'ESTABLISHED', 'CLOSE-WAIT'"):
        lab.states.diagram("a title", walk, causes)


def test_a_walk_says_where_it_has_stopped():
    walk = lab.states.Walk()
    client, server = lab.pair()
    with client, server:
        walk.begin(client, server)
        with pytest.raises(TimeoutError, match="in vain: .'ESTABLISHED', 'ESTABLISHED'., not"):
            walk.until("in vain", "CLOSE", "CLOSE", seconds=0.05)
    assert not walk.rows


def test_the_diagram_shows_the_eleven_states():
    (cell,) = (
        each for each in notebooks.cells(BOOK / f"{PAGE}.ipynb") if each["id"] == "gloss-meet"
    )
    (picture,) = re.findall(r'alt="([^"]+)"', "".join(cell["outputs"][0]["data"]["text/html"]))
    steps = [step.partition(": ")[0].split(" to ") for step in picture.split("; ")]
    states = {state for step in steps for state in step}
    assert states == set(lab.kernel.STATES[1:12]), "“clients and servers go through all eleven”"


def test_each_word_is_used_in_the_book():
    pages = [
        path.read_text(encoding="utf-8") for path in notebooks.notebooks() if path.stem != PAGE
    ]
    said = re.sub(r"(?:\\n|\W)+", " ", " ".join(pages)).lower()
    for term in TERMS:
        for words in term.lower().split(" and "):
            assert re.search(rf"\b{re.sub(r'[^a-z0-9_]+', ' ', words)}", said), term


# What a newcomer would not know: the term, and how the prose writes it.
UNKNOWN = {
    "segment": "segments?", "inode": "inodes?", "descriptor": "descriptors?",
    "accept queue": "accept queue", "FIN": "FINs?", "reset": "resets?",
    "half-close": "half-clos(?:e|es|ed)", "end of input": "end of input",
    "CLOSE-WAIT": "CLOSE-WAIT", "FIN-WAIT-2": "FIN-WAIT-2", "TIME-WAIT": "TIME-WAIT",
    "level-triggered": "[Ll]evel-triggered", "edge-triggered": "[Ee]dge-triggered",
    "mask": "masks?", "interest list": "interest list", "ready list": "ready list",
    "frozen": "frozen|freezes?", "spinning": "spin(?:s|ning)?", "leaking": "leak(?:s|ing)?",
    "bystander": "bystanders?", "loopback": "loopback", "window": "window",
    "keepalive": "[Kk]eepalive", "PID 1": "PID 1|process number 1",
    "back-pressure": "back-pressure", "slowloris": "slowloris",
}  # fmt: skip
# A link, or the word that is defined here.
TOLD = re.compile(r"\[[^\]]*\]\([^)]*\)|\*+[^*\s]+(?:\s[^*\s]+){0,2}\*+")


def untold(page):
    """List the terms that a page uses and does not tell: (term, the passage of its first use).

    Told is a term whose first passage links it, to the glossary or to a section, or defines it:
    there it stands out.
    """
    passages = [text for _, text in blocks(re.sub(r"`[^`\n]*`", "", markdown(page)))]
    passages = [" ".join(text.split()) for text in passages if not re.match(r"\s*(?:#|>)", text)]
    for term, pattern in UNKNOWN.items():
        uses = re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])")
        first = next(filter(uses.search, passages), None)
        if first and not any(uses.search(told) for told in TOLD.findall(first)):
            yield term, first


@pytest.mark.parametrize("page", [path.stem for path in notebooks.notebooks() if path.stem != PAGE])
def test_a_word_that_a_newcomer_does_not_know_is_told_at_its_first_use(page):
    assert not list(untold(page))
