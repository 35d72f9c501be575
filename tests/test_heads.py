"""The heads of the tables: a cell reads a row's values in their order, and not by their heads.

So two heads that have changed places, in a cell and in what it shows, would be seen by nobody. Here
they stand once more; who changes one, looks at the values below it.
"""

from conftest import BOOK, printed
from lab import notebooks

HEADS = {
    (
        "01_one_request",
        "one-handshake",
    ): "socket | state | what waits in it | the server has a descriptor",
    ("01_one_request", "one-whole"): "the client sends | and gets | the server dies of",
    ("01_one_request", "one-send-all"): "20 MB in one call | takes | the next call of send",
    (
        "01_one_request",
        "one-queue",
    ): "the listener is closed by | the client in its queue gets | its connection is",
    (
        "01_one_request",
        "one-warm-measured",
    ): "before | option on neither | on the new socket | on the old one | on both",
    ("01_one_request", "one-everywhere"): "two sockets bind | without the option | with it on both",
    (
        "02_request_loop",
        "two-sockets",
    ): "socket at the server's port | state | what waits in it | the server has a descriptor",
    (
        "02_request_loop",
        "two-blocking",
    ): "what happens | the thread slept in | and the call returns",
    (
        "02_request_loop",
        "two-spin",
    ): "what the client does | the server uses of a core | the next client gets",
    (
        "02_request_loop",
        "two-finally",
    ): "signal | finally block | exit status | a shell's $? | status with our main",
    ("03_thread_per_client", "three-run"): "socket | the thread asleep on it | in the call",
    (
        "03_thread_per_client",
        "three-accept",
    ): "a client connects, and stays | threads woken | still asleep in accept",
    ("03_thread_per_client", "three-stdlib"): "with three silent clients | threads | processes",
    (
        "03_thread_per_client",
        "three-crowd",
    ): "a thousand silent clients | a thread each | one thread",
    (
        "03_thread_per_client",
        "three-herd",
    ): "four workers, 30 clients | each client wakes | the busiest has answered",
    (
        "03_thread_per_client",
        "three-stuck",
    ): "40 clients, one of four workers stopped | answered | waiting for that one",
    (
        "03_thread_per_client",
        "three-readiness",
    ): "what happens | epoll reports | in the kernel | recv",
    (
        "03_thread_per_client",
        "three-connect",
    ): "at the other end | connect says | epoll reports | SO_ERROR",
    ("04_level_triggered", "four-level"): "what happens | poll reports | recv then says",
    (
        "04_level_triggered",
        "four-stale",
    ): "what there is to report | epoll reports | what the call then finds",
    (
        "04_level_triggered",
        "four-above",
    ): "we have read | epoll reports | left in the program's buffer",
    ("04_level_triggered", "four-poll-measured"): "the call | returned | after",
    ("04_level_triggered", "four-hup-watched"): "the client | the client's end | the server's end",
    ("04_level_triggered", "four-halves"): "what happens | the other end is told | epoll tells us",
    ("04_level_triggered", "four-out"): "the send buffer | how full | poll reports | send says",
    (
        "04_level_triggered",
        "four-bill",
    ): "system calls of a visit | this server | selectors | asyncio",
    (
        "04_level_triggered",
        "four-body",
    ): "body unread, by server | answers | the client's end is | its next send",
    ("05_edge_triggered", "five-state"): "what happens | poll reports | poll again",
    ("05_edge_triggered", "five-run"): "calls of a visit | chapter 4 | this chapter",
    (
        "05_edge_triggered",
        "five-left-over",
    ): "left over | level, takes one | edge, takes one | edge, takes all",
    ("05_edge_triggered", "five-fast"): "another client | chapter 4 | this chapter",
    (
        "05_edge_triggered",
        "five-deaf",
    ): "its descriptors are free again | queue of 1 | queue of 128",
    ("05_edge_triggered", "five-swallowed"): "ten clients reset, after | chapter 4 | this chapter",
    ("05_edge_triggered", "five-cpu"): "CPU time of a visit | one at a time | forty at once",
    ("06_one_shot", "six-hands"): "calls for five clients | by the loop | by the workers",
    ("06_one_shot", "six-disarmed-table"): "what happens | poll reports | events on the list",
    ("06_one_shot", "six-herd"): "of four threads in poll | one byte wakes | another byte wakes",
    ("06_one_shot", "six-stop"): "the handler | SIGTERM to the loop's thread | to the other thread",
    ("07_backlog", "seven-number"): "the program says | clients let in | clients outside",
    (
        "07_backlog",
        "seven-heard-of",
    ): "two clients of a stopped server | in the queue | one too many",
    (
        "07_backlog",
        "seven-ab",
    ): "the queue | in 0.8 s | the slowest answer | still outside | these wait",
    ("07_backlog", "seven-drained"): "at SIGTERM the server | clients answered | clients reset",
    ("08_cork", "eight-when"): "the way | system calls | segments | the first arrives after",
    ("08_cork", "eight-run"): "four requests at once | answers | sends | setsockopts | segments",
    ("08_cork", "eight-example-5"): "one small answer | segments | calls on the client's socket",
    ("08_cork", "eight-timer"): "a byte is sent | it arrives after | the retransmission timeout",
    ("09_nodelay", "nine-pieces"): "after | arrived by default | arrived with TCP_NODELAY",
    ("09_nodelay", "nine-quick"): "request | asked at once | asked after 60 ms",
    (
        "09_nodelay",
        "nine-controlled",
    ): "the server has | client acknowledges late | client, at once",
    (
        "09_nodelay",
        "nine-inherits",
    ): "a client that connects | server's end has TCP_NODELAY | client's end has it",
    ("09_nodelay", "nine-far"): "the far end | segments with TCP_NODELAY | segments with Nagle's",
    ("09_nodelay", "nine-buffer"): "with TCP_NODELAY | send has taken | has not been sent",
    ("09_nodelay", "nine-defaults"): "start_server | server's end has it | client's end has it",
    (
        "09_nodelay",
        "nine-http-seen",
    ): "http.server | has the option | connections | a request takes",
    ("10_peers_that_close", "ten-ends"): "the peer calls | epoll says | recv | send, and again",
    ("10_peers_that_close", "ten-finds-seen"): "the peer | epoll says | after | recv",
    ("10_peers_that_close", "ten-http"): "the request | one answer | Connection | the client sees",
    (
        "10_peers_that_close",
        "ten-vanish",
    ): "the server, one client cut off | answers to another | spins or sleeps",
    (
        "10_peers_that_close",
        "ten-half",
    ): "the server, three half-close | answers | descriptors left",
    ("11_hardened", "eleven-slow-seen"): "the client | gets | and is given up after",
    ("11_hardened", "eleven-write-seen"): "the client | bytes of the answer | after | its end",
    (
        "11_hardened",
        "eleven-deadlines-seen",
    ): "clients | a request | one leaves, one comes | whose time is up?",
    ("11_hardened", "eleven-limits-seen"): "the client sends | and gets | its end",
    (
        "11_hardened",
        "eleven-accept-seen",
    ): "of three clients | connections | in the queue | the server | the third",
    ("11_hardened", "eleven-accept-errors-seen"): "accept fails with | let in | the door",
    ("11_hardened", "eleven-log-seen"): "the disk | answers | lines in the log",
    ("11_hardened", "eleven-drain-seen"): "at SIGTERM the client | gets | Connection: | its end",
    (
        "11_hardened",
        "eleven-tls-seen",
    ): "5,000 bytes came | epoll says | recv(1024) gets | pending()",
    ("11_hardened", "eleven-idle"): "beside the 64 | a request | nginx's",
    ("claims", "claims-count"): "verdict | claims | proven by a cell",
    ("defects", "defects-address"): "a client connects to | 0.0.0.0 listens | 127.0.0.1 listens",
    ("questions", "ask-docker"): "it listens on | at 127.0.0.1 | at 127.0.0.2",
    ("questions", "ask-epipe"): "the peer has | first send | second | third",
    ("questions", "ask-udp"): "datagram | epoll | we got | cut",
}


def shown():
    """Return the heads of the Tables with two columns of values or more: {(page, cell): heads}."""
    found = {}
    for path in notebooks.notebooks():
        for cell in notebooks.cells(BOOK / path.name):
            if cell["cell_type"] == "code" and "lab.Table(" in "".join(cell["source"]):
                lines = [
                    line for line in printed(path.stem, cell["id"]).splitlines() if " | " in line
                ]
                if lines and lines[0].count(" | ") >= 2:
                    found[path.stem, cell["id"]] = lines[0]
    return found


def test_no_heads_have_changed_places():
    assert shown() == HEADS
