"""What chapter 4 says beside the words that its cells quote.

Most of it is what a cell has printed: nbval holds the stored outputs to what happens, and here the
prose is held to the outputs. The rest is tried here.
"""

import asyncio
import selectors

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
        "“It is woken when one of them has something for it, does that one thing, and sleeps again”"
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
        "“What comes back is a mask as well, of several events at once”; “A chain of `elif`, "
        "like the article's and ours, sees the first of them and puts off the rest, for ever if "
        "the first never ends”"
    )


def test_what_is_so():
    seen = rows(PAGE, "four-level")
    assert seen["bytes come"] == ["IN, IN", "recv: b'hello'"], (
        "“In this mode that is not so”; “it tells what is the case now, as often as it is asked”"
    )
    assert seen["it leaves"] == seen["asked again"] == ["IN", "recv: b''"], (
        "“it means that `recv` would not block, and at the end of input it never blocks again”; "
        "“This server receives nothing, adds it to its request, and polls again, and epoll is "
        "right to report the end every time. That is how it comes to spin”"
    )
    seen = rows(PAGE, "four-stale")
    assert seen["one waits"][1] == "accept: EAGAIN" and seen["there is room"][1].endswith(
        "sendto"
    ), (
        "“What was so may be over by the time one acts, or be less than one took it for. So "
        "sockets must be non-blocking in this mode, too”"
    )
    assert seen["one that reset"] == ["IN", "recv: ECONNRESET"], (
        "“`IN` means that `recv` won't block: data, the end of input, or an error”"
    )
    seen = rows(PAGE, "four-above")
    assert seen["a line, by makefile()"] == ["nothing", "b'two\\n'"], (
        "“And epoll tells what is so in the kernel. What has been read ahead lies above it, in "
        "a buffer of the program's, where no event will remind one of it. So read until it "
        "would block wherever anything buffers”"
    )
    seen = rows(PAGE, "four-poll-measured")
    assert seen["poll(1)"][0] == seen["poll(0.0001)"][0] == "nothing", (
        "“the server wakes, finds nothing, and sleeps again. Python rounds it up to whole "
        "milliseconds”"
    )
    assert seen["poll(), 1,200 ready"][0] == "1,023 events", (
        "“there is an end to what one call returns”"
    )


def test_who_hangs_up():
    seen = rows(PAGE, "four-hup-watched")
    assert seen["answered"] == ["CLOSE-WAIT", "FIN-WAIT-2"], (
        "“The server has forgotten a client that is still connected”; “it rings its own bell, "
        "and takes it for a visitor's”"
    )
    assert seen["leaves"] == ["gone", "TIME-WAIT"], (
        "“the TIME-WAIT is the server's, too: the address stays in use”"
    )
    seen = rows(PAGE, "four-halves")
    assert seen["SHUT_RD"] == ["nothing", "IN|RDHUP"] and seen["SHUT_WR"] == ["a FIN", "nothing"], (
        '“On the wire there is only "I shall send no more"”; '
        "“Not wanting to read any more is a private matter”; "
        "claim 72, wrong: “A FIN says that nothing more will be sent”"
    )
    assert seen["they close"] == seen["they half-close"], (
        "“So a client that closes, and one that only half-closes and waits for its answer, send "
        "the same FIN and look the same to epoll”"
    )
    assert seen["and SHUT_RD"] == ["a FIN", "IN|HUP|RDHUP"], (
        "“both halves of the connection are shut, or that there is no connection”; “both halves "
        "are shut, here by the server itself”"
    )


def test_room():
    seen = rows(PAGE, "four-out")
    assert seen["is empty"][1] == "OUT" and seen["fills"][1:] == ["nothing", "send: 1000"], (
        "“As a rule there is room, and the event is there at once, and always. But not whenever "
        "there is room”; “`OUT` is nearly always so: ask for it while something is left to "
        "send, and not a moment longer”"
    )
    assert seen["and we shut it"][1:] == ["OUT|HUP", "send: EPIPE"], (
        "“A socket that we have shut is ready, however full: `send` will fail at once”"
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
        "“it keeps the sockets alive: an object that nobody refers to is closed, and with it "
        "goes its registration. So the `unregister` before the `close` looks superfluous, and "
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
        "“a close in one thread wakes nobody who sleeps in another”; “shut down what somebody "
        "else waits for, and close it when he has let go”"
    )


def test_the_bill():
    seen = rows(PAGE, "four-bill")
    assert seen["epoll_ctl"][0] == "4", (
        "“Each change to the list is a system call”; “It costs a system call a client”"
    )
    assert seen["epoll_ctl"][2] == "2" and int(seen["epoll_wait"][2]) > 4, (
        "“asyncio sends at once and asks for `OUT` only if something is left over. That it "
        "polls more often is the price of its coroutines: whenever one is due to run, it looks "
        "at the sockets first”"
    )
    solved = printed(PAGE, "four-asyncio-survives")
    assert solved.startswith("solved:") and "not yet" not in solved, (
        "“asyncio takes the whole chapter: buffers, partial sends, the end of input, and "
        "errors, which end one coroutine and not the server”"
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
        "“An idle client is an entry on a list that nobody reads. It costs no time”"
    )


def test_its_ends():
    seen = rows(PAGE, "four-body")
    assert seen["04"] == ["1", "closed", "send: EPIPE"] and seen["02"][1] == "reset", (
        "“Input that nobody has read turns the `close` into a reset, but now the FIN has gone "
        "ahead of it, and a client that only reads finds its answer and an end”"
    )
    said = printed(PAGE, "four-ends")
    assert "Ctrl-C: exit status -2 KeyboardInterrupt" in said and "gets a FIN" in said, (
        "“The article's `try` without `except` catches nothing, here as there; and when a "
        "server is killed, the kernel closes for it”"
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
        "“A silent client costs a descriptor and nothing else”; “Whoever sends nothing costs a "
        "descriptor”"
    )
    assert mine["connects and closes"] == "spinning", (
        "“one that leaves before it has asked makes it spin”; “One that leaves before its "
        "request is whole makes it spin, while it serves the others”"
    )
    assert mine["a header without end"] == "ok", (
        "“Whoever sends a header without end is put up with”"
    )
    assert list(mine.values()).count("dead") >= 6, (
        "“But there is only one thread to kill, and every uncaught exception does”; “Whatever "
        "is not caught in the loop ends it for everybody”; “What it can't stand is a client "
        "with bad manners. One that asks and leaves without reading can kill it; so does a "
        "reset”"
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
        "“It closes at once, so what it has not read becomes a reset again; and descriptors "
        "still run out”"
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
