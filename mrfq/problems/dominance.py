"""Labels that some optimum does without, because another one is never worse."""

from __future__ import annotations

import numpy as np

from mrfq.problem import Factor, SupportsFactors


def dominated(problem: SupportsFactors) -> np.ndarray:
    """Return the (n, L) bool array of labels that another label of their variable can always stand in for.

    Label b stands in for label a of variable i if putting b for a costs nothing whatever the others are, factor by
    factor: `sum over f of max over the others of theta_f(b, .) - theta_f(a, .) <= 0`. Some optimum uses none of the
    labels found. A finding takes all labels of the other variables to be there, so only variables that share no
    factor are treated in one call: call again on the reduced model.

    Notes
    -----
    Dead-end elimination: Goldstein, Biophysical Journal 1994, in its simple form.
    """
    counts = problem.cardinalities.tolist()
    widest = max(counts)
    excess = np.zeros((len(counts), widest, widest))  # [i, a, b]: the most that b instead of a can cost
    never = np.zeros((len(counts), widest), dtype=bool)
    neighbours: list[set[int]] = [set() for _ in counts]
    for scopes, tables in _by_shape(problem.factors()):
        for axis in range(scopes.shape[1]):
            rows = np.moveaxis(tables, axis + 1, 1)
            rows = rows.reshape(*rows.shape[:2], -1)
            np.add.at(excess[:, : rows.shape[1], : rows.shape[1]], scopes[:, axis], _worst_exchange(rows))
            np.logical_or.at(never[:, : rows.shape[1]], scopes[:, axis], np.isinf(rows).all(2))
        for scope in scopes.tolist():
            for i in scope:
                neighbours[i].update(scope)
    found = np.zeros((len(counts), widest), dtype=bool)
    touched: set[int] = set()
    helpful = ((excess <= 0) | never[:, :, None]) & ~np.eye(widest, dtype=bool)
    for i in np.flatnonzero(helpful.any((1, 2))).tolist():
        if i in touched:
            continue
        for a, b in np.argwhere(helpful[i, : counts[i], : counts[i]]):
            found[i, a] |= not found[i, b]
        if found[i].any():
            touched |= neighbours[i]
    return found


def _by_shape(factors: list[Factor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return scopes (k, arity) and tables (k, ...) of the factors of each shape, constants left out."""
    groups: dict[tuple[int, ...], list[Factor]] = {}
    for factor in factors:
        if factor.scope:
            groups.setdefault(factor.table.shape, []).append(factor)
    return [(np.array([f.scope for f in group]), np.stack([f.table for f in group])) for group in groups.values()]


def _worst_exchange(costs: np.ndarray) -> np.ndarray:
    """Return [k, a, b]: the maximum of costs[k, b] - costs[k, a] where costs[k, a] is not +inf; 0 if it always is."""
    k, count, _ = costs.shape
    worst = np.empty((k, count, count))
    for a in range(count):
        possible = np.isfinite(costs[:, a : a + 1])
        difference = costs - np.where(possible, costs[:, a : a + 1], 0.0)
        worst[:, a] = np.where(possible.any(2), np.where(possible, difference, -np.inf).max(2), 0.0)
    return worst
