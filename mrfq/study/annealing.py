"""Annealing schedules against each other, at equal numbers of sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrfq.oracle import Oracle
from mrfq.schedules import Constant, Cosine, Geometric, InverseSigmoid, Linear, Schedule
from mrfq.solve import solve
from mrfq.solver import Solver
from mrfq.solvers.site import MeanField, SimulatedAnnealing, temperature_schedule
from mrfq.study.plan import Study
from mrfq.study.runs import Floats

#: what is annealed
ANNEALED: dict[str, type[Solver[Any]]] = {"simulated annealing": SimulatedAnnealing, "mean-field": MeanField}


@dataclass(frozen=True)
class Scaled(Schedule):
    """A schedule times a factor.

    Examples
    --------
    >>> Scaled(3.0, Linear(1, 2))(0.5)
    4.5
    """

    factor: float
    inner: Schedule

    def __call__(self, progress: float, iteration: int = 0) -> float:
        return self.factor * self.inner(progress, iteration)

    @property
    def constant(self) -> bool:
        return self.inner.constant


@dataclass(frozen=True)
class Annealed:
    """Runs of one solver under one schedule: best energy so far, (seeds, sweeps + 1)."""

    solver: str
    schedule: str
    best: Floats

    @property
    def finals(self) -> Floats:
        """The best energy of each seed."""
        last: Floats = self.best[:, -1]
        return last


def compared_schedules(first: float, last: float) -> dict[str, Schedule]:
    """Return the schedules of beta from `first` to `last`; the constant one lies at their geometric mean."""
    return {
        "constant": Constant(math.sqrt(first * last)),
        "geometric": Geometric(first, last),
        "linear": Linear(first, last),
        "cosine": Cosine(first, last),
        "inverse-sigmoid": Scaled(first, InverseSigmoid(last=last / first)),
    }


def ends(study: Study) -> tuple[float, float]:
    """Return the first and last beta, those of the annealing solvers' own schedule."""
    own = temperature_schedule(Oracle(study.problem, 0))
    return own.first, own.last


def compare_schedules(study: Study) -> Iterator[Annealed]:
    """Yield each solver under each schedule, over the seeds of a study, from random starts."""
    for solver, kind in ANNEALED.items():
        for name, schedule in compared_schedules(*ends(study)).items():
            rows = [_best(study, kind(beta=schedule), seed) for seed in range(study.seeds)]  # type: ignore[call-arg]
            yield Annealed(solver, name, np.stack(rows))


def _best(study: Study, solver: Solver[Any], seed: int) -> Floats:
    """Return the best energy after each sweep; a run that ends early stays where it ended."""
    sweeps = study.iterations
    trace = solve(study.problem, solver, init="random", max_iters=sweeps, seed=seed, trace_every=1).trace
    best = np.array(trace["best_energy"])
    return np.pad(best, (0, sweeps + 1 - len(best)), mode="edge")
