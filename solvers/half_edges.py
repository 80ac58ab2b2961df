"""A pairwise graph as local search wants it: what each variable sees of its neighbours, in finite float64 costs.

Local search keeps the *conditional costs* of every variable, `c_i(a) = unary_i(a) + sum_j table_ij(a, x_j)`, and
repairs those of the neighbours when a label changes. That needs finite numbers, because +inf cannot be taken back.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch

from mrfq.problem import Problem, SupportsGraph
from mrfq.problems.compressed import is_potts

#: tables that agree to this precision after scaling are one table
SAME = 1e-14


class HalfEdges(NamedTuple):
    """Half-edges of variable i are `start[i]:start[i + 1]`; every pair of variables has at most one edge."""

    #: (n, L) unary costs; +inf marks a label that does not exist, everything else is finite
    unary: Any
    start: Any
    #: the variable at the other end of each half-edge, the number of its table, and that table's factor
    neighbour: Any
    table: Any
    weight: Any
    #: `tables[t, b, a]` is the cost of own label a beside neighbour label b
    tables: Any
    #: whether the one table is constant on the diagonal and constant off it, so that only equal labels matter
    potts: bool
    #: (half-edges,) the same edge seen from the other end
    opposite: Any


def half_edges(problem: Problem) -> HalfEdges:
    """Return the graph of a problem with edges in both directions, parallel edges merged, +inf made finite.

    Forbidden costs become a penalty that outweighs every saving elsewhere. Tables that are multiples of one symmetric
    table are stored once.
    """
    graph = cast(SupportsGraph, problem)
    unary = graph.unary.detach().cpu().double().numpy().copy()
    edges, tables = _merged(graph.edges.cpu().numpy(), graph.edge_tables().detach().cpu().double().numpy())
    penalty = _penalty(unary, tables)
    unary[np.isinf(unary)] = penalty
    if problem.label_set.mask is not None:
        unary[~problem.label_set.mask.cpu().numpy()] = np.inf
    tables = np.where(np.isinf(tables), penalty, tables)
    number, weight, stored = _stored(tables)
    ends = edges.T.ravel()  # the first ends of all edges, then the second ends
    order = np.argsort(ends, kind="stable")
    start = np.zeros(len(unary) + 1, dtype=np.uint64)
    np.cumsum(np.bincount(ends, minlength=len(unary)), out=start[1:])
    return HalfEdges(
        unary,
        start,
        edges[:, ::-1].T.ravel()[order].astype(np.uint32),
        number[order],
        np.tile(weight, 2)[order],
        stored,
        potts=len(stored) == 1 and is_potts(torch.from_numpy(stored[0])),
        opposite=opposite(order),
    )


class Ising(NamedTuple):
    """Two labels as spins +1 (label 0) and -1 (label 1); half-edges as in `HalfEdges`."""

    #: (n,) cost of label 1 over label 0 while all neighbours have label 0
    bias: Any
    #: (n,) whether only one label exists; the bias is then that of the neighbours alone
    pinned: Any
    start: Any
    neighbour: Any
    #: what that cost changes by when the neighbour takes label 1: the mixed second difference of the table
    coupling: Any


def ising_form(graph: HalfEdges) -> Ising:
    """Return a graph of two labels as spins."""
    tables = graph.tables
    step = graph.weight * (tables[:, 0, 1] - tables[:, 0, 0])[graph.table]
    mixed = graph.weight * (tables[:, 0, 0] - tables[:, 0, 1] - tables[:, 1, 0] + tables[:, 1, 1])[graph.table]
    pinned = np.isinf(graph.unary).any(1)
    unary = np.where(pinned[:, None], 0.0, graph.unary)
    own = np.repeat(np.arange(len(unary)), np.diff(graph.start.astype(np.int64)))
    bias = unary[:, 1] - unary[:, 0] + np.bincount(own, step, minlength=len(unary))
    return Ising(bias, pinned, graph.start, graph.neighbour, mixed)


def _merged(edges: np.ndarray, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges with lower end first and the tables of parallel ones added up."""
    swap = edges[:, 0] > edges[:, 1]
    edges = np.sort(edges, axis=1)
    distinct, which = np.unique(edges, axis=0, return_inverse=True)
    tables = np.where(swap[:, None, None], tables.transpose(0, 2, 1), tables)
    if len(distinct) == len(edges):
        return edges, tables
    merged = np.zeros((len(distinct), *tables.shape[1:]))
    np.add.at(merged, which.ravel(), tables)
    return distinct, merged


def _penalty(unary: np.ndarray, tables: np.ndarray) -> float:
    """Return a finite cost that no saving elsewhere can outweigh."""
    total, highest = 0.0, 0.0
    for costs in (unary, tables.reshape(len(tables), unary.shape[1] ** 2)):
        finite = np.isfinite(costs)
        high = np.where(finite, costs, -np.inf).max(1, initial=-np.inf)
        low = np.where(finite, costs, np.inf).min(1, initial=np.inf)
        some = finite.any(1)
        total += float((high - low)[some].sum())
        # It stands beside allowed costs of the same row, which may be high without being spread.
        highest = max(highest, float(high[some].max(initial=0.0)))
    return 2 * total + highest + 1


def _stored(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return table numbers of all half-edges (first ends, then second ends), factors of the edges, and the tables."""
    m, count = tables.shape[:2]
    if m == 0:
        return np.zeros(0, np.uint32), np.zeros(0), np.zeros((1, count, count))
    first = tables[np.abs(tables).reshape(m, -1).max(1).argmax()]
    at = np.unravel_index(np.abs(first).argmax(), first.shape)
    weight = tables[:, at[0], at[1]] / first[at] if first[at] else np.ones(m)
    close = np.abs(tables - weight[:, None, None] * first) <= SAME * np.abs(tables)
    if bool(close.all()) and bool((first == first.T).all()):
        return np.zeros(2 * m, np.uint32), weight, first[None].copy()
    # The half-edge at the first end reads the transpose: neighbour (second) label first, own label last.
    both = np.concatenate([tables.transpose(0, 2, 1), tables])
    return np.arange(2 * m, dtype=np.uint32), np.ones(m), both


def opposite(order: np.ndarray) -> np.ndarray:
    """Return the place of every half-edge's other half, where `order` sorts first ends, then second ends."""
    place = np.empty(len(order), dtype=np.uint64)
    place[order] = np.arange(len(order), dtype=np.uint64)
    other: np.ndarray = np.roll(place, len(order) // 2)[order]
    return other
