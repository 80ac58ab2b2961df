"""Scalar projections: a latent is one number per variable, on the scale of the levels.

`value`, `derivative` and `pull_value` work on the numbers themselves, with a gradient `g = dE/dw`; networks call them.
Where all variables share one set of levels the tensors may have any shape, and `value` can write into `out`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mrfq.labels import LabelSet
from mrfq.projections.base import Projection
from mrfq.projections.intervals import locate

#: how a gradient reaches a latent of one number
ScalarPull = Literal["identity", "exact", "surrogate"]


class ScalarProjection(Projection):
    """A projection whose latent is one number per variable, on the scale of the levels."""

    #: whether all values are between the lowest and the highest level
    bounded = True
    #: whether `value` leaves the positions of the values in `position`
    tells_position = False

    def accepts(self, labels: LabelSet) -> str | None:
        if not labels.ordered:
            return f"{type(self).__name__} needs gap-free label scales, but the mask leaves out middle labels"
        return None

    @abstractmethod
    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        """Return the values w = P_beta(v), in `out` if it is given.

        `position`, in the shape of v, is memory to work in. Where `tells_position` holds, the positions of the values
        between their neighbouring levels are left there.
        """

    @abstractmethod
    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the derivatives dw/dv."""

    def pull_value(
        self,
        kind: ScalarPull,
        g: Tensor,
        v: Tensor,
        w: Tensor,
        beta: float,
        labels: LabelSet,
        *,
        position: Tensor | None = None,
    ) -> Tensor:
        """Return the direction for the latent that a gradient `g = dE/dw` at `w = P_beta(v)` becomes.

        The identity pull returns `g` itself. With `position` as `value` has left it, the result is in its memory.
        """
        if kind == "identity":
            return g
        if kind == "exact":
            tanh = self.is_tanh(labels)
            return exact_tanh(g, w, beta, position) if tanh else self.derivative(v, beta, labels).mul_(g)
        if self.bounded and labels.shared_levels == (-1.0, 1.0):
            return surrogate_pull(g, w, beta, position)
        if position is None or not self.tells_position:
            position = locate(w, labels, position=position).position
        return surrogate_pull(g, position, beta, position)

    def is_tanh(self, labels: LabelSet) -> bool:
        """Return whether the values are `tanh(beta v)`, whose derivative follows from them without a tanh."""
        return False

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
        """Return the simplex surrogate on the two labels around the mean of u, read along the slope between them."""
        w = labels.mean(u)
        return surrogate_pull(labels.slope(g, w), locate(w, labels).position, beta)


def surrogate_pull(g: Tensor, z: Tensor, beta: float, out: Tensor | None = None) -> Tensor:
    """Return `beta g (1 - z^2 / 2)`, z in [-1, 1] the position of a value between its two neighbouring levels.

    This is `beta (g_u - u <u, g_u>)`, the surrogate of the published PMF code, for the two neighbouring labels. That
    formula depends on where the zero of the levels is; here it is the midpoint of the two, so that it does not, and
    with levels -1 and 1, where z is the value itself, both agree.
    """
    return torch.mul(z, z, out=out).mul_(-0.5 * beta).add_(beta).mul_(g)


def exact_tanh(g: Tensor, w: Tensor, beta: float, out: Tensor | None = None) -> Tensor:
    """Return `beta g (1 - w^2)`, the exact pull of `w = tanh(beta v)`, in one pass where beta is 1."""
    kernel = torch.ops.aten.tanh_backward
    pulled: Tensor = kernel(g, w) if out is None else kernel.grad_input(g, w, grad_input=out)
    return pulled if beta == 1 else pulled.mul_(beta)


@dataclass(frozen=True)
class Tanh(ScalarProjection):
    """`tanh(beta v)` between two levels: the mirror map of the binary entropy (MD-tanh, AISTATS 2021).

    A latent of 0 is half way between the levels, wherever they are.

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

    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        w = torch.mul(v, beta, out=out).tanh_()
        if labels.shared_levels == (-1.0, 1.0):
            return w
        low, high = labels.ends(v)
        return w.mul_(0.5 * (high - low)).add_(0.5 * (high + low))

    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return torch.stack([torch.sigmoid(-2 * beta * v), torch.sigmoid(2 * beta * v)], 1)

    def identity(self, g: Tensor, u: Tensor, labels: LabelSet) -> Tensor:
        low, high = labels.ends(g)
        slope: Tensor = (g[:, 1] - g[:, 0]) / (high - low)
        return slope

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        low, high = labels.ends(v)
        slope: Tensor = 0.5 * (high - low) * beta * (1 - torch.tanh(beta * v) ** 2)
        return slope

    def is_tanh(self, labels: LabelSet) -> bool:
        return labels.shared_levels == (-1.0, 1.0)

    def latent(self, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        limit = 1 - max(self.floor, torch.finfo(u.dtype).eps)
        return torch.atanh((u[:, 1] - u[:, 0]).clamp(-limit, limit)) / beta
