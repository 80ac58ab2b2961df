"""Costs as whole numbers, for exact solvers that compute with those, such that bounds carry over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mrfq.problem import Factor, SupportsFactors
from mrfq.solvers.local_polytope import UNIT, grain, on_grid

#: bits of the largest energy in whole numbers: exact in float64, and far from the 59 bits of toulbar2's largest cost
BITS = 50


@dataclass(frozen=True)
class WholeNumbers:
    """A model whose costs are whole numbers, never above those of the true model times `scale` minus `constant`."""

    cardinalities: list[int]
    factors: list[Factor]
    constant: float
    scale: float
    #: more than any allowed labelling costs; the cost of what is forbidden
    top: int
    #: largest error of `constant`, before scaling
    slack: float
    grain: float

    @classmethod
    def of(cls, problem: SupportsFactors) -> WholeNumbers | None:
        """Return the model in whole numbers, or None if some table forbids everything."""
        given = problem.factors()
        lows = [float(table.min()) for _, table in given]
        if math.inf in lows:
            return None
        above = [table - low for (_, table), low in zip(given, lows, strict=True)]
        spread = math.fsum(_highest(table) for table in above)
        step = grain(given)
        scale = 2.0 ** (BITS - max(0, math.frexp(spread)[1])) if spread >= 1 else 2.0**BITS
        if step:
            scale = min(scale, 1 / step)
        whole = [np.floor(table * scale) for table in above]
        top = 1 + sum(int(_highest(table)) for table in whole)
        factors = [
            Factor(factor.scope, np.where(np.isfinite(table), table, top))
            for factor, table in zip(given, whole, strict=True)
        ]
        # Each difference is off by less than a unit of it, and the sum of the lows by less than one of theirs.
        slack = 4 * UNIT * (spread + sum(map(abs, lows)))
        return cls(problem.cardinalities.tolist(), factors, math.fsum(lows), scale, top, slack, step)

    def cost(self, labels: Tensor) -> int:
        """Return the cost of a labelling, at most `top`."""
        chosen = labels.tolist()
        cost = sum(int(table[tuple(chosen[i] for i in scope)]) for scope, table in self.factors)
        return min(cost, self.top)

    def bound(self, lower: int) -> float:
        """Return the bound of the energy that follows from one of the costs; +inf if everything is forbidden."""
        if lower >= self.top:
            return math.inf
        return on_grid(self.constant + lower / self.scale - self.slack, self.grain)


def _highest(table: np.ndarray) -> float:
    return float(table[np.isfinite(table)].max())
