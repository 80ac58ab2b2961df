"""Numba kernels of cuts: the choice between two labellings as the capacities of a network."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mrfq.kernels import kernel


class GraphCosts(NamedTuple):
    """A pairwise model for the kernels, in double precision."""

    #: (n, L) unary costs; `hard` stands in for +inf, but +inf marks a label that does not exist
    unary: Any
    #: (m, 2) end points
    edges: Any
    #: (1, L, L) one table for all edges, or (m, L, L); +inf forbids
    tables: Any
    #: (m,) factors of the tables
    weights: Any
    #: finite stand-in for +inf: a labelling that pays it costs more than every allowed one
    hard: float
    #: no allowed labelling costs more
    highest: float


class Choice(NamedTuple):
    """The energy of choosing between two labellings, variable by variable, in the form of a network.

    With y = 1 for the second labelling, `E = constant + sum_i zero_i (1 - y_i) + one_i y_i + sum_e forward_e (1 - y_i)
    y_j + backward_e y_i (1 - y_j)`; where `flipped`, y_j stands for 1 - y_j in the sum over edges. Edges without flip
    are submodular: their sum is a cut.
    """

    #: (k,) variables whose two labels differ
    active: Any
    constant: float
    #: (k,) costs of the first and of the second label
    zero: Any
    one: Any
    #: (q, 2) end points, as positions in `active`; (q,) capacities that are not negative
    ends: Any
    forward: Any
    backward: Any
    flipped: Any


#: an edge that misses submodularity by this fraction of its largest cost does so by rounding
ROUNDING = 1e-14


@kernel
def pair_cost(tables: Any, table: int, weight: float, a: int, b: int, hard: float) -> float:
    """Return one pairwise cost, a finite stand-in where it is forbidden."""
    cost = tables[table, a, b]
    return hard if cost == math.inf else weight * cost


@kernel
def submodular(a: float, b: float, c: float, d: float) -> bool:
    """Return whether [[a, b], [c, d]] is submodular, up to rounding."""
    largest = max(abs(a), abs(b), abs(c), abs(d))
    return (d - c) - (b - a) <= ROUNDING * largest


@kernel
def tilt(a: float, b: float, c: float, d: float) -> float:
    """Return the cost v of the second variable's label 1 that leaves the least to cut in [[a, b], [c, d]].

    Any v in [d - c, b - a] leaves capacities that are not negative. Where rounding has left the interval empty, the
    row of the lower costs is kept exact.
    """
    low, high = d - c, b - a
    if low > high:
        return high if abs(a) + abs(b) <= abs(c) + abs(d) else low
    return max(low, min(0.0, high))


@kernel
def normal_form(a: float, b: float, c: float, d: float, hard: float) -> Any:
    """Return [[a, b], [c, d]] as costs of its four labels, two capacities, and whether the second end is flipped."""
    zero_i, one_i, zero_j, one_j = 0.0, 0.0, 0.0, 0.0
    # A row or column that is forbidden throughout forbids its label, whatever the other end does.
    if a == hard and b == hard:
        zero_i, a, b = hard, c, d
    elif c == hard and d == hard:
        one_i, c, d = hard, a, b
    if a == hard and c == hard:
        zero_j, a, c = hard, b, d
    elif b == hard and d == hard:
        one_j, b, d = hard, a, c
    flip = not submodular(a, b, c, d)
    if flip:
        a, b, c, d = b, a, d, c
    v = tilt(a, b, c, d)
    if flip:
        zero_j += v
    else:
        one_j += v
    forward, backward = max(b - a - v, 0.0), max(c - (d - v), 0.0)
    return zero_i + a, one_i + d - v, zero_j, one_j, forward, backward, flip


@kernel
def choose(first: Any, second: Any, costs: GraphCosts) -> Any:
    """Return the fields of the `Choice` between two labellings whose labels exist."""
    unary, edges, tables, weights, hard, _ = costs
    n, m = unary.shape[0], edges.shape[0]
    position, active = np.empty(n, np.int64), np.empty(n, np.int64)
    zero, one = np.empty(n, np.float64), np.empty(n, np.float64)
    constant, k = 0.0, 0
    for i in range(n):
        position[i] = -1
        if first[i] == second[i]:
            constant += unary[i, first[i]]
        else:
            position[i], active[k], zero[k], one[k] = k, i, unary[i, first[i]], unary[i, second[i]]
            k += 1
    ends = np.empty((2, m), np.int64)  # each column in one piece, as PyMaxflow reads it
    forward, backward, flipped = np.empty(m, np.float64), np.empty(m, np.float64), np.empty(m, np.bool_)
    shared, q = tables.shape[0] == 1, 0
    for e in range(m):
        i, j = edges[e, 0], edges[e, 1]
        p, r, t, w = position[i], position[j], 0 if shared else e, weights[e]
        a = pair_cost(tables, t, w, first[i], first[j], hard)
        if p < 0 and r < 0:
            constant += a
        elif r < 0:
            zero[p] += a
            one[p] += pair_cost(tables, t, w, second[i], first[j], hard)
        elif p < 0:
            zero[r] += a
            one[r] += pair_cost(tables, t, w, first[i], second[j], hard)
        else:
            b = pair_cost(tables, t, w, first[i], second[j], hard)
            c = pair_cost(tables, t, w, second[i], first[j], hard)
            d = pair_cost(tables, t, w, second[i], second[j], hard)
            zero_i, one_i, zero_j, one_j, f, g, flip = normal_form(a, b, c, d, hard)
            zero[p], one[p], zero[r], one[r] = zero[p] + zero_i, one[p] + one_i, zero[r] + zero_j, one[r] + one_j
            if f > 0 or g > 0:
                ends[0, q], ends[1, q], forward[q], backward[q], flipped[q] = p, r, f, g, flip
                q += 1
    return active[:k], constant, zero[:k], one[:k], ends[:, :q].T, forward[:q], backward[:q], flipped[:q]


@kernel
def cost_range(costs: Any, weights: Any) -> Any:
    """Return three figures of finite costs, a row of `costs` for each factor in `weights`, or one row for all.

    They are the sum of the rows' spreads, the largest absolute cost, and the sum of the rows' highest costs.
    """
    spread, largest, highest = 0.0, 0.0, 0.0
    shared = costs.shape[0] == 1
    low, high = 0.0, 0.0
    for row in range(weights.shape[0]):
        if row == 0 or not shared:
            low, high = math.inf, -math.inf
            for cost in costs[row]:
                if cost < math.inf:
                    low, high = min(low, cost), max(high, cost)
        if low <= high:
            a, b = weights[row] * low, weights[row] * high
            spread += abs(b - a)
            largest = max(largest, abs(a), abs(b))
            highest += max(a, b)
    return spread, largest, highest


@kernel
def energy_change(old: Any, new: Any, costs: GraphCosts) -> Any:
    """Return what going from one labelling to another costs, and the size of the costs it is a difference of."""
    unary, edges, tables, weights, hard, _ = costs
    change, size = 0.0, 0.0
    for i in range(unary.shape[0]):
        if old[i] != new[i]:
            before, after = unary[i, old[i]], unary[i, new[i]]
            change += after - before
            size += abs(after) + abs(before)
    shared = tables.shape[0] == 1
    for e in range(edges.shape[0]):
        i, j = edges[e, 0], edges[e, 1]
        if old[i] != new[i] or old[j] != new[j]:
            t = 0 if shared else e
            before = pair_cost(tables, t, weights[e], old[i], old[j], hard)
            after = pair_cost(tables, t, weights[e], new[i], new[j], hard)
            change += after - before
            size += abs(after) + abs(before)
    return change, size


@kernel
def first_not_submodular(first: Any, second: Any, costs: GraphCosts) -> int:
    """Return the number of the first edge that is not submodular between two labellings, or -1."""
    _, edges, tables, weights, hard, _ = costs
    shared = tables.shape[0] == 1
    for e in range(edges.shape[0]):
        i, j = edges[e, 0], edges[e, 1]
        t, w = 0 if shared else e, weights[e]
        a = pair_cost(tables, t, w, first[i], first[j], hard)
        b = pair_cost(tables, t, w, first[i], second[j], hard)
        c = pair_cost(tables, t, w, second[i], first[j], hard)
        d = pair_cost(tables, t, w, second[i], second[j], hard)
        if normal_form(a, b, c, d, hard)[-1]:
            return e
    return -1
