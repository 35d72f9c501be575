"""The sockets of a process, of every protocol, in whichever network namespace it lives.

    found, not_seen = sockets.of(pid)         {inode: Socket}, and what could not be seen

In our own namespace sock_diag(7) is asked: it knows the limit of an accept queue, and how long a
connection has been silent. Another namespace can't be asked from outside; its tables in
/proc/PID/net can be read, and say less. What they do not say is among what was not seen.

Sources: sock_diag(7), proc(5), network_namespaces(7); include/uapi/linux/inet_diag.h, unix_diag.h;
net/ipv4/tcp_ipv4.c (/proc/net/tcp), net/unix/af_unix.c (/proc/net/unix).
"""

import os
import re
import socket
import struct
from dataclasses import replace
from pathlib import Path

from . import kernel
from .kernel import Socket

# A socket that nobody has accepted yet has no inode; of those that nobody has any more, none is in
# one of these states.
NOBODYS, QUEUED = bytes(4), [kernel.STATES.index(name) for name in ("ESTABLISHED", "CLOSE-WAIT")]
# struct unix_diag_req after its header: family, protocol, states, inode, what to show, cookie.
UNIX_REQUEST = struct.Struct("=IHHII BBxxIIIQ")
SHOW_NAME, SHOW_QUEUES = 0x01, 0x10  # UDIAG_SHOW_NAME, UDIAG_SHOW_RQLEN
NAME, QUEUES = 0, 4  # UNIX_DIAG_NAME, UNIX_DIAG_RQLEN
ELSEWHERE = (
    "it lives in another network namespace, whose tables tell neither the limit of an accept "
    "queue, nor what waits in Unix sockets, nor how long a client has been silent: "
    "`nsenter -n -t {pid}` and look again from there"
)
HIDDEN = (
    "it lives in another network namespace, which is closed to us, so no socket was seen: "
    "`nsenter -n -t {pid}` and look again from there"
)


def of(pid, inodes):
    """Return the sockets with these inodes that a process has: ({inode: Socket}, [not seen]).

    pid: says which network namespace. Raises OSError if the kernel does not answer at all.
    """
    if _namespace("self") == _namespace(pid):
        return _asked(inodes)
    try:
        return _read(pid, inodes), [ELSEWHERE.format(pid=pid)]
    except OSError:
        return {}, [HIDDEN.format(pid=pid)]


def _namespace(pid):
    return os.readlink(f"/proc/{pid}/ns/net")


# Asked: our own namespace
# ------------------------


def _asked(inodes):
    found, not_seen, queues = {}, [], {}
    for row in _inet_rows(socket.IPPROTO_TCP):
        _keep(found, inodes, row, 68, _tcp)
        if row[68:72] == NOBODYS and row[1] in QUEUED:
            queued = kernel.socket_of(row)
            queues.setdefault(queued.local[1], set()).add(queued.remote)
    _add_queues(found, queues)
    for name, rows, at, make in (
        ("UDP", _inet_rows(socket.IPPROTO_UDP), 68, lambda row, _: kernel.socket_of(row, "udp")),
        ("Unix", _unix_rows(), 4, _unix_socket),
    ):
        try:
            for row in rows:
                _keep(found, inodes, row, at, make)
        except OSError:  # its module of sock_diag is not there
            not_seen.append(f"{name} sockets: this kernel does not list them by sock_diag(7)")
    return found, not_seen


def _add_queues(found, queues):
    """Tell each listener of TCP who stands in the accept queue of its port: nobody's sockets."""
    for inode, row in found.items():
        if row.state == "LISTEN" and row.kind == "tcp":
            found[inode] = replace(row, queue=frozenset(queues.get(row.local[1], ())))


def _keep(found, inodes, row, at, make):
    """Keep a row, as a Socket, if it is one of those that are wanted: thousands are not."""
    (inode,) = struct.unpack_from("=I", row, at)
    if inode in inodes:
        found[inode] = make(row, inode)


def _inet_rows(protocol):
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from kernel.diag_rows(family, kernel.ALL & ~kernel.TIME_WAIT, protocol, kernel.INFO)


def _tcp(row, inode):
    """Make a Socket of a row of TCP's, with what its struct tcp_info tells, tcp(7)."""
    info = kernel.attributes(row).get(kernel.INET_DIAG_INFO, b"")
    silent, acked = (kernel.info_field(info, each) for each in ("last_data_recv", "bytes_acked"))
    if acked is None:
        return kernel.socket_of(row)
    return kernel.socket_of(row, "tcp", silent / 1000, acked)


def _unix_rows():
    """Yield the rows of the Unix sockets: struct unix_diag_msg, with attributes behind it, each."""
    header = UNIX_REQUEST.size, kernel.SOCK_DIAG_BY_FAMILY, kernel.LIST_ALL, 1, 0
    show = SHOW_NAME | SHOW_QUEUES
    message = UNIX_REQUEST.pack(*header, socket.AF_UNIX, 0, 0xFFFFFFFF, 0, show, kernel.NO_COOKIE)
    yield from kernel.rows_of(message)


def _unix_socket(row, inode):
    state, more = kernel.STATES[row[2]], kernel.attributes(row, 16)
    first, second = struct.unpack("=II", more.get(QUEUES, bytes(8)))
    # An abstract name begins with a NUL, which ss shows as @; a path ends in one.
    name = more.get(NAME, b"").rstrip(b"\0").decode(errors="replace").replace("\0", "@")
    unsent, limit = (0, second) if state == "LISTEN" else (second, 0)
    return Socket(state, (name,), ("",), first, unsent, "off", 0.0, inode, limit, "unix")


# Read: another namespace
# -----------------------

ADDRESS = re.compile(r"([0-9A-F]+):([0-9A-F]{4})")


def _read(pid, inodes):
    found = {}
    queues = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in _lines(pid, name):
            row = inet_row(line, name[:3])
            if row.inode in inodes:
                found[row.inode] = row
            elif not row.inode and row.state in ("ESTABLISHED", "CLOSE-WAIT"):
                queues.setdefault(row.local[1], set()).add(row.remote)
    _add_queues(found, queues)
    for line in _lines(pid, "unix"):
        row = unix_row(line)
        if row.inode in inodes:
            found[row.inode] = row
    return found


def _lines(pid, name):
    """Return the rows of a table; a kernel without IPv6 has none of its tables."""
    try:
        return Path(f"/proc/{pid}/net/{name}").read_text(errors="replace").splitlines()[1:]
    except FileNotFoundError:
        return []


def inet_row(line, kind):
    """Read a row of /proc/net/tcp, tcp6, udp or udp6 as a Socket."""
    words = line.split()
    unsent, unread = (int(part, 16) for part in words[4].split(":"))
    timer, left = words[5].split(":")
    state = kernel.STATES[int(words[3], 16)]
    return Socket(
        state, _address(words[1]), _address(words[2]), unread, 0 if state == "LISTEN" else unsent,
        kernel.TIMERS[int(timer, 16)], int(left, 16) / 100, int(words[9]), 0, kind,
    )  # fmt: skip


def _address(text):
    """Read `0100007F:1F90`: the address in words of the machine's own byte order, and the port."""
    host, port = ADDRESS.match(text).groups()
    words = [int(host[start : start + 8], 16) for start in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def unix_row(line):
    """Read a row of /proc/net/unix as a Socket; it has no queues."""
    _, _, _, flags, _, state, inode, *path = line.split(None, 7)
    listens = int(flags, 16) & 0x10000  # SO_ACCEPTCON
    # enum socket_state of net.h: 1 unconnected, 3 connected
    name = "LISTEN" if listens else {1: "CLOSE", 3: "ESTABLISHED"}.get(int(state, 16), "?")
    return Socket(
        name, (path[0].strip() if path else "",), ("",), 0, 0, "off", 0.0, int(inode), 0, "unix"
    )


# Who else has them
# -----------------


def holders(pid, inodes):
    """Return which other processes hold these sockets: {inode: [process, ...]}.

    Parents, children and siblings are looked at, and who is of the same group: a socket is handed
    on by fork and exec. One that another process was sent, unix(7), is found if it is one of these.
    """
    found = {}
    for other in _relatives(pid):
        try:
            held = set(kernel.files(other, "socket").values())
        except (OSError, ValueError):
            continue
        for inode in inodes & held:
            found.setdefault(inode, []).append(other)
    return found


def _relatives(pid):
    """List the processes that share a parent, a group or an ancestor's fork with a process."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = kernel.stat(int(name))
            except OSError:
                continue
            table[int(name)] = int(words[1]), int(words[2])
    parent, group = table.get(pid, (0, 0))
    return sorted(
        other
        for other, (its_parent, its_group) in table.items()
        if other != pid
        and (other == parent > 1 or its_parent in {pid, parent} - {0, 1} or its_group == group)
    )
