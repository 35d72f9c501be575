"""The rows of the matrix: each an awkward client, and what it should get.

A row says what is right for its client in terms of the conversation that it had. Where the case
cannot arise for a server, because of one of its Traits, it says why.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from . import awkward


@dataclass(frozen=True)
class Traits:
    """What sets a server apart, so that some cases cannot arise for it.

    answers_once: it is meant to end after its first answer. one_at_a_time: it holds one client's
    descriptor at the most. long_answer: it can be started with an answer that is longer than a send
    buffer. logs: it prints each request. deadline: seconds after which it gives up whoever keeps it
    waiting, and by which it is done after SIGTERM, as far as it says; 0 if it doesn't.
    """

    answers_once: bool = False
    one_at_a_time: bool = False
    long_answer: bool = False
    logs: bool = False
    deadline: float = 0


def is_hello(answer):
    """Tell whether an Answer is the one that every server of the book gives."""
    return answer.status == 200 and answer.body == b"Hello, world!"


def is_success(answer):
    """Tell whether an Answer, which is complete, is what was asked for, however long."""
    return answer.status == 200


def hello(talk):
    """Expect one answer, the article's, and an orderly end."""
    answers = talk.answers()
    return len(answers) == 1 and is_hello(answers[0]) and talk.ended == "closed"


def hello_each(talk):
    """Expect one answer and an orderly end in each of several conversations."""
    return hello(talk) and all(hello(other) for other in talk.others)


def hello_all(talk):
    """Expect that of all conversations, and that none was turned away."""
    return hello_each(talk) and len(talk.others) == awkward.TOGETHER - 1


def hello_twice(talk):
    """Expect two answers in one conversation, and an orderly end."""
    answers = talk.answers()
    return len(answers) == 2 and all(map(is_hello, answers)) and talk.ended == "closed"


def some_answer(talk):
    """Expect one complete answer, a refusal or not."""
    return len(talk.answers()) == 1 and talk.ended == "closed"


def no_success(talk):
    """Expect no success: nothing was asked for, so nothing may be granted."""
    return not any(answer.status < 300 for answer in talk.answers())


def header_alone(talk):
    """Expect one answer without a body, whatever Content-Length it tells."""
    return talk.received.endswith(b"\r\n\r\n") and len(talk.answers("HEAD")) == 1


def no_fault(talk):
    """Expect that the client has found no fault with what others got, or with the server's log."""
    return not talk.fault


def hello_and_no_fault(talk):
    """Expect that of it, and the article's answer in each of its conversations."""
    return hello_each(talk) and no_fault(talk)


def whatever(talk):
    """Accept any answer, and none."""
    return True


def any_server(traits):
    """Say nothing: the case can arise for every server."""
    return ""


def answers_one(traits):
    """Say why several clients cannot be answered, or nothing."""
    return "it answers one client" if traits.answers_once else ""


def answers_shortly(traits):
    """Say why nobody can leave a long answer unread, or nothing."""
    return "" if traits.long_answer else "its answer is short"


def logs_nothing(traits):
    """Say why its log can't lose a request, or nothing."""
    return "" if traits.logs else "no log of its requests is known"


def serves_one_at_a_time(traits):
    """Say why many clients cannot use up its descriptors, or nothing."""
    return "it holds one client at a time" if traits.one_at_a_time else ""


@dataclass(frozen=True)
class Row:
    """An awkward client: what it does, and what it should get.

    act: what it does, a function (Conversation, Server). expects: whether a Conversation has gone
    as it should. not_applicable: why the case cannot arise for a server of some Traits, or "".
    needs: how the server must be started, any of "long_answer", "log_file". overstays: it is many,
    and they stay; who comes afterwards is to be served. ends: it tells the server to end. is_alone:
    it would be many, and is one.
    """

    act: Callable
    expects: Callable = whatever
    not_applicable: Callable = any_server
    needs: tuple = ()
    overstays: bool = False
    ends: bool = False
    is_alone: bool = False

    def alone(self):
        """Return the row with one client where there would be many."""
        return replace(self, overstays=False, is_alone=True) if self.overstays else self

    @property
    def name(self):
        words = self.act.__name__.split("_")
        spelled = {
            "utf8": "UTF-8", "tls": "TLS", "head": "HEAD", "get": "GET", "logs": "log's",
            "sigterm": "SIGTERM",
        }  # fmt: skip
        return " ".join(spelled.get(word, word) for word in words)


def _overstays(act, *not_applicable, needs=()):
    return Row(act, whatever, *not_applicable, needs=needs, overstays=True)


LONG = ("long_answer",)


ROWS = [
    Row(awkward.plain_get, hello),
    Row(awkward.one_byte_at_a_time, hello),
    Row(awkward.two_at_once, hello_each, answers_one),
    Row(awkward.ten_while_it_is_busy, hello_all, answers_one),
    Row(awkward.says_nothing),
    Row(awkward.connects_and_closes),
    Row(awkward.half_a_request_then_closes),
    Row(awkward.half_a_request_then_resets),
    Row(awkward.whole_request_then_resets),
    Row(awkward.asks_and_leaves),
    Row(awkward.half_closes_after_asking, hello),
    Row(awkward.half_closes_and_vanishes),
    Row(awkward.bytes_that_are_not_utf8, some_answer),
    Row(awkward.a_body_left_unread, some_answer),
    Row(awkward.two_pipelined_requests, hello_twice),
    Row(awkward.a_header_without_end, no_success),
    Row(awkward.sends_without_pause, no_success),
    Row(awkward.asks_without_pause),
    Row(awkward.more_clients_than_descriptors, whatever, serves_one_at_a_time),
    _overstays(awkward.silent_at_the_descriptor_limit),
    _overstays(awkward.drips_a_header),
    _overstays(awkward.drips_a_body),
    _overstays(awkward.never_reads_a_long_answer, answers_shortly, needs=LONG),
    _overstays(awkward.reads_a_long_answer_one_byte_a_second, answers_shortly, needs=LONG),
    _overstays(awkward.vanishes_while_idle),
    _overstays(awkward.vanishes_with_an_answer_unread, answers_shortly, needs=LONG),
    Row(awkward.head, header_alone),
    Row(awkward.a_bare_line_feed, no_success),
    Row(awkward.a_tls_hello, no_success),
    Row(awkward.its_console_closed, hello),
    Row(awkward.its_console_full_and_not_read, hello),
    Row(awkward.its_logs_disk_full_then_not, hello_and_no_fault, logs_nothing, needs=("log_file",)),
    Row(awkward.sigterm_while_clients_wait_in_the_queue, no_fault, answers_one, ends=True),
    Row(awkward.sigterm_while_a_request_is_half_read, no_fault, ends=True),
    Row(
        awkward.sigterm_while_an_answer_is_half_read,
        no_fault,
        answers_shortly,
        needs=LONG,
        ends=True,
    ),
]


def row(name):
    """Return the row of that name. Raises ValueError with the names there are."""
    for candidate in ROWS:
        if name in (candidate.name, candidate.act):
            return candidate
    names = ", ".join(repr(candidate.name) for candidate in ROWS)
    raise ValueError(f"no client is called {name!r}; there are {names}")
