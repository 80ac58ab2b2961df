"""Move-making: expansion and swap moves, each the best of exponentially many by one minimum cut."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, SupportsGraph
from mrfq.solution import Status
from mrfq.solver import Solver, State
from mrfq.solvers.cut_kernels import GraphCosts
from mrfq.solvers.graph_cut import Labels, graph_costs
from mrfq.solvers.max_flow import Backend, check_backend
from mrfq.solvers.roof_duality import fuse

M = TypeVar("M", bound=Hashable)


@dataclass
class MoveState(State, Generic[M]):
    """The number of improvements so far, and for each move the number at which it has nothing left to improve."""

    version: int = 0
    failed: dict[M, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MoveMaking(Solver[MoveState[M]], Generic[M]):
    """A cycle of moves per step, until none improves. A move is a choice between two labellings."""

    needs = frozenset({Capability.GRAPH})
    reference: ClassVar[str] = (
        "Boykov, Veksler and Zabih, Fast Approximate Energy Minimization via Graph Cuts, PAMI 2001"
    )

    order: Literal["fixed", "random"] = "fixed"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.order not in ("fixed", "random"):
            raise InvalidParameterError(f"{type(self).__name__}: order must be 'fixed' or 'random', got {self.order!r}")
        check_backend(self.backend)

    @abstractmethod
    def moves(self, count: int) -> list[M]:
        """Return the moves of a cycle, for so many labels."""

    @abstractmethod
    def choices(self, move: M, labels: Labels, costs: GraphCosts) -> tuple[Labels, Labels]:
        """Return the two labellings between which a move chooses; `labels` has one of the two everywhere."""

    def init(self, oracle: Oracle, start: Tensor) -> MoveState[M]:
        """Begin at the start or, if neighbours attract each other and it costs less, with one label everywhere."""
        labels = oracle.problem.label_set.round(start)
        costs = graph_costs(cast(SupportsGraph, oracle.problem))
        if attractive(costs):
            energies = constant_energies(costs)
            oracle.calls += 1
            lowest = int(energies.argmin())
            if energies[lowest] < oracle.energy(labels):
                labels = torch.full_like(labels, lowest)
        return MoveState(labels=labels)

    def step(self, oracle: Oracle, state: MoveState[M]) -> MoveState[M]:
        costs = graph_costs(cast(SupportsGraph, oracle.problem))
        oracle.calls += 1
        labels = cast(Tensor, state.labels).cpu().numpy()
        for move in self._cycle(oracle):
            # What failed on this very labelling would fail again.
            if state.failed.get(move) == state.version:
                continue
            oracle.calls += 1
            better, undecided = fuse(costs, labels, *self.choices(move, labels, costs), self.backend)
            state.version += better is not labels
            if better is labels or not undecided:
                state.failed[move] = state.version
            labels = better
        state.labels = torch.from_numpy(labels).to(oracle.problem.device)
        failed = [state.failed.get(move) == state.version for move in self.moves(oracle.problem.shape[1])]
        state.status = Status.CONVERGED if all(failed) else None
        return state

    def _cycle(self, oracle: Oracle) -> list[M]:
        moves = self.moves(oracle.problem.shape[1])
        if self.order == "random":
            order = torch.randperm(len(moves), generator=oracle.generator)
            return [moves[number] for number in order.tolist()]
        return moves


def attractive(costs: GraphCosts) -> bool:
    """Return whether no edge can cost less than with some equal labels at its ends."""
    diagonals = np.diagonal(costs.tables, axis1=1, axis2=2)
    return bool((costs.weights >= 0).all() and (diagonals.min(1) <= costs.tables.min((1, 2))).all())


def constant_energies(costs: GraphCosts) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the energies (L,) of the labellings that have one label everywhere; +inf if one is forbidden."""
    diagonals = np.diagonal(costs.tables, axis1=1, axis2=2)
    pairs = costs.weights.sum() * diagonals[0] if len(diagonals) == 1 else costs.weights @ diagonals
    energies = costs.unary.sum(0) + pairs
    energies[(costs.unary >= costs.hard).any(0)] = np.inf
    return cast(np.ndarray[Any, np.dtype[np.float64]], energies)


@dataclass(frozen=True)
class AlphaExpansion(MoveMaking[int]):
    """Alpha-expansion: for each label in turn, any set of variables may change to it.

    Parameters
    ----------
    order : {"fixed", "random"}
        Of the labels in a cycle.
    backend : {"auto", "pymaxflow", "scipy"}
        Of the maximum flow; "auto" takes PyMaxflow if it is installed.

    Notes
    -----
    The run begins at the start or, where neighbours attract each other and that costs less, with one label everywhere.
    One step is one cycle. For metric pairwise costs every move is submodular, the move found is the best one, and the
    energy at the end is at most `2 max theta(a, b) / min theta(a, b)` (over a != b, largest over edges) times the
    minimum, if unary costs are not negative: 2 for Potts models. Of a move that is not submodular the persistent
    part by roof duality is taken. The energy never rises.

    Examples
    --------
    >>> import mrfq
    >>> image = mrfq.generators.denoising(6, 6, 3, seed=1)
    >>> str(mrfq.solve(image, AlphaExpansion()).status).split(":")[0]
    'converged'
    """

    use_when = "labels are many and neighbours attract each other, as in a metric: fast, near the optimum on grids"

    def moves(self, count: int) -> list[int]:
        return list(range(count))

    def choices(self, move: int, labels: Labels, costs: GraphCosts) -> tuple[Labels, Labels]:
        return labels, np.where(costs.unary[:, move] < np.inf, move, labels)


@dataclass(frozen=True)
class AlphaBetaSwap(MoveMaking[tuple[int, int]]):
    """Alpha-beta swap: for each pair of labels in turn, the variables that have one of them choose anew.

    Parameters
    ----------
    order : {"fixed", "random"}
        Of the pairs in a cycle.
    backend : {"auto", "pymaxflow", "scipy"}
        Of the maximum flow; "auto" takes PyMaxflow if it is installed.

    Notes
    -----
    The run begins at the start or, where neighbours attract each other and that costs less, with one label everywhere.
    One step is one cycle. For semi-metric pairwise costs every move is submodular and the best one is found; of any
    other the persistent part by roof duality is taken. The energy never rises.
    """

    use_when = "as expansion, but the pairwise costs break the triangle inequality, e.g. truncated quadratic"

    def moves(self, count: int) -> list[tuple[int, int]]:
        # A single label has no pair; a move between it and itself changes nothing.
        return list(itertools.combinations(range(count), 2)) or [(0, 0)]

    def choices(self, move: tuple[int, int], labels: Labels, costs: GraphCosts) -> tuple[Labels, Labels]:
        alpha, beta = move
        has_one: Any = (labels == alpha) | (labels == beta)
        may_have_both = (costs.unary[:, [alpha, beta]] < np.inf).all(1)
        chosen = has_one & may_have_both
        return np.where(chosen, alpha, labels), np.where(chosen, beta, labels)
