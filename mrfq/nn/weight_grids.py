"""What every grid that a parameter can live on offers, whatever its labels stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class WeightGrid(ABC):
    """What the weights of a parameter may be: labels, and what each of them stands for.

    `Grid` is the one of training; `RowGrid` and `VectorGrid` of `mrfq.nn.table_grids` are those of post-training
    quantization.

    Attributes
    ----------
    count : int
        The number of labels.
    block : int
        Consecutive weights that share a label.
    rows : int
        Equal pieces of the flattened parameter that have numbers of their own.
    side_bytes : int
        What the numbers that labels stand for take, as they are stored.
    """

    @property
    def block(self) -> int:
        return 1

    @property
    @abstractmethod
    def count(self) -> int: ...

    @property
    @abstractmethod
    def rows(self) -> int: ...

    @property
    @abstractmethod
    def side_bytes(self) -> int: ...

    @abstractmethod
    def check(self, weights: int) -> None:
        """Raise `InvalidProblemError` unless a parameter of so many weights may live on the grid."""

    @abstractmethod
    def decode(self, labels: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights that labels stand for.

        Parameters
        ----------
        labels : Tensor, whole numbers, one for each block of weights
            In the order of the flattened parameter, from 0 to the number of labels less one.
        shape : tuple of int
            That of the parameter.
        dtype : torch.dtype
            Of the weights.

        Raises
        ------
        InvalidProblemError
            No parameter of that many weights may live on the grid.
        """

    @abstractmethod
    def nearest(self, weights: Tensor) -> Tensor:
        """Return the labels of the nearest values, int64; of several that are as near the first.

        Raises
        ------
        InvalidProblemError
            No parameter of that many weights may live on the grid.
        """

    @abstractmethod
    def to(self, device: torch.device) -> WeightGrid:
        """Return the same grid on a device."""

    def exact(self, weights: Tensor) -> bool:
        """Return whether every weight equals a value of the grid, rounded to the dtype of the weights."""
        weights = weights.detach()
        return torch.equal(self.decode(self.nearest(weights), tuple(weights.shape), weights.dtype), weights)


def last_below(values: Tensor) -> Tensor:
    """Return, for each but the last of ascending values, the largest number that is nearest to it or to one before.

    Parameters
    ----------
    values : Tensor, shape (..., L)
        Ascending along the last axis; they may repeat.

    Returns
    -------
    Tensor, float64, shape (..., L - 1)
        What `torch.searchsorted` takes to label numbers by the nearest value, the first of several.

    Examples
    --------
    >>> last_below(torch.tensor([0.0, 1.0, 1.0, 4.0]))
    tensor([0.5000, 2.5000, 2.5000], dtype=torch.float64)
    """
    values = values.double()
    low, high = values[..., :-1], values[..., 1:]
    middle = low / 2 + high / 2
    middle = torch.where(middle < high, middle, low)  # rounded up to `high`, it would take it away
    apart = torch.where(low < high, middle, torch.inf)
    return apart.flip(-1).cummin(-1).values.flip(-1).contiguous()
