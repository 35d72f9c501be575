"""The site, built from the stored outputs: what a visitor meets, in Chromium where there is one.

Nothing is executed here: that the outputs are today's is nbval's business.
"""

import functools
import http.server
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import yaml

from _press import build, card, site_check
from _press.archive import write_archive
from conftest import BOOK, ROOT
from lab import show
from lab.matrix import COLUMNS

ADDRESS = "https://someone.github.io/some-book/"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MATRIX = "book/survival.html"
WIDTHS, THEMES = (360, 800, 1440, 1920), ("light", "dark")  # CSS pixels; the last two show words
FACTS = Path(__file__).with_name("site_facts.js")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of a site that was built as the press does it, but without executing."""
    folder = tmp_path_factory.mktemp("site")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["execute_notebooks"] = "off"
    config["sphinx"]["local_extensions"]["site_extras"] = str(BOOK / "_press")
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = subprocess.run(
        [*build.BUILDER, "--config", folder / "_config.yml", "--path-output", folder],
        cwd=ROOT,
        env={**os.environ, "GITHUB_REPOSITORY": "someone/some-book"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == 0 and not build.warnings([done.stdout]), done.stdout[-4000:]
    write_archive(folder / "_build" / "html" / "look.pyz", "look")  # as the press does
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def pages(site):
    """The text of every page, by its path in the site; the redirection at the root is none."""
    found = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    return {
        name: path.read_text(encoding="utf-8")
        for name, path in found.items()
        if not name.startswith("_static/") and name != "index.html"
    }


def book(pages):
    """Those pages that are made of a file of the book, and not by Sphinx alone."""
    return {name: text for name, text in pages.items() if name.startswith("book/")}


# A browser, with nothing but the standard library: Chromium opens a page of ours, which loads the
# site's pages in frames, measures them, and posts what it has found.


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site, a page that measures its pages, and takes what that page has found."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path != "/measure":
            return super().do_GET()
        script = "\n".join(each.read_text(encoding="utf-8") for each in self.server.scripts)
        tasks = json.dumps(self.server.tasks)
        page = f"<!doctype html><body><script>{script}\nmeasure({tasks});</script>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        return self.wfile.write(page)

    def do_POST(self):
        self.server.facts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.done.set()


def measured(folder, tasks, profile, scripts=(FACTS,)):
    """What Chromium measures: a list of facts, one for each task (page, width and theme).

    scripts: what measures there; the last of their functions measure() is called.
    """
    serve = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        server.tasks, server.facts, server.done = tasks, None, threading.Event()
        server.scripts = scripts
        threading.Thread(target=server.serve_forever, name="the site").start()
        browser = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", f"--user-data-dir={profile}", "--window-size=2000,1000",
                "--hide-scrollbars",  # a phone's take no room
                f"http://127.0.0.1:{server.server_port}/measure",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            assert server.done.wait(120), "Chromium has not answered in two minutes"
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
            server.shutdown()
    return server.facts


@pytest.fixture(scope="module")
def seen(site, tmp_path_factory):
    """What Chromium sees of the book: a list of facts, each of a page in one width and theme."""
    if not CHROMIUM:
        pytest.skip("no Chromium here to look at the pages")
    pages = sorted(f"book/{path.name}" for path in (site / "book").glob("*.html"))
    tasks = [
        {"page": page, "width": width, "theme": theme}
        for page in pages
        for width in (WIDTHS if page == MATRIX else WIDTHS[:1])
        for theme in THEMES
    ]
    return measured(site, tasks, tmp_path_factory.mktemp("chromium"))


def where(fact):
    return f"{fact['page']}, {fact['width']} px, {fact['theme']}"


# The checker, on pages of a few lines.


def checked(folder, **pages):
    """What is wrong with a site of these pages, each a text by its name."""
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{text}</body></html>", encoding="utf-8")
    return site_check.complaints(folder)


def test_links_that_lead_somewhere_are_no_matter(tmp_path):
    (tmp_path / "file.ipynb").write_text("{}")
    links = ["two.html", "two.html#here", "#top", "#", "file.ipynb?v=1", "two.html#%C3%BC"]
    elsewhere = ["https://example.org/gone#x", "mailto:a@example.org", "//example.org/gone"]
    page = "".join(f'<a href="{link}">to</a>' for link in [*links, *elsewhere])
    two = '<p id="here">1</p><a name="ü">2</a>'
    assert checked(tmp_path, one=f'<p id="top">{page}</p>', two=two) == []


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("three.html", "there is no such file"),
        ("two.html#there", "there is no such place on that page"),
        ("#there", "there is no such place on that page"),
        ("two.ipynb", "there is no such file"),
        ("../outside.html", "there is no such file"),
    ],
)
def test_a_link_that_leads_nowhere_is_told(tmp_path, link, why):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").write_text("not a part of the site")
    page = f'<a href="{link}">to</a>'
    assert checked(site, one=page, two="") == [f"one.html leads to {link}: {why}"]


def test_a_picture_a_script_and_a_redirection_lead_somewhere_too(tmp_path):
    page = (
        '<meta http-equiv="Refresh" content="0; url=gone.html"><script src="gone.js"></script>'
        '<img alt="It" src="gone.svg"><link href="gone.css">'
    )
    told = [line.split()[3] for line in checked(tmp_path, one=page)]
    assert told == ["gone.html:", "gone.js:", "gone.svg:", "gone.css:"]


def test_two_things_of_one_name_are_told(tmp_path):
    assert checked(tmp_path, one='<p id="a"></p><p id="a"></p><a name="b" id="b"></a>') == [
        "one.html has two #a"
    ]


def test_a_picture_without_words_is_told_but_for_a_logo_beside_its_name(tmp_path):
    (tmp_path / "a.svg").write_text("")
    logo = '<img src="a.svg" alt="">'
    page = f'{logo}<article><img src="a.svg" alt="words">{logo}</article>{logo}<img src="a.svg">'
    assert checked(tmp_path, one=page) == ["one.html shows a.svg without alt"] * 2


# The site.


def test_every_link_and_anchor_of_the_site_leads_somewhere(site):
    assert site_check.complaints(site) == []


def test_what_cells_print_leads_to_cells_and_to_pages(pages):
    """So that the test above looks at something: the links are there, and were turned."""
    claims = pages["book/claims.html"]
    assert len(re.findall(r'href="\d\d_\w+\.html#claim-\d+"', claims)) >= 95
    assert "#defect-45" in pages["book/defects.html"]
    assert '<a href="01_one_request.html">01</a>' in pages[MATRIX]


def test_a_shared_link_has_the_books_name_and_a_picture(pages):
    for name, text in book(pages).items():
        said = dict(re.findall(r'<meta (?:property|name)="([\w:]+)" content="([^"]*)" />', text))
        assert said["og:site_name"] == "The Ready List", name
        assert said["og:image"] == ADDRESS + "_static/card.png", name
        assert said["og:image:alt"].startswith("The Ready List: "), name
        assert said["og:url"] == ADDRESS + name
        assert said["twitter:card"] == "summary_large_image"
        assert (said["og:image:width"], said["og:image:height"]) == ("1200", "630")


def test_the_picture_has_the_size_that_the_pages_say_and_is_small(site):
    picture = (site / "_static" / "card.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    size = [int.from_bytes(picture[at : at + 4], "big") for at in (16, 20)]
    assert size == [card.WIDTH, card.HEIGHT] == [1200, 630]
    assert len(picture) < 60_000


def test_the_picture_can_be_drawn_anew():
    lane = show.Lane("silent", 0.0, 1.0, [show.Bar(0.2, 0.8, "waits")], [(0.2, "sent")])
    picture = card.draw([lane])
    assert [int.from_bytes(picture[at : at + 4], "big") for at in (16, 20)] == [1200, 630]


def test_no_page_loads_the_script_that_draws_icons(site, pages):
    for name, text in pages.items():
        assert "fontawesome.js" not in text, name
    assert not list(site.rglob("fontawesome.js*"))


def test_a_page_loads_little(site, pages):
    """Its scripts and styles, as they lie on the disk; the script of icons alone has 1.5 MB."""
    for name, text in book(pages).items():
        found = re.findall(r'<(?:script|link)[^>]* (?:src|href)="(\.\./[^"?]*\.(?:js|css))', text)
        sizes = {each: (site / "book" / each).stat().st_size for each in found}
        assert 100_000 < sum(sizes.values()) < 1_000_000, (name, sizes)


def test_the_page_of_the_matrix_has_no_second_side_bar(pages):
    for name, text in book(pages).items():
        assert ("bd-sidebar-secondary" in text) == (name != MATRIX), name


def test_each_column_of_each_table_has_a_name_and_each_box_can_be_scrolled_with_keys(pages):
    for name, text in book(pages).items():
        assert not re.findall(r"<th[^>]*>\s*(?:<p>\s*</p>)?</th>", text), name
        for box in re.findall(r'<div class="lab-scroll"[^>]*>', text):
            assert 'tabindex="0"' in box and 'role="group" aria-label="' in box, (name, box)


def test_no_output_brings_a_style_of_its_own(pages):
    for name, text in book(pages).items():
        article = text.partition('<article class="bd-article">')[2].partition("</article>")[0]
        assert article and "<style" not in article, name


def test_what_is_the_same_in_every_listing_is_folded_from_chapter_2_on(pages):
    """The loop is in the open, and main, stop and complain are there, behind a summary."""
    chapters = {name: text for name, text in pages.items() if re.match(r"book/\d\d_", name)}
    assert len(chapters) >= 10
    for name, text in chapters.items():
        folded = re.findall(r'<details class="lab-same">.*?</details>', text, flags=re.DOTALL)
        names = [re.sub(r"<[^>]+>", "", each) for each in folded]
        assert bool(folded) == (name != "book/01_one_request.html"), name
        for each in names:
            assert "def main():" in each and "def complain(reason):" in each, name
            assert "def serve(" not in each and "class " not in each, name


def test_the_loop_to_copy_is_shown_whole_on_a_phone_too(pages):
    whole = re.findall(r'<div class="[^"]*lab-server[^"]*">', pages["book/smallest_loop.html"])
    assert len(whole) == 1


# In Chromium.


def test_both_themes_are_looked_at_and_there_is_text_of_ours(seen):
    assert {fact["theme"] for fact in seen} == set(THEMES)
    assert sum(fact["texts"] > 50 for fact in seen) > 20


def test_no_page_is_wider_than_its_screen(seen):
    for fact in seen:
        assert fact["cut"] <= 0, where(fact)


def test_every_run_that_can_be_walked_through_opens_and_is_no_wider_than_its_screen(seen, pages):
    for fact in seen:
        steppers = pages[fact["page"]].count('<div class="lab-steps"')
        assert fact["opened"]["open"] == [True] * steppers, where(fact)
        assert fact["opened"]["cut"] <= 0, where(fact)


def test_the_matrix_is_whole(seen):
    facts = [fact for fact in seen if fact["page"] == MATRIX]
    assert len(facts) == len(WIDTHS) * len(THEMES)
    for fact in facts:
        assert fact["tables"] == [0], where(fact)
        assert len(fact["hidden"]) > 250 and max(fact["hidden"]) < 1, where(fact)


def test_the_matrix_is_words_where_there_is_room_and_signs_elsewhere(seen):
    for fact in seen:
        if fact["page"] == MATRIX:
            assert fact["signs"] == (fact["width"] < 1440), where(fact)


def test_the_text_beside_the_matrix_is_as_narrow_as_elsewhere(seen):
    for fact in seen:
        assert 200 < max(fact["paragraphs"]) <= 700, where(fact)


def test_the_chapters_above_the_matrix_are_large_enough_for_a_finger(seen):
    for fact in seen:
        lefts = [each["left"] for each in fact["targets"]]
        assert len(lefts) == (len(COLUMNS) if fact["page"] == MATRIX else 0), where(fact)
        for each in fact["targets"]:
            assert each["width"] >= 24 and each["height"] >= 24, (where(fact), each)
        steps = [after - before for before, after in itertools.pairwise(lefts)]
        assert all(step >= 24 for step in steps), (where(fact), lefts)


def test_icons_are_there_without_a_script_in_one_line_and_of_one_size(seen):
    for fact in seen:
        assert not any("fontawesome.js" in each for each in fact["loaded"]), where(fact)
        assert any("fa-solid-900" in each for each in fact["loaded"]), where(fact)
        for icon in fact["icons"]:
            assert "Font Awesome" in icon["font"] and icon["loaded"], (where(fact), icon)
            assert icon["content"] not in ("none", "normal"), (where(fact), icon)
        head = [icon for icon in fact["icons"] if icon["inHead"]]
        names = " ".join(icon["name"] for icon in head)
        switch = {"dark": "fa-moon", "light": "fa-sun"}[fact["theme"]]
        for name in ("fa-download", "fa-expand", switch):
            assert name in names, (where(fact), names)
        for what in ("height", "middle"):
            values = [icon[what] for icon in head]
            assert max(values) - min(values) < 0.5, (where(fact), head)


PHONE, SCREEN, SCREENS = 360, 800, 25  # CSS pixels; how many screens a chapter may have


def test_no_page_has_more_than_25_screens_of_a_phone(seen):
    heights = {fact["page"]: fact["height"] for fact in seen if fact["width"] == PHONE}
    assert heights["book/04_level_triggered.html"] > 10 * SCREEN, "or nothing was measured"
    assert not {page: height for page, height in heights.items() if height > SCREENS * SCREEN}


def test_the_readme_says_how_long_a_chapter_may_be():
    assert SCREENS == 25, "README: “on a phone: at most 25 screens”"


def test_a_script_that_is_cut_off_on_a_phone_has_a_button_that_shows_all_of_it(seen):
    for fact in seen:
        for script in fact["scripts"]:
            cut_off = script["hides"] > 4
            assert script["has"] == cut_off and (fact["width"] == PHONE or not cut_off), where(fact)
            assert script["left"] <= 4 and not script["still"], (where(fact), script)
            assert re.fullmatch(r"the whole script, \d+ lines" if cut_off else "", script["says"])
    assert sum(script["has"] for fact in seen for script in fact["scripts"]) > 40


def test_text_of_ours_stands_out_from_its_ground(seen):
    """4.5 to 1, the least that WCAG's AA asks for."""
    for fact in seen:
        assert fact["pale"] == [], where(fact)
