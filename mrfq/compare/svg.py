"""Figures as inline SVG that follows the page: its fonts, its light and dark colours, its width."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

#: placeholders that become colours of the page's style sheet
INK, MUTED, GRID, OTHER = "#010101", "#020202", "#030303", "#040404"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", OTHER: "--other"}
#: readable on white and on near black
COLOURS = (
    "#3b82d6", "#e0812b", "#2fa36b", "#d8506a", "#8e6bd8", "#17a2b0", "#b5793f", "#d860b0", "#93a02f",
)  # fmt: skip
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
SIZE = (5.4, 3.1)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
}
NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


class Palette:
    """One colour and dash per solver, the same in all figures.

    Parameters
    ----------
    groups : sequence of sequences of str
        Solvers that stand out in the same figure: they get different colours while there are enough. Those that
        stand out most often choose first.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        counts = Counter(solver for group in groups for solver in group)
        self._styles: dict[str, tuple[int, int]] = {}
        for solver, _ in counts.most_common():
            near = {other for group in groups if solver in group for other in group}
            taken = {self._styles[other][0] for other in near if other in self._styles}
            used = Counter(colour for colour, _ in self._styles.values())
            free = [c for c in range(len(COLOURS)) if c not in taken] or list(range(len(COLOURS)))
            colour = min(free, key=lambda c: (used[c], c))
            self._styles[solver] = (colour, min(used[colour], len(DASHES) - 1))

    def colour(self, solver: str) -> str:
        """Return the colour of a solver; a grey for those without one."""
        return COLOURS[self._styles[solver][0]] if solver in self._styles else OTHER

    def dash(self, solver: str) -> str | tuple[int, tuple[float, ...]]:
        """Return the dash pattern of a solver in matplotlib's terms."""
        return DASHES[self._styles[solver][1]] if solver in self._styles else "-"

    def key(self, solver: str) -> dict[str, str]:
        """Return what the page needs to draw a key: name, colour and kind of line."""
        number = self._styles.get(solver, (0, 0))[1]
        return {"solver": solver, "colour": self.colour(solver), "line": ("solid", "dashed", "dotted")[number]}


def axes() -> tuple[Figure, Axes]:
    """Return an empty figure in the style of the report. Use inside `style()`."""
    figure = Figure(figsize=SIZE)
    FigureCanvasSVG(figure)
    figure.subplots_adjust(left=0.1, right=0.985, bottom=0.145, top=0.97)
    axis = figure.add_subplot()
    return figure, axis


def style(name: str) -> AbstractContextManager[None]:
    """Return the context to draw in; the name keeps the ids of different figures apart."""
    return mpl.rc_context({**STYLE, "svg.hashsalt": name})


def draw(
    axis: Axes, x: Sequence[float] | np.ndarray, y: np.ndarray, solver: str, palette: Palette, strong: bool
) -> None:
    """Draw the line of a solver, in its colour if it is to stand out, and mark it for the page's script."""
    (line,) = axis.plot(
        x,
        y,
        color=palette.colour(solver) if strong else OTHER,
        linestyle=palette.dash(solver) if strong else "-",
        linewidth=1.8 if strong else 1.0,
        zorder=3 if strong else 2,
    )
    line.set_gid(f"solver:{solver}")


def to_svg(figure: Figure, label: str) -> str:
    """Return a figure as an `<svg>` element that takes its colours and fonts from the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">',
        text,
        count=1,
    )
    text = re.sub(r'<g id="solver:([^"]*)">', r'<g class="line" data-solver="\1">', text)
    text = re.sub(
        r'<g id="(?:figure|axes|patch|matplotlib|xtick|ytick|line2d|text|PolyCollection|FillBetween)[^"]*">',
        "<g>",
        text,
    )
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    for placeholder, variable in VARIABLES.items():
        text = text.replace(placeholder, f"var({variable})")
    return re.sub(r' d="[^"]*"', _shorter, re.sub(r"\n\s*", " ", text))


def _shorter(path: re.Match[str]) -> str:
    """Return a path with coordinates to a hundredth of a point."""
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", path[0])
