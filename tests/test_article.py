"""Claims and proofs belong together: none without the other."""

import ast
import html
import re
from collections import Counter
from dataclasses import replace

import pytest

import lab
from _press import prose
from lab import notebooks

CLAIMS = lab.claims()
SAID = prose.read_book()
STANDING = {path.stem for path in notebooks.chapters()}
PROVING = {cell.page for cell in SAID.cells if re.search("claim-|defect-", " ".join(cell.tags))}


def tagged():
    """(notebook, cell, number) for every tag of a claim."""
    for path in notebooks.notebooks():
        for cell in notebooks.read(path).cells:
            for tag in cell.metadata.get("tags", []):
                if tag.startswith("claim"):
                    yield path.stem, cell, tag


def asserts(cell):
    """How many conditions a cell asserts: `assert a and b` counts one."""
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell.source)))


def test_there_are_119_in_order_and_ten_are_wrong():
    assert list(CLAIMS) == list(range(1, 120)), "intro: “of the 119 in the article”"
    assert len(CLAIMS) == 119, "README: “all 119 of the article”"
    found = Counter(claim.verdict for claim in CLAIMS.values())
    assert found["wrong"] == 10, "intro: “ten are wrong”"
    assert found["caveat"] == 42, "intro: “forty-two have a caveat”"


def test_the_examples_are_six_and_each_has_its_chapter():
    found = {
        (example[1], claim.chapter[:2])
        for claim in CLAIMS.values()
        if (example := re.match(r"example (\d)", claim.place))
    }
    assert len(found) == 6, "intro: “shows six small servers”; README: “shows six small servers”"
    assert found == {*zip("123456", ("01", "02", "04", "05", "08", "09"), strict=True)}, (
        "intro: “Its examples 1 and 2 are chapters 1 and 2 here, 3 and 4 are 4 and 5, "
        "5 and 6 are in 8 and 9”"
    )


def test_each_is_said_in_full_and_by_the_book_alone():
    for claim in CLAIMS.values():
        assert claim.claim.endswith(".") and claim.place, claim.number
        assert claim.reason or claim.verdict == "holds", claim.number
        assert re.fullmatch(r"\d\d_\w+", claim.chapter), claim.number
    assert len({claim.claim for claim in CLAIMS.values()}) == 119


def test_a_claim_of_a_standing_chapter_has_a_proof_or_a_reason_why_none_can_be():
    proven = lab.proofs()
    for number, claim in CLAIMS.items():
        if claim.chapter in STANDING:
            assert (number in proven) != bool(claim.untestable), (
                f"claim {number} needs a cell with the tag claim-{number} in {claim.chapter}, "
                "or `untestable` in claims.yml, and not both"
            )


def test_a_tag_names_a_claim_of_its_own_chapter():
    for notebook, cell, tag in tagged():
        assert re.fullmatch(r"claim-\d+", tag), f"{notebook}, {cell.id}: {tag}"
        claim = CLAIMS.get(int(tag.removeprefix("claim-")))
        assert claim, f"{notebook}, {cell.id}: no claim has the number of {tag}"
        assert claim.chapter == notebook, f"{tag} belongs to {claim.chapter}, not to {notebook}"


def test_a_claim_is_proven_once():
    assert max(Counter(tag for _, _, tag in tagged()).values()) == 1


def test_a_cell_that_proves_asserts_and_is_compared():
    cells = {cell.id: (notebook, cell) for notebook, cell, _ in tagged()}
    for name, (notebook, cell) in cells.items():
        tags = cell.metadata["tags"]
        claims = [tag for tag in tags if tag.startswith("claim-")]
        assert asserts(cell) >= 1, f"{notebook}, {name} asserts nothing"
        if len(claims) > 1:  # then each must be named where it is asserted
            for tag in claims:
                assert tag.replace("-", " ") in _spelled(cell.source), f"{notebook}, {name}: {tag}"
        assert not {"nbval-ignore-output", "nbval-skip", "raises-exception"} & set(tags)


def _spelled(source):
    """`claims 24, 26` as `claim 24 claim 26`."""
    return re.sub(
        r"claims ([\d, ]+)",
        lambda found: " ".join(f"claim {n}" for n in re.findall(r"\d+", found[1])),
        source,
    )


@pytest.mark.parametrize("page", sorted(PROVING))
def test_a_cell_that_proves_is_in_view_and_quotes_what_it_proves(page):
    wrong = SAID.unproven(page)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("number", sorted(lab.proofs()))
def test_the_reason_of_a_verdict_is_quoted_sentence_by_sentence(number):
    claim = CLAIMS[number]
    assert not SAID.half_quoted(f"claim {number}", claim.reason)


@pytest.mark.parametrize("number", sorted(lab.defects()))
def test_a_defect_is_quoted_sentence_by_sentence(number):
    assert not SAID.half_quoted(f"defect {number}", lab.defects()[number].what), (
        "README: “of a verdict's reason and of a defect is quoted, two thirds of it at the least”"
    )


def test_the_page_says_all():
    page = lab.verdicts(*CLAIMS).data
    for claim in CLAIMS.values():
        assert html.escape(claim.claim) in page
    assert page.count("not yet proven") == sum(
        claim.chapter not in STANDING and not claim.untestable for claim in CLAIMS.values()
    )


def test_bad_data_is_named(tmp_path, monkeypatch):
    entry = "- {number: 1, place: a, claim: b, verdict: VERDICT, reason: c, chapter: d}\n"
    for text, message in (
        (entry.replace("VERDICT", "maybe"), "claim 1: .*verdict unknown"),
        (entry.replace("VERDICT", "holds") * 2, "claim 1: twice"),
        (
            entry.replace("VERDICT", "holds").replace("place", "plaice"),
            "claim 1: .*plaice",
        ),
    ):
        (tmp_path / "claims.yml").write_text(text)
        monkeypatch.setattr(lab.article, "CLAIMS", tmp_path / "claims.yml")
        with pytest.raises(ValueError, match=message):
            lab.claims()


def test_claims_in_brief_are_folded_by_their_verdicts():
    html = lab.verdicts(45, 46, 47, brief=True).data
    assert html.count("<details") == 2 and html.count("<li>") == 3
    assert "2 more" in html and "1 more" in html
    assert "lab-claim" not in html


def test_every_defect_is_shown_by_a_cell_that_asserts():
    """There are 45, each with one sentence or two, and one cell or more with its tag."""
    known, shown = lab.defects(), lab.proofs("defect")
    assert list(known) == list(range(1, 46)) and set(shown) == set(known)
    for path in notebooks.notebooks():
        for cell in notebooks.read(path).cells:
            tags = [tag for tag in cell.metadata.get("tags", []) if tag.startswith("defect-")]
            for tag in tags:
                assert int(tag.removeprefix("defect-")) in known, f"{path.stem}, {cell.id}: {tag}"
            assert not tags or asserts(cell), f"{path.stem}, {cell.id} asserts nothing"


@pytest.mark.parametrize("kind", lab.article.KINDS)
def test_each_kind_of_defect_has_a_list(kind):
    listed = lab.list_defects(kind).data
    mine = [defect for defect in lab.defects().values() if defect.kind == kind]
    assert mine and listed.count("<li ") == len(mine)
    for defect in mine:
        assert html.escape(defect.what) in listed and defect.what.endswith((".", ".)"))


def test_the_chapters_open_to_their_claims():
    page = lab.by_chapter("caveat", "holds").data
    shown = [each for each in CLAIMS.values() if each.verdict in ("caveat", "holds")]
    assert page.count("<li>") == len(shown)
    assert all(html.escape(each.claim) in page for each in shown)


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ("all", "all six"),
        ("4", "example 4"),
        ("4, 5", "examples 4, 5"),
        ("the note's <lines>", "the note&#x27;s &lt;lines&gt;"),
    ],
)
def test_which_programs_have_a_defect_in_words(programs, said):
    assert lab.article._programs(programs) == said


@pytest.mark.parametrize(
    ("number", "source"),
    [
        (5, "The article, example 1"),
        (43, "The translation, advantages of asynchronous sockets"),
        (117, "The translator's note"),
    ],
)
def test_a_claim_is_told_as_what_somebody_says(number, source):
    page = lab.verdicts(number).data
    said = re.search(r'<span class="lab-said">(.*?): <q>(.*?)</q>', page)
    assert [html.unescape(part) for part in said.groups()] == [source, CLAIMS[number].claim]
    assert f"<strong>{html.escape(CLAIMS[number].reason)}</strong>" in page
    assert html.escape(CLAIMS[number].claim) not in re.sub("<span.*?</span>", "", page)


def lists_of_claims(page):
    """Return the numbers that a chapter lists, those in the open and those that are folded."""
    cells = notebooks.cells(lab.notebooks.BOOK / f"{page}.ipynb")
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = dict(re.findall(r"(?m)^(\w+) = \(([\d, ]+)\)", source))
    found = {"open": [], "folded": []}
    for text in re.findall(r"lab\.verdicts\((.*?)\)", source, re.DOTALL):
        listed = " ".join(names.get(word, word) for word in re.findall(r"\*?(\w+)", text))
        found["folded" if "brief" in text else "open"] += map(int, re.findall(r"\b\d+\b", listed))
    return found


@pytest.mark.parametrize("page", sorted(STANDING))
def test_a_chapter_lists_each_of_its_claims_once(page):
    listed = lists_of_claims(page)
    mine = [number for number, claim in CLAIMS.items() if claim.chapter == page]
    assert sorted(listed["open"] + listed["folded"]) == mine


@pytest.mark.parametrize("page", sorted(STANDING))
def test_what_is_wrong_and_three_caveats_at_the_most_are_in_the_open(page):
    listed = lists_of_claims(page)
    words = [CLAIMS[number].verdict for number in listed["open"]]
    folded = [CLAIMS[number].verdict for number in listed["folded"]]
    assert "wrong" not in folded and words.count("caveat") <= 3
    if "wrong" in words or "caveat" in words:
        assert "holds" not in words


@pytest.mark.parametrize("number", sorted(lab.proofs()))
def test_another_verdict_than_the_cell_asserts_is_refused(number, monkeypatch):
    page = lab.proofs()[number]
    name = f"claim {number}"
    assert not any(name + " " in fault for fault in SAID.unproven(page))
    for other in {*lab.CLAIM_WORDS} - {CLAIMS[number].verdict}:
        flipped = replace(CLAIMS[number], verdict=other)
        monkeypatch.setitem(SAID.claims, name, flipped)
        assert any(name in fault for fault in SAID.unproven(page)), f"{name} as {other}"


def test_what_no_cell_can_prove_holds_but_for_a_word():
    words = {number: claim.verdict for number, claim in CLAIMS.items() if claim.untestable}
    assert words.pop(4) == "wrong" and set(words.values()) == {"holds"}
