"""Numba kernels of a pairwise MRF. They take the graph in compressed form, as a named tuple of arrays."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mrfq.kernels import kernel
from mrfq.problems.site_rules import argmin_site, sample_site, softmax_site

#: how the tables are stored: one Potts-like table, few tables shared by all edges, or a table per half-edge
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
def label_costs(i: int, labels: Any, graph: Graph, potts: bool, costs: Any) -> None:
    """Write the conditional costs of variable i, given the labels of its neighbours."""
    count = costs.shape[0]
    for a in range(count):
        costs[a] = graph.unary[i, a]
    if potts:
        step = potts_step(graph.tables)
        for h in range(graph.start[i], graph.start[i + 1]):
            costs[labels[graph.neighbour[h]]] += graph.weight[h] * step
        return
    for h in range(graph.start[i], graph.start[i + 1]):
        row = graph.tables[graph.table[h], labels[graph.neighbour[h]]]
        w = graph.weight[h]
        for a in range(count):
            costs[a] += w * row[a]


@kernel
def potts_step(tables: Any) -> Any:
    """Return what equal labels cost more than different ones.

    A constant in front of all labels of a variable never matters to it, so only the diagonal is paid.
    """
    return tables[0, 0, 0] - tables[0, 0, min(1, tables.shape[2] - 1)]


@kernel
def sweep_labels(labels: Any, order: Any, sample: bool, beta: float, uniforms: Any, graph: Graph, potts: bool) -> Any:
    """Visit the variables in order, taking the cheapest label or a sample; return (energy change, changed)."""
    costs = np.empty(graph.unary.shape[1], graph.unary.dtype)
    scratch = np.empty(graph.unary.shape[1], np.float64)
    change = 0.0
    changed = 0
    for position in range(order.shape[0]):
        i = order[position]
        label_costs(i, labels, graph, potts, costs)
        old = labels[i]
        new = sample_site(costs, beta, uniforms[position], scratch) if sample else argmin_site(costs, old)
        if new != old:
            change += costs[new] - costs[old]
            changed += 1
            labels[i] = new
    return change, changed


@kernel
def add_potts_costs(i: int, u: Any, graph: Graph, costs: Any) -> None:
    """Add the expected pairwise costs of variable i, up to a constant, for one Potts-like table."""
    step = potts_step(graph.tables)
    for h in range(graph.start[i], graph.start[i + 1]):
        j = graph.neighbour[h]
        w = graph.weight[h] * step
        for a in range(costs.shape[0]):
            costs[a] += w * u[j, a]


@kernel
def add_shared_costs(i: int, u: Any, graph: Graph, mean: Any, costs: Any) -> None:
    """Add the expected pairwise costs of variable i: neighbours are summed first, then meet each table once."""
    count = costs.shape[0]
    for t in range(graph.tables.shape[0]):
        mean[:] = 0.0
        for h in range(graph.start[i], graph.start[i + 1]):
            if graph.table[h] == t:
                j = graph.neighbour[h]
                w = graph.weight[h]
                for b in range(count):
                    mean[b] += w * u[j, b]
        for b in range(count):
            m = mean[b]
            for a in range(count):
                costs[a] += m * graph.tables[t, b, a]


@kernel
def add_general_costs(i: int, u: Any, graph: Graph, costs: Any) -> None:
    """Add the expected pairwise costs of variable i, with a table per half-edge."""
    count = costs.shape[0]
    for h in range(graph.start[i], graph.start[i + 1]):
        j = graph.neighbour[h]
        for b in range(count):
            m = graph.weight[h] * u[j, b]
            for a in range(count):
                costs[a] += m * graph.tables[graph.table[h], b, a]


@kernel
def sweep_marginals(u: Any, order: Any, beta: float, graph: Graph, mode: int) -> Any:
    """Visit the variables in order, u_i = softmax(-beta costs_i) with the costs expected under their neighbours.

    Returns (change of relaxed energy, changed most probable labels, largest change of a probability, entropy).
    """
    count = graph.unary.shape[1]
    costs = np.empty(count, graph.unary.dtype)
    mean = np.empty(count, graph.unary.dtype)
    new = np.empty(count, graph.unary.dtype)
    change = 0.0
    entropy = 0.0
    changed = 0
    largest = 0.0
    for position in range(order.shape[0]):
        i = order[position]
        for a in range(count):
            costs[a] = graph.unary[i, a]
        if mode == POTTS:
            add_potts_costs(i, u, graph, costs)
        elif mode == SHARED:
            add_shared_costs(i, u, graph, mean, costs)
        else:
            add_general_costs(i, u, graph, costs)
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
