"""Runs recorded step by step, whose order is known, and the frames made of them."""

import resource
import time
from dataclasses import replace

import pytest

import lab
from conftest import BOOK
from lab import frames
from lab.frames import Connection, Registered, Thread, Waiting
from lab.recorder import Call, Recording

CODE = BOOK.parent / "code"
EPOLL = """
import select
def serve(listener):
    connection, _ = listener.accept()
    with select.epoll() as epoll:
        epoll.register(connection, select.EPOLLIN{mode})
{lines}
"""
READS = """
        epoll.poll()
        connection.recv(2)
        epoll.poll(0)
        connection.recv(100)
        epoll.poll(1)
        connection.recv(100)
"""


def program(mode="", lines=READS):
    return EPOLL.format(mode=mode and f" | select.EPOLL{mode}", lines=lines)


def run(path, *pieces):
    """Record a server step by step, to its end; one client sends these pieces, and stays."""
    with lab.record(path, stepwise=True) as recorded:
        talk = recorded.connect("only")
        for piece in pieces:
            talk.send(piece)
        recorded.server.wait()
    return recorded.recording


def ready(recording):
    """What each call, and each act, has found of the one connection on the ready list."""
    found = [(call.returned, call.name, call.ready) for call in recording.all_calls]
    for act in recording.acts:
        found.append((act.when, act.what, {0: act.after.ready} if act.after else None))
    return [
        (name, next(iter(next(iter(seen.values())).values())))
        for when, name, seen in sorted(found, key=lambda each: each[0] or 99)
        if seen and any(seen.values())
    ]


def test_the_ready_list_level_triggered(serving):
    found = ready(run(serving(program()), b"1234", b"5"))
    assert found[:9] == [
        ("register", False), ("sends", True), ("poll", True), ("recv", True), ("poll", True),
        ("recv", False), ("sends", True), ("poll", True), ("recv", False),
    ]  # fmt: skip


def test_the_ready_list_edge_triggered(serving):
    found = ready(run(serving(program("ET")), b"1234", b"5"))
    assert found[:9] == [
        ("register", False), ("sends", True), ("poll", False), ("recv", False), ("poll", False),
        ("recv", False), ("sends", True), ("poll", False), ("recv", False),
    ]  # fmt: skip


REARMS = """
        epoll.poll()
        epoll.poll(0.2)
        epoll.modify(connection, select.EPOLLIN | select.EPOLLONESHOT)
        epoll.poll()
        connection.recv(100)
        epoll.modify(connection, select.EPOLLIN | select.EPOLLONESHOT)
        epoll.poll(0.1)
"""


def test_the_ready_list_one_shot(serving):
    """What comes to one that is disarmed is not reported, until it is armed again."""
    found = ready(run(serving(program("ONESHOT", REARMS)), b"1234", b"5"))
    assert found[:8] == [
        ("register", False), ("sends", True), ("poll", False), ("sends", False), ("poll", False),
        ("modify", True), ("poll", False), ("recv", False),
    ]  # fmt: skip


THREADS = """
import queue, select
def work(epoll, ready):
    for _ in range(4):
        connection = ready.get()
        connection.recv(2)
        epoll.modify(connection, select.EPOLLIN | select.EPOLLONESHOT)
def serve(listener):
    connection, _ = listener.accept()
    ready = queue.SimpleQueue()
    with select.epoll() as epoll:
        epoll.register(connection, select.EPOLLIN | select.EPOLLONESHOT)
        threading.Thread(target=work, args=[epoll, ready], name="worker", daemon=True).start()
        for _ in range(4):
            epoll.poll()
            ready.put(connection)
        epoll.poll(0.1)
"""


def test_a_worker_arms_it_again_while_another_thread_polls(serving):
    """Twin and registration go together: where they disagree, the recorder says nothing (None)."""
    for _ in range(3):
        recording = run(serving(THREADS), b"12345678")
        polls = [call for call in recording.calls("poll") if call.got]
        assert len(polls) == 4, "two bytes each"
        assert all(call.ready and None not in call.ready.values() for call in polls)
        assert recording.calls("poll")[-1].ready == {5: {4: False}}


DUP = """
        import os
        epoll.poll()
        copy, number = socket.socket(fileno=os.dup(connection.fileno())), connection.fileno()
        connection.close()
        epoll.poll()
        copy.recv(100)
        epoll.poll(0.5)
"""


def test_a_registration_that_outlives_its_descriptor(serving):
    recording = run(serving(program("", DUP)), b"1234", b"5")
    close = recording.calls("close")[0]
    (fd,) = close.watched
    assert fd not in close.sockets and next(iter(close.ready.values())) == {fd: True}
    (last,) = [call for call in recording.calls("recv") if call.got]
    assert next(iter(last.ready.values())) == {fd: False}


FORK = """
        import os
        if not os.fork():
            epoll.poll()
            connection.recv(2)
            epoll.poll(0)
            os._exit(0)
        os.wait()
        connection.recv(100)
        epoll.poll(0.2)
"""


def test_a_child_process_shares_the_list_and_has_threads_of_its_own(serving):
    recording = run(serving(program("ET", FORK)), b"1234", b"5")
    made = [(call.thread, call.name, call.got) for call in recording.calls("poll", "recv")]
    child = "child 1, MainThread"
    assert [(thread, name) for thread, name, _ in made] == [
        (child, "poll"), (child, "recv"), (child, "poll"),
        ("MainThread", "recv"), ("MainThread", "poll"),
    ]  # fmt: skip
    of_child = [call for call in recording.calls("poll") if call.thread == child]
    assert [bool(call.got) for call in of_child] == [True, False]
    told = [next(iter(next(iter(call.ready.values())).values())) for call in of_child]
    assert told == [False, False], "the edge is used up"


def test_one_that_is_reset_has_no_end_any_more(serving):
    path = serving(program("", "        epoll.poll()\n        epoll.poll(0.3)\n" * 2))
    with lab.record(path, stepwise=True) as recorded:
        recorded.connect("rude").reset()
        recorded._wait_for_quiet()
    made = frames.frames(recorded.recording)
    reset = next(each for each in made if each.code == "rude resets")
    assert reset.view.connections == (Connection("rude", 4, "CLOSE", None, None),)
    after = made[made.index(reset) + 1].view
    assert after.connections == (Connection("rude", 4, "CLOSE", 0, 0),), "asked from inside"
    assert after.interest == (Registered("rude", 4, "IN|ERR|HUP", True),)


def test_twins_have_high_numbers_and_the_servers_own_are_as_ever(serving):
    plain, stepwise = [], []
    for found, more in ((plain, {}), (stepwise, {"stepwise": True})):
        with lab.record(CODE / "04_level_triggered.py", **more) as recorded:
            recorded.connect("first").ask()
        found += [(call.name, call.fd) for call in recorded.calls("accept", "register", "close")]
    assert plain[:2] == stepwise[:2]
    assert dict(plain) == dict(stepwise)


def test_what_has_no_twin_is_unknown(serving):
    """An exclusive registration's: whom the kernel wakes decides what is on whose list."""
    recording = run(serving(program("EXCLUSIVE")), b"1234", b"5")
    assert [call.ready for call in recording.calls("poll")] == [{5: {}}] * 3
    entries = [each for frame in frames.frames(recording) for each in frame.view.interest or ()]
    assert entries and {entry.ready for entry in entries} == {None}


def scene():
    with lab.record(CODE / "04_level_triggered.py", stepwise=True) as recorded:
        slow = recorded.connect("slow")
        slow.send(lab.REQUEST[:4])
        recorded.connect("quick").ask()
        slow.send(lab.REQUEST[4:])
        slow.read_all()
    return recorded.recording


def timeless(recording):
    return [replace(frame, when=0) for frame in frames.frames(recording)]


def test_a_run_recorded_again_has_the_same_frames():
    first = timeless(scene())
    assert all(timeless(scene()) == first for _ in range(3))


SLOW = {
    "import threading\n": "import threading\nimport time\n",
    "    return sqlite3.connect(path)\n": """\
    database = sqlite3.connect(path)
    database.create_function("pause", 1, time.sleep)
    return database
""",
    "FROM pages": "FROM pages WHERE pause(1) IS NULL",
    "WORKERS = 4": "WORKERS = 2",
}


def workers(path):
    """Record two workers, each with a query of a second, the second half a second later."""
    with lab.record(path, stepwise=True) as recorded:
        lab.until_threads(recorded.server, 3)
        first, second = recorded.connect("first"), recorded.connect("second")
        first.send(lab.REQUEST)
        begun = time.monotonic()
        lab.until(lambda: time.monotonic() > begun + 0.5)
        second.send(lab.REQUEST)
        first.read_all()
        second.read_all()
    return recorded.recording


def test_threads_take_turns_so_that_their_frames_are_the_same_too(write):
    text = (CODE / "06_one_shot.py").read_text(encoding="utf-8")
    for old, new in SLOW.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = write(text, "slow.py")
    first = timeless(workers(path))
    assert timeless(workers(path)) == first
    threads = [frame.view.threads for frame in first]
    assert all([name for name, _ in each] == sorted(name for name, _ in each) for each in threads)
    both = {tuple(doing for _, doing in each) for each in threads}
    assert ("asleep in poll", "asleep in execute", "asleep in execute") in both
    told = [frame.code for frame in first]
    armed = told.index("modify(first, OUT|ONESHOT) → done")
    entry = next(each for each in first[armed].view.interest if each.name == "first")
    assert entry.ready and entry.mask == "OUT|ERR|HUP|ONESHOT", "the loop has not taken it yet"
    took = told.index("poll() → first: OUT")
    entry = next(each for each in first[took].view.interest if each.name == "first")
    assert (entry.ready, entry.mask) == (False, "ONESHOT"), "reported once, and disarmed"


def test_the_frames_of_a_visit():
    made = frames.frames(scene())
    assert [frame.when for frame in made] == sorted(frame.when for frame in made)
    told = [frame.code for frame in made]
    assert told[:8] == [
        "listener.listen(1) → done", "register(listener, IN) → done", "poll(1) …",
        "slow connects", "poll(1) → listener: IN", "listener.accept() → slow, descriptor 5",
        "register(slow, IN) → done", "poll(1) …",
    ]  # fmt: skip
    connects, polled, accepted = made[3:6]
    assert connects.view.queue == (Waiting("slow", 0),) and connects.view.connections == ()
    assert connects.view.threads == (Thread("server", "asleep in poll"),)
    assert connects.view.interest == (Registered("listener", 3, "IN|ERR|HUP", True),)
    assert polled.view.threads == (Thread("server", "runs"),)
    assert accepted.view.queue == () and accepted.view.interest[0].ready is False
    assert accepted.view.connections == (Connection("slow", 5, "ESTABLISHED", 0, 0),)
    (sends,) = [frame for frame in made if frame.code == "quick sends 18 bytes"]
    assert sends.view.connections[1] == Connection("quick", 6, "ESTABLISHED", 18, 0)
    assert made[-1].code == "quick closes", "closed after slow, which the recorder closes first"
    states = [connection.state for connection in made[-1].view.connections]
    assert states == ["TIME-WAIT", "TIME-WAIT"], "after the server's close they are still there"
    assert all(frame.says.endswith(".") for frame in made)


def test_the_lines_between_two_frames():
    made = frames.frames(scene())
    source = (CODE / "04_level_triggered.py").read_text(encoding="utf-8").splitlines()
    accepted = next(frame for frame in made if "accept" in frame.code)
    assert "accept()" in source[accepted.line - 1] and accepted.trail[-1] == accepted.line
    assert all(frame.line is None for frame in made if frame.is_client)


def test_who_waits_in_the_queue_of_a_server_that_sleeps_elsewhere():
    with lab.record(CODE / "02_request_loop.py", stepwise=True) as recorded:
        recorded.connect("silent")
        second = recorded.connect("second")
        second.send(lab.REQUEST)
        recorded.connect("third")
    made = frames.frames(recorded.recording)
    third = next(frame for frame in made if frame.code == "third connects")
    assert third.view.queue == (Waiting("second", 18), Waiting("third", 0))
    assert third.view.threads == (Thread("server", "asleep in recv"),)
    assert third.view.interest is None, "it has no epoll object"


def test_rounds_that_are_alike_are_told_once():
    calls = [Call("listen", 3, "MainThread", 1, 0.0, [1], 0.1)]
    for number in range(10):
        calls.append(Call("recv", 4, "MainThread", 2, 1.0 + number, [9], 0.1, {"bytes": 0}))
    for call in calls:
        call.slept, call.sockets, call.seen = 0, {}, call.returned
    end = lab.recorder.Look(99, 0, 0, [], None, None)
    made = frames.frames(Recording("s.py", [], None, 99, calls, [], [], False, [], end))
    assert [frame.code for frame in made[1:-1]] == ["recv(9) → 0 bytes"] * 2
    assert made[-1].code == "and so on" and "8 more" in made[-1].says


def test_a_run_that_was_not_recorded_step_by_step():
    with lab.record(CODE / "02_request_loop.py") as recorded:
        recorded.connect("only").ask()
    with pytest.raises(ValueError, match=r"02_request_loop\.py was not recorded step by step"):
        frames.frames(recorded.recording)


def test_whether_a_call_has_slept_is_measured():
    with lab.record(CODE / "02_request_loop.py") as recorded:
        lab.until_blocked(recorded.server.pid, "accept4")
        with recorded.server.paused():  # when it goes on, all is there
            talk = recorded.connect("only")
            talk.send(lab.REQUEST)
        talk.read_all()
    accept, recv, send = (recorded.calls(name)[0] for name in ("accept", "recv", "send"))
    assert accept.slept > 0 and recv.slept == send.slept == 0


def test_what_is_registered_and_closed_gives_its_twin_back():
    """Many more connections than there are twins, one after another: each has one."""
    with lab.record(CODE / "04_level_triggered.py", stepwise=True) as recorded:
        for number in range(lab._twins.NUMBER + 5):
            recorded.connect(f"client {number}").ask()
    last = recorded.calls("register")[-1]
    assert set(next(iter(last.ready.values()))) == set(last.watched)


def test_what_it_costs():
    """About 0.5 ms a call and 2 to 9 ms an act, on two idle cores; busy ones have room."""
    recording = min((scene() for _ in range(3)), key=lambda each: each.ended)
    calls = recording.all_calls
    gaps = sorted(
        following.began - call.returned
        for call, following in zip(calls, calls[1:], strict=False)
        if call.took is not None
    )
    assert gaps[len(gaps) // 2] < 0.01, "between two calls, with what the server does there"
    acts = sorted(act.after.when - act.before.when for act in recording.acts)
    assert acts[len(acts) // 2] < 0.05


def test_under_a_low_limit_of_descriptors(serving):
    """The twins were there before, and have numbers beyond it."""
    path = serving(program())
    with lab.record(path, stepwise=True) as recorded:
        recorded.server.limit(resource.RLIMIT_NOFILE, 20)
        recorded.connect("only").send(b"1234")
        recorded.connect("another").send(b"5")
    assert recorded.calls("recv")[0].ready
