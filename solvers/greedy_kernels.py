"""Numba kernels of greedy construction: a heap of how decided the variables are."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from mrfq.kernels import kernel
from mrfq.solvers.annealing_kernels import ONE, advance, descend_labels, unit
from mrfq.solvers.half_edges import HalfEdges

#: version of a variable that has its label; the others count how often their costs have changed
SETTLED = -1


@kernel
def average_tables(graph: HalfEdges) -> Any:
    """Return the (half-edges, L) cost of each own label, averaged over the labels the neighbour may take."""
    count = graph.unary.shape[1]
    average = np.zeros((graph.neighbour.shape[0], count))
    for h in range(average.shape[0]):
        j, total = graph.neighbour[h], 0
        for b in range(count):
            if graph.unary[j, b] < math.inf:
                total += 1
                for a in range(count):
                    average[h, a] += graph.weight[h] * graph.tables[graph.table[h], b, a]
        average[h] /= total
    return average


@kernel
def decide(costs: Any) -> Any:
    """Return the cheapest label and how far the second is above it, +inf if there is no second."""
    cheapest, lowest, second = 0, math.inf, math.inf
    for a in range(costs.shape[0]):
        if costs[a] < lowest:
            cheapest, lowest, second = a, costs[a], lowest
        elif costs[a] < second:
            second = costs[a]
    return cheapest, second - lowest


@kernel
def settle(i: Any, label: Any, labels: Any, costs: Any, version: Any, average: Any, graph: HalfEdges) -> None:
    """Label a variable, and let the neighbours without a label see it in place of the average."""
    labels[i], version[i] = label, SETTLED
    x = np.uint64(label)
    for h in range(graph.start[i], graph.start[i + ONE]):
        j, back = graph.neighbour[h], graph.opposite[h]
        if version[j] != SETTLED:
            version[j] += 1
            for a in range(costs.shape[1]):
                costs[j, a] += graph.weight[h] * graph.tables[graph.table[back], x, a] - average[back, a]


@kernel
def settle_some(labels: Any, seed: Any, costs: Any, version: Any, average: Any, graph: HalfEdges) -> Any:
    """Give random labels to random variables, another one with probability 1/2 each time; return the seed."""
    n, count = costs.shape
    more = True
    while more:
        seed = advance(seed)
        i = np.uint64(unit(seed) * n)
        label, seen = np.int64(0), 0
        for a in range(count):  # uniform among the labels that exist
            if graph.unary[i, a] < math.inf:
                seen += 1
                seed = advance(seed)
                if unit(seed) * seen < 1.0:
                    label = np.int64(a)
        if version[i] != SETTLED:
            settle(i, label, labels, costs, version, average, graph)
        seed = advance(seed)
        more = unit(seed) < 0.5
    return seed


@kernel
def construct(labels: Any, noise: float, seed: Any, average: Any, graph: HalfEdges) -> Any:
    """Label the variables one by one, the most decided first, and return the generator's state.

    A variable sees the labels of those already labelled and the average over the labels of the others. How decided it
    is, the cost of its second label above the cheapest, is scaled by a random factor between 1 and `1 + noise`.
    """
    n = np.uint64(labels.shape[0])
    costs, factor, version = graph.unary.copy(), np.empty(n), np.zeros(n, np.int64)
    for i in range(n):
        seed = advance(seed)
        factor[i] = 1.0 + noise * unit(seed)
        for h in range(graph.start[i], graph.start[i + ONE]):
            costs[i] += average[h]
    seed = settle_some(labels, seed, costs, version, average, graph)
    # Entries (-how decided, tie-break, variable, version); one of an old version has been replaced since.
    heap: list[Any] = [(0.0, 0.0, np.uint64(0), np.int64(0)) for _ in range(0)]
    for i in range(n):
        if version[i] != SETTLED:
            seed = advance(seed)
            heap.append((-factor[i] * decide(costs[i])[1], unit(seed), i, version[i]))
    heapify(heap)
    while heap:
        _, _, chosen, when = heappop(heap)
        if when != version[chosen]:
            continue
        settle(chosen, decide(costs[chosen])[0], labels, costs, version, average, graph)
        for h in range(graph.start[chosen], graph.start[chosen + ONE]):
            j = graph.neighbour[h]
            if version[j] != SETTLED:
                seed = advance(seed)
                heappush(heap, (-factor[j] * decide(costs[j])[1], unit(seed), np.uint64(j), version[j]))
    return seed


@kernel
def greedy_starts(starts: int, noise: float, seed: Any, average: Any, graph: HalfEdges, best: Any) -> Any:
    """Write the best of several greedy labellings after descent to `best`; return (seed, energy)."""
    labels, lowest = np.empty(best.shape[0], np.int64), math.inf
    for number in range(starts):
        seed = construct(labels, noise, seed, average, graph)
        energy = descend_labels(labels, graph)
        if number == 0 or energy < lowest:
            best[:], lowest = labels, energy
    return seed, lowest
