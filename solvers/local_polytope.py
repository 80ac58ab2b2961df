"""The local marginal polytope of a model as sparse matrices, and a bound that does not trust who solves it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from mrfq.problem import Factor, Problem, SupportsFactors
from mrfq.solution import Status

#: half the distance from 1 to the next float64
UNIT = 2.0**-53
#: of HiGHS, for rows and for reduced costs; the default of 1e-7 costs digits of the bound
TOLERANCE = 1e-9
#: finest grid of costs that is looked for: multiples of 2^-20
FINEST = 20


def too_many_columns(problem: Problem, limit: int) -> str | None:
    """Return why a problem is too large for a program with so many indicators, or None."""
    model = cast(SupportsFactors, problem)
    tables = sum(factor.table.size for factor in model.factors() if len(factor.scope) > 1)
    count = int(model.cardinalities.sum()) + tables
    if count > limit:
        return f"its program has {count:,} indicators of labels and configurations, the limit is {limit:,}"
    return None


@dataclass(frozen=True)
class Relaxed:
    """What a linear program came to."""

    bound: float
    status: Status
    #: (n, L) with rows on the simplex, or None if there is no solution
    marginals: np.ndarray | None = None


class LocalPolytope:
    """The local marginal polytope of a model, in the form of `scipy.optimize`.

    Costs are shifted to a lowest cost of 0 in each table and scaled to a highest of 1, which HiGHS's absolute
    tolerances ask for. Forbidden labels and configurations have no column.

    Attributes
    ----------
    costs : (columns,) float64
    matrix : (rows, columns) sparse
        Indicators of the labels of a variable add up to 1, then those of factors agree with those of labels.
    right : (rows,) float64
    scale, constant : float
        Energy = constant + scale * program's objective.
    infeasible : bool
        Some table forbids everything; then there are no costs and no matrix.
    """

    def __init__(self, problem: SupportsFactors) -> None:
        self.cardinalities = problem.cardinalities.cpu().numpy()
        given = list(problem.factors())
        tables, self.constant, self.scale, self.infeasible = _normalised(given)
        self.grain = grain(given)
        self.unary = np.where(np.arange(self.cardinalities.max()) < self.cardinalities[:, None], 0.0, np.inf)
        self.factors: list[Factor] = []
        for factor in tables:
            if len(factor.scope) == 1:
                self.unary[factor.scope[0], : len(factor.table)] += factor.table
            elif factor.scope:
                self.factors.append(factor)
        self.infeasible |= bool((self.unary == np.inf).all(1).any())
        #: number of tables, and the largest number of terms in a reparametrised cost
        self.terms = len(tables)
        degree = np.bincount([i for factor in tables for i in factor.scope], minlength=1)
        self.longest = int(degree.max()) + max((len(factor.scope) for factor in tables), default=0)
        if not self.infeasible:
            self._assemble()

    def _assemble(self) -> None:
        n = len(self.cardinalities)
        allowed = np.isfinite(self.unary)
        self.column = np.where(allowed, allowed.ravel().cumsum().reshape(allowed.shape) - 1, -1)
        self.labels = int(allowed.sum())
        #: first row of each factor's agreement with each of its variables
        self.rows: list[list[int]] = []
        row, column = n, self.labels
        costs = [self.unary[allowed]]
        entries = [(np.nonzero(allowed)[0], self.column[allowed], np.ones(self.labels))]
        for scope, table in self.factors:
            finite = np.isfinite(table)
            configurations = np.nonzero(finite)
            columns = column + np.arange(len(configurations[0]))
            column += len(columns)
            costs.append(table[finite])
            self.rows.append([])
            for i, chosen in zip(scope, configurations, strict=True):
                self.rows[-1].append(row)
                own = np.flatnonzero(allowed[i])
                entries.append((row + chosen, columns, np.ones(len(columns))))
                entries.append((row + own, self.column[i, own], np.full(len(own), -1.0)))
                row += int(self.cardinalities[i])
        rows, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
        self.costs = np.concatenate(costs)
        self.matrix = csr_array((values, (rows, columns)), shape=(row, column))
        self.right = np.where(np.arange(row) < n, 1.0, 0.0)

    def relax(self, seconds: float | None = None, allowed: np.ndarray | None = None) -> Relaxed:
        """Solve the linear program, with some labels (n, L) only if they are given; the bound is a proved one."""
        upper = np.full(len(self.costs), np.inf)
        if allowed is not None:
            upper[: self.labels] = np.where(allowed[self.column >= 0], np.inf, 0.0)
        found = linprog(
            self.costs,
            A_eq=cast(Any, self.matrix),  # the type stubs know dense matrices and pairs only
            b_eq=self.right,
            bounds=cast(Any, np.stack([np.zeros(len(upper)), upper], 1)),
            method="highs",
            options={
                "primal_feasibility_tolerance": TOLERANCE,
                "dual_feasibility_tolerance": TOLERANCE,
                "time_limit": math.inf if seconds is None else seconds,
            },
        )
        if found.x is None:  # even no multipliers make a bound
            status = Status.TIME_LIMIT if found.status == 1 else Status.CONVERGED
            return Relaxed(self.bound(np.zeros(len(self.right)), allowed), status)
        return Relaxed(self.bound(found.eqlin.marginals, allowed), Status.CONVERGED, self.marginals(found.x))

    def marginals(self, solution: np.ndarray) -> np.ndarray:
        """Return the (n, L) indicators of labels of a solution, with rows on the simplex."""
        u: np.ndarray = np.where(self.column >= 0, solution[self.column].clip(0.0, 1.0), 0.0)
        u[u.sum(1) == 0, 0] = 1.0
        u /= u.sum(1, keepdims=True)
        return u

    def bound(self, multipliers: np.ndarray, allowed: np.ndarray | None = None) -> float:
        r"""Return a lower bound of the energy (with these labels only), valid for any multipliers of the rows.

        With :math:`\lambda_{fi}(a)` those of the agreement of factor f with variable i, the energy is

        .. math:: \sum_i \Big(\theta_i + \sum_{f \ni i} \lambda_{fi}\Big)(x_i)
                  + \sum_f \Big(\theta_f - \sum_{i \in f} \lambda_{fi}\Big)(x_f),

        and every bracket is at least its minimum. What rounding may have added is taken off, and if all energies
        lie on a grid the bound goes up to the next of its points.
        """
        unary, lowest = self.unary.copy(), []
        size = float(self.terms + len(unary))  # sum of the largest absolute values of all that is added below
        for (scope, table), rows in zip(self.factors, self.rows, strict=True):
            moved = table
            for axis, (i, row) in enumerate(zip(scope, rows, strict=True)):
                message = multipliers[row : row + table.shape[axis]]
                unary[i, : len(message)] += message
                moved = moved - message.reshape([-1 if k == axis else 1 for k in range(table.ndim)])
                size += 2 * float(np.abs(message).max())
            lowest.append(float(moved.min()))
        if allowed is not None:
            unary[~allowed] = np.inf
        total = math.fsum(lowest + unary.min(1).tolist())
        # A sum of k terms is off by less than k units of the sum of their absolute values; 4 are for the scaling.
        slack = UNIT * (self.longest + 4) * size
        value = self.constant + self.scale * (total - slack)
        return on_grid(value - 4 * UNIT * (abs(self.constant) + self.scale * abs(total)), self.grain)

    def supported(self, allowed: np.ndarray) -> np.ndarray | None:
        """Return the labels (n, L) left by arc consistency, or None if a variable has none left: nothing is feasible.

        A label goes when every configuration with it is forbidden in some factor, or has a label that is gone.
        """
        allowed = allowed & np.isfinite(self.unary)
        before = -1
        while before != (before := int(allowed.sum())):
            for scope, table in self.factors:
                possible = np.isfinite(table)
                for axis, i in enumerate(scope):
                    possible &= allowed[i, : table.shape[axis]].reshape(
                        [-1 if k == axis else 1 for k in range(table.ndim)]
                    )
                for axis, i in enumerate(scope):
                    others = tuple(k for k in range(table.ndim) if k != axis)
                    allowed[i, : table.shape[axis]] &= possible.any(others)
        return allowed if bool(allowed.any(1).all()) else None


def _normalised(factors: Iterable[Factor]) -> tuple[list[Factor], float, float, bool]:
    """Return tables with a lowest cost of 0 and a highest of 1, what was taken off in all, and the scale."""
    lows: list[float] = []
    shifted: list[Factor] = []
    highest = 0.0
    for scope, table in factors:
        low = float(table.min())
        if low == math.inf:
            return [], 0.0, 1.0, True
        lows.append(low)
        above = table - low
        shifted.append(Factor(scope, above))
        highest = max(highest, float(above[np.isfinite(above)].max()))
    scale = highest or 1.0
    return [Factor(scope, table / scale) for scope, table in shifted], math.fsum(lows), scale, False


def grain(factors: Iterable[Factor]) -> float:
    """Return the largest 2^-k of which all costs are multiples, so that all energies are; 0 if there is none."""
    parts = [table[np.isfinite(table)] for _, table in factors]
    costs = np.concatenate([np.zeros(1), *parts])
    if sum(float(np.abs(part).max(initial=0.0)) for part in parts) * 2.0**FINEST >= 2.0**52:
        return 0.0  # sums of such numbers are not exact
    for k in range(FINEST + 1):
        if bool((np.mod(costs, 2.0**-k) == 0).all()):
            return 2.0**-k
    return 0.0


def on_grid(bound: float, step: float) -> float:
    """Return the smallest multiple of `step` that is not below the bound; the bound itself if the step is 0."""
    return math.ceil(bound / step) * step if step and math.isfinite(bound) else bound
