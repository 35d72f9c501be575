"""Tie the prose to the assertions, by quotation: what a page says can't change alone.

The message of an assertion quotes the words that it proves: `assert waits == 4, "“four times it
waits”"`. They must stand on its page, word for word, in one passage. An address may go before
them: `intro: “…”` is another page, `claim 71, wrong: “…”` a claim with its verdict, `defect 6: “…”`
a defect. The tests quote as well, with an address, or from the page that a test's file names, PAGE.

Each item, what could be false, must lie in a quotation. It may do without one if its sentence leads
to the web, or if a comment in its cell says why: `<!-- untied: “ten thousand”: only a name -->`, in
code `# untied: “ten thousand”: only a name`, in claims.yml and defects.yml under the key `untied`.
Of a verdict's reason, and of a defect, each sentence is quoted or excused, two thirds of its words.
"""

import ast
import re
import sys
from collections import Counter
from dataclasses import dataclass, field

from lab import article, notebooks

from .passages import blocks, flatten, passage, shown, spots

ROOT = notebooks.BOOK.parent
FILES = {"intro": notebooks.BOOK / "intro.md", "README": ROOT / "README.md"}
HOW = ("tied", "cited", "excused", "untied")
QUOTATION = re.compile(r"(?:(claim|defect) (\d+)(?:, (\w+))?: |(\w+): )?“([^”]*)”")
OPTIONS = r"(?::[^\n]*\n|---\n.*?\n---\n)*"  # of a cell: lines, or a block of YAML
PROGRAM = re.compile(rf"^```{{code-cell}}\n{OPTIONS}(.*?)^```", re.DOTALL | re.MULTILINE)
HOME = re.compile(r'^PAGE = "(\w+)"$', re.MULTILINE)
EXCUSE = re.compile(r"<!--\s*untied:(.*?)-->|^\s*# untied:([^\n]*)$", re.DOTALL | re.MULTILINE)
EXCUSED = re.compile(r"((?:“[^”]+”(?:, )?)+)(?:: ?(.*))?")
SENTENCE = re.compile(r"\S.*?(?:[.;!?](?=\s|$)|$)")
HIDING = {f"{how}-{what}" for how in ("hide", "remove") for what in ("input", "cell", "output")}


@dataclass(frozen=True)
class Quotation:
    """Words in the message of an assertion. name: of the page, the claim or the defect quoted.

    where: the cell, or the test's file. home: the page that it is on, or "". proves: whether the
    assertion can fail.
    """

    words: str
    name: str
    verdict: str = ""
    where: str = ""
    home: str = ""
    proves: bool = True


@dataclass(frozen=True)
class Excuse:
    """Words that need no quotation, and why; each is "" where it is missing."""

    words: str
    reason: str
    cell: str
    home: str


@dataclass(frozen=True)
class Cell:
    """A code cell: its name, its page, and its tags."""

    name: str
    page: str
    tags: frozenset


def quotations(source, where, home=""):
    """List the quotations in the messages of a program's assertions.

    home: the page of those that have no address; where there is none, they do not count.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assert(test=test, msg=ast.Constant(value=str(message))):
                proves = any(isinstance(part, ast.Name) for part in ast.walk(test))
                for kind, number, verdict, page, words in QUOTATION.findall(message):
                    name = f"{kind} {number}" if kind else page or home
                    found.append(Quotation(flatten(words), name, verdict, where, home, proves))
    return [quotation for quotation in found if quotation.name]


def excuses(source, cell, home):
    """List the excuses in the comments of a cell, or of a page."""
    found = []
    for in_markdown, in_code in EXCUSE.findall(source):
        body = EXCUSED.fullmatch(" ".join((in_markdown or in_code).split()))
        words, reason = (re.findall("“(.+?)”", body[1]), body[2] or "") if body else ([""], "")
        found += [Excuse(flatten(each), reason, cell, home) for each in words]
    return found


@dataclass
class Book:
    """All that is said, and what ties it. claims: each by its address, `claim 71`."""

    passages: list = field(default_factory=list)
    quotations: list = field(default_factory=list)
    excuses: list = field(default_factory=list)
    cells: list = field(default_factory=list)
    claims: dict = field(default_factory=dict)

    def add_markdown(self, text, page):
        """Add a page that is a file of Markdown."""
        for line, block in blocks(text):
            self._say(block, f"line {line}", page, page)
        for program in PROGRAM.findall(text):
            self.quotations += quotations(program, page, page)
        self.excuses += excuses(text, page, page)

    def add_cell(self, cell, page):
        """Add a cell of a notebook, as JSON has it."""
        source, name = "".join(cell["source"]), cell["id"]
        is_code = cell["cell_type"] == "code"
        for where, text in (_said if is_code else _written)(source, name):
            self._say(text, where, name, page)
        if is_code:
            self.cells.append(Cell(name, page, frozenset(cell["metadata"].get("tags", []))))
        if is_code and not source.startswith("%%"):
            self.quotations += quotations(source, name, page)
        self.excuses += excuses(source, name, page)

    def add_claim(self, claim):
        """Add a claim: its words, which are the article's, and its reason, which is a chapter's."""
        name = f"claim {claim.number}"
        self.claims[name] = claim
        self._say(claim.claim, name, name, name)
        self._say(claim.reason, name, name, name, claim.chapter)
        self._excuse(claim, name, claim.chapter)

    def add_defect(self, defect):
        """Add a defect, after the cells: it is on each page that has a cell with its tag."""
        name, tag = f"defect {defect.number}", f"defect-{defect.number}"
        pages = {cell.page for cell in self.cells if tag in cell.tags}
        for text in (defect.what, defect.left):
            self._say(text, name, name, name, *pages)
        self._excuse(defect, name, "defects")

    def _say(self, text, where, cell, *names):
        if text.strip():
            self.passages.append(passage(text, where, cell, *names))

    def _excuse(self, entry, name, home):
        if entry.untied:
            self.excuses += excuses(f"# untied: {entry.untied}", name, home)

    def fault(self, quotation):
        """Return what is wrong with a quotation, or ""."""
        texts = [each.text for each in self.passages if quotation.name in each.names]
        words, claim = quotation.words, self.claims.get(quotation.name)
        if not quotation.proves:
            return "its assertion can't fail"
        if not texts:
            return "there is no such page, claim or defect"
        if len(words.split()) < 3 and words not in texts:
            return "too short to tie anything"
        if not any(spots(words, text) for text in texts):
            return "does not stand there"
        if quotation.verdict and quotation.verdict != (claim and claim.verdict):
            return "another verdict stands in claims.yml"
        return ""

    def misquoted(self, *pages):
        """List the quotations that have a fault: on these pages, or of them; without any, all."""
        mine = [each for each in self.quotations if not pages or {each.home, each.name} & {*pages}]
        faults = [(each, self.fault(each)) for each in mine]
        return [f"{each.where}: “{each.words}” ({each.name}): {why}" for each, why in faults if why]

    def unexcused(self, *pages):
        """List the excuses on these pages, or on all, that have no reason or do not stand."""
        mine = [each for each in self.excuses if not pages or each.home in pages]
        faults = [(each, self._refusal(each)) for each in mine]
        return [f"{each.cell}: untied “{each.words}”: {why}" for each, why in faults if why]

    def _refusal(self, excuse):
        texts = [each.text for each in self.passages if each.cell == excuse.cell]
        if not excuse.words:
            return "can't be read"
        if not excuse.reason:
            return "no reason is given"
        return "" if any(spots(excuse.words, text) for text in texts) else "does not stand there"

    def items(self, page):
        """List the items of a page as (passage, item, how): tied, cited, excused or untied."""
        good = [each for each in self.quotations if not self.fault(each)]
        found = []
        for each in self.passages:
            if page in each.names:
                ties = [one.words for one in good if one.name in each.names]
                free = [one.words for one in self.excuses if one.cell == each.cell and one.reason]
                found += [(each, item, _how(each, item, ties, free)) for item in each.items]
        return found

    def untied(self, page):
        """List the untied items of a page, a line each: where, the item, the words around it."""
        return [
            f"{each.where}: {item.words}: …{each.text[max(0, item.start - 40) : item.end + 40]}…"
            for each, item, how in self.items(page)
            if how == "untied"
        ]

    def unproven(self, page):
        """List what is wrong with a page's cells that prove claims or show defects.

        Such a cell is in view, and quotes what its tags name, nothing else: of a claim the verdict
        as well, and the reason, unless it simply holds.
        """
        mine = [cell for cell in self.cells if cell.page == page]
        return [f"{cell.name}: {what}" for cell in mine for what in self._unproven(cell)]

    def half_quoted(self, name, text):
        """List the sentences of an entry's text of which less than two thirds is quoted.

        The rest of such a sentence could be turned round, and the quotation would still stand.
        name: of the entry: `claim 71`, `defect 6`.
        """
        text = flatten(text)
        quoted = [each.words for each in self.quotations if each.name == name]
        quoted += [each.words for each in self.excuses if each.cell == name]
        places = [place for words in quoted for place in spots(words, text)]
        return [
            text[slice(*sentence.span())]
            for sentence in SENTENCE.finditer(text)
            if _share(sentence, places) < 2 / 3
        ]

    def _unproven(self, cell):
        found = [re.fullmatch(r"(claim|defect)-(\d+)", tag) for tag in cell.tags]
        tagged = {f"{tag[1]} {tag[2]}" for tag in found if tag}
        if not tagged:
            return []
        quoted = [each for each in self.quotations if each.where == cell.name]
        named = {each.name for each in quoted if " " in each.name}
        wrong = [f"{name} is not quoted" for name in sorted(tagged - named)]
        wrong += [f"{name} is quoted, and is no tag" for name in sorted(named - tagged)]
        for name in sorted(tagged & named & set(self.claims)):
            wrong += self._unfounded(name, [each for each in quoted if each.name == name])
        return wrong + [f"{tag} hides it" for tag in sorted(HIDING & cell.tags)]

    def _unfounded(self, name, quoted):
        claim = self.claims[name]
        if {each.verdict for each in quoted} != {claim.verdict}:
            verdict = "holds" if claim.verdict == "holds" else f"is {claim.verdict}"
            yield f"{name} {verdict}, and the cell says otherwise"
        reason = flatten(claim.reason)
        if claim.verdict != "holds" and not any(spots(each.words, reason) for each in quoted):
            yield f"nothing of the reason of {name} is quoted"


def _share(sentence, places):
    """Return which share of the words of a sentence, a match, lies in these places."""
    words = [
        range(word.start() + sentence.start(), word.end() + sentence.start())
        for word in re.finditer(r"\w+", sentence[0])
    ]
    held = [
        any(start <= word.start and word.stop <= end for start, end in places) for word in words
    ]
    return sum(held) / max(1, len(held))


def _written(source, name):
    """List the blocks of a cell of Markdown, each with where it is."""
    return [(name, block) for _, block in blocks(source)]


def _said(source, name):
    """List what a code cell says: what it shows, or its program's docstring."""
    if not source.startswith("%%"):
        return [(name, text) for text in shown(source)]
    magic, _, program = source.partition("\n")
    if not re.fullmatch(r"%%writefile \S+\.py", magic):
        return []
    text = ast.get_docstring(ast.parse(program)) or ""
    return [(f"docstring of {magic.split('/')[-1]}", block) for _, block in blocks(text)]


def _how(passage, item, ties, free):
    """Return how an item is held: by the words that tie, by the web, by those that are free."""
    if _lies_in(item, passage.text, ties):
        return "tied"
    if item in passage.cited:
        return "cited"
    return "excused" if _lies_in(item, passage.text, free) else "untied"


def _lies_in(item, text, quoted):
    places = [place for words in quoted for place in spots(words, text)]
    return any(start <= item.start and item.end <= end for start, end in places)


def read_book():
    """Return the Book as it stands in the files."""
    book = Book()
    for path in notebooks.notebooks():
        for cell in notebooks.cells(path):
            book.add_cell(cell, path.stem)
    for page, path in FILES.items():
        book.add_markdown(path.read_text(encoding="utf-8"), page)
    for path in sorted((ROOT / "tests").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        home = HOME.search(source)
        book.quotations += quotations(source, f"tests/{path.name}", home[1] if home else "")
    for claim in article.claims().values():
        book.add_claim(claim)
    for defect in article.defects().values():
        book.add_defect(defect)
    return book


def report(*names):
    """Print what nothing ties and what proves nothing, on all pages or on those named.

    Ends with status 1 if there is anything, with a message when a name is unknown.
    """
    book = read_book()
    pages = [*(path.stem for path in notebooks.notebooks()), *FILES]
    for name in names:
        if name not in pages:
            sys.exit(f"There is no page {name}; there are {', '.join(pages)}.")
    wrong = 0
    for page in names or pages:
        count = Counter(how for _, _, how in book.items(page))
        print(f"{page}: {', '.join(f'{count[how]} {how}' for how in HOW)}")
        wrong += _print_lines(book.untied(page) + book.unproven(page), indent="  ")
    wrong += _print_lines(book.misquoted(*names) + book.unexcused(*names))
    print(f"{wrong or 'nothing'} to mend")
    sys.exit(1 if wrong else 0)


def _print_lines(lines, indent=""):
    """Print lines; return how many there are."""
    for line in lines:
        print(indent + line)
    return len(lines)
