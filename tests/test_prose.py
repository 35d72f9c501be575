"""The prose is tied to the assertions: the book's, and small books made up for it."""

import dataclasses
import re
import subprocess
import sys

import pytest

from _press import prose
from _press.items import ERRNOS, find_items
from _press.passages import blocks, flatten, passage, shown, spots
from conftest import ROOT
from lab import notebooks
from lab.article import Claim, Defect

ALL = prose.read_book()
PAGES = [*(path.stem for path in notebooks.notebooks()), *prose.FILES]


# The book.


@pytest.mark.parametrize("page", [*PAGES, ""], ids=lambda page: page or "tests")
def test_what_is_quoted_stands_there(page):
    mine = [each for each in ALL.quotations if each.home == page]
    assert not [(each.where, each.words, ALL.fault(each)) for each in mine if ALL.fault(each)]


@pytest.mark.parametrize("page", PAGES)
def test_what_could_be_false_is_tied(page):
    untied = ALL.untied(page)
    assert not untied, "\n".join(["no assertion quotes", *untied])


def test_what_is_excused_stands_there_and_has_a_reason():
    assert not ALL.unexcused()


def test_no_fence_hides_prose():
    """What is fenced is taken for code: a note or a warning of MyST's would not be read."""
    cells = [cell for path in notebooks.notebooks() for cell in notebooks.cells(path)]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    texts += [path.read_text(encoding="utf-8") for path in prose.FILES.values()]
    assert {*re.findall(r"(?m)^ *```+ *(.+)", "\n".join(texts))} <= {"{code-cell}", "python"}


OTHERS = {  # kinds of items, and two of each
    r"\d.*": ("7", "11"),
    r"IN|OUT|HUP|ERR|RDHUP|PRI|ET|ONESHOT|EPOLL\w+": ("PRI", "OUT"),
    r"(?i:level|edge)-triggered|(?i:one-shot)": ("level-triggered", "edge-triggered"),
    r"SIG\w+": ("SIGHUP", "SIGUSR1"),
    r"(?:SHUT|SO|TCP|MSG)_\w+": ("SO_LINGER", "TCP_CORK"),
    r"FIN|RST": ("FIN", "RST"),
    ERRNOS: ("EIO", "EPERM"),
    r"\w+Error|KeyboardInterrupt": ("BufferError", "OSError"),
    r"[A-Z]+(?:-[A-Z0-9]+)*": ("LISTEN", "TIME-WAIT"),
    r"(?i:.*second)": ("a minute", "an hour"),
    r"(?i:.*(?:minute|hour|day))": ("a second", "an hour"),
    r"(?i:.*(?:third|quarter|fifth|tenth)s?)": ("a fifth", "two thirds"),
    r"(?i:[a-z -]+)": ("seven", "eleven"),
}


def another(words):
    """Return what could stand in an item's place: ten times the number, another of its kind."""
    if words[0].isdigit():
        return re.sub(r"^\d+", r"\g<0>0", words)
    return next(
        other
        for kind, others in OTHERS.items()
        if re.fullmatch(kind, words)
        for other in others
        if other.lower() != words.lower()
    )


def is_noticed(book, old, item):
    """Whether something is wrong once another thing stands in the place of an item."""
    words = another(item.words)
    text = old.text[: item.start] + words + old.text[item.end :]
    wrong = item._replace(words=words, end=item.start + len(words))
    new = dataclasses.replace(old, text=text, items=(wrong,), cited=frozenset())
    near = [new if each is old else each for each in book.passages if {*each.names} & {*old.names}]
    ties = [each for each in book.quotations if each.name in old.names and not book.fault(each)]
    changed = prose.Book(near, ties, claims=book.claims)
    hows = [how for each, _, how in changed.items(old.names[0]) if each is new]
    return bool(changed.misquoted()) or hows == ["untied"]


@pytest.mark.parametrize("page", PAGES)
def test_another_number_mode_or_name_is_noticed(page):
    tied = [(old, item) for old, item, how in ALL.items(page) if how == "tied"]
    assert tied
    assert not [(old.where, item.words) for old, item in tied if not is_noticed(ALL, old, item)]


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("40 ms", "400 ms"),
        ("127.0.0.1", "1270.0.0.1"),
        ("100%", "1000%"),
        ("OUT", "PRI"),
        ("PRI", "OUT"),
        ("Level-triggered", "edge-triggered"),
        ("one-shot", "level-triggered"),
        ("SIGTERM", "SIGHUP"),
        ("TCP_NODELAY", "SO_LINGER"),
        ("FIN", "RST"),
        ("EAGAIN", "EIO"),
        ("OSError", "BufferError"),
        ("CLOSE-WAIT", "LISTEN"),
        ("Half a second", "a minute"),
        ("two thirds", "a fifth"),
        ("Forty milliseconds", "seven"),
        ("ten thousand", "seven"),
    ],
)
def test_what_stands_for_an_item_is_another_item(words, other):
    assert another(words) == other
    assert [item.words for item in find_items(other)] == [other]


# Items.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it took 40 ms, then 0.2 s", ["40 ms", "0.2 s"]),
        ("100% CPU, 100 %, 5 percent", ["100%", "100 %", "5 percent"]),
        ("2 kB, 16 MB and 4 KiB in 200ms", ["2 kB", "16 MB", "4 KiB", "200ms"]),
        ("a 5-second wait, 1 minute", ["5-second", "1 minute"]),
        ("10,000 clients, 3.11 to 3.13.", ["10,000", "3.11", "3.13"]),
        ("at 127.0.0.1, or 1-2, 5.", ["127.0.0.1", "1", "2", "5"]),
        ("exit status -2, the 4th of 3 bytes", ["2", "4th", "3 bytes"]),
        ("UTF-8 HTTP/1.0 IPv4 04_level.py #4 x1", []),
        ("Four times it waits", ["Four times"]),
        (
            "ten thousand, twenty-one, six hundred bytes",
            ["ten thousand", "twenty-one", "six hundred bytes"],
        ),
        ("Twice, two, hundreds of dozens", ["Twice", "two", "hundreds", "dozens"]),
        ("Forty milliseconds, two thirds", ["Forty milliseconds", "two thirds"]),
        ("one, once, often, someone, both, none", []),
        ("a second, Once a second, half a second.", ["a second", "Once a second", "half a second"]),
        (
            "every second; an hour, one minute, a day",
            ["every second", "an hour", "one minute", "a day"],
        ),
        ("a second client, a second one, a second time", []),
        ("a second later; within a second at most", ["a second", "a second"]),
        ("a third, a quarter of it, a third kind", ["a third", "a quarter"]),
        (
            "Level-triggered or edge-triggered, One-shot",
            ["Level-triggered", "edge-triggered", "One-shot"],
        ),
        (
            "IN|ERR|HUP, OUT. RDHUP PRI ET ONESHOT",
            ["IN", "ERR", "HUP", "OUT", "RDHUP", "PRI", "ET", "ONESHOT"],
        ),
        ("EPOLLIN, EPOLLRDHUP; in, out, IN_1, HUPS, WITHIN", ["EPOLLIN", "EPOLLRDHUP"]),
        ("EAGAIN, E2BIG; ERROR, EXAMPLE", ["EAGAIN", "E2BIG"]),
        ("OSError: a ConnectionResetError. Error", ["OSError", "ConnectionResetError"]),
        ("SIGTERM, SIGUSR1, KeyboardInterrupt", ["SIGTERM", "SIGUSR1", "KeyboardInterrupt"]),
        ("ESTABLISHED LISTEN CLOSE LAST-ACK", ["ESTABLISHED", "LISTEN", "CLOSE", "LAST-ACK"]),
        ("CLOSE-WAIT TIME-WAIT FIN-WAIT-2", ["CLOSE-WAIT", "TIME-WAIT", "FIN-WAIT-2"]),
        ("FIN, RST, SHUT_WR, SO_REUSEADDR", ["FIN", "RST", "SHUT_WR", "SO_REUSEADDR"]),
        ("TCP_NODELAY MSG_MORE MAX_SIZE", ["TCP_NODELAY", "MSG_MORE"]),
        ("chapter 2, chapters 1 and 2, Chapters 3 to 5", []),
        ("example 3, line 41; examples 1, 2 and 3", []),
        ("claims 24, 26 and 28, step 3, section 3.6, RFC 9293", []),
        ("sections 3.6 to 4.1 take 5 MB", ["5 MB"]),
        ("in chapter 4, 40 ms pass, in chapter 5 and 6", ["40 ms", "6"]),
        ("epoll(7), listen(2); listen(5) and recv(1024)", ["5", "1024"]),
    ],
)
def test_items(text, found):
    assert [item.words for item in find_items(text)] == found
    assert all(text[start:end] == words for words, start, end in find_items(text))


# Passages.


@pytest.mark.parametrize(
    ("text", "flat"),
    [
        ("two\n   words", "two words"),
        ("**Bold**, *so* and `code`", "Bold, so and code"),
        ("[words](page.ipynb#there) and [the `web`](https://x.org/a)", "words and the web"),
        ("[a `list[0]`](x)", "a list0"),
        ("![a picture](x.svg) of it", "a picture of it"),
        ("## Ten [thousand](x)", "Ten thousand"),
        ("- an item", "an item"),
        ("12. an item", "an item"),
        ("**1.** An exercise", "An exercise"),
        ("> said", "said"),
        ("seen <!-- not\nseen --> again", "seen again"),
        ("(a-target)=\nwords", "words"),
        ("chapters [1](a) and [2](b)", "chapters 1 and 2"),
        ("<https://x.org>: 40 ms - 1. 2 # 3", ": 40 ms - 1. 2 # 3"),
    ],
)
def test_marks_and_targets_are_dropped(text, flat):
    assert flatten(text) == flat == passage(text, "", "").text


@pytest.mark.parametrize(
    ("heading", "items"),
    [
        ("## Six ways to send: TCP_CORK and five more", ["Six"]),
        ("## How long, then? 128 at the least", []),
        ("## Who hangs up after 5 s", ["5 s"]),
    ],
)
def test_behind_a_headings_colon_stands_what_it_is_about(heading, items):
    assert [item.words for item in passage(heading, "", "").items] == items


def test_blocks_are_paragraphs_headings_items_and_rows():
    text = """---
title: 1
---

# Heading
goes on
(target)=
A paragraph
of 2 lines
40. of them

- item
  goes on
* item
1. first
2. second

**1.** one

| a | b |
|---|---|
> quoted
"""
    assert [(line, flatten(block)) for line, block in blocks(text)] == [
        (5, "Heading goes on"),
        (8, "A paragraph of 2 lines 40. of them"),
        (12, "item goes on"),
        (14, "item"),
        (15, "first"),
        (16, "second"),
        (18, "one"),
        (20, "| a | b |"),
        (21, "|---|---|"),
        (22, "quoted"),
    ]


def test_a_list_goes_on_after_code_and_a_number_that_does_not_follow_is_no_item():
    text = "1. first\n\n       code\n\n   goes on\n2. second\n40. of them\n3. third\n"
    assert [(line, flatten(block)) for line, block in blocks(text)] == [
        (1, "first"), (5, "goes on"), (6, "second 40. of them"), (8, "third"),
    ]  # fmt: skip


def test_code_and_comments_are_no_blocks():
    text = """words

    code

    more code
words

```{code-cell}
code
```
````
```
````
words <!-- a
comment -->
words
    no code
- item

  ```python
  code
  ```
"""
    assert [(line, flatten(block)) for line, block in blocks(text)] == [
        (1, "words"),
        (6, "words"),
        (14, "words"),
        (16, "words no code"),
        (18, "item"),
    ]


@pytest.mark.parametrize(
    ("words", "text", "number"),
    [
        ("40 ms a", "takes 40 ms a request", 1),
        ("40 ms a", "takes 140 ms a request", 0),
        ("40 ms", "40 ms, 40 ms", 2),
        ("40 m", "takes 40 ms", 0),
        ("takes 4", "takes 4.5, takes 4,000, takes 40", 0),
        ("takes 4", "takes 4, or takes 4.", 2),
        ("5 ms", "0.5 ms, 1,5 ms", 0),
        ("(a.b)", "a (a.b) c", 1),
        ("a.b", "axb", 0),
        ("Ten", "ten", 0),
    ],
)
def test_whole_words_stand(words, text, number):
    assert len(spots(words, text)) == number
    assert all(text[start:end] == words for start, end in spots(words, text))


@pytest.mark.parametrize(
    ("text", "items", "cited"),
    [
        ("See 2 [a](https://x). And 3.", ["2", "3"], ["2"]),
        ("See 2 (so [a](https://x).) And 3.", ["2", "3"], ["2"]),
        ('"2 [a](https://x)." Then 3! 4?', ["2", "3", "4"], ["2"]),
        ("2 [a](http://x), 3.5 of 4. 5", ["2", "3.5", "4", "5"], ["2", "3.5", "4"]),
        ("2 <https://x>", ["2"], ["2"]),
        ("2 [a](page.ipynb)", ["2"], []),
        ("| 2 [a](https://x) | 3 |", ["2", "3"], ["2"]),
        ("examples [3](a) are [4](b) and 5", ["5"], []),
        ("examples [1](a) and [2](b)", [], []),
        ("[3 times](a), [3](https://b)", ["3 times"], ["3 times"]),
    ],
)
def test_an_item_is_cited_if_its_sentence_leads_to_the_web(text, items, cited):
    found = passage(text, "", "")
    assert [item.words for item in found.items] == items
    assert [item.words for item in found.items if item in found.cited] == cited
    assert all(found.text[start:end] == words for words, start, end in found.items)


@pytest.mark.parametrize(
    ("source", "strings"),
    [
        ("lab.show.table(['a', 'b'], [('c', 1), (x, 'd')])", ["a", "b", "c", "d"]),
        ("y = lab.show.picture(draw, 'a '\n 'b', alt='c')", ["a b", "c"]),
        ("lab.show.ledger({'a': ['b']}, f'{x:5} of {y}s')", ["a", "b", "… of …s"]),
        ("lab.show.table(rows['no'], counts.get('x', ''))", ["x", ""]),
        ("lab.show.table(lab.show.link('a', 'b'))", ["a", "b"]),
        ("with x:\n    lab.show.ledger('a')\nlab.verdicts('b')\nprint('c')", ["a"]),
        ("lab.ladder.diagram('a', 'b', watch, ('c', 'd'))", ["a", "b", "c", "d"]),
        ("a = lab.stepper.step_through(run.recording, 'a', 'b')", ["a", "b"]),
        ("lab.show.BLUE == 'a'", []),
    ],
)
def test_what_a_cell_shows(source, strings):
    assert shown(source) == strings


# Quotations.


def quoted(message, condition="x == 1", home="04_here"):
    """The quotations of an assertion, as (name, verdict, words)."""
    found = prose.quotations(f"assert {condition}, {message!r}", "a-cell", home)
    return [(each.name, each.verdict, each.words) for each in found]


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("“four times it waits”", [("04_here", "", "four times it waits")]),
        ("it waits “four *times*\n it”", [("04_here", "", "four times it")]),
        ("it waits: “four times”", [("waits", "", "four times")]),
        ("claim 71, wrong: “a b c”", [("claim 71", "wrong", "a b c")]),
        ("claim 71: “a b c”", [("claim 71", "", "a b c")]),
        ("defect 6: “a b c”", [("defect 6", "", "a b c")]),
        ("intro: “a b c”; README: “d e f”", [("intro", "", "a b c"), ("README", "", "d e f")]),
        ("09_nodelay: “a b c” “d e f”", [("09_nodelay", "", "a b c"), ("04_here", "", "d e f")]),
        ("claim 47: the same", []),
        ('"straight"', []),
    ],
)
def test_quotations(message, found):
    assert quoted(message) == found


def test_a_test_has_no_page_of_its_own():
    assert quoted("“a b c”; intro: “d e f”", home="") == [("intro", "", "d e f")]


def test_quotations_are_those_of_assertions():
    source = "def f():\n  if x:\n    assert x, ('“a b c” '\n      'or “d e f”')\nprint('“g h i”')"
    found = prose.quotations(source, "a-cell", "04_here")
    assert [(each.words, each.where, each.home) for each in found] == [
        ("a b c", "a-cell", "04_here"),
        ("d e f", "a-cell", "04_here"),
    ]


@pytest.mark.parametrize("condition", ["True", "1", "1 == 1", "not 0", "b'a' in b'ab'"])
def test_an_assertion_that_cannot_fail_proves_nothing(condition):
    (found,) = prose.quotations(f"assert {condition}, '“a b c”'", "a-cell", "04_here")
    assert not found.proves


def markdown(source, name="a-text"):
    return {"cell_type": "markdown", "id": name, "source": [source], "metadata": {}}


def code(source, *tags, name="a-cell"):
    return {"cell_type": "code", "id": name, "source": [source], "metadata": {"tags": [*tags]}}


WRONG = Claim(
    71, "line 40", "It ends.", "wrong", "The server closes first, for 60 seconds.", "04_here"
)
HOLDS = Claim(72, "line 41", "It is so.", "holds", "", "04_here")
DEFECT = Defect(6, "3", "leaves", "The end of input makes it spin.", "a little, 2 times")


def book(*cells, claims=(WRONG, HOLDS), defects=(DEFECT,), readme=""):
    """A book of one chapter and a README."""
    made = prose.Book()
    for each in cells:
        made.add_cell(each, "04_here")
    made.add_markdown(readme, "README")
    for claim in claims:
        made.add_claim(claim)
    for defect in defects:
        made.add_defect(defect)
    return made


def faults(message, text="It waits `four` times\nhere.\n\nAnd then:", condition="x", **more):
    made = book(markdown(text), code(f"assert {condition}, {message!r}"), **more)
    assert len(made.misquoted()) == sum(bool(made.fault(each)) for each in made.quotations)
    return [made.fault(each) for each in made.quotations]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("“waits four times”", ""),
        ("“It waits four times here.”", ""),
        ("“And then:”", ""),
        ("claim 71, wrong: “It ends.”", ""),
        ("claim 71: “for 60 seconds”", ""),
        ("defect 6: “makes it spin”", ""),
        ("defect 6: “a little, 2 times”", ""),
        ("README: “so it is”", ""),
        ("“waits five times”", "does not stand there"),
        ("“aits four times”", "does not stand there"),
        ("“times here. And then”", "does not stand there"),
        ("“so it is”", "does not stand there"),
        ("claim 72: “for 60 seconds”", "does not stand there"),
        ("defect 6: “for 60 seconds”", "does not stand there"),
        ("“four times”", "too short to tie anything"),
        ("“”", "too short to tie anything"),
        ("claim 71: “”", "too short to tie anything"),
        ("claim 73: “for 60 seconds”", "there is no such page, claim or defect"),
        ("defect 7: “makes it spin”", "there is no such page, claim or defect"),
        ("05_there: “waits four times”", "there is no such page, claim or defect"),
        ("claim 71, holds: “for 60 seconds”", "another verdict stands in claims.yml"),
        ("defect 6, wrong: “makes it spin”", "another verdict stands in claims.yml"),
    ],
)
def test_what_is_wrong_with_a_quotation(message, fault):
    assert faults(message, readme="Well, so it is.") == [fault]


def test_a_quotation_of_what_proves_nothing_is_wrong():
    assert faults("“waits four times”", condition="True") == ["its assertion can't fail"]


def test_the_chapter_may_quote_the_reason_and_the_defect_that_it_shows():
    assert faults("“for 60 seconds”") == [""]
    spins = "“makes it spin”"
    assert faults(spins) == ["does not stand there"]
    shows = code(f"assert x, {spins!r}", "defect-6")
    assert not book(shows).misquoted()


# How an item is held.


def held(*cells, **more):
    """The items of the page and how each is held."""
    return [(item.words, how) for _, item, how in book(*cells, **more).items("04_here")][:-1]


NOTHING = {"claims": [dataclasses.replace(WRONG, reason="It is 1.")]}


@pytest.mark.parametrize(
    ("text", "message", "how"),
    [
        ("It waits four times.", "“It waits four times.”", "tied"),
        ("It waits four times.", "“waits four times”", "tied"),
        ("It waits four times.", "“It waits four”", "untied"),
        ("It waits four times.", "“waits five times”", "untied"),
        ("It waits ten thousand times.", "“It waits ten”", "untied"),
        ("It waits 40 ms.", "“It waits 40”", "untied"),
        ("It waits four times.", "README: “waits four times”", "untied"),
        ("It waits four times.", "", "untied"),
        ("It waits four times ([a](https://x)).", "", "cited"),
        ("It waits four times ([a](https://x)).", "“It waits four times”", "tied"),
        ("It waits four times.\n<!-- untied: “four times”: a name -->", "", "excused"),
        ("It waits four times.\n<!-- untied: “four times” -->", "", "untied"),
        ("It waits four times.\n<!-- untied: “five times”: a name -->", "", "untied"),
        ("It waits four times.\n<!-- untied: “four”: a name -->", "", "untied"),
        ("It waits four times.\n<!-- untied: “It waits”, “four times”: a name -->", "", "excused"),
    ],
)
def test_an_item_is_tied_cited_excused_or_untied(text, message, how):
    found = held(
        markdown(text), code(f"assert x, {message!r}"), readme="waits four times", **NOTHING
    )
    assert [kind for _, kind in found] == [how]


def test_a_quotation_that_is_wrong_ties_nothing():
    text = markdown("It waits four times.\n\nFour times.")
    for source in ("assert True, '“It waits four times”'", "assert x, '“four times”'"):
        assert held(text, code(source), **NOTHING) == [
            ("four times", "untied"),
            ("Four times", "untied"),
        ]
    assert held(text, code("assert x, '“Four times.”'"), **NOTHING)[1] == ("Four times", "tied")


def test_an_excuse_holds_in_its_own_cell():
    excuse = "<!-- untied: “four times”: a name -->"
    found = held(markdown("four times"), markdown(excuse, "another"), **NOTHING)
    assert found == [("four times", "untied")]
    made = book(markdown("four times"), markdown(excuse, "another"))
    assert made.unexcused() == ["another: untied “four times”: does not stand there"]


def test_an_excuse_in_code_is_a_line_of_its_own():
    source = "if x:\n    # untied: “2 of 3”: a label\n    lab.show.table(['2 of 3'])\n"
    assert held(code(source), **NOTHING) == [("2", "excused"), ("3", "excused")]
    source = source.replace("if x:\n", "x = 1 ").replace("\n    lab", "\nlab")
    assert held(code(source), **NOTHING) == [("2", "untied"), ("3", "untied")]


def test_strings_that_are_shown_and_docstrings_are_prose():
    table = code("# untied: “2 of”: a label\nlab.show.table(['2 of 3'])", name="a-table")
    program = code('%%writefile run/x.py\n"""It\nwaits\n4 times."""\nX = 5', name="a-program")
    other = code('%%writefile run/x.sh\n"""6"""', name="another")
    made = book(table, program, other, claims=[], defects=[])
    assert [(each.where, item.words, how) for each, item, how in made.items("04_here")] == [
        ("a-table", "2", "excused"),
        ("a-table", "3", "untied"),
        ("docstring of x.py", "4 times", "untied"),
    ]


def test_reasons_and_defects_are_prose_of_their_chapters():
    shows = code("assert x, 'claim 71: “for 60 seconds”'", "defect-6")
    assert [(item.words, how) for _, item, how in book(shows).items("04_here")] == [
        ("60 seconds", "tied"),
        ("2 times", "untied"),
    ]
    assert book(shows).untied("04_here") == ["defect 6: 2 times: …a little, 2 times…"]
    assert [item.words for _, item, _ in book().items("04_here")] == ["60 seconds"]


@pytest.mark.parametrize(
    ("quoted", "left"),
    [
        ("“The server closes first, for 60 seconds. It lasts 2 s”", []),
        (
            "“The server closes first”; claim 71: “It lasts 2 s”",
            ["The server closes first, for 60 seconds."],
        ),
        ("“The server closes first, for”", ["It lasts 2 s."]),
        ("“closes first, for 60”", ["The server closes first, for 60 seconds.", "It lasts 2 s."]),
    ],
)
def test_half_a_sentence_of_a_reason_is_not_enough(quoted, left):
    claim = dataclasses.replace(WRONG, reason=f"{WRONG.reason} It lasts 2 s.")
    made = book(code(f"assert x, 'claim 71: {quoted}'"), claims=[claim])
    assert made.half_quoted("claim 71", claim.reason) == left


def test_an_excused_sentence_of_a_reason_needs_no_quotation():
    claim = dataclasses.replace(WRONG, untied="“The server closes first, for 60 seconds”: so")
    assert book(claims=[claim]).half_quoted("claim 71", claim.reason) == []


def test_an_entry_of_the_data_may_be_excused_under_its_own_key():
    excused = dataclasses.replace(WRONG, untied="“60 seconds”: a constant of the kernel")
    made = book(claims=[excused], defects=[dataclasses.replace(DEFECT, untied="“3 times”: so")])
    assert [how for _, _, how in made.items("04_here")] == ["excused"]
    assert made.unexcused() == ["defect 6: untied “3 times”: does not stand there"]
    assert made.unexcused("04_here") == [] and len(made.unexcused("defects")) == 1


@pytest.mark.parametrize(
    ("comment", "wrong"),
    [
        ("untied: “four”: a name", []),
        ("untied: “four”, “It *waits*”:\n a name", []),
        ("untied: “four”", ["a-text: untied “four”: no reason is given"]),
        ("untied: “four”: ", ["a-text: untied “four”: no reason is given"]),
        ("untied: “five”: a name", ["a-text: untied “five”: does not stand there"]),
        ("untied: four: a name", ["a-text: untied “”: can't be read"]),
        ("untied: “”: a name", ["a-text: untied “”: can't be read"]),
        ("a comment", []),
    ],
)
def test_what_is_wrong_with_an_excuse(comment, wrong):
    made = book(markdown(f"It `waits` four times. <!-- {comment} -->"))
    assert made.unexcused() == made.unexcused("04_here") == wrong
    assert made.unexcused("README") == []


def test_a_file_of_markdown_is_a_page():
    readme = """# 2 pages

It waits 3 times,
then 4 times.

```{code-cell}
:tags: [hide-input]

assert x == 5, "“It waits 3 times”; 04_here: “never at all”"
```

<!-- untied: “4 times”: why not -->
"""
    made = book(markdown("never at all"), readme=readme)
    assert [(each.where, item.words, how) for each, item, how in made.items("README")] == [
        ("line 1", "2", "untied"),
        ("line 3", "3 times", "tied"),
        ("line 3", "4 times", "excused"),
    ]
    assert not made.misquoted() and not made.unexcused()


def test_faults_of_a_page_are_those_on_it_and_those_of_it():
    made = book(code("assert x, '“it is not”; README: “nor is this”; claim 9: “or so what”'"))
    assert len(made.misquoted()) == len(made.misquoted("04_here")) == 3
    (line,) = made.misquoted("README")
    assert line == "a-cell: “nor is this” (README): there is no such page, claim or defect"


# Cells that prove claims and show defects.

ENDS, LASTS = "claim 71, wrong: “It ends.”", "claim 71, wrong: “for 60 seconds”"
IS_SO, SPINS = "claim 72, holds: “It is so.”", "defect 6: “makes it spin”"


def unproven(message, *tags, **more):
    return book(code(f"assert x, {message!r}", *tags), **more).unproven("04_here")


@pytest.mark.parametrize(
    ("message", "tags", "wrong"),
    [
        (LASTS, "claim-71", []),
        (f"{ENDS}; {LASTS}", "claim-71", []),
        (f"{IS_SO}; {LASTS}; {SPINS}", "claim-72 claim-71 defect-6", []),
        (f"“makes it spin”; README: “or so what”; {SPINS}", "defect-6 a-tag claim-x", []),
        (IS_SO, "", []),
        ("“It is so.”", "claim-72", ["claim 72 is not quoted"]),
        ("claim 72: it is so", "claim-72", ["claim 72 is not quoted"]),
        ("", "defect-6", ["defect 6 is not quoted"]),
        (f"{IS_SO}; {SPINS}", "claim-72", ["defect 6 is quoted, and is no tag"]),
        (IS_SO, "defect-6", ["defect 6 is not quoted", "claim 72 is quoted, and is no tag"]),
        (ENDS, "claim-71", ["nothing of the reason of claim 71 is quoted"]),
        ("claim 72: “It is so.”", "claim-72", ["claim 72 holds, and the cell says otherwise"]),
        (
            f"{LASTS}; claim 71: “It ends.”",
            "claim-71",
            ["claim 71 is wrong, and the cell says otherwise"],
        ),
        (
            "claim 71, caveat: “for 60 seconds”",
            "claim-71",
            ["claim 71 is wrong, and the cell says otherwise"],
        ),
    ],
)
def test_a_cell_quotes_what_its_tags_name(message, tags, wrong):
    assert unproven(message, *tags.split()) == [f"a-cell: {each}" for each in wrong]


@pytest.mark.parametrize(
    "tag", [f"{a}-{b}" for a in ("hide", "remove") for b in ("input", "cell", "output")]
)
def test_a_cell_that_proves_is_in_view(tag):
    assert unproven(SPINS, "defect-6", tag) == [f"a-cell: {tag} hides it"]
    assert unproven("", tag) == []


def test_a_tag_that_has_moved_to_another_cell_is_noticed():
    def made(first, second):
        cells = (
            code(f"assert x, {LASTS!r}", *first),
            code(f"assert x, {SPINS!r}", *second, name="b"),
        )
        return book(*cells).unproven("04_here")

    assert made(["claim-71"], ["defect-6"]) == []
    assert made([], ["claim-71", "defect-6"]) == ["b: claim 71 is not quoted"]


def test_a_verdict_that_has_changed_is_noticed():
    for verdict in ("holds", "caveat"):
        changed = dataclasses.replace(WRONG, verdict=verdict)
        assert len(unproven(LASTS, "claim-71", claims=[changed])) == 1
        made = book(code(f"assert x, {LASTS!r}", "claim-71"), claims=[changed])
        assert len(made.misquoted()) == 1


def test_reasons_and_defects_that_have_changed_places_are_noticed():
    other = dataclasses.replace(WRONG, number=73, reason="The client does.")
    cells = [
        code(f"assert x, {LASTS!r}", "claim-71"),
        code("assert x, 'claim 73, wrong: “The client does.”'", "claim-73", name="b"),
        code(f"assert x, {SPINS!r}", "defect-6", name="c"),
    ]
    assert not book(*cells, claims=[WRONG, other]).misquoted()
    reasons = other.reason, WRONG.reason
    swapped = [
        dataclasses.replace(claim, reason=reason)
        for claim, reason in zip((WRONG, other), reasons, strict=True)
    ]
    made = book(*cells, claims=swapped)
    assert len(made.misquoted()) == len(made.unproven("04_here")) == 2
    defects = [dataclasses.replace(DEFECT, what="Another."), dataclasses.replace(DEFECT, number=7)]
    assert len(book(*cells, claims=[WRONG, other], defects=defects).misquoted()) == 1


# What the reader of a terminal sees.


def report(*names):
    environment = {"PYTHONPATH": str(ROOT / "book"), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "_press", "prose", *names]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def printed(monkeypatch, capsys, made, *names):
    """What the report prints of a made-up book, and its exit status."""
    monkeypatch.setattr(prose, "read_book", lambda: made)
    with pytest.raises(SystemExit) as ended:
        prose.report(*names)
    return capsys.readouterr().out.splitlines(), ended.value.code


def test_the_report_lists_what_is_to_be_mended(monkeypatch, capsys):
    made = book(readme="It waits 2 times,\n3 times.\n\n<!-- untied: “2 times” -->")
    made.quotations += prose.quotations("assert x, 'intro: “a b c”'", "a-cell", "README")
    assert printed(monkeypatch, capsys, made, "README", "intro") == (
        [
            "README: 0 tied, 0 cited, 0 excused, 2 untied",
            "  line 1: 2 times: …It waits 2 times, 3 times.…",
            "  line 1: 3 times: …It waits 2 times, 3 times.…",
            "intro: 0 tied, 0 cited, 0 excused, 0 untied",
            "a-cell: “a b c” (intro): there is no such page, claim or defect",
            "README: untied “2 times”: no reason is given",
            "4 to mend",
        ],
        1,
    )


def test_the_report_lists_the_cells_that_do_not_quote_what_they_prove(monkeypatch, capsys):
    made = book()
    made.add_cell(code("assert x", "claim-72"), "01_one_request")
    lines, status = printed(monkeypatch, capsys, made, "01_one_request")
    assert lines[1:] == ["  a-cell: claim 72 is not quoted", "1 to mend"] and status == 1


def test_the_report_of_a_page_that_is_whole(monkeypatch, capsys):
    lines, status = printed(monkeypatch, capsys, book(), "README")
    assert lines == ["README: 0 tied, 0 cited, 0 excused, 0 untied", "nothing to mend"]
    assert status == 0


def test_the_report_goes_over_all_pages(monkeypatch, capsys):
    lines, _ = printed(monkeypatch, capsys, book())
    assert [line.split(":")[0] for line in lines[:-1]] == PAGES


def test_the_press_reports_and_knows_its_pages():
    done = report("README")
    assert done.stdout.startswith("README: ") and done.returncode == ("0 untied" not in done.stdout)
    unknown = report("99_none")
    assert unknown.stderr.startswith("There is no page 99_none; there are 01_one_request, ")
    assert unknown.returncode == 1
