"""Figures and tables, in one style for the whole book.

A figure is drawn twice, for a wide screen and for a phone, and the page takes the one that fits.
It is black on nothing; where the page is dark, a filter inverts it and turns the hues back. So
one picture does for the book and JupyterLab, light and dark, and reads in any viewer that shows
HTML. Whatever a figure says in its title and its alternative text must be true on every run:
nbval compares those, and leaves the picture alone.

There are three kinds: a timeline of a run, curves, and bars. Each is drawn from named data, which
the figure keeps in `shows`, so that the cell that draws it can assert what is to be seen in it.

How all this looks says one stylesheet, book/_static/book.css. The site loads it, a notebook's first
cell prints it for JupyterLab, and no figure or table brings a style of its own.
"""

import ast
import base64
import difflib
import html
import io
import re
import textwrap
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from IPython.display import HTML, Markdown
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from survive.rows import ROWS

from .frames import thread_names
from .matrix import COLUMNS, EXPLAINED_IN
from .session import find

WIDE, NARROW = 7.4, 3.5  # inches; 96 CSS pixels each on the page
INK, PALE, PALER, GRID = "#24292f", "#b4bcc8", "#d9dee5", "#e3e6ea"
BLUE, ORANGE, RED, GREEN, VIOLET = "#2f6db5", "#e08a1e", "#c4314b", "#2b8a57", "#8a63c4"
PALETTE = (BLUE, ORANGE, GREEN, VIOLET, RED, PALE, "#6b7280")  # of series, in their order

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "the ready list",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": ["DejaVu Sans", "sans-serif"],
}

STYLESHEET = Path(__file__).resolve().parent.parent / "_static" / "book.css"
STEPPER = STYLESHEET.with_name("stepper.js")
BORDER = re.compile(r"^/\* -+ the border\b", re.MULTILINE)  # what follows is for the site alone


def stylesheet():
    """Return what dresses figures and tables in JupyterLab: the stylesheet down to its border.

    With it comes the script that moves through recorded runs: see lab.stepper.

    A notebook's first cell ends in this call. It is not done by the import, which a kernel does
    once: a reader who runs that cell again would lose what it has printed.
    """
    rules = BORDER.split(STYLESHEET.read_text(encoding="utf-8"))[0]
    script = STEPPER.read_text(encoding="utf-8").strip()
    return HTML(f"<style>\n{rules.strip()}\n</style>\n<script>\n{script}\n</script>")


def _svg(draw, width, height):
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure, width == NARROW)
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


class Picture(HTML):
    """A drawn figure.

    title: what it shows, in one line. alt: what a reader who cannot see it needs. shows: the named
    data from which it was drawn.
    """

    def __init__(self, data, title, alt, shows):
        super().__init__(data)
        self.title, self.alt, self.shows = title, alt, shows

    def __repr__(self):
        return repr(HTML())  # this text is stored beside each picture


def picture(draw, title, alt, height=3.0, narrow_height=None, shows=None):
    """Draw a figure for wide and narrow screens; return it as a Picture.

    draw: a function (figure, narrow) that draws on a matplotlib Figure. title: what it shows,
    in one line. alt: what a reader who cannot see it needs. height: in inches; narrow_height: the
    same for a phone, where it differs. shows: the named data that draw draws, if it has names.
    """
    wide, narrow = _svg(draw, WIDE, height), _svg(draw, NARROW, narrow_height or height)
    page = (
        f'<figure class="lab-figure"><figcaption>{html.escape(title)}</figcaption><picture>'
        f'<source media="(max-width: 600px)" srcset="{narrow}">'
        f'<img class="dark-light" src="{wide}" alt="{html.escape(alt)}"></picture></figure>'
    )
    return Picture(page, title, alt, {} if shows is None else shows)


# How the points of a curve are joined, and each of them marked.
JOINED = {
    "lines": {},
    "lines and dots": {"marked": True},
    "steps": {"drawstyle": "steps-post"},
    "dots": {"ls": "", "marked": True},
}
MARKERS = "oXsD^vP"  # of series, in their order: they are told apart without colour, too


def curves(title, alt, series, x, y, style="lines", dashed=(), **settings):
    """Draw curves over two axes; return a Picture that shows the series.

    series: {label: [(x, y), ...]}. Or {panel's title: such series}, for panels that share their
    axes and colours; they stand side by side, or one below the other where the page is narrow.
    x, y: what the axes measure, and in which unit. style: how points are joined, a key of JOINED.
    dashed: labels of series that would else hide another. settings: what else the axes are to have,
    as matplotlib's Axes.set takes it: xscale="log", ylim=(0, 5).

    Raises ValueError where a dashed series is missing, and where there are more than PALETTE has.
    """
    nested = any(isinstance(each, dict) for each in series.values())
    panels = series if nested else {"": series}
    looks = _looks([label for each in panels.values() for label in each], style, dashed)

    def draw(figure, narrow):
        shape = (len(panels), 1) if narrow else (1, len(panels))
        grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, each in zip(grid, panels.values(), strict=True):
            for label, points in each.items():
                axes.plot(*zip(*points, strict=True), **looks[label])
        for axes, name in zip(grid, panels, strict=True):  # now that all that they share is there
            axes.set_title(name, loc="left")
            _set_axes(axes, x, y, settings)
        if len(looks) > 1:
            _legend(figure, [Line2D([], [], **look) for look in looks.values()])

    return picture(draw, title, alt, 3.0, 0.6 + 2.4 * len(panels), shows=series)


def _looks(labels, style, dashed):
    """Return how each series is drawn: {label: keywords of a Line2D}."""
    if unknown := [label for label in dashed if label not in labels]:
        raise ValueError(f"no such series: {unknown}")
    looks = {}
    for (label, color), marker in zip(_colors(labels).items(), MARKERS, strict=False):
        look = {"label": label, "color": color, "ms": 5, **JOINED[style]}
        if look.pop("marked", False):
            look["marker"] = marker
        if label in dashed:
            look["ls"] = "--"
        looks[label] = look
    return looks


def _colors(labels):
    """Return the colour of each label, in their order: {label: colour}."""
    labels = list(dict.fromkeys(labels))
    if len(labels) > len(PALETTE):
        raise ValueError(f"more than {len(PALETTE)} colours can't be told apart: {labels}")
    return dict(zip(labels, PALETTE, strict=False))


def _set_axes(axes, x, y, settings):
    """Set up the axes of curves: labels on the outer panels only, and numbers in full."""
    axes.set(xlabel=x, ylabel=y, **settings)
    axes.label_outer()
    axes.grid(True)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter("{x:,g}")


def _legend(figure, handles):
    """Draw a legend below a figure, in as many columns as its width has room for."""
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, columnspacing=1
        )
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()


def bars(title, alt, values, unit=None):
    """Draw horizontal bars, each with its value at its end; return a Picture that shows the values.

    values: {label: number}, or {label: {part: number}} for bars of several parts, whose value is
    their sum. unit: what the numbers say, and in which unit; it stands above the bars. Without it
    values are panels, {unit: such values}. Each panel has a scale of its own, but those with bars
    of parts, which share a legend, share one.

    Raises ValueError where nothing says what the numbers are, and where there are more parts than
    PALETTE has colours.
    """
    panels = {unit: values} if unit else values
    if not all(isinstance(each, dict) for each in panels.values()):
        raise ValueError(f"nothing says what these numbers are: {values}")
    rows = [row for each in panels.values() for row in each.values()]
    in_parts = [row for row in rows if isinstance(row, dict)]
    colors = _colors(part for row in in_parts for part in row)

    def draw(figure, narrow):
        sizes = [len(each) for each in panels.values()]
        grid = figure.subplots(len(panels), squeeze=False, height_ratios=sizes).ravel()
        for axes, (name, each) in zip(grid, panels.items(), strict=True):
            axes.set_title(name, loc="left")
            alike = in_parts if any(row in in_parts for row in each.values()) else []
            _draw_bars(axes, each, colors, max(map(_total, [*each.values(), *alike])))
        if colors:
            _legend(figure, [Patch(color=color, label=part) for part, color in colors.items()])

    height = 0.3 * len(rows) + 0.4 * len(panels) + 0.3 * bool(colors)
    return picture(draw, title, alt, height, shows=values)


def _total(row):
    """Return the value of a bar: a number, or the sum of its parts."""
    return sum(row.values()) if isinstance(row, dict) else row


def _draw_bars(axes, values, colors, most):
    """Draw bars from top to bottom, on a scale from 0 to most."""
    colors = colors | {None: INK if colors else BLUE}  # beside a legend, a colour not in it
    for place, row in enumerate(values.values()):
        parts = row if isinstance(row, dict) else {None: row}
        left = 0
        for part in [part for part in colors if part in parts]:  # in the legend's order
            axes.barh(place, parts[part], left=left, height=0.6, color=colors[part])
            left += parts[part]
        said = f"{left:,.0f}" if left >= 10 else f"{left:.2g}"
        axes.text(left, place, f" {said}", va="center")
    axes.set_yticks(range(len(values)), values)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, most or 1), ylim=(len(values) - 0.5, -0.5), xticks=[])
    axes.spines["bottom"].set_visible(False)


def running_total(events):
    """Return how much there has been after each event: [(when, total so far)].

    events: [(when, amount)], in any order. An amount of 0 makes a curve begin or end at a time.
    """
    events = sorted(events)
    totals = accumulate(amount for _, amount in events)
    return [(when, total) for (when, _), total in zip(events, totals, strict=True)]


def shares(times):
    """Return, for each measured time, the share of times that are no longer: [(time, percent)].

    times: in any unit and order.
    """
    times = sorted(times)
    return [(time, 100 * bisect_right(times, time) / len(times)) for time in times]


def table(header, rows, kind=""):
    """Make a table of text; a cell that is already HTML stays as it is.

    Raises ValueError where a column has no name: nobody could say what stands in it. kind: how it
    looks. "masks": what epoll reports, in fewer columns on a phone; "dots": the ledger's; "matrix":
    verdicts, which a narrow page shows as signs.
    """
    if not all(header):
        raise ValueError(f"a column of this table has no name: {header}")

    def text(cell):  # a mask of many names may be broken at any bar
        if isinstance(cell, HTML):
            return cell.data
        return html.escape(str(cell)).replace("|", "|<wbr>")

    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{text(cell)}</{tag}>" for cell in cells) + "</tr>"

    look = f"lab-table lab-{kind}" if kind else "lab-table"
    body = "".join(line("td", cells) for cells in rows)
    head = f"<thead>{line('th', header)}</thead>"
    return _scrolled("Table", f'<table class="{look}">{head}<tbody>{body}</tbody></table>')


def _scrolled(name, inside):
    """Wrap what may be wider than the page in a box that a keyboard, too, can scroll."""
    return HTML(
        f'<div class="lab-scroll" tabindex="0" role="group" aria-label="{name}">{inside}</div>'
    )


def ledger(modes, rows):
    """Make the wake-up ledger: which of several polls in a row reported an event, in each mode.

    modes: their names. rows: (what happens before the polls, [the polls' outcomes in each mode]).
    """

    def dots(outcomes):
        marks = "".join("<b>●</b>" if reported else "<i>○</i>" for reported in outcomes)
        said = f"{sum(outcomes)} of {len(outcomes)} polls report it"
        return HTML(f'<span role="img" aria-label="{said}">{marks}</span>')

    cells = [(what, *map(dots, of_modes)) for what, of_modes in rows]
    return table(["what happens, then polls", *modes], cells, kind="dots")


def difference(old, new):
    """Show what changed from one server's file to the next one's.

    A line that has only been indented counts as unchanged: a loop round ten lines is one new line.
    """
    texts = [find(name).read_text(encoding="utf-8").splitlines() for name in (old, new)]
    match = difflib.SequenceMatcher(None, *([line.strip() for line in text] for text in texts))
    shown = []
    for group in match.get_grouped_opcodes(2):
        shown.append(("place", f"line {group[0][3] + 1}"))
        for what, old_from, old_to, new_from, new_to in group:
            if what == "equal":
                shown += [("same", "  " + line) for line in texts[1][new_from:new_to]]
            else:
                shown += [("minus", "- " + line) for line in texts[0][old_from:old_to]]
                shown += [("plus", "+ " + line) for line in texts[1][new_from:new_to]]
    lines = "".join(f'<span class="{kind}">{html.escape(text)}</span>' for kind, text in shown)
    return _scrolled("What changed", f'<pre class="lab-diff">{lines}</pre>')


def excerpt(name, *parts):
    """Show parts of a server's listing, as they stand in its file.

    name: as session.find has it. parts: functions, classes, methods (`Loop.drain`), or constants.
    Raises ValueError for a part that is not there.
    """
    text = find(name).read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    shown = []
    for part in parts:
        node = tree
        for word in part.split("."):
            node = _named(node, word, part)
        first = min([node, *getattr(node, "decorator_list", [])], key=lambda each: each.lineno)
        shown.append(textwrap.dedent("\n".join(lines[first.lineno - 1 : node.end_lineno])))
    between = "\n\n" if any("\n" in each for each in shown) else "\n"
    return Markdown(f"```python\n{between.join(shown)}\n```")


def _named(node, word, part):
    """Return what defines a name in the body of a module or class."""
    for each in node.body:
        targets = getattr(each, "targets", ())
        if getattr(each, "name", None) == word or any(word == ast.unparse(to) for to in targets):
            return each
    raise ValueError(f"{part} is not defined here")


# The colours of what fills a time in a timeline: of the calls that the server sleeps in, and of
# what clients wait for. A server's time that nothing fills is time in which it runs.
ASLEEP_IN = {
    "accept": PALE, "poll": PALE, "get": PALER, "recv": BLUE, "recv_into": BLUE, "send": ORANGE,
    "sendall": ORANGE, "sendmsg": ORANGE, "execute": VIOLET,
}  # fmt: skip
COLORS = {f"server asleep in {call}": color for call, color in ASLEEP_IN.items()} | {
    "waits": ORANGE,
    "is not let in": RED,
}
# What happens to a client at a moment: the words for it, the marker and its colour.
MARKS = {
    "connected": ("connects", "|", INK),
    "sent": ("sends", "o", INK),
    "got": ("is answered", "v", GREEN),
    "half-closed": ("half-closes", ">", VIOLET),
    "was reset": ("is reset", "X", RED),
    "reset": ("resets", "X", RED),
}
SHUT_OUT = 0.5  # seconds: a client that takes so long to connect has sent its SYN twice


class Bar(NamedTuple):
    """A bar in a lane: from when to when, what (a key of COLORS), and words over it."""

    start: float
    end: float
    what: str
    words: str = ""


@dataclass
class Lane:
    """One line of a timeline: a client, or a thread of the server.

    start, end: when it is there. bars: what fills its time. marks: (when, what, a key of MARKS).
    """

    name: str
    start: float
    end: float
    bars: list
    marks: list
    is_server: bool = False


def lanes(recording):
    """Return what a timeline of a recorded run shows, as Lanes: its clients, then its threads."""
    times = [event.when for client in recording.clients for event in client.events]
    shown = min(times), max(times)
    found = [_client_lane(client) for client in recording.clients]
    for number, (thread, name) in enumerate(thread_names(recording).items()):
        name = name if name == "server" else f"server, {name}"
        calls = [call for call in recording.calls() if call.thread == thread]
        gone = number and calls[-1].took is not None
        end = min(calls[-1].returned if gone else recording.ended, shown[1])
        lane = _server_lane(name, calls, (shown[0], end), shown[1] - shown[0])
        found.append(lane)
    return found


def _client_lane(client):
    """Make a client's Lane. It waits from its request to its answer, or until it is let in late."""
    bars, marks, asked = [], [], None
    for event, following in zip(client.events, [*client.events[1:], None], strict=True):
        t, what = event.when, event.what
        if what == "connected" and t - client.events[0].when > SHUT_OUT:
            bars.append(Bar(client.events[0].when, t, "is not let in"))
        goes_on = what == "got" and following and following.what == "got"
        if what == "sent":
            asked = t if asked is None else asked
        elif asked is not None and what != "half-closed" and not goes_on:
            bars.append(Bar(asked, t, "waits"))
            asked = None
        if what in MARKS:
            marks.append((t, what))
    return Lane(client.name, client.events[0].when, client.events[-1].when, bars, marks)


def _server_lane(name, calls, shown, whole):
    """Make a thread's Lane: a bar for each call that it sleeps in; a long one names the client.

    shown: from when to when the thread is shown. whole: how many seconds the timeline shows.
    """
    start, end = max(shown[0], calls[0].began), shown[1]
    bars = []
    for call in calls:
        began = max(call.began, start)
        returned = end if call.took is None else min(call.returned, end)
        if call.name in ASLEEP_IN and call.slept != 0 and returned > began:
            long = call.client and returned - began > 0.3 * whole
            words = f"{call.name}, on {call.client}'s socket" if long else ""
            bars.append(Bar(began, returned, f"server asleep in {call.name}", words))
    return Lane(name, start, end, bars, [], is_server=True)


def timeline(recording, title, alt, margin=0.04):
    """Draw the lanes of a recorded run: its clients, and below them the server's threads.

    recording: a Recording. margin: of the time shown, what is left free at either end. Returns a
    Picture that shows {name: Lane}; raises ValueError where two lanes have one name.
    """
    found = lanes(recording)
    shown = {lane.name: lane for lane in found}
    if len(shown) < len(found):
        raise ValueError(f"two lanes have one name: {', '.join(lane.name for lane in found)}")

    def draw(figure, narrow):
        draw_lanes(figure, found, margin, columns=2 if narrow else 5)

    return picture(draw, title, alt, 0.42 * len(shown) + 1.3, shows=shown)


def draw_lanes(figure, shown, margin=0.04, columns=5):
    """Draw Lanes on a matplotlib Figure, and below them, in columns, what their colours mean."""
    clients = [lane for lane in shown if not lane.is_server]
    start, end = min(lane.start for lane in clients), max(lane.end for lane in clients)
    space = margin * (end - start)
    axes = figure.subplots()
    legend = {}  # label: handle, of what must be explained
    for place, lane in enumerate(shown):
        axes.text(start - space, -place + 0.2, lane.name, va="bottom", fontweight="bold")
        _draw_lane(axes, -place, lane, legend)
    axes.set(xlim=(start - space, end + space), ylim=(0.4 - len(shown), 0.75))
    axes.set(yticks=[], xlabel="seconds")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    figure.legend(
        handles=legend.values(),
        loc="outside lower center",
        ncols=min(len(legend), columns),
        columnspacing=1,
        handletextpad=0.5,
    )


def _draw_lane(axes, y, lane, legend):
    """Draw a thin line for a client, a thick dark one for a thread; over it bars and marks."""
    axes.plot(
        [lane.start, lane.end], [y, y], color=INK, lw=5 if lane.is_server else 1,
        solid_capstyle="butt", zorder=1,
    )  # fmt: skip
    for bar in lane.bars:
        color = COLORS[bar.what]
        if lane.is_server:
            axes.barh(y, bar.end - bar.start, left=bar.start, height=0.32, color=color, zorder=2)
            legend.setdefault(bar.what, Patch(color=color, label=bar.what))
        else:
            style = {"color": color, "lw": 4, "solid_capstyle": "butt", "label": bar.what}
            (line,) = axes.plot([bar.start, bar.end], [y, y], zorder=2, **style)
            legend.setdefault(bar.what, line)
        axes.text(bar.end, y + 0.2, bar.words, ha="right", va="bottom")
    for when, what in lane.marks:
        words, marker, color = MARKS[what]
        style = {"color": color, "marker": marker, "ls": "", "ms": 7, "mew": 1.5}
        axes.plot([when], [y], zorder=3, clip_on=False, **style)
        legend.setdefault(words, Line2D([], [], label=words, **style))


KINDS = {"ok": "good", "ends": "good", "n/a": "none"}
# What a phone shows instead of the word, where a matrix has many columns.
SIGNS = {
    "ok": "✓", "ends": "▪", "dead": "†", "frozen": "∗", "spinning": "↻", "leaking": "◔",
    "wrong": "≠", "n/a": "–",
}  # fmt: skip


def pill(word, kind, sign="", title=""):
    """Make the HTML of a verdict.

    kind: good, warn, bad or none. sign: what a phone may show instead. title: what a pointer that
    rests on it is told.
    """
    sign = f'data-sign="{sign}" ' if sign else ""
    title = f'title="{html.escape(title)}" ' if title else ""
    return f'<span {sign}{title}class="lab-pill lab-{kind}">{html.escape(word)}</span>'


def matrix(verdicts, rows=None, columns=None):
    """Make the survival matrix: verdicts as matrix.survey() gives them, linked to their chapters.

    A matrix of many columns shows signs where the page is narrow, and explains them below.
    """
    rows, columns = rows or ROWS, columns or COLUMNS
    header = ["the client", *(HTML(link(c.chapter, c.label)) for c in columns)]
    signs = SIGNS if len(columns) > 4 else {}

    def cell(row, column):
        word = verdicts[row.name, column.label].word
        title = f"{row.name} against {column.label}: {word}"
        shown = pill(word, KINDS.get(word, "bad"), signs.get(word, ""), title)
        chapter = None if word in KINDS else EXPLAINED_IN.get(row.name)
        return HTML(link(chapter, shown) if chapter else shown)

    cells = [[row.name, *(cell(row, column) for column in columns)] for row in rows]
    if not signs:
        return table(header, cells)
    words = {verdict.word for verdict in verdicts.values()}
    legend = " · ".join(f"{sign}&nbsp;{word}" for word, sign in signs.items() if word in words)
    wide = table(header, cells, kind="matrix").data
    return HTML(
        f'<div class="lab-wide" style="--columns: {len(columns)}">{wide}'
        f'<p class="lab-signs">{legend}</p></div>'
    )


def link(chapter, inside, anchor=""):
    """Make an HTML link to a chapter; when the book is built, `.ipynb` in it becomes `.html`."""
    anchor = f"#{anchor}" if anchor else ""
    return f'<a href="{chapter}.ipynb{anchor}">{inside}</a>'
