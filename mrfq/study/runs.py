"""Runs of every solver from every start with every seed, with all that was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mrfq.solution import Status
from mrfq.solve import solve
from mrfq.study.recording import Recorded

if TYPE_CHECKING:
    from mrfq.study.plan import Study

Floats = NDArray[np.float64]
#: columns of the trace that a study keeps: times are left out, since they cannot be repeated
KEPT = ("iteration", "oracle_calls", "energy", "best_energy", "bound", "entropy", "beta", "changed")


@dataclass(frozen=True)
class Run:
    """One run and its columns: those of the trace, `free_energy` and `residual`; one row for the start and per step."""

    solver: str
    start: str
    seed: int
    status: Status
    #: best energy
    energy: float
    #: largest lower bound, -inf without one
    bound: float
    iterations: int
    columns: dict[str, Floats]


def trace_runs(study: Study) -> Iterator[Run]:
    """Yield the runs of a study, one after another."""
    for name, solver in study.all_solvers.items():
        for start in study.starts:
            for seed in range(study.seeds):
                solution = solve(
                    study.problem,
                    Recorded(solver),
                    init=start,
                    max_iters=study.iterations,
                    seed=seed,
                    trace_every=1,
                )
                trace = {key: solution.trace[key] for key in KEPT} | solution.checkpoint.state.log
                columns = {key: np.array(values, dtype=np.float64) for key, values in trace.items()}
                bound = -math.inf if solution.lower_bound is None else solution.lower_bound
                yield Run(name, start, seed, solution.status, solution.energy, bound, solution.iterations, columns)
