"""The matrix is an instrument: for each verdict a server that deserves it, and one that just
does not."""

import contextlib
import socket
import textwrap
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import BOOK, ROOT
from lab import matrix
from lab.matrix import Column
from look import kernel
from survive import awkward, clients, rows, scene
from survive.rows import Row, Traits
from survive.scene import Verdict, _Scene, judge
from survive.server import serve as start

WELL = """
def answer(connection):
    with connection:
        connection.settimeout(5)
        request = b""
        while b"\\r\\n\\r\\n" not in request:
            data = connection.recv(1024)
            if not data:
                return
            request += data
        connection.sendall(ANSWER)

def carefully(connection):
    try:
        answer(connection)
    except OSError:
        pass

def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=carefully, args=[connection], daemon=True).start()
"""


@pytest.fixture
def verdict(serving):
    """Judge a server, given as `serve`, by a client; returns the verdict."""

    def verdict(serve, act=awkward.plain_get, right=rows.whatever, **traits):
        return judge(Row(act, right), partial(start, serving(serve)), Traits(**traits))

    return verdict


def test_ok(verdict):
    seen = verdict(WELL, awkward.plain_get, rows.hello)
    assert str(seen) == "ok"


def test_dead_of_an_exception(verdict):
    start = "threading.Thread(target=carefully, args=[connection], daemon=True).start()"
    seen = verdict(WELL.replace(start, "answer(connection)"), awkward.half_a_request_then_resets)
    assert seen.word == "dead" and seen.reason.startswith("ConnectionResetError")


def test_not_dead_of_a_caught_one(verdict):
    assert verdict(WELL, awkward.half_a_request_then_resets).word == "ok"


def test_dead_even_with_status_0(verdict):
    """Only a server that is written to end may end."""
    once = WELL.replace(
        "while True:\n        connection, _",
        "for _ in range(2):\n        connection, _",
    )
    assert verdict(once).word == "dead"


def test_dead_in_a_repeat(verdict):
    """It stands the first time, and the bystander; the tenth is one too many."""
    ten = WELL.replace(
        "while True:\n        connection, _",
        "for _ in range(10):\n        connection, _",
    )
    assert verdict(ten).word == "dead"


def test_ends_is_for_those_that_are_written_to(verdict):
    once = """
def serve(listener):
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(ANSWER)
"""
    assert verdict(once, right=rows.hello, answers_once=True).word == "ends"
    assert verdict(once, right=rows.hello).word == "dead"
    assert verdict(once + "    sys.exit(1)", answers_once=True).word == "dead"
    wrong = once.replace("sendall(ANSWER)", "sendall(b'?')")
    assert verdict(wrong, right=rows.hello, answers_once=True).word == "wrong"


SLOW = """
def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout({timeout})
            try:
                while b"\\r\\n\\r\\n" not in connection.recv(1024):
                    pass
                connection.sendall(ANSWER)
            except OSError:
                pass
"""


def test_frozen_by_one_that_says_nothing(verdict):
    assert verdict(SLOW.format(timeout=30), awkward.says_nothing).word == "frozen"


def test_not_frozen_if_it_takes_a_second(verdict):
    assert verdict(SLOW.format(timeout=1), awkward.says_nothing).word == "ok"


SPINNING = """
def serve(listener):
    def spin():
        while not gone.is_set() or {for_ever}:
            pass
    gone = threading.Event()
    while True:
        connection, _ = listener.accept()
        if not connection.recv(1024):
            threading.Thread(target=spin, daemon=True).start()
            threading.Timer(0.05, gone.set).start()
        else:
            connection.sendall(ANSWER)
        connection.close()
"""


def test_spinning(verdict):
    assert verdict(SPINNING.format(for_ever=True), awkward.connects_and_closes).word == "spinning"


def test_not_spinning_if_it_only_takes_a_moment(verdict):
    """A twentieth of a second of work after a client has left, and then nothing."""
    seen = verdict(SPINNING.format(for_ever=False), awkward.connects_and_closes)
    assert seen.word == "ok"


LEAKING = """
kept = []
def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.recv(1024)
        connection.sendall(ANSWER)
        connection.shutdown(socket.SHUT_RDWR)
        {keep}
"""


def test_leaking_descriptors(verdict):
    seen = verdict(LEAKING.format(keep="kept.append(connection)"))
    assert seen.word == "leaking" and "descriptors" in seen.reason


def test_not_leaking_if_it_keeps_a_few(verdict):
    """Three connections are kept, as a pool would; the bystander's and two of the client's."""
    keep = "kept.append(connection); len(kept) > 3 and kept.pop(0).close()"
    assert verdict(LEAKING.format(keep=keep)).word == "ok"


def test_leaking_if_it_keeps_every_second_connection(verdict):
    """Half a descriptor a repeat, ten of twenty."""
    keep = "kept.append(connection); len(kept) % 2 and connection.close()"
    seen = verdict(LEAKING.format(keep=keep))
    assert seen.word == "leaking" and "descriptors" in seen.reason


def test_leaking_memory(verdict):
    keep = "connection.close(); kept.append(bytearray(b'x' * 50_000))"
    seen = verdict(LEAKING.format(keep=keep))
    assert seen.word == "leaking" and "kB" in seen.reason


def test_not_leaking_if_memory_is_given_back(verdict):
    assert verdict(LEAKING.format(keep="connection.close(); bytearray(b'x' * 50_000)")).word == "ok"


def test_not_leaking_if_the_client_that_it_keeps_is_still_there(verdict):
    assert verdict(WELL, awkward.says_nothing).word == "ok"


def test_wrong_answer(verdict):
    seen = verdict(WELL, awkward.head, rows.header_alone)
    assert seen.word == "wrong" and "Hello, world!" in seen.reason


def test_wrong_end(verdict):
    """The answer is right, but a reset follows it, for what was left unread."""
    careless = LEAKING.format(keep="connection.close()").replace(
        "connection.shutdown(socket.SHUT_RDWR)", "pass"
    )
    seen = verdict(careless, awkward.a_body_left_unread, rows.some_answer)
    assert seen.word == "wrong" and seen.reason.endswith("reset")


def test_right_if_the_body_is_read(verdict):
    patient = LEAKING.format(keep="connection.close()").replace("recv(1024)", "recv(65536)")
    assert verdict(patient, awkward.a_body_left_unread, rows.some_answer).word == "ok"


def test_not_applicable_has_a_reason():
    row = rows.row("never reads a long answer")
    seen = judge(row, None)
    assert (seen.word, seen.reason) == ("n/a", "its answer is short")


EMFILE = """
import select
def serve(listener):
    listener.setblocking(False)
    watched = [listener]
    while True:
        for ready in select.select(watched, [], [])[0]:
            if ready is not listener:
                watched.remove(ready)
                with ready:
                    if ready.recv(1024):
                        ready.sendall(ANSWER)
                continue
            try:
                watched.append(listener.accept()[0])
            except BlockingIOError:
                pass
            except OSError:
                {instead}
"""


def test_more_clients_than_descriptors(verdict):
    act = awkward.more_clients_than_descriptors
    assert verdict(EMFILE.format(instead="raise"), act).reason.startswith("OSError: [Errno 24]")
    assert verdict(EMFILE.format(instead="time.sleep(0.01)"), act).word == "ok"


def test_every_row_against_a_server_that_does_as_it_should(serving):
    """What one-thread servers will get in time; so the rows can be green at all."""
    path = str(serving(WELL))
    columns = [Column("well", path)]
    names = (
        "plain GET", "one byte at a time", "two at once", "says nothing", "connects and closes",
        "half a request then closes", "half a request then resets", "whole request then resets",
        "asks and leaves", "half closes after asking", "bytes that are not UTF-8",
        "a bare line feed", "a TLS hello", "its console closed",
    )  # fmt: skip
    verdicts = matrix.survey([rows.row(name) for name in names], columns)
    assert {name: str(verdict) for (name, _), verdict in verdicts.items()} == dict.fromkeys(
        names, "ok"
    )


def test_what_a_client_sends_at_once_is_there_together_whenever_the_server_looks():
    """Request and FIN, or request and reset."""
    for act, end in (
        (awkward.asks_and_leaves, "CLOSE-WAIT"),
        (awkward.whole_request_then_resets, None),
    ):
        for _ in range(20):
            with start(ROOT / "code" / "02_request_loop.py") as server:
                with server.paused(), clients.Conversation(server.address) as talk:
                    local = talk.socket.getsockname()
                    act(talk, Unpaused(server))
                    row = kernel.find_socket(server.address, local)
                    assert (row.state if row else None) == end


class Unpaused:
    """A server that is stopped already, for an act that would stop it."""

    def __init__(self, server):
        self.server = server

    def paused(self):
        return contextlib.nullcontext()


def test_frozen_in_a_repeat(verdict):
    """It serves five clients, then waits for something that never comes."""
    five = LEAKING.format(
        keep="connection.close(); kept.append(1); len(kept) > 5 and time.sleep(60)"
    )
    assert verdict(five).word == "frozen"


BUSY = """
def work():
    while True:
        until = time.process_time() + {works}
        while time.process_time() < until:
            pass
        time.sleep({rests})
def serve(listener):
    busy = threading.Thread(target=work, daemon=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            if connection.recv(1024):
                connection.sendall(ANSWER)
            elif not busy.is_alive():
                busy.start()
"""


def test_a_fifth_of_a_core_is_spinning_and_a_hundredth_is_not(verdict):
    act = awkward.connects_and_closes
    assert verdict(BUSY.format(works=0.01, rests=0.02), act).word == "spinning"
    assert verdict(BUSY.format(works=0.001, rests=0.2), act).word == "ok"


def test_working_off_what_has_been_sent_is_not_spinning(verdict):
    """Some of the input still lies in the kernel while the windows are measured."""
    path = """
def slowly(connection):
    with connection:
        first = connection.recv(1024)
        if first.startswith(b"GET"):
            connection.sendall(ANSWER)
            return
        while connection.recv(65536):
            until = time.process_time() + 0.02
            while time.process_time() < until:
                pass
def serve(listener):
    while True:
        threading.Thread(target=slowly, args=[listener.accept()[0]], daemon=True).start()
"""

    def sends_much(talk, server):
        talk.socket.settimeout(0.2)
        for _ in range(64):
            talk.send(b"x" * 65536)

    assert verdict(path, sends_much).word == "ok"


def test_a_small_leak_is_one(verdict):
    """Fifteen kilobytes a client: what a request and its answer may come to."""
    keep = "connection.close(); kept.append(bytearray(b'x' * 15_000))"
    assert verdict(LEAKING.format(keep=keep)).word == "leaking"


def test_the_act_is_repeated_as_often_as_is_said(verdict, tmp_path):
    counter = tmp_path / "count"
    counts = f"connection.recv(1024); open({str(counter)!r}, 'a').write('x')"
    text = LEAKING.format(keep="connection.close()").replace("connection.recv(1024)", counts)
    assert verdict(text).word == "ok"
    bystanders, for_set_up = 3, 1
    assert len(counter.read_text()) == 1 + bystanders + for_set_up + scene.REPEATS


HTTP = """
HEAD = ANSWER.partition(b"Hello")[0]
def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            request = b""
            while data := connection.recv(1024):
                request += data
                while b"\\r\\n\\r\\n" in request:
                    first, _, request = request.partition(b"\\r\\n\\r\\n")
                    connection.sendall(HEAD if first.startswith(b"HEAD") else ANSWER)
                    if b"HTTP/1.0" in first or b"close" in first:
                        break
                else:
                    continue
                break
"""


@pytest.mark.parametrize("name", ["HEAD", "two pipelined requests", "plain GET"])
def test_a_server_that_knows_http_passes_the_rows_that_ask_for_it(serving, name):
    row = rows.row(name)
    assert str(judge(row, partial(start, serving(HTTP)))) == "ok"


def test_one_that_dies_before_anybody_asks(verdict):
    """It listens, says so and is gone: that is a verdict, not an accident of the matrix."""
    seen = verdict("def serve(listener):\n    raise NameError('nobody')\n")
    assert str(seen) == "dead: NameError: nobody"


def test_the_reason_tells_dropped_from_waiting(verdict):
    dropping = """
def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
"""
    assert str(verdict(dropping)) == "frozen: a bystander was dropped in 3 s"


@pytest.fixture
def hasty(monkeypatch):
    """A second of patience, for servers that freeze anyway."""
    monkeypatch.setattr(scene, "PATIENCE", 1)


AFTER_THE_FIRST = """
def serve(listener):
    awkward, _ = listener.accept()
    with listener.accept()[0] as bystander:
        bystander.recv(1024)
        bystander.sendall(ANSWER)
    awkward.recv(1024)
    {then}
    while True:
        with listener.accept()[0] as connection:
            connection.recv(1024)
            connection.sendall(ANSWER)
"""


def test_frozen_for_the_late_bystander(verdict, hasty):
    """The first one is served before the act begins; the act is over, and its client stays."""
    act = awkward.a_header_without_end
    seen = verdict(AFTER_THE_FIRST.format(then="time.sleep(60)"), act)
    assert str(seen) == "frozen: a bystander got nothing in 1 s"


def test_not_frozen_if_the_late_bystander_is_served(verdict):
    assert verdict(AFTER_THE_FIRST.format(then="pass"), awkward.a_header_without_end).word == "ok"


STRIKES = """
kept = []
def serve(listener):
    for number in range(1000):
        connection, _ = listener.accept()
        request = connection.recv(1024)
        if number > 9:
            kept.append(connection)
            continue
        if request:
            connection.sendall(ANSWER)
        connection.close()
"""


def test_frozen_for_the_last_bystander(verdict, hasty):
    """After ten clients it takes connections and answers none; that it keeps them is less."""
    seen = verdict(STRIKES, awkward.connects_and_closes)
    assert str(seen) == "frozen: a bystander got nothing after 20 repeats"


def test_not_leaking_if_it_grows_but_once(verdict):
    """By a megabyte, with the tenth client: as the allocator of a thread may."""
    keep = "connection.close(); kept.append(bytearray(b'x' * 1_000_000 * (len(kept) == 9)))"
    assert verdict(LEAKING.format(keep=keep)).word == "ok"


TAKES = """
import select
def take(connection):
    data = connection.recv(1024)
    until = time.monotonic() + 0.0005  # slower than it is sent
    while time.monotonic() < until:
        pass
    return data
def serve(listener):
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    watched = [listener]
    while True:
        for ready in select.select(watched, [], [])[0]:
            if ready is listener:
                watched.append(listener.accept()[0])
                watched[-1].settimeout(0)
                continue
            try:
                data = take(ready)
                while data and {greedy}:
                    data += take(ready)
            except BlockingIOError:
                pass
            if data.startswith(b"GET"):
                ready.sendall(ANSWER)
            if not data.startswith(b"x"):
                watched.remove(ready)
                ready.close()
"""


def test_frozen_by_one_that_sends_without_pause(verdict, monkeypatch):
    """It is drained to the end first, of which there is none."""
    monkeypatch.setattr(scene, "PATIENCE", 2)
    seen = verdict(TAKES.format(greedy=True), awkward.sends_without_pause, rows.no_success)
    assert seen.word == "frozen"


def test_not_frozen_if_it_is_read_in_turns(verdict):
    seen = verdict(TAKES.format(greedy=False), awkward.sends_without_pause, rows.no_success)
    assert seen.word == "ok"


def test_ten_while_it_is_busy_need_a_queue_for_nine(verdict):
    """FRAME's queue is long; a second listen makes it short."""
    ten, serve = awkward.ten_while_it_is_busy, "def serve(listener):\n"
    assert verdict(WELL, ten, rows.hello_all).word == "ok"
    for length, word in ((7, "wrong"), (8, "ok")):
        again = WELL.replace(serve, f"{serve}    listener.listen({length})\n")
        assert verdict(again, ten, rows.hello_all).word == word


def test_a_column_may_be_a_program_of_a_chapters_cell(monkeypatch):
    monkeypatch.chdir(BOOK)  # where notebooks are at work
    rewrite = next(column for column in matrix.COLUMNS if column.label == "05′")
    assert "translator" in Path(rewrite.file()).read_text(encoding="utf-8")
    assert matrix.judge(rows.row("plain GET"), rewrite).word == "ok"
    with pytest.raises(ValueError, match="has 0 cells that write"):
        Column("05_edge_triggered", "no_such.py").file()


def test_labels_of_columns_are_unique():
    labels = [column.label for column in matrix.COLUMNS]
    assert len(set(labels)) == len(labels) and labels[:3] == ["01", "02", "03"]


# Limits, just under and just over, with a server that says what it is told to


class Told:
    """Stands for a server. windows: (share of a core, asleep, bytes unread) each, in order."""

    def __init__(self, *windows):
        self.windows = list(windows)

    def cpu_time(self):
        return 0.0

    def cpu_share(self, seconds):
        share, self.asleep, _ = self.windows.pop(0)
        return share

    def is_asleep(self):
        return self.asleep

    def sockets(self):
        """The coming window's, for they are looked at before it."""
        return [SimpleNamespace(unread=self.windows[0][2])]


LIMIT = kernel.SPINNING
OVER = LIMIT + 0.001
NOTHING, LITTLE = (0.0, True, 0), (LIMIT, True, 0)
BUSY_AND_ASLEEP, AWAKE = (OVER, True, 0), (0.0, False, 0)
HAS_WORK = (1.0, False, 1)


@pytest.mark.parametrize(
    ("windows", "spins"),
    [
        ([NOTHING], False),
        ([LITTLE, LITTLE], False),
        ([LITTLE, NOTHING], False),
        ([BUSY_AND_ASLEEP, BUSY_AND_ASLEEP], True),
        ([BUSY_AND_ASLEEP, NOTHING], False),
        ([BUSY_AND_ASLEEP, LITTLE, BUSY_AND_ASLEEP, LITTLE, BUSY_AND_ASLEEP, NOTHING], False),
        ([BUSY_AND_ASLEEP, LITTLE, BUSY_AND_ASLEEP, BUSY_AND_ASLEEP], True),
        ([LITTLE, BUSY_AND_ASLEEP, LITTLE, LITTLE], False),
        ([AWAKE, AWAKE, NOTHING], False),
        ([AWAKE, LITTLE, AWAKE, LITTLE, LITTLE], False),
        ([HAS_WORK, HAS_WORK, HAS_WORK, NOTHING], False),
        ([BUSY_AND_ASLEEP, HAS_WORK, BUSY_AND_ASLEEP, NOTHING], False),
        ([HAS_WORK, BUSY_AND_ASLEEP, BUSY_AND_ASLEEP], True),
    ],
)
def test_how_many_windows_make_a_server_a_spinning_one(windows, spins):
    """Busy in two running with nothing to do; a window without a rest is no rest, nor busy."""
    server = Told(*windows)
    played = _Scene(None, None, server)
    played.talk = SimpleNamespace(is_closed=False)
    assert bool(played._spins()) == spins
    assert not server.windows, "it needed no window less"


def test_what_is_unread_is_no_excuse_when_its_client_has_gone():
    played = _Scene(None, None, Told(HAS_WORK, HAS_WORK))
    played.talk = SimpleNamespace(is_closed=True)
    assert played._spins() == "over 5% of a core with nothing to do"


def test_one_that_ends_while_it_is_measured_does_not_spin():
    played = _Scene(None, None, SimpleNamespace())
    played.talk = SimpleNamespace(is_closed=True)

    def has_ended(*seconds):
        raise ProcessLookupError

    played.server.cpu_time = played.server.cpu_share = has_ended
    assert played._spins() == ""


KEEPS = scene.ALLOCATOR_MAY_KEEP


@pytest.mark.parametrize(
    ("descriptors", "memory", "verdict"),
    [
        (0, KEEPS, None),
        (-1, 0, None),
        (1, 0, Verdict("leaking", "1 descriptors")),
        (0, KEEPS + 1, Verdict("leaking", "256 kB")),
    ],
)
def test_what_may_stay_after_the_repeats(descriptors, memory, verdict):
    assert _Scene(None, None, None)._holds(descriptors, memory) == verdict


@pytest.mark.parametrize(
    ("grows", "verdict"),
    [
        ([KEEPS], None),
        ([KEEPS + 1, KEEPS], None),
        ([KEEPS + 1, KEEPS + 1], Verdict("leaking", "256 kB")),
    ],
)
def test_memory_is_measured_again_before_it_is_called_a_leak(monkeypatch, grows, verdict):
    measured = iter(grows)
    for name, value in (("_once_more", lambda self: None), ("_ask", lambda *_: "served")):
        monkeypatch.setattr(_Scene, name, value)
    monkeypatch.setattr(_Scene, "_growth", lambda self: next(measured))
    assert _Scene(None, None, SimpleNamespace(descriptors=lambda: 5))._repeat() == verdict
    assert next(measured, "no more") == "no more"


def test_the_words_for_the_verdicts_tell_the_limits():
    assert f"within {scene.PATIENCE} s" in scene.VERDICTS["frozen"]
    assert f"over {LIMIT:.0%} of a core" in scene.VERDICTS["spinning"]
    assert f"after {scene.REPEATS} repeats" in scene.VERDICTS["leaking"]
    assert "what one client sends is kept" in scene.VERDICTS["leaking"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        played = _Scene(None, None, SimpleNamespace(address=listener.getsockname()))
        with played._connect("a bystander") as bystander:
            assert bystander.seconds == scene.PATIENCE


@pytest.mark.parametrize(
    ("answer", "then", "fate"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nHello, world!", "close", "served"),
        (b"HTTP/1.0 500 Oh\r\n\r\nHello, world!", "close", "dropped"),
        (b"", "close", "dropped"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 14\r\n\r\nHello, world!", "stay", "waiting"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!", "stay", "served"),
    ],
)
def test_the_fate_of_a_bystander(answer, then, fate):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bystander = clients.Conversation(listener.getsockname(), seconds=0.2)
        with listener.accept()[0] as connection:
            connection.sendall(answer)
            if then == "close":
                connection.close()
            fared = _Scene(rows.row("plain GET"), Traits(), None)._fate(bystander)
            assert fared == fate and bystander.is_closed


def test_a_verdict_has_what_the_awkward_client_did_and_got(verdict):
    seen = verdict(WELL, awkward.half_closes_after_asking)
    assert [what for _, what, _ in seen.events] == [
        "calls", "connected", "sent", "half-closed", "got", "closed", "left",
    ]  # fmt: skip
    times = [when for when, _, _ in seen.events]
    assert times == sorted(times) and times[0] == 0
    assert seen == Verdict("ok"), "they don't tell verdicts apart"


def test_a_verdict_of_one_that_dies_has_them_too(verdict):
    seen = verdict(
        "def serve(listener):\n    sys.exit(listener.accept() and 3)", awkward.says_nothing
    )
    assert seen.word == "dead" and [what for _, what, _ in seen.events][:2] == [
        "calls",
        "connected",
    ]


LATE = """
def serve(listener):
    (_, (bystander, _)), _ = (listener.accept(), listener.accept()), listener.close()
    bystander.recv(1024)
    bystander.sendall(ANSWER)
    bystander.close()
    time.sleep({seconds})
    raise RuntimeError("last words")
"""


def test_the_last_words_may_come_a_while_after_the_listener_is_closed(verdict):
    """An exception closes it on its way, and a busy machine takes its time for the traceback."""
    seen = verdict(LATE.format(seconds=1.5), awkward.says_nothing)
    assert str(seen) == "dead: RuntimeError: last words"


def test_one_that_lives_on_and_refuses_has_no_last_words(verdict, monkeypatch):
    monkeypatch.setattr(scene, "PATIENCE", 1)
    seen = verdict(LATE.format(seconds=30), awkward.says_nothing)
    assert str(seen) == "dead: it refused a connection"


# Those that overstay, those that never end, and the end


@pytest.fixture
def judged(serving):
    """Judge a server, given as `serve`, by a row, by its name; returns the verdict in words."""

    def judged(serve, name, **traits):
        def begin(long_answer=False, log_file=False):
            path = serving((LONGER if long_answer else "") + textwrap.dedent(serve))
            return start(path, log_file=log_file)

        return str(judge(rows.row(name), begin, Traits(long_answer=True, logs=True, **traits)))

    return judged


LONGER = "ANSWER = ANSWER.replace(b'13', b'8000000') + bytes(8_000_000 - 13)\n"

# It drops whoever is still there after some seconds. It answers a GET; who posts is waited for.
VISITS = """
import select
def serve(listener):
    listener.settimeout(0)
    clients = {{}}  # each with the end of its time, what it has sent and what is unsent
    def is_whole(request):
        return request.startswith(b"GET") and b"\\r\\n\\r\\n" in request
    def drop(client):
        del clients[client]
        client.close()
    while True:
        for client in [each for each in clients if clients[each][0] < time.monotonic()]:
            drop(client)
        reads = [listener, *(each for each in clients if not clients[each][2])]
        writes = [each for each in clients if clients[each][2]]
        for ready in sum(select.select(reads, writes, [], 0.1), []):
            try:
                if ready is listener:
                    client = listener.accept()[0]
                    client.settimeout(0)
                    clients[client] = [time.monotonic() + {seconds}, b"", b""]
                elif clients[ready][2]:
                    clients[ready][2] = clients[ready][2][ready.send(clients[ready][2]):]
                    if not clients[ready][2]:
                        drop(ready)
                else:
                    data = ready.recv(65536)
                    clients[ready][1] += data
                    if data and is_whole(clients[ready][1]):
                        clients[ready][2] = ANSWER
                    if not data:
                        drop(ready)
            except BlockingIOError:
                pass
            except OSError:
                if ready is listener:  # out of descriptors
                    time.sleep(0.05)
                else:
                    drop(ready)
"""
OVERSTAY = [row.name for row in rows.ROWS if row.overstays]


@pytest.mark.parametrize("name", OVERSTAY)
def test_frozen_by_those_that_overstay(judged, hasty, name):
    """It gives them up after two seconds and a half, of which it says nothing."""
    assert judged(VISITS.format(seconds=2.5), name) == "frozen: a bystander got nothing in 1 s"


@pytest.mark.parametrize("name", OVERSTAY)
def test_not_frozen_if_it_gives_them_up_in_the_time_that_it_says(judged, hasty, name):
    assert judged(VISITS.format(seconds=2.5), name, deadline=4) == "ok"


def test_dead_of_those_that_overstay(judged):
    dying = VISITS.format(seconds=60).replace(
        "if ready is listener:  #", "if ready is listener: raise  #"
    )
    dying = dying.replace(
        "raise  # out of descriptors\n                    time.sleep(0.05)", "raise"
    )
    said = judged(dying, "drips a header")
    assert said == "dead: OSError: [Errno 24] Too many open files"


def test_one_that_answers_once_may_end_by_one_that_overstays(judged):
    once = """
def serve(listener):
    with listener.accept()[0] as connection:
        connection.recv(1024)
        connection.sendall(ANSWER)
"""
    assert judged(once, "drips a body", answers_once=True) == "ends"
    assert judged(once, "drips a body").startswith("dead")


def test_where_the_queue_is_full_a_bystander_is_not_let_in(judged, hasty):
    said = judged(SLOW.format(timeout=60), "silent at the descriptor limit")
    assert said == "frozen: a bystander got nothing in 1 s"
    short = SLOW.format(timeout=60).replace(
        "(listener):\n", "(listener):\n    listener.listen(1)\n"
    )
    said = judged(short, "silent at the descriptor limit")
    assert said == "frozen: it took no connection for 1 s"


HEADERS = """
import select
def serve(listener):
    clients = {{}}
    while True:
        for ready in select.select([listener, *clients], [], [])[0]:
            if ready is listener:
                clients[listener.accept()[0]] = bytearray()
                continue
            data = ready.recv(65536)
            clients[ready] += data
            if {drops}:
                del clients[ready][:-4]
            if not data or b"\\r\\n\\r\\n" in clients[ready][-4:] or {refuses}:
                ready.sendall(ANSWER.replace(b"200", b"431") if {refuses} else ANSWER)
                del clients[ready]
                ready.close()
"""


@pytest.mark.parametrize(
    ("drops", "refuses", "word"),
    [
        ("False", "False", "leaking: 64 MB of one header are kept"),
        ("len(clients[ready]) > 30_000_000", "False", "ok"),
        ("True", "False", "ok"),
        ("False", "len(clients[ready]) > 10_000_000", "ok"),
    ],
)
def test_a_header_is_kept_or_is_not(judged, drops, refuses, word):
    served = HEADERS.format(drops=drops, refuses=refuses)
    assert judged(served, "a header without end") == word


def keeps(before, taken, now):
    played = _Scene(None, None, SimpleNamespace(memory=lambda: now))
    played.talk = SimpleNamespace(taken=taken and (before, taken))
    return played._keeps()


def test_most_of_a_megabyte_is_too_much_to_keep():
    assert keeps(5, None, 0) == ""
    assert keeps(5, 1_000_000, 500_005) == "1 MB of one header are kept"
    assert keeps(5, 1_000_000, 500_004) == ""
    assert keeps(5, 999_999, 2_000_000) == ""


ASKS = """
import select
def serve(listener):
    watched = [listener]
    while True:
        for ready in select.select(watched, [], [])[0]:
            if ready is listener:
                watched.append(listener.accept()[0])
                watched[-1].settimeout(0)
                continue
            try:
                while True:
                    data = ready.recv(1024)
                    time.sleep(0.0005)  # slower than it is sent
                    if data:
                        ready.send(ANSWER)
                    if b"HTTP/1.0" in data or not data:
                        watched.remove(ready)
                        ready.close()
                    if b"HTTP/1.0" in data or not data or not {greedy}:
                        break
            except BlockingIOError:
                pass
            except OSError:
                watched.remove(ready)
                ready.close()
"""


def test_one_that_asks_without_pause_is_served_in_turns_or_alone(judged, hasty):
    said = judged(ASKS.format(greedy=True), "asks without pause")
    assert said == "frozen: a bystander got nothing in 1 s"
    assert judged(ASKS.format(greedy=False), "asks without pause") == "ok"


LOGS = """
import os
lost = False
def log(line):
    global lost
    try:
        {write}
    except OSError:
        {fails}
def serve(listener):
    {first}
    while True:
        with listener.accept()[0] as connection:
            log(connection.recv(1024))
            connection.sendall(ANSWER)
"""
SAYS_ALL = LOGS.format(write="os.write(1, line)", fails="raise", first="")


def test_its_console_is_full(judged):
    name = "its console full and not read"
    assert judged(SAYS_ALL, name) == "frozen: a bystander got nothing in 3 s"
    never_waits = LOGS.format(
        write="os.write(1, line)", fails="pass", first="os.set_blocking(1, False)"
    )
    assert judged(never_waits, name) == "ok"


def test_its_logs_disk_is_full(judged, monkeypatch):
    monkeypatch.setattr(scene, "REPEATS", 3)  # each waits for a line that doesn't come
    name = "its log's disk full then not"
    assert judged(SAYS_ALL, name) == "dead: OSError: [Errno 27] File too large"
    for_good = LOGS.format(write="lost or os.write(1, line)", fails="lost = True", first="")
    assert judged(for_good, name) == "wrong: its log stays empty after the disk has room"
    for_now = LOGS.format(write="os.write(1, line)", fails="lost = True", first="")
    assert judged(for_now, name) == "ok"
    late = "threading.Timer(0.4, os.write, [1, line]).start() if lost else os.write(1, line)"
    assert judged(LOGS.format(write=late, fails="lost = True", first=""), name) == "ok"


def test_where_no_log_is_known_none_is_full():
    seen = judge(rows.row("its log's disk full then not"), None)
    assert str(seen) == "n/a: no log of its requests is known"


# It has a thread for each client; on SIGTERM it lets in who waits, and ends when all are served.
ENDS = """
import contextlib, os, signal
told = threading.Event()
talks = []
def talk(connection):
    with connection:
        request = b""
        while b"\\r\\n\\r\\n" not in request:
            data = connection.recv(1024)
            request += data
            if not data:
                return
        connection.sendall(ANSWER)
def admit(listener):
    connection = listener.accept()[0]
    connection.settimeout(60)
    talks.append(threading.Thread(target=talk, args=[connection], daemon=True))
    talks[-1].start()
def take(number, frame):
    if {ignores}:
        return
    raise InterruptedError
def serve(listener):
    signal.signal(signal.SIGTERM, take)
    try:
        while True:
            admit(listener)
    except InterruptedError:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while {lets_in}:
            admit(listener)
    listener.close()
    for each in talks:
        each.join({waits})
    {at_last}
"""
GENTLY = {"ignores": False, "lets_in": True, "waits": 60, "at_last": ""}
QUEUE, HALF_A_REQUEST, HALF_AN_ANSWER = (row.name for row in rows.ROWS if row.ends)


@pytest.mark.parametrize("name", [QUEUE, HALF_A_REQUEST, HALF_AN_ANSWER])
def test_at_the_end_all_are_served_or_they_are_not(judged, hasty, name):
    assert judged(ENDS.format(**GENTLY), name) == "ends"
    said = judged(ENDS.format(**GENTLY | {"ignores": True}), name)
    assert said == "wrong: it has not ended 1 s after SIGTERM"
    said = judged(ENDS.format(**GENTLY | {"at_last": "sys.exit(3)"}), name)
    assert said == "dead: exit status 3"
    said = judged(ENDS.format(**GENTLY | {"at_last": "os.kill(0, signal.SIGKILL)"}), name)
    assert said == "dead: exit status -9"
    fails = "threading.Thread(target=lambda: 1 / 0).start()"
    said = judged(ENDS.format(**GENTLY | {"at_last": fails}), name)
    assert said == "dead: ZeroDivisionError: division by zero"


def test_at_the_end_who_is_in_the_queue_is_let_in_or_reset(judged):
    said = judged(ENDS.format(**GENTLY | {"lets_in": "len(talks) < 4"}), QUEUE)
    assert said == "wrong: 7 of 10 queued requests were reset"
    closes = ENDS.replace("ANSWER)", "ANSWER if len(talks) < 2 else b'')")
    said = judged(closes.format(**GENTLY), QUEUE)
    assert said == "wrong: 10 of 10 queued requests got no answer"


def test_at_the_end_a_short_queue_is_filled_and_no_more(judged):
    short = ENDS.format(**GENTLY | {"lets_in": False}).replace(
        "(listener):\n    signal", "(listener):\n    listener.listen(3)\n    signal"
    )
    assert judged(short, QUEUE) == "wrong: 4 of 4 queued requests were reset"


def test_at_the_end_halves_are_waited_for_or_cut_off(judged):
    hasty = ENDS.format(**GENTLY | {"waits": 0})
    assert judged(hasty, HALF_A_REQUEST) == "wrong: the request that was half read got no answer"
    assert judged(hasty, HALF_AN_ANSWER) == "wrong: the answer that was half read was cut off"


def test_at_the_end_it_has_the_time_that_it_says(judged, hasty):
    slow = ENDS.format(**GENTLY | {"at_last": "time.sleep(1.5)"})
    assert judged(slow, QUEUE) == "wrong: it has not ended 1 s after SIGTERM"
    assert judged(slow, QUEUE, deadline=2) == "ends"


def test_one_that_answers_nobody_is_frozen_before_it_is_told_to_end(judged, hasty):
    silent = "def serve(listener):\n    kept = listener.accept()\n    time.sleep(60)\n"
    said = judged(silent, HALF_AN_ANSWER)
    assert said == "frozen: the client could not do what it came for"


def test_one_that_would_be_many_may_come_alone(serving, hasty):
    """Then it takes but one descriptor, and a server needs no deadline."""

    def alone(serve, name):
        def begin(long_answer=False):
            return start(serving((LONGER if long_answer else "") + textwrap.dedent(serve)))

        return str(judge(rows.row(name).alone(), begin, Traits(long_answer=True)))

    for name in ("never reads a long answer", "drips a header"):
        assert alone(VISITS.format(seconds=60), name) == "ok"
        assert alone(SLOW.format(timeout=60), name).startswith("frozen")
    assert rows.row("plain GET").alone() is rows.row("plain GET")
