"""Projections P_beta from latents to relaxed labellings, each with its exact pull-back.

Two families. *Simplex* projections take a latent of shape (n, L), one score per label: `Softmax`, `Sparsemax`,
`Argmax`. *Scalar* projections take a latent of shape (n,), one number on the scale of the levels: `Tanh`,
`SoftStaircase`, `PiecewiseAffine`; their value w is spread over the two neighbouring levels, so that the mean
of the relaxed labelling is w.

For a function E of the relaxed labelling with gradient `g = dE/du`, a projection offers three pulls:

* `exact`: the gradient of `E(P(v))`, by the Jacobian of P;
* `identity`: the gradient with the Jacobian left out (straight-through, stable mirror descent);
* `surrogate`: the pull of the published PMF code, which keeps a gradient alive when P saturates.

Everything stays finite for beta up to 1e12 and latents up to 1e6. Labels that do not exist get exactly 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.labels import LabelSet


class Projection(ABC):
    """A map from latents to relaxed labellings, with inverse temperature beta."""

    #: why the exact Jacobian cannot be used, or "" if it can
    flat: str = ""

    def accepts(self, labels: LabelSet) -> str | None:
        """Return None if the projection is defined for these labels, otherwise the reason why not."""
        return None

    @abstractmethod
    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the relaxed labelling u = P_beta(v), shape (n, L)."""

    @abstractmethod
    def latent(self, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return a latent that P_beta maps to `u`, or near it where P has no inverse."""

    @abstractmethod
    def identity_point(self, u: Tensor, labels: LabelSet) -> Tensor:
        """Return u itself, read as a point in the space of latents: where a primal step starts."""

    @abstractmethod
    def identity(self, g: Tensor, u: Tensor, labels: LabelSet) -> Tensor:
        """Return g in the shape of the latent, without any Jacobian."""

    @abstractmethod
    def exact(self, g: Tensor, v: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the exact gradient of `<g, P_beta(v)>` with respect to v, given `u = P_beta(v)`."""

    @abstractmethod
    def surrogate(self, g: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the surrogate of the published PMF code."""


class SimplexProjection(Projection):
    """A projection whose latent has one score per label."""

    def latent(self, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return u

    def identity_point(self, u: Tensor, labels: LabelSet) -> Tensor:
        return u

    def identity(self, g: Tensor, u: Tensor, labels: LabelSet) -> Tensor:
        return g

    def surrogate(self, g: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return `beta (g - s <s, g>)` with s = u: the softmax Jacobian with the identity in place of diag(s)."""
        return beta * (g - u * (u * g).sum(1, keepdim=True))


@dataclass(frozen=True)
class Softmax(SimplexProjection):
    """`softmax(beta v)`; the mirror map of the negative entropy, and the projection of PMF.

    Examples
    --------
    >>> labels = LabelSet.shared([0, 1], n=1)
    >>> Softmax().forward(torch.tensor([[0.0, 1e6]], dtype=torch.float64), 1e12, labels).tolist()
    [[0.0, 1.0]]
    """

    #: probabilities are kept this far from 0 when they are turned into latents
    floor: float = 1e-12

    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        if v.shape[1] == 2 and labels.mask is None:
            # The same numbers; torch's softmax takes four times as long on rows of two.
            difference = beta * (v[:, 1] - v[:, 0])
            return torch.stack([torch.sigmoid(-difference), torch.sigmoid(difference)], 1)
        z = v if labels.mask is None else v.masked_fill(~labels.mask, -torch.inf)
        # Subtracting the maximum before multiplying by beta keeps beta = 1e12 from overflowing float32.
        return torch.softmax(beta * (z - z.amax(1, keepdim=True)), dim=1)

    def latent(self, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return u.clamp(min=max(self.floor, torch.finfo(u.dtype).tiny)).log() / beta

    def exact(self, g: Tensor, v: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return beta * u * (g - (u * g).sum(1, keepdim=True))


@dataclass(frozen=True)
class Sparsemax(SimplexProjection):
    """Euclidean projection of `beta v` onto the simplex (Martins and Astudillo, ICML 2016)."""

    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        z = v if labels.mask is None else v.masked_fill(~labels.mask, -torch.inf)
        z = beta * (z - z.amax(1, keepdim=True))
        # Scores more than 1 below the maximum never enter the support; clamping them keeps the sums finite.
        z = z.clamp(min=-2.0)
        ordered = z.sort(1, descending=True).values
        excess = ordered.cumsum(1) - 1
        rank = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
        support = (rank * ordered > excess).sum(1, keepdim=True)
        tau = excess.gather(1, support - 1) / support
        return (z - tau).clamp(min=0)

    def exact(self, g: Tensor, v: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        support = (u > 0).to(g.dtype)
        mean = (support * g).sum(1, keepdim=True) / support.sum(1, keepdim=True)
        return beta * support * (g - mean)


@dataclass(frozen=True)
class Argmax(SimplexProjection):
    """The vertex of the largest score, lowest label on ties: beta = infinity."""

    flat = "argmax is piecewise constant, its Jacobian is zero; use pull='identity'"

    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return labels.one_hot(labels.round(v), v.dtype)

    def exact(self, g: Tensor, v: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        raise InvalidParameterError(self.flat)


class ScalarProjection(Projection):
    """A projection whose latent is one number per variable, on the scale of the levels."""

    def accepts(self, labels: LabelSet) -> str | None:
        if not labels.ordered:
            return f"{type(self).__name__} needs gap-free label scales, but the mask leaves out middle labels"
        return None

    @abstractmethod
    def value(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the (n,) values w = P_beta(v) between the lowest and the highest level."""

    @abstractmethod
    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the (n,) derivatives dw/dv."""

    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return labels.interpolate(self.value(v, beta, labels))

    def latent(self, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return labels.mean(u)

    def identity_point(self, u: Tensor, labels: LabelSet) -> Tensor:
        return labels.mean(u)

    def identity(self, g: Tensor, u: Tensor, labels: LabelSet) -> Tensor:
        return labels.slope(g, labels.mean(u))

    def exact(self, g: Tensor, v: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return self.derivative(v, beta, labels) * labels.slope(g, self.value(v, beta, labels))

    def surrogate(self, g: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the simplex surrogate `beta (g - u <u, g>)` read along the direction of the slope.

        With levels -1 and 1 this is `beta g_w (1 - w^2 / 2)`.
        """
        pulled = beta * (g - u * (u * g).sum(1, keepdim=True))
        return labels.slope(pulled, labels.mean(u))


@dataclass(frozen=True)
class Tanh(ScalarProjection):
    """`tanh(beta v)` between two levels: the mirror map of the binary entropy (MD-tanh, AISTATS 2021).

    Examples
    --------
    >>> labels = LabelSet.named("binary", n=1)
    >>> Tanh().forward(torch.zeros(1, dtype=torch.float64), 1.0, labels).tolist()
    [[0.5, 0.5]]
    """

    #: `|w|` is kept this far from 1 when values are turned into latents
    floor: float = 1e-12

    def accepts(self, labels: LabelSet) -> str | None:
        if set(labels.counts) != {2} or labels.mask is not None:
            return f"Tanh needs exactly two labels a variable, the problem has up to {labels.shape[1]}"
        return None

    def value(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        low, high = labels.rows().to(v.dtype).unbind(1)
        return 0.5 * (high + low) + 0.5 * (high - low) * torch.tanh(beta * v)

    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return torch.stack([torch.sigmoid(-2 * beta * v), torch.sigmoid(2 * beta * v)], 1)

    def identity(self, g: Tensor, u: Tensor, labels: LabelSet) -> Tensor:
        low, high = labels.rows().to(g.dtype).unbind(1)
        return (g[:, 1] - g[:, 0]) / (high - low)

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        low, high = labels.rows().to(v.dtype).unbind(1)
        return 0.5 * (high - low) * beta * (1 - torch.tanh(beta * v) ** 2)

    def latent(self, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        limit = 1 - max(self.floor, torch.finfo(u.dtype).eps)
        return torch.atanh((u[:, 1] - u[:, 0]).clamp(-limit, limit)) / beta


@dataclass(frozen=True)
class SoftStaircase(ScalarProjection):
    """A smooth staircase through any ascending levels: MD-tanh and its ternary form for any level set.

    `form="sum"`: one tanh at each midpoint c_k between levels, `mean(q_lo, q_hi) + sum_k h_k tanh(beta (v - c_k))`
    with h_k half the distance; strictly increasing, so it has a mirror map (AISTATS 2021, appendix, for ternary).
    `form="interval"`: in each interval `c + h tanh(beta x) / tanh(beta)`, x = (v - c) / h; the identity for small
    beta, clipped at the ends (soft quantization functions).
    """

    form: str = "sum"

    def __post_init__(self) -> None:
        if self.form not in ("sum", "interval"):
            raise InvalidParameterError(f"SoftStaircase form must be 'sum' or 'interval', got {self.form!r}")

    def value(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        if self.form == "interval":
            center, half, inside, clipped = _interval(v, labels)
            scale = torch.tanh(torch.tensor(beta, dtype=v.dtype, device=v.device))
            return torch.where(inside, center + half * torch.tanh(beta * (v - center) / half) / scale, clipped)
        levels, midpoints, halves = _steps(v, labels)
        ends = 0.5 * (levels[:, 0] + torch.nan_to_num(levels, nan=-torch.inf).amax(1))
        return ends + (halves * torch.tanh(beta * (v[:, None] - midpoints))).sum(1)

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        if self.form == "interval":
            center, half, inside, _ = _interval(v, labels)
            scale = torch.tanh(torch.tensor(beta, dtype=v.dtype, device=v.device))
            return torch.where(inside, beta * (1 - torch.tanh(beta * (v - center) / half) ** 2) / scale, 0.0)
        _, midpoints, halves = _steps(v, labels)
        return (halves * beta * (1 - torch.tanh(beta * (v[:, None] - midpoints)) ** 2)).sum(1)


@dataclass(frozen=True)
class PiecewiseAffine(ScalarProjection):
    """PARQ's proximal map: `clip(c + (v - c) / r)` between neighbouring levels, r = 1 / beta (ICML 2025).

    At beta = 1 the identity, clipped to the levels; for beta to infinity nearest-level rounding.
    """

    def value(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        center, half, inside, clipped = _interval(v, labels)
        step = (beta * (v - center)).clamp(-half, half)
        return torch.where(inside, center + step, clipped)

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        center, half, inside, _ = _interval(v, labels)
        return torch.where(inside & (beta * (v - center).abs() < half), beta, 0.0).to(v.dtype)


def _steps(v: Tensor, labels: LabelSet) -> tuple[Tensor, Tensor, Tensor]:
    """Return levels, midpoints and half distances; missing labels have half distance 0."""
    levels = labels.rows().to(v.dtype)
    midpoints = 0.5 * (levels[:, 1:] + levels[:, :-1])
    return levels, torch.nan_to_num(midpoints), torch.nan_to_num(0.5 * levels.diff(dim=1))


def _interval(v: Tensor, labels: LabelSet) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return midpoint and half width of the interval around v, whether v is inside the levels, and v clipped."""
    _, _, start, stop = labels.interval(v)
    inside = (v >= start) & (v < stop)
    half = torch.where(stop > start, 0.5 * (stop - start), 1.0)
    return 0.5 * (start + stop), half, inside, v.clamp(start, stop)
