"""The error of every layer, against baselines: one row a layer, one mark a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mrfq.compare.svg import COLOURS, GRID, INK, OTHER, style, to_svg

Layers = Sequence[dict[str, Any]]
#: the quantized network itself, among its baselines
OURS = "this network"
#: of a method's marks: shape, size in points, and shape on the page
MARKS = (("o", 6.0, "circle"), ("D", 4.4, "diamond"), ("^", 5.6, "triangle"), ("s", 4.4, "square"))
#: inches
WIDTH, ROW, TALLEST, LETTER = 10.6, 0.21, 24.0, 0.075
#: rows lower than this have no room for a name
NAMED = 0.13
LONGEST_NAME = 34
PANELS = {"error": "on the calibration inputs", "error_held_out": "on held-out inputs"}


def methods(layers: Layers) -> list[str]:
    """Return the methods whose errors are known, the network's own first."""
    return [OURS, *dict.fromkeys(name for layer in layers for name in layer["baselines"])]


def colour(place: int) -> str:
    """Return the colour of a method by its place."""
    return COLOURS[place % len(COLOURS)]


def keys(layers: Layers) -> list[dict[str, str]]:
    """Return what the page needs to draw a legend: name, colour and mark of each method."""
    return [
        {"name": name, "colour": colour(place), "mark": MARKS[place % len(MARKS)][2]}
        for place, name in enumerate(methods(layers))
    ]


def value(layer: dict[str, Any], method: str, key: str) -> float:
    """Return an error of a layer, NaN where it is not known, or 0 and so has no place on a logarithmic axis.

    Examples
    --------
    >>> value({"error": 0.5, "baselines": {}}, OURS, "error"), value({"baselines": {"gptq": {}}}, "gptq", "error")
    (0.5, nan)
    """
    found = layer.get(key) if method == OURS else layer["baselines"].get(method, {}).get(key)
    return float(found) if found is not None and found > 0 else math.nan


def error_chart(layers: Layers) -> str:
    """Return the chart as an `<svg>` element; layers from top to bottom in the order of execution."""
    names = methods(layers)
    held_out = any(math.isfinite(value(layer, name, "error_held_out")) for layer in layers for name in names)
    panels = list(PANELS) if held_out else ["error"]
    row = min(ROW, TALLEST / len(layers))
    labels = [shortened(layer["name"]) for layer in layers] if row >= NAMED else []
    height = row * len(layers) + 0.75
    left = max((LETTER * len(label) for label in labels), default=0.0) + 0.2
    with style("layer errors"):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        figure.subplots_adjust(left / WIDTH, 0.42 / height, 1 - 0.1 / WIDTH, 1 - 0.3 / height, wspace=0.05)
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axis, key in zip(axes, panels, strict=True):
            _paint(axis, layers, names, key)
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set_ylim(len(layers) - 0.4, -0.6)
        return to_svg(figure, described(layers))


def shortened(name: str) -> str:
    """Return a name that fits beside the chart, its end kept.

    Examples
    --------
    >>> shortened("encoder." * 5 + "query"), shortened("fc")
    ('…er.encoder.encoder.encoder.query', 'fc')
    """
    return name if len(name) <= LONGEST_NAME else "…" + name[-LONGEST_NAME + 2 :]


def described(layers: Layers) -> str:
    """Return what the chart shows, in a sentence for those who do not see it.

    Examples
    --------
    >>> layers = [{"name": "a", "error": 0.1, "baselines": {}}, {"name": "b", "error": 0.4, "baselines": {}}]
    >>> described(layers)
    'Relative output error of 2 layers, from 0.1 to 0.4, the largest in b.'
    """
    known = [(value(layer, OURS, "error"), layer["name"]) for layer in layers]
    known = [pair for pair in known if math.isfinite(pair[0])]
    if not known:
        return f"Relative output error of {len(layers)} layers, all 0."
    against = ", ".join(methods(layers)[1:])
    text = (
        f"Relative output error of {len(layers)} layers, from {min(known)[0]:.2g} to {max(known)[0]:.2g}, the largest"
    )
    return f"{text} in {max(known)[1]}{'; against ' * bool(against)}{against}."


def _paint(axis: Axes, layers: Layers, names: Sequence[str], key: str) -> None:
    rows = range(len(layers))
    found = {name: [value(layer, name, key) for layer in layers] for name in names}
    for place in rows:
        known = [values[place] for values in found.values() if math.isfinite(values[place])]
        if len(known) > 1:
            axis.plot([min(known), max(known)], [place, place], color=OTHER, linewidth=1.2, zorder=2)
    for place, (name, values) in reversed(list(enumerate(found.items()))):  # the network's own marks on top
        mark, size, _ = MARKS[place % len(MARKS)]
        axis.plot(
            values, rows, linestyle="", marker=mark, markersize=size, color=colour(place), markeredgewidth=0, zorder=3,
            label=name,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(length=0)
    _decades(axis)
    axis.set_title(PANELS[key], fontsize=9, loc="left", color=INK)
    axis.set_xlabel("error relative to the variance of the outputs")


def _decades(axis: Axes) -> None:
    """Write the numbers of a logarithmic axis as decimals, closer together where there are few decades."""
    low, high = axis.get_xlim()
    marks = (1.0, 2.0, 3.0, 5.0) if high < 12 * low else (1.0, 2.0, 5.0) if high < 60 * low else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(subs=marks))
    axis.xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10))))
    axis.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="x", which="major", color=GRID)
