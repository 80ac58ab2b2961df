"""`LabelSet`: the labels a variable may take, and the numbers they stand for.

A relaxed labelling `u` has one row per variable on the simplex over its labels. A label set translates between
labellings, relaxed labellings and values (`w = u q` in the papers' notation). Levels are shared by all
variables, or differ from group to group of consecutive variables; sets of different sizes are padded and masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError, UnknownNameError

NAMES = {"binary": 2, "ternary": 3, "1bit": 2, "2bit": 4, "3bit": 8, "4bit": 16}


class Interval(NamedTuple):
    """Two neighbouring labels for each of n values, and their levels; equal where there is only one label."""

    low: Tensor
    high: Tensor
    start: Tensor
    stop: Tensor


class LabelSet:
    """Labels of n variables and their numeric levels.

    Parameters
    ----------
    levels : sequence of sequences of float
        One ascending sequence of finite levels per group.
    sizes : sequence of int
        Number of consecutive variables in each group; the sum is n.
    mask : (n, L) bool tensor, optional
        Labels that exist. Needed only when it does not follow from the groups (a label in the middle is absent).
    dtype, device
        Of the levels.

    Examples
    --------
    >>> labels = LabelSet.named("ternary", n=4)
    >>> labels.decode(torch.tensor([0, 1, 2, 2])).tolist()
    [-1.0, 0.0, 1.0, 1.0]
    >>> labels.interpolate(torch.tensor([0.25, -1.0, 7.0, 0.0], dtype=torch.float64))[0].tolist()
    [0.0, 0.75, 0.25]
    """

    def __init__(
        self,
        levels: Sequence[Sequence[float]],
        sizes: Sequence[int],
        *,
        mask: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(levels) != len(sizes) or not levels:
            raise InvalidProblemError(f"{len(levels)} groups of levels but {len(sizes)} group sizes")
        for group, row in enumerate(levels):
            _check_levels(row, group)
        self.counts = tuple(len(row) for row in levels)
        self.sizes = tuple(int(size) for size in sizes)
        self.shape = (sum(self.sizes), max(self.counts))
        padded = [[*row, *[float("nan")] * (self.shape[1] - len(row))] for row in levels]
        #: (G, L) tensor, padded with NaN
        self.levels = torch.tensor(padded, dtype=dtype, device=device)
        self._mask = mask

    @classmethod
    def shared(
        cls, levels: Sequence[float], n: int, *, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
    ) -> LabelSet:
        """Return a set of the same `levels` for all `n` variables."""
        return cls([list(levels)], [n], dtype=dtype, device=device)

    @classmethod
    def named(
        cls, name: str, n: int, *, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
    ) -> LabelSet:
        """Return the set called `name` ("binary", "ternary", "2bit"...) for `n` variables."""
        return cls.shared(integer_levels(name), n, dtype=dtype, device=device)

    @cached_property
    def mask(self) -> Tensor | None:
        """(n, L) bool tensor of the labels that exist, or None when all do."""
        if self._mask is not None:
            return None if bool(self._mask.all()) else self._mask
        if len(set(self.counts)) == 1:
            return None
        counts = torch.tensor(self.counts, device=self.levels.device)
        return torch.arange(self.shape[1], device=self.levels.device) < self._per_row(counts)[:, None]

    @cached_property
    def shared_levels(self) -> tuple[float, ...] | None:
        """The levels as numbers, if all variables share one set and all of its labels exist; otherwise None."""
        return tuple(self.levels[0].tolist()) if len(self.sizes) == 1 and self.mask is None else None

    def ends(self, like: Tensor) -> tuple[Any, Any]:
        """Return the lowest and the highest of two levels: numbers if they are shared, else tensors of one dtype."""
        levels = self.shared_levels
        if levels is not None:
            return levels[0], levels[-1]
        low, high = self.rows().to(like.dtype).unbind(1)
        return low, high

    @property
    def ordered(self) -> bool:
        """Whether the labels of every variable are a gap-free ascending scale, so that values interpolate."""
        if self._mask is None:
            return True
        return bool((self._mask[:, 1:] <= self._mask[:, :-1]).all())

    def rows(self) -> Tensor:
        """Return the levels of each variable, (1, L) when shared and (n, L) otherwise."""
        levels = self.levels if len(self.sizes) == 1 else self._per_row(self.levels)
        return levels if self._mask is None else levels.where(self._mask, float("nan"))

    def decode(self, labels: Tensor) -> Tensor:
        """Return the values of a labelling, shape (n,), or of k of them, shape (k, n)."""
        if len(self.sizes) == 1:
            return self.levels[0][labels]
        group = self._per_row(torch.arange(len(self.sizes), device=labels.device))
        return self.levels[group, labels]

    def mean(self, u: Tensor) -> Tensor:
        """Return the (n,) mean values `w = u q` of a relaxed labelling, group by group."""
        levels = torch.nan_to_num(self.levels).to(u.dtype)
        parts = [block @ row for block, row in zip(u.split(self.sizes), levels, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def lift(self, gradient: Tensor) -> Tensor:
        """Return the (n, L) gradient `g_u = g_w q^T` of a function of the values."""
        levels = torch.nan_to_num(self.levels).to(gradient.dtype)
        out = torch.empty(self.shape, dtype=gradient.dtype, device=gradient.device)
        for block, part, row in zip(out.split(self.sizes), gradient.split(self.sizes), levels, strict=True):
            torch.outer(part, row, out=block)
        return out

    def nearest(self, values: Tensor) -> Tensor:
        """Return the (n,) labels of the levels nearest to `values`; a tie goes to the lower level."""
        distance = (values[:, None] - self.rows().to(values.dtype)).abs()
        return torch.nan_to_num(distance, nan=float("inf")).argmin(1)

    def interpolate(self, values: Tensor) -> Tensor:
        """Return the (n, L) relaxed labelling on the two neighbouring levels whose mean is `values`, clipped."""
        low, high, start, stop = self.interval(values)
        run = stop - start
        t = torch.where(run > 0, (values - start) / run.where(run > 0, 1.0), 0.0).clamp(0, 1)
        u = torch.zeros(self.shape, dtype=values.dtype, device=values.device)
        u.scatter_(1, low[:, None], (1 - t)[:, None])
        return u.scatter_add_(1, high[:, None], t[:, None])

    def slope(self, g: Tensor, values: Tensor) -> Tensor:
        """Return the (n,) derivative with respect to `values` of `<g, interpolate(values)>`.

        For a function of the values (`g = g_w q^T`) this is exactly `g_w`. Outside the levels it is the slope
        of the nearest interval, which is what a straight-through step needs.
        """
        low, high, start, stop = self.interval(values)
        rise = (g.gather(1, high[:, None]) - g.gather(1, low[:, None]))[:, 0]
        run = stop - start
        return torch.where(run > 0, rise / run.where(run > 0, 1.0), 0.0)

    def interval(self, values: Tensor) -> Interval:
        """Return the two neighbouring labels around each value, and their levels; the nearest two if it is outside."""
        if len(self.sizes) == 1 and self._mask is None:
            levels = self.levels[0].to(values.dtype)
            low = torch.bucketize(values, levels[1:-1], right=True)
            high = (low + 1).clamp(max=len(levels) - 1)
            return Interval(low, high, levels[low], levels[high])
        levels, last = self.rows().to(values.dtype), self._last
        low = ((levels <= values[:, None]).sum(1) - 1).clamp(min=0).minimum((last - 1).clamp(min=0))
        high = (low + 1).minimum(last)
        return Interval(low, high, levels.gather(1, low[:, None])[:, 0], levels.gather(1, high[:, None])[:, 0])

    def one_hot(self, labels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the (n, L) vertex of the simplices that stands for a labelling."""
        u = torch.zeros(self.shape, dtype=dtype or self.levels.dtype, device=labels.device)
        return u.scatter_(1, labels[:, None], 1.0)

    def round(self, u: Tensor) -> Tensor:
        """Return the (n,) most probable labels; a tie goes to the lower label."""
        scores = u if self.mask is None else u.masked_fill(~self.mask, -torch.inf)
        if self.shape[1] == 2:  # what argmax says, ten times as fast
            return (scores[:, 1] > scores[:, 0]).to(torch.int64)
        return scores.argmax(1)

    def check(self, labels: Tensor) -> Tensor:
        """Return `labels` as an (n,) int64 tensor, or raise `InvalidProblemError` naming the first bad entry."""
        labels = torch.as_tensor(labels, device=self.levels.device)
        if labels.shape != self.shape[:1] or labels.is_floating_point():
            raise InvalidProblemError(
                f"a labelling needs shape ({self.shape[0]},) and whole numbers, "
                f"got shape {tuple(labels.shape)} and {labels.dtype}"
            )
        labels = labels.long()
        bad = (labels < 0) | (labels >= self.shape[1])
        if self.mask is not None:
            bad |= ~self.mask.gather(1, labels.clamp(0, self.shape[1] - 1)[:, None])[:, 0]
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            count = self.shape[1] if self.mask is None else int(self.mask[i].sum())
            raise InvalidProblemError(f"labels[{i}] is {int(labels[i])}, but variable {i} has {count} labels")
        return labels

    def _per_row(self, per_group: Tensor) -> Tensor:
        sizes = torch.tensor(self.sizes, device=per_group.device)
        return per_group.repeat_interleave(sizes, dim=0)

    @cached_property
    def _last(self) -> Tensor:
        """The highest label of each variable."""
        counts = torch.tensor(self.counts, device=self.levels.device)
        return self._per_row(counts) - 1 if self._mask is None else self._mask.sum(1) - 1


def integer_levels(name: str) -> list[float]:
    """Return the symmetric integer levels of a named set, 0 dropped for an even count (PMF, ICCV 2019).

    Examples
    --------
    >>> integer_levels("binary"), integer_levels("2bit")
    ([-1.0, 1.0], [-2.0, -1.0, 1.0, 2.0])
    """
    if name not in NAMES:
        raise UnknownNameError("label set", name, NAMES)
    count = NAMES[name]
    half = count // 2
    return [float(q) for q in range(-half, half + 1) if q != 0 or count % 2]


def _check_levels(row: Sequence[float], group: int) -> None:
    values = torch.tensor(row, dtype=torch.float64)
    if values.ndim != 1 or len(values) == 0 or not bool(values.isfinite().all()):
        raise InvalidProblemError(f"levels of group {group} must be finite numbers, at least one, got {list(row)}")
    if bool((values.diff() <= 0).any()):
        raise InvalidProblemError(f"levels of group {group} must be strictly ascending, got {list(row)}")
