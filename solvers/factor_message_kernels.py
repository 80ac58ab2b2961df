"""Numba kernels of sequential message passing between the variables and the factors of a factor graph.

A place is a variable in the scope of a factor (see `mrfq.problems.factor_kernels.Flat`). `toward[p]` are the costs
that the variable at place p has told its factor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrfq.kernels import kernel
from mrfq.problems.factor_kernels import Flat


@kernel
def min_marginal(  # noqa: PLR0912
    place: Any, toward: Any, labels: Any, decided: Any, flat: Flat, work: Any
) -> Any:
    """Return the lowest costs of the factor of a place for each label there, told costs of the others included.

    Variables below `decided` have the labels given; the others are minimised over. The result is a part of `work`:
    the table is contracted with one variable after another, first those behind the place, then those before.
    """
    f = flat.owner[place]
    size = 1
    for p in range(flat.first[f], flat.first[f + 1]):
        size *= flat.cardinality[flat.scope[p]]
    work[:size] = flat.tables[flat.offset[f] : flat.offset[f] + size]
    for p in range(flat.first[f + 1] - 1, place, -1):
        j, told = flat.scope[p], toward[p]
        count = flat.cardinality[j]
        size //= count
        for e in range(size):
            if j < decided:
                work[e] = work[e * count + labels[j]]
            else:
                lowest = math.inf
                for b in range(count):
                    lowest = min(lowest, told[b] + work[e * count + b])
                work[e] = lowest
    for p in range(flat.first[f], place):
        j, told = flat.scope[p], toward[p]
        count = flat.cardinality[j]
        size //= count
        if j < decided:
            for e in range(size):
                work[e] = work[labels[j] * size + e]
        else:
            for e in range(size):
                work[e] += told[0]
            for b in range(1, count):
                for e in range(size):
                    work[e] = min(work[e], told[b] + work[b * size + e])
    return work[:size]


@kernel
def choose(i: Any, unary: Any, toward: Any, labels: Any, flat: Flat, work: Any) -> int:
    """Return the cheapest label of variable i given the labels of all variables below it."""
    costs = unary[i, : flat.cardinality[i]].copy()
    for h in range(flat.start[i], flat.start[i + 1]):
        costs += min_marginal(flat.places[h], toward, labels, i, flat, work)
    return int(costs.argmin())


@kernel
def reweighted_pass(toward: Any, unary: Any, labels: Any, forward: bool, flat: Flat, ends: Any, work: Any) -> Any:
    """Visit all variables in order, or backward; return (lower bound, rounding error). A forward pass writes labels.

    Each variable collects the min-marginals of the factors with a variable behind it, and shares its costs among the
    factors with a variable ahead. What it tells a factor is the negative of what that has told it, so that the sum of
    all costs stays the energy. `ends[p]` are the lowest and the highest variable in the factor of place p.
    """
    n = unary.shape[0]
    bound, error = 0.0, 0.0
    for position in range(n):
        i = position if forward else n - 1 - position
        count = flat.cardinality[i]
        if forward:
            labels[i] = choose(i, unary, toward, labels, flat, work)
        costs = unary[i, :count].copy()
        ahead, behind = 0, 0
        for h in range(flat.start[i], flat.start[i + 1]):
            p = flat.places[h]
            before, after = ends[p, 0] < i, ends[p, 1] > i
            ahead += after if forward else before
            behind += before if forward else after
            if before if forward else after:
                toward[p, :count] = -min_marginal(p, toward, labels, -1, flat, work)
            costs -= toward[p, :count]
        lowest = costs.min()
        bound += lowest
        error += abs(lowest) + costs.max() - lowest
        share = 1.0 / max(ahead, behind, 1)
        for h in range(flat.start[i], flat.start[i + 1]):
            p = flat.places[h]
            if ends[p, 1] > i if forward else ends[p, 0] < i:
                toward[p, :count] += share * (costs - lowest)
    return bound, error * 2.0**-50


@kernel
def max_product_pass(
    incoming: Any, toward: Any, unary: Any, labels: Any, forward: bool, flat: Flat, work: Any
) -> float:
    """Visit all variables in order, or backward, renewing all messages into and out of each; return the largest change.

    `incoming[p]` is the message of the factor of place p to its variable. The labels are those of the lowest beliefs.
    """
    n = unary.shape[0]
    change = 0.0
    for position in range(n):
        i = position if forward else n - 1 - position
        count = flat.cardinality[i]
        belief = unary[i, :count].copy()
        for h in range(flat.start[i], flat.start[i + 1]):
            p = flat.places[h]
            message = min_marginal(p, toward, labels, -1, flat, work)
            lowest = message.min()
            for a in range(count):
                new = message[a] - lowest
                change = max(change, abs(new - incoming[p, a]))
                incoming[p, a] = new
                belief[a] += new
        for h in range(flat.start[i], flat.start[i + 1]):
            p = flat.places[h]
            toward[p, :count] = belief - incoming[p, :count]
        labels[i] = belief.argmin()
    return change


@kernel
def label_bounds(toward: Any, unary: Any, bounds: Any, labels: Any, flat: Flat, work: Any) -> None:
    """Write to `bounds` (n, L) a lower bound of the energy of all labellings that have a given label.

    What is left at the variables and in the factors adds up to the energy; the parts that do not see the label
    count with their minima, the others with what they cost beside it.
    """
    n = unary.shape[0]
    total = 0.0
    lowest = np.zeros(flat.offset.shape[0])
    for f in range(flat.offset.shape[0]):
        p = flat.first[f]
        count = flat.cardinality[flat.scope[p]]
        lowest[f] = (min_marginal(p, toward, labels, -1, flat, work) + toward[p, :count]).min()
        total += lowest[f]
    for i in range(n):
        count = flat.cardinality[i]
        costs = unary[i, :count].copy()
        for h in range(flat.start[i], flat.start[i + 1]):
            costs -= toward[flat.places[h], :count]
        total += costs.min()
        bounds[i, :count] = costs - costs.min()
        for h in range(flat.start[i], flat.start[i + 1]):
            p = flat.places[h]
            beside = min_marginal(p, toward, labels, -1, flat, work) + toward[p, :count]
            bounds[i, :count] += beside - lowest[flat.owner[p]]
    bounds += total
