"""Traces of several seeds on one axis: what the figures draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrfq.compare.results import Results, Run

Floats = NDArray[np.float64]
Axis = Literal["oracle_calls", "seconds"]
POINTS = 90
#: the fraction of the initial gap below which figures call a run solved
FLOOR = 1e-3


@dataclass(frozen=True)
class Curve:
    """Mean over the seeds, and the lowest and highest seed, at points of an axis."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def left_over(run: Run) -> Floats:
    """Return the fraction of the initial gap that is left at each point of a run's trace."""
    scale = run.scale
    gaps = np.array([run.above(energy) for energy in run.record.trace["best_energy"]])
    left: Floats = gaps / scale if scale > 0 else np.zeros_like(gaps)
    return left


def best_energy(run: Run) -> Floats:
    """Return the best energy so far at each point of a run's trace."""
    return np.array(run.record.trace["best_energy"], dtype=float)


def entropy(run: Run) -> Floats:
    """Return the mean entropy of a variable, as a fraction of its largest."""
    largest = math.log(max(run.record.shape[1], 2))
    return np.array(run.record.trace["entropy"], dtype=float) / largest


def rounding_gap(run: Run) -> Floats:
    """Return relaxed minus rounded energy, as a fraction of the initial gap for an MRF."""
    trace = run.record.trace
    gap = _running_median(np.array(trace["relaxed_energy"], dtype=float) - np.array(trace["energy"], dtype=float))
    if run.cell.problem.family == "network":
        return gap
    return gap / run.scale if run.scale > 0 else gap


def _running_median(values: Floats, width: int = 7) -> Floats:
    """Return the median of each value and its neighbours; mini-batches and oscillations hide the trend otherwise."""
    known = np.isfinite(values)
    if known.sum() < width:
        return values
    padded = np.pad(values[known], width // 2, mode="edge")
    smooth = np.full_like(values, np.nan)
    smooth[known] = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    return smooth


def curve(runs: Sequence[Run], axis: Axis, values: Callable[[Run], Floats], budget: float) -> Curve | None:
    """Return the curve of a solver on a problem, or None if there is nothing to draw.

    Against oracle calls a run that ended early stays where it ended; against seconds the curve ends with it.
    """
    known = [series for run in runs if (series := _series(run, axis, values)) is not None]
    if not known:
        return None
    grid = _grid([x for x, _ in known], axis, budget)
    rows = np.stack([_step(x, y, grid) for x, y in known])
    return Curve(grid, rows.mean(0), rows.min(0), rows.max(0))


def _series(run: Run, axis: Axis, values: Callable[[Run], Floats]) -> tuple[Floats, Floats] | None:
    y = values(run)
    known = np.isfinite(y)
    if not known.any():
        return None
    return np.array(run.record.trace[axis], dtype=float)[known], y[known]


def _grid(series: list[Floats], axis: Axis, budget: float) -> Floats:
    if axis == "oracle_calls":
        return np.linspace(0.0, budget, POINTS + 1)
    positive = np.concatenate([x[x > 0] for x in series])
    if not len(positive):
        return np.array([1e-6])
    return np.geomspace(positive.min(), max(x[-1] for x in series), POINTS)


def _step(x: Floats, y: Floats, grid: Floats) -> Floats:
    """Return the value of the last point at or before each point of the grid."""
    found: Floats = y[np.maximum(np.searchsorted(x, grid, side="right") - 1, 0)]
    return found


def calls_to_solve(run: Run, level: float) -> float:
    """Return the oracle calls after which at most a fraction `level` of the initial gap is left; inf if never."""
    reached = np.flatnonzero(left_over(run) <= level)
    return float(run.record.trace["oracle_calls"][reached[0]]) if len(reached) else np.inf


def instances(results: Results) -> list[tuple[str, int]]:
    """Return the MRF instances (problem and seed) that any solver ran on."""
    names = {problem.name for problem in results.problems("mrf")}
    return sorted({(run.problem, run.cell.seed) for run in results.runs if run.problem in names and run.record.ran})


def quality_profile(results: Results, solver: str, levels: Floats) -> Floats:
    """Return the fraction of all MRF instances on which a solver leaves at most each level of the initial gap."""
    left = [run.remaining for problem in results.problems("mrf") for run in results.ran(problem.name, solver)]
    gaps = np.array([0.0 if np.isnan(value) else value for value in left])
    counts: Floats = (gaps[None] <= levels[:, None]).sum(1) / max(len(instances(results)), 1)
    return counts


def speed_profile(results: Results, level: float, ratios: Floats) -> dict[str, Floats]:
    """Return Dolan and More's profile of every solver: fraction of instances solved within each ratio of the fastest.

    An instance is solved when at most `level` of its initial gap is left, at the cost of one more than the oracle
    calls made by then. Solvers that do not fit an instance have not solved it.
    """
    places = {place: i for i, place in enumerate(instances(results))}
    solvers = [s for s in results.solvers() if any(results.ran(p.name, s) for p in results.problems("mrf"))]
    costs = np.full((len(solvers), len(places)), np.inf)
    for row, solver in enumerate(solvers):
        for problem in results.problems("mrf"):
            for run in results.ran(problem.name, solver):
                costs[row, places[run.problem, run.cell.seed]] = 1 + calls_to_solve(run, level)
    fastest = costs.min(0) if solvers else np.zeros(0)
    relative = np.divide(costs, fastest, out=np.full_like(costs, np.inf), where=np.isfinite(costs))
    return {
        solver: (relative[row][None] <= ratios[:, None]).mean(1) if places else np.zeros_like(ratios)
        for row, solver in enumerate(solvers)
    }
