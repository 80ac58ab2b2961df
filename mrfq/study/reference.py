"""What energies are compared with: the exact optimum where it can be computed, otherwise the best known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mrfq import registry
from mrfq.problem import Problem, mismatch
from mrfq.solution import meets
from mrfq.solve import solve
from mrfq.study.runs import Run

#: exact solvers in the order they are tried, with the parameters that keep them to a few seconds
EXACT: dict[str, dict[str, Any]] = {"exhaustive": {"limit": 2**18}, "elimination": {"memory": 2**28}}
#: seconds after which an exact solver is given up
PATIENCE = 20.0


@dataclass(frozen=True)
class Reference:
    """An energy, whether it is proved optimal, and in words where it is from."""

    energy: float
    exact: bool
    source: str

    @property
    def name(self) -> str:
        """What a gap is a gap to."""
        return "the exact optimum" if self.exact else "the best energy found"


def exact_reference(problem: Problem) -> Reference | None:
    """Return the optimum if one of the exact solvers finds it soon, otherwise None."""
    for name, parameters in EXACT.items():
        if name not in registry.names():
            continue
        solver = registry.make(name, **parameters)
        if mismatch(problem, solver) is None:
            solution = solve(problem, solver, time_limit=PATIENCE)
            if solution.proved:
                return Reference(solution.energy, True, f"the exact optimum, by the solver {name!r}")
    return None


def best_known(runs: Iterable[Run]) -> Reference:
    """Return the lowest energy of the runs; it is exact if one of them has a bound that meets it."""
    known = list(runs)
    if not known:
        return Reference(math.nan, False, "no run has finished")
    best = min(known, key=lambda run: run.energy)
    prover = max(known, key=lambda run: run.bound)
    if math.isfinite(prover.bound) and meets(best.energy, prover.bound):
        return Reference(best.energy, True, f"the exact optimum, proved by the bound of {prover.solver}")
    return Reference(
        best.energy, False, f"the best energy found in this study, by {best.solver}; it may not be optimal"
    )
