"""What a labelling problem is, what it may be able to do, and the check that matches it to a solver.

Every problem has a shape, a label set, an energy and a linearisation. Everything else is optional: a
*capability* is a small protocol, and a problem has it by having the methods. Solvers name the capabilities
they need, and `check_match` says before anything runs what is missing and which solvers fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import CapabilityError
from mrfq.labels import LabelSet

if TYPE_CHECKING:
    from mrfq.solver import Solver

#: solvers named in a message; more are only counted
SUGGESTED = 8

Rule = Literal["argmin", "softmax", "sample"]


@runtime_checkable
class Problem(Protocol):
    """A discrete labelling problem: n variables, up to L labels each, an energy to minimise."""

    @property
    def label_set(self) -> LabelSet:
        """The labels, their levels and their mask."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of variables n and largest number of labels L."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of relaxed labellings and gradients."""

    @property
    def device(self) -> torch.device:
        """Where relaxed labellings live."""

    def energy(self, labels: Tensor) -> float:
        """Return the energy of a labelling, shape (n,) int64; +inf if it is forbidden."""

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the relaxed energy (0-d) and its gradient (n, L) at a relaxed labelling.

        `draw` numbers the calls of one run: a problem that samples its data uses it to choose the sample, so
        that a run is reproducible and can be resumed; None asks for all the data. Others ignore it.
        """


@dataclass
class SweepReport:
    """What one site sweep did."""

    #: sum over the visited sites of the change of energy (relaxed energy for the softmax rule)
    energy_change: float
    #: number of variables whose label changed (discrete rules)
    changed: int = 0
    #: largest Euclidean change of a row of the relaxed labelling (softmax rule)
    largest_change: float = 0.0
    #: sum of the entropies of all variables, in nats (softmax rule)
    entropy: float = 0.0
    #: whether `energy_change` is that of the energy, without stand-ins for costs of +inf, in double precision
    exact: bool = False
    #: most probable labels (softmax rule)
    labels: Tensor | None = None


@runtime_checkable
class SupportsSweep(Protocol):
    """A multilinear energy: conditional costs of one variable given all others are cheap and exact."""

    def sweep(
        self,
        point: Tensor,
        rule: Rule,
        *,
        beta: float = 1.0,
        order: Tensor | Literal["colour"] | None = None,
        generator: torch.Generator | None = None,
    ) -> SweepReport:
        """Visit every variable once, in place.

        `point` holds labels (n,) for the rules "argmin" (ICM) and "sample" (Gibbs), and a relaxed labelling
        (n, L) for "softmax" (mean-field). Ties of the argmin keep the current label, else take the lowest.
        `order` is a permutation, None for 0..n-1, or "colour": one independent set after another, all of a
        set at once.
        """


@runtime_checkable
class SupportsChange(Protocol):
    """The change of energy between two labellings, at the cost of what differs; for the loop, not for solvers."""

    def energy_change(self, old: Tensor, new: Tensor) -> tuple[float, int]:
        """Return the change of energy (NaN if it is not known) and the number of labels that differ."""


@runtime_checkable
class SupportsUnary(Protocol):
    """Unary costs, which tell a run where to start."""

    @property
    def unary(self) -> Tensor:
        """(n, L) unary costs; +inf for labels that are forbidden or do not exist."""


@runtime_checkable
class SupportsGraph(SupportsUnary, Protocol):
    """An explicit pairwise graph, for message passing and cuts."""

    @property
    def edges(self) -> Tensor:
        """(m, 2) end points."""

    @property
    def tables(self) -> Tensor:
        """(1, L, L) costs shared by all edges, or (m, L, L); rows belong to the first end point."""

    @property
    def weights(self) -> Tensor:
        """(m,) factors of the tables; positive where a table has +inf."""

    def edge_tables(self) -> Tensor:
        """Return the (m, L, L) pairwise costs, weights included."""


class Factor(NamedTuple):
    """A table of costs on a few variables."""

    #: distinct variables; empty for a constant
    scope: tuple[int, ...]
    #: float64 costs, one axis a variable of the scope, as long as its cardinality; +inf forbids
    table: np.ndarray


@runtime_checkable
class SupportsFactors(Protocol):
    """An energy that is a sum of explicit cost tables of any arity, for exact methods and message passing."""

    @property
    def cardinalities(self) -> Tensor:
        """(n,) int64, number of labels of each variable."""

    def factors(self) -> list[Factor]:
        """Return the tables whose sum is the energy; a label that does not exist costs +inf in one of them."""


@runtime_checkable
class SupportsBatch(Protocol):
    """Energies of many labellings at once, for enumeration."""

    def energies(self, labels: Tensor) -> Tensor:
        """Return the (k,) energies of k labellings, shape (k, n)."""


@runtime_checkable
class SupportsCurvature(Protocol):
    """The diagonal of the curvature with respect to the values of the variables."""

    #: how many oracle calls one evaluation is charged
    curvature_calls: int

    def curvature(self, labels: Tensor) -> Tensor:
        """Return the (n,) second derivatives with respect to the values, at a labelling."""


@runtime_checkable
class SupportsLayer(Protocol):
    """The output error of a layer, `sum_r (q_r - t_r) H (q_r - t_r)^T`, for what works on all of its rows at once.

    Variables are its weights, numbered row by row.
    """

    @property
    def target(self) -> Tensor:
        """(R, C) weights t to come close to."""

    @property
    def gram(self) -> Tensor:
        """(C, C) positive semi-definite H."""

    @property
    def values(self) -> Tensor:
        """(R or 1, G, L) ascending levels of each row and each group of C / G consecutive columns."""


class Capability(StrEnum):
    """An optional ability of a problem."""

    SWEEP = "site sweep"
    GRAPH = "explicit pairwise graph"
    FACTORS = "list of cost tables"
    BATCH = "batch of energies"
    CURVATURE = "diagonal curvature"
    LAYER = "quadratic form of a layer"


PROTOCOLS: dict[Capability, Any] = {
    Capability.SWEEP: SupportsSweep,
    Capability.GRAPH: SupportsGraph,
    Capability.FACTORS: SupportsFactors,
    Capability.BATCH: SupportsBatch,
    Capability.CURVATURE: SupportsCurvature,
    Capability.LAYER: SupportsLayer,
}


def capabilities(problem: Problem) -> frozenset[Capability]:
    """Return the optional abilities of a problem."""
    return frozenset(c for c, protocol in PROTOCOLS.items() if isinstance(problem, protocol))


def mismatch(problem: Problem, solver: Solver[Any]) -> str | None:
    """Return why the solver cannot work on the problem, or None if it can."""
    missing = solver.required() - capabilities(problem)
    if missing:
        what = " and ".join(f"{'an' if c[0] in 'aeiou' else 'a'} {c}" for c in sorted(missing))
        return f"{type(problem).__name__} does not offer {what}{_detail(problem, missing)}"
    return solver.accepts(problem)


def _detail(problem: Problem, missing: frozenset[Capability]) -> str:
    """Return what there is to say about a factor graph or a layer that was given to a solver of explicit tables."""
    arity = getattr(problem, "arity", None)
    if isinstance(problem, SupportsLayer) and {Capability.GRAPH, Capability.FACTORS} & missing:
        return "; of a tiny layer, the method pairwise() gives a problem that does"
    if arity is None or Capability.GRAPH not in missing:
        return ""
    return (
        f", it has a table on {arity} variables" if arity > 2 else "; its method pairwise() gives a problem that does"
    )


def check_match(problem: Problem, solver: Solver[Any], fitting: Sequence[str] = ()) -> None:
    """Raise `CapabilityError` if the solver cannot work on the problem; name the solvers that can."""
    reason = mismatch(problem, solver)
    if reason:
        hint = f"; solvers that fit: {', '.join(fitting[:SUGGESTED])}" if fitting else ""
        hint += f" and {len(fitting) - SUGGESTED} more" if len(fitting) > SUGGESTED else ""
        raise CapabilityError(f"{type(solver).__name__} cannot solve this problem: {reason}{hint}")
