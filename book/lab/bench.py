"""What a request costs servers under load; `make bench` measures all, and stores it.

    lab.bench.figure()                            the stored measurement, as bars
    lab.bench.ratio("11_hardened.py", "nginx")    measured now, in under 10 s; or why it can't be

The load is wrk's: one thread, 64 connections that are kept. Servers take turns within one run, so
that a machine that is slow for a while is so for all of them. Each has one process that works, and
answers with the same 13 bytes. What counts is the CPU time of all its processes; how many requests
come back in a second is wrk's affair as much as the server's.

The stored measurement is book/bench.json; times are in µs, memory is in bytes:

servers   by name: CPU time per request, the median of the rounds ("cpu") and the "least" of them,
          the part of it that the "kernel" takes, and requests per second ("rate")
varied    the same, where each request asks for another path
calls     by name: system calls per request, counted by strace
idle      by name, by the number of idle connections beside the 64: "cpu" and "least"
memory    by name: the server's memory per connection, "silent" and "idle" after an answer
latency   by name, by what is beside: "p50" and "p99" of 1,000 requests per second
missing   by name: why it is not there
load      the machine's load average before: at most 1 is quiet, and figures of a busy machine are
          higher
"""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import statistics
import string
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from look import kernel
from survive.clients import reset
from survive.server import Server, ServerError, free_port, listens_at

from . import show
from .session import find

BOOK = Path(__file__).resolve().parent.parent
RIVALS, CODE, STORED = Path(__file__).with_name("rivals"), BOOK.parent / "code", BOOK / "bench.json"
REQUEST, BODY = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"Hello, world!"
CONNECTIONS = 64  # of wrk
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"  # Debian's nginx


@dataclass(frozen=True)
class Rival:
    """A server to measure.

    words: its command line, with places for {port}, {rivals}, {code}, and {conf}, the file that is
    made of nginx.conf. needs: the Python packages that it is made of. patient: more words, so that
    clients may be idle, or drip, as long as they like.
    """

    words: str
    needs: tuple = ()
    patient: str = ""


SERVERS = {
    "10_peers_that_close": Rival("{python} {code}/10_peers_that_close.py {port}"),
    "11_hardened": Rival(
        "{python} {code}/11_hardened.py {port}",
        ("httptools",),
        "--header-timeout 600 --idle-timeout 600",
    ),
    "bare loop": Rival("{python} {rivals}/bare.py {port}", ("httptools",)),
    "asyncio streams": Rival("{python} {rivals}/streams.py {port}"),
    "uvloop, httptools": Rival("{python} {rivals}/protocol.py {port}", ("uvloop", "httptools")),
    "uvicorn": Rival(
        "{python} -m uvicorn --port {port} --no-access-log --log-level warning --lifespan off "
        "--app-dir {rivals} application:application",
        ("uvicorn",),
    ),
    "granian": Rival(
        "{python} -m granian --port {port} --interface asginl --workers 1 --runtime-threads 1 "
        "--no-access-log --log-level warning --working-dir {rivals} application:application",
        ("granian",),
    ),
    "nginx": Rival("nginx -e stderr -c {conf}"),
}
MARKED = ("11_hardened", "nginx")  # of which more is measured, and whose bars have a colour


def _rival(name):
    """Return the Rival of that name; a file in run/, or a path, becomes one."""
    if name in SERVERS:
        return SERVERS[name]
    return Rival("{python} {path} {port}", patient=SERVERS["11_hardened"].patient)


def missing(*names):
    """Return what servers, or "wrk", lack here, as `httptools: not installed here`, or None."""
    for name in names:
        words, needs = ["wrk"], ()
        if name != "wrk":
            words, needs = _rival(name).words.split(), _rival(name).needs
        lacks = [need for need in needs if not version(need)]
        if words[0] != "{python}" and not shutil.which(words[0], path=PATH):
            lacks.append(words[0])
        if lacks:
            return f"{', '.join(lacks)}: not installed here"
        if words[1:] and words[1].endswith((".py", "{path}")):
            path = Path(words[1].format(rivals=RIVALS, code=CODE, path=find(name)))
            if not path.is_file():
                return f"there is no {path.name}"
    return None


def version(package):
    """Return the version of a Python package, or None where it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


@contextlib.contextmanager
def running(name, patient=False):
    """Run a server while the block lasts, as a Server that has proven to answer like the others.

    patient: whether its clients may be idle as long as they like, and as many as the hard limit on
    descriptors allows. What it prints goes to /dev/null: a pipe would have to be read, at some cost
    to the machine.
    """
    if patient:
        kernel.allow_descriptors()  # it inherits ours
    rival, port = _rival(name), free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        places = {"port": port, "python": sys.executable, "code": CODE, "rivals": RIVALS}
        places |= {"conf": Path(folder, "nginx.conf"), "path": find(name)}
        template = string.Template((RIVALS / "nginx.conf").read_text(encoding="utf-8"))
        places["conf"].write_text(template.substitute(port=port, folder=folder), encoding="utf-8")
        words = f"{rival.words} {rival.patient if patient else ''}".split()
        program, *rest = [word.format_map(places) for word in words]
        command = [shutil.which(program, path=PATH) or program, *rest]
        silent = ["/bin/sh", "-c", 'exec "$@" > /dev/null', "sh", *command]
        with Server(silent, listens_at(("127.0.0.1", port)), name) as server:
            _check(server)
            yield server


def _check(server):
    """Raise RuntimeError where a server does not answer a request as all do, twice."""
    answer = b""
    with crowd(server, 1, asks=False) as (client,):
        with contextlib.suppress(OSError):
            answer = ask(client)
            if answer.startswith(b"HTTP/1.1 200 ") and ask(client):
                return
    with contextlib.suppress(ServerError):
        server.wait(1)  # for its last words, if it ends
    said = f"{answer!r} {server.last_words()}".strip()
    raise RuntimeError(f"{server.name} does not answer as the others do: {said}")


# The load
# --------


class Load(NamedTuple):
    """What wrk has counted: requests that were answered, and those per second."""

    requests: int
    rate: float


def parse(said):
    """Return the Load that a report of wrk's tells of.

    Raises RuntimeError where that is no report, or one of errors, or of other answers than 200.
    """
    requests = re.findall(r"^ +(\d+) requests in [\d.]+[a-z]+, ", said, re.MULTILINE)
    rate = re.findall(r"^Requests/sec: +([\d.]+)$", said, re.MULTILINE)
    troubles = re.findall(r"^ +(Socket errors:.*|Non-2xx.*)$", said, re.MULTILINE)
    if troubles or not len(requests) == len(rate) == 1 or requests == ["0"]:
        raise RuntimeError("; ".join(troubles) or f"this is no report of requests: {said!r}")
    return Load(int(requests[0]), float(rate[0]))


def wrk(server, seconds, varied=False):
    """Put a server under load; return the Load. Raises RuntimeError if a request has failed.

    varied: whether each request asks for another path. Otherwise all are the same bytes.
    """
    words = f"wrk --threads 1 --connections {CONNECTIONS} --duration {seconds}s".split()
    words += ["--script", str(RIVALS / "varied.lua")] * varied
    url = "http://{}:{}/".format(*server.address)
    done = subprocess.run([*words, url], capture_output=True, text=True, timeout=seconds + 10)
    try:
        return parse(done.stdout or done.stderr)
    except RuntimeError as error:
        raise RuntimeError(f"{server.name}: {error} {server.last_words()}") from None


@contextlib.contextmanager
def crowd(server, number, asks=True):
    """Keep so many connections to a server while the block lasts; each has asked once, or never.

    They end in resets: thousands of orderly ends would leave as many TIME-WAITs behind.
    """
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = socket.create_connection(server.address, timeout=10)
            stack.callback(reset, client)
            clients.append(client)
            if asks:
                ask(client)
        yield clients


def ask(client):
    """Ask over a connection that is kept; return the answer. Raises ConnectionError if it ends."""
    client.send(REQUEST)
    answer = b""
    while not answer.endswith(b"\r\n\r\n" + BODY):
        data = client.recv(65536)
        if not data:
            raise ConnectionError(f"the connection has ended after {answer!r}")
        answer += data
    return answer


# What it costs
# -------------


class Turn(NamedTuple):
    """A server's CPU time per request, in µs; the kernel's and all time, in ticks; the rate."""

    cpu: float
    system: int
    ticks: int
    rate: float


def _ticks(server):
    """Return the time of a server's processes in the kernel and in all, in ticks, proc(5)."""
    times = [list(map(int, kernel.stat(pid)[11:13])) for pid in server.pids()]
    return sum(system for _, system in times), sum(map(sum, times))


def turn(server, seconds, varied=False):
    """Put a server under load once; returns a Turn."""
    used, ticks = server.cpu_time(), _ticks(server)
    load = wrk(server, seconds, varied)
    system, every = (now - before for now, before in zip(_ticks(server), ticks, strict=True))
    return Turn((server.cpu_time() - used) / load.requests * 1e6, system, every, load.rate)


def in_turns(servers, times, seconds, varied=False):
    """Put servers under load in turns; return {name: what the stored measurement says of one}."""
    rounds = [[turn(server, seconds, varied) for server in servers] for _ in range(times)]
    found = {}
    for server, turns in zip(servers, zip(*rounds, strict=True), strict=True):
        cpu, system, ticks, rate = zip(*turns, strict=True)
        found[server.name] = {
            "cpu": round(statistics.median(cpu), 2),
            "least": round(min(cpu), 2),
            "kernel": round(sum(system) / (sum(ticks) or 1), 2),
            "rate": round(statistics.median(rate)),
        }
    return found


def measure(names, times=20, seconds=1, varied=False):
    """Measure servers under load in turns: {name: {"cpu": …, "least": …, "kernel": …, "rate": …}}.

    times: so many rounds, of so many seconds each. A Server may use 30 s of CPU time in its life.
    """
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(name)) for name in names]
        return in_turns(servers, times, seconds, varied)


def ratio(one, other, seconds=8):
    """Return how much CPU time a request costs one server, in terms of another; or why not.

    one, other: names of SERVERS, files in run/, or paths. The least of each one's rounds is taken:
    what disturbs a measurement can only add to it. A text says so where something is not installed.
    """
    if why := missing("wrk", one, other):
        return why
    found = measure([one, other], max(1, seconds // 2), 1)
    return found[one]["least"] / found[other]["least"]


# What is stored
# --------------


def stored():
    """Return the stored measurement."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def figure(measured=None):
    """Draw what a request costs each server, as bars; return a Picture.

    measured: the stored measurement, unless given.
    """
    measured = measured or stored()
    servers = dict(measured["servers"])
    for name, each in measured["varied"].items():
        servers[f"{name}, all different"] = each
    names = sorted(servers, key=lambda name: servers[name]["cpu"])
    said = ", ".join(f"{name} {servers[name]['cpu']:.1f}" for name in names)
    return show.bars(
        "What a request costs a server that has 64 connections",
        f"Bars of the CPU time per request, in µs: {said}.",
        {name: {_kind(name): servers[name]["cpu"]} for name in names},
        "µs of CPU time per request",
    )


def _kind(name):
    """Return what the legend calls a bar: servers that are marked have a colour of their own."""
    name = name.partition(", all different")[0]
    return name if name in MARKED else "the others"
