"""Our side of the comparison: each solver as one call of `mrfq.solve`, with default parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from classical_found import Found
from classical_instances import Instance
from peers import PEERS, Peer

import mrfq
from mrfq.problem import mismatch
from mrfq.solver import Solver
from mrfq.solvers.annealing import ParallelAnnealing
from mrfq.solvers.auto import Auto
from mrfq.solvers.belief_propagation import MaxProduct
from mrfq.solvers.elimination import Elimination
from mrfq.solvers.factor_messages import SRMP
from mrfq.solvers.graph_cut import GraphCut
from mrfq.solvers.greedy import Greedy
from mrfq.solvers.message_passing import TRWS
from mrfq.solvers.move_making import AlphaBetaSwap, AlphaExpansion
from mrfq.solvers.roof_duality import QPBO
from mrfq.solvers.site import ICM
from mrfq.solvers.tabu import TabuSearch
from mrfq.solvers.toulbar2 import Toulbar2

#: repeated runs of what depends on seeds, or is cheap
SEEDS = 5
#: steps of message passing
STEPS = 500


@dataclass(frozen=True)
class Ours:
    """One of our solvers: its name, how it is made for a number of seconds, and its limits."""

    name: str
    make: Callable[[float], Solver[Any]]
    #: its effort is a number of oracle calls, fitted to a budget of CPU time
    search: bool = False
    #: whether the loop limits its time; if not, it does so itself
    timed: bool = True
    max_iters: int | None = None
    seeds: int = 1
    settings: tuple[dict[str, Any], ...] = ({},)

    def run(self, problem: Any, seed: int, effort: float) -> Found:
        """Solve; the effort of a search is in oracle calls, of others in seconds."""
        limits: dict[str, Any] = {"time_limit": effort} if self.timed else {}
        if self.search:
            limits = {"max_oracle_calls": max(int(effort), 1)}
        if self.max_iters is not None:
            limits["max_iters"] = self.max_iters
        solution = mrfq.solve(problem, self.make(effort), seed=seed, **limits)
        return Found(
            labels=solution.labels.numpy(), bound=solution.lower_bound, proved=solution.proved, own=solution.seconds
        )

    def refuses(self, problem: Any) -> str | None:
        """Return why the solver does not take the problem, or None."""
        return mismatch(problem, self.make(1.0))


OURS = (
    Ours("auto", lambda seconds: Auto()),
    Ours("toulbar2", lambda seconds: Toulbar2(seconds=seconds), timed=False, seeds=3),
    Ours("elimination", lambda seconds: Elimination()),
    Ours("graph-cut", lambda seconds: GraphCut(), seeds=SEEDS),
    Ours("qpbo", lambda seconds: QPBO(), seeds=3),
    Ours("expansion", lambda seconds: AlphaExpansion(), seeds=SEEDS),
    Ours("swap", lambda seconds: AlphaBetaSwap(), seeds=SEEDS),
    Ours("trws", lambda seconds: TRWS(), max_iters=STEPS),
    Ours("srmp", lambda seconds: SRMP(), max_iters=STEPS),
    Ours("max-product", lambda seconds: MaxProduct(), max_iters=STEPS),
    Ours("icm", lambda seconds: ICM()),
    Ours("parallel-annealing", lambda seconds: ParallelAnnealing(), search=True, seeds=SEEDS),
    Ours("tabu", lambda seconds: TabuSearch(), search=True, seeds=SEEDS),
    Ours("greedy", lambda seconds: Greedy(), search=True, seeds=SEEDS),
)
METHODS: dict[str, Ours | Peer] = {method.name: method for method in (*OURS, *PEERS)}


def seeds_of(method: Ours | Peer) -> int:
    """Return how many seeds a method runs with: a peer has those of its rival."""
    ours = method if isinstance(method, Ours) else METHODS[method.rival]
    assert isinstance(ours, Ours)
    return ours.seeds


def methods_for(instance: Instance) -> list[Ours | Peer]:
    """Return what runs on an instance: those of our solvers that take it, each followed by its peers."""
    problem = instance.make(0)
    chosen: list[Ours | Peer] = []
    for name in instance.solvers:
        ours = METHODS[name]
        if isinstance(ours, Ours) and ours.refuses(problem) is None:
            chosen += [ours, *(peer for peer in PEERS if peer.rival == name)]
    return chosen


def energy_of(problem: Any, labels: np.ndarray) -> float:
    """Return the energy that our own model gives to anybody's labels."""
    return float(problem.energy(torch.from_numpy(np.asarray(labels, dtype=np.int64))))
