"""The stepper: a recorded run, one step after another, with the kernel drawn beside the source.

Python draws, and the script in book/_static/stepper.js only moves: everything that a step shows is
made here, as HTML, and goes with the still picture as one block of JSON. A viewer that runs no
script, or trusts none, drops the block and shows the picture alone.

A panel of the kernel looks the same in most steps. So its distinct drawings are kept once each, as
fragments, and a step names the fragments that it shows by their numbers.

The same panels, still, are what draw_view() draws of one View.
"""

import ast
import html
import io
import json
import keyword
import math
import tokenize
import zlib
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise

from IPython.display import HTML

from . import frames, show
from .frames import View

PANELS = ("threads", "queue", "lists", "others")
NOT_MEASURED = '<span class="lab-not">not measured</span>'
MOST_SLOTS = 8  # free places of a queue with more room are not drawn
MOST_WAITING = 12  # and of a longer queue, not everybody who stands in it
HINT = (
    "Keys: <kbd>←</kbd> <kbd>→</kbd> step, <kbd>n</kbd> the server’s next call, "
    "<kbd>space</kbd> plays, <kbd>Home</kbd> and <kbd>End</kbd>."
)


def step_through(recording, title, alt, margin=0.04, is_open=False):
    """Draw a recorded run that a reader can step through; returns a Stepped picture.

    recording, title, alt, margin: as show.timeline takes them. is_open: whether the panel is open
    before anybody has used it.
    """
    return draw(frames.frames(recording), recording, title, alt, margin, is_open)


def draw(found, recording, title, alt, margin=0.04, is_open=False):
    """Do what step_through() does with Frames that are there. Raises ValueError for none."""
    if not found:
        raise ValueError("there is no step in this run")
    still = show.timeline(recording, title, alt, margin)
    lanes = [lane for lane in still.shows.values() if not lane.is_server] + thread_lanes(found)
    run = as_data(found, lanes, recording.source, title, alt)
    written = json.dumps(run, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    page = (
        f'{still.data}<div class="lab-steps"{" data-open" if is_open else ""}>'
        f'<script type="application/json">{written}</script></div>'
    )
    return Stepped(page, still, found, run)


class Stepped(show.Picture):
    """A picture of a run with its steps.

    shows: {name: Lane}, as the timeline's. frames: the Frames. run: what the page's script gets.
    """

    def __init__(self, data, still, found, run):
        super().__init__(data, still.title, still.alt, still.shows)
        self.frames, self.run = found, run

    def __repr__(self):
        """Say how many steps there are, and sum them up: this text is stored beside each run, and
        compared, so that a run that goes another way is found out. Where several threads run, what
        a busy machine does to their order is no news.
        """
        threads = {name for frame in self.frames for name, _ in frame.view.threads}
        if len(threads) > 1:
            return f"steps of {len(threads)} threads"
        parts = [(f.actor, f.code, f.view.connections, f.view.interest) for f in self.frames]
        return f"{len(parts)} steps, {zlib.crc32(repr(parts).encode()):08x}"

    def view(self, code):
        """Return the View after the first step of some code: "third sends 18 bytes".

        Raises ValueError with the codes that there are.
        """
        for frame in self.frames:
            if frame.code == code:
                return frame.view
        raise ValueError(f"no step {code!r}; there are {[frame.code for frame in self.frames]}")


def switch(name, pictures):
    """Draw several Stepped pictures, one of which is to be seen at a time; returns a Picture.

    name: what is switched, "the mask". pictures: {label: picture}. It shows {label: what that
    shows}. Where no script runs, they stand one below the other.
    """
    cases = "".join(
        f'<div class="lab-case" data-label="{html.escape(label)}">{picture.data}</div>'
        for label, picture in pictures.items()
    )
    page = f'<div class="lab-switch" data-name="{html.escape(name)}">{cases}</div>'
    shows = {label: picture.shows for label, picture in pictures.items()}
    return show.Picture(page, name, ", ".join(pictures), shows)


def draw_view(view):
    """Draw one View: the threads, the accept queue, the two lists, other connections. HTML."""
    return HTML(f'<div class="lab-kernel">{_panels(panels(view))}</div>')


def as_data(found, lanes, source, title="", alt=""):
    """Return what the script needs to show the steps, as JSON has it.

    page: the panel's HTML, without what changes. fragments: the distinct drawings of the kernel's
    panels. steps: a dict each; see _step.
    """
    bend = Bend([frame.when for frame in found], lanes)
    places = {lane.name: place for place, lane in enumerate(lanes)}
    fragments, steps = {}, []
    for number, frame in enumerate(found):
        drawn = panels(frame.view, found[number - 1].view if number else None)
        shown = [fragments.setdefault(drawn[name], len(fragments)) for name in PANELS]
        steps.append(_step(found, number, bend, places) | {"shows": shown})
    page = _page(title, len(steps), draw_lanes(lanes, bend, alt), draw_source(source, found))
    return {"page": page, "fragments": list(fragments), "steps": steps}


def _step(found, number, bend, places):
    """Return one step as the script has it, but for "shows": the number of each panel's fragment.

    x: the cursor's place, in percent. lane: the number of the actor's. when: the time, in words.
    line: where the acting thread is; trail: how it came there; rests: where the others are. call:
    is it the server's doing?
    """
    frame = found[number]
    at = {each.actor: each.line for each in found[: number + 1] if not each.is_client}
    rests = {at[name] for name in at if at[name] and (name != frame.actor or frame.is_client)}
    return {
        "x": bend(frame.when),
        "lane": places.get(frame.actor),
        "when": f"at {moment(frame.when)}",
        "who": html.escape(frame.actor or "the kernel"),
        "line": frame.line,
        "rests": sorted(rests - {frame.line}),
        "trail": sorted(set(frame.trail) - {frame.line}),
        "code": html.escape(frame.code),
        "says": html.escape(frame.says),
        "call": bool(frame.line),
    }


def _page(title, count, lanes, source):
    """Return the HTML of the panel, in which the script puts what a step shows.

    A click anywhere in it lets it have the keys; JupyterLab's shortcuts then stand back.
    """
    return (
        '<div class="lab-run" tabindex="-1" data-lm-suppress-shortcuts="true" role="group" '
        f'aria-label="Step by step: {html.escape(title)}"><div class="lab-lanes">{lanes}</div>'
        '<div class="lab-stays"><div class="lab-strip">'
        '<button type="button" data-do="play" class="lab-play">Play</button>'
        '<button type="button" data-do="back" aria-label="one step back">‹</button>'
        f'<input type="range" min="0" max="{count - 1}" value="0" step="1" aria-label="step">'
        '<button type="button" data-do="on" aria-label="one step on">›</button>'
        '<button type="button" data-do="call" class="lab-later">Next call</button>'
        '<button type="button" data-do="close" class="lab-later">Close</button>'
        f'<span class="lab-count">step 1 of {count}</span></div>'
        '<div class="lab-told"><p class="lab-did"><b></b> <time></time> <code></code></p>'
        '<p class="lab-says" aria-live="polite" aria-atomic="true"></p></div></div>'
        f'<div class="lab-beside"><div class="lab-kernel">{_panels()}</div>'
        '<div class="lab-source" tabindex="0" role="group" aria-label="the server’s source">'
        f'{source}</div></div><p class="lab-keys">{HINT}</p></div>'
    )


# Time. Twenty calls in a row take less than a millisecond, and a sleep takes a second: on an even
# axis all of the former fall on one spot. So time is bent: a gap counts by its logarithm.

SHORT = 1e-3  # seconds: gaps shorter than this are drawn true to each other, or nearly


class Bend:
    """Says where a moment of a run is drawn: from 0 at its begin to 100 at its end."""

    def __init__(self, moments, lanes):
        moments = set(moments)
        for lane in lanes:
            moments |= {lane.start, lane.end, *(when for when, _ in lane.marks)}
            moments |= {when for bar in lane.bars for when in (bar.start, bar.end)}
        self.moments, self.places = sorted(moments), [0.0]
        for one, other in pairwise(self.moments):
            self.places.append(self.places[-1] + math.log1p((other - one) / SHORT))

    def __call__(self, when):
        """Return the place of a moment, in percent; between two known ones it is interpolated."""
        after = min(bisect_right(self.moments, when), len(self.moments) - 1)
        if not after:
            return 0.0
        one, other = self.moments[after - 1 : after + 1]
        left, right = self.places[after - 1 : after + 1]
        share = min(max((when - one) / (other - one), 0), 1)
        return round(100 * (left + share * (right - left)) / self.places[-1], 2)


def moment(seconds):
    """Say when something was: "23.41 ms", or in seconds from one second on."""
    return f"{seconds:.3f} s" if abs(seconds) >= 1 else f"{1000 * seconds:.2f} ms"


def length(seconds):
    """Say how long something took, in two or three figures."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"


def thread_lanes(found):
    """Return the Lane of each thread of the server, with the sleeps that the Frames tell of."""
    lanes = {}
    for frame, following in pairwise([*found, found[-1]]):
        for name, doing in frame.view.threads:
            new = show.Lane(name, frame.when, frame.when, [], [], is_server=True)
            lane = lanes.setdefault(name, new)
            lane.end = following.when
            if not doing.startswith("asleep in "):
                continue
            bar = show.Bar(frame.when, following.when, f"server {doing}")
            if lane.bars and lane.bars[-1].end == bar.start and lane.bars[-1].what == bar.what:
                bar = lane.bars.pop()._replace(end=bar.end)
            lane.bars.append(bar)
    return list(lanes.values())


def draw_lanes(lanes, bend, alt=""):
    """Draw Lanes as HTML, on bent time, with a cursor and the meaning of their marks below."""
    rows = "".join(_lane(lane, bend) for lane in lanes)
    occur = {what: show.MARKS[what][0] for lane in lanes for _, what in lane.marks}
    bars = {bar.what: bar.what.removeprefix("server ") for lane in lanes for bar in lane.bars}
    keys = "".join(
        f'<span><i class="{kind} lab-{_kind(what)}"></i> {words}</span>'
        for kind, known in (("lab-mark", occur), ("lab-bar", bars))
        for what, words in known.items()
    )
    return (
        f'<div class="lab-tracks" role="img" aria-label="{html.escape(alt)}">{rows}'
        '<div class="lab-over"><i class="lab-cursor"></i></div></div>'
        f'<p class="lab-legend">{keys}<span>time is bent: short gaps are stretched</span></p>'
    )


def _kind(what):
    """Return the class of what fills a time, or of what happens at a moment."""
    return what.removeprefix("server asleep ").replace(" ", "-")


def _lane(lane, bend):
    """Draw one Lane: its life, what fills its time, and what happens in it."""
    inside = f'<i class="lab-life" style="{_from_to(lane.start, lane.end, bend)}"></i>'
    for bar in lane.bars:
        took = length(bar.end - bar.start)
        words = f"<small><span>{html.escape(bar.words or bar.what.removeprefix('server '))}, "
        inside += (
            f'<i class="lab-bar lab-{_kind(bar.what)}" style="{_from_to(bar.start, bar.end, bend)}"'
            f' title="{bar.what}, {took}">{words}</span>{took}</small></i>'
        )
    for when, what in lane.marks:
        inside += (
            f'<i class="lab-mark lab-{_kind(what)}" style="left:{bend(when)}%" '
            f'title="{show.MARKS[what][0]}, {moment(when)}"></i>'
        )
    kind = "lab-lane lab-thread" if lane.is_server else "lab-lane"
    name = html.escape(lane.name)
    return f'<div class="{kind}"><b>{name}</b><div class="lab-track">{inside}</div></div>'


def _from_to(start, end, bend):
    """Return the style of what reaches from one moment to another."""
    left = bend(start)
    return f"left:{left}%;width:{max(bend(end) - left, 0):.2f}%"


# The source.

SAME = ("main", "stop", "complain")  # in every file


def draw_source(source, found):
    """Draw the lines of a server's file, those functions of it in which something is executed.

    A gap is marked. Of what ends every file, those lines alone are shown that the server comes to
    after its first client.
    """
    begun = min((frame.when for frame in found if frame.is_client), default=0)
    known = {line for frame in found for line in (frame.line, *frame.trail) if line}
    late = {frame.line for frame in found if frame.line and frame.when >= begun}
    shown = set()
    for part in _functions(ast.parse("\n".join(source))):
        first = min([part, *part.decorator_list], key=lambda node: node.lineno).lineno
        lines = set(range(first, part.end_lineno + 1))
        if part.name in SAME:
            shown |= {part.lineno, *lines & late} if lines & late else set()
        elif lines & known:
            shown |= lines
    drawn, last, text = [], 0, coloured(source)
    for number in sorted(shown):
        if last and number > last + 1:
            drawn.append('<span class="lab-gap">⋯</span>')
        drawn.append(
            f'<span class="lab-line" data-line="{number}"><i>{number}</i>{text[number - 1]}</span>'
        )
        last = number
    return f"<pre>{''.join(drawn)}</pre>"


def _functions(tree):
    """Yield the functions of a module, and the methods of its classes; none within a function."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node)
        elif isinstance(node, ast.FunctionDef):
            yield node


def coloured(source):
    """Return the lines of a source as HTML, with keywords, strings and comments told apart."""
    marks = {}  # line: [(from, to, tag)]
    for token in tokenize.generate_tokens(io.StringIO("\n".join(source) + "\n").readline):
        tag = {tokenize.COMMENT: "em", tokenize.STRING: "s"}.get(token.type)
        if token.type == tokenize.NAME and keyword.iskeyword(token.string):
            tag = "b"
        for line in range(token.start[0], token.end[0] + 1) if tag else ():
            start = token.start[1] if line == token.start[0] else 0
            end = token.end[1] if line == token.end[0] else len(source[line - 1])
            marks.setdefault(line, []).append((start, end, tag))
    return [_marked(text, marks.get(number, ())) for number, text in enumerate(source, 1)]


def _marked(text, marks):
    """Return a line as HTML with tags about its marked parts."""
    done, at = "", 0
    for start, end, tag in marks:
        done += f"{html.escape(text[at:start])}<{tag}>{html.escape(text[start:end])}</{tag}>"
        at = end
    return done + html.escape(text[at:])


# The kernel.


def panels(view, before=None):
    """Draw a View's panels: {name: HTML}, "" of one that has nothing to show.

    before: the View of the step before. What has changed since is marked, and what has gone is
    crossed out.
    """
    change = Change(view, before)
    return {
        "threads": _threads(change),
        "queue": _queue(change),
        "lists": _lists(change),
        "others": _others(change),
    }


def _panels(drawn=None):
    """Return the boxes of the panels, filled or empty."""
    drawn = drawn or dict.fromkeys(PANELS, "")
    return "".join(f'<div class="lab-panel lab-{name}">{drawn[name]}</div>' for name in PANELS)


@dataclass
class Change:
    """A View, and the View of the step before; the first step's has none, and marks nothing."""

    now: View
    then: View | None
    has: dict = field(init=False)  # a connection's key: the Connection
    had: dict = field(init=False)

    def __post_init__(self):
        self.has = {_key(each): each for each in self.now.connections}
        self.had = {_key(each): each for each in self.then.connections} if self.then else {}

    def mark(self, text, old, new):
        """Return HTML, marked if what it says is not what it said in the step before."""
        return f"<mark>{text}</mark>" if self.then and old != new else text

    def gone(self, what, key):
        """Return what the step before had in a part of its View, and this one no longer has."""
        has = {key(each) for each in getattr(self.now, what) or ()}
        return [each for each in getattr(self.then, what, None) or () if key(each) not in has]


def _key(each):
    """Return what tells a connection from others: it keeps its name, but not its descriptor."""
    return each.name or each.fd


def _head(name, words=""):
    words = f" <small>{words}</small>" if words else ""
    return f'<p class="lab-head"><b>{name}</b>{words}</p>'


def _threads(change):
    """Draw what each thread does: a full dot for one that runs, an empty one for a sleeper."""
    was = {each.name: each.doing for each in change.then.threads} if change.then else {}
    items = []
    for each in change.now.threads:
        kind = {"runs": "runs", "has ended": "ended"}.get(each.doing, "asleep")
        doing = change.mark(html.escape(each.doing), was.get(each.name), each.doing)
        items.append((each.name, f'<span class="lab-doing lab-{kind}">{doing}</span>'))
    if len(items) == 1:
        return f'<p class="lab-head"><b>the server</b> {items[0][1]}</p>'
    rows = "".join(f"<li><b>{html.escape(name)}</b> {doing}</li>" for name, doing in items)
    return f"{_head('threads')}<ul>{rows}</ul>"


def _queue(change):
    """Draw the accept queue: who waits in it, in order, and the room that is left."""
    view, then = change.now, change.then
    if view.waiting is None:
        return _head("accept queue") + f"<p>{NOT_MEASURED}</p>"
    room = view.limit + 1
    wait = {0: "nobody waits", 1: "1 waits"}.get(view.waiting, f"{view.waiting} wait")
    said = change.mark(wait, then and then.waiting, view.waiting) + f"; room for {room:,}"
    items = _waiting(change)
    if len(items) > MOST_WAITING:
        more = len(items) - MOST_WAITING
        items[MOST_WAITING:] = [f'<li class="lab-free">and {more} more</li>']
    if view.queue is not None:
        left = change.gone("queue", lambda one: one.name)
        items += [f'<li class="lab-free">{_del(each)}</li>' for each in left]
    if room <= MOST_SLOTS:
        items += ['<li class="lab-free">free</li>'] * (room - len(items))
    return _head("accept queue", said) + (f"<ul>{''.join(items)}</ul>" if items else "")


def _waiting(change):
    """Draw everybody who waits in the accept queue; a question mark is somebody unknown."""
    view, then = change.now, change.then
    unread = {each.name: each.unread for each in (then.queue or () if then else ())}
    items = []
    for each in view.queue or ():
        name = f"<b>{html.escape(each.name) or '?'}</b>"
        name = change.mark(name, each.name in unread, True) if each.name else name
        bytes_ = _bytes(change, "unread", unread.get(each.name, each.unread), each.unread)
        items.append(f"<li>{name} {bytes_}</li>")
    return items + ["<li><b>?</b></li>"] * (view.waiting - len(items))


def _bytes(change, kind, old, new):
    """Say how many bytes are unread, or unsent; any are set off, none are pale."""
    if new is None:
        return f'<span class="lab-zero">{kind}: {NOT_MEASURED}</span>'
    words = f'<span class="lab-{kind if new else "zero"}">{new:,} {kind}</span>'
    return change.mark(words, old, new)


def _details(change, new):
    """Say what is known of a Connection: its state, and the bytes in its queues."""
    old = change.had.get(_key(new))
    old_of = (old.state, old.unread, old.unsent) if old else (None, new.unread, new.unsent)
    state = f'<span class="lab-state">{html.escape(new.state)}</span>'
    said = [change.mark(state, old_of[0], new.state)]
    if new.state != "gone":
        said.append(_bytes(change, "unread", old_of[1], new.unread))
        said.append(_bytes(change, "unsent", old_of[2], new.unsent))
    return " · ".join(said)


def _descriptor(fd):
    return '<span class="lab-shut">closed</span>' if fd is None else f'<b class="lab-fd">{fd}</b>'


def _lists(change):
    """Draw the interest list, and beside each entry whether it is on the ready list as well.

    The order in which the kernel has the ready list is not known; so each stands by its entry.
    """
    view = change.now
    if view.interest is None:
        return ""
    before = (change.then.interest if change.then else None) or ()
    was = {(each.name, each.fd): each for each in before}
    entries = sorted(view.interest, key=lambda each: each.fd)
    rows = [_entry(change, each, was.get((each.name, each.fd))) for each in entries]
    rows += [
        f"<tr><td>{_descriptor(each.fd)} <del>{html.escape(each.name)}</del></td>"
        f"<td>{_del(each) if each.ready else ''}</td></tr>"
        for each in change.gone("interest", lambda one: (one.name, one.fd))
    ]
    rows = rows or ['<tr><td><span class="lab-not">empty</span></td><td></td></tr>']
    return (
        '<table class="lab-two"><thead><tr>'
        "<th><b>interest list</b> <small>what epoll watches</small></th>"
        "<th><b>ready list</b> <small>what poll would report</small></th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _del(each):
    return f"<del>{html.escape(each.name) or '?'}</del>"


def _entry(change, entry, old):
    """Draw a row of the two lists."""
    name = change.mark(f"<b>{html.escape(entry.name)}</b>", bool(old), True)
    mask = html.escape(entry.mask or "nothing").replace("|", "|<wbr>")
    mask = change.mark(f"<code>{mask}</code>", old.mask if old else entry.mask, entry.mask)
    connection = change.has.get(_key(entry))
    details = _details(change, connection) if connection else ""
    ready = {True: f'<b class="lab-ready">{html.escape(entry.name)}</b>', None: NOT_MEASURED}
    cell = change.mark(ready.get(entry.ready, ""), bool(old and old.ready), bool(entry.ready))
    if old and old.ready and entry.ready is False:
        cell = _del(entry)
    details = f"<br><small>{details}</small>" if details else ""
    return f"<tr><td>{_descriptor(entry.fd)} {name} {mask}{details}</td><td>{cell}</td></tr>"


def _others(change):
    """Draw the connections on no interest list: a server's without epoll, and closed ones."""
    watched = {_key(each) for each in change.now.interest or ()}
    rows = [_other(change, each) for each in change.now.connections if _key(each) not in watched]
    rows += [f"<li>{_del(each)}</li>" for each in change.gone("connections", _key)]
    head = "connections" if change.now.interest is None else "on no interest list"
    return _head(head) + f"<ul>{''.join(rows)}</ul>" if rows else ""


def _other(change, each):
    """Draw a connection that no interest list has."""
    old = change.had.get(_key(each))
    fd = change.mark(_descriptor(each.fd), old.fd if old else each.fd, each.fd)
    name = change.mark(f"<b>{html.escape(each.name)}</b>", bool(old), True)
    return f"<li>{fd} {name}<br><small>{_details(change, each)}</small></li>"
