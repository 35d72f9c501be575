"""The exercises' checks, and the claims with their verdicts.

An exercise asks for a server that survives some client; `check` plays that client of the survival
matrix against the reader's file and says what became of it.
"""

import html
from dataclasses import dataclass
from pathlib import Path

import yaml
from IPython.display import HTML

from . import chapters, show, survival
from .server import ServerError, find


def check(name, client, *more, **traits):
    """Play clients of the survival matrix, by their names, against a server of the reader's own.

    name: a file in run/, or a path. traits: what sets the server apart, as survival.Column has
    it: answers_once, one_at_a_time, long_answer. Prints a line for each client.
    """
    column = survival.Column(Path(name).stem, str(find(name)), **traits)
    rows = [survival.row(each) for each in (client, *more)]
    try:
        verdicts = survival.survey(rows, [column])
    except ServerError as error:
        print(error)
        return
    for row in rows:
        verdict = verdicts[row.name, column.chapter]
        done = "solved" if verdict.word in ("ok", "ends") else "not yet"
        print(f"{row.name}: {done} ({verdict})")


CLAIMS = Path(__file__).parent.parent / "claims.yml"
CLAIM_WORDS = {
    "holds": ("holds", "good"),
    "caveat": ("holds, with a caveat", "warn"),
    "outdated": ("no longer", "warn"),
    "wrong": ("wrong", "bad"),
}


@dataclass(frozen=True)
class Claim:
    """One claim of the article, in our words.

    verdict: a key of CLAIM_WORDS. reason: why, in a sentence or two; empty where it simply holds.
    chapter: the notebook that it belongs to. untestable: why no cell can prove it, or "".
    """

    number: int
    place: str
    claim: str
    verdict: str
    reason: str
    chapter: str
    untestable: str = ""


def claims():
    """All claims, {number: Claim}. Raises ValueError, naming the claim, where the data is off."""
    found = {}
    for entry in yaml.safe_load(CLAIMS.read_text(encoding="utf-8")):
        try:
            claim = Claim(**entry)
        except TypeError as error:
            raise ValueError(f"{CLAIMS.name}: claim {entry.get('number')}: {error}") from None
        if claim.number in found or claim.verdict not in CLAIM_WORDS:
            raise ValueError(f"{CLAIMS.name}: claim {claim.number}: twice, or a verdict unknown")
        found[claim.number] = claim
    return found


def proofs():
    """Which notebook's cell proves which claim, {number: notebook}: the cells' tags say so."""
    found = {}
    for path in chapters.notebooks():
        for cell in chapters.cells(path):
            for tag in cell["metadata"].get("tags", []):
                if tag.startswith("claim-"):
                    found.setdefault(int(tag.removeprefix("claim-")), path.stem)
    return found


def _number(claim, proven_in):
    """A claim's number as HTML, which leads to its proof where there is one."""
    if proven_in:
        return show.link(proven_in, claim.number, f"claim-{claim.number}")
    return f"{claim.number}" if claim.untestable else f"{claim.number}, not yet proven"


def _card(claim, proven_in, place):
    """A claim as HTML: verdict, claim, why, and the way to its proof."""
    word, kind = CLAIM_WORDS[claim.verdict]
    why = [claim.reason, claim.untestable, f"({claim.place})" if place else ""]
    return (
        f'<div class="lab-claim"><p>{html.escape(claim.claim)}</p><p>{show.pill(word, kind)} '
        f"<small>{html.escape(' '.join(filter(None, why)))} "
        f"[{_number(claim, proven_in)}]</small></p></div>"
    )


def _folded(claims, proven):
    """Claims as HTML: for each verdict one line, which opens to a list."""
    groups = {}
    for claim in claims:
        number = _number(claim, proven.get(claim.number))
        why = f" <em>{html.escape(claim.reason)}</em>" if claim.reason else ""
        line = f"<li>{html.escape(claim.claim)}{why} <small>[{number}]</small></li>"
        groups.setdefault(claim.verdict, []).append(line)
    return "".join(
        f'<details class="lab-folded"><summary>{show.pill(*CLAIM_WORDS[verdict])} '
        f"{len(lines)} more</summary><ul>{''.join(lines)}</ul></details>"
        for verdict, lines in groups.items()
    )


def verdicts(*numbers, place=False, brief=False):
    """The claims of these numbers with their verdicts, to read.

    place: with the place where they stand. brief: folded, one line for each verdict.
    """
    known, proven = claims(), proofs()
    if brief:
        return HTML(show.CSS + _folded([known[number] for number in numbers], proven))
    cards = "".join(_card(known[number], proven.get(number), place) for number in numbers)
    return HTML(show.CSS + cards)
