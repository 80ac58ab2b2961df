"""ICM whose moves are exact over many variables: whole trees at once, and every small connected subset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive
from mrfq.solvers.forest_kernels import forest_moves
from mrfq.solvers.half_edges import HalfEdges, half_edges
from mrfq.solvers.subset_icm_kernels import subset_moves

#: table entries looked at in a step: a few milliseconds, so that the loop around it costs little
WORK = 2**19


@dataclass
class SubsetState(State):
    """The graph, the state of the kernel's generator, and how long nothing has helped."""

    graph: HalfEdges | None = None
    seed: np.uint64 = field(default_factory=lambda: np.uint64(1))
    #: forests in a row without gain
    stale: int = 0
    #: the next variable whose subsets are tried, and for how many in a row none helped
    first: int = 0
    clean: int = 0


@dataclass(frozen=True)
class SubsetICM(Solver[SubsetState]):
    """Block coordinate descent: exact minimisation over random induced trees, then over small connected subsets.

    A *forest move* draws a random set of variables that induces a forest in the graph (about two thirds of a grid) and
    gives all of them the best labels for the rest as it is, by dynamic programming. When `patience` of them in a row
    bring nothing, every connected subset of up to `size` variables is tried with every combination of labels; if that
    helps, forests have their turn again.

    Parameters
    ----------
    size : int
        Largest subset that is enumerated; the work grows like (neighbours x labels) to this power.
    patience : int
        Forest moves in a row without gain before subsets are enumerated.

    Notes
    -----
    The energy never rises. The run converges, and then no change of labels *inside a connected subset of up to `size`
    variables* lowers the energy beyond rounding; nor does a change of several such subsets without an edge between
    them, whose gains add up. For size 1 this is what ICM guarantees. About forests the end promises nothing, because
    they are drawn at random; on a tree one of them is exact, but no bound is given. One forest move is charged one
    oracle call, and so are n tries of a subset.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> glass = generators.spin_glass(12, 12, seed=1)
    >>> solve(glass, SubsetICM()).energy < solve(glass, "icm").energy
    True
    """

    needs = frozenset({Capability.GRAPH})
    reference = "Hamze and de Freitas, From Fields to Trees, UAI 2004; Andres et al., The Lazy Flipper, ECCV 2012"
    use_when = "ICM's answer is not good enough: sparse graphs, any tables, a proper local optimum at the end"

    size: int = 3
    patience: int = 20

    def __post_init__(self) -> None:
        positive(self, size=self.size, patience=self.patience)

    def init(self, oracle: Oracle, start: torch.Tensor) -> SubsetState:
        problem = oracle.problem
        seed = torch.randint(1, 2**63 - 1, (), generator=oracle.generator)
        return SubsetState(labels=problem.label_set.round(start), graph=half_edges(problem), seed=np.uint64(int(seed)))

    def step(self, oracle: Oracle, state: SubsetState) -> SubsetState:
        graph = cast(HalfEdges, state.graph)
        entries = graph.unary.size + len(graph.neighbour) * graph.unary.shape[1] ** 2
        calls = max(WORK // entries, 1)
        if oracle.max_calls is not None:
            calls = max(min(calls, oracle.max_calls - oracle.calls), 1)
        labels = cast(torch.Tensor, state.labels).cpu().numpy().copy()
        if state.stale < self.patience:
            seed, state.stale, moves = forest_moves(labels, calls, self.patience, state.stale, state.seed, graph)
            state.seed = np.uint64(seed)
            state.clean = 0
            oracle.calls += moves
        else:
            self._try_subsets(oracle, state, labels, calls)
        state.labels = torch.from_numpy(labels).to(oracle.problem.device)
        return state

    def _try_subsets(self, oracle: Oracle, state: SubsetState, labels: np.ndarray, calls: int) -> None:
        n, before = len(labels), labels.copy()
        first, clean, tries = subset_moves(labels, min(self.size, n), state.first, state.clean, calls * n, state.graph)
        state.first, state.clean = first, clean
        oracle.calls += -(-tries // n)
        if clean >= n:
            state.status = Status.CONVERGED
        elif (labels != before).any():
            state.stale = 0
