"""The exercises' checks: they pass the chapter's solution, and refuse what a reader may get wrong.

A check is what stands in the chapter's own cells. It is run in a folder of its own, where a program
takes the place of the chapter's server, as it does when a reader changes that. Another chapter's
exercise is one more entry of EXERCISES.
"""

import ast
import contextlib
import io
import multiprocessing
import re
import textwrap
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import psutil
import pytest

from conftest import BOOK
from lab import notebooks

AT_ONCE = 3  # checks that are run at the same time: for the most part they wait


@dataclass(frozen=True)
class Wrong:
    """A wrong solution: how the line begins that has to refuse it, and how it is made.

    edits: (text, what replaces it) each. of: whose text that is, the "server" or the "solution".
    """

    refused: str
    edits: tuple
    of: str = "server"


@dataclass(frozen=True)
class Exercise:
    """An exercise: its chapter, the cells that its check needs, and {what is wrong: Wrong}.

    right: edits of the server that solve it, where the loop of the chapter's solution does not.
    """

    chapter: str
    cells: tuple
    wrong: dict
    right: tuple = ()


def server_with(*edits, refused):
    """Make a wrong solution of the chapter's server."""
    return Wrong(refused, edits)


def solution_with(*edits, refused):
    """Make a wrong solution of the right one."""
    return Wrong(refused, edits, of="solution")


# Chapters 1 and 2

RECEIVE_1 = "            request += connection.recv(1024)\n"
UNTIL_WHOLE_1 = "        while not is_whole(request):\n"
PRINT_1 = "        print(request.decode(), flush=True)\n"
SEND_1 = "        connection.send(ANSWER)\n"


def if_nothing_comes(act, receive=RECEIVE_1):
    """Edit the server: it does something when its client has sent all that it will send."""
    indent = re.match(" *", receive)[0]
    return receive, textwrap.indent(
        f"data = connection.recv(1024)\nif not data:\n    {act}\nrequest += data\n", indent
    )


ENDS = Exercise(
    "01_one_request",
    ("one-exercise-1",),
    {
        "it ends if nothing has come at all": server_with(
            (RECEIVE_1, f"{RECEIVE_1}            if not request:\n                return\n"),
            refused="not yet: half a request then closes (frozen",
        ),
        "it takes the first piece for all": server_with(
            (UNTIL_WHOLE_1, UNTIL_WHOLE_1.replace("while", "if")),
            refused="not yet: one byte at a time (wrong",
        ),
        "it ends in a traceback": server_with(
            if_nothing_comes('raise ConnectionError("it has left")'),
            refused="not yet: connects and closes (dead: ConnectionError",
        ),
    },
)

ANSWERS_ALL = Exercise(
    "01_one_request",
    ("one-exercise-2",),
    {
        "it ends in order, and gives no answer": server_with(
            (
                PRINT_1,
                f"        try:\n    {PRINT_1}        except ValueError:\n            return\n",
            ),
            refused="not yet: bytes that are not UTF-8 (wrong",
        ),
        "it answers, and then ends in a traceback": server_with(
            (PRINT_1 + SEND_1, SEND_1 + PRINT_1),
            refused="not yet: bytes that are not UTF-8 (dead: UnicodeDecodeError",
        ),
    },
)

RECEIVE_2 = "                request += connection.recv(1024)\n"
TALK_2 = """\
            request = b""
            while not is_whole(request):
                request += connection.recv(1024)
            print("-" * 40 + "\\n" + request.decode()[:-2], flush=True)
            connection.send(ANSWER)
"""


def gives_up(errors, seconds=None):
    """Edit the server: it gives up a client for some errors, after so many seconds as well."""
    wait = f"            connection.settimeout({seconds})\n" if seconds else ""
    body = textwrap.indent(TALK_2, "    ")
    return (
        TALK_2,
        f"{wait}            try:\n{body}            except {errors}:\n                pass\n",
    )


GOES_ON = Exercise(
    "02_request_loop",
    ("two-exercise-1",),
    {
        "the server ends": server_with(
            if_nothing_comes("return", RECEIVE_2),
            refused="not yet: connects and closes (dead",
        ),
        "one is given up that has sent nothing at all": server_with(
            (RECEIVE_2, f"{RECEIVE_2}                if not request:\n                    break\n"),
            refused="not yet: half a request then closes (frozen",
        ),
        "it raises what nobody catches": server_with(
            if_nothing_comes('raise ConnectionError("it has left")', RECEIVE_2),
            refused="not yet: half a request then closes (dead: ConnectionError",
        ),
        "it takes the first piece for all": server_with(
            ("            while not is_whole(", "            if not is_whole("),
            refused="not yet: one byte at a time (wrong",
        ),
    },
)

A_SECOND = Exercise(
    "02_request_loop",
    ("two-exercise-2",),
    {
        "nobody catches the timeout": server_with(
            (TALK_2, f"            connection.settimeout(1)\n{TALK_2}"),
            refused="not yet: says nothing (dead: TimeoutError",
        ),
        "the timeout is the listener's": server_with(
            ("    while True:\n", "    listener.settimeout(30)\n    while True:\n"),
            gives_up("OSError"),
            refused="not yet: says nothing (frozen",
        ),
        "only the timeout is caught": server_with(
            gives_up("TimeoutError", 1),
            refused="not yet: half a request then resets (dead: ConnectionResetError",
        ),
        "only the reset is caught": server_with(
            gives_up("ConnectionResetError"),
            refused="not yet: says nothing (frozen",
        ),
        "it waits for five seconds": server_with(
            gives_up("OSError", 5),
            refused="not yet: says nothing (frozen",
        ),
    },
)

# Chapter 3

RECEIVE_3 = "            request += connection.recv(1024)\n"
ACCEPT_3 = "        connection, address = listener.accept()\n"
GIVES_BACK = "    finally:\n        places.give_back()\n"
LIMIT = "        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)\n"


def accepts_or(act):
    """Edit the server: it does something when it can't accept."""
    return (
        ACCEPT_3,
        f"        try:\n    {ACCEPT_3}        except OSError:\n            {act}\n",
    )


LEAVES_NO_THREAD = Exercise(
    "03_thread_per_client",
    ("three-exercise-1",),
    {
        "a thread ends if nothing has come at all": server_with(
            (RECEIVE_3, f"{RECEIVE_3}            if not request:\n                return\n"),
            refused="not yet: half a request then closes (spinning",
        ),
        "it takes the first piece for all": server_with(
            ("        while not is_whole(", "        if not is_whole("),
            refused="not yet: one byte at a time (wrong",
        ),
        "a time limit for each piece": server_with(
            (RECEIVE_3, f"            connection.settimeout(1)\n{RECEIVE_3}"),
            refused="not yet: connects and closes (spinning",
        ),
        "it sleeps in place of spinning": server_with(
            ("import sys\n", "import sys\nimport time\n"),
            if_nothing_comes("time.sleep(1)", RECEIVE_3),
            refused="not yet: connects and closes (leaking",
        ),
    },
)

LETS_THEM_WAIT = Exercise(
    "03_thread_per_client",
    ("three-exercise-2",),
    {
        "it does not accept any more": server_with(
            accepts_or("break"),
            refused="not yet: more clients than descriptors (dead",
        ),
        "it catches the error where a thread begins": server_with(
            (
                "    with connection:\n        request",
                "    with contextlib.suppress(OSError), connection:\n        request",
            ),
            ("import signal\n", "import contextlib\nimport signal\n"),
            refused="not yet: more clients than descriptors (dead: OSError: [Errno 24]",
        ),
        "there are more places than descriptors": solution_with(
            (LIMIT, "        limit = 10_000\n"),
            refused="not yet: more clients than descriptors (dead: OSError: [Errno 24]",
        ),
        "a place is not given back": solution_with(
            (GIVES_BACK, ""),
            refused="not yet: more clients than descriptors (frozen",
        ),
        "it tries again and again": server_with(
            accepts_or("continue"),
            refused="not yet: more clients than descriptors (frozen",
        ),
    },
)

# Chapter 4

RECEIVE = "        requests[fd] += connections[fd].recv(1024)\n"
IS_WHOLE = "        if is_whole(requests[fd]):\n"
DECODE = ("requests[fd].decode()", 'requests[fd].decode(errors="ignore")')
PRINT = '            print("-" * 40 + "\\n" + requests[fd].decode()[:-2], flush=True)\n'
DO_WRITE = "                    write(fd)\n"
BRANCHES = f"""\
                if fd == listener.fileno():
                    admit()
                elif events & select.EPOLLIN:
                    read(fd)
                elif events & select.EPOLLOUT:
{DO_WRITE}\
                elif events & select.EPOLLHUP:
                    forget(fd)
"""

ON_IN = "                elif events & select.EPOLLIN:\n"
ON_RDHUP = """\
                elif events & select.EPOLLRDHUP:
                    forget(fd)
"""


def at_the_end(act):
    """Edit the server: it does something when a client has sent all that it will send."""
    return RECEIVE, textwrap.indent(
        f"data = connections[fd].recv(1024)\nif not data:\n    {act}\nrequests[fd] += data\n",
        " " * 8,
    )


def caught(errors, act, around=BRANCHES):
    """Edit the server: errors are caught around some of its loop, and then it does something."""
    indent = re.match(" *", around)[0]
    body = textwrap.indent(around, "    ")
    return around, f"{indent}try:\n{body}{indent}except {errors}:\n{indent}    {act}\n"


SERVE = "        serve(listener)\n"
ANEW = f"        while True:\n            with contextlib.suppress(Exception):\n        {SERVE}"

COSTS_NOTHING = Exercise(
    "04_level_triggered",
    ("four-exercise-1",),
    {
        "unregistered, and never closed": server_with(
            at_the_end("return epoll.unregister(fd)"),
            refused="not yet: connects and closes (leaking",
        ),
        "forgotten if it has not sent anything": server_with(
            (RECEIVE, f"{RECEIVE}        if not requests[fd]:\n            return forget(fd)\n"),
            refused="not yet: half a request then closes (spinning",
        ),
        "forgotten if its first piece is not all": server_with(
            (IS_WHOLE, IS_WHOLE.replace("if", "if not") + f"            forget(fd)\n{IS_WHOLE}"),
            refused="not yet: one byte at a time (wrong",
        ),
        "forgotten at its FIN, though it has asked": server_with(
            ("fd, select.EPOLLIN)", "fd, select.EPOLLIN | select.EPOLLRDHUP)"),
            (BRANCHES, BRANCHES.replace(ON_IN, ON_RDHUP + ON_IN)),
            refused="not yet: half closes after asking (wrong",
        ),
        "answered as if its request were whole": server_with(
            at_the_end("return epoll.modify(fd, select.EPOLLOUT)"),
            refused="not yet: connects and closes (dead: OSError: [Errno 107]",
        ),
    },
)

STAYS_WITH_ONE = Exercise(
    "04_level_triggered",
    ("four-exercise-2",),
    {
        "only a reset is caught": server_with(
            caught("ConnectionResetError", "forget(fd)"),
            DECODE,
            refused="not yet: asks and leaves (dead: OSError: [Errno 107]",
        ),
        "only errors of sending are caught": server_with(
            caught("OSError", "forget(fd)", around=DO_WRITE),
            DECODE,
            refused="not yet: half a request then resets (dead: ConnectionResetError",
        ),
        "only the decoding is mended": server_with(
            DECODE,
            refused="not yet: whole request then resets (dead: ConnectionResetError",
        ),
        "all is caught, and the client kept": server_with(
            caught("Exception", "pass"),
            refused="not yet: half a request then resets (spinning",
        ),
        "all is caught, and the client unregistered, but not closed": server_with(
            caught("Exception", "epoll.unregister(fd)"),
            DECODE,
            refused="not yet: half a request then resets (leaking",
        ),
        "all is caught, and who sent no UTF-8 is not answered": server_with(
            caught("Exception", "forget(fd)"),
            refused="not yet: bytes that are not UTF-8 (wrong",
        ),
        "after an error the loop begins anew, without its clients": server_with(
            ("import select\n", "import contextlib\nimport select\n"),
            (SERVE, ANEW),
            DECODE,
            refused="not yet: a client that came before them is answered",
        ),
    },
)

SEND = """\
            client.unsent = client.unsent[client.connection.send(client.unsent) :]
"""
SEND_ALL = """\
            client.connection.setblocking(True)
            client.connection.sendall(client.unsent)
"""
SEND_WHILE_THERE_IS_ROOM = f"            while client.unsent:\n    {SEND}"
WAIT_OR_FORGET = """\
        if client.unsent:
            epoll.modify(fd, select.EPOLLOUT)
        else:
            forget(fd)
"""
FORGET = "        forget(fd)\n"
ASK_FOR_OUT = "            epoll.modify(fd, select.EPOLLOUT)\n"
SEND_ALL_AGAIN = """\
            sent = connections[fd].send(ANSWER)
            if sent == len(ANSWER):
                forget(fd)
            else:
                epoll.modify(fd, select.EPOLLOUT)
"""
KEEP_THE_REST = "                unsent[fd] = ANSWER[sent:]\n"
SHUT = """\
            epoll.modify(fd, 0)
            connections[fd].shutdown(socket.SHUT_RDWR)
"""

SENDS_AT_ONCE = Exercise(
    "04_level_triggered",
    ("four-exercise-3-checker", "four-exercise-3"),
    {
        "what is not sent at once is forgotten": solution_with(
            (WAIT_OR_FORGET, FORGET),
            refused="not yet: a long answer",
        ),
        "what is left when there is no more room is forgotten": solution_with(
            (SEND, SEND_WHILE_THERE_IS_ROOM),
            (WAIT_OR_FORGET, FORGET),
            refused="not yet: a long answer",
        ),
        "it waits until all is sent": solution_with(
            (SEND, SEND_ALL),
            (WAIT_OR_FORGET, FORGET),
            refused="not yet: never reads a long answer (frozen",
        ),
        "what was sent is sent again": server_with(
            (ASK_FOR_OUT, ""),
            (PRINT, PRINT + SEND_ALL_AGAIN),
            refused="not yet: a long answer: ",
        ),
        "a long answer has no end": server_with(
            (ASK_FOR_OUT, ""),
            (PRINT, PRINT + SEND_ALL_AGAIN + KEEP_THE_REST),
            (SHUT, "            epoll.modify(fd, select.EPOLLIN)\n"),
            at_the_end("return forget(fd)"),
            refused="not yet: a long answer: 16,000,078 bytes, then silence",
        ),
        "it never closes": solution_with(
            (WAIT_OR_FORGET, WAIT_OR_FORGET.replace("forget(fd)", "pass")),
            refused="not yet: a visit's epoll_ctl, epoll_wait: ETIMEDOUT",
        ),
        "it asks for OUT as well": server_with(
            (PRINT, f"{PRINT}            write(fd)\n"),
            refused="not yet: a visit's epoll_ctl, epoll_wait: (4, 3)",
        ),
    },
)

# Chapter 5

RECEIVE_5 = "                requests[fd] += connections[fd].recv(1024)\n"
ON_IN_5 = "                elif events & select.EPOLLIN:\n"
ON_HUP_5 = "                elif events & select.EPOLLHUP:\n                    forget(fd)\n"
GIVE_UP = """\
            print(f"gave up on one client: {error}", flush=True)
            forget(fd)
"""
COME_BACK = "            if again is not None and time.monotonic() >= again:\n"
POLLS = "            for fd, events in epoll.poll(pause()):\n"
COMES_AGAIN = "                again = time.monotonic() + PAUSE\n"
LEFT_OVER = "                return forget(fd)\n        unfinished[fd] = True\n"


def at_the_end_of_input(act):
    """Edit the server: its receive loop does something at the end of input."""
    return RECEIVE_5, textwrap.indent(
        f"data = connections[fd].recv(1024)\nif not data:\n    {act}\nrequests[fd] += data\n",
        " " * 16,
    )


STOPS_NOBODY = Exercise(
    "05_edge_triggered",
    ("five-exercise-1",),
    {
        "who ends is forgotten, whether he has asked or not": server_with(
            at_the_end_of_input("return forget(fd)"),
            refused="not yet: half closes after asking (wrong",
        ),
        "the end is the end of the loop, and nobody is forgotten": server_with(
            at_the_end_of_input("break"),
            refused="not yet: connects and closes (leaking",
        ),
        "forgotten if the first piece is not all": server_with(
            at_the_end_of_input("break"),
            (IS_WHOLE, IS_WHOLE.replace("if", "if not") + f"            forget(fd)\n{IS_WHOLE}"),
            refused="not yet: one byte at a time (wrong",
        ),
        "it receives once for each event": server_with(
            ("            while True:\n" + RECEIVE_5, RECEIVE_5[4:]),
            refused="not yet: connects and closes (leaking",
        ),
    },
)

RESET_COSTS_NOTHING = Exercise(
    "05_edge_triggered",
    ("five-exercise-2",),
    {
        "only what would block is caught": solution_with(
            ("        except OSError as error:\n" + GIVE_UP, ""),
            refused="not yet: half a request then resets (dead: ConnectionResetError",
        ),
        "all is caught, and the client kept": solution_with(
            (GIVE_UP, GIVE_UP.replace("            forget(fd)\n", "")),
            refused="not yet: half a request then resets (leaking",
        ),
        "who hangs up is forgotten, and the farewell kills": server_with(
            at_the_end_of_input("break"),
            (ON_HUP_5, ""),
            (ON_IN_5, ON_HUP_5 + ON_IN_5),
            refused="not yet: asks and leaves (dead: OSError: [Errno 107]",
        ),
    },
)

HEARS_AGAIN = Exercise(
    "05_edge_triggered",
    ("five-exercise-3-checker", "five-exercise-3"),
    {
        "a budget, and no list": solution_with(
            (LEFT_OVER, LEFT_OVER.replace("        unfinished[fd] = True\n", "")),
            refused="not yet: a long request in one piece",
        ),
        "no budget": solution_with(
            ("        for _ in range(BUDGET):\n", "        while True:\n"),
            refused="not yet: sends without pause (frozen",
        ),
        "the end of accept for ever": solution_with(
            (COMES_AGAIN, "                pass\n"),
            refused="not yet: more clients than descriptors (frozen",
        ),
        "accept again when a client has left": solution_with(
            (COME_BACK, "            if again == 0:\n"),
            refused="not yet: it accepts again, while another client talks",
        ),
        "accept again when nothing has happened": solution_with(
            (
                POLLS,
                "            happened = epoll.poll(0 if unfinished else 1)\n"
                "            for fd, events in happened:\n",
            ),
            (COME_BACK, "            if again is not None and not happened:\n"),
            refused="not yet: it accepts again, while another client talks",
        ),
        "accept again at once": solution_with(
            (COMES_AGAIN, "                again = 0\n"),
            refused="not yet: it sleeps while there is no descriptor",
        ),
    },
)

# Chapter 6

ACT = "                act(client, database)\n"
RECEIVE_6 = "        client.request += client.connection.recv(1024)\n"
ARM_TO_READ = "            arm(client, select.EPOLLIN)\n"
HANG_UP = """\
            client.connection.shutdown(socket.SHUT_RDWR)
            arm(client, 0)
"""
WATCH_LISTENER = "        epoll.register(listener, select.EPOLLIN)\n"
IMPORT_QUEUE = "import queue\n"


def act_or(errors, otherwise):
    """Edit the server: a worker catches errors of what it does, and then does something."""
    body = textwrap.indent(
        f"try:\n    {ACT.strip()}\nexcept {errors}:\n    {otherwise}\n", " " * 16
    )
    return ACT, body


def when_it_has_sent_all(act, condition="not data"):
    """Edit the server: a worker does something when a client has sent all that it will send."""
    return RECEIVE_6, textwrap.indent(
        "data = client.connection.recv(1024)\nclient.request += data\n"
        f"if {condition}:\n{textwrap.indent(act, '    ')}\n    return\n",
        " " * 8,
    )


COSTS_NO_WORKER = Exercise(
    "06_one_shot",
    ("six-exercise-1",),
    {
        "all is caught, and the client left disarmed": server_with(
            act_or("Exception", "pass"),
            refused="not yet: whole request then resets (leaking",
        ),
        "only errors of the socket are caught": server_with(
            act_or("OSError", "arm(client, 0)"),
            refused="not yet: bytes that are not UTF-8 (wrong",
        ),
        "only the decoding is mended": server_with(
            ("client.request.decode()", 'client.request.decode(errors="ignore")'),
            refused="not yet: whole request then resets (frozen",
        ),
        "all is caught, and the client is watched for nothing": server_with(
            act_or("Exception", "arm(client, 0)"),
            refused="not yet: bytes that are not UTF-8 (wrong",
        ),
    },
)

FORGETS_WHO_LEAVES = Exercise(
    "06_one_shot",
    ("six-exercise-2",),
    {
        "not armed again, and never closed": server_with(
            when_it_has_sent_all("pass"),
            refused="not yet: connects and closes (leaking",
        ),
        "armed for nothing, though nothing will happen": server_with(
            when_it_has_sent_all("arm(client, 0)"),
            refused="not yet: half a request then closes (leaking",
        ),
        "forgotten if it has not sent anything": server_with(
            when_it_has_sent_all(textwrap.dedent(HANG_UP).rstrip(), "not client.request"),
            refused="not yet: half a request then closes (spinning",
        ),
        "forgotten if its first piece is not all": server_with(
            (ARM_TO_READ, HANG_UP),
            refused="not yet: one byte at a time (wrong",
        ),
    },
)

STOPS = Exercise(
    "06_one_shot",
    ("six-exercise-3-checker", "six-exercise-3"),
    {
        "its handler sets a flag": server_with(
            ("    sys.exit(0)\n", "    stopping.set()\n"),
            ("BACKLOG = 128\n", "BACKLOG = 128\nstopping = threading.Event()\n"),
            ("            while True:\n", "            while not stopping.is_set():\n"),
            refused="not yet: SIGTERM to a worker (",
        ),
        "its wake-up descriptor is an eventfd": server_with(
            (IMPORT_QUEUE, f"import os\n{IMPORT_QUEUE}"),
            (
                WATCH_LISTENER,
                f"{WATCH_LISTENER}        bell = os.eventfd(0, os.EFD_NONBLOCK)\n"
                "        epoll.register(bell, select.EPOLLIN)\n"
                "        signal.set_wakeup_fd(bell)\n",
            ),
            refused="not yet: SIGTERM to a worker (",
        ),
        "its wake-up descriptor is not on the list": solution_with(
            ("        for sock in (listener, inside):\n", "        for sock in (listener,):\n"),
            refused="not yet: SIGTERM to a worker (",
        ),
    },
)

# Chapter 8

TAKEN = """\
        while unsent[fd] and sent >= len(unsent[fd][0]):
            sent -= len(unsent[fd].pop(0))
"""

GATHERS = Exercise(
    "08_cork",
    ("eight-pipelined", "eight-exercise-1-checker", "eight-exercise-1"),
    {
        "all is taken to be sent": solution_with(
            (TAKEN, "        unsent[fd].clear()\n"),
            refused="not yet: long answers",
        ),
        "what is left of a piece is sent whole again": solution_with(
            ("            unsent[fd][0] = unsent[fd][0][sent:]\n", "            pass\n"),
            refused="not yet: long answers",
        ),
        "the pieces are joined for a send": solution_with(
            ("sendmsg(unsent[fd])", "send(b''.join(unsent[fd]))"),
            refused="not yet: one call (4 answers, 1 segments, setsockopt: 0, send: 1",
        ),
        "the cork is in as well": solution_with(
            (
                "        if unsent[fd]:\n            epoll.modify(fd, select.EPOLLOUT)\n",
                "        if unsent[fd]:\n            epoll.modify(fd, select.EPOLLOUT)\n"
                "            cork(connections[fd], True)\n",
            ),
            refused="not yet: one call (4 answers, 1 segments, setsockopt: 1",
        ),
        "the cork is left out, and nothing else changed": server_with(
            ("            cork(connections[fd], True)\n", ""),
            ("        cork(connections[fd], False)\n", ""),
            refused="not yet: one call (4 answers, ",
        ),
    },
)

# Chapter 7; the check of its third exercise, the client's, is tried in test_chapter_07.py

NO_ARGUMENT = "        return 1\n"
TAKE_ALL = """\
        with contextlib.suppress(BlockingIOError):  # nobody is left
            while True:
"""

IS_LONGEST = Exercise(
    "07_backlog",
    ("seven-exercise-1-checker", "seven-exercise-1"),
    {
        "the constant alone, which the argument's default replaces": server_with(
            ("BACKLOG = 1\n", "BACKLOG = 2**31 - 1\n"),
            refused="not yet: without an argument, the queue is 1",
        ),
        "nobody asks for the argument any more": server_with(
            ("    BACKLOG = take_backlog()\n", "    BACKLOG = 2**31 - 1\n"),
            refused="not yet: with 5, the queue is",
        ),
        "Python's own number": server_with(
            (NO_ARGUMENT, NO_ARGUMENT.replace("1", "128")),
            refused="not yet: without an argument, the queue is 128",
        ),
        "a number that C does not hold": server_with(
            (NO_ARGUMENT, NO_ARGUMENT.replace("1", "2**31")),
            refused="not yet: without an argument, the queue is OverflowError",
        ),
    },
    right=((NO_ARGUMENT, NO_ARGUMENT.replace("1", "2**31 - 1")),),
)

ACCEPTS_ALL = Exercise(
    "07_backlog",
    ("seven-exercise-2-checker", "seven-exercise-2"),
    {
        "ten at most": solution_with(
            (TAKE_ALL, TAKE_ALL.replace("while True", "for _ in range(10)")),
            refused="not yet: accepted in a turn, at most: 10",
        ),
        "until accept raises, which nobody catches": solution_with(
            (TAKE_ALL, TAKE_ALL.replace("BlockingIOError", "ConnectionAbortedError")),
            refused="not yet: BlockingIOError",
        ),
        "until accept raises, which it never does": solution_with(
            ("    listener.setblocking(False)\n", ""),
            refused="not yet: accepted in a turn, at most: 22",
        ),
    },
)

EXERCISES = [
    ENDS,
    ANSWERS_ALL,
    GOES_ON,
    A_SECOND,
    LEAVES_NO_THREAD,
    LETS_THEM_WAIT,
    COSTS_NOTHING,
    STAYS_WITH_ONE,
    SENDS_AT_ONCE,
    STOPS_NOBODY,
    RESET_COSTS_NOTHING,
    HEARS_AGAIN,
    COSTS_NO_WORKER,
    FORGETS_WHO_LEAVES,
    STOPS,
    GATHERS,
    IS_LONGEST,
    ACCEPTS_ALL,
]


# What is made of them


def changed(text, edits):
    """Replace texts, each of which must be there once."""
    for old, new in edits:
        assert text.count(old) == 1, f"it is there {text.count(old)} times: {old}"
        text = text.replace(old, new)
    return text


def solved(chapter, server):
    """Put the loop of the chapter's solution in the place of the server's own."""
    text = notebooks.program(chapter, f"{chapter[:2]}_solution.py")
    parts = re.fullmatch(r"(.*)\nchapter = \S+\n(.*)\nchapter\.serve = .*", text, re.DOTALL)
    loop = "".join(parts.groups()).replace("chapter.", "")  # both are in one file now
    own = re.search(r"def serve\(.*?(?=\ndef )", server, re.DOTALL)[0]
    return changed(server, [(own, loop)])


def programs(exercise):
    """Return what the check is run on, {what it is: program}."""
    server = notebooks.program(exercise.chapter, f"{exercise.chapter}.py")
    by_edits = exercise.right and changed(server, exercise.right)
    right = {"server": server, "solution": by_edits or solved(exercise.chapter, server)}
    wrong = {what: changed(right[each.of], each.edits) for what, each in exercise.wrong.items()}
    return right | wrong


def plain_values(cells):
    """Return the lines of code cells that give a name to a plain value: a check may use them."""
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for source in sources:
        for line in [] if source.startswith("%%") else ast.parse(source).body:
            if isinstance(line, ast.Assign):
                with contextlib.suppress(ValueError):  # not a plain one
                    ast.literal_eval(line.value)
                    yield ast.unparse(line)


def check_of(exercise):
    """Return the check of an exercise as a program."""
    cells = notebooks.cells(BOOK / f"{exercise.chapter}.ipynb")
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells}
    return "\n".join(["import lab", *plain_values(cells), *map(sources.get, exercise.cells)])


def run(check, name, program, folder):
    """Run a check in a folder, on a program of that name; return what it says."""
    (folder / "run").mkdir()
    (folder / "run" / name).write_text(program, encoding="utf-8")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            exec(check, {})
        except Exception:
            traceback.print_exc(file=said)
    assert not at_work_in(folder), "it has left servers behind"
    return said.getvalue()


def at_work_in(folder):
    """Return the processes that are at work in a folder: a server is where its check was."""
    return [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(folder)]


@pytest.fixture(scope="module")
def pool():
    """Processes that run checks: each check needs a working folder, and an output, of its own."""
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module", params=EXERCISES, ids=lambda exercise: exercise.cells[-1])
def checked(request, pool, tmp_path_factory):
    """Run an exercise's check on all of its programs: (Exercise, {what it is: what is said})."""
    exercise = request.param
    check, name = check_of(exercise), f"{exercise.chapter}.py"
    said = {
        what: pool.submit(run, check, name, program, tmp_path_factory.mktemp("check"))
        for what, program in programs(exercise).items()
    }
    return exercise, {what: each.result() for what, each in said.items()}


def test_the_solution_passes(checked):
    _, said = checked
    lines = said["solution"].splitlines()
    assert lines and all(line.startswith("solved") for line in lines), said["solution"]


def test_the_chapters_server_does_not(checked):
    _, said = checked
    assert "not yet" in said["server"]


def test_what_is_wrong_is_refused_for_what_is_wrong(checked):
    exercise, said = checked
    accepted = {
        what: said[what]
        for what, each in exercise.wrong.items()
        if not re.search(f"^{re.escape(each.refused)}", said[what], re.MULTILINE)
    }
    assert not accepted
