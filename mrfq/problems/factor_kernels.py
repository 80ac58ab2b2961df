"""Numba kernels of a factor graph. They take it as a named tuple of flat arrays."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mrfq.kernels import kernel
from mrfq.problems.pairwise_kernels import sample_site


class Flat(NamedTuple):
    """Factor f has the variables `scope[first[f]:first[f + 1]]` and its costs from `tables[offset[f]]` on.

    The last variable of a scope counts fastest. A *place* is a position in `scope`; those of variable i are
    `places[start[i]:start[i + 1]]`.
    """

    cardinality: Any
    first: Any
    scope: Any
    #: how far apart, in the table, two neighbouring labels of the variable at a place are
    stride: Any
    offset: Any
    tables: Any
    start: Any
    places: Any
    #: the factor of each place
    owner: Any


@kernel
def labelling_energies(labellings: Any, flat: Flat, energies: Any) -> None:
    """Write the energy of every row of `labellings`; NaN where a label is out of range."""
    for k in range(labellings.shape[0]):
        labels = labellings[k]
        total = 0.0
        valid = True
        for i in range(labels.shape[0]):
            valid = valid and 0 <= labels[i] < flat.cardinality[i]
        if valid:
            for f in range(flat.offset.shape[0]):
                entry = flat.offset[f]
                for p in range(flat.first[f], flat.first[f + 1]):
                    entry += flat.stride[p] * labels[flat.scope[p]]
                total += flat.tables[entry]
        energies[k] = total if valid else math.nan


@kernel
def labelling_change(old: Any, new: Any, flat: Flat) -> Any:
    """Return (change of energy, number of labels that differ); only factors with a changed variable are looked at."""
    change, changed = 0.0, 0
    for i in range(old.shape[0]):
        if not 0 <= new[i] < flat.cardinality[i]:
            return math.nan, changed
        changed += new[i] != old[i]
    for f in range(flat.offset.shape[0]):
        before = after = flat.offset[f]
        for p in range(flat.first[f], flat.first[f + 1]):
            before += flat.stride[p] * old[flat.scope[p]]
            after += flat.stride[p] * new[flat.scope[p]]
        if before != after:
            change += flat.tables[after] - flat.tables[before]
    return change, changed


@kernel
def sweep_labels(labels: Any, order: Any, sample: bool, beta: float, uniforms: Any, flat: Flat) -> Any:
    """Visit the variables in order, taking the cheapest label or a sample; return (energy change, changed)."""
    widest = flat.cardinality.max()
    all_costs, scratch = np.empty(widest), np.empty(widest)
    change, changed = 0.0, 0
    for position in range(order.shape[0]):
        i = order[position]
        costs = all_costs[: flat.cardinality[i]]
        costs[:] = 0.0
        for h in range(flat.start[i], flat.start[i + 1]):
            place = flat.places[h]
            f = flat.owner[place]
            entry = flat.offset[f]
            for p in range(flat.first[f], flat.first[f + 1]):
                if p != place:
                    entry += flat.stride[p] * labels[flat.scope[p]]
            step = flat.stride[place]
            for a in range(costs.shape[0]):
                costs[a] += flat.tables[entry]
                entry += step
        old = labels[i]
        new = old
        if sample:
            new = sample_site(costs, beta, uniforms[position], scratch)
        else:  # a tie keeps the current label, else takes the lowest
            for a in range(costs.shape[0]):
                if costs[a] < costs[new]:
                    new = a
        if new != old:
            change += costs[new] - costs[old]
            changed += 1
            labels[i] = new
    return change, changed


@kernel
def expected_costs(u: Any, place: Any, flat: Flat, work: Any) -> Any:
    """Return the costs of the labels at a place, expected over the other variables of its factor, in `work`.

    The table is contracted with one row of `u` after another, first the axes behind the place, then those before.
    """
    f = flat.owner[place]
    size = 1
    for p in range(flat.first[f], flat.first[f + 1]):
        size *= flat.cardinality[flat.scope[p]]
    for e in range(size):
        work[e] = flat.tables[flat.offset[f] + e]
    for p in range(flat.first[f + 1] - 1, place, -1):
        row, count = u[flat.scope[p]], flat.cardinality[flat.scope[p]]
        size //= count
        for e in range(size):
            total = 0.0
            for b in range(count):
                total += row[b] * work[e * count + b]
            work[e] = total
    for p in range(flat.first[f], place):
        row, count = u[flat.scope[p]], flat.cardinality[flat.scope[p]]
        size //= count
        for e in range(size):
            work[e] *= row[0]
        for b in range(1, count):
            for e in range(size):
                work[e] += row[b] * work[b * size + e]
    return work[:size]


@kernel
def gradient(u: Any, g: Any, flat: Flat, work: Any) -> float:
    """Write the conditional costs expected under `u` to g (n, L), and return the multilinear energy."""
    energy = 0.0
    g[:] = 0.0
    for f in range(flat.offset.shape[0]):
        if flat.first[f] == flat.first[f + 1]:
            energy += flat.tables[flat.offset[f]]
        for place in range(flat.first[f], flat.first[f + 1]):
            i = flat.scope[place]
            costs = expected_costs(u, place, flat, work)
            for a in range(costs.shape[0]):
                g[i, a] += costs[a]
                if place == flat.first[f]:
                    energy += u[i, a] * costs[a]
    return energy


@kernel
def sweep_marginals(u: Any, labels: Any, order: Any, beta: float, flat: Flat, work: Any) -> Any:
    """Visit the variables in order, u_i = softmax(-beta costs_i) with the costs expected under the others.

    Writes the most probable labels, and returns (change of relaxed energy, largest Euclidean change of a row, entropy).
    """
    all_costs = np.empty(flat.cardinality.max())
    change, entropy, largest = 0.0, 0.0, 0.0
    for position in range(order.shape[0]):
        i = order[position]
        costs = all_costs[: flat.cardinality[i]]
        costs[:] = 0.0
        for h in range(flat.start[i], flat.start[i + 1]):
            expected = expected_costs(u, flat.places[h], flat, work)
            for a in range(costs.shape[0]):
                costs[a] += expected[a]
        cheapest = int(costs.argmin())
        labels[i] = cheapest
        lowest = costs[cheapest]
        total, mean = 0.0, 0.0
        for a in range(costs.shape[0]):
            costs[a] -= lowest
            weight = math.exp(-beta * costs[a])
            total += weight
            mean += weight * costs[a]
        entropy += math.log(total) + beta * mean / total
        moved = 0.0
        for a in range(costs.shape[0]):
            p = math.exp(-beta * costs[a]) / total
            difference = p - u[i, a]
            # Changes of a row add up to zero, so costs above the cheapest do as well as costs.
            change += costs[a] * difference
            moved += difference * difference
            u[i, a] = p
        largest = max(largest, moved)
    return change, math.sqrt(largest), entropy
