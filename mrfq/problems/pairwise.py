"""`PairwiseMRF`: unary and pairwise costs on any graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.labels import LabelSet
from mrfq.problem import Factor, Rule, SweepReport
from mrfq.problems import tables as make_table
from mrfq.problems.checks import as_costs, check_edges, check_mask, check_tables, check_unary
from mrfq.problems.colour_sweep import ColourSweep
from mrfq.problems.compressed import Compressed, compress, independent_sets
from mrfq.problems.pairwise_kernels import POTTS, labelling_change, labelling_energy, sweep_labels, sweep_marginals

Array = Tensor | np.ndarray | Sequence[Any]


class PairwiseMRF:
    r"""A Markov random field with energy :math:`E(x) = \sum_i \theta_i(x_i) + \sum_e w_e \theta_e(x_i, x_j)`.

    Parameters
    ----------
    unary : (n, L) array
        Cost of each label; +inf forbids a label.
    edges : (m, 2) integer array
        End points, from 0. Parallel edges add up; an edge from a variable to itself is refused.
    tables : (L, L) or (m, L, L) array, optional
        One cost table shared by all edges, or one per edge; rows belong to the first end point. +inf forbids a
        pair of labels. May be left out if there are no edges.
    weights : (m,) array or float, optional
        Factor of each edge's table, 1 by default. Negative weights are fine for finite tables.
    mask : (n, L) bool array, optional
        Labels that exist (ragged label counts). Costs of the others are ignored.
    names : sequence, optional
        What the variables are called, for messages and `to_networkx`.
    dtype : torch.dtype
        float64 by default; float32 halves the memory.
    device : torch.device or str

    Raises
    ------
    InvalidProblemError
        Wrong shapes, NaN or -inf costs, edges to nowhere, a variable without labels; the message says where.

    Notes
    -----
    The energy treats +inf exactly. Relaxed energies, gradients and sweeps replace it by a finite penalty larger
    than any saving elsewhere, so that they stay finite and prefer every allowed labelling to every forbidden one.

    Examples
    --------
    >>> mrf = PairwiseMRF([[0, 1], [2, 0]], edges=[[0, 1]], tables=[[0, 5], [5, 0]])
    >>> mrf.energy(torch.tensor([1, 1]))
    1.0
    """

    def __init__(
        self,
        unary: Array,
        edges: Array = (),
        tables: Array | None = None,
        *,
        weights: Array | float | None = None,
        mask: Array | None = None,
        names: Sequence[Any] | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        costs = check_unary(unary, dtype)
        n, count = costs.shape
        exists = check_mask(mask, (n, count))
        if exists is not None:
            costs = costs.masked_fill(~exists, torch.inf)
        self.unary = costs.to(device)
        self.edges = check_edges(edges, n).to(device)
        self.tables, self.weights = check_tables(tables, weights, len(self.edges), count, dtype)
        self.tables, self.weights = self.tables.to(device), self.weights.to(device)
        if names is not None and len(names) != n:
            raise InvalidProblemError(f"{len(names)} names for {n} variables")
        self.names = list(range(n)) if names is None else list(names)
        levels = [float(a) for a in range(count)]
        exists = None if exists is None else exists.to(device)
        self.label_set = LabelSet([levels], [n], mask=exists, dtype=dtype, device=device)

    # ---- what every problem has -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Number of variables and of labels."""
        return self.unary.shape[0], self.unary.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the costs."""
        return self.unary.dtype

    @property
    def device(self) -> torch.device:
        """Where the costs are."""
        return self.unary.device

    def energy(self, labels: Tensor) -> float:
        """Return the energy of a labelling (n,); +inf if it is forbidden."""
        labels = torch.as_tensor(labels)
        if labels.shape != self.shape[:1] or labels.dtype != torch.int64 or self.device.type != "cpu":
            return float(self.energies(self.label_set.check(labels)[None])[0])
        graph = (self.unary, self.edges, self.weights, self.tables)
        arrays = (part.numpy() for part in graph)
        energy = float(labelling_energy(labels.numpy(), *arrays, len(self.tables) == 1))
        if math.isnan(energy):  # what the kernel says of a label out of range
            self.label_set.check(labels)
        return energy

    def energy_change(self, old: Tensor, new: Tensor) -> tuple[float, int]:
        """Return what going from one labelling to another costs, and how many labels differ.

        NaN stands for "unknown": a label out of range, single precision, or costs of +inf, whose differences mean
        nothing.
        """
        if not self._adds_up or self.device.type != "cpu":
            return math.nan, int(torch.count_nonzero(old != new))
        change, changed = labelling_change(old.numpy(), new.numpy(), self.compressed.arrays)
        return float(change), int(changed)

    def energies(self, labels: Tensor) -> Tensor:
        """Return the (k,) float64 energies of k labellings, shape (k, n)."""
        n, m = self.shape[0], len(self.edges)
        unary = self.unary[torch.arange(n, device=self.device), labels].sum(1, dtype=torch.float64)
        number = torch.zeros(m, dtype=torch.int64) if len(self.tables) == 1 else torch.arange(m)
        first, second = labels[:, self.edges[:, 0]], labels[:, self.edges[:, 1]]
        pairwise = self.weights * self.tables[number.to(self.device), first, second]
        return unary + pairwise.sum(1, dtype=torch.float64)

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the multilinear extension E(u) and its gradient, the conditional costs, shape (n, L)."""
        graph = self.compressed
        i, j = self.edges.unbind(1)
        unary = graph.unary if self.label_set.mask is None else graph.unary.where(self.label_set.mask, 0.0)
        g = unary.clone()
        if len(graph.tables) > 2:
            m = len(self.edges)
            weighted = self.weights[:, None] * u[j]
            g.index_add_(0, i, torch.einsum("eb,eba->ea", weighted, graph.tables[:m]))
            weighted = self.weights[:, None] * u[i]
            g.index_add_(0, j, torch.einsum("eb,eba->ea", weighted, graph.tables[m:]))
        elif len(self.edges):
            g.index_add_(0, i, self.weights[:, None] * (u @ graph.tables[0])[j])
            g.index_add_(0, j, self.weights[:, None] * (u @ graph.tables[-1])[i])
        if self.label_set.mask is not None:
            g = g.masked_fill(~self.label_set.mask, 0.0)
        return 0.5 * (u * (g + unary)).sum(), g

    # ---- optional capabilities --------------------------------------------------------------------------

    def sweep(
        self,
        point: Tensor,
        rule: Rule,
        *,
        beta: float = 1.0,
        order: Tensor | Literal["colour"] | None = None,
        generator: torch.Generator | None = None,
    ) -> SweepReport:
        """Visit every variable once, in place (see `mrfq.problem.SupportsSweep`)."""
        if isinstance(order, str):
            return self._colour_sweep.sweep(point, rule, beta, generator)
        if self.device.type != "cpu":
            raise InvalidParameterError("sequential sweeps run on the CPU; use order='colour' on another device")
        graph = self.compressed
        sites = self._sites if order is None else order.numpy().astype(np.uint64)
        if rule == "softmax":
            labels = torch.empty(self.shape[0], dtype=torch.int64)
            report = sweep_marginals(point.numpy(), labels.numpy(), sites, beta, graph.arrays, graph.mode)
            return SweepReport(report[0], largest_change=report[1], entropy=report[2], labels=labels)
        uniforms = self._no_uniforms
        if rule == "sample":
            uniforms = torch.rand(len(sites), generator=generator, dtype=torch.float64).numpy()
        change, changed = sweep_labels(
            point.numpy(), sites, rule == "sample", beta, uniforms, graph.arrays, graph.mode == POTTS
        )
        return SweepReport(change, changed, exact=self._adds_up)

    def edge_tables(self) -> Tensor:
        """Return the (m, L, L) pairwise costs, weights included."""
        expanded = self.tables.expand(len(self.edges), *self.tables.shape[1:])
        forbidden = expanded.isinf()
        return (self.weights[:, None, None] * expanded).masked_fill(forbidden, torch.inf)

    @cached_property
    def cardinalities(self) -> Tensor:
        """(n,) int64, one more than the highest label each variable has."""
        mask = self.label_set.mask
        if mask is None:
            return torch.full(self.shape[:1], self.shape[1], dtype=torch.int64)
        return ((torch.arange(self.shape[1]) + 1) * mask.cpu()).amax(1)

    def factors(self) -> list[Factor]:
        """Return the unary costs and the edges' tables, weights included, as a list of tables in float64."""
        counts = self.cardinalities.tolist()
        unary = self.unary.to("cpu", torch.float64).numpy()
        tables = self.edge_tables().to("cpu", torch.float64).numpy()
        ones = [Factor((i,), unary[i, :c]) for i, c in enumerate(counts)]
        pairs = (tuple(pair) for pair in self.edges.tolist())
        return ones + [Factor(p, table[: counts[p[0]], : counts[p[1]]]) for p, table in zip(pairs, tables, strict=True)]

    @cached_property
    def compressed(self) -> Compressed:
        """The graph in the form of the kernels, prepared on first use."""
        return compress(self)

    @cached_property
    def independent_sets(self) -> list[Tensor]:
        """Sets of variables that share no edge, which a sweep by colour updates at once."""
        return independent_sets(self.shape[0], self.edges)

    @cached_property
    def _colour_sweep(self) -> ColourSweep:
        return ColourSweep(self.compressed, self.independent_sets)

    @cached_property
    def _adds_up(self) -> bool:
        """Whether energies may be added up from changes: no cost is +inf, and double precision."""
        return self.dtype == torch.float64 and bool(self.unary.isfinite().all()) and bool(self.tables.isfinite().all())

    @cached_property
    def _sites(self) -> np.ndarray:
        return np.arange(self.shape[0], dtype=np.uint64)

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.unary.numpy(), self.edges.numpy().astype(np.uint32), self.weights.numpy(), self.tables.numpy()

    @cached_property
    def _no_uniforms(self) -> np.ndarray:
        return np.empty(0)

    def __repr__(self) -> str:
        n, count = self.shape
        kind = "shared table" if len(self.tables) == 1 else "a table per edge"
        return f"PairwiseMRF({n} variables, {count} labels, {len(self.edges)} edges, {kind})"

    # ---- common models ----------------------------------------------------------------------------------

    @classmethod
    def ising(cls, fields: Array, couplings: Array | float, edges: Array, **options: Any) -> PairwiseMRF:
        r"""Return the Ising model :math:`-\sum_i h_i s_i - \sum_{ij} J_{ij} s_i s_j`; label 1 is spin +1.

        Parameters
        ----------
        fields : (n,) array
            h; a positive field favours spin +1.
        couplings : (m,) array or float
            J; positive couplings favour equal spins.
        edges : (m, 2) array
        **options
            Of `PairwiseMRF`.
        """
        h = as_costs("fields", fields, torch.float64)
        if h.ndim != 1:
            raise InvalidProblemError(f"fields need shape (n,), got {tuple(h.shape)}")
        return cls(torch.stack([h, -h], 1), edges, make_table.spins(), weights=couplings, **options)

    @classmethod
    def potts(cls, unary: Array, edges: Array, weights: Array | float = 1.0, **options: Any) -> PairwiseMRF:
        """Return a Potts model: each edge costs its weight when its labels differ."""
        costs = check_unary(unary, torch.float64)
        return cls(costs, edges, make_table.potts(costs.shape[1]), weights=weights, **options)

    @classmethod
    def grid(
        cls, unary: Array, table: Array, weight: Array | float = 1.0, connectivity: int = 4, **options: Any
    ) -> PairwiseMRF:
        """Return a model on a grid of pixels.

        Parameters
        ----------
        unary : (height, width, L) array
            Variables are numbered row by row.
        table : (L, L) array
        weight : float or (m,) array
            In the order of `mrfq.problems.tables.grid_edges`.
        connectivity : int
            4, or 8 with the diagonals.
        **options
            Of `PairwiseMRF`.
        """
        costs = _grid_costs(unary)
        height, width, count = costs.shape
        edges = make_table.grid_edges(height, width, connectivity)
        return cls(costs.reshape(-1, count), edges, table, weights=weight, **options)

    @classmethod
    def potts_grid(
        cls, unary: Array, weight: Array | float = 1.0, connectivity: int = 4, **options: Any
    ) -> PairwiseMRF:
        """Return a Potts model on a grid; `unary` has shape (height, width, L)."""
        costs = _grid_costs(unary)
        return cls.grid(costs, make_table.potts(costs.shape[2]), weight, connectivity, **options)

    @classmethod
    def truncated_linear_grid(
        cls, unary: Array, weight: Array | float, limit: float, connectivity: int = 4, **options: Any
    ) -> PairwiseMRF:
        """Return a grid whose edges cost `weight min(|a - b|, limit)`; `unary` has shape (height, width, L)."""
        costs = _grid_costs(unary)
        table = make_table.truncated_linear(costs.shape[2], limit)
        return cls.grid(costs, table, weight, connectivity, **options)

    @classmethod
    def truncated_quadratic_grid(
        cls, unary: Array, weight: Array | float, limit: float, connectivity: int = 4, **options: Any
    ) -> PairwiseMRF:
        """Return a grid whose edges cost `weight min((a - b)^2, limit)`; `unary` has shape (height, width, L)."""
        costs = _grid_costs(unary)
        table = make_table.truncated_quadratic(costs.shape[2], limit)
        return cls.grid(costs, table, weight, connectivity, **options)


def _grid_costs(unary: Any) -> Tensor:
    costs = as_costs("unary costs", unary, torch.float64)
    if costs.ndim != 3:
        raise InvalidProblemError(f"a grid needs unary costs (height, width, labels), got {tuple(costs.shape)}")
    return costs
