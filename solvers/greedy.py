"""Multi-start greedy: variables are labelled one by one, the most decided first; then a descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.solver import Solver, State, positive
from mrfq.solvers.greedy_kernels import average_tables, greedy_starts
from mrfq.solvers.half_edges import HalfEdges, half_edges

#: numbers looked at in a step: about a millisecond, so that the loop around it costs little
WORK = 2**17
MOST = 64


@dataclass
class GreedyState(State):
    """The graph, what each half-edge costs on average, the state of the kernel's generator, the lowest energy."""

    graph: HalfEdges | None = None
    average: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    seed: np.uint64 = field(default_factory=lambda: np.uint64(1))
    lowest: float = math.inf


@dataclass(frozen=True)
class Greedy(Solver[GreedyState]):
    """Greedy labellings from many random orders, each followed by a descent (ICM).

    A labelling is made one variable at a time. Each variable knows its conditional costs given the labels decided so
    far, averaged over the labels of the neighbours that are not; next comes the one whose second label costs most
    above its cheapest. Starts differ because some variables, one or a few, get random labels first, and because the
    differences are scaled at random.

    Parameters
    ----------
    noise : float
        Differences are multiplied by random factors between 1 and `1 + noise`.

    Notes
    -----
    The labelling handed to the loop is the best so far; no single change of a label improves it. A start is charged
    two oracle calls: every half-edge is used once by the construction, and at least once by the descent.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> dense = generators.dense_ising(12, seed=1)
    >>> solve(dense, Greedy(), max_iters=5).energy == solve(dense, "exhaustive").energy
    True
    """

    needs = frozenset({Capability.GRAPH})
    reference = (
        "Merz and Freisleben, Greedy and Local Search Heuristics for Unconstrained Binary Quadratic Programming, 2002"
    )
    use_when = "a good labelling in milliseconds; dense models of up to about 60 variables"

    noise: float = 1.0

    def __post_init__(self) -> None:
        positive(self, **{"noise + 1": self.noise + 1})

    def init(self, oracle: Oracle, start: torch.Tensor) -> GreedyState:
        graph = half_edges(oracle.problem)
        seed = torch.randint(1, 2**63 - 1, (), generator=oracle.generator)
        return GreedyState(
            labels=oracle.problem.label_set.round(start),
            graph=graph,
            average=average_tables(graph),
            seed=np.uint64(int(seed)),
        )

    def step(self, oracle: Oracle, state: GreedyState) -> GreedyState:
        graph = state.graph
        assert graph is not None
        starts = min(max(WORK // (graph.unary.size + len(graph.neighbour) * graph.unary.shape[1]), 1), MOST)
        if oracle.max_calls is not None:
            starts = max(min(starts, (oracle.max_calls - oracle.calls) // 2), 1)
        labels = np.empty(len(graph.unary), np.int64)
        seed, energy = greedy_starts(starts, self.noise, state.seed, state.average, graph, labels)
        oracle.calls += 2 * starts
        state.seed = np.uint64(seed)
        if energy < state.lowest:
            state.lowest, state.labels = float(energy), torch.from_numpy(labels).to(oracle.problem.device)
        return state
