"""`Recorded`: a solver with an instrument attached, that measures each state without charging the solver for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem
from mrfq.solver import Solver, State
from mrfq.study.plan import is_mean_field

#: what is measured beside the columns of a trace
MEASURES = ("free_energy", "residual")


@dataclass
class RecordedState(State):
    """The inner state, and what was measured so far, one entry for the start and one per step."""

    inner: State | None = None
    log: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})


@dataclass(frozen=True)
class Recorded(Solver[RecordedState]):
    """The inner solver, step for step, with its states measured through the problem itself.

    Only calls of the oracle are counted, so the counts are those of the inner solver; the time is not.

    Parameters
    ----------
    inner : Solver

    Notes
    -----
    `free_energy` is `E(u) - H(u) / beta`, of mean-field only. `residual` is how far a relaxed labelling is from being
    a fixed point: `max |u - softmax(-beta g(u))|` for mean-field, the largest change of a probability in the last step
    for other solvers. What does not apply is NaN.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> from mrfq.solvers import MeanField
    >>> solution = solve(generators.chain(5, 3), Recorded(MeanField(beta=1.0)), max_iters=300)
    >>> solution.checkpoint.state.log["residual"][-1] < 1e-9
    True
    """

    inner: Solver[Any]

    def required(self) -> frozenset[Capability]:
        return self.inner.required()

    def accepts(self, problem: Problem) -> str | None:
        return self.inner.accepts(problem)

    def init(self, oracle: Oracle, start: Tensor) -> RecordedState:
        state = RecordedState(inner=self.inner.init(oracle, start))
        self._measure(oracle.problem, state, None)
        return state

    def step(self, oracle: Oracle, state: RecordedState) -> RecordedState:
        assert state.inner is not None
        before = None if state.inner.u is None else state.inner.u.clone()
        state.inner = self.inner.step(oracle, state.inner)
        self._measure(oracle.problem, state, before)
        return state

    def _measure(self, problem: Problem, state: RecordedState, before: Tensor | None) -> None:
        inner = state.inner
        assert inner is not None
        for name in State.__dataclass_fields__:  # let the loop see the inner state
            setattr(state, name, getattr(inner, name))
        inner.sweep = None  # it speaks of this step only; the loop has it now
        free = residual = math.nan
        if inner.u is not None:
            value, g = problem.linearize(inner.u)
            if is_mean_field(self.inner) and inner.beta is not None:
                free = free_energy(inner.u, float(value), inner.beta)
                residual = fixed_point_residual(problem, inner.u, g, inner.beta)
            elif before is not None:
                residual = float((inner.u - before).abs().max())
        state.log["free_energy"].append(free)
        state.log["residual"].append(residual)


def free_energy(u: Tensor, relaxed_energy: float, beta: float) -> float:
    """Return `E(u) - H(u) / beta`, what mean-field minimises."""
    return relaxed_energy - float(torch.special.entr(u).sum()) / beta


def fixed_point_residual(problem: Problem, u: Tensor, g: Tensor, beta: float) -> float:
    """Return `max |u - softmax(-beta g)|`, the distance to what all variables would become if updated at once."""
    scores = -beta * g
    if problem.label_set.mask is not None:
        scores = scores.masked_fill(~problem.label_set.mask, -torch.inf)
    return float((u - torch.softmax(scores, 1)).abs().max())
