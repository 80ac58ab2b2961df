"""Numba kernels of forest moves: random induced forests, solved exactly by dynamic programming."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrfq.kernels import kernel
from mrfq.solvers.annealing_kernels import ONE, advance, unit
from mrfq.solvers.half_edges import HalfEdges

#: relative to the energy, a smaller gain is rounding
ROUNDING = 1e-12


@kernel
def labelling_energy(labels: Any, graph: HalfEdges) -> float:
    """Return the energy of a labelling."""
    energy = 0.0
    for i in range(np.uint64(labels.shape[0])):
        a = np.uint64(labels[i])
        pairs = 0.0
        for h in range(graph.start[i], graph.start[i + ONE]):
            pairs += graph.weight[h] * graph.tables[graph.table[h], np.uint64(labels[graph.neighbour[h]]), a]
        energy += graph.unary[i, a] + 0.5 * pairs
    return energy


@kernel
def root_of(i: Any, leader: Any) -> Any:
    """Return the representative of the tree of a variable, halving the path to it."""
    while leader[i] != i:
        leader[i] = leader[leader[i]]
        i = leader[i]
    return i


@kernel
def grow_forest(inside: Any, seed: Any, graph: HalfEdges) -> Any:
    """Write a random maximal induced forest as a mask; return the generator's state.

    In random order, a variable joins unless two of its neighbours are already in one tree.
    """
    n = inside.shape[0]
    order, leader, touched = np.arange(n), np.arange(n), np.full(n, -1)
    inside[:] = False
    for place in range(n):
        seed = advance(seed)
        other = place + np.int64(unit(seed) * (n - place))
        order[place], order[other] = order[other], order[place]
        i, joins = order[place], True
        for h in range(graph.start[i], graph.start[i + 1]):
            j = np.int64(graph.neighbour[h])
            if inside[j]:
                tree = root_of(j, leader)
                joins = joins and touched[tree] != place
                touched[tree] = place
        if joins:
            inside[i] = True
            for h in range(graph.start[i], graph.start[i + 1]):
                j = np.int64(graph.neighbour[h])
                if inside[j]:
                    leader[root_of(j, leader)] = i
    return seed


@kernel
def root_forest(inside: Any, order: Any, upward: Any, graph: HalfEdges) -> int:
    """Write the variables of a forest, parents first, and the half-edge to each one's parent (-1 for a root).

    Returns how many there are.
    """
    reached = np.zeros(inside.shape[0], np.bool_)
    end = 0
    for r in range(inside.shape[0]):
        if not inside[r] or reached[r]:
            continue
        reached[r], order[end], upward[end] = True, r, -1
        place, end = end, end + 1
        while place < end:
            i = order[place]
            place += 1
            for h in range(graph.start[i], graph.start[i + 1]):
                j = np.int64(graph.neighbour[h])
                if inside[j] and not reached[j]:
                    reached[j], order[end], upward[end] = True, j, np.int64(graph.opposite[h])
                    end += 1
    return end


@kernel
def outside_costs(i: Any, labels: Any, inside: Any, costs: Any, graph: HalfEdges) -> None:
    """Add to a row of costs what a variable pays by itself and beside its neighbours outside the forest."""
    for a in range(costs.shape[1]):
        costs[i, a] += graph.unary[i, a]
    for h in range(graph.start[i], graph.start[i + 1]):
        j = graph.neighbour[h]
        if not inside[j]:
            t, b = graph.table[h], np.uint64(labels[j])
            for a in range(costs.shape[1]):
                costs[i, a] += graph.weight[h] * graph.tables[t, b, a]


@kernel
def cheapest(row: Any, current: Any) -> Any:
    """Return the label of lowest cost; a tie keeps the current one, else takes the lowest."""
    label = current
    for a in range(row.shape[0]):
        if row[a] < row[label]:
            label = a
    return label


@kernel
def solve_forest(labels: Any, inside: Any, graph: HalfEdges) -> None:
    """Give the variables of a forest the labels of least energy while all others keep theirs, by min-sum."""
    n, count = graph.unary.shape
    order, upward = np.empty(n, np.int64), np.empty(n, np.int64)
    costs, answer, row = np.zeros((n, count)), np.empty((n, count), np.int64), np.empty(count)
    end = root_forest(inside, order, upward, graph)
    for place in range(
        end - 1, -1, -1
    ):  # leaves first: children have added their messages when their parent's turn comes
        i, h = order[place], upward[place]
        outside_costs(i, labels, inside, costs, graph)
        if h < 0:
            answer[i, 0] = cheapest(costs[i], labels[i])
            continue
        parent, t, w = graph.neighbour[h], graph.table[h], graph.weight[h]
        for b in range(count):
            for a in range(count):
                row[a] = costs[i, a] + w * graph.tables[t, b, a]
            answer[i, b] = cheapest(row, labels[i])
            costs[parent, b] += row[answer[i, b]]
    for place in range(end):
        i, h = order[place], upward[place]
        labels[i] = answer[i, 0] if h < 0 else answer[i, labels[graph.neighbour[h]]]


@kernel
def forest_moves(labels: Any, moves: int, patience: int, stale: int, seed: Any, graph: HalfEdges) -> Any:
    """Make up to so many forest moves, until `patience` in a row bring nothing; return (seed, stale, moves made)."""
    inside, trial = np.empty(labels.shape[0], np.bool_), labels.copy()
    energy = labelling_energy(labels, graph)
    for move in range(moves):
        if stale >= patience:
            return seed, stale, move
        seed = grow_forest(inside, seed, graph)
        solve_forest(trial, inside, graph)
        after = labelling_energy(trial, graph)
        stale += 1
        if after < energy:  # otherwise what is left is ties and rounding
            stale = 0 if after < energy - ROUNDING * abs(energy) else stale
            labels[:], energy = trial, after
        trial[:] = labels
    return seed, stale, moves
