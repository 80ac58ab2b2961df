"""Basins of attraction: which fixed points a solver reaches from many random starts, and how often."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mrfq.problem import Problem
from mrfq.solution import Solution, Status
from mrfq.solve import solve
from mrfq.solver import Solver
from mrfq.study.plan import Study, changes_beta, is_mean_field
from mrfq.study.recording import free_energy

#: relaxed labellings whose probabilities differ by no more than this are one fixed point
TOLERANCE = 1e-3
#: a run may take so many times the iterations of a study to settle
LONGER = 5


@dataclass(frozen=True)
class Basin:
    """A fixed point: how many starts lead to it, its (rounded) labelling, its energy and free energy."""

    count: int
    labels: tuple[int, ...]
    energy: float
    free_energy: float


@dataclass(frozen=True)
class Basins:
    """The fixed points of a solver, the most frequent first.

    Parameters
    ----------
    solver : str
    kind : str
        What is told apart: "labellings" or "marginals".
    starts : int
        Number of starts, `unsettled` of which led nowhere within the iterations.
    basins : tuple of Basin
    """

    solver: str
    kind: str
    starts: int
    unsettled: int
    basins: tuple[Basin, ...]

    @property
    def settled(self) -> int:
        """Number of starts that led to a fixed point."""
        return self.starts - self.unsettled


def find_basins(study: Study, name: str, advance: Callable[[], None] = lambda: None) -> Basins:
    """Run a solver from the random starts of a study, and tell apart where it ends.

    Solvers that change beta are taken as settled at the end of their schedule; others when they say so.
    """
    solver = study.all_solvers[name]
    constant = not changes_beta(solver)
    iterations = study.iterations * (LONGER if constant else 1)
    marginals = is_mean_field(solver) and constant
    ends: list[Tensor] = []
    for solution in _runs(study.problem, solver, iterations, study.basin_starts):
        advance()
        if not constant or solution.status in (Status.CONVERGED, Status.OPTIMAL):
            u = solution.relaxed
            ends.append(u if marginals else study.problem.label_set.one_hot(study.problem.label_set.round(u)))
    beta = float(solver.beta if isinstance(solver.beta, int | float) else solver.beta(0.0)) if marginals else None  # type: ignore[attr-defined]
    basins = [_basin(study.problem, u, count, beta) for u, count in distinct(ends)]
    basins.sort(key=lambda basin: (-basin.count, basin.energy))
    kind = "marginals" if marginals else "labellings"
    return Basins(name, kind, study.basin_starts, study.basin_starts - len(ends), tuple(basins))


def _runs(problem: Problem, solver: Solver[Any], iterations: int, starts: int) -> Iterator[Solution]:
    for seed in range(starts):
        # Only the end is looked at, so the loop need not evaluate what is before.
        yield solve(problem, solver, init="random", max_iters=iterations, seed=seed, trace_every=iterations)


def distinct(points: list[Tensor], tolerance: float = TOLERANCE) -> list[tuple[Tensor, int]]:
    """Return the first of each group of points no further apart than `tolerance` in any entry, with the group's size.

    Examples
    --------
    >>> import torch
    >>> [count for _, count in distinct([torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([1e-6])])]
    [2, 1]
    """
    kept: list[Tensor] = []
    counts: list[int] = []
    for point in points:
        near = (i for i, other in enumerate(kept) if float((point - other).abs().max()) <= tolerance)
        place = next(near, None)
        if place is None:
            kept.append(point)
            counts.append(1)
        else:
            counts[place] += 1
    return list(zip(kept, counts, strict=True))


def _basin(problem: Problem, u: Tensor, count: int, beta: float | None) -> Basin:
    labels = problem.label_set.round(u)
    free = math.nan if beta is None else free_energy(u, float(problem.linearize(u)[0]), beta)
    return Basin(count, tuple(labels.tolist()), problem.energy(labels), free)


def effective_number(basins: Basins) -> float:
    """Return the number of equally large basins with the same entropy as these: 1 if all starts end alike."""
    shares = np.array([basin.count for basin in basins.basins], dtype=np.float64) / max(basins.settled, 1)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else math.nan
