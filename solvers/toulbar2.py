"""toulbar2, the branch-and-bound solver for cost function networks (`pip install "mrfq[solver-peers]"`)."""

from __future__ import annotations

import importlib.util
import math
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from mrfq.oracle import UNLIMITED, Oracle
from mrfq.problem import Capability, Problem, SupportsFactors
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive
from mrfq.solvers.foreign_search import Signals, quiet
from mrfq.solvers.whole_numbers import WholeNumbers

#: each search may backtrack this many times as often as the one before it
GROWTH = 4
#: searches share the process's streams and signals
_one_at_a_time = threading.Lock()


@dataclass
class SearchState(State):
    """Backtracks allowed to the next search, and toulbar2's seed."""

    backtracks: int = 0
    seed: int = 1


@dataclass(frozen=True)
class Toulbar2(Solver[SearchState]):
    """Hybrid best-first branch and bound with soft local consistency: exact, with a bound at any time.

    A step is a search with a limit on backtracks, four times that of the step before. It starts from the best labelling
    so far as its upper bound; its lower bound holds even where the search is cut off.

    Parameters
    ----------
    backtracks : int
        Of the first search.
    seconds : float, optional
        Of one search without any other limit, in place of those by backtracks. Runs are then no longer the same from
        bit to bit.

    Notes
    -----
    toulbar2 computes with whole numbers. Every table is shifted to a lowest cost of 0, multiplied by a power of 2 and
    rounded *down*, so its bound divided by the same power is a bound of the energy; what floating point may have
    added to the shifts is taken off. The power is the largest for which all sums stay below 2^50. The labelling is
    called optimal by the same rule as everywhere, when this bound is within 1e-9 of its energy: where all costs are
    multiples of some 2^-k nothing is lost, elsewhere at most (number of factors) / power.

    Examples
    --------
    >>> import mrfq
    >>> glass = mrfq.generators.spin_glass(4, 4, field=0.1, seed=0)
    >>> solver = Toulbar2()
    >>> solver.accepts(glass) is not None or mrfq.solve(glass, solver).proved  # not installed, or proved
    True
    """

    needs = frozenset({Capability.FACTORS})
    reference = "Hurley et al., Multi-language evaluation of exact solvers in graphical model optimization, 2016"
    use_when = "a proof or a bound is wanted for a hard model of some hundred variables"

    backtracks: int = 10_000
    seconds: float | None = None

    def __post_init__(self) -> None:
        positive(self, backtracks=self.backtracks, seconds=self.seconds)

    def accepts(self, problem: Problem) -> str | None:
        if importlib.util.find_spec("pytoulbar2") is None:
            return 'it needs pytoulbar2, which is not installed; `pip install "mrfq[solver-peers]"` does that'
        return None

    def init(self, oracle: Oracle, start: Tensor) -> SearchState:
        seed = int(torch.randint(1, 2**31 - 1, (), generator=oracle.generator))
        return SearchState(labels=oracle.problem.label_set.round(start), backtracks=self.backtracks, seed=seed)

    def step(self, oracle: Oracle, state: SearchState) -> SearchState:
        oracle.calls += 1
        model = WholeNumbers.of(cast(SupportsFactors, oracle.problem))
        if model is None:
            state.bound, state.status = math.inf, Status.OPTIMAL
            return state
        labels = cast(Tensor, state.labels)
        seconds = self.seconds
        if math.isfinite(oracle.seconds_left):
            seconds = min(oracle.seconds_left, math.inf if seconds is None else seconds)
        backtracks = state.backtracks if self.seconds is None else UNLIMITED
        found = search(model, model.cost(labels), state.seed, backtracks, seconds)
        if found.labels is not None:
            state.labels = torch.tensor(found.labels).to(labels.device)
        state.bound = max(model.bound(found.lower), -math.inf if state.bound is None else state.bound)
        state.backtracks *= GROWTH
        if found.finished:
            state.status = Status.CONVERGED  # the loop calls it optimal where the bound meets the energy
        elif self.seconds is not None:
            state.status = Status.TIME_LIMIT
        return state


class Found(NamedTuple):
    """What a search came to: a labelling cheaper than the given upper bound, if any, and a lower bound."""

    labels: list[int] | None
    lower: int
    finished: bool


def search(model: WholeNumbers, upper: int, seed: int, backtracks: int, seconds: float | None) -> Found:
    """Search for a labelling that costs less than `upper`, with limits on backtracks and seconds."""
    with _one_at_a_time, quiet(), Signals() as signals:
        network = _network(model, upper, seed, backtracks)
        signals.limit(network.CFN.timer, seconds)
        try:
            result = network.Solve()
            limited, lower = bool(network.Option.limited), int(network.GetDDualBound())
        except network.SolverOut:
            result, limited, lower = None, True, 0
        finally:
            network.CFN.timerStop()
        signals.interrupted = limited and not signals.expired and network.GetNbBacktracks() < backtracks
    if not limited:  # it has shown that nothing is cheaper than what it found, or than `upper`
        lower = int(result[1]) if result else upper
    return Found(None if result is None else [int(a) for a in result[0]], min(lower, upper), not limited)


def _network(model: WholeNumbers, upper: int, seed: int, backtracks: int) -> Any:
    """Return the model as toulbar2's own."""
    from pytoulbar2 import CFN, tb2

    tb2.init()  # its global state is per thread, and set up for the importing one only
    network = CFN(float(upper), resolution=0, seed=seed, verbose=-1)
    # toulbar2's options are global and adapt during a search: left alone, a second run differs from the first.
    network.Option.hbfs = 1
    network.Option.limited = False
    network.Option.backtrackLimit = backtracks
    for i, count in enumerate(model.cardinalities):
        network.AddVariable(f"x{i}", range(count))
    for scope, table in model.factors:
        if scope:
            network.AddFunction(list(scope), table.ravel().tolist())
    return network
