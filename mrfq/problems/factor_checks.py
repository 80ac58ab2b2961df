"""Checks of the parts of a factor graph: one clear message that names the first bad entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrfq.errors import InvalidProblemError
from mrfq.problem import Factor


def check_cardinalities(given: Any) -> np.ndarray:
    """Return the numbers of labels as a new (n,) int64 array."""
    counts = np.asarray(given)
    if counts.ndim != 1 or counts.size == 0 or counts.dtype.kind not in "iu":
        raise InvalidProblemError(
            f"cardinalities need shape (n,), n at least 1, and whole numbers, got {counts.shape} and {counts.dtype}"
        )
    if counts.min() < 1:
        i = int((counts < 1).argmax())
        raise InvalidProblemError(f"cardinalities[{i}] is {counts[i]}, but every variable needs a label")
    return counts.astype(np.int64)


def check_factor(number: int, scope: Sequence[int], table: Any, counts: Sequence[int]) -> Factor:
    """Return a factor with its costs as a float64 array."""
    where = f"factors[{number}]"
    variables = tuple(int(i) for i in scope)
    for i in variables:
        if not 0 <= i < len(counts):
            raise InvalidProblemError(f"{where} has variable {i}, but they are numbered 0 to {len(counts) - 1}")
    if len(set(variables)) < len(variables):
        raise InvalidProblemError(f"{where} has a variable twice in its scope {variables}")
    try:
        costs = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidProblemError(f"{where}: the table is not an array of numbers: {error}") from error
    expected = tuple(counts[i] for i in variables)
    if costs.shape != expected:
        raise InvalidProblemError(
            f"{where}: a table on variables {variables} needs shape {expected}, got {costs.shape}"
        )
    bad = np.isnan(costs) | (costs == -np.inf)
    if bad.any():
        at = tuple(np.argwhere(bad)[0].tolist())
        value = "NaN" if np.isnan(costs[at]) else "-inf"
        raise InvalidProblemError(f"{where}: the table is {value} at {at}; costs are finite, or +inf if forbidden")
    return Factor(variables, costs)
