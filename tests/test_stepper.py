"""The stepper's drawing: what a step shows is what its frame says, readable without a style."""

import configparser
import gzip
import html
import json
import re
from dataclasses import replace

import pytest
from test_show import contrast

import lab
from _press.execute import SANITISE
from conftest import BOOK
from lab import frames, show, stepper
from lab.frames import Connection, Frame, Registered, Thread, View, Waiting
from lab.recorder import Client, Event, Recording
from survive.awkward import plain_get

LEVEL = BOOK.parent / "code" / "04_level_triggered.py"
RUNS = (Thread("server", "runs"),)
LISTENER = Registered("listener", 3, "IN", False)
FIRST = Registered("first", 5, "IN|ET", True)
VIEW = View(
    threads=RUNS,
    waiting=1,
    limit=5,
    queue=(Waiting("second", 18),),
    connections=(Connection("first", 5, "ESTABLISHED", 7, 4_000),),
    interest=(LISTENER, FIRST),
)
SOURCE = '''"""A server."""
import socket

ANSWER = b"hello"


class Loop:
    """It goes round."""

    def serve(self):
        while True:  # for ever
            self.poll()

    def poll(self):
        return "<polled>"

    def never(self):
        pass


def main():
    """Begin."""
    Loop().serve()


def stop():
    pass
'''.splitlines()


def plain(drawn):
    """What a drawing says to somebody who sees no style: its text, with a space between pieces."""
    text = re.sub(r"<[^>]+>", " ", getattr(drawn, "data", drawn))
    return " ".join(html.unescape(text).split())


def frame(when, view=VIEW, line=11, trail=(), actor="server"):
    is_client = line is None
    return Frame(when, actor, is_client, line, trail, "poll(1) …", "It sleeps.", view)


FRAMES = [frame(0.0), frame(0.1, line=None, actor="first"), frame(0.1001, line=15, trail=(12,))]
CLIENT = Client("first", 9, [Event(0.0, "connected", 0), Event(0.1, "sent", 18)])


def data_of(found, source=SOURCE):
    lanes = [show._client_lane(CLIENT), *stepper.thread_lanes(found)]
    return stepper.as_data(found, lanes, source)


def lists(view, before=None):
    return stepper.panels(view, before)["lists"]


# One View.


def test_a_view_says_all_that_is_known_in_words():
    said = plain(stepper.draw_view(VIEW))
    assert "the server runs" in said
    assert "accept queue 1 waits ; room for 6 second 18 unread" in said.replace("waits;", "waits ;")
    assert "3 listener IN 5 first IN| ET ESTABLISHED · 7 unread · 4,000 unsent first" in said


def test_an_entry_stands_on_the_ready_list_only_if_it_is_ready():
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", lists(VIEW))
    assert [plain(ready) for _, ready in rows] == ["", "first"]


def test_the_lists_are_in_the_order_of_descriptors():
    view = replace(VIEW, interest=(FIRST, LISTENER))
    assert lists(view) == lists(VIEW)


def test_without_an_epoll_object_no_list_is_drawn_and_connections_stand_by_themselves():
    drawn = stepper.panels(replace(VIEW, interest=None))
    assert drawn["lists"] == ""
    assert plain(drawn["others"]).startswith("connections 5 first ESTABLISHED")
    assert "ready list" not in plain(stepper.draw_view(replace(VIEW, interest=None)))


def test_an_empty_interest_list_is_said_to_be_empty():
    assert plain(lists(replace(VIEW, interest=()))).endswith("empty")


def test_what_no_list_has_stands_apart_with_its_state():
    gone = Connection("gone", None, "TIME-WAIT", 0, 0)
    drawn = stepper.panels(replace(VIEW, connections=(*VIEW.connections, gone)))
    assert plain(drawn["others"]).startswith("on no interest list closed gone TIME-WAIT")
    assert "first" not in plain(drawn["others"]) and "gone" not in plain(drawn["lists"])
    assert stepper.panels(VIEW)["others"] == ""


@pytest.mark.parametrize(
    ("view", "panel", "said"),
    [
        (replace(VIEW, waiting=None), "queue", "accept queue not measured"),
        (replace(VIEW, interest=(FIRST._replace(ready=None),)), "lists", "not measured"),
        (replace(VIEW, connections=(Connection("a", 9, "CLOSE", None, None),)), "others",
         "unread: not measured · unsent: not measured"),
        (replace(VIEW, queue=(Waiting("", None),)), "queue", "? unread: not measured"),
    ],
)  # fmt: skip
def test_what_is_not_measured_is_said_and_never_drawn_as_nothing(view, panel, said):
    assert said in plain(stepper.panels(view)[panel])


def test_who_waits_unknown_is_a_question_mark_each():
    said = plain(stepper.panels(replace(VIEW, waiting=3, queue=None))["queue"])
    assert said == "accept queue 3 wait; room for 6 ? ? ? free free free"
    said = plain(stepper.panels(replace(VIEW, waiting=2))["queue"])
    assert said == "accept queue 2 wait; room for 6 second 18 unread ? free free free free"


def test_free_places_are_drawn_where_they_are_few():
    places = [
        stepper.panels(replace(VIEW, limit=limit))["queue"].count("lab-free") for limit in (0, 5)
    ]
    assert places == [0, 5]
    assert "lab-free" not in stepper.panels(replace(VIEW, limit=128))["queue"]
    nobody = stepper.panels(replace(VIEW, waiting=0, queue=()))["queue"]
    assert "nobody waits; room for 6" in plain(nobody)


def test_of_a_long_queue_the_first_are_drawn_and_the_others_counted():
    clients = tuple(Waiting(f"client {n}", 0) for n in range(40))
    drawn = stepper.panels(replace(VIEW, waiting=40, limit=128, queue=clients))["queue"]
    assert "client 11" in drawn and "client 12" not in drawn
    assert plain(drawn).startswith("accept queue 40 wait; room for 129 client 0")
    assert plain(drawn).endswith("and 28 more")


def test_of_several_threads_each_has_its_name():
    view = replace(VIEW, threads=(Thread("main", "asleep in poll"), Thread("thread 1", "runs")))
    drawn = stepper.panels(view)["threads"]
    assert plain(drawn) == "threads main asleep in poll thread 1 runs"
    assert "lab-asleep" in drawn and "lab-runs" in drawn


def test_names_and_masks_are_escaped():
    view = View(
        threads=(Thread("<t>", "<d>"), Thread("b", "runs")),
        waiting=1,
        queue=(Waiting("<w>", 1),),
        connections=(Connection("<c>", 9, "<s>", 0, 0), Connection("<o>", None, "<s>", 0, 0)),
        interest=(Registered("<c>", 9, "<m>", True),),
    )
    empty = View(threads=view.threads, interest=())
    for drawn in (*stepper.panels(view).values(), *stepper.panels(empty, view).values()):
        assert not re.search(r"<[twcosmd]>", drawn), drawn


# What changes.


def marked(view, before, panel):
    return [plain(each) for each in re.findall(r"<mark>.*?</mark>", marks(view, before, panel))]


def marks(view, before, panel):
    return stepper.panels(view, before)[panel]


def crossed(view, before, panel):
    return re.findall("<del>(.*?)</del>", marks(view, before, panel))


def test_the_first_step_and_a_step_in_which_nothing_changes_have_no_marks():
    for before in (None, VIEW):
        assert not re.search("<mark>|<del>", "".join(stepper.panels(VIEW, before).values()))


def test_what_has_changed_is_marked_and_nothing_else():
    asleep = replace(VIEW, threads=(Thread("server", "asleep in poll"),))
    assert marked(asleep, VIEW, "threads") == ["asleep in poll"]
    read = replace(VIEW, connections=(VIEW.connections[0]._replace(unread=0),))
    assert marked(read, VIEW, "lists") == ["0 unread"]
    closes = replace(VIEW, connections=(VIEW.connections[0]._replace(state="CLOSE-WAIT"),))
    assert marked(closes, VIEW, "lists") == ["CLOSE-WAIT"]
    modified = replace(VIEW, interest=(LISTENER, FIRST._replace(mask="OUT")))
    assert marked(modified, VIEW, "lists") == ["OUT"]
    told = replace(VIEW, interest=(LISTENER._replace(ready=True), FIRST))
    assert marked(told, VIEW, "lists") == ["listener"]
    registered = replace(VIEW, interest=(*VIEW.interest, Registered("new", 8, "IN", False)))
    assert marked(registered, VIEW, "lists") == ["new"]
    waits = replace(VIEW, waiting=2, queue=(*VIEW.queue, Waiting("third", 0)))
    assert marked(waits, VIEW, "queue") == ["2 wait", "third"]


def test_what_has_gone_is_crossed_out_once():
    told = replace(VIEW, interest=(LISTENER, FIRST._replace(ready=False)))
    assert crossed(told, VIEW, "lists") == ["first"]
    assert crossed(told, told, "lists") == []
    unregistered = replace(VIEW, interest=(LISTENER,))
    assert crossed(unregistered, VIEW, "lists") == ["first", "first"]  # of both lists
    accepted = replace(VIEW, waiting=0, queue=())
    assert crossed(accepted, VIEW, "queue") == ["second"]
    assert crossed(replace(VIEW, waiting=0, queue=None), VIEW, "queue") == []


def test_a_connection_that_is_closed_keeps_its_name_and_loses_its_descriptor():
    closed = replace(
        VIEW,
        connections=(Connection("first", None, "FIN-WAIT-2", 7, 4_000),),
        interest=(LISTENER,),
    )
    assert marked(closed, VIEW, "others") == ["closed", "FIN-WAIT-2"]
    assert crossed(replace(closed, connections=()), closed, "others") == ["first"]


# Time.


def test_bent_time_keeps_the_order_and_gives_a_burst_room():
    burst = [0.5 + n * 0.0005 for n in range(20)]
    bend = stepper.Bend([0.0, *burst, 1.0], [])
    places = [bend(when) for when in (0.0, *burst, 1.0)]
    assert places == sorted(set(places)) and (places[0], places[-1]) == (0, 100)
    assert places[-2] - places[1] > 30, "it took 1% of the time"
    assert bend(-1) == 0 and bend(2) == 100
    assert places[0] < bend(0.2) < places[1]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.02341, "23.41 ms"), (1.5, "1.500 s"), (-0.0008, "-0.80 ms")]
)
def test_a_moment_in_words(seconds, said):
    assert stepper.moment(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0004, "0.4 ms"), (0.0234, "23 ms"), (2.04, "2.0 s")]
)
def test_a_length_in_words(seconds, said):
    assert stepper.length(seconds) == said


def test_a_threads_lane_has_the_sleeps_that_the_frames_tell_of():
    asleep = replace(VIEW, threads=(Thread("server", "asleep in poll"),))
    found = [
        frame(0.0), frame(1.0, asleep), frame(2.0, asleep), frame(3.0), frame(4.0, asleep),
        frame(5.0, replace(VIEW, threads=(*RUNS, Thread("thread 1", "asleep in get")))),
        frame(6.0, replace(VIEW, threads=(*RUNS, Thread("thread 1", "runs")))),
    ]  # fmt: skip
    server, worker = stepper.thread_lanes(found)
    assert [bar[:3] for bar in server.bars] == [
        (1, 3, "server asleep in poll"), (4, 5, "server asleep in poll"),
    ]  # fmt: skip
    assert (server.start, server.end, worker.start, worker.end) == (0, 6, 5, 6)
    assert [bar[:3] for bar in worker.bars] == [(5, 6, "server asleep in get")]


def test_lanes_say_how_long_a_sleep_was_and_what_their_marks_mean():
    asleep = replace(VIEW, threads=(Thread("server", "asleep in poll"),))
    page = data_of([frame(0.0), frame(0.05, asleep), frame(0.09)])["page"]
    assert "asleep in poll, 40 ms" in plain(page)
    assert "connects sends asleep in poll time is bent" in plain(page)


# The source.


def shown(source, found):
    drawn = stepper.draw_source(source, found)
    return [int(each) for each in re.findall(r'data-line="(\d+)"', drawn)], drawn


def test_of_a_source_what_is_executed_is_shown_and_gaps_are_marked():
    lines, drawn = shown(SOURCE, FRAMES)
    assert lines == [10, 11, 12, 14, 15]
    assert drawn.count("lab-gap") == 1
    assert "&lt;polled&gt;" in drawn and "<polled>" not in drawn
    assert "A server." not in drawn


def test_of_the_end_of_every_file_what_comes_after_the_first_client_is_shown():
    before, late = frame(-0.1, line=23), frame(0.2, line=23)
    assert 23 not in shown(SOURCE, [before, *FRAMES])[0]
    assert shown(SOURCE, [*FRAMES, late])[0][-2:] == [21, 23]


def test_keywords_strings_and_comments_are_told_apart_and_nothing_is_lost():
    source = LEVEL.read_text(encoding="utf-8").splitlines()
    coloured = stepper.coloured(source)
    assert [html.unescape(re.sub("<[^>]+>", "", line)) for line in coloured] == source
    assert "<b>while</b> <b>True</b>:  <em># for ever</em>" in stepper.coloured(SOURCE)[10]


# The data.


def test_a_step_says_where_everybody_is():
    first, second, third = data_of(FRAMES)["steps"]
    assert [step["lane"] for step in (first, second, third)] == [1, 0, 1]
    assert (first["line"], first["rests"], first["call"]) == (11, [], True)
    assert (second["line"], second["rests"], second["call"]) == (None, [11], False)
    assert (third["line"], third["trail"], third["rests"]) == (15, [12], [])
    assert first["x"] < second["x"] < third["x"]
    assert [step["when"] for step in (first, third)] == ["at 0.00 ms", "at 100.10 ms"]


def test_equal_drawings_are_kept_once():
    data = data_of(FRAMES)
    assert len(data["fragments"]) == len(set(data["fragments"])) == 4
    assert all(step["shows"] == data["steps"][0]["shows"] for step in data["steps"])


def test_an_act_of_the_kernel_has_a_name():
    assert data_of([frame(0.0, line=None, actor="")])["steps"][0]["who"] == "the kernel"


def test_a_run_of_no_steps_is_refused():
    run = Recording("s.py", SOURCE, None, 2, [], [], [CLIENT], False)
    with pytest.raises(ValueError, match="no step in this run"):
        stepper.draw([], run, "title", "alt")


# The colours.

DARK = ':is([data-theme="dark"], [data-jp-theme-light="false"]) '


@pytest.mark.parametrize("dark", ["", DARK])
def test_each_colour_of_text_stands_out_from_each_ground_that_it_is_on(dark):
    """4.5 to 1, the least that WCAG's AA asks for."""
    styles = show.STYLESHEET.read_text(encoding="utf-8")
    between = ",\n" if dark else ", "
    rule = styles.partition(f"\n{dark}.lab-kernel{between}{dark}.lab-run")[2].partition("{")[2]
    colours = dict(re.findall(r"--lab-([a-z]+): (#[0-9a-f]{6})", rule.partition("}")[0]))
    grounds = [colours[name] for name in ("ground", "shade", "past")]
    set_off = [colours[name] for name in ("mark", "now")]
    for text in ("ink", "blue", "orange", "green", "violet", "red"):
        for ground in grounds + set_off:
            assert contrast(colours[text], ground) >= 4.5, (text, ground)
    assert all(contrast(colours["pale"], ground) >= 4.5 for ground in grounds)
    assert contrast(colours["ink"], colours["line"]) >= 4.5, "a descriptor's number"


# A recorded run.


@pytest.fixture(scope="module")
def recording():
    with lab.record(LEVEL, stepwise=True) as run:
        plain_get(run.connect("first </script>"), run.server)
        plain_get(run.connect("second"), run.server)
    return run.recording


@pytest.fixture(scope="module")
def picture(recording):
    return stepper.step_through(recording, "Who & whom", "An alternative")


def test_a_stepper_is_the_timeline_and_a_block_of_data(recording, picture):
    still = show.timeline(recording, "Who & whom", "An alternative")
    assert picture.data.startswith(still.data)
    assert picture.shows == still.shows and (picture.title, picture.alt) == (still.title, still.alt)
    assert len(picture.frames) > 30
    rest = picture.data.removeprefix(still.data)
    block = re.fullmatch(
        r'<div class="lab-steps"><script type="application/json">(.*)</script></div>', rest
    )
    assert "</" not in block[1] and json.loads(block[1]) == picture.run
    opened = stepper.step_through(recording, "a", "b", is_open=True)
    assert '<div class="lab-steps" data-open><script' in opened.data


def test_each_step_shows_what_its_frame_says(picture):
    fragments, before = picture.run["fragments"], None
    for frame, step in zip(picture.frames, picture.run["steps"], strict=True):
        drawn = stepper.panels(frame.view, before)
        assert [fragments[n] for n in step["shows"]] == [drawn[name] for name in stepper.PANELS]
        assert (
            html.unescape(step["says"]) == frame.says and html.unescape(step["code"]) == frame.code
        )
        assert step["line"] == frame.line
        before = frame.view
    places = [step["x"] for step in picture.run["steps"]]
    assert places == sorted(places) and 0 <= places[0] < places[-1] <= 100


def test_every_line_that_a_step_is_on_is_in_the_source(picture):
    there = {int(each) for each in re.findall(r'data-line="(\d+)"', picture.run["page"])}
    begun = [frame.is_client for frame in picture.frames].index(True)
    on = {frame.line for frame in picture.frames[begun:] if frame.line}
    assert on <= there and len(on) > 8


def test_a_run_is_small(picture):
    written = json.dumps(picture.run, ensure_ascii=False).encode()
    assert 2_000 < len(gzip.compress(written, 9)) < 8_000


def test_the_comparison_of_outputs_leaves_the_steps_alone(picture):
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(SANITISE, encoding="utf-8")
    page = picture.data
    for rule in rules.values():
        if "regex" in rule:
            page = re.sub(rule["regex"], rule["replace"], page)
    assert page.endswith('<div class="lab-steps">STEPS</div>') and "Who &amp; whom" in page


def test_frames_of_a_run_that_was_not_recorded_step_by_step_are_refused():
    with lab.record(LEVEL) as run:
        plain_get(run.connect("only"), run.server)
    with pytest.raises(ValueError):
        frames.frames(run.recording)


def test_a_switch_holds_its_runs_and_shows_what_each_shows(recording):
    one = stepper.step_through(recording, "a", "b")
    made = stepper.switch('the "mode"', {"<this>": one, "that": one})
    assert made.data.count('<div class="lab-steps">') == 2
    assert (
        'data-label="&lt;this&gt;"' in made.data and 'data-name="the &quot;mode&quot;"' in made.data
    )
    assert made.shows == {"<this>": one.shows, "that": one.shows}


def test_a_run_is_summed_up_without_its_times(recording):
    one = stepper.step_through(recording, "a", "b")
    later = [replace(frame, when=frame.when + 1, trail=()) for frame in one.frames]
    same = stepper.draw(later, recording, "a", "b")
    assert repr(one) == repr(same) and repr(one).startswith(f"{len(one.frames)} steps, ")
    other = stepper.draw([*later[:-1], replace(later[-1], code="leaves")], recording, "a", "b")
    assert repr(other) != repr(one)


def test_the_view_after_a_step(recording):
    one = stepper.step_through(recording, "a", "b")
    assert one.view("second sends 18 bytes").connections[1].unread == 18
    with pytest.raises(ValueError, match="no step 'nobody comes'; there are .'listener.listen"):
        one.view("nobody comes")
