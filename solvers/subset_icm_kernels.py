"""Numba kernels that try every small connected subset of variables, each exactly once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mrfq.kernels import kernel
from mrfq.solvers.annealing_kernels import conditional_costs, relabel
from mrfq.solvers.half_edges import HalfEdges

#: relative to the costs involved, a smaller gain is rounding
ROUNDING = 1e-12


class Search(NamedTuple):
    """Depth-first search over connected subsets: one row or entry for each size."""

    #: candidates for the next member, how many, and which comes next with which label
    candidates: Any
    length: Any
    place: Any
    label: Any
    #: the label a member had before, change of energy so far, size of the costs in it
    old: Any
    change: Any
    magnitude: Any
    #: (n,) whether a variable is a member, or a candidate of this or an earlier size
    seen: Any


@kernel
def open_level(depth: int, member: Any, first: Any, search: Search, graph: HalfEdges) -> None:
    """List the candidates after a member has joined: those left, and its neighbours above the first not yet seen."""
    kept = 0
    for place in range(search.place[depth] + 1, search.length[depth]):
        search.candidates[depth + 1, kept] = search.candidates[depth, place]
        kept += 1
    for h in range(graph.start[member], graph.start[member + 1]):
        j = graph.neighbour[h]
        if j > first and not search.seen[j]:
            search.seen[j] = True
            search.candidates[depth + 1, kept] = j
            kept += 1
    search.length[depth + 1] = kept
    search.place[depth + 1] = 0
    search.label[depth + 1] = 0


@kernel
def close_level(depth: int, search: Search) -> None:
    """Forget the candidates that the last member brought."""
    inherited = search.length[depth - 1] - search.place[depth - 1] - 1
    for place in range(inherited, search.length[depth]):
        search.seen[search.candidates[depth, place]] = False


@kernel
def improve_at(first: Any, size: int, labels: Any, costs: Any, search: Search, graph: HalfEdges) -> Any:
    """Look for a connected subset, `first` its lowest variable, whose members can all change and lower the energy.

    Every subset is visited once (Wernicke 2006, algorithm ESU), with all label combinations. Stops at the first that
    helps, leaves it in place and returns (True, tries); else labels and costs are as before.
    """
    count, depth, tries = costs.shape[1], 0, 0
    search.seen[:] = False
    search.seen[first] = True
    search.candidates[0, 0], search.length[0], search.place[0], search.label[0] = first, 1, 0, 0
    while depth >= 0:
        if search.place[depth] >= search.length[depth]:
            if depth > 0:
                close_level(depth, search)
                i = search.candidates[depth - 1, search.place[depth - 1]]
                relabel(np.uint64(i), search.old[depth - 1], labels, costs, graph)
            depth -= 1
            continue
        i, a = search.candidates[depth, search.place[depth]], search.label[depth]
        if a >= count:
            search.place[depth] += 1
            search.label[depth] = 0
            continue
        search.label[depth] += 1
        if a == labels[i] or costs[i, a] == math.inf:
            continue
        tries += 1
        new, old = costs[i, a], costs[i, labels[i]]
        change, magnitude = new - old, abs(new) + abs(old)
        if depth > 0:
            change += search.change[depth - 1]
            magnitude += search.magnitude[depth - 1]
        helps = change < -ROUNDING * magnitude
        if not helps and depth + 1 == size:
            continue
        search.old[depth], search.change[depth], search.magnitude[depth] = labels[i], change, magnitude
        relabel(np.uint64(i), a, labels, costs, graph)
        if helps:
            return True, tries
        open_level(depth, i, first, search, graph)
        depth += 1
    return False, tries


@kernel
def subset_moves(labels: Any, size: int, first: int, clean: int, allowance: int, graph: HalfEdges) -> Any:
    """Improve at one variable after another from `first` on, until `allowance` tries are made or all are clean.

    Returns (next variable, how many in a row could not be improved, tries).
    """
    n = labels.shape[0]
    costs = np.empty(graph.unary.shape)
    conditional_costs(labels, costs, graph)
    search = Search(
        np.empty((size, n), np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size),
        np.empty(size),
        np.empty(n, np.bool_),
    )
    tries = 0
    while clean < n and tries < allowance:
        helped, made = improve_at(first, size, labels, costs, search, graph)
        tries += made + 1
        if helped:
            clean = 0
        else:
            clean += 1
            first = first + 1 if first + 1 < n else 0
    return first, clean, tries
