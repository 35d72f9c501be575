"""Figures and tables: well-formed, with titles and alternatives, and all text escaped."""

import base64
import re
import xml.etree.ElementTree as xml

import pytest

import lab
from conftest import BOOK
from lab import matrix, notebooks, show
from lab.recorder import Call, Client, Event, Recording
from survive import awkward, rows, scene
from survive.awkward import plain_get
from survive.scene import Verdict

LOOP = BOOK.parent / "code" / "02_request_loop.py"


def pictures(html):
    """The drawings of a figure, wide and narrow, parsed."""
    found = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", html)
    return [xml.fromstring(base64.b64decode(each)) for each in found]


def test_a_timeline_in_two_widths():
    with lab.record(LOOP) as run:
        plain_get(run.talk("first <1>"), run.server)
        plain_get(run.talk("second"), run.server)
    html = show.timeline(run.recording, "Who & whom", 'An "alternative"').data
    narrow, wide = (float(each.get("width")[:-2]) for each in pictures(html))
    assert narrow < 0.6 * wide
    assert "Who &amp; whom" in html and 'alt="An &quot;alternative&quot;"' in html
    for each in pictures(html):
        texts = {
            "".join(node.itertext()).strip() for node in each.iter() if node.tag.endswith("text")
        }
        assert {
            "first <1>",
            "second",
            "server",
            "seconds",
            "sends",
            "is answered",
        } <= texts


def test_a_timeline_of_a_run_that_ended_badly():
    with lab.record(LOOP) as run:
        awkward.half_a_request_then_resets(run.talk("rude"), run.server)
        run.server.wait()
    assert len(pictures(show.timeline(run.recording, "title", "alt").data)) == 2


def test_the_same_drawing_twice_is_the_same_file():
    def draw(figure, narrow):
        figure.subplots().plot([1, 2])

    assert show.picture(draw, "a", "b").data == show.picture(draw, "a", "b").data


def test_tables_escape_what_they_show():
    html = show.table(["<th>"], [["<td>", 1]]).data
    assert "&lt;th&gt;" in html and "&lt;td&gt;" in html


def test_a_ledger_has_a_dot_for_each_poll():
    rows = [
        ("two <bytes> arrive", [[True, True, False], [True, False, False]]),
        ("they are read", [[False, False], [False, True]]),
    ]
    page = show.ledger(["level", "edge"], rows).data
    cells = re.findall(r'<td><span role="img" aria-label="(.*?)">(.*?)</span></td>', page)
    assert [(said, re.sub("<.*?>", "", marks)) for said, marks in cells] == [
        ("2 of 3 polls report it", "●●○"),
        ("1 of 3 polls report it", "●○○"),
        ("0 of 2 polls report it", "○○"),
        ("1 of 2 polls report it", "○●"),
    ]
    assert cells[1][1] == "<b>●</b><i>○</i><i>○</i>"
    assert "<th>level</th><th>edge</th>" in page and "two &lt;bytes&gt; arrive" in page
    assert page.count('class="lab-table lab-dots"') == 1


def test_difference_shows_what_changed_and_only_that(tmp_path):
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    same = [f"same = {n}" for n in range(20)]
    old.write_text("\n".join([*same, "x = 1 < 2", "y = 1"]))
    new.write_text("\n".join([*same, "while True:", "    x = 1 > 2", "    y = 1"]))
    html = show.difference(str(old), str(new)).data
    assert re.findall(r'class="(minus|plus)">(.*?)</span>', html) == [
        ("minus", "- x = 1 &lt; 2"),
        ("plus", "+ while True:"),
        ("plus", "+     x = 1 &gt; 2"),
    ]
    assert "      y = 1" in html and "same = 3" not in html


def test_the_matrix_links_faults_to_the_chapters_that_explain_them():
    some, columns = [*rows.ROWS[:2], rows.row("says nothing")], matrix.COLUMNS[1:2]
    verdicts = {
        (row.name, columns[0].label): Verdict(word)
        for row, word in zip(some, ("ok", "n/a", "frozen"), strict=True)
    }
    html = show.matrix(verdicts, some, columns).data
    assert html.count("<tr>") == 4
    assert 'lab-good">ok</span></td>' in html
    title = f'title="says nothing against {columns[0].label}: frozen"'
    frozen = f'<span {title} class="lab-pill lab-bad">frozen</span>'
    assert f'<a href="02_request_loop.ipynb">{frozen}</a>' in html


def test_the_steps_of_an_epoll_server():
    with lab.record(LOOP.parent / "04_level_triggered.py") as run:
        awkward.plain_get(run.talk("visitor"), run.server)
        lab.until_blocked(run.server.pid, "epoll_wait")
    steps = show.steps(run.recording)
    assert steps[:2] == [
        ("register listener, IN", "listener: IN|ERR|HUP"),
        ("poll → listener: IN", "listener: IN|ERR|HUP"),
    ]
    both = "listener: IN|ERR|HUP, visitor: "
    for step in (
        ("register visitor, IN", both + "IN|ERR|HUP"),
        ("visitor.recv → 18 bytes", both + "IN|ERR|HUP"),
        ("modify visitor, OUT", both + "OUT|ERR|HUP"),
        ("visitor.send → 78 bytes", both + "OUT|ERR|HUP"),
        ("modify visitor, -", both + "ERR|HUP"),
        ("poll → visitor: HUP", both + "ERR|HUP"),
        ("unregister visitor", "listener: IN|ERR|HUP"),
    ):
        assert step in steps
    assert steps[-2:] == [("epoll.close", "empty"), ("listener.close", "empty")]


def test_lanes_of_threads_are_numbered():
    with lab.record(LOOP.parent / "03_thread_per_client.py") as run:
        for name in ("one", "two"):
            awkward.plain_get(run.talk(name), run.server)
    for each in pictures(show.timeline(run.recording, "title", "alt").data):
        texts = {"".join(node.itertext()) for node in each.iter() if node.tag.endswith("text")}
        assert {"server, main thread", "server, thread 1", "server, thread 2"} <= texts


def lanes(events, calls=(), ended=2):
    """The lanes of a run of one client, `a`, whose events are (when, what)."""
    client = Client("a", 1, [Event(t, what, 1) for t, what in events])
    return show.lanes(Recording("s.py", [], None, ended, list(calls), [], [client], False))


@pytest.mark.parametrize(("connected", "said"), [(1.03, ["is not let in"]), (0.2, [])])
def test_who_is_not_let_in_for_long_is_drawn_so(connected, said):
    events = [(0, "calls"), (connected, "connected"), (connected + 0.1, "left")]
    (lane,) = lanes(events)
    assert [bar.what for bar in lane.bars] == said


def test_one_waits_until_the_last_piece_is_there():
    """A client's answer in two pieces, and then another round."""
    events = [(0, "calls"), (0, "connected"), (0.1, "sent"), (0.2, "got"), (0.5, "got")]
    events += [(0.6, "sent"), (0.7, "got"), (0.8, "closed")]
    (lane,) = lanes(events)
    assert [bar[:3] for bar in lane.bars] == [(0.1, 0.5, "waits"), (0.6, 0.7, "waits")]
    assert [what for _, what in lane.marks] == ["connected", "sent", "got", "got", "sent", "got"]


@pytest.mark.parametrize(
    ("name", "label"),
    [(name, f"server asleep in {name}") for name in ("recv", "send", "accept", "poll", "execute")],
)
def test_each_call_that_sleeps_has_a_bar_of_its_own_in_the_servers_lane(name, label):
    accept = Call("accept", 3, "MainThread", 1, 0.0, [], 0.0, [{"fd": 5}, ["127.0.0.1", 1]])
    long = Call(name, 5, "MainThread", 2, 0.1, [], 1.5)
    short = Call(name, 5, "MainThread", 2, 1.7, [], 0.001)
    client, server = lanes([(0, "calls"), (0, "connected"), (2, "left")], [accept, long, short])
    assert (client.name, client.is_server, client.bars) == ("a", False, [])
    assert (server.name, server.is_server, server.marks) == ("server", True, [])
    assert server.bars == [(0.1, 1.6, label, f"{name}, on a's socket")]
    assert label in show.COLORS


def test_the_colours_of_a_picture_tell_its_bars_apart():
    asleep = {show.COLORS[f"server asleep in {name}"] for name in ("recv", "send", "poll", "get")}
    assert len(asleep) == 4


def test_a_wide_matrix_has_signs_for_a_phone():
    row = rows.ROWS[0]
    words = list(scene.VERDICTS)
    columns = [matrix.Column(f"{n:02}_x", "x") for n in range(len(words))]
    verdicts = {(row.name, c.label): Verdict(word) for c, word in zip(columns, words, strict=True)}
    html = show.matrix(verdicts, [row], columns).data
    signs = re.findall(r'data-sign="(.)"', html)
    assert len(set(signs)) == len(words), "each has its own, and the legend names it"
    legend = html[html.index('<p class="lab-signs">') :]
    assert all(f"{show.SIGNS[word]}&nbsp;{word}" in legend for word in words)
    few = show.matrix(verdicts, [row], columns[:4]).data
    assert "lab-signs" not in few and "lab-wide" not in few


def test_a_wide_matrix_says_how_many_columns_it_has():
    """The stylesheet needs it: on a phone each takes its share of the width."""
    columns = [matrix.Column(f"{n:02}_x", "x") for n in range(7)]
    verdicts = {(rows.ROWS[0].name, column.label): Verdict("ok") for column in columns}
    html = show.matrix(verdicts, rows.ROWS[:1], columns).data
    assert html.startswith('<div class="lab-wide" style="--columns: 7">')


@pytest.mark.parametrize("header", [["", "b"], ["a", ""]])
def test_each_column_must_have_a_name(header):
    with pytest.raises(ValueError, match="a column of this table has no name"):
        show.table(header, [(1, 2)])


def test_what_may_be_wider_than_the_page_can_be_scrolled_with_keys(tmp_path):
    (tmp_path / "a.py").write_text("1\n")
    (tmp_path / "b.py").write_text("2\n")
    changed = show.difference(str(tmp_path / "a.py"), str(tmp_path / "b.py"))
    for name, shown in (("Table", show.table(["a"], [(1,)])), ("What changed", changed)):
        box = f'<div class="lab-scroll" tabindex="0" role="group" aria-label="{name}">'
        assert shown.data.startswith(box)


# One stylesheet for all of it.

STYLES = show.STYLESHEET.read_text(encoding="utf-8")


def selectors(styles):
    """What a stylesheet's rules speak of: each selector on its own, and no at-rule."""
    plain = re.sub(r"/\*.*?\*/", "", styles, flags=re.DOTALL)
    heads = [head.strip() for head in re.findall(r"([^{};]+)\{", plain)]
    return [
        each.strip()
        for head in heads
        if not head.startswith("@")
        for each in re.split(r",(?![^(]*\))", head)
    ]


def test_figures_tables_and_claims_bring_no_style(tmp_path):
    def draw(figure, narrow):
        figure.subplots().plot([1, 2])

    shown = [
        show.picture(draw, "a", "b"), show.table(["a"], [(1,)]), show.ledger(["a"], []),
        lab.verdicts(1, 2), lab.verdicts(1, 2, brief=True), lab.by_chapter("holds"),
        lab.list_defects("leaves"),
    ]  # fmt: skip
    assert not [each.data for each in shown if "<style" in each.data]


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_holds_the_stylesheet_once_in_its_first_cell_and_it_is_todays(path):
    codes = [cell for cell in notebooks.read(path).cells if cell.cell_type == "code"]
    holders = [cell for cell in codes if "<style" in str(cell.outputs)]
    assert holders == codes[:1] and "remove-cell" in codes[0].metadata.tags
    (output,) = codes[0].outputs
    assert output.data["text/html"] == show.stylesheet().data, "`make notebooks` stores today's"


def test_a_notebooks_part_of_the_stylesheet_speaks_of_nothing_but_ours():
    """Or JupyterLab would be dressed anew. The rest is of what JupyterLab does not have."""
    ours = show.stylesheet().data.removeprefix("<style>").removesuffix("</style>")
    assert len(selectors(ours)) > 40
    dark = ':is([data-theme="dark"], [data-jp-theme-light="false"]) '
    strange = [each for each in selectors(ours) if not each.removeprefix(dark).startswith(".lab-")]
    assert not strange
    assert STYLES.startswith(ours.strip()) and "html {" in STYLES


def luminance(colour):
    """How light a colour of the form #24784a is, from 0 to 1, as WCAG has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    lights = sorted((luminance(one), luminance(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


# What text stands on: a page, and what is set off from it.
GROUNDS = {"light": ("#ffffff", "#f3f4f5"), "dark": ("#121212", "#29313d")}


def test_contrast_is_what_wcag_says_it_is():
    assert contrast("#000000", "#ffffff") == 21
    assert round(contrast("#777777", "#ffffff"), 2) == 4.48


@pytest.mark.parametrize("kind", ["good", "warn", "bad"])
@pytest.mark.parametrize("theme", GROUNDS)
def test_the_colours_of_verdicts_stand_out_from_every_ground(kind, theme):
    start = "^" if theme == "light" else r'^:is\(\[data-theme="dark"\].*?\) '
    rule = rf"{start}\.lab-{kind} \{{ color: (#[0-9a-f]{{6}}); \}}$"
    (colour,) = re.findall(rule, STYLES, flags=re.MULTILINE)
    for ground in GROUNDS[theme]:
        assert contrast(colour, ground) >= 4.5, (colour, ground)
