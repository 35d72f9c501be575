"""Figures and tables: well-formed, with titles and alternatives, and all text escaped."""

import base64
import re
import xml.etree.ElementTree as xml

import pytest
from IPython.display import HTML
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

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
        plain_get(run.connect("first <1>"), run.server)
        plain_get(run.connect("second"), run.server)
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
        awkward.half_a_request_then_resets(run.connect("rude"), run.server)
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


def test_lanes_of_threads_are_numbered():
    with lab.record(LOOP.parent / "03_thread_per_client.py") as run:
        for name in ("one", "two"):
            awkward.plain_get(run.connect(name), run.server)
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
    short = Call(name, 5, "MainThread", 2, 1.7, [], 0.001, slept=0)
    client, server = lanes([(0, "calls"), (0, "connected"), (2, "left")], [accept, long, short])
    assert (client.name, client.is_server, client.bars) == ("a", False, [])
    assert (server.name, server.is_server, server.marks) == ("server", True, [])
    assert server.bars == [(0.1, 1.6, label, f"{name}, on a's socket")]
    assert label in show.COLORS


def test_a_call_that_did_not_sleep_has_no_bar_however_long_it_took():
    """It took long because something else had the core; one that never returned sleeps."""
    accept = Call(
        "accept", 3, "MainThread", 1, 0.0, [], 0.0, [{"fd": 5}, ["127.0.0.1", 1]], slept=0
    )
    calls = [accept]
    for began, slept in ((0.1, 0), (0.5, 2), (0.9, 0)):
        calls.append(Call("recv", 5, "MainThread", 2, began, [9], 0.1, slept=slept))
    calls.append(Call("accept", 3, "MainThread", 1, 1.3, []))
    _, server = lanes([(0, "calls"), (0, "connected"), (2, "left")], calls)
    assert [round(bar.start, 1) for bar in server.bars] == [0.5, 1.3]


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


# Pictures: what is drawn is what `.shows` says, for both widths.


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib Figures that have been drawn, wide and narrow in turns."""
    figures = []

    def remembered(*args, **kwargs):
        figures.append(Figure(*args, **kwargs))
        return figures[-1]

    monkeypatch.setattr(show, "Figure", remembered)
    return figures


def color(artist):
    rectangle = hasattr(artist, "get_facecolor")
    return to_hex(artist.get_facecolor() if rectangle else artist.get_color())


def legend_of(figure):
    """What a figure's legends say: {label: colour}."""
    return {
        text.get_text(): color(handle)
        for legend in figure.legends
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }


def points(line):
    return [tuple(map(float, point)) for point in line.get_xydata()]


def curves_of(axes):
    return {line.get_label(): points(line) for line in axes.lines}


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def grid(figure):
    """How the panels of a figure stand: rows and columns."""
    return figure.axes[0].get_gridspec().get_geometry()


def bars_of(axes):
    """What bars show, from top to bottom: {label: ({colour: (from, to)}, what is written)}."""
    labels = [text.get_text() for text in axes.get_yticklabels()]
    places = dict(zip(axes.get_yticks(), labels, strict=True))
    written = {}
    for text in axes.texts:
        at, place = text.get_position()
        written[place] = at, text.get_text().strip()
    rows = {}
    for bar in axes.patches:
        place = bar.get_y() + bar.get_height() / 2
        rows.setdefault(round(place), {})[color(bar)] = (bar.get_x(), bar.get_x() + bar.get_width())
    bottom, top = axes.get_ylim()
    assert top < bottom, "the first is the uppermost"
    for place, parts in rows.items():
        assert written[place][0] == max(end for _, end in parts.values()), "at the end of the bar"
    return {places[place]: (rows[place], written[place][1]) for place in sorted(rows)}


def inside(figure):
    """Whether all that is drawn on a figure lies within its left and right edge."""
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    return all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


TWO = {"poll <1>": [(1, 10), (2, 25), (4, 45)], "epoll": [(1, 3), (4, 2)]}
PANELS = {"all at once": TWO, "in turns": {"epoll": [(0, 1), (9, 8)], "select": [(5, 5), (6, 6)]}}


def test_a_picture_keeps_what_it_was_made_of():
    def draw(figure, narrow):
        figure.subplots().plot([1, 2])

    made = show.picture(draw, "Who & whom", 'An "alternative"', shows={"a": 1})
    assert (made.title, made.alt, made.shows) == ("Who & whom", 'An "alternative"', {"a": 1})
    assert "<figcaption>Who &amp; whom</figcaption>" in made.data
    assert 'alt="An &quot;alternative&quot;"' in made.data
    assert isinstance(made, HTML) and made._repr_html_() == made.data
    assert repr(made) == "<IPython.core.display.HTML object>", "as it is stored"
    assert show.picture(draw, "a", "b").shows == {}


def test_a_picture_is_drawn_for_two_widths(drawn):
    said = []
    show.picture(lambda figure, narrow: said.append(narrow), "a", "b", 2, 5)
    show.picture(lambda figure, narrow: said.append(narrow), "a", "b", 2)
    assert said == [False, True] * 2
    sizes = [tuple(figure.get_size_inches()) for figure in drawn]
    assert sizes == [(7.4, 2), (3.5, 5), (7.4, 2), (3.5, 2)]


def test_curves_are_drawn_as_they_are_shown(drawn):
    made = show.curves("title", "alt", TWO, "sockets", "µs a call")
    assert made.shows == TWO and (made.title, made.alt) == ("title", "alt")
    for figure in drawn:
        (axes,) = figure.axes
        assert curves_of(axes) == TWO
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("sockets", "µs a call")
        colors = {line.get_label(): color(line) for line in axes.lines}
        assert colors == {"poll <1>": show.BLUE, "epoll": show.ORANGE}
        assert legend_of(figure) == colors
        assert axes.xaxis.get_gridlines()[0].get_visible()
        assert (axes.get_xscale(), axes.get_yscale(), titles(figure)) == ("linear", "linear", [""])


def test_panels_of_curves_share_axes_and_colours(drawn):
    assert show.curves("title", "alt", PANELS, "seconds", "kB").shows == PANELS
    wide, narrow = drawn
    assert grid(wide) == (1, 2) and grid(narrow) == (2, 1)
    for figure in drawn:
        assert dict(zip(titles(figure), map(curves_of, figure.axes), strict=True)) == PANELS
        assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
        expected = {"poll <1>": show.BLUE, "epoll": show.ORANGE, "select": show.GREEN}
        assert legend_of(figure) == expected
        drawn_in = {line.get_label(): color(line) for axes in figure.axes for line in axes.lines}
        assert drawn_in == expected
        left, right = figure.axes[0].get_xlim()
        assert left <= 0 and right >= 9, "what the second panel shows counts as well"
    assert [axes.get_xlabel() for axes in wide.axes] == ["seconds", "seconds"]
    assert [axes.get_ylabel() for axes in wide.axes] == ["kB", ""]
    assert [axes.get_xlabel() for axes in narrow.axes] == ["", "seconds"]
    assert [axes.get_ylabel() for axes in narrow.axes] == ["kB", "kB"]
    assert narrow.get_size_inches()[1] > 1.5 * wide.get_size_inches()[1]


@pytest.mark.parametrize(
    ("style", "line", "drawstyle", "marked"),
    [
        ("lines", "-", "default", False),
        ("lines and dots", "-", "default", True),
        ("steps", "-", "steps-post", False),
        ("dots", "None", "default", True),
    ],
)
def test_how_points_are_joined(drawn, style, line, drawstyle, marked):
    show.curves("title", "alt", TWO, "x", "y", style)
    for figure in drawn:
        lines = figure.axes[0].lines
        assert {each.get_linestyle() for each in lines} == {line}
        assert {each.get_drawstyle() for each in lines} == {drawstyle}
        markers = [each.get_marker() for each in lines]
        assert markers == (["o", "X"] if marked else ["None", "None"])
        shown = [each.get_marker() for each in figure.legends[0].legend_handles]
        assert shown == markers, "the legend has the same"


def test_a_series_may_be_dashed(drawn):
    show.curves("title", "alt", TWO, "x", "y", dashed=["epoll"])
    for figure in drawn:
        for lines in (figure.axes[0].lines, figure.legends[0].legend_handles):
            assert [each.get_linestyle() for each in lines] == ["-", "--"]
    with pytest.raises(ValueError, match=r"no such series: \['select'\]"):
        show.curves("title", "alt", TWO, "x", "y", dashed=["poll <1>", "select"])


def test_a_logarithmic_axis_has_numbers_in_full(drawn):
    series = {"poll": [(10, 0.05), (10_000, 2000)]}
    show.curves("title", "alt", series, "x", "y", xscale="log", yscale="log")
    for figure in drawn:
        figure.canvas.draw()
        (axes,) = figure.axes
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        for axis, numbers in (
            (axes.xaxis, {"10", "100", "1,000", "10,000"}),
            (axes.yaxis, {"0.1", "1", "10", "100", "1,000"}),
        ):
            said = {text.get_text() for text in axis.get_ticklabels()}
            assert said >= numbers
            assert not any(text.get_text() for text in axis.get_ticklabels(minor=True))


def test_axes_may_be_set(drawn):
    settings = {"xlim": (0, 7), "ylim": (-1, 50), "yticks": [0, 25, 50]}
    show.curves("title", "alt", PANELS, "x", "y", **settings)
    for figure in drawn:
        for axes in figure.axes:
            assert (axes.get_xlim(), axes.get_ylim()) == ((0, 7), (-1, 50))
            assert list(axes.get_yticks()) == [0, 25, 50]


def test_a_limit_may_be_left_open(drawn):
    show.curves("title", "alt", PANELS, "x", "y", xlim=(-3, None))
    for figure in drawn:
        left, right = figure.axes[0].get_xlim()
        assert left == -3 and right >= 9


def test_one_series_needs_no_legend(drawn):
    show.curves("title", "alt", {"epoll": [(1, 2)]}, "x", "y")
    assert [figure.legends for figure in drawn] == [[], []]


def test_a_series_without_points_is_still_named(drawn):
    show.curves("title", "alt", {"nobody": [], **TWO}, "x", "y")
    for figure in drawn:
        assert curves_of(figure.axes[0]) == TWO
        assert list(legend_of(figure)) == ["nobody", "poll <1>", "epoll"]


def test_more_series_than_colours_are_refused():
    series = {f"number {n}": [(0, n), (1, n)] for n in range(len(show.PALETTE) + 1)}
    with pytest.raises(ValueError, match="more than 7 colours can't be told apart"):
        show.curves("title", "alt", series, "x", "y")
    del series["number 3"]
    show.curves("title", "alt", series, "x", "y", "dots")
    assert len(set(show.PALETTE)) == len(set(show.MARKERS)) == len(series)


def test_a_legend_has_as_many_columns_as_there_is_room_for(drawn):
    labels = ("one worker", "four workers", "asyncio.to_thread, four of them")
    show.curves("title", "alt", {label: [(0, 0), (1, 1)] for label in labels}, "x", "y")
    heights = []
    for figure in drawn:
        assert len(figure.legends) == 1 and inside(figure)
        heights.append(figure.legends[0].get_window_extent().height)
    assert heights[1] > 1.5 * heights[0], "one row, where it is wide enough"


def test_a_label_wider_than_the_page_is_shown_all_the_same(drawn):
    show.curves("title", "alt", {"x" * 99: [(0, 0)], "y": [(1, 1)]}, "x", "y")
    assert [len(figure.legends) for figure in drawn] == [1, 1]


def test_bars_are_drawn_as_they_are_shown(drawn):
    values = {"a thread each": 9125.3, "one <thread>": 1.26, "none": 0}
    made = show.bars("title", "alt", values, "address space, kB")
    assert made.shows == values and (made.title, made.alt) == ("title", "alt")
    for figure in drawn:
        assert titles(figure) == ["address space, kB"]
        assert bars_of(figure.axes[0]) == {
            "a thread each": ({show.BLUE: (0, 9125.3)}, "9,125"),
            "one <thread>": ({show.BLUE: (0, 1.26)}, "1.3"),
            "none": ({show.BLUE: (0, 0)}, "0"),
        }
        assert list(bars_of(figure.axes[0])) == list(values)
        assert figure.axes[0].get_xlim() == (0, 9125.3)
        assert not figure.legends and not len(figure.axes[0].get_xticks())
        assert inside(figure)


PARTS = {"NODELAY": {"written": 200, "headers": 10_400}, "Nagle": {"headers": 1092, "written": 200}}


def test_bars_of_parts_are_as_long_as_their_sum(drawn):
    assert show.bars("title", "alt", PARTS, "bytes").shows == PARTS
    for figure in drawn:
        assert titles(figure) == ["bytes"]
        assert bars_of(figure.axes[0]) == {
            "NODELAY": ({show.BLUE: (0, 200), show.ORANGE: (200, 10_600)}, "10,600"),
            "Nagle": ({show.BLUE: (0, 200), show.ORANGE: (200, 1292)}, "1,292"),
        }
        assert legend_of(figure) == {"written": show.BLUE, "headers": show.ORANGE}


def test_panels_of_bars(drawn):
    """Each has its own scale, those that share the legend the same; no colour says two things."""
    values = {
        "bytes, one by one": PARTS,
        "bytes, gathered": {"sendmsg": {"written": 200, "copied": 100}},
        "segments": {"NODELAY": 200, "Nagle": 21},
        "ms": {"NODELAY": 0.5},
    }
    assert show.bars("title", "alt", values).shows == values
    for figure in drawn:
        assert titles(figure) == list(values)
        assert [set(bars_of(axes)) for axes in figure.axes] == [
            set(each) for each in values.values()
        ]
        assert [axes.get_xlim()[1] for axes in figure.axes] == [10_600, 10_600, 200, 0.5]
        gathered, segments = (bars_of(axes) for axes in figure.axes[1:3])
        assert gathered == {"sendmsg": ({show.BLUE: (0, 200), show.GREEN: (200, 300)}, "300")}
        assert segments["Nagle"] == ({show.INK: (0, 21)}, "21")
        assert list(legend_of(figure)) == ["written", "headers", "copied"]
        assert inside(figure)
        thick = [axes.patches[0].get_window_extent().height / figure.dpi for axes in figure.axes]
        assert min(thick) > 0.1 and max(thick) < 1.5 * min(thick), "in inches, in every panel"


def test_panels_of_bars_without_parts_are_as_blue_as_one(drawn):
    show.bars("title", "alt", {"kB": {"a": 1}, "ms": {"a": 2, "b": 3}})
    for figure in drawn:
        assert not figure.legends
        assert {color(bar) for axes in figure.axes for bar in axes.patches} == {show.BLUE}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (12_345.6, "12,346"), (99.7, "100"), (10.4, "10"), (9.96, "10"), (9.94, "9.9"),
        (8, "8"), (8.0, "8"), (0.311, "0.31"), (0.05, "0.05"), (0, "0"),
    ],
)  # fmt: skip
def test_values_are_written_with_two_digits_or_all(drawn, value, said):
    show.bars("title", "alt", {"a": value}, "kB")
    assert [figure.axes[0].texts[0].get_text() for figure in drawn] == [f" {said}"] * 2


def test_numbers_that_nothing_explains_are_refused():
    with pytest.raises(ValueError, match="nothing says what these numbers are: {'a': 1}"):
        show.bars("title", "alt", {"a": 1})
    with pytest.raises(ValueError, match="nothing says what these numbers are"):
        show.bars("title", "alt", {"kB": {"a": 1}, "b": 2})
    with pytest.raises(ValueError, match="more than 7 colours"):
        show.bars("title", "alt", {"a": {f"part {n}": n for n in range(8)}}, "kB")


def test_a_running_total_is_in_the_order_of_time():
    assert show.running_total([(0, 0), (3, 5), (1, 2), (4, 0)]) == [(0, 0), (1, 2), (3, 7), (4, 7)]
    assert show.running_total((t, 1) for t in (2, 2, 5)) == [(2, 1), (2, 2), (5, 3)]
    assert show.running_total([]) == []


def test_shares_say_how_many_are_no_longer():
    assert show.shares([4, 1, 2, 2]) == [(1, 25), (2, 75), (2, 75), (4, 100)]
    assert show.shares(iter([0.5])) == [(0.5, 100)]
    assert show.shares([]) == []


def test_a_timeline_shows_lanes_by_name_and_draws_them(drawn):
    accept = Call("accept", 3, "MainThread", 1, 0.0, [], 0.0, [{"fd": 5}, ["127.0.0.1", 1]])
    recv = Call("recv", 5, "MainThread", 2, 0.1, [], 1.5)
    events = [(0, "connected"), (1.5, "sent"), (1.7, "got"), (2, "left")]
    clients = [
        Client("b", 1, [Event(t, what, 1) for t, what in events]),
        Client("a", 2, [Event(t, what, 1) for t, what in [(0.2, "connected"), (1.1, "reset")]]),
    ]
    run = Recording("s.py", [], None, 2, [accept, recv], [], clients, False)
    made = show.timeline(run, "title", "alt")
    assert list(made.shows) == ["b", "a", "server"]
    assert list(made.shows.values()) == show.lanes(run)
    assert (made.title, made.alt) == ("title", "alt")
    for figure in drawn:
        (axes,) = figure.axes
        names = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
        assert names == list(made.shows)
        for place, lane in enumerate(made.shows.values()):
            lines = [points(line) for line in axes.lines if set(line.get_ydata()) == {-place}]
            expected = [[(lane.start, -place), (lane.end, -place)]]
            if not lane.is_server:
                expected += [[(bar.start, -place), (bar.end, -place)] for bar in lane.bars]
            assert lines == expected + [[(when, -place)] for when, _ in lane.marks]
        (bar,) = axes.patches
        assert (bar.get_x(), round(bar.get_width(), 9)) == (0.1, 1.5)
        assert axes.get_xlabel() == "seconds"
        assert set(legend_of(figure)) == {
            "connects", "sends", "waits", "is answered", "resets", "server asleep in recv",
        }  # fmt: skip


def test_two_lanes_of_one_name_are_refused():
    clients = [Client("a", n, [Event(0, "connected", 0), Event(1, "left", 0)]) for n in (1, 2)]
    run = Recording("s.py", [], None, 2, [], [], clients, False)
    with pytest.raises(ValueError, match="two lanes have one name: a, a"):
        show.timeline(run, "title", "alt")


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
    ours = show.stylesheet().data.removeprefix("<style>").partition("</style>")[0]
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


LISTING = '''
LIMIT = 3  # of what
import os

class Loop:
    """A loop."""

    def run(self):
        return 1  # at once

    @property
    def end(self):
        return 2
'''


def test_an_excerpt_is_what_stands_in_the_file(tmp_path):
    file = tmp_path / "server.py"
    file.write_text(LISTING)
    assert show.excerpt(file, "LIMIT").data == "```python\nLIMIT = 3  # of what\n```"
    both = show.excerpt(file, "Loop.run", "Loop.end").data
    assert both == (
        "```python\ndef run(self):\n    return 1  # at once\n\n"
        "@property\ndef end(self):\n    return 2\n```"
    )
    for missing in ("Loop.stop", "MOST"):
        with pytest.raises(ValueError, match=f"{missing} is not defined here"):
            show.excerpt(file, missing)
