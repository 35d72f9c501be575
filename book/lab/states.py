"""The states of TCP: connections led from one to the next, and the diagram of what was seen.

    walk = lab.states.Walk()
    walk.begin(client, server)
    client.shutdown(socket.SHUT_WR)
    walk.until("the client shuts down", "FIN-WAIT-1", "ESTABLISHED")

A diagram draws the steps of a walk, all of them and no others, so it can't show what was not seen.
"""

from matplotlib.patches import FancyBboxPatch

from look import kernel
from survive.waiting import until

from . import show
from .measured import Table

# Where each state stands in the diagram, (column, row), and CLOSE where a state leads to it.
PLACES = {
    "CLOSE": (0, 0), "LISTEN": (2, 0), "SYN-SENT": (0, 1), "SYN-RECV": (2, 1),
    "ESTABLISHED": (1, 2), "FIN-WAIT-1": (0, 3), "CLOSE-WAIT": (2, 3), "FIN-WAIT-2": (0, 4),
    "CLOSING": (1, 4), "LAST-ACK": (2, 4), "TIME-WAIT": (0, 5),
}  # fmt: skip
CLOSED_AFTER = {"ESTABLISHED": (1, 3), "LAST-ACK": (2, 5)}
AROUND = ("FIN-WAIT-1", "TIME-WAIT")  # this arrow goes round the state that lies between
BELOW = ("CLOSING", "TIME-WAIT")  # this one has its word on its lower side
HEADS = {(0, -0.5): "client", (2, -0.5): "server", (0, 2): "ends first", (2, 2): "ends second"}


class Walk(Table):
    """A Table of the states in which both ends of connections have been seen.

    steps: what they led from and to: {(before, after): None}, in their order.
    """

    def __init__(self):
        super().__init__("what happens", "client", "server")
        self.steps, self._ends, self._now = {}, (), ()

    def begin(self, client, server):
        """Follow a connection: a client's socket, and the server's or, before it has one, the
        listener; return the states of both. The first step leads from these.
        """
        self._ends = client.getsockname(), server.getsockname()
        self._now = kernel.state_of(client), kernel.state_of(server)
        return self._now

    def until(self, label, *states, seconds=15):
        """Wait until the client's end and the server's are in these states; add a row of them.

        Raises TimeoutError, which says what they are in instead.
        """
        try:
            until(lambda: self._states() == states, seconds)
        except TimeoutError:
            raise TimeoutError(f"{label}: {self._states()}, not {states}") from None
        taken = zip(self._now, states, strict=True)
        self.steps |= {(before, after): None for before, after in taken if before != after}
        self._now = states
        return self.row(label, *states)

    def _states(self):
        """Return the states of both ends; one that is in no table of the kernel's is closed."""
        ends = self._ends, self._ends[::-1]
        return tuple(getattr(kernel.find_socket(*end), "state", "CLOSE") for end in ends)


def diagram(title, walk, causes):
    """Draw the steps of a Walk; return a Picture that shows them: {(before, after): cause}.

    causes: what leads from one state to the next: {(before, after): word}. One with parentheses is
    a call of this end, another what a segment says that comes.

    Raises ValueError where a step has no cause, or a cause has no step.
    """
    if odd := set(causes) ^ set(walk.steps):
        raise ValueError(f"seen without a cause, or the other way round: {sorted(odd)}")

    def draw(figure, narrow):
        axes = figure.subplots()
        axes.set(xlim=(-0.8 if narrow else -0.5, 2.45), ylim=(5.25, -0.7))
        axes.axis("off")
        half = 0.42 if narrow else 0.3
        for place, words in HEADS.items():
            axes.text(*place, words, ha="center", va="center", style="italic", fontsize=8.5)
        boxes = {PLACES[before]: before for before, _ in causes}
        for place, name in (boxes | {_place(*step): step[1] for step in causes}).items():
            _draw_state(axes, name, place, half)
        for step, cause in causes.items():
            color = show.BLUE if "(" in cause else show.RED
            line = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0}
            begin, end, curve, at, sides = _route(step, half)
            axes.annotate("", end, begin, arrowprops=line | {"connectionstyle": curve})
            axes.text(*at, cause, color=color, fontsize=8.5, **sides)

    said = "; ".join(f"{before} to {after}: {cause}" for (before, after), cause in causes.items())
    return show.picture(draw, title, said, 4.2, 4.7, shows=causes)


def _place(before, after):
    """Return where the state stands that another one leads to."""
    return CLOSED_AFTER[before] if after == "CLOSE" else PLACES[after]


def _draw_state(axes, name, place, half):
    """Draw a state, its name in a box; half: of its width."""
    corner, shape = (place[0] - half, place[1] - 0.18), "round,pad=0,rounding_size=0.06"
    box = FancyBboxPatch(corner, 2 * half, 0.36, boxstyle=shape, fc=show.GRID, ec=show.INK, lw=0.8)
    axes.add_patch(box)
    axes.text(*place, name, ha="center", va="center", fontsize=8)


def _route(step, half):
    """Return an arrow's beginning, end and curve, where its word stands, and on which side."""
    (x, y), (to_x, to_y) = PLACES[step[0]], _place(*step)
    if step == AROUND:
        at, sides = (x - 1.5 * half, (y + to_y) / 2), {"ha": "right", "va": "center"}
        return (x - half, y), (x - half, to_y), "arc3,rad=0.2", at, sides | {"rotation": 90}
    way = (to_x > x) - (to_x < x)
    x, to_x = x + way * half * 0.6, to_x - way * half * 0.6
    y, to_y = y + 0.18, to_y - 0.18
    right = way >= 0 or step == BELOW
    at = (x + to_x) / 2 + (0.04 if right else -0.04), (y + to_y) / 2
    up_and_down = "center" if not way else "top" if step == BELOW else "bottom"
    return (x, y), (to_x, to_y), "arc3", at, {"ha": "left" if right else "right", "va": up_and_down}
