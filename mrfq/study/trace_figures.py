"""Figures of the runs: energies, bounds, free energies, residuals, entropy, changes; and fitted rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from mrfq.compare.svg import Palette
from mrfq.study.drawing import Drawing, band, early_iterations, line, muted, plain_numbers, stacked
from mrfq.study.rates import QUANTITIES, Rate, errors
from mrfq.study.results import Results
from mrfq.study.runs import Floats, Run

Values = Callable[[Floats], Floats]
#: gaps below this, relative to the reference, are rounding
NOTHING = 1e-9
#: the part of the largest gap below which its axis is linear, up to a power of ten
LINEAR = 0.01
#: runs that a figure of a rate shows in the background
SHOWN = 25
SPREAD = "Median over {what}, shaded from the 10th to the 90th percentile."


def trace_drawings(results: Results, palette: Palette) -> list[Drawing]:
    """Return the figures of the section on traces; those without anything to show are left out."""
    reference, count = results.reference, max(results.study.problem.shape[1], 2)

    def above(y: Floats, sign: int = 1) -> Floats:
        gap = y - sign * reference.energy
        return np.where(gap > NOTHING * max(1.0, abs(reference.energy)), gap, 0.0)

    starts = [start for start in results.study.starts if any(run.start == start for run in results.runs)]
    found = [
        _drawing(
            results, palette, f"gap-{start}", f"Best energy above {reference.name}, {start} start", "best_energy",
            "best energy above the reference", above, start=start, scale="symlog",
        )
        for start in starts
    ]  # fmt: skip
    all_runs = partial(_drawing, results, palette)
    found += [
        all_runs("energy", "Energy of the rounded labelling", "energy", "energy", lambda y: y),
        all_runs(
            "bound", f"How far the lower bound is below {reference.name}", "bound", "reference minus bound",
            lambda y: above(-y, -1),
        ),
        all_runs("free-energy", "Free energy E − H/β", "free_energy", "free energy", lambda y: y, constant=True),
        all_runs("residual", "Residual to the fixed point", "residual", "residual", _positive, scale="log"),
        all_runs("entropy", "Entropy of a variable, in units of log L", "entropy", "entropy",
                 lambda y: y / math.log(count)),
        all_runs("changed", "Labels that change", "changed", "changed labels", lambda y: y),
    ]  # fmt: skip
    return [drawing for drawing in found if drawing is not None]


def _positive(values: Floats) -> Floats:
    return np.maximum(values, 1e-16)


def _drawing(
    results: Results,
    palette: Palette,
    name: str,
    title: str,
    column: str,
    label: str,
    values: Values,
    *,
    start: str | None = None,
    constant: bool = False,
    scale: str = "linear",
) -> Drawing | None:
    """Return a figure of a column for every solver, or None if no solver has it; `constant`: at constant beta only."""
    series = {}
    for solver in results.solvers():
        runs = [run for run in results.of(solver, start) if not constant or constant_beta(run)]
        if (found := stacked(runs, column)) is not None:
            series[solver] = found
    series = {solver: (x, values(rows)) for solver, (x, rows) in series.items()}
    if column in ("entropy", "bound", "residual") and not any(len(x) > 1 and y.any() for x, y in series.values()):
        return None
    if not series:
        return None
    largest = max(float(np.median(y, axis=0).max()) for _, y in series.values())

    def paint(axis: Axes) -> None:
        for solver, (x, rows) in series.items():
            band(axis, x, rows, solver, palette)
        if scale == "symlog" and largest > 0:
            axis.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(LINEAR * largest)))
            axis.set_ylim(0, None)
        elif scale == "log":
            axis.set_yscale("log")
        if column != "residual":  # most happens in the first few iterations
            early_iterations(axis)
        if scale != "log":
            plain_numbers(axis)
        axis.set(xlabel="iteration", ylabel=label)

    seeds = f"{results.study.seeds} seeds"
    note = SPREAD.format(what=seeds if start else f"{seeds} of {len(results.study.starts)} starts") + NOTES.get(
        name, ""
    )
    return Drawing(name, title, note, paint)


NOTES = {
    "free-energy": " At a constant β only: sequential mean-field never raises it.",
    "residual": " Mean-field: max |u − softmax(−βg)|, at the β of that iteration; others: the largest change of a "
    "probability in a step.",
    "bound": " 0 where the bound proves the optimum.",
}


def constant_beta(run: Run) -> bool:
    """Return whether a run has a temperature, and keeps it."""
    beta = run.columns["beta"]
    return len(np.unique(beta[np.isfinite(beta)])) == 1


def rate_drawings(results: Results, palette: Palette) -> list[Drawing]:
    """Return a figure for each solver with a rate: its errors, and the median rate over the tail."""
    return [
        Drawing(
            f"rate-{number}",
            f"{rate.solver}: {_rate_words(rate)}",
            f"{QUANTITIES[rate.quantity].capitalize()}, one line a run; dashed, the fit with the median rate over its "
            f"tail. {rate.fitted} of {rate.runs} runs have a {rate.kind} rate.",
            partial(_paint_rate, results, rate, palette),
        )
        for number, rate in enumerate(results.rates)
        if rate.kind != "none"
    ]


def _rate_words(rate: Rate) -> str:
    if rate.kind == "linear":
        return f"error times {rate.median:.3g} an iteration"
    return f"error falls like iteration^{rate.median:.2g}".replace("-", "−")


def _paint_rate(results: Results, rate: Rate, palette: Palette, axis: Axes) -> None:
    runs = results.of(rate.solver)
    for run in runs[:: max(1, len(runs) // SHOWN)]:
        y = errors(run, rate.quantity, results.reference.energy)
        axis.plot(np.where(y > 0, y, np.nan), color=palette.colour(rate.solver), linewidth=0.7, alpha=0.45)
    fits = [fit for fit in rate.fits if fit.kind == rate.kind]
    fit = min(fits, key=lambda fit: abs(fit.rate - rate.median))
    k = np.arange(fit.first, fit.last + 1, dtype=np.float64)
    line(axis, k, fit.values(k), rate.solver, palette)
    axis.lines[-1].set(color=str(axis.xaxis.label.get_color()), linestyle=(0, (4, 2)), linewidth=1.8, zorder=4)
    axis.lines[-1].set_label("fit")
    axis.set_yscale("log")
    if rate.kind == "sublinear":
        axis.set_xscale("log")
    axis.axvspan(fit.first, fit.last, color=muted(), alpha=0.07, linewidth=0)
    axis.set(xlabel="iteration", ylabel=QUANTITIES[rate.quantity])
