"""The curves of a run: loss, accuracy, labels, temperature and rate over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mrfq.compare.svg import Palette
from mrfq.study.drawing import Drawing, line, muted, plain_numbers
from mrfq.study.runs import Floats

Rows = Sequence[dict[str, Any]]
#: columns of `metrics.csv`, and what the figures call them
NAMES = {
    "train_loss": "training, relaxed",
    "validation_loss": "validation, rounded",
    "train_accuracy": "training, relaxed",
    "validation_accuracy": "validation, rounded",
    "entropy": "entropy of a weight, nats",
    "discrete": "weights at a level",
    "beta": "β",
    "rate": "learning rate",
}
FLOAT_NAMES = {
    **NAMES,
    **dict.fromkeys(("train_loss", "train_accuracy"), "training"),
    **dict.fromkeys(("validation_loss", "validation_accuracy"), "validation"),
}


@dataclass(frozen=True)
class Figure:
    """Columns that are drawn in one figure."""

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    scale: str = "linear"


FIGURES = (
    Figure("loss", "Loss", "Mean cross-entropy in nats, with the logit scale.", ("train_loss", "validation_loss")),
    Figure("accuracy", "Accuracy, %", "Dotted: the epoch whose network was kept.",
           ("train_accuracy", "validation_accuracy")),
    Figure("labels", "How discrete the weights are",
           "Entropy between the levels next to a weight, and the fraction of weights that are at a level.",
           ("entropy", "discrete")),
    Figure("beta", "Inverse temperature β", "At the end of each epoch.", ("beta",), "log"),
    Figure("rate", "Learning rate", "Of the last step of each epoch.", ("rate",)),
)  # fmt: skip


def drawings(rows: Rows, best_epoch: int, *, quantized: bool) -> list[Drawing]:
    """Return the figures of a run; those without anything to show are left out.

    Parameters
    ----------
    rows : sequence of dict
        Of `metrics.csv`.
    best_epoch : int
    quantized : bool
    """
    names = NAMES if quantized else FLOAT_NAMES
    palette = Palette([[names[column] for column in figure.columns] for figure in FIGURES])
    found = []
    for figure in FIGURES:
        series = {names[column]: values(rows, column) for column in figure.columns}
        series = {name: (x, y) for name, (x, y) in series.items() if len(x)}
        if series:
            mark = best_epoch if figure.name == "accuracy" else 0
            paint: Callable[[Axes], None] = partial(_paint, figure, series, palette, mark)
            found.append(Drawing(figure.name, figure.title, figure.note, paint))
    return found


def values(rows: Rows, column: str) -> tuple[Floats, Floats]:
    """Return the epochs in which a column is known, and its numbers, finite ones only.

    Examples
    --------
    >>> values([{"epoch": 1, "beta": 2.0}, {"epoch": 2}], "beta")
    (array([1.]), array([2.]))
    """
    known = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
    pairs = np.array(known, dtype=np.float64).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs[:, 1])]
    return pairs[:, 0], pairs[:, 1]


def _paint(
    figure: Figure, series: dict[str, tuple[Floats, Floats]], palette: Palette, best_epoch: int, axis: Axes
) -> None:
    for name, (x, y) in series.items():
        line(axis, x, y, name, palette)
        if len(x) == 1:
            axis.lines[-1].set_marker("o")
    if best_epoch:
        axis.axvline(best_epoch, color=muted(), linestyle=(0, (1, 2)), linewidth=1.2)
    positive = all((y > 0).all() for _, y in series.values())
    spread = [y.max() / y.min() for _, y in series.values() if (y > 0).all()]
    if figure.scale == "log" and positive and max(spread) > 30:
        axis.set_yscale("log")
    else:
        plain_numbers(axis)
    if figure.name == "rate":
        axis.set_ylim(0, None)
    elif figure.name == "labels":
        axis.set_ylim(-0.02, max(1.02, *(1.05 * y.max() for _, y in series.values())))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="epoch", ylabel=figure.title)


def keys(drawn: Sequence[Drawing], *, quantized: bool) -> dict[str, list[dict[str, str]]]:
    """Return for each figure what the page needs to draw its legend."""
    names = NAMES if quantized else FLOAT_NAMES
    palette = Palette([[names[column] for column in figure.columns] for figure in FIGURES])
    by_name = {figure.name: figure for figure in FIGURES}
    return {
        drawing.name: [palette.key(names[column]) for column in by_name[drawing.name].columns]
        for drawing in drawn
        if len(by_name[drawing.name].columns) > 1
    }
