"""What in prose could be false: numbers, modes, and names in capitals."""

import errno
import re
from typing import NamedTuple

COUNTS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|"
    "hundreds?|thousands?|millions?|dozens?|twice|thrice"
)
FRACTIONS = "thirds?|quarters?|fifths?|tenths?"
TIME = "(?:milli|micro)?second|minute|hour|day"
UNITS = f"(?:{TIME})s?|ms|µs|s|[kKMG]i?B|bytes?|bits?|percent|times"
# A second client is no time, nor is a third one a fraction.
ORDINAL = (
    r"(?![ ](?:one|way|time|client|thread|process|server|piece|part|call|send|shutdown|exercise|"
    r"kind|list|socket|request|answer|event|signal)\b)"
)
ERRNOS = "|".join(name for name in dir(errno) if name.startswith("E"))
WAITS = "(?:CLOSE|TIME|FIN)-WAIT(?:-[12])?"

ITEM = re.compile(
    rf"""
    # 5, 10,000, 3.11, 40 ms, 100%; but not in UTF-8, HTTP/1.0 and the names of files
    (?<![\w./\#])(?<![A-Za-z]-)
    [0-9]+(?:,[0-9]{{3}})*(?:\.[0-9]+)*(?:st|nd|rd|th|[ ]?%|[ -]?(?:{UNITS})(?!\w))?(?!\w)
    # ten thousand, twenty-one, two thirds, forty milliseconds, three times
    | \b(?i:{COUNTS})(?:[ -](?:{COUNTS}|{FRACTIONS}|one))*(?:[ -](?:{UNITS}))?\b
    # a second, once a minute, half an hour, a third
    | \b(?i:(?:half[ ]|once[ ])?an?|one|each|every|per)[ ](?:{TIME})\b{ORDINAL}
    | \b(?i:an?|one)[ ](?:{FRACTIONS})\b{ORDINAL}
    # modes, events, errors, signals
    | \b(?i:level-triggered|edge-triggered|one-shot)\b
    | \b(?:IN|OUT|HUP|ERR|RDHUP|PRI|ET|ONESHOT|EPOLL[A-Z]+)\b
    | \b(?:{ERRNOS}|[A-Z]\w*Error|KeyboardInterrupt|SIG[A-Z]+[12]?)\b
    # states, segments and options of TCP
    | \b(?:ESTABLISHED|LISTEN|SYN-SENT|SYN-RECV|{WAITS}|CLOSE|CLOSING|LAST-ACK|FIN|RST)\b
    | \b(?:SHUT|SO|TCP|MSG)_[A-Z_]+\b
    """,
    re.VERBOSE,
)
# What leads elsewhere and states nothing: chapters 1 and 2; example 3, line 41; epoll(7).
PLACE = "chapter|example|exercise|step|section|line|claim|defect"
NUMBER = r"\d+(?:\.\d+)*"
REFERENCE = re.compile(
    rf"\b(?i:{PLACE}|RFC) {NUMBER}(?!\w)"
    rf"|\b(?i:{PLACE})s {NUMBER}(?:(?:, and|,| and| or| to) {NUMBER})*(?!\w)"
    r"|\b\w+\([2378]\)"
)


class Item(NamedTuple):
    """Words that could be false, and where they stand in their text."""

    words: str
    start: int
    end: int


def find_items(text):
    """List the items of a text without marks, in their order."""
    clear = REFERENCE.sub(lambda found: "_" * len(found[0]), text)
    return [Item(found[0], *found.span()) for found in ITEM.finditer(clear)]
