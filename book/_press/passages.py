"""Prose in passages: a paragraph, a heading, an item of a list, a row of a table, a label.

A passage's text is flat, without marks and the targets of links, as a reader has it before him.
"""

import ast
import math
import re
from dataclasses import dataclass

from .items import Item, find_items

# What stands behind a heading's colon names what the section is about, and states nothing.
TOPIC = re.compile(r"\s*#+ .*?(: |\? |$)")
WEB = "\N{GLOBE WITH MERIDIANS}"  # stands where a text leads to the web
# The number in [3](03_x.ipynb) is a reference; it wears other digits until the items are found.
DISGUISED = str.maketrans("0123456789", "０１２３４５６７８９")
PLAIN = str.maketrans("０１２３４５６７８９", "0123456789", WEB)

CODE = re.compile(r"\A---\n.*?^---$|^ *(```+).*?^ *\1$", re.DOTALL | re.MULTILINE)
UNSEEN = re.compile(r"<!--.*?-->|^\([\w-]+\)=$", re.DOTALL | re.MULTILINE)
BEGIN = re.compile(r"\s*(?:[-*+] |#+ |\||>|\*\*\d+\.\*\* )")
NUMBERED = re.compile(r"\s*(\d+)[.)] ")
LEAD = re.compile(r"\s*(?:[-*+] |\d+[.)] |#+ |> ?|\*\*\d+\.\*\* )*")
SENTENCE = re.compile(r".+?(?:(?:[.!?][\"')]*| \|)(?: |$)|$)")


@dataclass(frozen=True)
class Passage:
    """Prose in which quotations stand.

    where: tells a reader where it is. cell: whose excuses hold for it. names: the addresses by
    which it can be quoted; the names of the pages that it is on are among them. cited: those of
    its items whose sentence leads to the web.
    """

    text: str
    where: str
    cell: str
    names: tuple
    items: tuple
    cited: frozenset


def passage(raw, where, cell, *names):
    """Return a block of Markdown as a Passage."""
    text, items, cited = "", [], set()
    heading = TOPIC.match(raw)
    said = len(_marked(heading[0])) if heading else math.inf
    for sentence in SENTENCE.findall(_marked(raw)):
        before = len(text)
        text += sentence.replace(WEB, "")
        for words, start, end in find_items(text[before:]):
            if before + start < said:
                items.append(Item(words, before + start, before + end))
                cited |= {items[-1]} if WEB in sentence else set()
    return Passage(text.translate(PLAIN), where, cell, names, tuple(items), frozenset(cited))


def flatten(text):
    """Return the words of a Markdown text: no targets, no marks, single spaces."""
    return _marked(text).translate(PLAIN)


def _marked(text):
    """Flatten a text, with WEB where it leads to the web and its references disguised."""
    text = LEAD.sub("", UNSEEN.sub("", text), count=1)
    text = re.sub(r"\[\d+\](?=\()", lambda found: found[0].translate(DISGUISED), text)
    text = re.sub(r"\]\(https?://[^)]*\)|<https?://[^>]*>", WEB, text)
    text = re.sub(r"\]\([^)]*\)|!\[|[*`\[\]]", "", text)
    return " ".join(text.split())


def spots(words, text):
    """List where words stand in a flat text, whole and not within a number: (start, end)."""
    if words not in text:
        return []
    pattern = rf"(?<!\w)(?<!\d[.,]){re.escape(words)}(?!\w|[.,]\d)"
    return [found.span() for found in re.finditer(pattern, text)]


def blocks(text):
    """List the blocks of a Markdown text, (line, text): paragraphs, headings, items, rows.

    Code, comments and the front matter are none.
    """
    for pattern in (CODE, UNSEEN):
        text = pattern.sub(lambda found: "\n" * found[0].count("\n"), text)
    found, is_new, items = [], True, 0
    for number, line in enumerate(text.splitlines(), 1):
        is_code = is_new and line.startswith("    ")
        if line.strip() and not is_code:
            item = _item(line, items)
            if is_new or item or BEGIN.match(line):
                found.append((number, []))
            items = item or items
            found[-1][1].append(line)
        is_new = not line.strip() or is_code
    return [(number, "\n".join(lines)) for number, lines in found]


def _item(line, items):
    """Return the number of the item of a list that a line begins, or 0; items: of the last one.

    A line of a paragraph may begin with a number, too: an item's is 1, or follows the last one.
    """
    found = NUMBERED.match(line)
    return int(found[1]) if found and int(found[1]) in (1, items + 1) else 0


DRAWS = "lab.show.", "lab.ladder.", "lab.stepper."


def shown(source):
    """List the strings in a cell's calls of lab.show and lab.ladder: titles, texts, labels."""
    return [text for call in _calls_of_show(ast.parse(source)) for text in _strings(call)]


def _calls_of_show(node):
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(DRAWS):
        yield node
    else:
        for child in ast.iter_child_nodes(node):
            yield from _calls_of_show(child)


def _strings(node):
    """Yield the strings in an expression, with … for a value in one, but no keys for a look-up."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.Subscript(value=value):
            yield from _strings(value)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _strings(child)
