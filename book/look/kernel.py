"""What the kernel says of a process and its sockets, without privileges.

Everything here is read from /proc, from `getsockopt(TCP_INFO)`, by `ioctl`, or by sock_diag(7). A
process may look at its own children, and at others of the same user where ptrace(2) is not
restricted further. The recorder imports this module into the recorded process as well, so it needs
nothing but the standard library.

Sources: proc(5), tcp(7), epoll(7), sock_diag(7), include/uapi/linux/inet_diag.h.
"""

import contextlib
import errno
import fcntl
import os
import platform
import re
import resource
import select
import socket
import struct
import termios
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Optional

# Processes and their threads
# ---------------------------

# The calls that a server of this book can be found in. The numbers are the machine's own:
# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h, where epoll_wait
# is only a way to call epoll_pwait: it goes by its better known name.
CALLS = {
    "x86_64": {
        0: "read", 1: "write", 3: "close", 5: "fstat", 7: "poll", 8: "lseek", 9: "mmap",
        11: "munmap", 12: "brk", 13: "rt_sigaction", 14: "rt_sigprocmask", 16: "ioctl",
        17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 23: "select", 24: "sched_yield",
        25: "mremap", 28: "madvise", 34: "pause", 35: "nanosleep", 40: "sendfile", 41: "socket",
        42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg",
        48: "shutdown", 51: "getsockname", 54: "setsockopt", 55: "getsockopt", 56: "clone",
        61: "wait4", 72: "fcntl", 73: "flock", 74: "fsync", 128: "rt_sigtimedwait",
        130: "rt_sigsuspend", 202: "futex", 219: "restart_syscall", 230: "clock_nanosleep",
        232: "epoll_wait", 233: "epoll_ctl", 247: "waitid", 257: "openat", 262: "newfstatat",
        270: "pselect6", 271: "ppoll", 275: "splice", 281: "epoll_pwait", 288: "accept4",
        291: "epoll_create1", 299: "recvmmsg", 307: "sendmmsg", 318: "getrandom", 332: "statx",
        426: "io_uring_enter", 441: "epoll_pwait2",
    },
    "aarch64": {
        20: "epoll_create1", 21: "epoll_ctl", 22: "epoll_wait", 25: "fcntl", 29: "ioctl",
        32: "flock", 56: "openat", 57: "close", 62: "lseek", 63: "read", 64: "write", 65: "readv",
        66: "writev", 67: "pread64", 68: "pwrite64", 71: "sendfile", 72: "pselect6", 73: "ppoll",
        76: "splice", 79: "newfstatat", 80: "fstat", 82: "fsync", 95: "waitid", 98: "futex",
        101: "nanosleep", 115: "clock_nanosleep", 124: "sched_yield", 128: "restart_syscall",
        133: "rt_sigsuspend", 134: "rt_sigaction", 135: "rt_sigprocmask", 137: "rt_sigtimedwait",
        198: "socket", 202: "accept", 203: "connect", 204: "getsockname", 206: "sendto",
        207: "recvfrom", 208: "setsockopt", 209: "getsockopt", 210: "shutdown", 211: "sendmsg",
        212: "recvmsg", 214: "brk", 215: "munmap", 216: "mremap", 220: "clone", 222: "mmap",
        233: "madvise", 242: "accept4", 243: "recvmmsg", 260: "wait4", 269: "sendmmsg",
        278: "getrandom", 291: "statx", 426: "io_uring_enter", 441: "epoll_pwait2",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Blocked:
    """Where a thread sleeps: the system call, and the kernel function that put it to sleep.

    arguments: the call's six, as numbers. In a call on a socket the first is the descriptor.
    """

    call: str
    channel: str
    arguments: tuple = ()

    def __str__(self):
        return f"{self.call}, asleep in {self.channel}"


PF_EXITING = 4  # include/linux/sched.h


@contextlib.contextmanager
def still_there(pid, thread=None):
    """Turn what /proc says of a process or thread that has ended into a ProcessLookupError.

    A process that is about to end counts as ended, and so does a zombie. A process may become a
    zombie while the block reads /proc, and its files are forbidden to an ordinary user from then
    on: so a PermissionError counts only if the process is still alive.
    """
    try:
        if has_ended(pid, thread):
            raise FileNotFoundError
        yield
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended") from None
    except PermissionError:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if not has_ended(pid, thread):
                raise
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended") from None


def has_ended(pid, thread=None):
    """Tell whether a process or thread is a zombie, or about to be: state and flags of proc(5).

    Raises FileNotFoundError or ProcessLookupError when there is no trace of it left.
    """
    words = stat(pid, thread)
    return words[0] in "ZX" or bool(int(words[6]) & PF_EXITING)


def stat(pid, thread=None):
    """Return /proc/PID/task/TID/stat as words, proc(5), from its third field, the state, on.

    Raises FileNotFoundError or ProcessLookupError when there is no trace of it left.
    """
    text = Path(f"/proc/{pid}/task/{thread or pid}/stat").read_text()
    return text.rpartition(") ")[2].split()


def state(pid, thread=None):
    """Return the state of a process or thread, a letter of proc(5): R, S, T, Z ...; X if gone."""
    try:
        return stat(pid, thread)[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def group(leader):
    """Return the processes of a process group that have not ended, its leader first if it lives.

    leader: the number of the process that the group is named after, setpgid(2).
    """
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if os.getpgid(pid) == leader and not has_ended(pid):
                found.append(pid)
    return sorted(found, key=lambda pid: (pid != leader, pid))


def system_call(number):
    """Name a system call of this machine by its number, or say the number where CALLS has none."""
    return CALLS.get(platform.machine(), {}).get(number, f"system call {number}")


def blocked_in(pid, thread=None):
    """Return what a thread (default: the main one) is blocked in: a Blocked; None while it runs.

    Raises ProcessLookupError when it has ended, PermissionError when it is not ours to look at.
    """
    task = f"/proc/{pid}/task/{thread or pid}"
    with still_there(pid, thread):
        words = Path(f"{task}/syscall").read_text().split()
        channel = Path(f"{task}/wchan").read_text()
    if words[0] == "running" or words[0] == "-1":
        return None
    arguments = tuple(int(word, 16) for word in words[1:7])
    return Blocked(system_call(int(words[0])), channel, arguments)


def threads(pid):
    """Return the threads of a process, the main one first, as numbers.

    Raises ProcessLookupError when it has ended.
    """
    with still_there(pid):
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda tid: (tid != pid, tid))


def is_asleep(pid):
    """Tell whether every thread of a process sleeps in a system call. Raises as blocked_in.

    A thread that a tracer has stopped, on its way into a call or out of it, does not sleep, nor
    does a thread in state D of proc(5), which waits for a page of memory or a lock of the kernel.
    """
    for thread in threads(pid):
        try:
            blocked = blocked_in(pid, thread)
            if blocked is None or blocked.channel == "ptrace_stop" or state(pid, thread) == "D":
                return False
        except ProcessLookupError:
            if thread == pid:
                raise
    return True


def cpu_time(pid):
    """Return the CPU time that a process has used, in seconds, to the nanosecond.

    The clock of another process: clock_getcpuclockid(3), include/linux/posix-timers.h. Raises
    ProcessLookupError when it has ended and been waited for.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended") from None


SPINNING = 0.05  # of a core, with nothing to do: an idle server uses exactly 0


def share_of_a_core(clock, seconds):
    """Return the part of one core that is used during a window of so many seconds.

    clock: a function that returns the CPU time used so far, in seconds.
    """
    used, began = clock(), time.monotonic()
    time.sleep(seconds)  # a measuring window, not a wait for something
    return (clock() - used) / (time.monotonic() - began)


def cpu_share(pid, seconds=0.25):
    """Return the part of one core that a process uses during a window of so many seconds."""
    return share_of_a_core(lambda: cpu_time(pid), seconds)


def files(pid, kind):
    """Return the open files of a kind (`socket`, `pipe`) of a process: {descriptor: inode}.

    Raises ProcessLookupError when it has ended.
    """
    found = {}
    with still_there(pid):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                name, _, inode = os.readlink(link).partition(":[")
                if name == kind:
                    found[int(link.name)] = int(inode.rstrip("]"))
    return found


def descriptors(pid):
    """Count the descriptors that a process has open; raises ProcessLookupError if it has ended."""
    with still_there(pid):
        return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid):
    """Return the memory that a process alone has written to, in bytes: Private_Dirty, proc(5).

    Raises ProcessLookupError when it has ended.
    """
    with still_there(pid):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError


def address_space(pid):
    """Return the address space of a process, in bytes, used or not: VmSize, proc(5).

    Raises ProcessLookupError when it has ended.
    """
    return _status(pid, pid, "VmSize") * 1024


def sleeps(pid, thread=None):
    """Count how often a thread (default: the main one) has gone to sleep so far, proc(5).

    A wake-up for nothing, after which it sleeps on in the same call, counts as well. Raises
    ProcessLookupError when it has ended.
    """
    return _status(pid, thread or pid, "voluntary_ctxt_switches")


def _status(pid, thread, field):
    with still_there(pid, thread):
        text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        return int(re.search(rf"^{field}:\s*(\d+)", text, re.MULTILINE)[1])


def allow_descriptors(pid=0):
    """Raise a process's limit on descriptors as far as its user may; returns the new limit.

    pid: our own process unless given. The soft limit becomes the hard one, setrlimit(2).
    """
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# TCP sockets, whoever has them
# -----------------------------

# include/net/tcp_states.h
STATES = (
    "?", "ESTABLISHED", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSE",
    "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "NEW-SYN-RECV",
)  # fmt: skip
TIMERS = ("off", "retransmit", "keepalive", "timewait", "probe")


@dataclass(frozen=True)
class Socket:
    """A socket, as sock_diag(7) has it.

    unread: bytes received and not read (the end of input counts as one); of a listening socket,
    clients in its accept queue. unsent: bytes sent and not yet acknowledged. timer: its name;
    left: seconds until it fires. limit: of the accept queue, if it listens, 0 if that is unknown.
    kind: tcp, udp or unix. silent: seconds since data came last; acked: bytes that the peer has
    acknowledged so far; queue: of a listener, the remote ends of those in its accept queue; held:
    of the unsent bytes, those that were never sent. Each is None where that is unknown.
    """

    state: str
    local: tuple
    remote: tuple
    unread: int
    unsent: int
    timer: str
    left: float
    inode: int
    limit: int = 0
    kind: str = "tcp"
    silent: Optional[float] = None
    acked: Optional[int] = None
    queue: Optional[frozenset] = None
    held: Optional[int] = None


ALL = (1 << len(STATES)) - 1  # states as a mask
LISTEN, TIME_WAIT = (1 << STATES.index(name) for name in ("LISTEN", "TIME-WAIT"))

# A question to sock_diag: struct nlmsghdr (length, type, flags, sequence number, sender), then
# struct inet_diag_req_v2 (family, protocol, extensions, padding, states, and which socket). That is
# struct inet_diag_sockid: both ports, both addresses, interface, cookie.
DIAG_REQUEST = struct.Struct("=IHHII BBBxI 48s")
SOCKET_ID = struct.Struct(">HH 16s16s IQ")
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLMSG_DONE = 4, 20, 3  # linux/netlink.h, sock_diag.h
ROW = 72  # bytes of a struct inet_diag_msg; attributes follow
INET_DIAG_INFO = 2  # an attribute, a struct tcp_info
INFO = 1 << (INET_DIAG_INFO - 1)  # how to ask for it
ONE, LIST_ALL = 0x1, 0x301  # NLM_F_REQUEST, and that with NLM_F_DUMP
NO_COOKIE = (1 << 64) - 1  # INET_DIAG_NOCOOKIE, twice
ANYBODY = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0)}  # a listener's remote end


def _question(family, flags, states, which=b"", protocol=socket.IPPROTO_TCP, more=0):
    """Return a message that asks for sockets of a family and protocol; more: extensions."""
    header = DIAG_REQUEST.size, SOCK_DIAG_BY_FAMILY, flags, 1, 0
    return DIAG_REQUEST.pack(*header, family, protocol, more, states, which)


def answers(diag, message):
    """Send sock_diag(7) a message; yield its answers: (type, message without its header) each.

    Raises TimeoutError if the kernel does not answer.
    """
    diag.send(message)
    data, kind = b"", SOCK_DIAG_BY_FAMILY
    while kind == SOCK_DIAG_BY_FAMILY:
        data = data or diag.recv(1 << 18)
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) // 4 * 4 :]


def open_diag():
    """Open a way to sock_diag(7), a socket."""
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG)
    diag.settimeout(1)
    return diag


def diag_rows(family, states, protocol=socket.IPPROTO_TCP, more=0, port=0, diag=None):
    """Yield the rows of a family's sockets in some states (a mask): struct inet_diag_msg each.

    A hundred times as fast as reading /proc/net/tcp, and with the limits of listeners' queues.
    more: extensions, whose attributes follow the row. port: only of sockets with this port of their
    own. diag: a way to sock_diag(7) that is open already. Raises OSError if the kernel does not
    answer.
    """
    which = SOCKET_ID.pack(port, 0, b"", b"", 0, NO_COOKIE) if port else b""
    yield from rows_of(_question(family, LIST_ALL, states, which, protocol, more), diag)


def rows_of(message, diag=None):
    """Yield the rows with which sock_diag(7) answers a message that asks for all."""
    with contextlib.ExitStack() as stack:
        diag = diag or stack.enter_context(open_diag())
        for kind, row in answers(diag, message):
            if kind == SOCK_DIAG_BY_FAMILY:
                yield row
        if kind != NLMSG_DONE:
            raise OSError("sock_diag(7) has refused to list the sockets")


def attributes(row, start=ROW):
    """Return the attributes behind a message of netlink's, {type: bytes}."""
    found = {}
    while start + 4 <= len(row):
        length, kind = struct.unpack_from("=HH", row, start)
        if length < 4:
            break
        found[kind] = row[start + 4 : start + length]
        start += (length + 3) // 4 * 4
    return found


def ends_at(local, diag=None):
    """List the ends at an address of ours, (host, port), whoever has them, with what they hold.

    The listener is not among them; one that was not accepted yet has the inode 0. diag: a way to
    sock_diag(7) that is open already. Raises OSError if the kernel does not answer.
    """
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    return [
        replace(socket_of(row), held=_held(row))
        for row in diag_rows(family, ALL & ~LISTEN, more=INFO, port=local[1], diag=diag)
    ]


def _held(row):
    """Return the bytes that an end was given to send and has not sent; None if that is unknown."""
    return info_field(attributes(row).get(INET_DIAG_INFO, b""), "notsent_bytes")


def _rows(states):
    """Yield the rows of TCP sockets in some states, of both families."""
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from diag_rows(family, states)


def socket_of(row, kind="tcp", silent=None, acked=None):
    """Make a Socket of a row."""
    family, state, timer = row[:3]
    size = 4 if family == socket.AF_INET else 16
    local, remote = (
        (socket.inet_ntop(family, row[start : start + size]), port)
        for start, port in zip((8, 24), struct.unpack_from(">HH", row, 4))
    )
    left, unread, unsent, _, inode = struct.unpack_from("=5I", row, 52)
    limit = 0
    if STATES[state] == "LISTEN":
        unsent, limit = 0, unsent
    return Socket(
        STATES[state], local, remote, unread, unsent, TIMERS[timer], left / 1000, inode, limit,
        kind, silent, acked,
    )  # fmt: skip


def sockets(port=None, pid=None):
    """List TCP sockets of this machine: all, those with a port at either end, those of a process.

    Raises ProcessLookupError when the process has ended, OSError if the kernel does not answer.
    """
    inodes = None if pid is None else set(files(pid, "socket").values())
    return [
        socket_of(row)
        for row in _rows(ALL if pid is None else ALL & ~TIME_WAIT)
        # Chosen before it is understood: thousands of them may be in TIME-WAIT.
        if (port is None or port in struct.unpack_from(">HH", row, 4))
        and (inodes is None or struct.unpack_from("=I", row, 68)[0] in inodes)
    ]


def is_at_rest(pid, count=None):
    """Tell whether a process sleeps, with nothing unread, and with count TCP sockets if given.

    Clients in an accept queue count as unread, too. Raises as is_asleep.
    """
    if not is_asleep(pid):  # the quick look first
        return False
    rows = sockets(pid=pid)
    complete = count is None or len(rows) == count
    return complete and not any(row.unread for row in rows) and is_asleep(pid)


def find_socket(local, remote=None, diag=None):
    """Return the socket between two addresses, (host, port) each, or None.

    Without a remote one: the socket that listens for clients of the local address, which may be
    bound to all addresses. The kernel looks it up in a table: however many sockets there are, that
    costs the same. diag: a way to sock_diag(7) that is open already. Raises OSError if the kernel
    does not answer.
    """
    row = _row_between(local, remote, diag)
    return row and socket_of(row)


def _row_between(local, remote, diag, more=0):
    """Return the row of the socket that find_socket() finds, or None; more: extensions."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    remote = tuple((remote or ANYBODY[family])[:2])
    ends = [socket.inet_pton(family, host) for host, _ in (local[:2], remote)]
    which = SOCKET_ID.pack(local[1], remote[1], *ends, 0, NO_COOKIE)
    with contextlib.ExitStack() as stack:
        diag = diag or stack.enter_context(open_diag())
        kind, row = next(answers(diag, _question(family, ONE, ALL, which, more=more)))
    # Where two addresses have no socket between them, the kernel answers with who listens.
    listens = kind == SOCK_DIAG_BY_FAMILY and STATES[row[1]] == "LISTEN"
    return row if kind == SOCK_DIAG_BY_FAMILY and listens == (remote == ANYBODY[family]) else None


def counts_between(local, remote, diag=None):
    """Return (state, counts) of the socket between two addresses; (None, None) if there is none.

    counts: as counts_of() has them, or None where the kernel keeps none, as in TIME-WAIT. diag,
    errors: as for find_socket().
    """
    row = _row_between(local, remote, diag, INFO)
    if row is None:
        return None, None
    return STATES[row[1]], _counts(attributes(row).get(INET_DIAG_INFO, b""))


def listeners():
    """List the sockets of this machine that listen."""
    return [socket_of(row) for row in _rows(LISTEN)]


def accept_queue(address):
    """Return (clients waiting, limit) of a listening socket, whoever has it.

    address: (host, port). Raises ConnectionRefusedError when nobody listens there, OSError when
    sock_diag(7) does not answer.
    """
    if found := find_socket(address):
        return found.unread, found.limit
    raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens on {}:{}".format(*address))


def counter(name, group="TcpExt"):
    """Return one of the counters of /proc/net/netstat, as `nstat -az` shows them: ListenOverflows.

    It counts for the whole network namespace, and only grows. Raises KeyError.
    """
    lines = Path("/proc/net/netstat").read_text().splitlines()
    names, numbers = (line.split()[1:] for line in lines if line.startswith(f"{group}: "))
    return int(dict(zip(names, numbers))[name])


# Our own sockets
# ---------------

# struct tcp_info, include/uapi/linux/tcp.h: where a field begins, and its format. Of a listening
# socket, unacked and sacked are the length and the limit of its queue: net/ipv4/tcp.c.
INFO_FIELDS = {
    "state": (0, "B"), "retransmits": (2, "B"), "rto": (8, "I"), "unacked": (24, "I"),
    "sacked": (28, "I"), "last_data_recv": (52, "I"), "snd_cwnd": (80, "I"),
    "total_retrans": (100, "I"), "bytes_acked": (120, "Q"), "bytes_received": (128, "Q"),
    "segs_out": (136, "I"), "segs_in": (140, "I"), "notsent_bytes": (144, "I"),
    "data_segs_in": (152, "I"), "data_segs_out": (156, "I"), "bytes_sent": (200, "Q"),
    "bytes_retrans": (208, "Q"),
}  # fmt: skip


def info_field(info, name):
    """Return a field of a struct tcp_info, by its name without `tcpi_`; None if it is too short.

    info: its bytes, which end earlier on an older kernel.
    """
    offset, form = INFO_FIELDS[name]
    is_there = len(info) >= offset + struct.calcsize(form)
    return struct.unpack_from(form, info, offset)[0] if is_there else None


def tcp_info(sock, field):
    """Return a field of TCP_INFO of one of our own sockets, by its name without `tcpi_`, tcp(7)."""
    offset, form = INFO_FIELDS[field]
    size = offset + struct.calcsize(form)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return struct.unpack_from(form, info, offset)[0]


def state_of(sock):
    """Return the TCP state of one of our own sockets."""
    return STATES[tcp_info(sock, "state")]


class Counts(NamedTuple):
    """What a struct tcp_info counts, since the connection began; notsent_bytes is of this moment.

    bytes_sent has those sent again (bytes_retrans) as well, bytes_acked the SYN that was sent and
    the FIN, bytes_received the FIN that came, segs_out and segs_in all segments but a reset.
    """

    total_retrans: int
    bytes_acked: int
    bytes_received: int
    segs_out: int
    segs_in: int
    notsent_bytes: int
    data_segs_in: int
    data_segs_out: int
    bytes_sent: int
    bytes_retrans: int


def counts_of(sock):
    """Return the Counts of one of our own sockets, or None before Linux 4.19."""
    return _counts(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))


def _counts(info):
    counts = Counts(*(info_field(info, name) for name in Counts._fields))
    return None if None in counts else counts


def unread(sock):
    """Count the bytes that one of our own sockets, of any kind, has received, still unread."""
    return _bytes(sock, termios.FIONREAD)


SO_MEMINFO = 55  # include/uapi/asm-generic/socket.h: nine numbers, of which the last are drops


def drops(sock):
    """Count what one of our own sockets has dropped: a listener's are SYNs that found no room."""
    counts = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    return struct.unpack("=9I", counts)[-1]


SIOCOUTQNSD = 0x894B  # include/uapi/linux/sockios.h


def not_sent(sock):
    """Count the bytes that one of our own sockets holds in its send buffer and never sent yet."""
    return _bytes(sock, SIOCOUTQNSD)


def _bytes(sock, question):
    return struct.unpack("=i", fcntl.ioctl(sock.fileno(), question, b"\0" * 4))[0]


def send_buffer(sock):
    """Return how much of a send buffer of our own is taken, and its size, in bytes.

    Both include the kernel's overhead: SO_MEMINFO, Linux 4.12, include/linux/sock_diag.h.
    """
    words = struct.unpack("8I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 32))
    return words[5], words[3]  # SK_MEMINFO_WMEM_QUEUED, SK_MEMINFO_SNDBUF


def queues_of(sock):
    """Return (unread, unsent) bytes of one of our own sockets; of a listener (waiting, limit)."""
    if state_of(sock) == "LISTEN":
        return tcp_info(sock, "unacked"), tcp_info(sock, "sacked")
    return _bytes(sock, termios.FIONREAD), _bytes(sock, termios.TIOCOUTQ)


def arrivals(sock, size, seconds=1, quick=None):
    """Watch data arrive at one of our own sockets, which nobody reads: [(when, bytes)].

    Ends when size bytes are there, or after so many seconds. Bytes that are there already are
    the first arrival. when: on the monotonic clock, to half a millisecond or so. quick: hold the
    socket to acknowledge late (0) or at once (1), which it forgets by itself, tcp(7).
    """
    found, there, end = [], 0, time.monotonic() + seconds
    while there < size and time.monotonic() < end:
        if quick is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, quick)
        if (count := unread(sock)) > there:
            found.append((time.monotonic(), count - there))
            there = count
        time.sleep(0.0002)
    return found


# epoll
# -----

EVENTS = {
    getattr(select, name): name[len("EPOLL") :]
    for name in (
        "EPOLLIN", "EPOLLPRI", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLRDHUP",
        "EPOLLEXCLUSIVE", "EPOLLONESHOT", "EPOLLET",
    )
}  # fmt: skip


def mask_names(mask):
    """Say an epoll mask in names, `IN|RDHUP`; `-` for an empty one."""
    return "|".join(name for bit, name in EVENTS.items() if mask & bit) or "-"


def registrations(pid, fd):
    """List what an epoll instance has on its list: (descriptor, mask, data, inode) each.

    From /proc/PID/fdinfo/FD, proc(5). A descriptor may be there twice: its old file may live on.
    """
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    found = re.findall(r"tfd: *(\d+) events: *(\w+) data: *(\w+) .*ino:(\w+)", text)
    return [(int(number), *(int(each, 16) for each in rest)) for number, *rest in found]


def interest_list(pid, fd):
    """Return what an epoll instance watches, and for which events: {descriptor: mask}, epoll(7)."""
    return {number: mask for number, mask, *_ in registrations(pid, fd)}


def watched(pid):
    """Return the interest list of a process that sleeps in epoll_wait: ["IN|ERR|HUP", ...].

    Raises ValueError if it sleeps in something else, or not at all.
    """
    blocked = blocked_in(pid)
    if not blocked or blocked.call != "epoll_wait":
        raise ValueError(f"process {pid} is not asleep in epoll_wait: {blocked}")
    return [mask_names(mask) for mask in interest_list(pid, blocked.arguments[0]).values()]
