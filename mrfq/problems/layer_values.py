"""The levels of a layer's weights: checked, as a label set, and as the values of labellings."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.labels import LabelSet
from mrfq.problems.checks import as_costs
from mrfq.problems.pairwise import Array


class LayerValues:
    """Levels of the weights of a layer, which are variables numbered row by row.

    Parameters
    ----------
    given : (R or 1, G, L) array
        Ascending levels of each row, or shared, for each of G groups of C / G consecutive columns. Neighbours may be
        equal.
    rows, columns : int
        R and C.
    dtype : torch.dtype

    Attributes
    ----------
    levels : Tensor, shape (R or 1, G, L)
    label_set : LabelSet
        Of the R C weights; equal levels are told apart by a unit in the last place.

    Raises
    ------
    InvalidProblemError
        A wrong shape, groups that do not divide the columns, levels that descend or are not finite.

    Examples
    --------
    >>> values = LayerValues([[[0.0, 1.0], [0.0, 2.0]]], 1, 4)
    >>> values.decode(torch.tensor([[0, 1, 0, 1]])).tolist()
    [[[0.0, 1.0, 0.0, 2.0]]]
    """

    def __init__(self, given: Array, rows: int, columns: int, dtype: torch.dtype = torch.float64) -> None:
        self.rows, self.columns = rows, columns
        self.levels = _checked(given, rows, columns, dtype)
        self.label_set = _label_set(self.levels, rows, columns)

    def decode(self, labels: Tensor) -> Tensor:
        """Return the weights (k, R, C) of k labellings, shape (k, n)."""
        groups = self.levels.shape[1]
        levels = self.levels.expand(len(labels), self.rows, groups, -1)
        cells = labels.reshape(-1, self.rows, groups, self.columns // groups)
        return levels.gather(3, cells).view(-1, self.rows, self.columns)

    def mean(self, u: Tensor) -> Tensor:
        """Return the mean weights (R, C) of a relaxed labelling (n, L)."""
        return (u * self.per_weight).sum(1).view(self.rows, self.columns)

    @cached_property
    def per_weight(self) -> Tensor:
        """(n, L) levels of each weight."""
        groups = self.levels.shape[1]
        if self.levels.shape[:2] == (1, 1):
            return self.levels[0].expand(self.rows * self.columns, -1)
        return self.levels.expand(self.rows, -1, -1).repeat_interleave(self.columns // groups, 1).flatten(0, 1)


def _checked(given: Array, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return levels as a new tensor (R or 1, G, L)."""
    values = as_costs("values", given, dtype)
    if values.ndim != 3 or 0 in values.shape or len(values) not in (1, rows):
        raise InvalidProblemError(f"values need shape (1 or {rows}, groups, levels), got {tuple(values.shape)}")
    if columns % values.shape[1]:
        raise InvalidProblemError(f"{values.shape[1]} groups of levels do not divide the {columns} columns")
    bad = ~values.isfinite()
    bad[..., 1:] |= values.diff(dim=2) < 0
    if bool(bad.any()):
        r, g, a = bad.nonzero()[0].tolist()
        raise InvalidProblemError(
            f"values[{r}, {g}, {a}]: levels must be finite and ascend, got {values[r, g].tolist()}"
        )
    return values.contiguous()


def _label_set(values: Tensor, rows: int, columns: int) -> LabelSet:
    """Return the levels as a label set, in which equal ones are told apart by a unit in the last place."""
    apart = values.numpy().copy()
    for a in range(1, apart.shape[2]):
        above = np.nextafter(apart[..., a - 1], np.array(np.inf, apart.dtype))
        apart[..., a] = np.maximum(apart[..., a], above)
    groups = values.shape[1]
    if values.shape[:2] == (1, 1):
        return LabelSet.shared(apart[0, 0].tolist(), rows * columns, dtype=values.dtype)
    levels = np.broadcast_to(apart, (rows, *apart.shape[1:])).reshape(rows * groups, -1).tolist()
    return LabelSet(levels, [columns // groups] * (rows * groups), dtype=values.dtype)
