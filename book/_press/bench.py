"""Measure what servers cost under load, print it, and store it; it takes some six minutes.

What is measured how, and what the stored file holds, stands in lab/bench.py. Here is what only
this command asks for: system calls, idle connections, memory, latency.
"""

import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lab.bench import (
    CONNECTIONS,
    MARKED,
    PATH,
    REQUEST,
    SERVERS,
    STORED,
    ask,
    crowd,
    in_turns,
    measure,
    missing,
    running,
    version,
    wrk,
)
from lab.session import write_whole
from look import kernel
from survive.waiting import until

TRACED = ("11_hardened", "bare loop", "nginx")
IDLE = (10, 100, 1000, 8000)  # connections beside the busy ones
DRIPS = 200  # connections that send a byte each second
RATE = 1000  # requests a second, where latency is measured
QUIET = 1  # the load average, before, of a machine on which figures mean something
SPARE = 500  # descriptors, and ports, that are left for other things


def calls(name, seconds=3):
    """Count a server's system calls per request, by strace: {name: number}; or say why not.

    What fewer than one request in 64 needs is left out: it belongs to the connections.
    """
    if not shutil.which("strace"):
        return "strace: not installed here"
    with running(name) as server:
        pids = [word for pid in server.pids() for word in ("-p", str(pid))]
        with subprocess.Popen(["strace", "-c", "-f", *pids], stderr=subprocess.PIPE) as strace:
            if b"attached" not in (said := strace.stderr.readline()):
                return f"strace: {said.decode().strip()}"
            requests = wrk(server, seconds).requests
            strace.send_signal(signal.SIGINT)
            summary = strace.stderr.read().decode()
    rows = re.findall(r"^ +[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", summary, re.MULTILINE)
    counted = {call: round(int(count) / requests, 2) for count, call in rows if call != "total"}
    return {call: count for call, count in counted.items() if count >= 0.02}


def most_connections(servers=1):
    """Return how many connections this machine's limits allow to each of some servers."""
    ports = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    lowest, highest = map(int, ports)
    return min((kernel.allow_descriptors() - SPARE) // servers, highest - lowest - SPARE)


def beside_idle(names, numbers=IDLE, times=5, seconds=1):
    """Measure servers with idle connections beside the busy ones: {name: {number: …}}."""
    found = {name: {} for name in names}
    for number in numbers:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(running(name, patient=True)) for name in names]
            for server in servers:
                stack.enter_context(crowd(server, number))
            for name, each in in_turns(servers, times, seconds).items():
                found[name][str(number)] = {what: each[what] for what in ("cpu", "least")}
    return found


def memory(name, many=IDLE[-1]):
    """Measure a server's memory per connection, in bytes: {"silent": …, "idle": …}.

    That is how much more memory it alone has written to with so many of them than with an eighth.
    """
    few, found = many // 8, {}
    for what, asks in {"silent": False, "idle": True}.items():
        with running(name, patient=True) as server, crowd(server, few, asks):
            before = _memory_at_rest(server)
            with crowd(server, many - few, asks):
                found[what] = round((_memory_at_rest(server) - before) / (many - few))
    return found


def _memory_at_rest(server):
    until(server.is_at_rest, what=f"{server.name} to rest")
    return server.memory()


def latencies(names, many=IDLE[-1], times=5, seconds=2):
    """Measure servers' latencies: {name: {what is beside: {"p50": …, "p99": …}}}, in µs."""
    found = {name: {} for name in names}
    kinds = {"nothing": 0, f"{many:,} idle": many, f"{DRIPS} that drip": DRIPS}
    for beside, number in kinds.items():
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(running(name, patient=True)) for name in names]
            drips = beside.endswith("drip")
            crowds = [stack.enter_context(crowd(each, number, not drips)) for each in servers]
            dripping = [_begin_to_ask(clients) if drips else () for clients in crowds]
            pairs = list(zip(servers, dripping, strict=True))
            rounds = [[latency(*pair, seconds) for pair in pairs] for _ in range(times)]
        for name, each in zip(names, zip(*rounds, strict=True), strict=True):
            p50, p99 = map(statistics.median, zip(*each, strict=True))
            found[name][beside] = {"p50": round(p50), "p99": round(p99)}
    return found


def _begin_to_ask(clients):
    """Send a request on each connection, up to the middle of a header; return the connections."""
    for client in clients:
        client.send(REQUEST.removesuffix(b"\r\n") + b"X-Drip: ")
    return clients


def latency(server, dripping, seconds):
    """Ask a server RATE times a second, in order; return the p50 and p99 of the answers, in µs.

    An answer that comes late delays the next requests, and they have waited since they were due.
    dripping: connections, each of which sends a byte each second.
    """
    times, every, due = [], RATE // (len(dripping) or RATE), time.monotonic()
    with crowd(server, CONNECTIONS) as clients:
        for number in range(RATE * seconds):
            began, due = due, due + 1 / RATE
            if (early := began - time.monotonic()) > 0:
                time.sleep(early)  # and a little longer, which is not the server's affair
                began = time.monotonic()
            ask(clients[number % CONNECTIONS])
            times.append(time.monotonic() - began)
            if dripping and number % every == 0:
                dripping[number // every % len(dripping)].send(b"x")
    cuts = statistics.quantiles(times, n=100)
    return cuts[49] * 1e6, cuts[98] * 1e6


def here():
    """Return what a measurement depends on: date, machine, kernel, load by others, versions."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    versions = {"Python": platform.python_version(), "wrk": _said("wrk", "-v", r"wrk \D*(\S+)")}
    versions["nginx"] = _said("nginx", "-v", r"nginx/(\S+)")
    for package in sorted({need for each in SERVERS.values() for need in each.needs}):
        versions[package] = version(package)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": cpu[1] if cpu else platform.machine(), "cores": os.cpu_count()},
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: number for name, number in versions.items() if number},
    }


def _said(program, option, pattern):
    """Return the version that a program tells of, or None where it is not installed."""
    if not (path := shutil.which(program, path=PATH)):
        return None
    done = subprocess.run([path, option], capture_output=True, text=True)
    return re.search(pattern, done.stdout + done.stderr)[1].strip()


def bench():
    """Measure all that is installed, print it, and store it."""
    if why := missing("wrk"):
        sys.exit(f"make bench: {why}")
    left = {name: why for name in SERVERS if (why := missing(name))}
    names = [name for name in SERVERS if name not in left]
    closer = [name for name in MARKED if name in names]
    many = min(IDLE[-1], most_connections(len(closer) or 1))
    if many < IDLE[-1]:
        left["more connections"] = f"{many:,} is what this machine's limits allow"
    _show("not measured", left)
    found = here()
    if found["load"] > QUIET:
        print(f"\nThis machine is busy (its load is {found['load']}): all costs more here.")
    found["servers"] = measure(names)
    _show("CPU time per request, µs; requests per second", found["servers"])
    found["varied"] = measure(closer, varied=True)
    _show("the same where no two requests are alike", found["varied"])
    found["calls"] = {name: calls(name) for name in TRACED if name in names}
    _show("system calls per request", found["calls"])
    found["idle"] = beside_idle(closer, dict.fromkeys(min(number, many) for number in IDLE))
    _show("CPU time per request beside so many idle connections, µs", found["idle"])
    found["memory"] = {name: memory(name, many) for name in closer}
    _show("memory per connection, bytes", found["memory"])
    found["latency"] = latencies(closer, many)
    _show("latency, by what is beside, µs", found["latency"])
    found["missing"] = left
    write_whole(STORED, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"\nStored in {STORED.name}.")


def _show(title, found):
    """Print what has been found for each server, under a title, if anything has."""
    if found:
        print(f"\n{title}")
    for name, each in found.items():
        print(f"  {name:20} {_words(each)}", flush=True)


def _words(value):
    """Return what has been found in words: `cpu 7.00   least 6.90`."""
    if not isinstance(value, dict):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return "   ".join(f"{name} {_words(each)}" for name, each in value.items())
