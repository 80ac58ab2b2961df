"""Site sweeps: one variable after another, given all the others. ICM, mean-field, Gibbs sampling, annealing.

They share one sweep of the problem and differ in what a site does with its conditional costs c: the cheapest
label (ICM), softmax(-beta c) (mean-field), a sample of that law (Gibbs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.schedules import Geometric, Schedule, as_schedule
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive

Order = Literal["fixed", "random", "colour"]


def _order(order: str, oracle: Oracle) -> Tensor | Literal["colour"] | None:
    """Return the order of the next sweep in the problem's terms."""
    if order == "random":
        return torch.randperm(oracle.problem.shape[0], generator=oracle.generator)
    return "colour" if order == "colour" else None


def _check_order(solver: object, order: str) -> None:
    if order not in ("fixed", "random", "colour"):
        raise InvalidParameterError(
            f"{type(solver).__name__}: order must be 'fixed', 'random' or 'colour', got {order!r}"
        )


@dataclass(frozen=True)
class ICM(Solver[State]):
    """Iterated conditional modes: every variable in turn takes its cheapest label.

    Parameters
    ----------
    order : {"fixed", "random", "colour"}
        0..n-1; a new permutation every sweep; independent sets, each updated at once (also on a GPU).

    Notes
    -----
    The energy never rises, and the end is a labelling that no single change improves.
    """

    needs = frozenset({Capability.SWEEP})
    reference = "Besag, On the Statistical Analysis of Dirty Pictures, JRSS B 1986"
    use_when = "speed matters most and the start is good; wrap it in Restarts otherwise"

    order: Order = "fixed"

    def __post_init__(self) -> None:
        _check_order(self, self.order)

    def init(self, oracle: Oracle, start: Tensor) -> State:
        return State(labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: State) -> State:
        state.sweep = oracle.sweep(cast(Tensor, state.labels), "argmin", order=_order(self.order, oracle))
        state.status = Status.CONVERGED if state.sweep.changed == 0 else None
        return state


@dataclass(frozen=True)
class MeanField(Solver[State]):
    """Naive mean-field, sequential: `u_i = softmax(-beta c_i)` with c_i the expected conditional costs.

    Parameters
    ----------
    beta : Schedule or float, optional
        A number minimises `E(u) - H(u) / beta`, which never rises; a schedule anneals it. Left out, a geometric
        schedule is chosen from conditional costs at two random labellings.
    order : {"fixed", "random", "colour"}
    tol : float
        At a constant beta the run has converged when no probability moves by more.
    """

    needs = frozenset({Capability.SWEEP})
    reference = "Wainwright and Jordan, Graphical Models, Exponential Families, and Variational Inference, 2008, ch. 5"
    use_when = "marginals are wanted, or, annealed, a good labelling of a frustrated or dense model"

    beta: Schedule | float | None = None
    order: Order = "fixed"
    tol: float = 1e-10

    def __post_init__(self) -> None:
        _check_order(self, self.order)

    def init(self, oracle: Oracle, start: Tensor) -> ScheduledState:
        schedule = temperature_schedule(oracle) if self.beta is None else as_schedule(self.beta)
        value, _ = oracle.linearize(start)
        state = ScheduledState(u=start.clone(), relaxed_energy=float(value), schedule=schedule)
        state.beta = schedule(oracle.progress, oracle.iteration)
        return state

    def step(self, oracle: Oracle, state: State) -> State:
        assert isinstance(state, ScheduledState)
        state.beta = state.schedule(oracle.progress, oracle.iteration)
        order = _order(self.order, oracle)
        report = oracle.sweep(cast(Tensor, state.u), "softmax", beta=state.beta, order=order)
        state.relaxed_energy = cast(float, state.relaxed_energy) + report.energy_change
        state.entropy, state.labels = report.entropy, report.labels
        if state.schedule.constant and report.largest_change <= self.tol:
            state.status = Status.CONVERGED
        return state


@dataclass
class ScheduledState(State):
    """A state with the schedule that was chosen for the run."""

    schedule: Schedule = Geometric(1, 1)


@dataclass(frozen=True)
class Gibbs(Solver[State]):
    """Gibbs sampling at a fixed inverse temperature; the best labelling met is returned."""

    needs = frozenset({Capability.SWEEP})
    reference = "Geman and Geman, Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration, PAMI 1984"
    use_when = "samples are wanted, or as a yardstick for annealing"

    beta: float = 1.0
    order: Order = "fixed"

    def __post_init__(self) -> None:
        positive(self, beta=self.beta)
        _check_order(self, self.order)

    def init(self, oracle: Oracle, start: Tensor) -> State:
        return State(labels=oracle.problem.label_set.round(start), beta=self.beta)

    def step(self, oracle: Oracle, state: State) -> State:
        order = _order(self.order, oracle)
        state.sweep = oracle.sweep(cast(Tensor, state.labels), "sample", beta=self.beta, order=order)
        return state


@dataclass(frozen=True)
class SimulatedAnnealing(Solver[State]):
    """Gibbs sweeps at a growing inverse temperature.

    Parameters
    ----------
    beta : Schedule, optional
        Left out, a geometric schedule is chosen from conditional costs at two random labellings.
    order : {"fixed", "random", "colour"}
    """

    needs = frozenset({Capability.SWEEP})
    reference = "Kirkpatrick, Gelatt and Vecchi, Optimization by Simulated Annealing, Science 1983"
    use_when = "frustrated or dense models, and a budget of a few hundred sweeps"

    beta: Schedule | None = None
    order: Order = "fixed"

    def __post_init__(self) -> None:
        _check_order(self, self.order)

    def init(self, oracle: Oracle, start: Tensor) -> ScheduledState:
        schedule = temperature_schedule(oracle) if self.beta is None else as_schedule(self.beta)
        labels = oracle.problem.label_set.round(start)
        return ScheduledState(labels=labels, schedule=schedule, beta=schedule(oracle.progress, oracle.iteration))

    def step(self, oracle: Oracle, state: State) -> State:
        assert isinstance(state, ScheduledState)
        state.beta = state.schedule(oracle.progress, oracle.iteration)
        order = _order(self.order, oracle)
        state.sweep = oracle.sweep(cast(Tensor, state.labels), "sample", beta=state.beta, order=order)
        return state


#: Inverse temperatures of the default schedule, in units of one over the median cost of changing a label. Chosen on
#: generated glasses, dense and denoising models: a hotter start wastes sweeps, and forgets what broke a symmetry.
FIRST, LAST = 0.5, 40.0


def temperature_schedule(oracle: Oracle, first: float = FIRST, last: float = LAST) -> Geometric:
    """Return a geometric schedule of beta on the scale of the problem's conditional costs; two oracle calls.

    The scale is the median of what it costs to leave the cheapest label, over all variables of two random labellings;
    `first` and `last` are in units of one over it.
    """
    labels = oracle.problem.label_set
    gaps = []
    for _ in range(2):
        scores = torch.rand(labels.shape, generator=oracle.generator, dtype=torch.float64)
        vertex = labels.one_hot(labels.round(scores.to(oracle.problem.device)), oracle.problem.dtype)
        _, g = oracle.linearize(vertex)
        g = g if labels.mask is None else g.masked_fill(~labels.mask, torch.inf)
        above = g - g.amin(1, keepdim=True)
        gaps.append(above[(above > 0) & above.isfinite()])
    costs = torch.cat(gaps)
    typical = float(costs.median()) if len(costs) else 1.0
    return Geometric(first / typical, last / typical)
