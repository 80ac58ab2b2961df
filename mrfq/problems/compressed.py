"""A pairwise MRF prepared for its kernels: half-edges by variable, finite stand-ins for forbidden costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from mrfq.problem import Problem, SupportsGraph
from mrfq.problems.pairwise_kernels import GENERAL, POTTS, SHARED, Graph


class Pairwise(Problem, SupportsGraph, Protocol):
    """A problem with an explicit pairwise graph."""


@dataclass(frozen=True)
class Compressed:
    """Half-edges of variable i at `start[i]:start[i + 1]` (see `pairwise_kernels`); all tensors on one device.

    `unary` holds `penalty` for forbidden labels and +inf for labels that do not exist; `tables` holds the
    penalty for forbidden pairs.
    """

    unary: Tensor
    start: Tensor
    neighbour: Tensor
    weight: Tensor
    table: Tensor
    tables: Tensor
    mode: int
    penalty: float

    @cached_property
    def arrays(self) -> Graph:
        """The graph for the kernels; unsigned indices spare them a test for negative ones at every look-up."""
        return Graph(
            unary=self.unary.numpy(),
            start=self.start.numpy().astype(np.uint64),
            neighbour=self.neighbour.numpy().astype(np.uint32),
            weight=self.weight.numpy(),
            table=self.table.numpy().astype(np.uint32),
            tables=self.tables.numpy(),
        )


def compress(mrf: Pairwise) -> Compressed:
    """Return the compressed form of a pairwise MRF."""
    n, m = mrf.shape[0], len(mrf.edges)
    penalty = hard_penalty(mrf)
    scale = float(mrf.weights.min()) if m else 1.0
    tables = torch.nan_to_num(mrf.tables, posinf=penalty / scale if scale > 0 else penalty)
    ends = mrf.edges.T.flatten()  # the first ends of all edges, then the second ends
    by_variable = ends.argsort(stable=True)
    start = torch.zeros(n + 1, dtype=torch.int64, device=mrf.device)
    start[1:] = torch.bincount(ends, minlength=n).cumsum(0)
    oriented, number, mode = _orient(tables, m)
    unary = torch.nan_to_num(mrf.unary, posinf=penalty)
    if mrf.label_set.mask is not None:
        unary = unary.masked_fill(~mrf.label_set.mask, torch.inf)
    return Compressed(
        unary=unary.contiguous(),
        start=start,
        neighbour=mrf.edges.flip(1).T.flatten()[by_variable].contiguous(),
        weight=mrf.weights.repeat(2)[by_variable].contiguous(),
        table=number.to(mrf.device)[by_variable].contiguous(),
        tables=oriented.contiguous(),
        mode=mode,
        penalty=penalty,
    )


def hard_penalty(mrf: Pairwise) -> float:
    """Return a finite cost that no saving elsewhere can outweigh, so that replacing +inf by it loses nothing."""

    def range_of(costs: Tensor) -> tuple[Tensor, Tensor]:
        high = costs.where(costs.isfinite(), -torch.inf).amax(-1)
        low = costs.where(costs.isfinite(), torch.inf).amin(-1)
        return (high - low).clamp(min=0), high.clamp(min=0)

    spread, high = range_of(mrf.unary)
    pair_spread, pair_high = (mrf.weights.abs() * part for part in range_of(mrf.tables.flatten(1)))
    # It stands beside allowed costs of the same row, which may be high without being spread.
    highest = max(float(part.amax()) for part in (high, pair_high) if len(part))
    return 2 * float(spread.sum() + pair_spread.sum()) + highest + 1


def _orient(tables: Tensor, m: int) -> tuple[Tensor, Tensor, int]:
    """Return tables with the own label last, the number of each half-edge's table, and the storage mode."""
    if len(tables) == 1:
        table = tables[0]
        if bool((table == table.T).all()):
            return tables, torch.zeros(2 * m, dtype=torch.int64), POTTS if is_potts(table) else SHARED
        number = torch.arange(2).repeat_interleave(m)
        return torch.stack([table.T, table]), number, GENERAL
    # The half-edge at the first end reads the transpose: neighbour (second) label first, own label last.
    return torch.cat([tables.transpose(1, 2), tables]), torch.arange(2 * m), GENERAL


def is_potts(table: Tensor) -> bool:
    """Return whether a table (L, L) is constant on the diagonal and constant off it."""
    count = len(table)
    diagonal = torch.eye(count, dtype=torch.bool, device=table.device)
    same, different = table[diagonal], table[~diagonal]
    return bool((same == same[0]).all()) and (count == 1 or bool((different == different[0]).all()))


def independent_sets(n: int, edges: Tensor) -> list[Tensor]:
    """Return sets of variables without edges inside a set: two for a bipartite graph, else greedily few."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(edges.tolist())
    bipartite = nx.is_bipartite(graph)
    colours = nx.bipartite.color(graph) if bipartite else nx.greedy_color(graph, strategy="largest_first")
    colour = torch.tensor([colours[i] for i in range(n)])
    return [(colour == c).nonzero()[:, 0] for c in range(int(colour.max()) + 1)] if n else []
