"""Two-label pairwise models as quadratic forms, for the formats that hold nothing else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrfq.errors import InvalidProblemError
from mrfq.io.limits import LARGEST_NUMBER
from mrfq.problem import SupportsFactors

#: what is smaller than this, relative to all costs together, is rounding
ROUNDING = 1e-13


class Quadratic(NamedTuple):
    """The energy `constant + sum_i linear_i v_i + sum_ij couplings_ij v_i v_j`, for v in {0, 1} or {-1, 1}."""

    constant: float
    linear: np.ndarray
    couplings: np.ndarray


class TwoLabelCosts(NamedTuple):
    """Costs of a model whose variables all have two labels: (n, 2) unary, (m, 2) edges, (m, 2, 2) tables."""

    constant: float
    unary: np.ndarray
    edges: np.ndarray
    tables: np.ndarray

    def negligible(self, *parts: float | np.ndarray) -> bool:
        """Return whether numbers are no more than rounding, compared to all the costs."""
        total = abs(self.constant) + np.abs(self.unary).sum() + np.abs(self.tables).sum()
        return bool(sum(np.abs(part).sum() for part in parts) <= ROUNDING * total)

    def in_bits(self) -> Quadratic:
        """Return the energy in v = x, the labels themselves."""
        linear, (i, j), t = self.unary[:, 1] - self.unary[:, 0], self.edges.T, self.tables
        np.add.at(linear, i, t[:, 1, 0] - t[:, 0, 0])
        np.add.at(linear, j, t[:, 0, 1] - t[:, 0, 0])
        constant = self.constant + self.unary[:, 0].sum() + t[:, 0, 0].sum()
        return Quadratic(float(constant), linear, (t[:, 0, 0] - t[:, 0, 1]) + (t[:, 1, 1] - t[:, 1, 0]))

    def in_spins(self) -> Quadratic:
        """Return the energy in v = 2 x - 1; label 1 is spin +1."""
        linear, (i, j), t = (self.unary[:, 1] - self.unary[:, 0]) / 2, self.edges.T, self.tables
        straight, turned = (t[:, 1, 1] - t[:, 0, 0]) / 4, (t[:, 1, 0] - t[:, 0, 1]) / 4
        np.add.at(linear, i, straight + turned)
        np.add.at(linear, j, straight - turned)
        equal, different = t[:, 0, 0] + t[:, 1, 1], t[:, 0, 1] + t[:, 1, 0]
        constant = self.constant + self.unary.sum() / 2 + (equal + different).sum() / 4
        return Quadratic(float(constant), linear, (equal - different) / 4)


def two_label_costs(problem: SupportsFactors, format: str) -> TwoLabelCosts:
    """Return the costs of a model with two labels a variable and at most two variables a factor.

    Raises
    ------
    InvalidProblemError
        Any other model; the message says what `format` cannot hold.
    """
    counts = problem.cardinalities.numpy()
    if (counts != 2).any():
        i = int((counts != 2).argmax())
        raise InvalidProblemError(f"variable {i} has {counts[i]} labels, but {format} holds variables with two")
    constant, unary = 0.0, np.zeros((len(counts), 2))
    edges, tables = [], []
    for number, (scope, table) in enumerate(problem.factors()):
        if len(scope) > 2 or not np.isfinite(table).all():
            what = f"{len(scope)} variables" if len(scope) > 2 else "a cost of +inf"
            raise InvalidProblemError(f"factor {number} has {what}, which {format} cannot hold; write .LG or .json")
        if len(scope) == 2:
            edges.append(scope)
            tables.append(table)
        elif scope:
            unary[scope[0]] += table
        else:
            constant += float(table)
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return TwoLabelCosts(constant, unary, pairs, np.array(tables).reshape(-1, 2, 2))


def lines(header: str, i: np.ndarray, j: np.ndarray, weights: np.ndarray) -> str:
    """Return a file of a header and lines `i j w`, numbered from 1."""
    largest = np.abs(weights).max(initial=0.0)
    if largest > LARGEST_NUMBER:
        raise InvalidProblemError(f"a weight of {largest:g} is too large for a file; write .json")
    rows = zip((i + 1).tolist(), (j + 1).tolist(), map(_number, weights.tolist()), strict=True)
    return "\n".join([header, *(f"{a} {b} {w}" for a, b, w in rows)]) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
