"""Figures: how every picture here looks, and how it becomes PNG bytes.

1. No global state: figures are made and dropped here, never through pyplot; drawing is Agg's.
2. The same values give the same bytes with the same matplotlib: no dates, no program's name.
3. Colours are those of Okabe and Ito, which people who see colours differently tell apart.
4. Texts come from people's data: what matplotlib would read as a formula, or has no letter for, is
   made harmless; what is long is cut.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cloud_hub.explain.report import PLOT_BYTES_MAX, Plot

WIDTH_INCHES = 4.8  # Readable where it is shown 480 pixels wide
DOTS_PER_INCH = 160
SMALLER_DOTS_PER_INCH = 80  # Where a picture would be over PLOT_BYTES_MAX
TITLE_POINTS, TEXT_POINTS, SMALL_POINTS = 10.0, 8.5, 7.0
ALT_CHARS_MAX = 400

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, SKY, PURPLE = "#E69F00", "#56B4E9", "#CC79A7"
INK, FAINT, GRID = "#222222", "#777777", "#DDDDDD"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, INK)


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot and its bytes."""

    plot: Plot
    png: bytes


def picture(figure: Figure, *, file: str, title: str, alt: str) -> Picture:
    """Return a figure as a Picture; the figure is not used again."""
    plot = Plot(file=file, title=title[:120], alt=alt[:ALT_CHARS_MAX])
    return Picture(plot, to_png(figure))


def new_axes(*, height_inches: float = 3.6, width_inches: float = WIDTH_INCHES) -> Axes:
    """Return the only axes of a new figure."""
    axes = new_figure(height_inches=height_inches, width_inches=width_inches).add_subplot()
    assert isinstance(axes, Axes), "a projection without a name is rectangular"
    style(axes)
    return axes


def new_figure(*, height_inches: float, width_inches: float = WIDTH_INCHES) -> Figure:
    """Return an empty figure whose parts find their room themselves."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, *, has_grid: bool = True) -> None:
    """Give axes our look."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=SMALL_POINTS, colors=INK, length=2.5, width=0.6)
    axes.set_axisbelow(True)
    if has_grid:
        axes.grid(visible=True, color=GRID, linewidth=0.6)


def label(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Name what is seen."""
    axes.set_title(plain(title, 70), fontsize=TITLE_POINTS, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=TEXT_POINTS, color=INK)
    axes.set_ylabel(y, fontsize=TEXT_POINTS, color=INK)


Corner = Literal["best", "upper left", "upper right", "lower left", "lower right"]


def legend(axes: Axes, *, place: Corner = "best") -> None:
    """Show what the lines are."""
    axes.legend(fontsize=SMALL_POINTS, frameon=True, framealpha=0.9, edgecolor=GRID, loc=place)


def figure_of(axes: Axes) -> Figure:
    """Return the figure that axes belong to."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are made by their figure"
    return figure


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG, no more than PLOT_BYTES_MAX; see rule 2."""
    for dots_per_inch in (DOTS_PER_INCH, SMALLER_DOTS_PER_INCH):
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format="png",
            dpi=dots_per_inch,
            facecolor="white",
            metadata={"Software": None},
        )
        if buffer.tell() <= PLOT_BYTES_MAX:
            break
    figure.clear()
    return buffer.getvalue()


def plain(text: str, chars_max: int = 24) -> str:
    """Return people's text so that it can be drawn; see rule 4."""
    letters = _letters()
    drawn = "".join(sign if ord(sign) in letters else "?" for sign in text)
    cut = drawn if len(drawn) <= chars_max else drawn[: chars_max - 1] + "…"
    return cut.replace("$", r"\$")


def plain_all(texts: Iterable[str], chars_max: int = 24) -> list[str]:
    """Return `plain` of each."""
    return [plain(text, chars_max) for text in texts]


@cache
def _letters() -> frozenset[int]:
    """Return the code points the font can draw, without those that end a line."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap()) - frozenset(range(32))
