"""Exact minimisation as a 0-1 program, by branch and cut, then proved by a search tree of its own."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsFactors
from mrfq.solution import Status, meets
from mrfq.solver import Solver, State, positive
from mrfq.solvers.local_polytope import LocalPolytope, on_grid, too_many_columns

#: what HiGHS's bound may be off by, for every variable and factor, in units of the largest spread of a table: its
#: tolerances for integrality, rows and the gap at which it prunes are 1e-6, for reduced costs 1e-7
TOLERANCE = 2e-6
#: HiGHS's status number for a limit on time or nodes
LIMIT = 1

#: part of the search space: its bound, a running number that breaks ties, labels (n, L) that are left, LP marginals
Node = tuple[float, int, np.ndarray, np.ndarray | None]


@dataclass
class TreeState(State):
    """A heap of nodes that together are the whole search space, and the programs spent on it."""

    polytope: LocalPolytope | None = None
    nodes: list[Node] = field(default_factory=list)
    programs: int = 0
    energy: float = math.inf


@dataclass(frozen=True)
class IntegerProgram(Solver[TreeState]):
    r"""0-1 program by branch and cut (HiGHS): the relaxation of `LinearProgram` with integral indicators of labels.

    Parameters
    ----------
    columns : int
        Largest number of indicators; a larger problem is refused.
    seconds : float, optional
    nodes : int, optional
        Limits of HiGHS's own; the best labelling and bound up to there are returned.
    proof : int
        Linear programs to spend on a proof of our own, where HiGHS's does not do.

    Notes
    -----
    The first step is HiGHS's branch and cut, which in floating point proves its bound up to tolerances only. It is
    lowered by 2e-6 for every variable and factor, in units of the largest spread of a table, and then raised to the
    next possible energy if all costs are multiples of some :math:`2^{-k}`, which proves models with whole costs.

    What is not proved by that or by the root relaxation is given to a small best-first branch and bound that trusts
    no tolerance: its nodes have the bound of `LocalPolytope.bound`, or are empty by arc consistency. The labelling is
    called optimal when a bound meets its energy; else the run has converged, with the gap that is left.

    Examples
    --------
    >>> import mrfq
    >>> glass = mrfq.generators.spin_glass(3, 3, field=0.1, seed=0)
    >>> mrfq.solve(glass, IntegerProgram()).proved
    True
    """

    needs = frozenset({Capability.FACTORS})
    reference = "Huangfu and Hall, Parallelizing the dual revised simplex method, Math. Prog. Comp. 2018 (HiGHS)"
    use_when = "an exact labelling of a small model that is too wide for elimination, without further packages"

    columns: int = 100_000
    seconds: float | None = None
    nodes: int | None = None
    proof: int = 200

    def __post_init__(self) -> None:
        positive(self, columns=self.columns, seconds=self.seconds, nodes=self.nodes)
        if self.proof < 0:
            raise InvalidParameterError(f"IntegerProgram: proof must not be negative, got {self.proof}")

    def accepts(self, problem: Problem) -> str | None:
        return too_many_columns(problem, self.columns)

    def init(self, oracle: Oracle, start: Tensor) -> TreeState:
        return TreeState(labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: TreeState) -> TreeState:
        oracle.calls += 1
        if state.polytope is None:
            self._begin(oracle, state)
        else:
            self._branch(oracle, state, state.polytope)
        if state.bound is not None and meets(state.energy, state.bound):
            state.status = Status.OPTIMAL
        elif state.status is None and state.programs >= self.proof:
            state.status = Status.CONVERGED
        if state.status is not None:
            state.nodes = []
        return state

    def _begin(self, oracle: Oracle, state: TreeState) -> None:
        """Solve the root relaxation and the 0-1 program."""
        state.polytope = polytope = LocalPolytope(cast(SupportsFactors, oracle.problem))
        state.energy = oracle.energy(cast(Tensor, state.labels))
        if polytope.infeasible:
            state.bound = math.inf
            return
        root = polytope.relax(self.seconds)
        found = self._branch_and_cut(polytope)
        if found.x is not None:
            _propose(oracle, state, polytope.marginals(found.x))
        if found.status == LIMIT:
            state.status = Status.TIME_LIMIT if self.seconds is not None else Status.CONVERGED
        state.bound = max(root.bound, safe_bound(polytope, found.mip_dual_bound))
        state.nodes = [(root.bound, 0, np.isfinite(polytope.unary), root.marginals)]

    def _branch_and_cut(self, polytope: LocalPolytope) -> Any:
        options: dict[str, Any] = {"mip_rel_gap": 0.0}
        if self.seconds is not None:
            options["time_limit"] = self.seconds
        if self.nodes is not None:
            options["node_limit"] = self.nodes
        return milp(
            polytope.costs,
            integrality=(np.arange(len(polytope.costs)) < polytope.labels).astype(int),
            bounds=Bounds(0.0, 1.0),
            constraints=LinearConstraint(cast(Any, polytope.matrix), polytope.right, polytope.right),
            options=cast(Any, options),
        )

    def _branch(self, oracle: Oracle, state: TreeState, polytope: LocalPolytope) -> None:
        """Split the node with the lowest bound in two: a variable has its most likely label, or it has not."""
        parent, _, allowed, marginals = heapq.heappop(state.nodes)
        likely = np.where(allowed, 0.0 if marginals is None else marginals, -1.0)
        decided = np.where(allowed.sum(1) > 1, likely.max(1), np.inf)
        i, a = int(decided.argmin()), int(likely[decided.argmin()].argmax())
        for keep in (True, False):
            part = allowed.copy()
            part[i] = (np.arange(part.shape[1]) == a) if keep else part[i] & (np.arange(part.shape[1]) != a)
            state.programs += 1
            heapq.heappush(state.nodes, self._node(oracle, state, polytope, parent, part))
        state.bound = max(cast(float, state.bound), state.nodes[0][0])

    def _node(
        self, oracle: Oracle, state: TreeState, polytope: LocalPolytope, parent: float, allowed: np.ndarray
    ) -> Node:
        """Return part of the search space with its bound, which is never below its parent's."""
        left = polytope.supported(allowed)
        if left is None:
            return math.inf, state.programs, allowed, None
        if bool((left.sum(1) == 1).all()):
            return _propose(oracle, state, left.astype(float)), state.programs, left, None
        relaxed = polytope.relax(self.seconds, left)
        if relaxed.marginals is not None:
            _propose(oracle, state, relaxed.marginals)
        return max(parent, relaxed.bound), state.programs, left, relaxed.marginals


def _propose(oracle: Oracle, state: TreeState, marginals: np.ndarray) -> float:
    """Round marginals, keep the labelling if it is the best so far, and return its energy."""
    labels = torch.from_numpy(marginals.argmax(1)).to(oracle.problem.device)
    energy = oracle.energy(labels)
    if energy < state.energy:
        state.labels, state.energy = labels, energy
    return energy


def safe_bound(polytope: LocalPolytope, reported: float | None) -> float:
    """Return HiGHS's bound as a bound of the energy, lowered by its tolerances, then raised to the next energy."""
    if reported is None or not math.isfinite(reported):
        return -math.inf
    terms = 1 + len(polytope.unary) + len(polytope.factors)
    return on_grid(polytope.constant + polytope.scale * (reported - TOLERANCE * terms), polytope.grain)
