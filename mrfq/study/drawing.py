"""A figure that is drawn twice: for the page, whose colours it takes, and for files, where it brings its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mrfq.compare.svg import GRID, INK, MUTED, NO_METADATA, STYLE, Palette, axes, draw, style, to_svg
from mrfq.study.runs import Floats, Run

#: what the page's colours are in a file
PRINTED = {INK: "#1c2330", MUTED: "#667085", GRID: "#e4e7ec"}
SIZE, RESOLUTION = (6.4, 3.9), 160
#: shaded between these percentiles of the runs
BAND = (10, 90)


@dataclass(frozen=True)
class Drawing:
    """A figure: what it is called, its title, what it shows in a sentence, and the function that paints it.

    Parameters
    ----------
    name : str
        Of its files.
    title, note : str
    paint : callable
        Draws on the axes it is given; colours that belong to the page come from `muted()`.
    """

    name: str
    title: str
    note: str
    paint: Callable[[Axes], None]

    @property
    def svg(self) -> str:
        """The figure as part of a page."""
        with style(self.name):
            figure, axis = axes()
            figure.subplots_adjust(left=0.125)
            self.paint(axis)
            axis.set_ylabel("")  # the caption says it
            return to_svg(figure, self.title)

    def files(self, forms: Iterable[str]) -> dict[str, bytes]:
        """Return the figure as files of the forms "png" or "svg"."""
        printed = {key: PRINTED.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
        with mpl.rc_context({**printed, "svg.hashsalt": self.name, "figure.facecolor": "white"}):
            figure, axis = axes()
            figure.set_size_inches(SIZE)
            figure.subplots_adjust(left=0.13, right=0.97, bottom=0.13, top=0.91)
            self.paint(axis)
            axis.set_title(self.title, fontsize=10.5, fontweight="bold", loc="left")
            if axis.get_legend_handles_labels()[1]:
                axis.legend(frameon=False, fontsize=8)
            return {form: _saved(figure, form) for form in forms}


def _saved(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=RESOLUTION, metadata=NO_METADATA if form == "svg" else {"Software": None})
    return buffer.getvalue()


def muted() -> str:
    """Return the colour of what is in the background."""
    return str(mpl.rcParams["xtick.color"])


def line(axis: Axes, x: Floats, y: Floats, name: str, palette: Palette) -> None:
    """Draw a line in its colour, under its name."""
    draw(axis, x, y, name, palette, strong=True)
    axis.lines[-1].set_label(name)


def band(axis: Axes, x: Floats, rows: Floats, name: str, palette: Palette) -> None:
    """Draw the median of several rows, shaded between percentiles."""
    low, high = np.percentile(rows, BAND, axis=0)
    if np.any(high > low):
        axis.fill_between(x, low, high, color=palette.colour(name), alpha=0.12, linewidth=0)
    line(axis, x, np.median(rows, axis=0), name, palette)


def stacked(runs: Iterable[Run], column: str) -> tuple[Floats, Floats] | None:
    """Return iterations (k,) and a column of several runs (r, k), or None if it is never known.

    A run that ended earlier stays where it ended. Iterations at which some run does not know the number are left out.
    """
    columns = [run.columns[column] for run in runs]
    length = max((len(values) for values in columns), default=0)
    rows = np.array([np.pad(values, (0, length - len(values)), mode="edge") for values in columns])
    known = np.isfinite(rows).all(0) if len(rows) else np.zeros(0, dtype=bool)
    if not known.any():
        return None
    return np.flatnonzero(known).astype(np.float64), rows[:, known]


def plain_numbers(axis: Axes) -> None:
    """Write the numbers of the vertical axis without powers of ten."""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def early_iterations(axis: Axes) -> None:
    """Give the first iterations as much room as the many later ones: a logarithmic axis with a 0."""
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlim(0, None)
