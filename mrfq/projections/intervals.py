"""Where values are between neighbouring levels: the arithmetic that the scalar projections share.

Where all variables share one set of levels, a value has a *label coordinate*: k at level number k, and linear in
between. It needs no search. Evenly spaced levels take an affine map; integers without zero, the usual sets of 4, 8 and
16 labels, two passes more, which close the gap in the middle.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from mrfq.labels import LabelSet

#: gaps this near to each other, relative to the smallest, count as equal
EQUAL = 1e-12


class Located(NamedTuple):
    """The interval of levels around each value, the nearest one outside the levels, and the place in it."""

    #: what `stairs` needs to come back: the number of the interval, or its midpoint where levels are not shared
    base: Tensor
    #: half the widths where levels are not shared, else None
    half: Tensor | None
    #: place in the interval, from -1 to 1; a value outside the levels is at its end, a single level is at -1
    position: Tensor


def locate(v: Tensor, labels: LabelSet, out: Tensor | None = None, position: Tensor | None = None) -> Located:
    """Return the interval and the position of each value, in `out` and `position` if they are given."""
    levels = labels.shared_levels
    if levels is None:
        _, _, start, stop = labels.interval(v)
        half = 0.5 * (stop - start)
        center = torch.mul(start + stop, 0.5, out=out)
        place = ((v - center) / half).clamp_(-1, 1).where(half > 0, -1.0)
        return Located(center, half, place if position is None else position.copy_(place))
    t = coordinate(v, levels, position)
    number = torch.floor(t, out=out).clamp_(0, max(len(levels) - 2, 0))
    return Located(number, None, t.sub_(number).mul_(2).sub_(1).clamp_(-1, 1))


def stairs(located: Located, labels: LabelSet) -> Tensor:
    """Return the values at `located.position`, in the memory of `located.base`."""
    base, half, position = located
    if half is not None:
        return base.addcmul_(position, half)
    levels = labels.shared_levels
    assert levels is not None
    return level_at(base.add_(position, alpha=0.5).add_(0.5), levels)


def coordinate(v: Tensor, levels: tuple[float, ...], out: Tensor | None = None) -> Tensor:
    """Return label coordinates; outside the levels they continue, so that below the first one they are negative."""
    gaps = [b - a for a, b in itertools.pairwise(levels)]
    if not gaps:
        return torch.zeros_like(v) if out is None else out.zero_()
    shape = _shape(gaps)
    if shape == "even":
        t = torch.sub(v, levels[0], out=out)
        return t if gaps[0] == 1 else t.div_(gaps[0])
    if shape == "gap":
        middle, wide = len(gaps) // 2, gaps[len(gaps) // 2]
        t = torch.clamp(v, levels[middle], levels[middle + 1], out=out)
        t.mul_(gaps[0] / wide - 1).add_(v)  # the middle gap, closed to the width of the others
        t.sub_(levels[0] + levels[middle] * (gaps[0] / wide - 1))
        return t if gaps[0] == 1 else t.div_(gaps[0])
    t = torch.sub(v, levels[0], out=out).div_(gaps[0])
    if len(gaps) > 1:
        t.clamp_(max=1)
    for k, gap in enumerate(gaps[1:], 1):
        rest = (v - levels[k]).div_(gap).clamp_(min=0)
        t.add_(rest if k == len(gaps) - 1 else rest.clamp_(max=1))
    return t


def level_at(t: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Return the values that label coordinates from 0 to L - 1 stand for, in the memory of the coordinates."""
    gaps = [b - a for a, b in itertools.pairwise(levels)]
    if not gaps:
        return t.fill_(levels[0])
    shape = _shape(gaps)
    if shape == "even":
        return (t if gaps[0] == 1 else t.mul_(gaps[0])).add_(levels[0])
    if shape == "gap":
        middle, wide = len(gaps) // 2, gaps[len(gaps) // 2]
        inside = torch.clamp(t, middle, middle + 1).sub_(middle)
        t = t if gaps[0] == 1 else t.mul_(gaps[0])
        return t.add_(inside, alpha=wide - gaps[0]).add_(levels[0])
    w = torch.full_like(t, levels[0])
    for k, gap in enumerate(gaps):
        w.add_((t - k).clamp_(0, 1), alpha=gap)
    return t.copy_(w)


def _shape(gaps: list[float]) -> str:
    """Return "even" for equal gaps, "gap" for an odd number of them of which only the middle one differs, else ""."""
    middle = len(gaps) // 2
    others = [gap for k, gap in enumerate(gaps) if k != middle or len(gaps) % 2 == 0] or gaps
    if any(abs(gap - others[0]) > EQUAL * others[0] for gap in others):
        return ""
    return "even" if abs(gaps[middle] - others[0]) <= EQUAL * others[0] else "gap"
