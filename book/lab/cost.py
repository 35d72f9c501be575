"""What a client's visit costs a server: system calls, counted by the recorder, and CPU time."""

import collections

from look import kernel
from survive import clients
from survive.waiting import until, until_at_rest, until_blocked

from .recorder import record

# What the recorder calls by Python's names, as the kernel does.
SYSTEM_CALLS = {
    "poll": "epoll_wait", "register": "epoll_ctl", "modify": "epoll_ctl",
    "unregister": "epoll_ctl", "accept": "accept4", "recv": "recvfrom",
    "recv_into": "recvfrom", "send": "sendto", "sendall": "sendto", "sendmsg": "sendmsg",
    "shutdown": "shutdown", "close": "close",
}  # fmt: skip
VISITS = 5


def visits(server, talk):
    """Let clients come one by one; the server sleeps between a connecting and an asking.

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
    """Turn counts of all visits into those of one. Raises ValueError if they were not alike."""
    if not count or any(number % VISITS for number in count.values()):
        raise ValueError(f"{VISITS} visits, and yet {dict(count)}")
    return {name: number // VISITS for name, number in count.items()}


def visits_at_once(server, talk, number):
    """Let clients come and ask while the server is stopped: it finds them all at once."""
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
    """Return how many system calls of each kind a visit to an epoll server takes, {name: number}.

    name: a file in run/, or a path. at_once: so many clients come together, which its queue must
    have room for; the numbers are averages then. A poll() that timed out after its second is not
    counted: no client caused it.
    """
    with record(name) as run:
        until_blocked(run.server.pid, "epoll_wait")
        if at_once > 1:
            visits_at_once(run.server, run.talk, at_once)
        else:
            visits(run.server, run.talk)
    begin = run.recording.clients[0].events[0].when
    end = run.recording.clients[-1].events[-1].when
    count = collections.Counter(
        SYSTEM_CALLS[call.name]
        for call in run.recording.calls(*SYSTEM_CALLS)
        if begin < (call.returned or call.began + end) < end and not _timed_out(call)
    )
    if at_once > 1:
        return {name: number / at_once for name, number in count.items()}
    return per_visit(count)


def _timed_out(call):
    """Did a poll wait for a second, and find nothing?"""
    return call.name == "poll" and call.got == [] and call.took > 0.9


def cpu_per_request(*servers, requests=20, turns=8):
    """Return the CPU time that each of some servers spends on a request, in seconds, as a list.

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

    rounds = [[turn(server) for server in servers] for _ in range(turns)]
    return [min(times) for times in zip(*rounds, strict=True)]
