"""What chapter 4 says beside the words that its cells quote.

Most of it is what a cell has printed: nbval holds the stored outputs to what happens, and here the
prose is held to the outputs. The rest is tried here.
"""

import asyncio
import os
import select
import selectors
from pathlib import Path

import lab
from conftest import ROOT, printed, rows
from lab import notebooks

PAGE = "04_level_triggered"
LEVEL = ROOT / "code" / f"{PAGE}.py"


def test_the_steps():
    steps = printed(PAGE, "four-steps-recorded").splitlines()
    calls = [line.split(" | ")[0] for line in steps]
    polls = [number for number, call in enumerate(calls) if call.startswith("poll")]
    acts = [calls[number + 1].split()[0] for number in polls]
    assert acts == ["listener.accept", "client.recv", "client.recv", "client.send", "unregister"], (
        "“The kernel wakes the server when one of them has something for it; the server does that "
        "one thing, and sleeps again”"
    )
    assert "client.recv → 8 bytes" in calls and "client.recv → 10 bytes" in calls, (
        "“it wakes for each piece, for less than can be seen, and answers each client when its "
        "request is complete”"
    )
    assert "register listener, IN | listener: IN|ERR|HUP" in steps, (
        "“gives the kernel a list of its sockets and goes to sleep”"
    )
    assert "modify client, - | listener: IN|ERR|HUP, client: ERR|HUP" in steps, (
        "“The kernel adds them to every entry (epoll_ctl(2)), so they are reported even for a "
        "mask of 0, and that is what the last `modify` counts on”"
    )
    assert "five bytes, and then the end: IN|HUP" in printed(PAGE, "four-mask"), (
        "“What `poll` returns for a socket is a mask as well, of several events at once”; “A chain "
        "of `elif`, like the article's and ours, acts on the first of these events and puts off "
        "the rest, for ever if the first never ends”"
    )


def test_what_is_so():
    seen = rows(PAGE, "four-level")
    assert seen["bytes come"] == ["IN, IN", "recv: b'hello'"], (
        "“epoll tells what is the case now, as often as it is asked”"
    )
    assert seen["the client leaves"] == seen["poll again"] == ["IN", "recv: b''"], (
        "“It means that `recv` would not block, and at the end of input `recv` never blocks "
        'again”; “This server receives `b""`, adds it to the request, and polls again, and epoll '
        "is right to report the end every time. That is how the server comes to spin”; “nobody "
        "waits: level-triggered epoll”; “One thread, level-triggered epoll”"
    )
    seen = rows(PAGE, "four-stale")
    assert seen["a client waits"][1] == "accept: EAGAIN" and seen["room to send"][1].endswith(
        "sendto"
    ), (
        "“What was so when epoll reported it may be over by the time the server acts, or be less "
        "than it took it for. So the article is right to make its sockets non-blocking, in this "
        "mode, too”"
    )
    assert seen["a reset client"] == ["IN", "recv: ECONNRESET"], (
        "“`IN` means that `recv` won't block: data, the end of input, or an error”"
    )
    seen = rows(PAGE, "four-above")
    assert seen["a line, by makefile()"] == ["nothing", "b'two\\n'"], (
        "“And epoll tells what is so in the kernel. What a library has read ahead lies above the "
        "kernel, in a buffer of the program's, and no event will report it. So wherever a library "
        "buffers, read until reading would block”"
    )
    seen = rows(PAGE, "four-poll-measured")
    assert seen["poll(1)"][0] == seen["poll(0.0001)"][0] == "nothing", (
        "“the server wakes, finds nothing, and sleeps again. Python rounds a timeout up to whole "
        "milliseconds”"
    )
    assert seen["poll(), 1,200 ready"][0] == "1,023 events", (
        "“one call returns a limited number of events”"
    )


def test_who_hangs_up():
    seen = rows(PAGE, "four-hup-watched")
    assert seen["has its answer"] == ["CLOSE-WAIT", "FIN-WAIT-2"], (
        "“The server has forgotten a client that is still connected”; “it rings its own bell, "
        "and takes it for a visitor's”"
    )
    assert seen["leaves"] == ["gone", "TIME-WAIT"], (
        "“the TIME-WAIT is the server's, too: the address stays in use”"
    )
    seen = rows(PAGE, "four-halves")
    assert seen["we: SHUT_RD"] == ["nothing", "IN|RDHUP"] and seen["we: SHUT_WR"] == [
        "a FIN",
        "nothing",
    ], (
        '“On the wire there is only "I shall send no more"”; “Not wanting to read any more is a '
        "private matter”; claim 72, caveat: “A FIN says that nothing more will be sent”"
    )
    assert seen["the client closes"] == seen["the client half-closes"], (
        "“So a client that closes, and one that only half-closes and waits for its answer, send "
        "the same FIN and look the same to epoll”"
    )
    assert seen["we: SHUT_RD as well"] == ["a FIN", "IN|HUP|RDHUP"], (
        "“both halves of the connection are shut, or that there is no connection”; “both halves "
        "are shut, here by the server itself”"
    )


def test_room():
    seen = rows(PAGE, "four-out")
    assert seen["is empty"][1] == "OUT" and seen["fills"][1:] == ["nothing", "send: 1000"], (
        "“As a rule there is room in the send buffer, and epoll reports `OUT` at once, and always. "
        "But there are times when there is room, and no `OUT`”; “`OUT` is nearly always so: ask "
        "for it while something is left to send, and not a moment longer”"
    )
    assert seen["is full, and we shut"][1:] == ["OUT|HUP", "send: EPIPE"], (
        "“A socket that we have shut down is ready, however full its buffer: `send` will fail at "
        "once”"
    )


def test_a_slice_of_bytes_is_a_copy_and_one_of_a_memoryview_is_none():
    unsent = bytearray(b"hello")
    portion, view = unsent[1:], memoryview(unsent)[1:]
    unsent[1] = 0
    assert (portion[0], view[0]) == (ord("e"), 0), (
        "“Each portion copies all that is left, as `unsent[fd][sent:]` is a new object. A "
        "`memoryview` would not”"
    )


def test_the_registration():
    seen = rows(PAGE, "four-zombie")
    assert seen["nobody refers to it any more"] == ["0"], (
        "“it keeps the sockets alive: a socket object that nobody refers to is closed, and its "
        "registration goes with it. So the `unregister` before the `close` looks superfluous, and "
        "as a rule it is”"
    )
    assert seen["it is closed, but there was a dup"] == ["1"], (
        "“An entry's key is the number and the open file description behind it”; “unregister, "
        "then close, wherever a descriptor may have a copy”; “What is registered is the open "
        "file, not its number: unregister, then close, where there may be copies”"
    )
    assert (seen["the dup is closed"], seen["the child has ended"]) == (["0"], ["0"]), (
        "“the entry goes with the description's last descriptor”"
    )
    ten = (ROOT / "code" / "10_peers_that_close.py").read_text(encoding="utf-8")
    assert ".unregister(" not in ten and "dup(" not in ten, (
        "“chapter 10's server, which makes no copies, does without”"
    )
    seen = rows(PAGE, "four-shared")
    assert seen["closed while a thread is in recv"] == ["recv: b'hello'"], (
        "“a close in one thread does not wake another that sleeps on the socket”; “So shut down "
        "the socket that another thread waits for, and close it when that thread has let go of it”"
    )


def test_the_bill():
    seen = rows(PAGE, "four-bill")
    assert seen["epoll_ctl"][0] == "4", (
        "“Each change to the list is a system call”; “The rule costs a system call a client”"
    )
    assert seen["epoll_ctl"][2] == "2" and int(seen["epoll_wait"][2]) > 4, (
        "“asyncio sends at once and asks for `OUT` only if something is left over. It polls more "
        "often, which is the price of its coroutines: whenever one of them is due to run, asyncio "
        "looks at the sockets first”"
    )
    solved = printed(PAGE, "four-asyncio-survives")
    assert solved.startswith("solved:") and "not yet" not in solved, (
        "“asyncio does all that this chapter does by hand, and more: buffers, partial sends, the "
        "end of input, and errors, which end one coroutine and not the server”"
    )


def test_asyncio_stands_on_selectors_and_these_know_two_events():
    events = {selectors.EVENT_READ, selectors.EVENT_WRITE}
    with selectors.DefaultSelector() as selector:
        for asked in events:
            ours, theirs = lab.pair()
            selector.register(ours, asked, {"a client's": "state"})
            lab.reset(theirs)
            lab.settled(ours)
            ((key, reported),) = selector.select(1)
            selector.unregister(ours)
            assert (reported, key.data) == (asked, {"a client's": "state"}), (
                "“keeps a client's state with its registration and knows two events only, to "
                "read and to write: a `HUP` arrives as whichever of them one has asked for”"
            )
    loop = asyncio.new_event_loop()
    assert isinstance(loop._selector, selectors.BaseSelector), (
        "“with asyncio, which stands on `selectors`”"
    )
    loop.close()


def test_ten_thousand():
    said = printed(PAGE, "four-c10k")
    assert "threads: 1; each ≈ 2" in said, (
        "“An idle client is an entry on a list that nobody reads. Such a client costs no time, "
        "and some 220 bytes of the server's memory”; “one thread can sleep on ten thousand”"
    )


def test_its_ends():
    seen = rows(PAGE, "four-body")
    assert seen["04"] == ["1", "closed", "send: EPIPE"] and seen["02"][1] == "reset", (
        "“Input that nobody has read turns the `close` into a reset, but now the FIN has gone "
        "ahead of the reset, and a client that only reads finds its answer and an end”"
    )
    said = printed(PAGE, "four-ends")
    assert "Ctrl-C: exit status -2 KeyboardInterrupt" in said and "gets a FIN" in said, (
        "“The article's `try` has no `except`, so it catches nothing, here as in chapter 2; and "
        "when a server is killed, the kernel closes its sockets”"
    )
    said = printed(PAGE, "four-leaves")
    assert (
        "in state CLOSE" in said and "shutdown(socket.SHUT_RDWR): OSError: [Errno 107]" in said
    ), (
        "“The client has closed before the answer comes; on loopback the `send` is answered "
        "with a reset before it even returns, and the `shutdown` after it finds no connection "
        "any more”"
    )


def test_who_kills_it():
    words = lab.matrix.stored()
    mine = {client: word for (client, server), word in words.items() if server == "04"}
    assert mine["says nothing"] == "ok", (
        "“A silent client costs a descriptor and nothing else”; “A client that sends nothing costs "
        "a descriptor”"
    )
    assert mine["connects and closes"] == "spinning", (
        "“a client that leaves before it has asked makes the server spin”; “A client that leaves "
        "before its request is whole makes the server spin, while it serves the others”"
    )
    before = {words["asks and leaves", each] for each in ("02", "03")}
    assert before == {"ok"}, "“the one that both predecessors survive”"
    assert mine["a header without end"] == "leaking", (
        "“A client that sends a header without end is put up with, and all of it is kept”"
    )
    assert list(mine.values()).count("dead") >= 6, (
        "“But there is only one thread to kill, and every uncaught exception kills it”; “An "
        "exception that the loop does not catch ends the server for everybody”; “What this server "
        "can't stand is a client with bad manners. A client that asks and leaves without reading "
        "can kill the server; so does a reset”"
    )


def test_what_a_client_has_sent_is_kept_until_its_number_is_used_again():
    long = b"GET / HTTP/1.0\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"
    with lab.serve(LEVEL) as server:
        lab.get(server.address)
        before = server.memory()
        with lab.connect(server) as client:
            client.send(long)
            assert client.read_all()
        lab.at_rest(server, sockets=1)
        kept = server.memory() - before
        lab.get(server.address)
        lab.at_rest(server, sockets=1)
        left = server.memory() - before
    assert kept > len(long) and kept - left > len(long), (
        "“What a client has sent is kept until its descriptor's number is used again”; “the "
        "dictionaries keep what each client has sent so far”"
    )


def test_what_the_solution_does_not_survive(run_folder):
    for name in (f"{PAGE}.py", "04_solution.py"):
        (run_folder / name).write_text(notebooks.program(PAGE, name), encoding="utf-8")
    column = lab.matrix.Column(PAGE, "run/04_solution.py")
    words = [
        lab.matrix.judge(lab.rows.row(name), column).word
        for name in ("a body left unread", "more clients than descriptors")
    ]
    assert words == ["wrong", "dead"], (
        "“This server closes at once, so input that it has not read becomes a reset again; and "
        "descriptors still run out”"
    )


def test_it_sleeps_on_all_its_sockets_at_once():
    with lab.serve(LEVEL) as server:
        talks = [lab.connect(server, f"client {number}") for number in range(2)]
        lab.at_rest(server, sockets=3)
        watched = lab.kernel.watched(server.pid)
        for talk in talks:
            talk.close()
    assert watched == ["IN|ERR|HUP"] * 3, (
        "“single thread sleeps in poll on all of them”; “it sleeps on all its sockets at once”; "
        "“on all of its sockets at once”"
    )


def test_what_threads_would_have_done():
    words = lab.matrix.stored()
    assert words["says nothing", "03"] == words["plain GET", "03"] == "ok", (
        "“Threads would have done this as well, but at ten thousand clients this thread is still "
        "one thread”"
    )
    three = (ROOT / "code" / "03_thread_per_client.py").read_text(encoding="utf-8")
    talk = three[three.index("def talk(") : three.index("def main(")]
    assert 'request = b""' in talk and "setblocking(False)" in LEVEL.read_text(encoding="utf-8"), (
        "“No function may wait, so the dictionaries keep what each client has sent so far; in the "
        "threaded server that was a local variable”"
    )


def test_what_the_article_says_of_the_end():
    claims = lab.claims()
    assert claims[71].claim.endswith("to make the client close first."), (
        "“in order, the article says, to make the client close first”"
    )
    assert claims[74].claim == "A HUP event says that the client has gone.", (
        "“the article takes the `HUP` that follows to say that the client has gone”"
    )


def test_who_has_shut_it():
    steps = [line.split(" | ")[0] for line in printed(PAGE, "four-steps-recorded").splitlines()]
    shut = steps.index("client.shutdown")
    text = LEVEL.read_text(encoding="utf-8")
    write = text[text.index("def write(") : text.index("def forget(")]
    assert steps[shut + 1] == "poll → client: HUP" and "shutdown(socket.SHUT_RDWR)" in write, (
        "“The server has just shut both itself, in `write`: it rings its own bell”"
    )
    seen = rows(PAGE, "four-unasked")
    assert seen["not connected"] == ["HUP"] and "HUP" in seen["reset"][0].split("|"), (
        "“or that there is no connection: not made, or reset”"
    )
    seen = rows(PAGE, "four-halves")
    assert not any(
        "|HUP" in seen[row][1] for row in ("the client closes", "the client half-closes")
    ), "“`HUP` is in neither”"


def test_an_entry_may_be_reported_under_the_number_of_another():
    with select.epoll() as epoll:
        ours, theirs = lab.pair()
        epoll.register(ours, select.EPOLLIN)
        number, copy = ours.fileno(), os.dup(ours.fileno())
        ours.close()
        newcomer, _ = lab.pair()
        if newcomer.fileno() != number:
            os.dup2(newcomer.fileno(), number)
        theirs.send(b"hello")
        ((reported, _),) = epoll.poll(1)
        os.close(copy)
    assert reported == number, (
        "“Until then the socket is reported under a number that nobody has, or worse, that the "
        "next client has been given by now”"
    )


def test_until_it_is_not():
    ours, theirs = lab.pair()
    theirs.send(b"hello")
    with select.epoll() as epoll:
        epoll.register(ours, select.EPOLLIN)
        lab.settled(ours)
        told = [lab.names(epoll.poll(0)) for _ in range(3)]
        ours.recv(100)
        told.append(lab.names(epoll.poll(0)))
    assert told == ["IN", "IN", "IN", "nothing"], (
        "“Level-triggered, it reports what is so, at every call, until it isn't”"
    )


def test_nothing_needs_the_timeout(run_folder):
    path = lab.edited(LEVEL, "without.py", {"epoll.poll(1)": "epoll.poll()"})
    column = lab.matrix.Column(PAGE, path)
    found = [
        lab.matrix.judge(lab.rows.row(name), column).word
        for name in ("plain GET", "one byte at a time", "says nothing")
    ]
    assert found == ["ok"] * 3, (
        "“The loop's `poll` has a timeout, as the article's has, and nothing needs that timeout”"
    )


def test_each_piece_of_a_header_is_copied_and_searched_again():
    text = LEVEL.read_text(encoding="utf-8")
    read = text[text.index("def read(") : text.index("def write(")]
    assert "requests[fd] += " in read and "is_whole(requests[fd])" in read, (
        "“with each piece the server copies and searches all of it again, while everybody waits”"
    )


def test_what_the_kernel_keeps_is_not_the_servers_memory():
    with lab.serve(LEVEL) as server:
        talks = [lab.connect(server, f"client {number}") for number in range(10)]
        lab.at_rest(server, sockets=11)
        before = server.memory()
        with server.paused():
            for talk in talks:
                talk.send(b"x" * 100_000)
                lab.settled(talk.socket)
            grown = server.memory() - before
            server.stop(9)
        for talk in talks:
            talk.close()
    assert grown < 100_000, "“(What the kernel keeps for the connection comes on top.)”"


def test_half_of_the_bill_could_be_saved():
    ours = rows(PAGE, "four-bill")
    solved = printed(PAGE, "four-solution-check")
    assert ours["epoll_wait"][0] == ours["epoll_ctl"][0] == "4" and "(2, 2)" in solved, (
        "“Half of these calls could be saved: the detour by `OUT` when there is room anyhow, and "
        "the long farewell by `shutdown` and `HUP`”"
    )
    assert ours["accept4"] == ["1", "1", "2"], (
        "“It accepts until nobody is left, hence the second `accept4`, which fails”"
    )


def test_out_as_it_goes_and_comes():
    seen = rows(PAGE, "four-out")
    assert seen["fills"][1:] == ["nothing", "send: 1000"] and seen["drains"][1] == "OUT", (
        "“epoll stops reporting `OUT` while `send` still takes more, and reports it again when a "
        "third of the buffer is free”"
    )
    assert seen["is full"][1:] == ["nothing", "send: EAGAIN"], (
        "“`OUT` means that `send` would not block, as `IN` means that `recv` would not”"
    )
    assert seen["full, client ends"][1] == "nothing", (
        "“But a server that watches for `OUT` alone, with a full buffer, does not see its client "
        "go”"
    )


def test_the_claims_and_defects_in_whole_sentences():
    """The cells quote as much of them as fits a line; here is the rest."""
    seen = rows(PAGE, "four-halves")
    assert seen["we: SHUT_RD"][0] == "nothing", (
        "claim 72, caveat: “Of the other half it says nothing”"
    )
    watched = rows(PAGE, "four-hup-watched")
    assert watched["another, talks on"] == ["CLOSE", "gone"], (
        "claim 72, caveat: “who goes on sending is answered with a reset”"
    )
    assert watched["leaves"][1] == "TIME-WAIT" and watched["has its answer"][0] == "CLOSE-WAIT", (
        "claim 71, wrong: “It makes the server close first, and TIME-WAIT stays with the server”; "
        "claim 74, wrong: “Here the server's own shutdown raises it, with the client still "
        "connected”; defect 37: “HUP that never comes since the client doesn't close. The server's "
        "own shutdown of both halves raises it at once”"
    )
    unasked = rows(PAGE, "four-unasked")
    assert unasked["one-shot, then reset"] == unasked["whose client has closed"] == ["nothing"], (
        "claim 76, caveat: “Not for one that one-shot mode has disarmed. And a client's closing "
        "alone never raises one”"
    )
    assert unasked["that sent without a copy"] == ["ERR"], (
        "“the kernel's receipt for a send without copying lies in the socket's error queue, and "
        "only `recvmsg` with MSG_ERRQUEUE takes it out. A loop that answers every `ERR` with "
        "`recv` spins on it”"
    )
    zombie = rows(PAGE, "four-zombie")
    assert zombie["nobody refers to it any more"] == ["0"], (
        "claim 56, holds: “And it alone keeps the sockets alive”"
    )
    assert zombie["it is closed, but there was a dup"] == ["1"], (
        "claim 77, holds: “close does so too, unless the same open file has another descriptor”"
    )
    assert zombie["unregister, by either number"] == ["1"], (
        "“The old number is closed and the dup's was never registered, so `unregister` finds "
        "neither. Hence the rule: unregister, then close”; “And a close in one thread does not "
        "wake another”"
    )
    out = rows(PAGE, "four-out")
    assert out["full, client ends"][1] == "nothing", (
        "claim 64, holds: “And from then on it does not see the client leave”; defect 33: “While "
        "it waits for OUT it doesn't see that the client has ended”"
    )
    assert out["is empty"][1] == "OUT" and out["fills"][1] == "nothing", (
        "claim 65, caveat: “As a rule that is at once and always. After a full buffer, only when a "
        "good part of it has drained”"
    )
    assert "KeyboardInterrupt" in printed(PAGE, "four-ends"), (
        "claim 79, caveat: “It is there for them, but catches nothing. It is try and finally, and "
        "an interruption ends in a traceback”"
    )
    assert rows(PAGE, "four-body")["04"] == ["1", "closed", "send: EPIPE"], (
        "claim 50, caveat: “But it sends a FIN ahead of the reset that unread input causes, so "
        "that on Linux a client which only reads still finds its answer and an end”"
    )
    assert "IN|HUP" in printed(PAGE, "four-mask"), (
        "claim 58, caveat: “The code is a mask of several events, and a chain of elif puts off all "
        "but the first”"
    )
    stale = rows(PAGE, "four-stale")
    assert stale["a client waits"][1].endswith("EAGAIN") and stale["a reset client"][0] == "IN", (
        "claim 60, caveat: “It may be gone again, or be one that has been reset already”; claim "
        "53, holds: “In this mode as well, since readiness may be stale when one acts on it”"
    )
    ends = {rows(PAGE, "four-level")["the client leaves"][0], stale["a reset client"][0]}
    assert ends == {"IN"}, "claim 63, caveat: “Or the end of input, or a reset, or an error”"
    assert "in state CLOSE" in printed(PAGE, "four-leaves"), (
        "defect 6: “A client that asks and leaves has gone when shutdown is called”"
    )


def test_all_its_sockets_are_non_blocking():
    with lab.serve(LEVEL) as server, lab.connect(server):
        lab.at_rest(server, sockets=2)
        flags = []
        for number in lab.kernel.files(server.pid, "socket"):
            text = Path(f"/proc/{server.pid}/fdinfo/{number}").read_text(encoding="utf-8")
            flags.append(int(text.split("flags:")[1].split()[0], 8) & os.O_NONBLOCK)
    assert len(flags) == 2 and all(flags), (
        "“So the article is right to make its sockets non-blocking, in this mode, too”; “No "
        "function may wait, so”"
    )


def test_how_much_of_what_the_article_says_is_wrong():
    mine = [claim.verdict for claim in lab.claims().values() if claim.chapter == PAGE]
    assert mine.count("wrong") == 2 and mine.count("holds") > len(mine) / 2, (
        "“most of that holds. Two sentences are wrong, and one”"
    )
