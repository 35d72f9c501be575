"""The table of symptoms: a look says each of them of a server that is as the table has it."""

import resource

import lab
from conftest import ROOT, rows, seconds
from look import command
from look.report import report
from look.view import look_at

PAGE = "your_own_server"
FOUR = ROOT / "code" / "04_level_triggered.py"

# Each server waits for its client, and does one thing wrong with him.
NOBODY_HANDLES_IT = """
import select
def serve(listener):
    connection, _ = listener.accept()
    connection.shutdown(socket.SHUT_RDWR)
    epoll = select.epoll()
    epoll.register(connection, select.EPOLLIN)
    while True:
        epoll.poll()
"""
ITS_EDGE_IS_SPENT = """
import select
def serve(listener):
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN | select.EPOLLET)
    while True:
        epoll.poll()
        connections = [listener.accept()]
        connections[0][0].recv(100)
"""
NOBODY_ARMS_IT = """
import select
def serve(listener):
    connection, _ = listener.accept()
    epoll = select.epoll()
    epoll.register(connection, select.EPOLLIN | select.EPOLLONESHOT)
    epoll.poll()
    epoll.poll()
"""


def test_spinning_with_an_event_that_nobody_handles(serving):
    with lab.serve(serving(NOBODY_HANDLES_IT)) as server, lab.connect(server):
        lab.until(lambda: lab.kernel.cpu_share(server.pid, 0.1) > 2 * lab.kernel.SPINNING)
        view = lab.until(lambda: (view := look_at(server.pid)).calls and view)
    said = " ".join(report(view).split())
    assert "epoll_wait(5) 400 times, which returned 1: ready 4 (IN|HUP)" in said, (
        "“spinning, epoll_wait returned 1, and no other call”; "
        "“an event is reported that nobody handles: HUP or ERR, or OUT left on”"
    )


def test_spinning_without_a_descriptor(serving, run_folder):
    take = "        connection, address = listener.accept()\n"
    caught = f"        try:\n    {take}        except OSError:\n            return\n"
    with lab.serve(lab.edited(FOUR, "caught.py", {take: caught})) as server:
        lab.at_rest(server, sockets=1)
        server.limit(resource.RLIMIT_NOFILE, lab.kernel.descriptors(server.pid))
        with lab.connect(server):
            lab.until(lambda: lab.kernel.cpu_share(server.pid, 0.1) > 2 * lab.kernel.SPINNING)
            view = lab.until(lambda: (view := look_at(server.pid)).calls and view)
    assert "accept4(3) 200 times, which failed with EMFILE" in " ".join(report(view).split()), (
        "“spinning, accept4 fails with EMFILE”; “descriptors have run out; the client stays in”"
    )


def test_clients_in_the_queue_of_a_listener_whose_edge_is_spent(serving):
    with lab.serve(serving(ITS_EDGE_IS_SPENT)) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        with server.paused():
            clients = [lab.connect(server) for _ in range(3)]
            clients[0].send(b"x")
        lab.until(lambda: lab.kernel.accept_queue(server.address)[0] == 2)
        lab.until_blocked(server.pid, "epoll_wait")
        view = look_at(server.pid, 0.1)
        for client in clients:
            client.close()
    said = report(view)
    assert "asleep in epoll_wait" in said and "2 waiting" in said, (
        "“clients in the accept queue, and it sleeps in epoll_wait”; "
        "“an edge-triggered listener whose edge is spent”"
    )


def test_a_socket_that_nobody_arms_again(serving):
    with lab.serve(serving(NOBODY_ARMS_IT)) as server, lab.connect(server) as client:
        client.send(b"x")
        said = lab.until(
            lambda: "for ONESHOT:" in (text := report(look_at(server.pid, 0.05))) and text
        )
    assert "5 for ONESHOT: ESTABLISHED" in said or "4 for ONESHOT: ESTABLISHED" in said, (
        "“ONESHOT alone among the events of a socket”; “disarmed, and nobody arms it again”"
    )


def test_how_late_an_answer_is_behind_a_cork():
    *_, late = rows("08_cork", "eight-when")["cork forgotten"]
    assert 0.19 <= seconds(late) <= 0.26, (
        "“nothing, but answers come 200 ms late”; “a cork that nobody pulls”"
    )


def test_how_late_it_is_after_two_small_writes_and_a_read():
    (late,) = rows("09_nodelay", "nine-client")["writes twice"]
    assert 0.038 <= seconds(late) <= 0.06, (
        "“nothing, but answers come 40 ms late | two small writes and a read: Nagle's algorithm”"
    )


def test_the_exit_statuses(capsys):
    with lab.serve(FOUR) as server:
        lab.until_blocked(server.pid, "epoll_wait")
        healthy = command.main([str(server.pid), "--seconds", "0.05"])
        with server.paused():
            sick = command.main([str(server.pid), "--seconds", "0.05"])
    gone = command.main([str(server.pid), "--seconds", "0.05"])
    assert (healthy, sick, gone) == (0, 1, 2), (
        "“The exit status is 0 if nothing was found, 1 if something was, and 2 if it could not”"
    )
