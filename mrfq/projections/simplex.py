"""Simplex projections: a latent has one score per label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.labels import LabelSet
from mrfq.projections.base import Projection


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
