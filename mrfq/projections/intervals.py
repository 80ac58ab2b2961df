"""Where values are between neighbouring levels: the arithmetic that the scalar projections share."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from mrfq.labels import LabelSet


class Located(NamedTuple):
    """The interval of levels around each value, the nearest one outside the levels, and the place in it."""

    #: midpoint of the interval
    center: Tensor
    #: half its width
    half: Tensor | float
    #: place in it, from -1 to 1; a value outside the levels is at its end
    position: Tensor


def locate(v: Tensor, labels: LabelSet, out: Tensor | None = None) -> Located:
    """Return the interval and the position of each value; the centers are written to `out` if it is given.

    Evenly spaced levels, which all variables share, need no search: a few passes of arithmetic, tensors of any shape.
    """
    if labels.even is not None:
        return _evenly(v, *labels.even, out)
    if labels.shared_levels is not None:
        return _accumulate(v, labels.shared_levels, out)
    _, _, start, stop = labels.interval(v)
    half = 0.5 * (stop - start)
    center = torch.mul(start + stop, 0.5, out=out)
    return Located(center, half, ((v - center) / half.where(half > 0, 1.0)).clamp_(-1, 1))


def _evenly(v: Tensor, first: float, spacing: float, count: int, out: Tensor | None) -> Located:
    position = torch.sub(v, first)
    if spacing != 1:
        position.div_(spacing)
    center = torch.floor(position, out=out).clamp_(0, count - 2)
    position.sub_(center).mul_(2).sub_(1).clamp_(-1, 1)
    if spacing != 1:
        center.mul_(spacing)
    return Located(center.add_(first + 0.5 * spacing), 0.5 * spacing, position)


def _accumulate(v: Tensor, levels: tuple[float, ...], out: Tensor | None) -> Located:
    """Add up the steps of the centers and half widths at the levels below each value."""
    ends = [*levels, levels[-1]] if len(levels) == 1 else levels
    centers = [0.5 * (a + b) for a, b in itertools.pairwise(ends)]
    halves = [0.5 * (b - a) for a, b in itertools.pairwise(ends)]
    center = torch.full_like(v, centers[0]) if out is None else out.fill_(centers[0])
    half, above = torch.full_like(v, halves[0] or 1.0), torch.empty_like(v)
    for k in range(1, len(centers)):
        torch.ge(v, ends[k], out=above)
        center.add_(above, alpha=centers[k] - centers[k - 1])
        half.add_(above, alpha=halves[k] - halves[k - 1])
    position = torch.sub(v, center, out=above).div_(half).clamp_(-1, 1)
    return Located(center, 0.0 if len(levels) == 1 else half, position)
