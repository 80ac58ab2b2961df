"""Numba kernels of a pairwise MRF. They take the graph in compressed form, as a named tuple of arrays."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mrfq.kernels import kernel

#: variables are numbered by unsigned integers in the kernels, which spares a test for negative ones at every look-up
ONE = np.uint64(1)
#: how the tables are stored: one Potts-like table, one symmetric table for all edges, or several
POTTS, SHARED, GENERAL = 0, 1, 2


class Graph(NamedTuple):
    """Half-edges of variable i are `start[i]:start[i + 1]`."""

    #: (n, L) unary costs; +inf marks a label that does not exist, everything else is finite
    unary: Any
    start: Any
    #: the variable at the other end of each half-edge, the factor of its table, and the table's number
    neighbour: Any
    weight: Any
    table: Any
    #: `tables[t, b, a]` is the cost of own label a beside neighbour label b: inner loops run over consecutive numbers
    tables: Any


@kernel
def labelling_energy(labels: Any, unary: Any, edges: Any, weights: Any, tables: Any, shared: bool) -> float:
    """Return the energy of a labelling, NaN if a label is out of range; `edges` unsigned, one table if `shared`."""
    total = 0.0
    count = np.uint64(unary.shape[1])
    for i in range(unary.shape[0]):
        a = np.uint64(labels[i])  # a negative label becomes a very large one
        if a >= count:
            return math.nan
        total += unary[i, a]
    for e in range(edges.shape[0]):
        b, c = np.uint64(labels[edges[e, 0]]), np.uint64(labels[edges[e, 1]])
        total += weights[e] * tables[np.uint64(0) if shared else np.uint64(e), b, c]
    return total


@kernel
def labelling_change(old: Any, new: Any, graph: Graph) -> Any:
    """Return (change of energy, number of labels that differ) between two labellings; NaN if a label is out of range.

    Only variables that differ are looked at; an edge between two of them is counted from its lower end.
    """
    unary, start, neighbour, weight, table, tables = graph
    count = np.uint64(unary.shape[1])
    change, changed = 0.0, 0
    for i in range(unary.shape[0]):
        if new[i] == old[i]:
            continue
        changed += 1
        a, b = np.uint64(new[i]), np.uint64(old[i])
        if a >= count:
            return math.nan, changed
        change += unary[i, a] - unary[i, b]
        for h in range(start[i], start[i + 1]):
            j = neighbour[h]
            c, d = np.uint64(new[j]), np.uint64(old[j])
            if c >= count:
                return math.nan, changed
            if c == d or i < j:
                change += weight[h] * (tables[table[h], c, a] - tables[table[h], d, b])
    return change, changed


@kernel
def potts_step(tables: Any) -> Any:
    """Return what equal labels cost more than different ones.

    A constant in front of all labels of a variable never matters to it, so only the diagonal is paid.
    """
    return tables[0, 0, 0] - tables[0, 0, min(1, tables.shape[2] - 1)]


@kernel
def sample_site(costs: Any, beta: float, uniform: float, weights: Any) -> int:
    """Return a label drawn from `exp(-beta costs)` by inversion of one uniform number; `weights` is scratch."""
    lowest = costs.min()
    total = 0.0
    for a in range(costs.shape[0]):
        total += math.exp(-beta * (costs[a] - lowest))
        weights[a] = total
    threshold = uniform * total
    for a in range(costs.shape[0]):
        if weights[a] > threshold:
            return a
    return int(costs.argmin())


# The work of a site is written out in the body of each sweep: as functions of their own, which pass arrays at every
# site, gathering costs takes four times as long, and the softmax a fifth longer.


@kernel
def sweep_labels(labels: Any, order: Any, sample: bool, beta: float, uniforms: Any, graph: Graph, potts: bool) -> Any:
    """Visit the variables in order, taking the cheapest label or a sample; return (energy change, changed)."""
    unary, start, neighbour, weight, table, tables = graph
    count = unary.shape[1]
    costs, scratch = np.empty(count, unary.dtype), np.empty(count, np.float64)
    step = potts_step(tables)
    change, changed = 0.0, 0
    for position in range(order.shape[0]):
        i = order[position]
        for a in range(count):
            costs[a] = unary[i, a]
        if potts:
            for h in range(start[i], start[i + ONE]):
                costs[np.uint64(labels[neighbour[h]])] += weight[h] * step
        else:
            for h in range(start[i], start[i + ONE]):
                t, b, w = table[h], np.uint64(labels[neighbour[h]]), weight[h]
                for a in range(count):
                    costs[a] += w * tables[t, b, a]
        old = labels[i]
        new = old
        if sample:
            new = sample_site(costs, beta, uniforms[position], scratch)
        else:  # a tie keeps the current label, else takes the lowest
            lowest = costs[np.uint64(old)]
            for a in range(count):
                if costs[a] < lowest:
                    new, lowest = a, costs[a]
        if new != old:
            change += costs[np.uint64(new)] - costs[np.uint64(old)]
            changed += 1
            labels[i] = new
    return change, changed


@kernel
def sweep_marginals(  # noqa: PLR0912
    u: Any, labels: Any, order: Any, beta: float, graph: Graph, mode: int
) -> Any:
    """Visit the variables in order, u_i = softmax(-beta costs_i) with the costs expected under their neighbours.

    Writes the most probable labels, and returns (change of relaxed energy, largest Euclidean change of a row, entropy).
    """
    unary, start, neighbour, weight, table, tables = graph
    count = unary.shape[1]
    costs, mean, new = np.empty(count, unary.dtype), np.empty(count, unary.dtype), np.empty(count, unary.dtype)
    step = potts_step(tables)
    change, entropy, largest = 0.0, 0.0, 0.0
    for position in range(order.shape[0]):
        i = order[position]
        for a in range(count):
            costs[a] = unary[i, a]
        if mode == POTTS:
            for h in range(start[i], start[i + ONE]):
                j, w = neighbour[h], weight[h] * step
                for a in range(count):
                    costs[a] += w * u[j, a]
        elif mode == SHARED:
            # Neighbours are summed first, then meet the table once.
            mean[:] = 0.0
            for h in range(start[i], start[i + ONE]):
                j, w = neighbour[h], weight[h]
                for b in range(count):
                    mean[b] += w * u[j, b]
            for b in range(count):
                m = mean[b]
                for a in range(count):
                    costs[a] += m * tables[0, b, a]
        else:
            for h in range(start[i], start[i + ONE]):
                t, j = table[h], neighbour[h]
                for b in range(count):
                    m = weight[h] * u[j, b]
                    for a in range(count):
                        costs[a] += m * tables[t, b, a]
        cheapest, lowest = 0, costs[0]
        for a in range(1, count):
            if costs[a] < lowest:
                cheapest, lowest = a, costs[a]
        total, mean_cost = 0.0, 0.0
        for a in range(count):
            above = costs[a] - lowest  # +inf for a label that does not exist, whose probability is then 0
            p = math.exp(-beta * above)
            costs[a] = above if above < math.inf else 0.0
            new[a] = p
            total += p
            mean_cost += p * costs[a]
        labels[i] = cheapest
        scale = 1.0 / total
        moved = 0.0
        entropy += math.log(total) + beta * mean_cost * scale
        for a in range(count):
            p = new[a] * scale
            difference = p - u[i, a]
            # Changes of a row add up to zero, so costs above the cheapest do as well as costs.
            change += costs[a] * difference
            moved += difference * difference
            u[i, a] = p
        largest = max(largest, moved)
    return change, math.sqrt(largest), entropy
