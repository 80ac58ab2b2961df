"""The grid that a discrete parameter lives on: its levels, and the scales of its rows.

`decode` of a grid is the one formula that turns labels into weights. Training, saving and loading all use it, so that
what they get is the same to the last bit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidProblemError
from mrfq.nn.weight_grids import WeightGrid, last_below

#: where a parameter keeps its grid
ATTRIBUTE = "_mrfq_grid"


@dataclass(frozen=True, eq=False)
class Grid(WeightGrid):
    """The values that the weights of a parameter may have: `scales[row] * levels[label]`.

    Parameters
    ----------
    levels : tuple of float
        Ascending and finite, at least one.
    scales : Tensor, shape (rows,), optional
        A positive factor for each of as many equal consecutive pieces of the flattened parameter: one for the whole
        of it, or one an output channel, say. Without, the weights are the levels themselves.
    precision : torch.dtype
        float32 or float64: how levels, scales and their products are rounded, whatever the dtype of the parameter.

    Raises
    ------
    InvalidProblemError
        Levels that are not finite and strictly ascending in that precision, scales that are not positive and finite,
        or products beyond its range.

    Examples
    --------
    >>> grid = Grid((-1.0, 0.0, 1.0), torch.tensor([0.5, 2.0]))
    >>> labels = grid.nearest(torch.tensor([[0.4, -0.2], [0.9, -3.0]]))
    >>> labels
    tensor([[2, 1],
            [1, 0]])
    >>> grid.decode(labels, (2, 2))
    tensor([[ 0.5000,  0.0000],
            [ 0.0000, -2.0000]])
    """

    levels: tuple[float, ...]
    scales: Tensor | None = None
    precision: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.precision not in (torch.float32, torch.float64):
            raise InvalidProblemError(f"grid: the precision is float32 or float64, not {self.precision}")
        levels = self._levels(torch.device("cpu"))
        if levels.ndim != 1 or len(levels) == 0 or not bool(levels.isfinite().all() and (levels.diff() > 0).all()):
            raise InvalidProblemError(f"grid: levels must be finite and ascend, at least one, got {self.levels}")
        if self.scales is None:
            return
        scales = self.scales.detach()
        if scales.ndim != 1 or len(scales) == 0 or not scales.is_floating_point():
            raise InvalidProblemError(
                f"grid: scales need shape (rows,), floating point, got shape {tuple(scales.shape)}, {scales.dtype}"
            )
        largest = levels.abs().max().to(scales.device) * scales.to(self.precision)
        if not bool((scales > 0).all() and scales.isfinite().all() and largest.isfinite().all()):
            raise InvalidProblemError("grid: scales must be positive, and finite also when multiplied by the levels")

    @property
    def count(self) -> int:
        return len(self.levels)

    @property
    def rows(self) -> int:
        """The number of pieces with a scale of their own; 1 without scales."""
        return 1 if self.scales is None else len(self.scales)

    @property
    def side_bytes(self) -> int:
        return (self.count + (0 if self.scales is None else self.rows)) * self.precision.itemsize

    def check(self, weights: int) -> None:
        self._rows_of(weights)

    def to(self, device: torch.device) -> Grid:
        return self if self.scales is None else dataclasses.replace(self, scales=self.scales.to(device))

    def decode(self, labels: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights that labels stand for.

        Parameters
        ----------
        labels : Tensor, whole numbers, any shape of as many entries as `shape`
            From 0 to the number of levels less one.
        shape : tuple of int
            That of the parameter.
        dtype : torch.dtype
            The products are rounded to `precision`, then to this.

        Raises
        ------
        InvalidProblemError
            The rows do not divide the number of weights.
        """
        weights = self._levels(labels.device)[labels.reshape(self._rows_of(labels.numel())).long()]
        if self.scales is not None:
            weights = weights * self._scales(labels.device)[:, None]
        return weights.reshape(shape).to(dtype)

    def nearest(self, weights: Tensor) -> Tensor:
        """Return the labels of the nearest values, int64 in the shape of the weights; a tie goes to the lower level.

        Takes memory in proportion to the number of weights, whatever the number of levels.

        Raises
        ------
        InvalidProblemError
            The rows do not divide the number of weights.
        """
        rows = weights.detach().reshape(self._rows_of(weights.numel())).double().contiguous()
        bounds = self._midpoints(weights.dtype, weights.device)
        return torch.searchsorted(bounds, rows).reshape(weights.shape)

    def _levels(self, device: torch.device) -> Tensor:
        return torch.tensor(self.levels, dtype=self.precision, device=device)

    def _scales(self, device: torch.device) -> Tensor:
        scales = torch.ones(1) if self.scales is None else self.scales.detach()
        return scales.to(device, self.precision)

    def _rows_of(self, count: int) -> tuple[int, int]:
        if count % self.rows:
            raise InvalidProblemError(f"grid: {self.rows} scales do not divide {count} weights into equal pieces")
        return self.rows, count // self.rows

    def _midpoints(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the (rows, levels - 1) largest numbers, as float64, that belong to the lower of two levels."""
        values = self._levels(device) * self._scales(device)[:, None]
        return last_below(values.to(dtype))


def attach(parameter: nn.Parameter, grid: WeightGrid | None) -> None:
    """Note on a parameter which grid its weights live on, or with None that they are float again.

    The note is lost by `copy.deepcopy`, and survives `Module.to`.

    Raises
    ------
    InvalidProblemError
        The rows or blocks of the grid do not divide the parameter.

    Examples
    --------
    >>> weight = nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> attach(weight, Grid((-1.0, 1.0)))
    >>> grid_of(weight).exact(weight)
    True
    """
    if grid is not None:
        grid.check(parameter.numel())
    setattr(parameter, ATTRIBUTE, grid)


def grid_of(parameter: Tensor) -> WeightGrid | None:
    """Return the grid that was attached to a parameter, or None."""
    grid: WeightGrid | None = getattr(parameter, ATTRIBUTE, None)
    return grid
