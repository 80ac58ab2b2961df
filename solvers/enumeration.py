"""The two ends of the scale: every labelling, and the start rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Problem
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive


@dataclass
class EnumerationState(State):
    """The number of the next labelling, and the lowest energy so far."""

    next: int = 0
    lowest: float = math.inf


@dataclass(frozen=True)
class Exhaustive(Solver[EnumerationState]):
    """Exhaustive enumeration: exact, the reference of the tests, for up to a few million labellings.

    Parameters
    ----------
    limit : int
        Largest number of labellings; a larger problem is refused before anything is computed.
    chunk : int
        Labellings evaluated in a step.
    """

    reference = "by definition"
    use_when = "the exact optimum of a tiny problem is wanted, as a reference"

    limit: int = 2**24
    chunk: int = 2**13

    def __post_init__(self) -> None:
        positive(self, limit=self.limit, chunk=self.chunk)

    def accepts(self, problem: Problem) -> str | None:
        total = math.prod(_counts(problem))
        if total > self.limit:
            return f"it has about 10^{math.log10(total):.0f} labellings, the limit is {self.limit:,}"
        return None

    def init(self, oracle: Oracle, start: Tensor) -> EnumerationState:
        return EnumerationState(labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: EnumerationState) -> EnumerationState:
        total = math.prod(_counts(oracle.problem))
        stop = min(state.next + self.chunk, total)
        labels = _labellings(oracle.problem, state.next, stop)
        energies = oracle.energies(labels)
        best = int(energies.argmin())
        if float(energies[best]) < state.lowest:
            state.lowest, state.labels = float(energies[best]), labels[best]
        state.next = stop
        if stop == total:
            # Energies of a batch may differ from single ones in the last bits; the bound is of the single kind.
            state.bound = oracle.energy(cast(Tensor, state.labels))
            state.status = Status.OPTIMAL
        return state


@dataclass(frozen=True)
class Rounding(Solver[State]):
    """The start, rounded: nearest level for a network, cheapest unary cost for an MRF. The baseline."""

    reference = "by definition"
    use_when = "as the baseline that every solver must beat"

    def init(self, oracle: Oracle, start: Tensor) -> State:
        return State(u=start, labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: State) -> State:
        state.status = Status.CONVERGED
        return state


def _counts(problem: Problem) -> list[int]:
    n, count = problem.shape
    mask = problem.label_set.mask
    return [count] * n if mask is None else [int(c) for c in mask.sum(1)]


def _labellings(problem: Problem, start: int, stop: int) -> Tensor:
    """Return labellings number `start` to `stop`, shape (stop - start, n); the last variable counts fastest."""
    mask = problem.label_set.mask
    number = torch.arange(start, stop)
    columns = []
    for i, count in reversed(list(enumerate(_counts(problem)))):
        digit = number % count
        columns.append(digit if mask is None else mask[i].nonzero()[:, 0].cpu()[digit])
        number = number // count
    return torch.stack(columns[::-1], 1).to(problem.device)
