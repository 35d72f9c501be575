"""The rows of the matrix: each an awkward client, and what it should get.

A row says what is right for its client in terms of the conversation that it had. Where the case
cannot arise for a server, because of one of its Traits, it says why.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import awkward


@dataclass(frozen=True)
class Traits:
    """What sets a server apart, so that some cases cannot arise for it.

    answers_once: it is meant to end after its first answer. one_at_a_time: it holds one client's
    descriptor at the most. long_answer: its answer is longer than a send buffer.
    """

    answers_once: bool = False
    one_at_a_time: bool = False
    long_answer: bool = False


def is_hello(answer):
    """Tell whether an Answer is the one that every server of the book gives."""
    return answer.status == 200 and answer.body == b"Hello, world!"


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


def serves_one_at_a_time(traits):
    """Say why many clients cannot use up its descriptors, or nothing."""
    return "it holds one client at a time" if traits.one_at_a_time else ""


@dataclass(frozen=True)
class Row:
    """An awkward client: what it does, and what it should get.

    act: what it does, a function (Conversation, Server). expects: whether a Conversation has gone
    as it should. not_applicable: why the case cannot arise for a server of some Traits, or "".
    """

    act: Callable
    expects: Callable = whatever
    not_applicable: Callable = any_server

    @property
    def name(self):
        words = self.act.__name__.split("_")
        spelled = {"utf8": "UTF-8", "tls": "TLS", "head": "HEAD", "get": "GET"}
        return " ".join(spelled.get(word, word) for word in words)


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
    Row(awkward.never_reads_a_long_answer, whatever, answers_shortly),
    Row(awkward.more_clients_than_descriptors, whatever, serves_one_at_a_time),
    Row(awkward.head, header_alone),
    Row(awkward.a_bare_line_feed, no_success),
    Row(awkward.a_tls_hello, no_success),
    Row(awkward.its_console_closed, hello),
]


def row(name):
    """Return the row of that name. Raises ValueError with the names there are."""
    for candidate in ROWS:
        if name in (candidate.name, candidate.act):
            return candidate
    names = ", ".join(repr(candidate.name) for candidate in ROWS)
    raise ValueError(f"no client is called {name!r}; there are {names}")
