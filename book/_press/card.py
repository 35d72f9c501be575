"""Draw the picture that goes along with a link to the book: book/_static/card.png.

`python -m _press.card` records the run that opens chapter 2 and draws it below the book's name, in
the size that social networks ask for. The picture is kept with the sources, since a new one for
every build would tell nobody anything new.
"""

import io
import os

from matplotlib import rc_context
from matplotlib.figure import Figure

from lab import notebooks, show

CARD = notebooks.BOOK / "_static" / "card.png"
CHAPTER, SETUP, OPENING = "02_request_loop", "two-setup", "two-opening"
WIDTH, HEIGHT, DPI = 1200, 630, 150  # pixels; the more dots per inch, the larger the words


def opening():
    """Run the cell that opens chapter 2, and return the lanes of what it has recorded."""
    os.chdir(notebooks.BOOK)
    known = {}
    for cell in notebooks.read(notebooks.BOOK / f"{CHAPTER}.ipynb").cells:
        if cell.id in (SETUP, OPENING):
            exec(cell.source, known)
    return show.lanes(known["opening"].recording)


def draw(lanes):
    """Return the card as a PNG file: the book's name, and the lanes of a run."""
    with rc_context(show.STYLE):
        figure = Figure((WIDTH / DPI, HEIGHT / DPI), dpi=DPI, layout="constrained")
        head, below = figure.subfigures(2, height_ratios=[1, 3])
        head.text(0.02, 0.62, "The Ready List", fontsize=24, fontweight="bold", va="center")
        head.text(0.02, 0.2, "Linux epoll in Python, executed", fontsize=13, va="center")
        show.draw_lanes(below, lanes, columns=6)
        out = io.BytesIO()
        figure.savefig(out, format="png", facecolor="white", pil_kwargs={"optimize": True})
    return out.getvalue()


if __name__ == "__main__":
    CARD.write_bytes(draw(opening()))
    print(f"{CARD.relative_to(notebooks.BOOK.parent)}: {CARD.stat().st_size:,} bytes")
