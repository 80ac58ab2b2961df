"""Tabu search: the cheapest change of one label at a time, uphill where it must, never straight back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.solver import Solver, State, positive
from mrfq.solvers.half_edges import HalfEdges, half_edges
from mrfq.solvers.tabu_kernels import Walk, tabu_walk

#: numbers looked at in a step: about a millisecond, so that the loop around it costs little
WORK = 2**18
#: longest tenure chosen automatically
LONGEST = 20


@dataclass
class TabuState(State):
    """The walk in progress, the graph, and the state of the kernel's generator."""

    walk: Walk | None = None
    graph: HalfEdges | None = None
    seed: np.uint64 = field(default_factory=lambda: np.uint64(1))


@dataclass(frozen=True)
class TabuSearch(Solver[TabuState]):
    """Iterated one-flip tabu search.

    Every move is the cheapest change of a single label that is not tabu, whether it lowers the energy or not; the
    label left behind is tabu for a while, unless it leads below all that this walk has seen. After `patience` moves
    without improvement a new walk begins at the best labelling with a random share of its labels drawn anew.

    Parameters
    ----------
    tenure : int, optional
        A label is tabu for `tenure` moves and up to as many again at random; left out, a quarter of the variables,
        at most 20.
    patience : int, optional
        Left out, 20 moves per variable.
    strength : float
        Largest share of labels drawn anew, in (0, 1]; the share is uniform below it.

    Notes
    -----
    The labelling handed to the loop is the best so far. A move looks at the costs of all labels, so the solver is for
    dense models, or small ones: on a sparse graph a sweep of annealing costs as much as a few moves. As many moves as
    cost one pass over the model are charged one oracle call.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> dense = generators.dense_ising(14, seed=3)
    >>> solve(dense, TabuSearch(), max_iters=2).energy == solve(dense, "exhaustive").energy
    True
    """

    needs = frozenset({Capability.GRAPH})
    reference = "Palubeckis, Iterated Tabu Search for the Unconstrained Binary Quadratic Optimization Problem, 2006"
    use_when = "dense models of up to a few thousand variables, such as QUBO"

    tenure: int | None = None
    patience: int | None = None
    strength: float = 0.5

    def __post_init__(self) -> None:
        positive(self, tenure=self.tenure, patience=self.patience, strength=self.strength)

    def init(self, oracle: Oracle, start: torch.Tensor) -> TabuState:
        problem = oracle.problem
        labels = problem.label_set.round(start)
        walk = Walk(
            labels=labels.cpu().numpy().copy(),
            best=labels.cpu().numpy().copy(),
            until=np.zeros(problem.shape, np.int64),
            energies=np.full(2, np.inf),
            counters=np.zeros(2, np.int64),
        )
        seed = torch.randint(1, 2**63 - 1, (), generator=oracle.generator)
        return TabuState(labels=labels, walk=walk, graph=half_edges(problem), seed=np.uint64(int(seed)))

    def step(self, oracle: Oracle, state: TabuState) -> TabuState:
        walk, graph = state.walk, state.graph
        assert walk is not None
        assert graph is not None
        n = len(walk.labels)
        looks = graph.unary.size + len(graph.neighbour) // n  # of a move
        per_call = max((graph.unary.size + len(graph.neighbour)) // looks, 1)
        calls = max(WORK // (per_call * looks), 1)
        if oracle.max_calls is not None:
            calls = max(min(calls, oracle.max_calls - oracle.calls), 1)
        tenure = min(max(n // 4, 1), LONGEST) if self.tenure is None else self.tenure
        patience = 20 * n if self.patience is None else self.patience
        state.seed = np.uint64(tabu_walk(walk, calls * per_call, tenure, patience, self.strength, state.seed, graph))
        oracle.calls += calls
        state.labels = torch.from_numpy(walk.best.copy()).to(oracle.problem.device)
        return state
