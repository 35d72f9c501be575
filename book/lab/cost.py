"""What a client's visit costs a server: system calls, counted by the recorder, and CPU time.

What the recorder counts is what Python's methods were called for. strace(1), where it is installed,
counts the same visits from outside.
"""

import collections
import os
import re
import shutil
import subprocess
import threading
import time

from look import kernel
from survive import clients
from survive.server import serve
from survive.waiting import until, until_at_rest, until_blocked

from .measured import timed
from .recorder import record
from .session import find

# The kernel's names of the calls that the recorder has by Python's names.
SYSTEM_CALLS = {
    "poll": "epoll_wait", "register": "epoll_ctl", "modify": "epoll_ctl",
    "unregister": "epoll_ctl", "accept": "accept4", "recv": "recvfrom",
    "recv_into": "recvfrom", "send": "sendto", "sendall": "sendto", "sendmsg": "sendmsg",
    "shutdown": "shutdown", "close": "close",
}  # fmt: skip
VISITS = 5


def visits(server, talk):
    """Let clients connect and ask one by one; before each step the server sleeps.

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
    """Turn the counts of all visits into one visit's. Raises ValueError if visits differed."""
    if not count or any(number % VISITS for number in count.values()):
        raise ValueError(f"{VISITS} visits, and yet {dict(count)}")
    return {name: number // VISITS for name, number in count.items()}


def visits_at_once(server, talk, number):
    """Let clients connect and ask while the server is stopped, so that it finds all at once."""
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
            visits_at_once(run.server, run.connect, at_once)
        else:
            visits(run.server, run.connect)
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
    """Tell whether a poll waited for its second, and found nothing."""
    return call.name == "poll" and call.got == [] and call.took > 0.9


TRACED = "epoll_wait,epoll_pwait,epoll_ctl,accept4,recvfrom,sendto,shutdown,close"


def by_strace(name):
    """Count a visit's system calls by strace: {name: number}, or a text that says why not.

    name: a file in run/, or a path, of an epoll server.
    """
    if not shutil.which("strace"):
        return "not installed here"
    with serve(find(name)) as server:
        until_blocked(server.pid, "epoll_wait")
        command = ["strace", "-p", str(server.pid), "-e", f"trace={TRACED}", "-e", "signal=none"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            if "attached" not in strace.stderr.readline():
                return "may not look here"
            try:
                # One client first: strace may leave out the call that the server sleeps in.
                clients.get(server.address)
                until_at_rest(server.pid, 1)
                visits(server, lambda name: clients.Conversation(server.address, name))
            finally:
                strace.terminate()
                lines = strace.stderr.read().splitlines()
    return per_visit(_count_traced(lines))


def _count_traced(lines):
    """Count the calls in strace's lines after the first visit, without polls that timed out."""
    first = next(n for n, line in enumerate(lines) if line.startswith("close("))
    count = collections.Counter()
    for line in lines[first + 1 :]:
        call = re.match(r"(\w+)\(", line)
        in_vain = re.search(r"(1000|-1)(, NULL, 8)?\) += 0$", line) or "detached" in line
        if call and not in_vain:
            count[call[1].replace("pwait", "wait")] += 1
    return count


def compare_with_strace(counts):
    """Compare what system_calls() has counted with strace: "agrees", or why it can't be told.

    counts: {name of the server's file: its counts}. Raises AssertionError where they differ.
    """
    for name, counted in counts.items():
        traced = by_strace(name)
        if isinstance(traced, str):
            return traced
        assert traced == counted, f"{name}: strace has counted {traced}, the recorder {counted}"
    return "agrees"


def waits(*servers, times):
    """Return how long clients of each server wait, from connecting to the answer's end.

    A list of seconds for each server. The servers are asked in turns, so that a machine that is
    slow for a while is so for all of them.
    """
    rounds = [[timed(clients.get, server.address) for server in servers] for _ in range(times)]
    return [list(each) for each in zip(*rounds, strict=True)]


def cpu_per_request(*servers, requests=20, turns=8):
    """Return the CPU time that each of some servers spends on a request, in seconds, as a list.

    Clients come one after another. The servers are asked in turns, so that a machine that is slow
    for a while is so for all of them, and the least of each server's turns is taken: what disturbs
    a measurement can only add to it.
    """

    def ask(server):
        for _ in range(requests):
            clients.get(server.address)

    return [time / requests for time in _least_cpu(servers, ask, turns)]


def cpu_at_once(*servers, number, turns=8):
    """Return the CPU time of a request when many clients come at once, to a stopped server.

    The server's queue must have room for them.
    """

    def ask(server):
        visits_at_once(server, lambda name: clients.Conversation(server.address, name), number)

    return [time / number for time in _least_cpu(servers, ask, turns)]


def _least_cpu(servers, ask, turns):
    """Ask servers in turns; return the least CPU time in seconds that a turn took each of them."""

    def turn(server):
        until(lambda: kernel.is_asleep(server.pid))
        before = kernel.cpu_time(server.pid)
        ask(server)
        until(lambda: kernel.is_asleep(server.pid))
        return kernel.cpu_time(server.pid) - before

    rounds = [[turn(server) for server in servers] for _ in range(turns)]
    return [min(times) for times in zip(*rounds, strict=True)]


def on_one_cpu(*servers):
    """Let all threads of some servers run on one CPU only, the same for all of them."""
    cpu = min(os.sched_getaffinity(0))
    for server in servers:
        for thread in kernel.threads(server.pid):
            os.sched_setaffinity(thread, [cpu])


def cpus_used(number, work, seconds=0.25):
    """Return how many CPUs a number of our threads use together, which only do some work.

    work: a function that does a little of it. seconds: how long the threads are watched.
    """
    stop = threading.Event()

    def work_on():
        while not stop.is_set():
            work()

    threads = [threading.Thread(target=work_on) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        began, used = time.monotonic(), time.process_time()  # in this order, or it is too high
        time.sleep(seconds)
        return (time.process_time() - used) / (time.monotonic() - began)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def least_times(calls, rounds=5, seconds=0.008):
    """Return the least time that each of some calls has taken, {name: seconds}.

    calls: {name: function}. They are called in turns, each for so many seconds and at least five
    times a round: a machine that is slow for a while is so for all of them.
    """
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            tries, end = 0, time.perf_counter() + seconds
            while tries < 5 or time.perf_counter() < end:
                least[name] = min(least[name], timed(call))
                tries += 1
    return least
