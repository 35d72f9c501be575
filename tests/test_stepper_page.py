"""The stepper on a page: what a reader does to it in Chromium, where there is one."""

import pytest
from test_site import CHROMIUM, FACTS, THEMES, measured

import lab
from conftest import BOOK
from lab import show, stepper
from lab.frames import Connection, Registered, Thread, View, Waiting
from survive.awkward import plain_get

USES = FACTS.with_name("stepper_page.js")
WIDTHS = (360, 768, 1440)
# As the site's pages have it: an article in the middle, on the theme's ground.
PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>A page</title>
<link rel="stylesheet" href="book.css"><style>
body {{ margin: 0 14px }} html[data-theme=dark] body {{ background: #121212; color: #ced6dd }}
</style><script>
errors = []; turned = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
document.addEventListener("keydown", (event) => turned.push(event.key));
</script><script src="stepper.js"></script><script src="stepper.js"></script></head><body>
<main class="bd-main"><div class="bd-content"><article class="bd-article">
{steppers}{still}{choice}</article></div></main></body></html>"""


# As wide as it gets: a long name, a long mask, many bytes, and what is not measured.
WIDEST = View(
    threads=(Thread("main thread", "asleep in poll"), Thread("thread 1", "asleep in get")),
    waiting=2,
    limit=5,
    queue=(Waiting("a client with quite a long name", 12_345_678), Waiting("", None)),
    connections=(
        Connection("a client with a long name", 1023, "CLOSE-WAIT", 12_345_678, 12_345_678),
        Connection("gone", None, "FIN-WAIT-2", None, None),
    ),
    interest=(
        Registered("a client with a long name", 1023, "IN|OUT|RDHUP|ERR|HUP|ET|ONESHOT", True),
        Registered("another", 1024, "ONESHOT", None),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a page of steppers: two are closed, one is open at once, two take turns."""
    with lab.record(BOOK.parent / "code" / "04_level_triggered.py", stepwise=True) as run:
        silent = run.connect("a silent client with a long name")
        lab.at_rest(run.server, sockets=2)
        plain_get(run.connect("second"), run.server)
        plain_get(silent, run.server)
    with lab.record(BOOK.parent / "code" / "02_request_loop.py", stepwise=True) as blocking:
        plain_get(blocking.connect("only"), blocking.server)
    one = stepper.step_through(run.recording, "A run", "What a run shows")
    other = stepper.step_through(blocking.recording, "Another", "What another shows")
    at_once = stepper.step_through(blocking.recording, "At once", "It is open", is_open=True)
    folder = tmp_path_factory.mktemp("page")
    page = PAGE.format(
        steppers="".join(each.data for each in (one, other, at_once)),
        choice=stepper.switch("the <mode>", {"this": other, "that": other}).data,
        still=stepper.draw_view(WIDEST).data,
    )
    (folder / "page.html").write_text(page, encoding="utf-8")
    for file in (show.STYLESHEET, show.STEPPER):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def facts(folder, tmp_path_factory):
    """What Chromium has found: a dict for each width and theme, and one for no script."""
    if not CHROMIUM:
        pytest.skip("no Chromium here to look at the page")
    tasks = [
        {"width": width, "theme": theme, "has_script": True, "is_whole": theme == "light"}
        for width in WIDTHS
        for theme in THEMES
    ]
    tasks += [{"width": width, "theme": "light", "has_script": False} for width in WIDTHS]
    tasks = [{"page": "page.html", **task} for task in tasks]
    return measured(folder, tasks, tmp_path_factory.mktemp("chromium"), (FACTS, USES))


@pytest.fixture
def used(facts):
    """Those facts that are of a page with the script."""
    return [fact for fact in facts if "walked" in fact]


@pytest.fixture
def whole(facts):
    """Those facts that are of a page on which everything was tried: one of each width."""
    return [fact for fact in facts if "keys" in fact]


def test_nothing_fails_on_the_console(facts):
    assert len(facts) == 9
    assert [fact["errors"] for fact in facts if fact["errors"]] == []


def test_without_the_script_the_picture_stands_alone(facts):
    found = [fact for fact in facts if "pictures" in fact]
    assert [fact["width"] for fact in found] == list(WIDTHS)
    for fact in found:
        assert (fact["runs"], fact["heights"]) == (0, [0] * 5)
        assert len(fact["pictures"]) == 5 and min(fact["pictures"]) > 250


def test_a_strip_stands_under_the_picture_until_the_first_use_opens_the_panel(used):
    assert len(used) == len(WIDTHS) * len(THEMES)
    for fact in used:
        closed, opened = fact["closed"], fact["opened"]
        assert closed["picture"] > 250 and closed["strip"] > 250 and not closed["isOpen"]
        assert opened == {"picture": 0, "isOpen": True, "at": 1, "other": False}


def test_every_step_is_drawn_as_its_data_say(used):
    for fact in used:
        assert fact["steps"] > 30 and fact["walked"] == []


def test_nothing_is_wider_than_the_screen_and_every_text_stands_out(used):
    for fact in used:
        assert fact["closed"]["wider"] == fact["closed"]["pale"] == [], fact["width"]
        assert fact["outside"] == [], (fact["width"], fact["theme"])


def test_the_kernel_stands_beside_the_source_or_above_it(used):
    for fact in used:
        kernel, source = fact["kernel"]
        if fact["width"] == WIDTHS[-1]:
            assert kernel["left"] > source["left"] and kernel["top"] == source["top"]
        else:
            assert kernel["top"] < source["top"]


def test_once_it_has_been_walked_through_the_page_below_it_stands_still(used):
    for fact in used:
        (least, most), again = fact["heights"]
        assert least == most and again == [least, most] and 300 < most < 1400


def test_keys_lead_where_they_say(whole):
    assert [fact["width"] for fact in whole] == list(WIDTHS)
    for fact in whole:
        keys = fact["keys"]
        last = keys["last"]
        went = [keys[name] for name in ("right", "left", "end", "beyond", "home", "before")]
        assert went == [[n, True] for n in (4, 3, last, last, 0, 0)]
        assert keys["calls"] == keys["next"] and len(keys["calls"]) == 8
        at = keys["calls"][-1]
        assert (keys["slider"], keys["button"]) == ([at + 1, True], [at + 2, True])
        assert keys["other"] == [at + 2, False]


def test_keys_do_not_turn_the_page(whole):
    for fact in whole:
        assert fact["turned"] == ["x"], "that key is the page's; all others were the stepper's"


def test_it_plays_and_pauses(whole):
    for fact in whole:
        last = fact["plays"]["last"]
        assert fact["plays"]["found"] == [
            [0, "Pause", 1], [2, "Pause", 1], [2, "Play", 0], [2, "Pause", 1], [3, "Play", 0],
            [0, "Pause", 1], [last, "Pause", 1], [last, "Play", 0],
        ]  # fmt: skip


def test_a_click_on_the_lanes_leads_to_the_nearest_step(whole):
    for fact in whole:
        assert abs(fact["aimed"]) < 0.5 and fact["focus"]


def test_two_on_one_page_are_independent_and_one_is_open_at_once(whole):
    for fact in whole:
        assert fact["independent"] == [0, False] and fact["atOnce"]


def test_it_can_be_closed_again(whole):
    for fact in whole:
        again = fact["closedAgain"]
        assert again["picture"] > 250 and not again["isOpen"] and again["strip"] > 250


def test_an_output_that_comes_later_starts_as_well_and_none_starts_twice(whole):
    for fact in whole:
        assert fact["late"] == [1] * 6


def test_of_several_runs_one_is_seen_and_its_button_is_pressed(whole):
    for fact in whole:
        names, before, after = fact["choices"]
        assert names == ["this", "that"]
        assert before == [[True, False], ["true", "false"]]
        assert after == [[False, True], ["false", "true"]]
