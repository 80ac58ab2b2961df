"""Soft scalar projections for any ascending levels: staircases that sharpen as beta grows."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.labels import LabelSet
from mrfq.projections.intervals import locate, stairs
from mrfq.projections.scalar import ScalarProjection

#: exponents are cut off here: what is below would not count, and exp of it is a hundred times slower
NEGLIGIBLE = -80.0


@dataclass(frozen=True)
class SoftStaircase(ScalarProjection):
    """A smooth staircase through any ascending levels: MD-tanh and its ternary form for any level set.

    `form="sum"`: one tanh at each midpoint c_k between levels, `mean(q_lo, q_hi) + sum_k h_k tanh(beta (v - c_k))`
    with h_k half the distance; strictly increasing, so it has a mirror map (AISTATS 2021, appendix, for ternary).
    `form="interval"`: in each interval `c + h tanh(beta x) / tanh(beta)`, x = (v - c) / h; the identity for small
    beta, clipped at the ends (soft quantization functions).

    Examples
    --------
    >>> labels = LabelSet.named("ternary", n=3)
    >>> SoftStaircase().value(torch.tensor([-0.8, 0.1, 0.9]), 1e3, labels).tolist()
    [-1.0, 0.0, 1.0]
    """

    form: str = "sum"

    def __post_init__(self) -> None:
        if self.form not in ("sum", "interval"):
            raise InvalidParameterError(f"SoftStaircase form must be 'sum' or 'interval', got {self.form!r}")

    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        if self.form == "interval":
            located = locate(v, labels, out, position)
            located.position.mul_(beta).tanh_().mul_(1 / math.tanh(beta))
            return stairs(located, labels)
        levels = labels.shared_levels
        if levels is not None:
            return _sum_of_steps(v, beta, levels, out, position)
        rows, midpoints, halves = _steps(v, labels)
        ends = 0.5 * (rows[:, 0] + torch.nan_to_num(rows, nan=-torch.inf).amax(1))
        return torch.add(ends, (halves * torch.tanh(beta * (v[:, None] - midpoints))).sum(1), out=out)

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        if self.form == "interval":
            x = locate(v, labels).position
            return torch.where(x.abs() < 1, beta * (1 - torch.tanh(beta * x) ** 2) / math.tanh(beta), 0.0)
        levels = labels.shared_levels
        if levels is None:
            _, midpoints, halves = _steps(v, labels)
            return (halves * beta * (1 - torch.tanh(beta * (v[:, None] - midpoints)) ** 2)).sum(1)
        total = torch.zeros_like(v)
        for a, b in itertools.pairwise(levels):
            step = torch.sub(v, 0.5 * (a + b)).mul_(beta).tanh_()
            total.addcmul_(step, step, value=-0.5 * (b - a) * beta).add_(0.5 * (b - a) * beta)
        return total

    def is_tanh(self, labels: LabelSet) -> bool:
        return self.form == "sum" and labels.shared_levels == (-1.0, 1.0)

    @property
    def tells_position(self) -> bool:  # type: ignore[override]
        return self.form == "interval"


@dataclass(frozen=True)
class DistanceSoftmax(ScalarProjection):
    """The mean level under `softmax(-beta (v - q)^2 / 2)`: the softmax over labels, on a latent of one number.

    Stable mirror descent with plain gradient steps keeps the scores of a weight on `v q - q^2 / 2` if they start
    there, because `g_u = g_w q`: one number is all its state, for any number of labels. With two labels it is tanh.

    Parameters
    ----------
    curvature : float
        Factor of `q^2 / 2`. At 0 the scores are linear in the levels, as those of the mean-field step
        `softmax(-beta g_u)` are; only the two extreme levels can win then.

    Examples
    --------
    >>> labels = LabelSet.shared([0, 1, 3], n=1)
    >>> u = torch.softmax(-2.0 * (0.7 - labels.levels[0]) ** 2 / 2, dim=0)
    >>> w = DistanceSoftmax().value(torch.tensor([0.7], dtype=torch.float64), 2.0, labels)
    >>> bool(torch.isclose(w, u @ labels.levels[0]))
    True
    """

    curvature: float = 1.0

    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        levels = labels.shared_levels
        if levels is None:
            levels_of, u = self._posterior(v, beta, labels)
            return torch.sum(u * levels_of, 1, out=out)
        if len(levels) == 2:
            a, b = levels
            w = torch.sub(v, 0.5 * self.curvature * (a + b), out=out).mul_(0.5 * beta * (b - a)).tanh_()
            return w if levels == (-1.0, 1.0) else w.mul_(0.5 * (b - a)).add_(0.5 * (a + b))
        mass, mean, _ = self._moments(v, beta, levels)
        return torch.div(mean, mass, out=out)

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return beta times the variance of the level."""
        if labels.shared_levels is None:
            levels_of, u = self._posterior(v, beta, labels)
            return beta * ((u * levels_of**2).sum(1) - (u * levels_of).sum(1) ** 2)
        mass, mean, square = self._moments(v, beta, labels.shared_levels)
        return square.div_(mass).sub_(mean.div_(mass).square_()).mul_(beta)

    def _posterior(self, v: Tensor, beta: float, labels: LabelSet) -> tuple[Tensor, Tensor]:
        """Return levels, (n, L) with 0 for missing ones, and probabilities."""
        levels = labels.rows().to(v.dtype)
        scores = torch.nan_to_num(v[:, None] * levels - 0.5 * self.curvature * levels**2, nan=-torch.inf)
        # Subtracting the maximum before multiplying by beta keeps beta = 1e12 from overflowing float32.
        return torch.nan_to_num(levels), torch.softmax(beta * (scores - scores.amax(1, keepdim=True)), 1)

    def _moments(self, v: Tensor, beta: float, levels: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of the weights of the levels, of weight times level, and times level squared.

        One pass over the labels for the largest score, one for the sums: memory does not grow with their number.
        """

        def score(q: float) -> Tensor:
            return torch.mul(v, q, out=term).sub_(0.5 * self.curvature * q * q)

        term = torch.empty_like(v)
        best = score(levels[0]).clone()
        for q in levels[1:]:
            torch.maximum(best, score(q), out=best)
        mass, mean, square = torch.zeros_like(v), torch.zeros_like(v), torch.zeros_like(v)
        for q in levels:
            weight = score(q).sub_(best).mul_(beta).clamp_(min=NEGLIGIBLE).exp_()
            mass.add_(weight)
            mean.add_(weight, alpha=q)
            square.add_(weight, alpha=q * q)
        return mass, mean, square


@dataclass(frozen=True)
class PiecewiseAffine(ScalarProjection):
    """PARQ's proximal map: `clip(c + (v - c) / r)` between neighbouring levels, r = 1 / beta (ICML 2025).

    At beta = 1 the identity, clipped to the levels; for beta to infinity nearest-level rounding. With two labels it is
    sparsemax.
    """

    tells_position = True

    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        if labels.shared_levels == (-1.0, 1.0) and beta >= 1:
            return torch.mul(v, beta, out=out).clamp_(-1, 1)  # the same numbers in two passes
        located = locate(v, labels, out, position)
        located.position.mul_(beta).clamp_(-1, 1)
        return stairs(located, labels)

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return (locate(v, labels).position.abs() < min(1.0, 1 / beta)).to(v.dtype).mul_(beta)


def _sum_of_steps(v: Tensor, beta: float, levels: tuple[float, ...], out: Tensor | None, step: Tensor | None) -> Tensor:
    if levels == (-1.0, 1.0):
        return torch.mul(v, beta, out=out).tanh_()
    middle = 0.5 * (levels[0] + levels[-1])
    total = torch.full_like(v, middle) if out is None else out.fill_(middle)
    for a, b in itertools.pairwise(levels):
        step = torch.sub(v, 0.5 * (a + b), out=step).mul_(beta).tanh_()
        total.add_(step, alpha=0.5 * (b - a))
    return total


def _steps(v: Tensor, labels: LabelSet) -> tuple[Tensor, Tensor, Tensor]:
    """Return levels, midpoints and half distances, per variable; missing labels have half distance 0."""
    levels = labels.rows().to(v.dtype)
    midpoints = 0.5 * (levels[:, 1:] + levels[:, :-1])
    return levels, torch.nan_to_num(midpoints), torch.nan_to_num(0.5 * levels.diff(dim=1))
