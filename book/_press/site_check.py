"""Check the links of the built site: what Sphinx writes, and what cells print, which it can't see.

A page is read with the standard library's parser, and no browser. Links that lead elsewhere, to
another host, are not followed.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LEADS = {
    "a": "href", "link": "href", "area": "href", "img": "src", "script": "src", "source": "src",
    "iframe": "src", "object": "data",
}  # fmt: skip


@dataclass
class Page(HTMLParser):
    """What one page's HTML has: the names in it, where it leads, and pictures that say nothing."""

    names: Counter = field(default_factory=Counter)
    links: dict = field(default_factory=dict)  # in their order, each once
    mute: list = field(default_factory=list)
    in_article: bool = False

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        for name in {known.get("id"), known.get("name") if tag == "a" else None} - {None}:
            self.names[name] += 1
        if address := known.get(LEADS.get(tag)):
            self.links[address] = True
        if known.get("http-equiv", "").lower() == "refresh":
            self.links[known["content"].partition("url=")[2]] = True
        self.in_article |= tag == "article"
        # The logo has an empty one, since the book's name stands beside it.
        if tag == "img" and ("alt" not in known or (self.in_article and not known["alt"])):
            self.mute.append(known.get("src", "")[:60])

    def handle_endtag(self, tag):
        self.in_article &= tag != "article"


def read(path):
    """Return a file of the site as a Page."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def complaints(folder):
    """Return what is wrong with a built site, a line each: the page, and what is wrong with it.

    A link or an anchor that leads nowhere, a name that two things on a page have, a picture without
    words for those who can't see it.
    """
    root = Path(folder).resolve()
    files = [path for path in sorted(root.rglob("*.html")) if path.parent != root / "_static"]
    pages = {path: read(path) for path in files}
    found = []
    for path, page in pages.items():
        dead = {link: _dead(link, path, pages, root) for link in page.links}
        wrong = [f"leads to {link}: {why}" for link, why in dead.items() if why]
        wrong += [f"has two #{name}" for name, times in page.names.items() if times > 1]
        wrong += [f"shows {source} without alt" for source in page.mute]
        found += [f"{path.relative_to(root)} {what}" for what in wrong]
    return found


def _dead(link, path, pages, root):
    """Return why a link of a page leads nowhere, or "" where it leads somewhere or off the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not (target.is_file() and target.is_relative_to(root)):
        return "there is no such file"
    name = unquote(parts.fragment)
    if name and target in pages and name not in pages[target].names:
        return "there is no such place on that page"
    return ""


if __name__ == "__main__":
    sys.exit("\n".join(complaints(sys.argv[1])) or None)
