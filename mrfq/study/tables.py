"""The tables of a study's report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mrfq.compare.tables import Row, TableCell, TableView
from mrfq.solution import Status, meets
from mrfq.study.annealing import ANNEALED, compared_schedules
from mrfq.study.basins import Basins, effective_number
from mrfq.study.bistability import Bistability
from mrfq.study.rates import QUANTITIES, Rate
from mrfq.study.results import Results
from mrfq.study.runs import Floats, Run


def written(value: float, digits: int = 5) -> str:
    """Return a number for people.

    Examples
    --------
    >>> written(-1.25), written(math.nan), written(math.inf)
    ('−1.25', '–', '∞')
    """
    if math.isnan(value):
        return "–"
    text = "∞" if math.isinf(value) else f"{abs(value):.{digits}g}"
    return f"−{text}" if value < 0 else text


def cell(value: float, spread: float = math.nan, *, percent: bool = False, bar: float | None = None) -> TableCell:
    """Return a number, with a spread if there is one."""
    if percent:
        return TableCell("–" if math.isnan(value) else f"{value:.0%}", value, bar=None if math.isnan(value) else value)
    if spread <= 1e-12 * max(1.0, abs(value)):
        spread = 0.0
    return TableCell(written(value), value, "" if math.isnan(spread) else written(spread, 2), bar=bar)


def mean_and_spread(values: Floats) -> tuple[float, float]:
    """Return mean and standard deviation; inf and NaN if any number is infinite."""
    if not np.isfinite(values).all():
        return math.inf, math.nan
    return float(values.mean()), float(values.std())


def text(words: str) -> TableCell:
    """Return words."""
    return TableCell(words)


def run_table(results: Results) -> TableView:
    """Return what each solver reached from each start."""
    view = TableView(
        [
            ("start", ""),
            ("best energy", "mean over the seeds, and standard deviation"),
            ("gap", f"above {results.reference.name}"),
            ("at the reference", f"share of the runs whose best energy is {results.reference.name}"),
            ("lower bound", "the largest, where the solver proves one"),
            ("iterations", "median; fewer than allowed if the solver stopped by itself"),
            ("ended by itself", "share of the runs that converged or proved their optimum"),
        ]
    )
    for solver in results.solvers():
        for start in results.study.starts:
            if runs := results.of(solver, start):
                view.rows.append(Row(solver, [text(start), *_run_cells(results, runs)]))
    return view


def _run_cells(results: Results, runs: Sequence[Run]) -> list[TableCell]:
    energies = np.array([run.energy for run in runs])
    gaps = np.array([run.energy - results.reference.energy if math.isfinite(run.energy) else math.inf for run in runs])
    settled = np.mean([run.status in (Status.CONVERGED, Status.OPTIMAL) for run in runs])
    bound = max(run.bound for run in runs)
    return [
        cell(*mean_and_spread(energies)),
        cell(*mean_and_spread(gaps)),
        cell(share_at_reference(results, runs), percent=True),
        cell(bound if math.isfinite(bound) else math.nan),
        cell(float(np.median([run.iterations for run in runs]))),
        cell(float(settled), percent=True),
    ]


def share_at_reference(results: Results, runs: Sequence[Run]) -> float:
    """Return the share of runs whose best energy is that of the reference."""
    return float(np.mean([meets(run.energy, results.reference.energy) for run in runs]))


def rate_table(rates: Sequence[Rate]) -> TableView:
    """Return the rates."""
    view = TableView(
        [
            ("error measured", ""),
            ("kind", "linear: a factor per iteration; sublinear: a power of the iteration"),
            ("rate", "median over the runs with a fit"),
            ("lowest – highest", "over the runs with a fit"),
            ("R²", "median; of the logarithm of the error over the tail"),
            ("runs with a fit", ""),
        ]
    )
    for rate in rates:
        known = rate.kind != "none"
        rated = f"× {written(rate.median, 4)}" if rate.kind == "linear" else f"k^{written(rate.median, 3)}"
        cells = [
            text(QUANTITIES[rate.quantity]),
            text(rate.kind),
            TableCell(rated, rate.median) if known else text("–"),
            text(f"{written(rate.low, 4)} – {written(rate.high, 4)}" if known else "–"),
            TableCell(f"{rate.quality:.4f}", rate.quality) if known else text("–"),
            text(f"{rate.fitted} of {rate.runs}"),
        ]
        view.rows.append(Row(rate.solver, cells))
    return view


def basin_table(results: Results) -> TableView:
    """Return how many fixed points each solver has, and how good they are."""
    view = TableView(
        [
            ("told apart", ""),
            ("distinct", "fixed points reached"),
            ("effective", "number of equally large basins with the same entropy"),
            ("largest basin", "share of the starts"),
            ("its energy", ""),
            ("lowest energy", "of all fixed points"),
            ("reach it", "share of the starts"),
            ("unsettled", "starts that led to no fixed point within the iterations"),
        ]
    )
    for found in results.basins:
        view.rows.append(Row(found.solver, [text(found.kind), *_basin_cells(found)]))
    return view


def _basin_cells(found: Basins) -> list[TableCell]:
    if not found.basins:
        return [cell(0), *[text("–")] * 5, cell(found.unsettled)]
    largest, lowest = found.basins[0], min(basin.energy for basin in found.basins)
    reach = sum(basin.count for basin in found.basins if meets(basin.energy, lowest)) / found.starts
    return [
        cell(len(found.basins)),
        TableCell(f"{effective_number(found):.1f}", effective_number(found)),
        cell(largest.count / found.starts, percent=True),
        cell(largest.energy),
        cell(lowest),
        cell(reach, percent=True),
        cell(found.unsettled),
    ]


def stability_facts(found: Bistability) -> list[tuple[str, str, str]]:
    """Return name, number and explanation of what is known about the temperature scale."""
    stability = found.stability
    facts = [
        (
            "predicted critical β",
            written(stability.critical),
            "one over the largest eigenvalue of the mean-field update at the uniform point; for spins, of the couplings"
            + ("" if stability.symmetric else "; the unary costs make the transition smooth, so it is only a scale"),
        )
    ]
    if math.isfinite(found.onset):
        off = abs(found.onset / stability.critical - 1)
        facts.append(("measured onset of order", written(found.onset), f"{off:.2%} from the prediction"))
    elif stability.symmetric:
        facts.append(("measured onset of order", "–", "the polarisation jumps, or does not set in within the range"))
    facts.append(
        (
            "parallel updates flip above β",
            written(stability.flip),
            "where the smallest eigenvalue passes −1: without damping, updating all variables at once oscillates",
        )
    )
    if found.loop is not None:
        facts.append(
            (
                "width of the loop",
                written(found.loop.width, 3),
                f"range of fields with two branches at β = {found.loop.beta:.3g}",
            )
        )
    if found.exact is None:
        facts.append(("exact magnetisation", "–", "too many labellings to enumerate; a smaller model shows it"))
    return facts


def schedule_table(results: Results) -> TableView:
    """Return mean and spread of the best energy under each schedule."""
    solvers = [name for name in ANNEALED if any(row.solver == name for row in results.annealed)]
    view = TableView([(name, "best energy: mean over the seeds, and standard deviation") for name in solvers])
    found = {(row.solver, row.schedule): row for row in results.annealed}
    for schedule in compared_schedules(1, 2):
        known = [found.get((solver, schedule)) for solver in solvers]
        cells = [text("–") if row is None else cell(*mean_and_spread(row.finals)) for row in known]
        view.rows.append(Row(schedule, cells))
    for column, _ in enumerate(solvers):
        best = min((row.cells[column].sort for row in view.rows), default=math.nan, key=lambda x: (math.isnan(x), x))
        tied = len({row.cells[column].sort for row in view.rows}) == 1
        for row in view.rows:
            row.cells[column].best = row.cells[column].sort == best and not tied
    return view
