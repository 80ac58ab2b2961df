"""Mean-field against temperature: fixed points from opposite starts, where they part, and hysteresis in a field."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrfq.problem import Problem
from mrfq.problems.pairwise import PairwiseMRF
from mrfq.solution import Status
from mrfq.solve import solve
from mrfq.solvers.site import MeanField
from mrfq.study.order import ExactOrder, exact_order, magnetisation, polarisation, positions
from mrfq.study.runs import Floats
from mrfq.study.stability import Stability, uniform_labelling

#: inverse temperatures of the branches, and of the fields' loop, in units of the critical one
BETAS = np.linspace(0.2, 2.4, 23)
LOOP_BETA = 1.5
#: fields of the loop go this far, in units of the couplings' largest eigenvalue
LOOP_FIELD, LOOP_POINTS = 1.2, 41
#: sweeps that a fixed point may take: close to the critical point it is approached slowly
SWEEPS = 4000
#: a fixed point is reached when no probability moves by more in a sweep, or by rounding alone
TOLERANCE = 1e-10
#: polarisations between which the onset is extrapolated; a larger first one is a jump
WEAK, STRONG = 0.05, 0.6
#: magnetisations that differ by more belong to different branches
APART = 0.01


@dataclass(frozen=True)
class Branch:
    """Fixed points that one start leads to, one per inverse temperature."""

    start: str
    betas: Floats
    magnetisation: Floats
    polarisation: Floats
    #: whether the sweeps sufficed
    converged: np.ndarray


@dataclass(frozen=True)
class Loop:
    """Magnetisation in a field that rises and falls again, each fixed point starting from the last."""

    beta: float
    fields: Floats
    rising: Floats
    #: in the order of `fields`, though run from the last to the first
    falling: Floats

    @property
    def width(self) -> float:
        """The range of fields in which the two branches differ; 0 without hysteresis."""
        spacing = float(self.fields[1] - self.fields[0])
        return spacing * int((self.falling - self.rising > APART).sum())


@dataclass(frozen=True)
class Bistability:
    """What the section found.

    `onset` is where order sets in as measured: NaN if it does not, or does with a jump.
    """

    stability: Stability
    branches: tuple[Branch, ...]
    onset: float
    exact: ExactOrder | None
    loop: Loop | None


def bistability(
    problem: Problem, stability: Stability, advance: Callable[[], None] = lambda: None, betas: Floats = BETAS
) -> Bistability:
    """Follow mean-field fixed points through temperature and field; `betas` in units of the critical one."""
    scale = stability.critical
    found = []
    for name, start in opposite_starts(problem).items():
        found.append(follow(problem, name, start, betas * scale))
        advance()
    onset = measure_onset(problem, found[0]) if stability.symmetric else math.nan
    advance()
    loop = field_loop(problem, LOOP_BETA * scale, LOOP_FIELD / scale) if isinstance(problem, PairwiseMRF) else None
    advance()
    exact = exact_order(problem, np.linspace(0, 1, 60) * betas[-1] * scale)
    return Bistability(stability, tuple(found), onset, exact, loop)


def opposite_starts(problem: Problem) -> dict[str, Tensor]:
    """Return the first label everywhere, the last label everywhere, and the uniform labelling."""
    labels, place = problem.label_set, positions(problem)
    if labels.mask is not None:
        place = place.masked_fill(~labels.mask.cpu(), -math.inf)
    last = place.argmax(1)
    first = place.masked_fill(place == -math.inf, math.inf).argmin(1)
    return {
        "first label everywhere": labels.one_hot(first, problem.dtype),
        "last label everywhere": labels.one_hot(last, problem.dtype),
        "uniform": uniform_labelling(problem),
    }


def follow(problem: Problem, name: str, start: Tensor, betas: Floats) -> Branch:
    """Return the fixed points that one start leads to."""
    points = [fixed_point(problem, start, float(beta)) for beta in betas]
    m = np.array([magnetisation(problem, u) for u, _ in points])
    q = np.array([polarisation(problem, u) for u, _ in points])
    return Branch(name, betas, m, q, np.array([done for _, done in points]))


def fixed_point(problem: Problem, start: Tensor, beta: float) -> tuple[Tensor, bool]:
    """Return where sequential mean-field ends at a fixed temperature, and whether it got there."""
    tol = max(TOLERANCE, 4 * torch.finfo(problem.dtype).eps)
    solution = solve(problem, MeanField(beta=beta, tol=tol), init=start, max_iters=SWEEPS, trace_every=SWEEPS)
    return solution.relaxed, solution.status == Status.CONVERGED


def measure_onset(problem: Problem, branch: Branch) -> float:
    """Return the inverse temperature at which the polarisation of a branch sets in, NaN if it does not or jumps.

    Near a continuous onset its square grows linearly, so a parabola through squares measured just above is followed
    down to 0. The prediction of linear stability is not used.
    """
    ordered = np.flatnonzero(branch.polarisation > WEAK)
    if not len(ordered) or ordered[0] == 0:
        return math.nan
    low, high = branch.betas[ordered[0] - 1], branch.betas[ordered[0]]
    betas = np.linspace(low, 2 * high - low, 13)
    start = opposite_starts(problem)[branch.start]
    q = follow(problem, branch.start, start, betas).polarisation
    near = (q > WEAK) & (q < STRONG)
    if near.sum() < 3:
        return math.nan
    # beta as a function of the squared polarisation is smoother than the inverse, and its value at 0 is the onset
    return float(np.polynomial.Polynomial.fit(q[near][:4] ** 2, betas[near][:4], 2)(0.0))


def field_loop(problem: PairwiseMRF, beta: float, largest: float) -> Loop:
    """Return the magnetisation as a field rises from `-largest` to `largest`, and as it falls again."""
    fields = np.linspace(-largest, largest, LOOP_POINTS)
    first, last, _ = opposite_starts(problem).values()
    rising = _drive(problem, first, fields, beta)
    falling = _drive(problem, last, fields[::-1], beta)[::-1]
    return Loop(beta, fields, rising, falling)


def _drive(problem: PairwiseMRF, u: Tensor, fields: Floats, beta: float) -> Floats:
    found = []
    for field in fields:
        model = with_field(problem, float(field))
        u, _ = fixed_point(model, u, beta)
        found.append(magnetisation(model, u))
    return np.array(found)


def with_field(problem: PairwiseMRF, field: float) -> PairwiseMRF:
    """Return the model with a field that favours later labels; for spins the usual `-h s`."""
    tilt = field * positions(problem).to(problem.dtype)
    return PairwiseMRF(
        problem.unary - tilt,
        problem.edges,
        problem.tables if len(problem.edges) else None,
        weights=problem.weights if len(problem.edges) else None,
        mask=problem.label_set.mask,
        dtype=problem.dtype,
    )
