"""Scalar projections made of nearest-level rounding: straight-through, and the shrinkage of two relatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.labels import LabelSet
from mrfq.projections.intervals import locate, stairs
from mrfq.projections.scalar import ScalarProjection


@dataclass(frozen=True)
class Nearest(ScalarProjection):
    """The nearest level, the lower one on ties: `argmax` of `v q - q^2 / 2`, BinaryConnect for any levels.

    Examples
    --------
    >>> labels = LabelSet.named("2bit", n=4)
    >>> Nearest().value(torch.tensor([-9.0, -0.2, 0.0, 1.6]), 1.0, labels).tolist()
    [-2.0, -1.0, -1.0, 2.0]
    """

    flat = "rounding is piecewise constant, its derivative is zero; use pull='identity'"

    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        if labels.shared_levels == (-1.0, 1.0):
            w = torch.empty_like(v) if out is None else out
            return torch.gt(v, 0, out=w).mul_(2).sub_(1)
        located = locate(v, labels, out, position)
        torch.gt(located.position, 0, out=located.position).mul_(2).sub_(1)
        return stairs(located, labels)

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        raise InvalidParameterError(self.flat)


@dataclass(frozen=True)
class Relax(ScalarProjection):
    """BinaryRelax: `(v + beta Q(v)) / (1 + beta)`, Q the nearest level: part of the way to it (Yin et al., 2018)."""

    bounded = False

    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        nearest = Nearest().value(v, beta, labels, out, position)
        return nearest.mul_(beta / (1 + beta)).add_(v, alpha=1 / (1 + beta))

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return torch.full_like(v, 1 / (1 + beta))


@dataclass(frozen=True)
class Shrink(ScalarProjection):
    """ProxQuant: the distance to the nearest level shrinks by beta, or to zero (Bai, Wang and Liberty, ICLR 2019).

    The proximal map of beta times the distance to the nearest level; for levels -1 and 1 the W-shaped penalty.
    """

    bounded = False

    def value(
        self, v: Tensor, beta: float, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        nearest = Nearest().value(v, beta, labels, out, position)
        return nearest.add_(torch.nn.functional.softshrink(v - nearest, min(beta, torch.finfo(v.dtype).max)))

    def derivative(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        return (v - Nearest().value(v, beta, labels)).abs().gt(beta).to(v.dtype)
