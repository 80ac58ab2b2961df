"""Numba kernels of a pairwise MRF. Every kernel takes the graph in the compressed form of `Compressed`.

Half-edges of variable i are `start[i]:start[i + 1]`: each has a `neighbour`, a `weight` and the number `table` of
its cost table. `tables[t, b, a]` is the cost of own label a beside neighbour label b, own label last, so that the
inner loops run over consecutive numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrfq.kernels import kernel
from mrfq.problems.site_rules import argmin_site, sample_site, softmax_site

#: how the tables are stored: one Potts-like table, few tables shared by all edges, or a table per half-edge
POTTS, SHARED, GENERAL = 0, 1, 2


@kernel
def labelling_energy(labels: Any, unary: Any, edges: Any, weights: Any, tables: Any, shared: bool) -> float:
    """Return the energy of a labelling; `tables` (m, L, L), or (1, L, L) if `shared`."""
    total = 0.0
    for i in range(unary.shape[0]):
        total += unary[i, labels[i]]
    if shared:
        for e in range(edges.shape[0]):
            total += weights[e] * tables[0, labels[edges[e, 0]], labels[edges[e, 1]]]
    else:
        for e in range(edges.shape[0]):
            total += weights[e] * tables[e, labels[edges[e, 0]], labels[edges[e, 1]]]
    return total


@kernel
def label_costs(i: int, labels: Any, unary: Any, start: Any, neighbour: Any, weight: Any, table: Any, tables: Any,
                potts: bool, costs: Any) -> None:  # fmt: skip
    """Write the conditional costs of variable i, given the labels of its neighbours."""
    count = costs.shape[0]
    for a in range(count):
        costs[a] = unary[i, a]
    if potts:
        # A constant in front of all labels of a variable never matters to it, so only the diagonal is paid.
        step = tables[0, 0, 0] - tables[0, 0, min(1, count - 1)]
        for h in range(start[i], start[i + 1]):
            costs[labels[neighbour[h]]] += weight[h] * step
        return
    for h in range(start[i], start[i + 1]):
        row = tables[table[h], labels[neighbour[h]]]
        w = weight[h]
        for a in range(count):
            costs[a] += w * row[a]


@kernel
def sweep_labels(labels: Any, order: Any, sample: bool, beta: float, uniforms: Any, unary: Any, start: Any,
                 neighbour: Any, weight: Any, table: Any, tables: Any, potts: bool) -> tuple[float, int]:  # fmt: skip
    """Visit the variables in order, taking the cheapest label or a sample; return (energy change, changed)."""
    costs = np.empty(unary.shape[1], unary.dtype)
    scratch = np.empty(unary.shape[1], np.float64)
    change = 0.0
    changed = 0
    for position in range(order.shape[0]):
        i = order[position]
        label_costs(i, labels, unary, start, neighbour, weight, table, tables, potts, costs)
        old = labels[i]
        new = sample_site(costs, beta, uniforms[position], scratch) if sample else argmin_site(costs, old)
        if new != old:
            change += costs[new] - costs[old]
            changed += 1
            labels[i] = new
    return change, changed


@kernel
def marginal_costs(i: int, u: Any, unary: Any, start: Any, neighbour: Any, weight: Any, table: Any, tables: Any,
                   mode: int, mean: Any, costs: Any) -> None:  # fmt: skip
    """Write the expected costs of variable i under independent neighbours with marginals u; `mean` is scratch."""
    count = costs.shape[0]
    for a in range(count):
        costs[a] = unary[i, a]
    if mode == POTTS:
        step = tables[0, 0, 0] - tables[0, 0, min(1, count - 1)]
        for h in range(start[i], start[i + 1]):
            j = neighbour[h]
            w = weight[h] * step
            for a in range(count):
                costs[a] += w * u[j, a]
    elif mode == SHARED:
        for t in range(tables.shape[0]):
            mean[:] = 0.0
            for h in range(start[i], start[i + 1]):
                if table[h] == t:
                    j = neighbour[h]
                    w = weight[h]
                    for b in range(count):
                        mean[b] += w * u[j, b]
            for b in range(count):
                m = mean[b]
                for a in range(count):
                    costs[a] += m * tables[t, b, a]
    else:
        for h in range(start[i], start[i + 1]):
            j = neighbour[h]
            for b in range(count):
                m = weight[h] * u[j, b]
                for a in range(count):
                    costs[a] += m * tables[table[h], b, a]


@kernel
def sweep_marginals(u: Any, order: Any, beta: float, unary: Any, start: Any, neighbour: Any, weight: Any, table: Any,
                    tables: Any, mode: int) -> tuple[float, int, float, float]:  # fmt: skip
    """Visit the variables in order, u_i = softmax(-beta costs_i).

    Returns (change of relaxed energy, changed most probable labels, largest change of a probability, entropy).
    """
    count = unary.shape[1]
    costs = np.empty(count, unary.dtype)
    mean = np.empty(count, unary.dtype)
    new = np.empty(count, unary.dtype)
    change = 0.0
    entropy = 0.0
    changed = 0
    largest = 0.0
    for position in range(order.shape[0]):
        i = order[position]
        marginal_costs(i, u, unary, start, neighbour, weight, table, tables, mode, mean, costs)
        entropy += softmax_site(costs, beta, new)
        was, now = 0, 0
        for a in range(count):
            if u[i, a] > u[i, was]:
                was = a
            if new[a] > new[now]:
                now = a
        for a in range(count):
            difference = new[a] - u[i, a]
            if costs[a] < math.inf:
                change += costs[a] * difference
            largest = max(largest, abs(difference))
            u[i, a] = new[a]
        changed += was != now
    return change, changed, largest, entropy
