"""The kernel's view, against what `ss` says, and against sockets whose state we know."""

import contextlib
import mmap
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import lab
from conftest import BOOK, ROOT
from look import kernel
from survive.clients import pair, reset, vanish
from survive.server import serve

LOOP = BOOK.parent / "code" / "02_request_loop.py"


@pytest.mark.skipif(not shutil.which("ss"), reason="ss is not installed (iproute2)")
def test_sockets_agree_with_ss():
    with serve(LOOP) as server, lab.Conversation(server.address) as talk:
        lab.until_blocked(server.pid, "recvfrom")
        with lab.Conversation(server.address) as waiting:
            waiting.send(b"half")
            lab.until(lambda: kernel.find_socket(server.address).unread)
            port = server.port
            text = subprocess.run(
                ["ss", "-Htan", f"( sport = :{port} or dport = :{port} )"],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            ours = {
                (sock.state, sock.unread, sock.local[1], sock.remote[1])
                for sock in kernel.sockets(port)
            }
    theirs = set()
    for line in text.splitlines():
        state, unread, _, local, remote = line.split()[:5]
        state = {"ESTAB": "ESTABLISHED"}.get(state, state)
        remote_port = remote.rpartition(":")[2].replace("*", "0")
        theirs.add((state, int(unread), int(local.rpartition(":")[2]), int(remote_port)))
    assert ours == theirs
    assert (("LISTEN", 1, port, 0)) in ours and talk.port


@pytest.mark.skipif(not shutil.which("ss"), reason="ss is not installed (iproute2)")
def test_the_accept_queue_agrees_with_ss():
    with socket.create_server(("127.0.0.1", 0), backlog=7) as listener:
        port = listener.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        words = subprocess.run(
            ["ss", "-Hltn", f"sport = :{port}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert kernel.queues_of(listener) == (3, 7) == (int(words[1]), int(words[2]))
        assert kernel.accept_queue(listener.getsockname()) == (3, 7)
        for client in clients:
            client.close()


def test_ipv6_addresses():
    with socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=7) as listener:
        address = listener.getsockname()[:2]
        assert kernel.find_socket(address).local[0] == "::1"
        assert kernel.accept_queue(address) == (0, 7)


def test_sockets_of_ipv6_are_listed_with_the_others():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        there = listener.getsockname()[:2]
        with socket.create_connection(there) as talk, listener.accept()[0] as accepted:
            here = talk.getsockname()[:2]
            found = {row.inode: row for row in kernel.sockets(there[1])}
            ours = [found[os.fstat(each.fileno()).st_ino] for each in (listener, talk, accepted)]
            seen = [(each.state, each.local, each.remote) for each in ours]
            assert seen == [
                ("LISTEN", there, ("::", 0)),
                ("ESTABLISHED", here, there),
                ("ESTABLISHED", there, here),
            ]
            assert kernel.find_socket(here, there) == ours[1]
            reset(talk)


def test_one_socket_is_found_by_both_its_ends_or_as_the_one_that_listens():
    """Between two addresses stands a connection, and never who listens for such."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = listener.getsockname()
        with socket.create_connection(here) as talk, listener.accept()[0] as accepted:
            there = talk.getsockname()
            for found, sock in (
                (kernel.find_socket(here), listener),
                (kernel.find_socket(there, here), talk),
                (kernel.find_socket(here, there), accepted),
            ):
                assert found.inode == os.fstat(sock.fileno()).st_ino
            assert kernel.find_socket(there) is None
            assert kernel.find_socket(here, ("127.0.0.1", 1)) is None
            reset(talk)


def test_one_that_listens_on_all_addresses_is_found_by_each():
    with socket.create_server(("", 0), backlog=3) as listener:
        port = listener.getsockname()[1]
        found = kernel.find_socket(("127.0.0.1", port))
        assert (found.local, found.limit) == (("0.0.0.0", port), 3)


def test_nobody_listens_there():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError, match="nobody listens on 127.0.0.1:"):
            kernel.accept_queue(bound.getsockname())


def test_states_and_queues_of_our_own():
    ours, theirs = pair()
    with ours, theirs:
        assert kernel.state_of(ours) == "ESTABLISHED"
        ours.send(b"12345")
        assert kernel.queues_of(theirs) == (5, 0)
        ours.close()
        lab.until(lambda: kernel.state_of(theirs) == "CLOSE-WAIT")


def test_unsent_bytes_are_counted():
    ours, theirs = pair()
    with ours, theirs:
        ours.setblocking(False)
        taken = 0
        with pytest.raises(BlockingIOError):
            while True:
                taken += ours.send(b"x" * 65536)
        unsent = lab.until(lambda: kernel.queues_of(ours)[1])
        row = kernel.find_socket(ours.getsockname(), ours.getpeername())
        assert 0 < unsent <= taken
        assert row.unsent > 0


def test_time_wait_counts_down_from_sixty():
    ours, theirs = pair()
    names = ours.getsockname(), ours.getpeername()
    ours.close()
    lab.until(lambda: kernel.state_of(theirs) == "CLOSE-WAIT")
    theirs.close()

    def lingers():
        row = kernel.find_socket(*names)
        return row if row and row.state == "TIME-WAIT" else None

    row = lab.until(lingers)
    assert row.timer == "timewait" and 55 < row.left <= 60


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda sock: sock.recv(1), "recvfrom"),
        (lambda sock: select.select([sock], [], [], 5), "(select|pselect6)"),
        (lambda sock: time.sleep(1), "clock_nanosleep"),
    ],
    ids=["recv", "select", "sleep"],
)
def test_blocked_in(call, name):
    ours, theirs = pair()
    with ours, theirs:
        thread = threading.Thread(target=call, args=[ours])
        thread.start()
        # Before that it may sleep elsewhere, waiting for the interpreter's lock.
        blocked = lab.until(
            lambda: (
                (seen := kernel.blocked_in(os.getpid(), thread.native_id))
                and re.fullmatch(name, seen.call)
                and seen
            )
        )
        theirs.send(b"x")
        thread.join()
    assert blocked.channel not in ("", "0")


def test_one_that_runs_is_blocked_in_nothing():
    done = threading.Event()

    def spin():
        while not done.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    lab.until(lambda: kernel.blocked_in(os.getpid(), thread.native_id) is None)
    done.set()
    thread.join()


def test_one_that_has_ended():
    with serve(LOOP) as server:
        pid = server.pid
    with pytest.raises(ProcessLookupError, match="has ended"):
        kernel.blocked_in(pid)


def test_one_that_has_ended_and_is_not_yet_reaped():
    """A zombie: root may read what an ordinary user may not, and both learn the same."""
    child = subprocess.Popen(["true"])
    lab.until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(ProcessLookupError, match="has ended"):
        kernel.blocked_in(child.pid)
    child.wait()


def test_cpu_time_of_an_idle_and_of_a_busy_one(serving):
    with serve(LOOP) as server:
        lab.until_blocked(server.pid, "accept4")
        assert kernel.cpu_share(server.pid, 0.1) == 0
    with serve(serving("def serve(listener):\n    while True: pass\n")) as server:
        lab.until(lambda: kernel.cpu_share(server.pid, 0.2) > 0.1, 10)  # others may be busy
        assert kernel.cpu_time(server.pid) > 0.02


def test_interest_list_and_mask_names():
    ours, theirs = pair()
    with ours, theirs, select.epoll() as epoll:
        assert kernel.interest_list(os.getpid(), epoll.fileno()) == {}
        epoll.register(ours, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
        watched = kernel.interest_list(os.getpid(), epoll.fileno())
        names = kernel.mask_names(watched[ours.fileno()])
        assert set(names.split("|")) == {"IN", "ET", "RDHUP", "ERR", "HUP"}
    assert kernel.mask_names(0) == "-"


def test_timers_have_their_names():
    ours, theirs = pair()
    with ours, theirs:
        assert kernel.find_socket(ours.getsockname(), ours.getpeername()).timer == "off"
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        row = kernel.find_socket(ours.getsockname(), ours.getpeername())
        assert row.timer == "keepalive" and 7000 < row.left <= 7200  # tcp_keepalive_time


def test_memory_of_others_does_not_count():
    """A file's pages, mapped and read, are resident, and nobody's alone to keep."""
    with tempfile.TemporaryFile() as file:
        file.truncate(8_000_000)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            before = kernel.memory(os.getpid())
            assert mapped.find(b"x") == -1  # which reads all of it
            assert kernel.memory(os.getpid()) - before < 1_000_000


def test_memory_grows_with_what_is_written():
    with mmap.mmap(-1, 8_000_000) as block:  # pages that nobody has had before
        before = kernel.memory(os.getpid())
        for _ in range(8):
            block.write(b"x" * 1_000_000)
        assert kernel.memory(os.getpid()) - before > 7_000_000


def test_address_space_grows_with_what_is_mapped_and_not_touched():
    before = kernel.address_space(os.getpid())
    with mmap.mmap(-1, 80_000_000):
        assert 70_000_000 < kernel.address_space(os.getpid()) - before < 200_000_000


def test_how_often_a_thread_has_gone_to_sleep():
    ours, theirs = pair()
    thread = threading.Thread(target=lambda: [ours.recv(1) for _ in range(2)])
    thread.start()
    lab.until_blocked(os.getpid(), "recvfrom", thread.native_id)
    before = kernel.sleeps(os.getpid(), thread.native_id)
    theirs.send(b"x")
    lab.until(lambda: kernel.sleeps(os.getpid(), thread.native_id) > before)
    lab.until_blocked(os.getpid(), "recvfrom", thread.native_id)
    theirs.close()
    thread.join()
    ours.close()
    assert kernel.sleeps(os.getpid()) > 0
    with pytest.raises(ProcessLookupError):
        kernel.sleeps(os.getpid(), thread.native_id)


def test_a_free_port_is_given_once():
    ports = [lab.free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    lowest, highest = map(int, text.split())
    assert all(port >= 10_000 and not lowest <= port <= highest for port in ports)
    script = (
        f"import random, lab\nrandom.sample = lambda *arguments: [{ports[0]}]\nlab.free_port()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BOOK, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert "found no free port" in done.stderr


def test_a_free_port_has_no_connection_to_it(monkeypatch):
    free = lab.free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        busy = listener.getsockname()[1]
        untaken = free + 1 if not kernel.sockets(free + 1) else free + 2
        monkeypatch.setattr(random, "sample", lambda *arguments: [busy, untaken])
        assert lab.free_port() == untaken


THREADS = """
def serve(listener):
    def spin():
        while {spins}:
            pass
    for _ in range(3):
        threading.Thread(target=listener.accept, daemon=True).start()
    threading.Thread(target=spin, daemon=True).start()
    listener.accept()
"""


def test_threads_and_where_each_sleeps(serving):
    with serve(serving(THREADS.format(spins=False))) as server:

        def blocked():
            threads = kernel.threads(server.pid)
            return [kernel.blocked_in(server.pid, thread) for thread in threads]

        def settled():
            with contextlib.suppress(ProcessLookupError):  # one of them has just ended
                return [each and each.call for each in blocked()] == ["accept4"] * 4

        lab.until(settled)
        assert kernel.is_asleep(server.pid)
        threads = kernel.threads(server.pid)
        assert threads[0] == server.pid and threads[1:] == sorted(threads[1:])
        (fd,) = kernel.files(server.pid, "socket")
        assert {each.arguments[0] for each in blocked()} == {fd}


def test_one_running_thread_is_enough_to_be_awake(serving):
    with serve(serving(THREADS.format(spins=True))) as server:
        lab.until(lambda: len(kernel.threads(server.pid)) == 5)
        lab.until_blocked(server.pid, "accept4")
        assert not any(kernel.is_asleep(server.pid) for _ in range(20))
        assert not any(kernel.is_at_rest(server.pid) for _ in range(20))


def test_at_rest_with_so_many_sockets():
    with serve(LOOP) as server:
        lab.until_at_rest(server.pid)
        lab.until_at_rest(server.pid, 1)
        assert not kernel.is_at_rest(server.pid, 2)
        with pytest.raises(TimeoutError):
            lab.until_at_rest(server.pid, 2, seconds=0.05)
        with lab.Conversation(server.address):
            lab.until_at_rest(server.pid, 2)
            assert kernel.is_at_rest(server.pid) and not kernel.is_at_rest(server.pid, 1)


def test_not_at_rest_with_something_unread(serving):
    """Bytes in a receive queue: it sleeps, and will read them at some time or other."""
    path = serving("def serve(listener):\n    accepted = listener.accept()\n    time.sleep(60)\n")
    with serve(path) as server, lab.Conversation(server.address) as talk:
        lab.until_blocked(server.pid, "clock_nanosleep")
        assert kernel.is_at_rest(server.pid)
        talk.send(b"x")
        lab.until(lambda: not kernel.queues_of(talk.socket)[1])  # it has arrived
        assert kernel.is_asleep(server.pid) and not kernel.is_at_rest(server.pid)


def test_not_at_rest_with_somebody_at_the_door(serving):
    with serve(serving("def serve(listener):\n    time.sleep(60)\n")) as server:
        lab.until_at_rest(server.pid)
        with lab.Conversation(server.address):
            lab.until(lambda: kernel.find_socket(server.address).unread)
            assert kernel.is_asleep(server.pid) and not kernel.is_at_rest(server.pid)


def test_not_at_rest_if_it_wakes_up_between_two_looks(monkeypatch):
    looks = iter([True, False])
    monkeypatch.setattr(kernel, "is_asleep", lambda pid: next(looks))
    assert not kernel.is_at_rest(os.getpid())


def test_files_by_their_kind():
    read_end, write_end = os.pipe()
    with socket.socket() as sock:
        inode = os.fstat(sock.fileno()).st_ino
        assert kernel.files(os.getpid(), "socket")[sock.fileno()] == inode
        pipes = kernel.files(os.getpid(), "pipe")
        assert pipes[read_end] == pipes[write_end] == os.fstat(read_end).st_ino
        assert sock.fileno() not in pipes
    os.close(read_end)
    os.close(write_end)


def test_unread_bytes_of_any_kind_of_socket():
    for ours, theirs in (socket.socketpair(), pair()):
        assert kernel.unread(ours) == 0
        theirs.send(b"hello")
        lab.until(lambda ours=ours: kernel.unread(ours) == 5)
        ours.close()
        theirs.close()


def test_every_question_about_a_process_that_has_ended_has_the_same_answer():
    with serve(LOOP) as server:
        os.kill(server.pid, signal.SIGKILL)
        lab.until(lambda: kernel.has_ended(server.pid))
        for question in (
            kernel.blocked_in, kernel.threads, kernel.is_asleep, kernel.descriptors,
            kernel.memory, kernel.is_at_rest, lab.until_at_rest,
            lambda pid: kernel.files(pid, "socket"), lambda pid: kernel.sockets(pid=pid),
        ):  # fmt: skip
            with pytest.raises(ProcessLookupError, match="has ended"):
                question(server.pid)


def test_the_queue_of_somebody_else():
    with serve(ROOT / "code" / "07_backlog.py", 2) as server:
        assert kernel.accept_queue(server.address) == (0, 2)
        with server.paused(), lab.Conversation(server.address):
            assert kernel.accept_queue(server.address) == (1, 2)


def test_listeners_are_those_that_listen():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        inodes = {row.local: row.inode for row in kernel.listeners()}
        assert inodes[address] == os.fstat(listener.fileno()).st_ino
        with lab.Conversation(address) as talk:
            mine = talk.socket.getsockname()
            assert mine not in {row.local for row in kernel.listeners()}
    assert address not in {row.local for row in kernel.listeners()}


def test_counters_count():
    before = kernel.counter("ListenOverflows")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        with lab.Conversation(listener.getsockname()):
            outside = lab.Asker(listener.getsockname())
            assert kernel.counter("ListenOverflows") > before
            outside.close()
    assert kernel.counter("InOctets", "IpExt") > 0
    with pytest.raises(KeyError):
        kernel.counter("NoSuchCounter")


def test_segments_are_counted_at_both_ends():
    ours, theirs = pair()
    with ours, theirs:
        for number in range(1, 4):
            ours.send(b"x")
            lab.until(lambda number=number: kernel.unread(theirs) == number)
            lab.until(lambda: not kernel.queues_of(ours)[1])
        assert (
            kernel.tcp_info(ours, "data_segs_out") == kernel.tcp_info(theirs, "data_segs_in") == 3
        )
        assert kernel.tcp_info(theirs, "data_segs_out") == 0


def test_a_connection_is_counted_the_same_from_outside_and_from_inside():
    ours, theirs = pair()
    with ours:
        ends = theirs.getsockname(), theirs.getpeername()
        ours.send(b"x" * 30)
        lab.until(lambda: kernel.unread(theirs) == 30)
        theirs.recv(100)
        lab.until(lambda: not kernel.queues_of(ours)[1])
        assert kernel.counts_between(*ends) == ("ESTABLISHED", kernel.counts_of(theirs))
        state, counts = kernel.counts_between(*ends[::-1])
        assert (state, counts.bytes_sent, counts.bytes_acked) == ("ESTABLISHED", 30, 30)
        assert (counts.data_segs_out, counts.bytes_retrans, counts.notsent_bytes) == (1, 0, 0)
        assert kernel.counts_of(theirs)[2:7] == (30, 3, 2, 0, 1), "SYN, ACK, ACK; SYN+ACK, data"
        theirs.close()
        lab.until(lambda: kernel.state_of(ours) == "CLOSE-WAIT")
        lab.until(lambda: kernel.counts_between(*ends) == ("FIN-WAIT-2", None))
    lab.until(lambda: kernel.counts_between(*ends[::-1]) == (None, None))
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        assert kernel.counts_between(listener.getsockname(), ends[0]) == (None, None)


def test_a_structure_that_is_too_short_counts_nothing():
    assert kernel._counts(b"\0" * 215) is None
    assert kernel._counts(b"\0" * 216) == kernel.Counts(*[0] * 10)


def test_a_new_connection_may_have_ten_segments_on_their_way():
    ours, theirs = pair()
    with ours, theirs:
        assert kernel.tcp_info(ours, "snd_cwnd") == 10  # RFC 6928
        assert 200_000 <= kernel.tcp_info(ours, "rto") < 400_000  # microseconds; TCP_RTO_MIN


def test_what_a_cork_keeps_is_not_sent():
    ours, theirs = pair()
    with ours, theirs:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        ours.send(b"x" * 100)
        assert (kernel.not_sent(ours), kernel.queues_of(ours)) == (100, (0, 100))
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        lab.until(lambda: kernel.queues_of(ours) == (0, 0))
        assert kernel.not_sent(ours) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_ends_at_an_address_with_what_they_hold(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        address = listener.getsockname()
        clients = [stack.enter_context(socket.create_connection(address[:2])) for _ in range(3)]
        accepted = stack.enter_context(listener.accept()[0])
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        accepted.send(b"abc")
        clients[1].send(b"12345")
        lab.settled(clients[2])
        diag = stack.enter_context(kernel.open_diag())
        for _ in range(2):  # with the same diag
            ends = {end.remote[1]: end for end in kernel.ends_at(address, diag)}
        ports = [client.getsockname()[1] for client in clients]
        inodes = set(kernel.files(os.getpid(), "socket").values())
    assert sorted(ends) == sorted(ports), "and not the listener"
    seen = [(ends[port].unread, ends[port].held) for port in ports]
    assert seen == [(0, 3), (5, 0), (0, 0)]
    assert [ends[port].inode in inodes for port in ports] == [True, False, False]
    assert [ends[port].inode for port in ports[1:]] == [0, 0], "nobody has accepted these"


def test_arrivals_are_seen_one_by_one():
    ours, theirs = pair()
    with ours, theirs:
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(kernel.arrivals, theirs, 30, 5)
            for size in (10, 15, 5):
                before = kernel.unread(theirs)
                ours.send(b"x" * size)
                lab.until(lambda there=before + size: kernel.unread(theirs) == there)
                time.sleep(0.05)  # several times as long as between two looks
        assert [size for _, size in seen.result()] == [10, 15, 5]
        times = [when for when, _ in seen.result()]
        assert times == sorted(times)
        assert [size for _, size in kernel.arrivals(theirs, 30)] == [30], "it was there already"


def test_arrivals_end_in_time_and_hold_the_acknowledgements():
    ours, theirs = pair()
    with ours, theirs:
        began = time.monotonic()
        assert kernel.arrivals(theirs, 1, 0.1, quick=0) == []
        assert 0.1 <= time.monotonic() - began < 0.6
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 0
        assert kernel.arrivals(theirs, 1, 0.01, quick=1) == []
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1


def test_drops_of_one_listener():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        with lab.Conversation(listener.getsockname()):
            assert kernel.drops(listener) == 0
            outside = [lab.Asker(listener.getsockname()) for _ in range(3)]
            assert kernel.drops(listener) == 3
            for caller in outside:
                caller.close()


def test_the_interest_list_of_a_server_in_names():
    with serve(ROOT / "code" / "04_level_triggered.py") as server:
        lab.until_blocked(server.pid, "epoll_wait")
        assert kernel.watched(server.pid) == ["IN|ERR|HUP"]
    with serve(ROOT / "code" / "02_request_loop.py") as server:
        lab.until_blocked(server.pid, "accept4")
        with pytest.raises(ValueError, match="not asleep in epoll_wait"):
            kernel.watched(server.pid)


EPOLL_NAMES = [  # all that epoll_ctl(2) names and Python knows, but for WAKEUP
    "IN", "PRI", "OUT", "ERR", "HUP", "RDHUP", "EXCLUSIVE", "ONESHOT", "ET",
]  # fmt: skip


@pytest.mark.parametrize("name", EPOLL_NAMES)
def test_each_event_has_its_name(name):
    bit = getattr(select, f"EPOLL{name}")
    assert kernel.mask_names(bit) == name
    rest = kernel.mask_names(sum(getattr(select, f"EPOLL{each}") for each in EPOLL_NAMES) & ~bit)
    assert rest == "|".join(each for each in EPOLL_NAMES if each != name)


def test_watched_asks_where_it_sleeps_before_it_reads_the_list(monkeypatch):
    """What is registered until it sleeps is on the list."""
    ours, theirs = pair()
    with ours, theirs, select.epoll() as epoll:

        def blocked_in(pid):
            epoll.register(ours, select.EPOLLIN)
            return kernel.Blocked("epoll_wait", "ep_poll", (epoll.fileno(), 0, 0, 0, 0, 0))

        monkeypatch.setattr(kernel, "blocked_in", blocked_in)
        assert kernel.watched(os.getpid()) == ["IN|ERR|HUP"]


@pytest.mark.parametrize("blocked", [None, kernel.Blocked("accept4", "inet_csk_accept", (3,) * 6)])
def test_what_one_watches_that_does_not_sleep_in_epoll_wait_is_not_told(monkeypatch, blocked):
    monkeypatch.setattr(kernel, "blocked_in", lambda pid: blocked)
    with pytest.raises(ValueError, match="is not asleep in epoll_wait"):
        kernel.watched(os.getpid())


ASLEEP = kernel.Blocked("read", "pipe_read")


@pytest.mark.parametrize(
    ("threads", "asleep"),
    [
        ([ASLEEP], True),
        ([ASLEEP, ASLEEP], True),
        ([kernel.Blocked("read", "ptrace_stop")], False),
        ([ASLEEP, kernel.Blocked("read", "ptrace_stop")], False),
        ([ASLEEP, None], False),
        ([ASLEEP, ProcessLookupError()], True),  # a thread has ended meanwhile
    ],
)
def test_what_is_asleep(monkeypatch, threads, asleep):
    """Every thread sleeps by itself: one that a tracer has stopped may be at work."""

    def blocked_in(pid, thread):
        found = threads[thread - 1]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(kernel, "threads", lambda pid: [*range(1, len(threads) + 1)])
    monkeypatch.setattr(kernel, "blocked_in", blocked_in)
    assert kernel.is_asleep(1) == asleep


def test_one_whose_main_thread_has_ended_is_not_asleep(monkeypatch):
    monkeypatch.setattr(kernel, "threads", lambda pid: [pid])
    with pytest.raises(ProcessLookupError):
        kernel.is_asleep(2**22 + 1)  # more than there can be


def test_the_states_of_a_process():
    child = subprocess.Popen(["sleep", "60"])
    lab.until(lambda: kernel.state(child.pid) == "S")
    child.send_signal(signal.SIGSTOP)
    lab.until(lambda: kernel.state(child.pid) == "T")
    assert not kernel.has_ended(child.pid)
    child.kill()
    lab.until(lambda: kernel.state(child.pid) == "Z")
    assert kernel.has_ended(child.pid)
    child.wait()
    assert kernel.state(child.pid) == "X"
    assert kernel.state(os.getpid(), threading.get_native_id()) == "R"
    assert kernel.state(os.getpid(), child.pid) == "X", "a thread that is not there"


LEADS = """
import os, subprocess, sys
ended = subprocess.Popen(["true"])
children = [subprocess.Popen(["sleep", "60"], process_group=group) for group in (None, None, 0)]
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
print(*(child.pid for child in children), flush=True)
sys.stdin.read()
for child in children:
    child.kill()
    child.wait()
"""


def test_the_processes_of_a_group_its_leader_first():
    """Not the one that has ended and not been reaped, nor the one that has left for its own."""
    with subprocess.Popen(
        [sys.executable, "-c", LEADS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    ) as leader:
        *inside, outside = map(int, leader.stdout.readline().split())
        assert kernel.group(leader.pid) == [leader.pid, *sorted(inside)]
        assert kernel.group(outside) == [outside]
        leader.stdin.close()
        leader.wait()
    assert kernel.group(leader.pid) == []


def test_the_leader_is_first_even_with_the_highest_number(monkeypatch):
    """Numbers begin again from the lowest when they have run out."""
    monkeypatch.setattr(os, "listdir", lambda path: ["30", "self", "10", "20"])
    monkeypatch.setattr(os, "getpgid", lambda pid: 30)
    monkeypatch.setattr(kernel, "has_ended", lambda pid: False)
    assert kernel.group(30) == [30, 10, 20]


def test_a_share_of_a_core_is_of_the_time_that_passed(monkeypatch):
    """A quarter of the second that the window took, though it should have been shorter."""
    clock, passed = iter([1.0, 1.25]), iter([10.0, 11.0])
    monkeypatch.setattr(kernel.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(kernel.time, "monotonic", lambda: next(passed))
    assert kernel.share_of_a_core(lambda: next(clock), 0.5) == 0.25


@pytest.mark.parametrize(
    ("their_end", "our_state", "their_state"),
    [
        ("acknowledges", "FIN-WAIT-2", "CLOSE-WAIT"),
        ("has vanished", "FIN-WAIT-1", "ESTABLISHED"),
        ("has closed as well", "TIME-WAIT", "CLOSE"),
        ("has closed and we vanish", "FIN-WAIT-2", "LAST-ACK"),
    ],
)
def test_the_states_on_the_way_to_an_end(their_end, our_state, their_state):
    """We send a FIN first; what becomes of either end depends on what the other one hears."""
    ours, theirs = pair()
    names = ours.getsockname(), ours.getpeername()
    with ours, theirs:
        if their_end == "has vanished":
            vanish(theirs)
        ours.shutdown(socket.SHUT_WR)
        if "closed" in their_end:
            lab.until(lambda: kernel.state_of(ours) == "FIN-WAIT-2")
            if "we vanish" in their_end:
                vanish(ours)
            theirs.shutdown(socket.SHUT_WR)
        lab.until(lambda: kernel.state_of(theirs) == their_state)
        lab.until(lambda: kernel.find_socket(*names).state == our_state)
        reset(theirs)
        if our_state != "TIME-WAIT":
            reset(ours)


# A child that is spawned opens the named pipe before anything else, and so waits for a writer; its
# parent is held up meanwhile, in state D: vfork(2).
HELD_UP = """
import os, sys
action = (os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)
os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ, file_actions=[action]), 0)
"""


def test_one_that_is_held_up_in_a_call_does_not_sleep(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", HELD_UP, str(pipe)]) as process:
        lab.until(lambda: kernel.state(process.pid) == "D", what="the child to hold its parent up")
        asleep = kernel.is_asleep(process.pid)
        pipe.write_bytes(b"")
    assert not asleep and process.returncode == 0


def test_how_much_of_a_send_buffer_is_taken():
    ours, theirs = pair(send_buffer=50_000)
    with ours, theirs:
        assert kernel.send_buffer(ours) == (0, 100_000)
        ours.setblocking(False)
        lab.fill(ours, buffer=50_000)
        taken, size = kernel.send_buffer(ours)
        assert size == 100_000 and 0.6 * size < taken < 1.5 * size
