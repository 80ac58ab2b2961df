"""Means and covariances of the inputs and outputs of a layer, gathered batch by batch, and errors in closed form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

#: squared means beyond this multiple of the variance would cost digits of a covariance
FAR = 4.0


@dataclass(frozen=True, eq=False)
class Moments:
    """The first and second moments of inputs x and outputs z of a layer with g groups, all float64.

    Biases are no part of it: the outputs are meant without the bias of the layer.

    Attributes
    ----------
    count : int
        Positions that were averaged over.
    mean_x : Tensor, shape (g, C)
    mean_z : Tensor, shape (g, R)
        R output channels in each group.
    gram : Tensor, shape (g, C, C)
        The covariance of x.
    cross : Tensor, shape (g, R, C)
        The covariance of z and x.
    variance : Tensor, shape (g, R)
        Of z.

    Examples
    --------
    >>> x = torch.randn(1, 3, 500)
    >>> weight = torch.randn(1, 2, 3)
    >>> gathering = Gathering()
    >>> gathering.add(x, weight @ x + 5)
    >>> moments = gathering.finish()
    >>> moments.error(weight, shift=torch.full((1, 2), 5.0)) < 1e-5
    True
    """

    count: int
    mean_x: Tensor
    mean_z: Tensor
    gram: Tensor
    cross: Tensor
    variance: Tensor

    @property
    def raw_gram(self) -> Tensor:
        """The second moments of x."""
        return self.gram + self.mean_x[:, :, None] * self.mean_x[:, None, :]

    @property
    def raw_cross(self) -> Tensor:
        """The second moments of z and x."""
        return self.cross + self.mean_z[:, :, None] * self.mean_x[:, None, :]

    def rows(self, start: int, stop: int) -> Moments:
        """Return the moments of some of the output channels of every group."""
        return dataclasses.replace(
            self,
            mean_z=self.mean_z[:, start:stop],
            cross=self.cross[:, start:stop],
            variance=self.variance[:, start:stop],
        )

    def error(self, weight: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> float:
        """Return the mean squared error of `scale * (weight @ x) + shift` over the variance of z.

        Parameters
        ----------
        weight : Tensor, shape (g, R, C)
        scale, shift : Tensor, shape (g, R), optional
            1 and 0 by default.

        Returns
        -------
        float
            Summed over the output channels. Where all outputs are constant, over their squares instead.
        """
        weight = weight.to(self.gram)
        scale = torch.ones_like(self.mean_z) if scale is None else scale.to(self.gram)
        shift = torch.zeros_like(self.mean_z) if shift is None else shift.to(self.gram)
        explained = (weight * self.cross).sum(-1)
        energy = ((weight @ self.gram) * weight).sum(-1)
        offset = self.mean_z - scale * (weight @ self.mean_x[:, :, None])[..., 0] - shift
        squares = self.variance - 2 * scale * explained + scale**2 * energy + offset**2
        total = self.variance.sum() if bool(self.variance.sum() > 0) else (self.mean_z**2).sum()
        return float(squares.sum().clamp(min=0) / total.clamp(min=torch.finfo(total.dtype).tiny))


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each row of an embedding was looked up: all there is to know about its outputs.

    Attributes
    ----------
    counts : Tensor, shape (rows,), float64
    weight : Tensor, shape (rows, columns)
        The float rows.
    """

    counts: Tensor
    weight: Tensor

    def error(self, weight: Tensor) -> float:
        """Return the mean squared error of the rows that were looked up, over their variance."""
        exact, share = self.weight.double(), (self.counts / self.counts.sum().clamp(min=1))[:, None]
        centred = exact - (share * exact).sum(0)
        variance = (share * centred**2).sum()
        total = variance if bool(variance > 0) else (share * exact**2).sum()
        squares = (share * (weight.double() - exact) ** 2).sum()
        return float(squares / total.clamp(min=torch.finfo(torch.float64).tiny))


class Gathering:
    """Gathers moments part by part: float32 products of differences from a pivot, summed in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._pivots: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, z: Tensor) -> None:
        """Take in inputs (g, C, p) and outputs (g, R, p) at p positions."""
        if x.shape[-1] == 0:
            return
        x, z = (part if part.dtype == torch.float64 else part.float() for part in (x, z))
        if self._pivots is None:
            self._pivots = _pivot(x), _pivot(z)
        x, z = (part - pivot if bool(pivot.any()) else part for part, pivot in zip((x, z), self._pivots, strict=True))
        turned, wide = x.mT, _wide(x.device)
        parts = [x.sum(-1), z.sum(-1), x @ turned, z @ turned, (z * z).sum(-1)]
        parts = [part.to(wide) for part in parts]
        self._sums = [total.add_(part) for total, part in zip(self._sums, parts, strict=True)] if self._sums else parts
        self._count += x.shape[-1]

    def finish(self) -> Moments | None:
        """Return the moments, on the CPU; None if nothing was taken in."""
        if self._pivots is None:
            return None
        sum_x, sum_z, xx, zx, zz = ((total / self._count).cpu().double() for total in self._sums)
        gram = xx - sum_x[:, :, None] * sum_x[:, None, :]
        return Moments(
            count=self._count,
            mean_x=sum_x + self._pivots[0][..., 0].cpu().double(),
            mean_z=sum_z + self._pivots[1][..., 0].cpu().double(),
            gram=(gram + gram.mT) / 2,
            cross=zx - sum_z[:, :, None] * sum_x[:, None, :],
            variance=(zz - sum_z**2).clamp(min=0),
        )


def _pivot(x: Tensor) -> Tensor:
    """Return what to take off numbers (g, C, p) so that little is lost when their mean is taken off the products.

    Zeros where means are not large beside deviations anyway, which spares a pass over the numbers.
    """
    mean = x.mean(-1, keepdim=True)
    far = mean.square() > FAR * (x.square().mean(-1, keepdim=True) - mean.square())
    return mean if bool(far.any()) else torch.zeros_like(mean)


def _wide(device: torch.device) -> torch.dtype:
    """Return the dtype of sums: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
