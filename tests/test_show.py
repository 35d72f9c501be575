"""Figures and tables: well-formed, with titles and alternatives, and all text escaped."""

import base64
import re
import xml.etree.ElementTree as xml

import lab
from conftest import BOOK
from lab import show, survival
from lab.clients import plain_get
from lab.survival import Verdict

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
        lab.clients.half_a_request_then_resets(run.talk("rude"), run.server)
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
    rows, columns = [*survival.ROWS[:2], survival.row("says nothing")], survival.COLUMNS[1:2]
    verdicts = {
        (row.name, columns[0].label): Verdict(word)
        for row, word in zip(rows, ("ok", "n/a", "frozen"), strict=True)
    }
    html = show.matrix(verdicts, rows, columns).data
    assert html.count("<tr>") == 4
    assert 'lab-good">ok</span></td>' in html
    frozen = '<span class="lab-pill lab-bad">frozen</span>'
    assert f'<a href="02_request_loop.ipynb">{frozen}</a>' in html


def test_the_steps_of_an_epoll_server():
    with lab.record(LOOP.parent / "04_level_triggered.py") as run:
        lab.clients.plain_get(run.talk("visitor"), run.server)
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
            lab.clients.plain_get(run.talk(name), run.server)
    for each in pictures(show.timeline(run.recording, "title", "alt").data):
        texts = {"".join(node.itertext()) for node in each.iter() if node.tag.endswith("text")}
        assert {"server, main thread", "server, thread 1", "server, thread 2"} <= texts


def test_who_is_not_let_in_for_long_is_drawn_so():
    def texts(connected):
        events = [[0, "calls", 0], [connected, "connected", 0], [connected + 0.1, "left", 0]]
        client = {"name": "late", "port": 1, "events": events}
        call = {"t": 0, "took": 2, "thread": "MainThread", "call": "poll", "fd": 3, "got": []}
        recording = {"clients": [client], "calls": [call], "ended": 2}
        return show.timeline(recording, "title", "alt").data, recording

    for connected, said in ((1.03, True), (0.2, False)):
        html, _ = texts(connected)
        assert all(
            ("is not let in" in xml.tostring(each, "unicode")) == said for each in pictures(html)
        )


def test_one_waits_until_the_last_piece_is_there():
    """A client's answer in two pieces, and then another round."""
    steps = [("calls", 0), ("connected", 0), ("sent", 0.1), ("got", 0.2), ("got", 0.5)]
    steps += [("sent", 0.6), ("got", 0.7), ("closed", 0.8)]
    drawn = []

    class Axes:
        def plot(self, x, y, **style):
            if style.get("lw") == 4:
                drawn.append(x)
            return [type("Line", (), {"set_label": lambda self, label: None})()]

    client = {"name": "a", "events": [[t, what, 1] for what, t in steps]}
    show._client_lane(Axes(), 0, client, {})
    assert drawn == [[0.1, 0.5], [0.6, 0.7]]


def test_a_wide_matrix_has_signs_for_a_phone():
    row = survival.ROWS[0]
    words = list(survival.VERDICTS)
    columns = [survival.Column(f"{n:02}_x", "x") for n in range(len(words))]
    verdicts = {(row.name, c.label): Verdict(word) for c, word in zip(columns, words, strict=True)}
    html = show.matrix(verdicts, [row], columns).data
    signs = re.findall(r'data-sign="(.)"', html)
    assert len(set(signs)) == len(words), "each has its own, and the legend names it"
    legend = html[html.index('<p class="lab-signs">') :]
    assert all(f"{show.SIGNS[word]}&nbsp;{word}" in legend for word in words)
    few = show.matrix(verdicts, [row], columns[:4]).data
    assert "lab-signs" not in few.partition("</style>")[2]
