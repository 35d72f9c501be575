"""Chapter 11's server beside nginx, aiohttp and uvicorn: it has no fault that one of them has not.

Each awkward request is followed by a plain one that asks for the end of the connection, so that
every server that goes on ends by itself. nginx passes requests on to a second one of its own, as
it would not wait for their bodies otherwise.
"""

import contextlib
import functools
import importlib.util
import re
import shutil
import socket
import string
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

import lab
from awkward_requests import MAY, MUST, MUST_NOT, REQUESTS, SHOULD, SHOULD_NOT
from conftest import CLOSING, ROOT
from survive.server import listens_at

ELEVEN = ROOT / "code" / "11_hardened.py"
PATH = "/usr/sbin:/usr/local/sbin"  # Debian's nginx
PATIENCE = 2  # seconds: who has not ended then hangs
AT_ONCE = 40  # conversations

NGINX = """
daemon off;
master_process off;
pid $folder/pid;
error_log stderr crit;
events { worker_connections 1000; }
http {
    access_log off;
    client_header_timeout 1s;
    client_body_timeout 1s;
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    server {
        listen 127.0.0.1:$port backlog=1000;
        location / { proxy_pass http://unix:$folder/inner:; }
    }
    server {
        listen unix:$folder/inner backlog=1000;
        return 200 "Hello, world!";
    }
}
"""
ASGI = """
async def application(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")]})
    await send({"type": "http.response.body", "body": b"Hello, world!"})
"""
AIOHTTP = """
import sys
from aiohttp import web

@web.middleware
async def answer(request, handler):
    await request.read()
    return web.Response(text="Hello, world!")

application = web.Application(middlewares=[answer])
web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=None, backlog=1000)
"""

# What 11 does and one of the others does not: by request, with the reason.
PARSER = "httptools' own, as aiohttp's: to refuse is safe"
LISTED = {
    "HTTP/1.2": ({"refuses"}, PARSER),
    "white space about extensions": ({"refuses"}, PARSER),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a request: statuses in their order, 100 too; says_close: the last answer."""

    statuses: tuple
    says_close: bool
    end: str  # "closed", "reset", or "hangs"

    def __str__(self):
        statuses = " ".join(map(str, self.statuses)) or "nothing"
        return statuses if self.end == "closed" else f"{statuses}, {self.end}"


@contextlib.contextmanager
def eleven(folder):
    seconds = [f"--{phase}-timeout=1" for phase in ("idle", "header", "body", "write")]
    with lab.serve(ELEVEN, *seconds) as server:
        yield server.address


@contextlib.contextmanager
def program(*words):
    port = lab.free_port()
    words = [word.format(port=port) for word in words]
    with lab.Server(words, ready=listens_at(("127.0.0.1", port))) as server:
        yield server.address


@contextlib.contextmanager
def nginx(folder):
    port = lab.free_port()
    conf = folder / "nginx.conf"
    conf.write_text(string.Template(NGINX).substitute(folder=folder, port=port))
    command = [shutil.which("nginx") or shutil.which("nginx", path=PATH), "-c", str(conf)]
    ready = listens_at(("127.0.0.1", port))
    with lab.Server([*command, "-e", "stderr"], ready=ready) as server:
        yield server.address


def aiohttp(folder):
    path = folder / "with_aiohttp.py"
    path.write_text(AIOHTTP)
    return program(sys.executable, str(path), "{port}")


def uvicorn(folder):
    (folder / "asgi.py").write_text(ASGI)
    words = ["--app-dir", str(folder), "--http", "httptools", "--log-level", "critical"]
    more = ["--lifespan", "off", "--port", "{port}", "asgi:application"]
    return program(sys.executable, "-m", "uvicorn", *words, *more)


def others():
    """Return the other servers that are installed: functions of a folder."""
    found = [nginx] if shutil.which("nginx") or shutil.which("nginx", path=PATH) else []
    return found + [each for each in (aiohttp, uvicorn) if importlib.util.find_spec(each.__name__)]


def outcome(raw, methods, end):
    """Make an Outcome of all the bytes that came."""
    statuses, says_close, methods = [], False, list(methods)
    while found := re.match(rb"HTTP/1\.[01] (\d{3}).*?\r\n\r\n", raw, re.DOTALL):
        statuses.append(status := int(found[1]))
        fields, raw = found[0].lower(), raw[found.end() :]
        says_close = b"\r\nconnection: close\r\n" in fields
        if status >= 200 and (not methods or methods.pop(0) != "HEAD"):
            length = re.search(rb"\r\ncontent-length: (\d+)\r\n", fields)
            raw = raw[int(length[1]) :] if length else b""
    return Outcome((*statuses, *["garbage"] * bool(raw)), says_close, end)


def converse(address, asked):
    """Send an awkward request, and a plain one after it; return the Outcome."""
    raw, end, deadline = bytearray(), "hangs", time.monotonic() + PATIENCE
    with socket.create_connection(address, timeout=PATIENCE) as talk:
        with contextlib.suppress(ConnectionError, TimeoutError):
            talk.sendall(asked.data + CLOSING)
        try:
            while end == "hangs" and (left := deadline - time.monotonic()) > 0:
                talk.settimeout(left)
                data = talk.recv(65536)
                raw += data
                end = end if data else "closed"
        except TimeoutError:
            pass
        except ConnectionResetError:
            end = "reset"
    return outcome(bytes(raw), asked.methods or ["GET"] * asked.good, end)


def is_accepted(status):
    return status == 405 or status < 400


def faults(asked, came):
    """Return what an outcome has of what the RFCs don't want, as a set of words."""
    if "garbage" in came.statuses:
        return {"sends garbage"}
    final = [status for status in came.statuses if status >= 200]
    leading = next((i for i, status in enumerate(final) if not is_accepted(status)), len(final))
    accepted = sum(map(is_accepted, final))
    found = {"hangs"} if came.end == "hangs" or 408 in final else set()
    if {500, 502, 504} & set(final):
        found.add("fails")
    if not final:
        return found or {"says nothing"}
    if came.end == "reset":
        found.add("resets")
    if b" HTTP/1.0\r\n" in asked.data and 100 in came.statuses:
        found.add("says 100 to 1.0")
    if accepted > leading:
        found.add("goes on after a refusal")
    if asked.wants in (MUST_NOT, SHOULD_NOT):
        before = asked.good if asked.then else 0
        if leading != before:
            found.add("accepts" if leading > before else "refuses")
    elif leading < asked.good:
        if asked.wants != MAY:
            found.add("refuses")
    elif asked.is_last:
        if len(final) > asked.good:
            found.add("goes on after the last one")
    elif leading > asked.good + 1:
        found.add("answers what is hidden")
    elif leading == asked.good:
        if len(final) > leading:
            found.add("refuses what follows")
        elif not came.says_close:
            found.add("closes unasked")
    return found


@functools.cache
def all_outcomes(folder):
    """Try every request on every server: {server: {name: Outcome}}."""
    found = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in (eleven, *others()):
            mine = folder / each.__name__
            mine.mkdir()
            with each(mine) as address:
                came = pool.map(functools.partial(converse, address), REQUESTS)
                found[each.__name__] = dict(zip([r.name for r in REQUESTS], came, strict=True))
    return found


def table(outcomes):
    """Return the outcomes as lines of a table in Markdown; faults are bold."""
    yield "| request | RFC 9112 | wants | " + " | ".join(outcomes) + " |"
    yield "|---" * (3 + len(outcomes)) + "|"
    for asked in REQUESTS:
        cells = [asked.name.replace("|", "\\|"), asked.section, asked.wants]
        for each in outcomes.values():
            came = each[asked.name]
            wrong = ", ".join(sorted(faults(asked, came)))
            cells.append(f"**{came}: {wrong}**" if wrong else str(came))
        yield "| " + " | ".join(cells) + " |"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return all_outcomes(tmp_path_factory.mktemp("servers"))


@pytest.mark.parametrize("asked", REQUESTS, ids=lambda asked: asked.name)
def test_it_has_no_fault_that_another_has_not(outcomes, asked):
    wrong = {name: faults(asked, each[asked.name]) for name, each in outcomes.items()}
    own = wrong.pop("eleven")
    alone = own - set.intersection(own, *wrong.values()) if wrong else set()
    listed, _ = LISTED.get(asked.name, (set(), ""))
    came = {name: str(each[asked.name]) for name, each in outcomes.items()}
    assert alone <= listed, f"{asked.wants} ({asked.section}): {came}"
    assert listed <= own, f"no longer so: {asked.name}"


def test_all_that_is_listed_is_tried():
    names = [asked.name for asked in REQUESTS]
    assert set(LISTED) <= set(names) and len(set(names)) == len(names)
    wants = {asked.wants for asked in REQUESTS}
    assert wants == {MUST, SHOULD, MUST_NOT, SHOULD_NOT, MAY}
