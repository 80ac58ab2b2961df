"""Simulated annealing on an explicit graph: independent chains that keep their conditional costs up to date."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch

from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.schedules import Geometric, Schedule, as_schedule
from mrfq.solver import Solver, State, positive
from mrfq.solvers.annealing_kernels import anneal_labels, anneal_spins, descend_labels, descend_spins
from mrfq.solvers.half_edges import HalfEdges, Ising, half_edges, ising_form
from mrfq.solvers.site import temperature_schedule

#: Inverse temperatures of the default schedule, in units of one over the median cost of changing a label. Chosen on
#: generated glasses, dense, Potts and denoising models of other sizes and seeds than those of the benchmarks.
FIRST, LAST = 1.5, 12.0
#: visits of a variable in a step chosen automatically: a few milliseconds, so that the loop around it costs nothing
VISITS = 2**18
LEAST, MOST = 16, 1024
#: sweeps between two readings of the schedule are interpolated
KNOTS = 17


@dataclass
class ChainState(State):
    """The chains, (k, n) int64 labels, the states of their generators, and the graph they run on."""

    model: Ising | HalfEdges | None = None
    chains: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int64))
    seeds: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    schedule: Schedule = Geometric(1, 1)


@dataclass(frozen=True)
class ParallelAnnealing(Solver[ChainState]):
    """Simulated annealing in independent chains, each ending every step with a descent to a local minimum.

    A chain keeps what every change of a label would cost, so that a refused change costs one comparison: Metropolis
    for two labels, heat bath for more. The labelling handed to the loop is the best chain's after the descent, which
    works on a copy: the chains themselves stay warm.

    Parameters
    ----------
    beta : Schedule, optional
        Inverse temperature. Left out, a geometric schedule is chosen from conditional costs at two random labellings.
    chains : int
        They share the budget of oracle calls, so each is shorter by this factor: one for large models, several where
        one may get stuck.
    sweeps : int, optional
        Oracle calls per chain in one step, the last of them for the descent; at least 2. Left out, as many as take a
        few milliseconds.

    Notes
    -----
    The schedule ends with the budget: with the last iteration, or with the last oracle call if that comes first. The
    first chain starts where the run does, the others at random labellings.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> glass = generators.spin_glass(16, 16, seed=1)
    >>> one, ten = (solve(glass, ParallelAnnealing(), max_oracle_calls=calls).energy for calls in (100, 10000))
    >>> ten <= one
    True
    """

    needs = frozenset({Capability.GRAPH})
    reference = "Kirkpatrick, Gelatt and Vecchi, Optimization by Simulated Annealing, Science 1983"
    use_when = "frustrated graphs, sparse or dense, of any size: thousands of sweeps in the time of a few"

    beta: Schedule | None = None
    chains: int = 1
    sweeps: int | None = None

    def __post_init__(self) -> None:
        positive(self, chains=self.chains, sweeps=None if self.sweeps is None else self.sweeps - 1)

    def init(self, oracle: Oracle, start: torch.Tensor) -> ChainState:
        problem = oracle.problem
        schedule = temperature_schedule(oracle, FIRST, LAST) if self.beta is None else as_schedule(self.beta)
        first = problem.label_set.round(start)
        scores = torch.rand((self.chains - 1, *problem.shape), generator=oracle.generator, dtype=torch.float64)
        others = [problem.label_set.round(row.to(problem.device)).cpu() for row in scores]
        seeds = torch.randint(1, 2**63 - 1, (self.chains,), generator=oracle.generator)
        graph = half_edges(problem)
        return ChainState(
            labels=first,
            beta=schedule(oracle.progress, oracle.iteration),
            model=ising_form(graph) if problem.shape[1] == 2 else graph,
            chains=torch.stack([first.cpu(), *others]).numpy(),
            seeds=seeds.numpy().astype(np.uint64),
            schedule=schedule,
        )

    def step(self, oracle: Oracle, state: ChainState) -> ChainState:
        sweeps, running = self._size(oracle)
        betas = self._betas(oracle, state.schedule, sweeps - 1, sweeps * running)
        two = isinstance(state.model, Ising)
        anneal, descend = (anneal_spins, descend_spins) if two else (anneal_labels, descend_labels)
        ends, energies = state.chains[:running].copy(), []
        for k in range(running):
            state.seeds[k] = anneal(state.chains[k], betas, state.seeds[k], state.model)
            ends[k] = state.chains[k]
            energies.append(descend(ends[k], state.model))
        oracle.calls += sweeps * running
        state.labels = torch.from_numpy(ends[int(np.argmin(energies))]).to(oracle.problem.device)
        state.beta = float(betas[-1]) if len(betas) else state.beta
        return state

    def _size(self, oracle: Oracle) -> tuple[int, int]:
        """Return the calls per chain of this step, within what is left of the budget, and how many chains run."""
        automatic = min(max(VISITS // (self.chains * oracle.problem.shape[0]), LEAST), MOST)
        sweeps = automatic if self.sweeps is None else self.sweeps
        if oracle.max_calls is None:
            return sweeps, self.chains
        left = max(oracle.max_calls - oracle.calls, 1)
        return max(min(sweeps, left // self.chains), 1), min(self.chains, left)

    @staticmethod
    def _betas(oracle: Oracle, schedule: Schedule, sweeps: int, calls: int) -> np.ndarray:
        """Return the inverse temperature of each sweep of a step that will make so many calls."""
        begin, end = used(oracle, 0, 0), used(oracle, 1, calls)
        knots = np.linspace(0.0, 1.0, KNOTS)
        values = [schedule(begin + (end - begin) * t, oracle.iteration) for t in knots]
        betas = np.interp(np.linspace(0.0, 1.0, sweeps + 1)[1:], knots, values)
        return np.maximum(betas, np.finfo(float).tiny)


def used(oracle: Oracle, steps: int, calls: int) -> float:
    """Return the fraction of the budget that is used after so many more steps and calls.

    The oracle's `progress` is 1 at the beginning of the last step; for steps that run a part of a schedule it should
    be 1 at their end.
    """
    ahead = copy.copy(oracle)
    ahead.horizon += 1
    ahead.max_calls = None if oracle.max_calls is None else oracle.max_calls + 1
    ahead.steps += steps
    ahead.spent += calls
    return ahead.progress
