"""The sockets of a process: what the kernel tells of them, and what it has written for others."""

import os
import platform
import socket
import sys

import pytest

import lab
from look import kernel, sockets
from look.kernel import Socket

LITTLE = sys.byteorder == "little"


def inodes_of(*socks):
    return {os.fstat(sock.fileno()).st_ino for sock in socks}


def seen(*socks):
    found, not_seen = sockets.of(os.getpid(), inodes_of(*socks))
    assert not_seen == []
    return [found[os.fstat(sock.fileno()).st_ino] for sock in socks]


def test_a_listener_knows_who_stands_in_its_queue():
    with socket.create_server(("127.0.0.1", 0), backlog=7) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as one, socket.create_connection(address) as two:
            both = {one.getsockname(), two.getsockname()}
            (row,) = seen(listener)
            assert (row.state, row.unread, row.limit, row.queue) == ("LISTEN", 2, 7, both)
            accepted, remote = listener.accept()
            with accepted:
                (row,) = seen(listener)
                assert row.queue == both - {remote}


def test_a_connection_knows_how_long_it_has_been_silent_and_what_was_acknowledged():
    ours, theirs = lab.pair()
    theirs.send(b"hello")
    lab.settled(ours)
    ours.send(b"x" * 1000)
    lab.settled(ours)
    row, _ = seen(ours, theirs)
    assert row.kind == "tcp" and row.unread == 5 and row.acked >= 1000
    first = row.silent
    lab.until(lambda: seen(ours)[0].silent > first)
    theirs.send(b"again")
    lab.until(lambda: seen(ours)[0].unread == 10)
    assert seen(ours)[0].silent < 5


def test_unix_and_udp_sockets(tmp_path):
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen(3)
        client.connect(path)
        client.send(b"abc")
        (row,) = seen(listener)
        assert (row.kind, row.state, row.local, row.unread, row.limit) == (
            "unix", "LISTEN", (path,), 1, 3,
        )  # fmt: skip
        accepted, _ = listener.accept()
        with accepted:
            (row,) = seen(accepted)
            assert (row.state, row.local, row.unread) == ("ESTABLISHED", (path,), 3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"x" * 100, sock.getsockname())
        (row,) = seen(sock)
        assert (row.kind, row.state, row.local) == ("udp", "CLOSE", sock.getsockname())
        assert row.unread >= 100, "with the kernel's own expenses"


def test_an_abstract_name_begins_as_ss_has_it():
    name = f"\0look-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen(1)
        assert seen(listener)[0].local == (name.replace("\0", "@"),)


def test_what_is_asked_and_what_is_read_agree():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as one:
            accepted, _ = listener.accept()
            with accepted, socket.create_connection(listener.getsockname()) as queued:
                accepted.send(b"hello")
                lab.until(lambda: kernel.unread(one) == 5)
                inodes = inodes_of(listener, one, accepted, queued)
                asked, _ = sockets.of(os.getpid(), inodes)
                read = sockets._read(os.getpid(), inodes)
    for inode in inodes:
        for name in ("state", "local", "remote", "unread", "unsent", "kind", "queue"):
            ours, theirs = (getattr(rows[inode], name) for rows in (asked, read))
            assert ours == theirs, (name, ours, theirs)


# Rows as the kernel writes them, on a machine of this byte order: net/ipv4/tcp_ipv4.c.
WRITTEN = [
    (
        "0: 0100007F:9E2B 00000000:0000 0A 00000000:00000005 00:00000000 00000000 0 0 33469638 6",
        Socket("LISTEN", ("127.0.0.1", 40491), ("0.0.0.0", 0), 5, 0, "off", 0.0, 33469638),
    ),
    (
        "1: 0100007F:9E2B 0100007F:DFC4 01 00000003:00000012 01:00000014 00000000 0 0 77 1 000",
        Socket(
            "ESTABLISHED", ("127.0.0.1", 40491), ("127.0.0.1", 57284), 18, 3, "retransmit", 0.2, 77
        ),
    ),
    (
        "0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A "
        "00000000:00000000 00:00000000 00000000 0 0 9 1 000",
        Socket("LISTEN", ("::1", 22), ("::", 0), 0, 0, "off", 0.0, 9),
    ),
]


@pytest.mark.skipif(not LITTLE, reason="the addresses are in the machine's byte order")
@pytest.mark.parametrize(("line", "row"), WRITTEN)
def test_a_row_of_proc_net_tcp(line, row):
    assert sockets.inet_row(line, "tcp") == row


@pytest.mark.parametrize(
    ("line", "state", "path"),
    [
        ("ffff: 00000002 00000000 00010000 0001 01 21 /run/app.sock", "LISTEN", "/run/app.sock"),
        (
            "ffff: 00000003 00000000 00000000 0001 03 21 /run/a b.sock",
            "ESTABLISHED",
            "/run/a b.sock",
        ),
        ("ffff: 00000003 00000000 00000000 0002 01 21", "CLOSE", ""),
        ("ffff: 00000002 00000000 00010000 0001 01 21 @abstract", "LISTEN", "@abstract"),
    ],
)
def test_a_row_of_proc_net_unix(line, state, path):
    row = sockets.unix_row(line)
    assert (row.state, row.local, row.inode, row.kind) == (state, (path,), 21, "unix")


def test_a_namespace_that_is_closed_to_us(monkeypatch):
    monkeypatch.setattr(sockets, "_namespace", lambda pid: f"net:[{pid}]")
    found, not_seen = sockets.of(os.getpid(), set())
    assert found == {} and "whose tables tell neither" in not_seen[0]

    def closed(pid, inodes):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sockets, "_read", closed)
    assert "no socket was seen" in sockets.of(os.getpid(), {1})[1][0]


# Other machines


@pytest.mark.parametrize(
    ("machine", "number", "name"),
    [
        ("x86_64", 45, "recvfrom"),
        ("aarch64", 207, "recvfrom"),
        ("x86_64", 232, "epoll_wait"),
        ("aarch64", 22, "epoll_wait"),
        ("riscv64", 22, "system call 22"),
    ],
)
def test_system_calls_of_other_machines(monkeypatch, machine, number, name):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert kernel.system_call(number) == name


def test_both_tables_know_the_same_calls_but_those_that_one_machine_lacks():
    """arm64 has no call that a newer one does: include/uapi/asm-generic/unistd.h."""
    x86, arm = ({*kernel.CALLS[machine].values()} for machine in ("x86_64", "aarch64"))
    assert x86 - arm == {"poll", "select", "pause"} | {"epoll_pwait"}
    assert arm <= x86
