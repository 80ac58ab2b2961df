"""`FactorGraph`: cost tables of any arity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.labels import LabelSet
from mrfq.problem import Factor, Rule, SupportsFactors, SweepReport
from mrfq.problems.factor_checks import check_cardinalities, check_factor
from mrfq.problems.factor_kernels import (
    Flat,
    gradient,
    labelling_change,
    labelling_energies,
    sweep_labels,
    sweep_marginals,
)

if TYPE_CHECKING:
    from mrfq.problems.pairwise import PairwiseMRF
    from mrfq.problems.reduction import Reduction


class FactorGraph:
    r"""A discrete energy that is a sum of cost tables, :math:`E(x) = \sum_f \theta_f(x_{\partial f})`.

    Parameters
    ----------
    cardinalities : sequence of int
        Number of labels of each variable, at least 1.
    factors : iterable of (scope, table)
        The scope is a tuple of distinct variables, empty for a constant; the table has one axis for each of them, as
        long as its cardinality. +inf forbids a configuration. Scopes may repeat; their tables add up.
    names : sequence, optional
        What the variables are called, for messages.

    Raises
    ------
    InvalidProblemError
        A scope with unknown or repeated variables, a table of the wrong shape, NaN or -inf; the message says where.

    Notes
    -----
    Costs are float64 and on the CPU. As in `PairwiseMRF`, the energy treats +inf exactly, and relaxed energies,
    gradients and sweeps use a finite penalty larger than any saving elsewhere.

    Examples
    --------
    At least one of three switches must be on, and each costs something:

    >>> clause = np.zeros((2, 2, 2))
    >>> clause[0, 0, 0] = np.inf
    >>> costs = [((i,), [0.0, cost]) for i, cost in enumerate([3.0, 1.0, 2.0])]
    >>> graph = FactorGraph([2, 2, 2], [((0, 1, 2), clause), *costs])
    >>> graph.energy(torch.tensor([0, 0, 0])), graph.energy(torch.tensor([0, 1, 0]))
    (inf, 1.0)
    """

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(
        self,
        cardinalities: Sequence[int] | np.ndarray | Tensor,
        factors: Iterable[tuple[Sequence[int], Any]],
        *,
        names: Sequence[Any] | None = None,
    ) -> None:
        self.cardinalities = torch.from_numpy(check_cardinalities(cardinalities))
        counts = self.cardinalities.tolist()
        checked = [check_factor(number, scope, table, counts) for number, (scope, table) in enumerate(factors)]
        if names is not None and len(names) != len(counts):
            raise InvalidProblemError(f"{len(names)} names for {len(counts)} variables")
        self.names = list(range(len(counts))) if names is None else list(names)
        self._scopes = [factor.scope for factor in checked]
        self._flat = _flatten(self.cardinalities.numpy(), checked)
        widest = max(counts)
        ragged = min(counts) < widest
        mask = torch.arange(widest) < self.cardinalities[:, None] if ragged else None
        self.label_set = LabelSet([[float(a) for a in range(widest)]], [len(counts)], mask=mask)

    @classmethod
    def of(cls, problem: SupportsFactors) -> FactorGraph:
        """Return any problem made of cost tables as a factor graph."""
        if isinstance(problem, cls):
            return problem
        return cls(problem.cardinalities, problem.factors(), names=getattr(problem, "names", None))

    # ---- what every problem has -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Number of variables and largest number of labels."""
        return self.label_set.shape

    def energy(self, labels: Tensor) -> float:
        """Return the energy of a labelling (n,); +inf if it is forbidden."""
        labels = torch.as_tensor(labels)
        if labels.shape != self.shape[:1] or labels.dtype != torch.int64:
            labels = self.label_set.check(labels)
        energy = float(self.energies(labels[None])[0])
        if math.isnan(energy):  # what the kernel says of a label out of range
            self.label_set.check(labels)
        return energy

    def energies(self, labels: Tensor) -> Tensor:
        """Return the (k,) float64 energies of k labellings, shape (k, n)."""
        energies = torch.empty(len(labels), dtype=torch.float64)
        labelling_energies(labels.numpy(), self._flat, energies.numpy())
        return energies

    def energy_change(self, old: Tensor, new: Tensor) -> tuple[float, int]:
        """Return what going from one labelling to another costs (NaN if unknown), and how many labels differ."""
        if not self._finite:
            return math.nan, int(torch.count_nonzero(old != new))
        change, changed = labelling_change(old.numpy(), new.numpy(), self._flat)
        return float(change), int(changed)

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the multilinear extension E(u) and its gradient, the conditional costs, shape (n, L)."""
        g = torch.empty(self.shape, dtype=torch.float64)
        energy = gradient(u.numpy(), g.numpy(), self.compressed, self._work)
        return torch.tensor(energy, dtype=torch.float64), g

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
            order = self._colour_order
        sites = self._sites if order is None else order.numpy()
        if rule == "softmax":
            labels = torch.empty(self.shape[0], dtype=torch.int64)
            report = sweep_marginals(point.numpy(), labels.numpy(), sites, beta, self.compressed, self._work)
            return SweepReport(report[0], largest_change=report[1], entropy=report[2], labels=labels)
        uniforms = np.empty(0)
        if rule == "sample":
            uniforms = torch.rand(len(sites), generator=generator, dtype=torch.float64).numpy()
        change, changed = sweep_labels(point.numpy(), sites, rule == "sample", beta, uniforms, self.compressed)
        return SweepReport(change, changed, exact=self._finite)

    def factors(self, *, finite: bool = False) -> list[Factor]:
        """Return the tables, read-only views of the model's own costs; `finite` puts the penalty for +inf."""
        return list(self._finite_factors if finite else self._factors)

    @cached_property
    def unary(self) -> Tensor:
        """(n, L) sum of the tables of one variable; +inf where there is no label."""
        costs = torch.zeros(self.shape, dtype=torch.float64)
        for scope, table in self.factors():
            if len(scope) == 1:
                costs[scope[0], : len(table)] += torch.tensor(table)
        return costs if self.label_set.mask is None else costs.masked_fill(~self.label_set.mask, torch.inf)

    @property
    def arity(self) -> int:
        """Largest number of variables in a factor."""
        return max((len(scope) for scope in self._scopes), default=0)

    # ---- other forms ------------------------------------------------------------------------------------

    def condition(self, evidence: Mapping[int, int]) -> Reduction:
        """Return the smaller model in which these variables have these labels, and the way back.

        Variables with only one label that is not forbidden are taken out too.

        Examples
        --------
        >>> graph = FactorGraph([2, 2], [((0, 1), [[0.0, 2.0], [2.0, 1.0]])])
        >>> reduced = graph.condition({0: 1})
        >>> reduced.problem.shape, reduced.expand(torch.tensor([1])).tolist()
        ((1, 2), [1, 1])
        """
        from mrfq.problems.reduction import clamp, reduce

        return reduce(self, clamp(self, evidence))

    def pairwise(self) -> PairwiseMRF:
        """Return the same model as a `PairwiseMRF`, which more solvers take.

        Unary costs are added up, parallel edges merged, and a constant becomes part of variable 0's costs.

        Raises
        ------
        InvalidProblemError
            A factor has more than two variables.
        """
        from mrfq.problems.reduction import pairwise

        return pairwise(self)

    def __repr__(self) -> str:
        n, count = self.shape
        return f"FactorGraph({n} variables, {count} labels, {len(self._scopes)} factors, arity {self.arity})"

    # ---- prepared on first use --------------------------------------------------------------------------

    @cached_property
    def _factors(self) -> list[Factor]:
        return self._views(self._flat.tables)

    @cached_property
    def _finite_factors(self) -> list[Factor]:
        return self._views(self.compressed.tables)

    def _views(self, tables: np.ndarray) -> list[Factor]:
        """Return the factors with their parts of one flat array."""
        counts, offsets = self._flat.cardinality.tolist(), self._flat.offset.tolist()
        found = []
        for scope, offset in zip(self._scopes, offsets, strict=True):
            shape = [counts[i] for i in scope]
            found.append(Factor(scope, tables[offset : offset + math.prod(shape)].reshape(shape)))
        return found

    @cached_property
    def _finite(self) -> bool:
        return bool(np.isfinite(self._flat.tables).all())

    @cached_property
    def compressed(self) -> Flat:
        """The model in the form of the kernels, with a finite stand-in for +inf, larger than any saving elsewhere."""
        if self._finite:
            return self._flat
        tables = self._flat.tables
        finite = np.where(np.isfinite(tables), tables, np.nan)
        spread = highest = 0.0
        for start, stop in zip(self._flat.offset, [*self._flat.offset[1:], len(tables)], strict=True):
            costs = finite[start:stop][~np.isnan(finite[start:stop])]
            if len(costs):
                spread += float(costs.max() - costs.min())
                highest = max(highest, float(costs.max()))
        return self._flat._replace(tables=np.nan_to_num(tables, posinf=2 * spread + highest + 1))

    @cached_property
    def _work(self) -> np.ndarray:
        return np.empty(max((factor.table.size for factor in self.factors()), default=1))

    @cached_property
    def _sites(self) -> np.ndarray:
        return np.arange(self.shape[0])

    @cached_property
    def _colour_order(self) -> Tensor:
        """Variables by colour; those of a colour share no factor, so one after another is the same as all at once."""
        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(self.shape[0]))
        for scope in self._scopes:
            graph.add_edges_from((i, j) for k, i in enumerate(scope) for j in scope[:k])
        colours = nx.greedy_color(graph, strategy="largest_first")
        return torch.tensor(sorted(colours, key=lambda i: (colours[i], i)))


def _flatten(cardinality: np.ndarray, factors: list[Factor]) -> Flat:
    """Return the factors as flat arrays."""
    arities = np.array([len(factor.scope) for factor in factors], dtype=np.int64)
    sizes = np.array([factor.table.size for factor in factors], dtype=np.int64)
    scope = np.array([i for factor in factors for i in factor.scope], dtype=np.int64)
    strides = [s // 8 for factor in factors for s in np.empty(factor.table.shape).strides]
    tables = np.concatenate([factor.table.ravel() for factor in factors]) if factors else np.empty(0)
    tables.flags.writeable = False
    return Flat(
        cardinality=cardinality,
        first=np.concatenate([[0], arities.cumsum()]).astype(np.int64),
        scope=scope,
        stride=np.array(strides, dtype=np.int64),
        offset=(sizes.cumsum() - sizes).astype(np.int64),
        tables=tables,
        start=np.concatenate([[0], np.bincount(scope, minlength=len(cardinality)).cumsum()]).astype(np.int64),
        places=scope.argsort(kind="stable"),
        owner=np.arange(len(factors)).repeat(arities),
    )
