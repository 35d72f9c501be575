"""What the article says, and what its programs do wrong: the data, and how the pages show it.

book/claims.yml holds the claims, book/defects.yml the defects. The proofs are the notebooks' cells
with a tag like `claim-42` or `defect-7`.
"""

import html
from dataclasses import dataclass
from pathlib import Path

import yaml
from IPython.display import HTML

from . import notebooks, show

CLAIMS = Path(__file__).parent.parent / "claims.yml"
DEFECTS = CLAIMS.with_name("defects.yml")
KINDS = ("leaves", "resets", "scarce", "bytes", "closes", "cost", "rest", "never")
CLAIM_WORDS = {
    "holds": ("holds", "good"),
    "caveat": ("holds, with a caveat", "warn"),
    "wrong": ("wrong", "bad"),
}


@dataclass(frozen=True)
class Claim:
    """One claim of the article, in our words.

    verdict: a key of CLAIM_WORDS. reason: why, in a sentence or two; empty where it simply holds.
    chapter: the notebook that it belongs to. fault: `translation` where the original says it
    otherwise, or "". untestable: why no cell can prove it, or "". untied: words of the reason that
    no cell needs to quote, and why, or "".
    """

    number: int
    place: str
    claim: str
    verdict: str
    reason: str
    chapter: str
    fault: str = ""
    untestable: str = ""
    untied: str = ""
    SORT = "verdict"

    @property
    def source(self):
        """Who says it, and where: the article, its translation, or the translator himself."""
        if self.place.startswith("translator"):
            return f"The {self.place}"
        return f"The {self.fault or 'article'}, {self.place}"


@dataclass(frozen=True)
class Defect:
    """Something that is wrong with the article's programs.

    programs: which of them, by number. kind: one of KINDS, a section of the page; `never` is for
    what looks like a defect and can't happen. what: what goes wrong, in a sentence or two.
    left: how much of it is still so in chapter 10, or "". untied: as a claim has it.
    """

    number: int
    programs: str
    kind: str
    what: str
    left: str = ""
    untied: str = ""
    SORT = "kind"


def claims():
    """Return all claims, {number: Claim}. Raises ValueError, naming the claim, if one is off."""
    return _read(CLAIMS, Claim, lambda claim: claim.verdict in CLAIM_WORDS)


def defects():
    """Return all defects, {number: Defect}. Raises ValueError as claims() does."""
    return _read(DEFECTS, Defect, lambda defect: defect.kind in KINDS)


def _read(path, kind, is_known):
    """Read the entries of a YAML file as objects of a kind, {number: object}."""
    found = {}
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        named = f"{path.name}: {kind.__name__.lower()} {entry.get('number')}"
        try:
            each = kind(**entry)
        except TypeError as error:
            raise ValueError(f"{named}: {error}") from None
        if each.number in found or not is_known(each):
            raise ValueError(f"{named}: twice, or of a {each.SORT} unknown")
        found[each.number] = each
    return found


def proofs(kind="claim"):
    """Find the notebook whose cell proves each claim (or `defect`), by tags: {number: notebook}."""
    found, prefix = {}, f"{kind}-"
    for path in notebooks.notebooks():
        for cell in notebooks.cells(path):
            for tag in cell["metadata"].get("tags", []):
                if tag.startswith(prefix):
                    found.setdefault(int(tag.removeprefix(prefix)), path.stem)
    return found


def _number(claim, proven_in):
    """Write a claim's number as HTML, which leads to its proof where there is one."""
    if proven_in:
        return show.link(proven_in, claim.number, f"claim-{claim.number}")
    return f"{claim.number}" if claim.untestable else f"{claim.number}, not yet proven"


def _quoted(claim):
    """Write a claim as HTML: as what somebody says, somewhere, so that nobody takes it for ours."""
    return (
        f'<span class="lab-said">{html.escape(claim.source)}: '
        f"<q>{html.escape(claim.claim)}</q></span>"
    )


def _answered(claim, proven_in):
    """Write as HTML what is so, why that can't be shown if it can't, and the way to the proof."""
    parts = [f"<strong>{html.escape(claim.reason)}</strong>"] if claim.reason else []
    parts += [html.escape(claim.untestable)] if claim.untestable else []
    return " ".join([*parts, f"<small>[{_number(claim, proven_in)}]</small>"])


def _card(claim, proven_in):
    """Write a claim as HTML: who says it, the verdict, what is so, and the way to its proof."""
    return (
        f'<div class="lab-claim"><p>{_quoted(claim)}</p>'
        f"<p>{show.pill(*CLAIM_WORDS[claim.verdict])} {_answered(claim, proven_in)}</p></div>"
    )


def _folded(claims, proven, more=""):
    """Write claims as HTML: for each verdict one line, which opens to a list."""
    groups = {}
    for claim in claims:
        line = f"<li>{_quoted(claim)} {_answered(claim, proven.get(claim.number))}</li>"
        groups.setdefault(claim.verdict, []).append(line)
    return "".join(
        f'<details class="lab-folded"><summary>{show.pill(*CLAIM_WORDS[verdict])} '
        f"{len(lines)}{more}</summary><ul>{''.join(lines)}</ul></details>"
        for verdict, lines in groups.items()
    )


def verdicts(*numbers, brief=False):
    """Show the claims of these numbers with their verdicts, to read.

    brief: folded, one line for each verdict.
    """
    known, proven = claims(), proofs()
    if brief:
        return HTML(_folded([known[number] for number in numbers], proven, " more"))
    return HTML("".join(_card(known[number], proven.get(number)) for number in numbers))


def by_chapter(*words):
    """Show the claims of these verdicts (keys of CLAIM_WORDS), chapter by chapter, to be opened."""
    known, proven, parts = claims(), proofs(), []
    for path in notebooks.chapters():
        mine = [
            claim
            for claim in known.values()
            if claim.chapter == path.stem and claim.verdict in words
        ]
        if mine:
            name = html.escape(notebooks.title(path))
            parts.append(f"<p>{show.link(path.stem, f'{int(path.stem[:2])}. {name}')}</p>")
            parts.append(_folded(mine, proven))
    return HTML("".join(parts))


def list_defects(kind):
    """List the defects of a kind: what goes wrong, where, and the way to what shows it."""
    shown, lines = proofs("defect"), []
    for defect in defects().values():
        if defect.kind != kind:
            continue
        number = show.link(shown[defect.number], defect.number, f"defect-{defect.number}")
        of = _programs(defect.programs)
        left = f" <em>In chapter 10: {html.escape(defect.left)}.</em>" if defect.left else ""
        lines.append(
            f'<li value="{defect.number}">{html.escape(defect.what)} '
            f"<small>{of} [{number}]</small>{left}</li>"
        )
    return HTML(f'<ol class="lab-defects">{"".join(lines)}</ol>')


def _programs(which):
    """Say which programs: "1, 2" are examples, `all` all six, other words stand for themselves."""
    if which == "all":
        return "all six"
    if not which[0].isdigit():
        return html.escape(which)
    return f"example{'s' if len(which) > 1 else ''} {html.escape(which)}"
