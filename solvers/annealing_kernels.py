"""Numba kernels of annealing: chains that keep their conditional costs, for two labels and for any number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrfq.kernels import kernel
from mrfq.solvers.half_edges import HalfEdges, Ising

ONE = np.uint64(1)
MULTIPLIER = np.uint64(0x2545F4914F6CDD1D)
S12, S25, S27, S11 = np.uint64(12), np.uint64(25), np.uint64(27), np.uint64(11)
UNIT = 2.0**-53
#: beta times a change of energy from which on it is refused unseen; a chain would take one in 4e9
HOPELESS = 22.0


@kernel
def advance(state: Any) -> Any:
    """Return the next state of a xorshift generator (Vigna's xorshift64*); the uniform is made by `unit`."""
    state ^= state >> S12
    state ^= state << S25
    state ^= state >> S27
    return state


@kernel
def unit(state: Any) -> float:
    """Return the uniform number in [0, 1) that belongs to a state of the generator."""
    return float((state * MULTIPLIER) >> S11) * UNIT


# ---- two labels: one cost per spin ----------------------------------------------------------------------------------


@kernel
def flip_costs(spins: Any, costs: Any, model: Ising) -> float:
    """Write what flipping each spin costs, and return the energy above that of all labels 0."""
    energy = 0.0
    for i in range(np.uint64(spins.shape[0])):
        field = model.bias[i]
        for h in range(model.start[i], model.start[i + ONE]):
            if spins[model.neighbour[h]] < 0.0:
                field += model.coupling[h]
        if spins[i] < 0.0:
            energy += 0.5 * (model.bias[i] + field)
        costs[i] = math.inf if model.pinned[i] else spins[i] * field
    return energy


@kernel
def flip(i: Any, spins: Any, costs: Any, model: Ising) -> None:
    """Flip a spin and repair the costs of its neighbours."""
    old = spins[i]
    spins[i] = -old
    costs[i] = -costs[i]
    for h in range(model.start[i], model.start[i + ONE]):
        j = model.neighbour[h]
        costs[j] += old * spins[j] * model.coupling[h]


@kernel
def anneal_spins(labels: Any, betas: Any, seed: Any, model: Ising) -> Any:
    """Run one Metropolis sweep per inverse temperature over a chain, in place; return the generator's state."""
    spins, costs = 1.0 - 2.0 * labels, np.empty(labels.shape[0])
    flip_costs(spins, costs, model)
    for sweep in range(betas.shape[0]):
        beta = betas[sweep]
        hopeless = HOPELESS / beta
        for i in range(np.uint64(spins.shape[0])):
            cost = costs[i]
            if cost >= hopeless:
                continue
            if cost > 0.0:
                seed = advance(seed)
                uniform, x = unit(seed), beta * cost
                # exp(-x) < 1 / (1 + x + x^2 / 2): most refusals need no exponential
                if uniform * (1.0 + x + 0.5 * x * x) >= 1.0 or uniform >= math.exp(-x):
                    continue
            flip(i, spins, costs, model)
    for i in range(labels.shape[0]):
        labels[i] = spins[i] < 0.0
    return seed


@kernel
def descend_spins(labels: Any, model: Ising) -> Any:
    """Flip spins in turn while that lowers the energy; return the energy above that of all labels 0."""
    spins, costs = 1.0 - 2.0 * labels, np.empty(labels.shape[0])
    before, energy = math.inf, flip_costs(spins, costs, model)
    while energy < before:  # costs are computed anew for each round, so that rounding cannot make it go in circles
        for i in range(np.uint64(spins.shape[0])):
            if costs[i] < 0.0:
                flip(i, spins, costs, model)
        before, energy = energy, flip_costs(spins, costs, model)
    for i in range(labels.shape[0]):
        labels[i] = spins[i] < 0.0
    return energy


# ---- any number of labels: L costs per variable -----------------------------------------------------------------


@kernel
def conditional_costs(labels: Any, costs: Any, graph: HalfEdges) -> float:
    """Write the (n, L) conditional costs at a labelling, and return the energy."""
    energy = 0.0
    for i in range(np.uint64(labels.shape[0])):
        for a in range(costs.shape[1]):
            costs[i, a] = graph.unary[i, a]
        for h in range(graph.start[i], graph.start[i + ONE]):
            t, b, w = graph.table[h], np.uint64(labels[graph.neighbour[h]]), graph.weight[h]
            for a in range(costs.shape[1]):
                costs[i, a] += w * graph.tables[t, b, a]
        x = np.uint64(labels[i])
        energy += 0.5 * (graph.unary[i, x] + costs[i, x])
    return energy


@kernel
def relabel(i: Any, new: Any, labels: Any, costs: Any, graph: HalfEdges) -> None:
    """Give a variable a new label and repair the conditional costs of its neighbours.

    For a Potts table only what equal labels save is kept up to date, up to a constant common to a variable's labels.
    """
    old = np.uint64(labels[i])
    labels[i] = new
    if graph.potts:
        step = graph.tables[0, 0, 0] - graph.tables[0, 0, graph.tables.shape[2] - 1]
        for h in range(graph.start[i], graph.start[i + ONE]):
            j = graph.neighbour[h]
            costs[j, np.uint64(new)] += graph.weight[h] * step
            costs[j, old] -= graph.weight[h] * step
        return
    for h in range(graph.start[i], graph.start[i + ONE]):
        j, t, w = graph.neighbour[h], graph.table[graph.opposite[h]], graph.weight[h]
        for b in range(costs.shape[1]):
            costs[j, b] += w * (graph.tables[t, np.uint64(new), b] - graph.tables[t, old, b])


@kernel
def anneal_labels(labels: Any, betas: Any, seed: Any, graph: HalfEdges) -> Any:
    """Run one heat-bath sweep per inverse temperature over a chain, in place; return the generator's state."""
    count = graph.unary.shape[1]
    costs, upto = np.empty(graph.unary.shape), np.empty(count)
    conditional_costs(labels, costs, graph)
    for sweep in range(betas.shape[0]):
        beta = betas[sweep]
        hopeless = HOPELESS / beta
        for i in range(np.uint64(labels.shape[0])):
            lowest = math.inf
            for a in range(count):
                lowest = min(lowest, costs[i, a])
            total = 0.0
            for a in range(count):
                above = costs[i, a] - lowest
                if above < hopeless:
                    total += math.exp(-beta * above)
                upto[a] = total
            seed = advance(seed)
            threshold = unit(seed) * total
            new = 0
            while upto[new] <= threshold:
                new += 1
            if new != labels[i]:
                relabel(i, new, labels, costs, graph)
    return seed


@kernel
def descend_labels(labels: Any, graph: HalfEdges) -> Any:
    """Give variables in turn their cheapest label while that lowers the energy; return the energy."""
    costs = np.empty(graph.unary.shape)
    before, energy = math.inf, conditional_costs(labels, costs, graph)
    while energy < before:
        for i in range(np.uint64(labels.shape[0])):
            new = labels[i]
            for a in range(costs.shape[1]):
                if costs[i, a] < costs[i, np.uint64(new)]:
                    new = a
            if new != labels[i]:
                relabel(i, new, labels, costs, graph)
        before, energy = energy, conditional_costs(labels, costs, graph)
    return energy
