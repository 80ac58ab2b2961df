"""Figures of basins, bistability and annealing schedules."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from mrfq.compare.svg import Palette
from mrfq.solution import meets
from mrfq.study.annealing import ANNEALED, compared_schedules, ends
from mrfq.study.basins import Basins
from mrfq.study.bistability import Bistability, Loop
from mrfq.study.drawing import Drawing, band, early_iterations, line, muted, plain_numbers
from mrfq.study.results import Results
from mrfq.study.tables import mean_and_spread, written

EXACT = "exact"
#: bars in a figure of basins; from so many on, their labels are smaller
BARS, CROWDED = 10, 8
FIELDS = ("rising field", "falling field")


def basin_drawings(results: Results, palette: Palette) -> list[Drawing]:
    """Return a figure for each solver: the energies of its fixed points, and how often each is reached."""
    return [
        Drawing(
            f"basins-{number}",
            f"{found.solver}: {len(found.basins)} distinct {found.kind if len(found.basins) > 1 else found.kind[:-1]}",
            f"A bar for each fixed point, the {BARS} most frequent ones: its energy, and the share of {found.starts} "
            f"random starts that end there; in full colour at {results.reference.name}."
            + f" {found.unsettled} starts did not settle."
            * (found.unsettled > 0),
            partial(_paint_basins, results, found, palette),
        )
        for number, found in enumerate(results.basins)
        if found.basins
    ]


def _paint_basins(results: Results, found: Basins, palette: Palette, axis: Axes) -> None:
    shown = sorted(found.basins[:BARS], key=lambda basin: basin.energy)
    colour = palette.colour(found.solver)
    for x, basin in enumerate(shown):
        best = meets(basin.energy, results.reference.energy)
        axis.bar(x, basin.count / found.starts, width=0.72, color=colour, alpha=1.0 if best else 0.5)
    names = [written(basin.energy, 4) for basin in shown]
    if rest := found.basins[BARS:]:
        axis.bar(len(shown), sum(basin.count for basin in rest) / found.starts, width=0.72, color=muted(), alpha=0.5)
        names.append(f"{len(rest)} others")
    axis.set_xticks(range(len(names)), names, fontsize=8 if len(names) < CROWDED else 6.5)
    axis.set_xlim(-0.8, max(len(names), 4) - 0.2)
    axis.grid(visible=False, axis="x")
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axis.set(xlabel="energy of the rounded fixed point", ylabel="share of the starts")


def branch_names(found: Bistability) -> list[str]:
    """Return the names of the lines in the figures of bistability."""
    names = [branch.start for branch in found.branches]
    return names + [EXACT] * (found.exact is not None) + [*FIELDS] * (found.loop is not None)


def bistability_drawings(found: Bistability) -> list[Drawing]:
    """Return the pitchfork, the polarisation with its onset, and the loop in a field."""
    palette = Palette([branch_names(found)])
    average = "|m|" if found.stability.symmetric else "m"
    exact = f"Exact: the mean of {average} in the Gibbs distribution. " if found.exact else ""
    drawings = [
        Drawing(
            "magnetisation",
            "Magnetisation of mean-field fixed points against β",
            f"m: mean position of the labels, −1 for the first and 1 for the last. {exact}{_critical_words(found)}",
            partial(_paint_branches, found, palette, "magnetisation"),
        ),
        Drawing(
            "polarisation",
            "Polarisation of the same fixed points",
            "0 is uniform, 1 a labelling; it also sees order whose sign differs from variable to variable.",
            partial(_paint_branches, found, palette, "polarisation"),
        ),
    ]
    if found.loop is not None:
        note = (
            f"β = {found.loop.beta:.3g}. The field rises and falls, each fixed point the start of the next; "
            f"two branches exist over a range of {found.loop.width:.3g}."
        )
        drawings.append(Drawing("hysteresis", "Hysteresis in a field", note, partial(_paint_loop, found.loop, palette)))
    return drawings


def _critical_words(found: Bistability) -> str:
    words = "Dashed: where linear stability predicts that the uniform point becomes unstable"
    return words + (f"; the measured onset is {found.onset:.4g}." if math.isfinite(found.onset) else ".")


def _paint_branches(found: Bistability, palette: Palette, column: str, axis: Axes) -> None:
    for branch in found.branches:
        line(axis, branch.betas, getattr(branch, column), branch.start, palette)
        axis.lines[-1].set(marker="o", markersize=2.6)
    if found.exact is not None and column == "magnetisation":
        # Where a symmetry makes the mean vanish, the mean of the size tells order from disorder.
        exact = found.exact.size if found.stability.symmetric else found.exact.mean
        line(axis, found.exact.betas, exact, EXACT, palette)
    critical = found.stability.critical
    axis.axvline(critical, color=muted(), linestyle=(0, (5, 3)), linewidth=1.0)
    axis.annotate(f"β = {critical:.4g}", (critical, 1), xycoords=("data", "axes fraction"), xytext=(-4, -2),
                  textcoords="offset points", va="top", ha="right", fontsize=8, color=muted())  # fmt: skip
    axis.set_ylim((-1.05, 1.05) if column == "magnetisation" else (-0.03, 1.05))
    axis.set_xlim(0, None)
    plain_numbers(axis)
    axis.set(xlabel="inverse temperature β", ylabel=column)


def _paint_loop(loop: Loop, palette: Palette, axis: Axes) -> None:
    for name, m in zip(FIELDS, (loop.rising, loop.falling), strict=True):
        line(axis, loop.fields, m, name, palette)
    axis.set_ylim(-1.05, 1.05)
    plain_numbers(axis)
    axis.set(xlabel="field (positive favours the last label)", ylabel="magnetisation")


def schedule_keys() -> Palette:
    """Return the colours of the schedules."""
    return Palette([list(compared_schedules(1, 2))])


def schedule_drawings(results: Results) -> list[Drawing]:
    """Return the schedules, the best energy under each against the sweeps, and where they end."""
    palette = schedule_keys()
    drawings = [
        Drawing(
            "schedules", "The schedules of β", "All use the whole budget.", partial(_paint_schedules, results, palette)
        )
    ]
    for solver in ANNEALED:
        if any(row.solver == solver for row in results.annealed):
            title = f"{solver.capitalize()}: best energy so far"
            note = "Median over the seeds, shaded from the 10th to the 90th percentile."
            name = f"schedules-{solver.replace(' ', '-')}"
            drawings.append(Drawing(name, title, note, partial(_paint_annealed, results, solver, palette)))
    note = "Best energy after all sweeps: mean over the seeds, and the standard deviation."
    drawings.append(Drawing("schedules-final", "Where they end", note, partial(_paint_finals, results, palette)))
    return drawings


def _paint_schedules(results: Results, palette: Palette, axis: Axes) -> None:
    progress = np.linspace(0, 1, 101)
    for name, schedule in compared_schedules(*ends(results.study)).items():
        line(axis, progress, np.array([schedule(t) for t in progress]), name, palette)
    axis.set_yscale("log")
    axis.set(xlabel="progress of the run", ylabel="inverse temperature β")


def _paint_annealed(results: Results, solver: str, palette: Palette, axis: Axes) -> None:
    for row in results.annealed:
        known = np.isfinite(row.best).all(0)
        if row.solver == solver and known.any():
            band(axis, np.flatnonzero(known).astype(np.float64), row.best[:, known], row.schedule, palette)
    early_iterations(axis)
    plain_numbers(axis)
    axis.set(xlabel="sweep", ylabel="best energy so far")


def _paint_finals(results: Results, palette: Palette, axis: Axes) -> None:
    solvers = [solver for solver in ANNEALED if any(row.solver == solver for row in results.annealed)]
    names = list(compared_schedules(1, 2))
    for row in results.annealed:
        x = solvers.index(row.solver) + 0.13 * (names.index(row.schedule) - (len(names) - 1) / 2)
        colour, (mean, spread) = palette.colour(row.schedule), mean_and_spread(row.finals)
        label = row.schedule if row.solver == solvers[0] else None
        if math.isfinite(mean):
            axis.errorbar(x, mean, spread, fmt="o", color=colour, capsize=3, markersize=5, label=label)
    if math.isfinite(results.reference.energy):
        axis.axhline(results.reference.energy, color=muted(), linestyle=(0, (5, 3)), linewidth=1.0)
    axis.set_xticks(range(len(solvers)), solvers)
    axis.set_xlim(-0.5, len(solvers) - 0.5)
    axis.grid(visible=False, axis="x")
    plain_numbers(axis)
    axis.set_ylabel("best energy")
