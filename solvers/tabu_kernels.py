"""Numba kernels of tabu search: the best move that is not forbidden, even if it costs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mrfq.kernels import kernel
from mrfq.solvers.annealing_kernels import advance, conditional_costs, relabel, unit
from mrfq.solvers.half_edges import HalfEdges

#: entries of `Walk.counters`: moves made since the walk began, and since its last improvement
MOVES, STALE = 0, 1
#: entries of `Walk.energies`: the lowest of this walk, and of all walks
OF_WALK, OF_ALL = 0, 1
#: relative to the energy, a smaller gain is rounding
ROUNDING = 1e-12


class Walk(NamedTuple):
    """A tabu walk in progress; everything in it is changed in place."""

    #: (n,) where the walk is, and the best labelling of all walks
    labels: Any
    best: Any
    #: (n, L) move number up to which a variable must not take a label
    until: Any
    energies: Any
    counters: Any


@kernel
def best_move(walk: Walk, costs: Any, energy: float, offset: Any) -> Any:
    """Return (variable, label, change of energy) of the cheapest move that is not tabu; variable -1 if all are.

    A tabu move is allowed if it leads below the best labelling of the walk (aspiration). Ties go to the first variable
    from `offset` on.
    """
    n, count = costs.shape
    chosen, target, lowest = -1, 0, math.inf
    room = walk.energies[OF_WALK] - energy - ROUNDING * abs(energy)
    for position in range(n):
        i = position + offset
        if i >= n:
            i -= n
        here = costs[i, walk.labels[i]]
        for a in range(count):
            change = costs[i, a] - here
            allowed = walk.until[i, a] <= walk.counters[MOVES] or change < room
            if change < lowest and allowed and a != walk.labels[i]:
                chosen, target, lowest = i, a, change
    return chosen, target, lowest


@kernel
def perturb(walk: Walk, strength: float, seed: Any, graph: HalfEdges) -> Any:
    """Begin a new walk: the best labelling with some labels drawn anew, nothing tabu; return the generator's state."""
    n, count = graph.unary.shape
    seed = advance(seed)
    share = strength * unit(seed)
    for i in range(n):
        walk.labels[i] = walk.best[i]
        seed = advance(seed)
        if unit(seed) >= share:
            continue
        seed = advance(seed)
        label = np.int64(unit(seed) * count)
        if graph.unary[i, label] < math.inf:
            walk.labels[i] = label
    walk.until[:] = 0
    walk.counters[:] = 0
    walk.energies[OF_WALK] = math.inf
    return seed


@kernel
def note(walk: Walk, energy: float) -> None:
    """Remember the labelling of the walk if it is the lowest of this walk, or of all."""
    slack = ROUNDING * abs(energy)
    if energy < walk.energies[OF_WALK] - slack:
        walk.energies[OF_WALK] = energy
        walk.counters[STALE] = 0
    if energy < walk.energies[OF_ALL] - slack:
        walk.energies[OF_ALL] = energy
        walk.best[:] = walk.labels


@kernel
def tabu_walk(walk: Walk, moves: int, tenure: int, patience: int, strength: float, seed: Any, graph: HalfEdges) -> Any:
    """Make so many moves, beginning a new walk after `patience` moves without improvement; return the seed."""
    n = walk.labels.shape[0]
    costs = np.empty(graph.unary.shape)
    energy = conditional_costs(walk.labels, costs, graph)
    note(walk, energy)
    for _ in range(moves):
        if walk.counters[STALE] >= patience:
            seed = perturb(walk, strength, seed, graph)
            energy = conditional_costs(walk.labels, costs, graph)
            note(walk, energy)
        seed = advance(seed)
        i, new, change = best_move(walk, costs, energy, np.int64(unit(seed) * n))
        walk.counters[MOVES] += 1
        walk.counters[STALE] += 1
        if i < 0:
            continue
        seed = advance(seed)
        # It must not come back for a while: a fixed number of moves plus a random one.
        walk.until[i, walk.labels[i]] = walk.counters[MOVES] + tenure + np.int64(unit(seed) * (tenure + 1))
        relabel(np.uint64(i), new, walk.labels, costs, graph)
        energy += change
        note(walk, energy)
    return seed
