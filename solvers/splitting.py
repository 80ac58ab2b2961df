"""`Splitting`: every first-order method as a composition of projection, carry, pull and schedule.

One iteration, with u = P_beta(v) the relaxed labelling and g = dE/du:

1. pull: turn g into a direction d for the latent (identity, exact Jacobian, or a surrogate);
2. carry: choose what the step starts from (primal: u; mirror: P^-1(u); dual: the latent v; none: zero);
3. step: v <- base - rate * d (plain gradient, or an optimiser of torch.optim on the latent);
4. project: u <- P_beta(v) with beta from the schedule, mixed with the old u where asked.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Problem
from mrfq.projections import Argmax, Projection
from mrfq.schedules import Schedule, as_schedule
from mrfq.solution import Status
from mrfq.solver import Solver, State
from mrfq.steps import Step, as_step

Carry = Literal["primal", "mirror", "dual", "none"]
Pull = Literal["identity", "exact", "surrogate", "surrogate-twice"]
CARRIES, PULLS = ("primal", "mirror", "dual", "none"), ("identity", "exact", "surrogate", "surrogate-twice")


@dataclass
class SplittingState(State):
    """The latent and its optimiser, beside the relaxed labelling."""

    v: Tensor | None = None
    optimizer: torch.optim.Optimizer | None = None
    rate: float = 1.0
    #: most probable labels of the point before the last, to notice a cycle
    before: Tensor | None = None


@dataclass(frozen=True)
class Splitting(Solver[SplittingState]):
    """A first-order solver composed of four choices.

    Parameters
    ----------
    projection : Projection
        From latents to relaxed labellings.
    carry : {"primal", "mirror", "dual", "none"}
        What a step starts from: the relaxed labelling, its image under the inverse projection, the latent, zero.
    pull : {"identity", "exact", "surrogate", "surrogate-twice"}
        How the gradient reaches the latent. "surrogate-twice" projects u once more before it takes the surrogate, as
        the published code of PMF does.
    schedule : Schedule or float
        Inverse temperature beta.
    rate : Step or float
        A number is the rate of plain gradient steps.
    mixing : Schedule or float
        Fraction t of the new point in `u <- (1 - t) u + t P(v)`.
    tol : float
        The run has converged when no probability moves by more. Looked at only where u determines the next u:
        carries other than "dual", constant schedules, problems that do not sample their data.
    interior : float
        Dual latents start no nearer to the boundary of the simplex than this.

    Examples
    --------
    A new solver in three lines:

    >>> from mrfq import generators, solve
    >>> from mrfq.projections import Sparsemax
    >>> mine = Splitting(Sparsemax(), carry="dual", pull="identity", schedule=2.0, rate=0.1)
    >>> solve(generators.chain(n=5, labels=3, seed=0), mine, max_iters=50).iterations
    50
    """

    reference = "Ajanthan et al., Mirror Descent View for Neural Network Quantization, AISTATS 2021"
    use_when = "you want a first-order method of your own"

    projection: Projection
    carry: Carry = "dual"
    pull: Pull = "identity"
    schedule: Schedule | float = 1.0
    rate: Step | float = Step()
    mixing: Schedule | float = 1.0
    tol: float = 1e-10
    interior: float = 0.02

    def __post_init__(self) -> None:
        for name, value, known in (("carry", self.carry, CARRIES), ("pull", self.pull, PULLS)):
            if value not in known:
                raise InvalidParameterError(f"Splitting: {name} must be one of {', '.join(known)}, got {value!r}")
        if self.pull == "exact" and self.projection.flat:
            raise InvalidParameterError(f"Splitting: {self.projection.flat}")
        as_step(self.rate)

    def accepts(self, problem: Problem) -> str | None:
        return self.projection.accepts(problem.label_set)

    def init(self, oracle: Oracle, start: Tensor) -> SplittingState:
        beta = as_schedule(self.schedule)(oracle.progress, oracle.iteration)
        if self.carry == "dual":
            inner = _into_interior(start, self.interior, oracle.problem)
            v = self.projection.latent(inner, beta, oracle.problem.label_set).clone()
            u = self.projection.forward(v, beta, oracle.problem.label_set)
        else:
            u, v = start, self._base(start, beta, oracle.problem).clone()
        return SplittingState(u=u, beta=beta, v=v, optimizer=self._optimizer(v), rate=self._first_rate(oracle, start))

    def step(self, oracle: Oracle, state: SplittingState) -> SplittingState:
        labels = oracle.problem.label_set
        u, v, last = cast(Tensor, state.u), cast(Tensor, state.v), cast(float, state.beta)
        value, g = oracle.linearize(u)
        direction = self._pull(g, v, u, last, oracle.problem)
        beta = as_schedule(self.schedule)(oracle.progress, oracle.iteration)
        if self.carry != "dual":
            v.copy_(self._base(u, beta, oracle.problem))
        self._descend(oracle, state, v, direction)
        new = self.projection.forward(v, beta, labels)
        t = as_schedule(self.mixing)(oracle.progress, oracle.iteration)
        new = new if t == 1 else torch.lerp(u, new, t)
        state.status = self._finished(oracle, state, u, new)
        state.u, state.beta, state.relaxed_energy = new, beta, value
        return state

    def _optimizer(self, v: Tensor) -> torch.optim.Optimizer:
        return as_step(self.rate).start(v)

    def _first_rate(self, oracle: Oracle, start: Tensor) -> float:
        """Return the step size; if it is left open, the inverse of the typical spread of the conditional costs.

        They are taken at the rounded start (one oracle call): the relaxed start may be a saddle, where they vanish.
        """
        rate = as_step(self.rate).rate
        if rate is not None:
            return rate
        labels = oracle.problem.label_set
        vertex = labels.one_hot(labels.round(start), oracle.problem.dtype)
        _, g = oracle.linearize(vertex)
        direction = self.projection.identity(g, vertex, labels)
        spread = direction.amax(1) - direction.amin(1) if direction.ndim == 2 else 2 * direction.abs()
        size = float(spread.mean())
        return 1.0 / size if size > 0 else 1.0

    def _base(self, u: Tensor, beta: float, problem: Problem) -> Tensor:
        """Return the point in the space of latents that a step starts from; it may be u itself."""
        if self.carry == "mirror":
            return self.projection.latent(u, beta, problem.label_set)
        base = self.projection.identity_point(u, problem.label_set)
        return torch.zeros_like(base) if self.carry == "none" else base

    def _pull(self, g: Tensor, v: Tensor, u: Tensor, beta: float, problem: Problem) -> Tensor:
        if self.pull == "identity":
            return self.projection.identity(g, u, problem.label_set)
        if self.pull == "exact":
            return self.projection.exact(g, v, u, beta, problem.label_set)
        if self.pull == "surrogate-twice":
            u = self.projection.forward(self.projection.identity_point(u, problem.label_set), beta, problem.label_set)
        return self.projection.surrogate(g, u, beta, problem.label_set)

    def _descend(self, oracle: Oracle, state: SplittingState, v: Tensor, direction: Tensor) -> None:
        rule, optimizer = as_step(self.rate), cast(torch.optim.Optimizer, state.optimizer)
        optimizer.param_groups[0]["lr"] = state.rate * rule.decay(oracle.progress, oracle.iteration)
        v.grad = direction
        optimizer.step()
        v.grad = None

    def _finished(self, oracle: Oracle, state: SplittingState, old: Tensor, new: Tensor) -> Status | None:
        """Return a status if the next step would change nothing, or only repeat the last two."""
        repeatable = as_schedule(self.schedule).constant and not getattr(oracle.problem, "stochastic", False)
        repeatable = repeatable and as_step(self.rate).memoryless
        if self.carry == "dual" or not repeatable:
            return None
        if float((new - old).abs().max()) <= self.tol:
            return Status.CONVERGED
        if not isinstance(self.projection, Argmax) or not as_schedule(self.mixing).constant or self.mixing != 1.0:
            return None
        latest, before = new.argmax(1), state.before
        state.before = old.argmax(1)
        return Status.STALLED if before is not None and torch.equal(latest, before) else None


def _into_interior(u: Tensor, floor: float, problem: Problem) -> Tensor:
    """Return u with every existing label at a probability of at least about `floor`."""
    raised = u.clamp(min=floor)
    if problem.label_set.mask is not None:
        raised = raised.where(problem.label_set.mask, 0.0)
    return raised / raised.sum(1, keepdim=True)


class Composition(Solver[SplittingState]):
    """Base of the named compositions: a solver that is a `Splitting` with some choices made."""

    @abstractmethod
    def compose(self) -> Splitting:
        """Return the composition."""

    @cached_property
    def composition(self) -> Splitting:
        """The composition, made once."""
        return self.compose()

    def accepts(self, problem: Problem) -> str | None:
        return self.composition.accepts(problem)

    def init(self, oracle: Oracle, start: Tensor) -> SplittingState:
        return self.composition.init(oracle, start)

    def step(self, oracle: Oracle, state: SplittingState) -> SplittingState:
        return self.composition.step(oracle, state)
