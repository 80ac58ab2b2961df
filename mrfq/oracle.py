"""The oracle: what the loop lends a solver for one run. It counts calls, draws numbers, tells the progress."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor

from mrfq.problem import Problem, Rule, SupportsBatch, SupportsCurvature, SupportsSweep, SweepReport

#: more steps, calls or backtracks than any run makes
UNLIMITED = 2**62


class Oracle:
    """Counted access to a problem.

    One call is one linearisation (a forward and a backward pass of a network), one sweep over all variables, or
    one energy. A problem whose full energy costs more than one linearisation (mini-batches) says so by an
    attribute `energy_calls`.

    Attributes
    ----------
    problem : Problem
        For its shape, labels and structure; evaluations through it would not be counted, so solvers use the
        methods of the oracle.
    generator : torch.Generator
        The only source of randomness.
    iteration, horizon : int
        Number of steps done (of an inner solver: its own steps), and the number allowed.
    progress : float
        Fraction of the budget used, in [0, 1]; the argument of schedules.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.generator = torch.Generator(device="cpu").manual_seed(seed)
        self.calls = 0
        self.draws = 0
        self.steps = 0
        self.horizon = 1
        self.max_calls: int | None = None
        #: calls made before the present step, so that progress does not depend on when in a step it is read
        self.spent = 0
        #: clock time at which the run must end, on the clock of `time.perf_counter`
        self.deadline = math.inf
        self._window = (0.0, 1.0)
        self._first = 0

    @property
    def iteration(self) -> int:
        """Number of steps done, within the current window."""
        return self.steps - self._first

    @iteration.setter
    def iteration(self, number: int) -> None:
        self.steps = number + self._first

    @property
    def progress(self) -> float:
        """Fraction of the budget used, in [0, 1], within the current window."""
        # The last of N steps sees (N-1)/(N-1) = 1, so that a schedule reaches its end.
        used = self.steps / max(self.horizon - 1, 1)
        if self.max_calls is not None:
            used = max(used, self.spent / max(self.max_calls - 1, 1))
        start, stop = self._window
        return min(max((used - start) / max(stop - start, 1e-12), 0.0), 1.0)

    @property
    def seconds_left(self) -> float:
        """Seconds until the time limit of the run; infinite without one. What depends on it cannot be repeated."""
        return max(self.deadline - time.perf_counter(), 0.0)

    @contextmanager
    def window(self, start: float, stop: float, first: int = 0) -> Iterator[None]:
        """Let an inner solver see the budget between two fractions, from step number `first`, as its whole run."""
        outer, width = self._window, self._window[1] - self._window[0]
        self._window = (outer[0] + start * width, outer[0] + stop * width)
        self._first += first
        try:
            yield
        finally:
            self._window = outer
            self._first -= first

    def linearize(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return relaxed energy and gradient at `u`; one call."""
        self.calls += 1
        self.draws += 1
        return self.problem.linearize(u, self.draws - 1)

    def linearize_fully(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return relaxed energy and gradient at `u` on all the data; as many calls as a full energy."""
        self.calls += self.energy_calls
        return self.problem.linearize(u, None)

    def energy(self, labels: Tensor) -> float:
        """Return the energy of a labelling; `energy_calls` calls."""
        self.calls += self.energy_calls
        return self.problem.energy(labels)

    def energies(self, labels: Tensor) -> Tensor:
        """Return the energies of k labellings, shape (k, n); k times `energy_calls` calls."""
        self.calls += self.energy_calls * len(labels)
        if isinstance(self.problem, SupportsBatch):
            return self.problem.energies(labels)
        return torch.tensor([self.problem.energy(row) for row in labels], dtype=torch.float64)

    def curvature(self, labels: Tensor) -> Tensor:
        """Return the (n,) diagonal curvature at a labelling."""
        problem = cast(SupportsCurvature, self.problem)
        self.calls += problem.curvature_calls
        return problem.curvature(labels)

    def sweep(
        self,
        point: Tensor,
        rule: Rule,
        *,
        beta: float = 1.0,
        order: Tensor | Literal["colour"] | None = None,
    ) -> SweepReport:
        """Visit every variable once, in place (see `SupportsSweep.sweep`); one call."""
        self.calls += 1
        problem = cast(SupportsSweep, self.problem)
        return problem.sweep(point, rule, beta=beta, order=order, generator=self.generator)

    @property
    def energy_calls(self) -> int:
        """How many oracle calls one full energy is charged."""
        return int(getattr(self.problem, "energy_calls", 1))
