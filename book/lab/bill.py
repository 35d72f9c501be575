"""What a client's visit costs a server: system calls, counted by the recorder, and CPU time."""

import collections

from . import clients, kernel
from .record import record
from .server import until, until_at_rest, until_blocked

# What the recorder calls by Python's names, as the kernel does.
SYSTEM_CALLS = {
    "poll": "epoll_wait", "register": "epoll_ctl", "modify": "epoll_ctl",
    "unregister": "epoll_ctl", "accept": "accept4", "recv": "recvfrom",
    "recv_into": "recvfrom", "send": "sendto", "sendall": "sendto", "sendmsg": "sendmsg",
    "shutdown": "shutdown", "close": "close",
}  # fmt: skip
VISITS = 5


def visits(server, talk):
    """Clients come one by one; the server sleeps between a connecting and an asking.

    talk: a function that makes a Conversation with it, by the client's name.
    """
    at_rest = len(kernel.sockets(pid=server.pid))
    for number in range(VISITS):
        client = talk(f"client {number}")
        until_at_rest(server.pid, at_rest + 1)
        client.send(clients.REQUEST)
        client.read_all()
        until_at_rest(server.pid, at_rest)
        client.close()


def per_visit(count):
    """Counts of all visits as those of one. Raises ValueError if the visits were not alike."""
    if not count or any(number % VISITS for number in count.values()):
        raise ValueError(f"{VISITS} visits, and yet {dict(count)}")
    return {name: number // VISITS for name, number in count.items()}


def visits_at_once(server, talk, number):
    """So many clients come and ask while the server is stopped: it finds them all at once."""
    at_rest = len(kernel.sockets(pid=server.pid))
    with server.paused():
        together = [talk(f"client {each}") for each in range(number)]
        for client in together:
            client.send(clients.REQUEST)
    for client in together:
        client.read_all()
    until_at_rest(server.pid, at_rest)
    for client in together:
        client.close()


def system_calls(name, at_once=1):
    """How many system calls of each kind a visit takes, {name: number}, of an epoll server.

    name: a file in run/, or a path. at_once: so many clients come together, which its queue must
    have room for; the numbers are averages then. A poll that was in vain for a second is none of
    the visit's.
    """
    with record(name) as run:
        until_blocked(run.server.pid, "epoll_wait")
        if at_once > 1:
            visits_at_once(run.server, run.talk, at_once)
        else:
            visits(run.server, run.talk)
    talks = run.recording["clients"]
    begin, end = talks[0]["events"][0][0], talks[-1]["events"][-1][0]
    count = collections.Counter()
    for call in run.recording["calls"]:
        returned = begin < call["t"] + (call["took"] or end) < end
        in_vain = call["call"] == "poll" and call["got"] == [] and call["took"] > 0.9
        if call["call"] in SYSTEM_CALLS and returned and not in_vain:
            count[SYSTEM_CALLS[call["call"]]] += 1
    if at_once > 1:
        return {name: number / at_once for name, number in count.items()}
    return per_visit(count)


def cpu_per_request(*servers, requests=20, turns=8):
    """CPU time that each of some servers spends on a request, in seconds; a list.

    Clients come one after another. The servers are asked in turns, so that a machine that is slow
    for a while is so for all of them, and the least of each server's turns is taken: what disturbs
    a measurement can only add to it.
    """

    def turn(server):
        until(lambda: kernel.is_asleep(server.pid))
        before = kernel.cpu_time(server.pid)
        for _ in range(requests):
            clients.get(server.address)
        until(lambda: kernel.is_asleep(server.pid))
        return (kernel.cpu_time(server.pid) - before) / requests

    return [min(times) for times in zip(*(map(turn, servers) for _ in range(turns)), strict=True)]
