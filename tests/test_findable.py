"""Thirty questions that people ask about sockets and epoll in Python, and where the book answers.

Who scans the first page, or the page of questions that it leads to, for the words of a question
finds one line that has most of them: and it must lead to the right section.
"""

import re

import pytest

from conftest import BOOK, rows
from lab import notebooks

# As people ask them, and the section that answers.
QUESTIONS = {
    "OSError: [Errno 24] Too many open files": "questions#",
    "accept fails with too many open files and then nobody gets in": "05_edge_triggered#deaf",
    "module 'select' has no attribute 'epoll'": "questions#",
    "ValueError: file descriptor cannot be a negative integer (-1)": "questions#",
    "BlockingIOError: [Errno 11] Resource temporarily unavailable": "questions#",
    "BrokenPipeError: [Errno 32] Broken pipe": "questions#",
    "my program ends without a word: SIGPIPE": "questions#",
    "OSError: [Errno 98] Address already in use": "questions#",
    "the port can't be bound again after a restart": "01_one_request#address-already-in-use",
    "ConnectionResetError ends my server": "02_request_loop#what-dies",
    "100% CPU after the client has left": "02_request_loop#nothing-at-once",
    "EPOLLRDHUP or EPOLLHUP?": "10_peers_that_close#hup-takes-two",
    "EPOLLHUP never comes": "04_level_triggered#who-hangs-up",
    "how do I know that the client has left?": "10_peers_that_close#five-ways",
    "when to ask for EPOLLOUT": "04_level_triggered#room-to-write",
    "two threads get the same socket from epoll": "06_one_shot#without-one-shot",
    "several processes listen at one port, SO_REUSEPORT": "03_thread_per_client#several-loops",
    "what does listen(5) mean, the backlog?": "07_backlog#what-the-number-means",
    "send returned less than I gave it": "01_one_request#what-send-promises",
    "40 ms delay a request": "09_nodelay",
    "answers are 200 ms late": "08_cork#what-pulls-a-cork",
    "TCP_NODELAY, who should set it?": "09_nodelay#who-sets-it",
    "Docker: connection refused to a server on 127.0.0.1": "questions#",
    "receive exactly n bytes": "questions#",
    "non-blocking connect with a deadline, Operation now in progress": "questions#",
    "filedescriptor out of range in select()": "questions#",
    "is edge-triggered faster?": "05_edge_triggered#does-it-pay",
    "what is the difference between level-triggered and edge-triggered?": "05_edge_triggered#three",
    "EPOLLET hangs, or loses clients": "05_edge_triggered#why-the-loops",
    "wake the loop from another thread": "06_one_shot#waking-a-loop",
    "events for a descriptor that I have closed": "04_level_triggered#the-registration",
    "SIGTERM does not end my loop": "06_one_shot#a-signal-is-not-enough",
    "UDP and epoll": "questions#",
    "find out that a client has vanished, keepalive": "10_peers_that_close#when-nothing-comes",
    "ten thousand clients in one thread": "04_level_triggered#ten-thousand",
    "select, poll or epoll, which is faster?": "03_thread_per_client#three-calls",
    "my asyncio server hangs right now": "your_own_server",
    "a database in an event loop": "06_one_shot#one-worker",
    "the smallest epoll server to copy": "smallest_loop",
    "slowloris, a client that drips bytes": "11_hardened#too-slow",
    "one client fills the memory of my server": "11_hardened#too-much",
    "SIGTERM, a graceful shutdown": "11_hardened#told-to-end",
    "restart without losing a request": "11_hardened#told-to-end",
    "epoll says nothing with TLS": "11_hardened#what-epoll-cant-see",
    "a server with timeouts and limits, to leave running": "11_hardened",
    "my log stops my server": "11_hardened#not-read",
}
SMALL = {"the", "and", "that", "does", "has", "for", "with", "from", "what", "how", "not", "who"}
LINK = re.compile(r"\]\(((?:\w+)\.ipynb)?(#[\w-]+)?\)")


def words(text):
    """Return the words of a text that say what it is about."""
    return set(re.findall(r"[a-z0-9_%]{2,}|-?\d+", text.lower())) - SMALL


def anchor(heading):
    """Return a heading's anchor, as the site has it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def lines():
    """List what one can scan: (text, where it leads), of the first page and of the questions."""
    found = []
    intro = (BOOK / "intro.md").read_text(encoding="utf-8")
    for item in re.findall(r"(?m)^- (.*)$", intro):
        page, place = LINK.search(item).groups()
        found.append((re.sub(LINK, "", item), page.removesuffix(".ipynb") + (place or "")))
    for cell in notebooks.cells(BOOK / "questions.ipynb"):
        for heading in re.findall(r"(?m)^## (.*)$", "".join(cell["source"])):
            if cell["cell_type"] == "markdown":
                found.append((heading, f"questions#{anchor(heading)}"))
    return found


LINES = lines()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_leads_to_the_section_that_answers_it(question):
    asked = words(question)

    def likeness(line):
        said = words(line[0])
        return len(asked & said) / len(asked), -len(said)

    text, leads = max(LINES, key=likeness)
    assert likeness((text, leads))[0] >= 0.5, f"the nearest line is: {text}"
    assert leads.startswith(QUESTIONS[question]), f"{text} leads to {leads}"


def test_they_are_thirty_at_the_least():
    assert len(QUESTIONS) >= 30


def test_a_listener_at_127_0_0_1_is_there_for_this_machine():
    reached = rows("questions", "ask-docker")["127.0.0.1"]
    assert reached == ["reach: reached", "reach: ECONNREFUSED"], (
        "intro: “in Docker: connection refused to a server on 127.0.0.1”"
    )
