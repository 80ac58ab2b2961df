"""The grids of post-training quantization: label sets of rows and of groups of columns, and codewords.

Both decode by the formula of what they are made from, so that a quantized network, its copy in a file, and the
network that is loaded from it are the same to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.layerwise.tables import Table
from mrfq.nn.weight_grids import WeightGrid, last_below

#: values of label sets, and distances to codewords, that are worked out at a time
CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class RowGrid(WeightGrid):
    """A table of label sets: one for each group of columns of each row of a layer.

    A parameter of R C weights is taken as R rows, the output channels, of C columns.

    Parameters
    ----------
    table : Table
        Of R rows.

    Examples
    --------
    >>> from mrfq.layerwise.spec import parse_levels
    >>> book = torch.tensor([[[-1.0, 0.5]], [[0.0, 2.0]]]).half()
    >>> grid = RowGrid(Table(parse_levels("binary"), book))
    >>> labels = grid.nearest(torch.tensor([[0.4, -0.2, -3.0], [0.4, 1.5, 3.0]]))
    >>> labels
    tensor([[1, 1, 0],
            [0, 1, 1]])
    >>> grid.decode(labels, (2, 3))
    tensor([[ 0.5000,  0.5000, -1.0000],
            [ 0.0000,  2.0000,  2.0000]])
    """

    table: Table

    @property
    def count(self) -> int:
        return self.table.spec.count

    @property
    def rows(self) -> int:
        return len(self.table.parameters)

    @property
    def groups(self) -> int:
        """Groups of columns that have a label set of their own."""
        return self.table.parameters.shape[1]

    @property
    def side_bytes(self) -> int:
        return self.table.parameters.numel() * self.table.parameters.itemsize

    def check(self, weights: int) -> None:
        self._sets_of(weights)

    def to(self, device: torch.device) -> RowGrid:
        return RowGrid(dataclasses.replace(self.table, parameters=self.table.parameters.to(device)))

    def decode(self, labels: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        rows = labels.reshape(self._sets_of(labels.numel())).to(torch.uint8)
        weights = torch.empty(rows.shape, dtype=torch.float32, device=labels.device)
        for part, table in self._parts(labels.device):
            weights[part] = table.decode(rows[part])
        return weights.reshape(shape).to(dtype)

    def nearest(self, weights: Tensor) -> Tensor:
        rows = weights.detach().reshape(self._sets_of(weights.numel()))
        labels = torch.empty(rows.shape, dtype=torch.int64, device=weights.device)
        for part, table in self._parts(weights.device):
            bounds = last_below(table.values[:, 0].to(weights.dtype))
            labels[part] = torch.searchsorted(bounds, rows[part].double().contiguous())
        return labels.reshape(weights.shape)

    def _sets_of(self, weights: int) -> tuple[int, int]:
        group, sets = self.table.spec.group, self.rows * self.groups
        if (
            weights == 0
            or weights % sets
            or group not in (None, weights // sets)
            or (group is None and self.groups > 1)
        ):
            size = "" if group is None else f" of {group} columns"
            raise InvalidProblemError(
                f"grid: a table of {self.rows} rows and {self.groups} groups{size} does not fit {weights} weights"
            )
        return sets, weights // sets

    def _parts(self, device: torch.device | None = None) -> Iterator[tuple[slice, Table]]:
        """Return which label sets there are, few at a time, each as the only one of a row."""
        sets = self.table.parameters.detach().flatten(0, 1)[:, None]
        step = max(CHUNK // self.count, 1)
        for start in range(0, len(sets), step):
            part = slice(start, start + step)
            yield part, dataclasses.replace(self.table, parameters=sets[part].to(device))


@dataclass(frozen=True, eq=False)
class VectorGrid(WeightGrid):
    """A codebook: each d consecutive weights of the flattened parameter are one of K codewords.

    Parameters
    ----------
    codewords : Tensor, shape (K, d), float16 or float32
        Finite.

    Raises
    ------
    InvalidProblemError
        Codewords of another shape or dtype, or that are not finite.

    Examples
    --------
    >>> grid = VectorGrid(torch.tensor([[0.0, 1.0], [2.0, 2.0]]))
    >>> grid.nearest(torch.tensor([[0.1, 0.7, 1.9, 2.5]]))
    tensor([0, 1])
    >>> grid.decode(torch.tensor([0, 1]), (1, 4))
    tensor([[0., 1., 2., 2.]])
    """

    codewords: Tensor

    def __post_init__(self) -> None:
        book = self.codewords
        if book.ndim != 2 or 0 in book.shape or book.dtype not in (torch.float16, torch.float32):
            raise InvalidProblemError(
                f"grid: codewords need shape (K, d), float16 or float32, got shape {tuple(book.shape)}, {book.dtype}"
            )
        if not bool(book.isfinite().all()):
            raise InvalidProblemError("grid: codewords must be finite")

    @property
    def count(self) -> int:
        return len(self.codewords)

    @property
    def block(self) -> int:
        return self.codewords.shape[1]

    @property
    def rows(self) -> int:
        return 1

    @property
    def side_bytes(self) -> int:
        return self.codewords.numel() * self.codewords.itemsize

    def check(self, weights: int) -> None:
        if weights % self.block:
            raise InvalidProblemError(f"grid: codewords of {self.block} do not divide {weights} weights")

    def to(self, device: torch.device) -> VectorGrid:
        return VectorGrid(self.codewords.to(device))

    def decode(self, labels: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        self.check(torch.Size(shape).numel())
        codewords = self.codewords.detach().to(labels.device, torch.float32).to(dtype)
        return codewords[labels.flatten().long()].reshape(shape)

    def nearest(self, weights: Tensor) -> Tensor:
        """Return the labels of the nearest codewords by Euclidean distance, int64 of shape (weights / d,)."""
        self.check(weights.numel())
        blocks = weights.detach().reshape(-1, self.block)
        codewords = self.codewords.detach().to(weights.device, torch.float32).to(weights.dtype).double()
        # differences, not products, so that a block that is a codeword is at distance 0 from that one alone
        mode, step = "donot_use_mm_for_euclid_dist", max(CHUNK // self.count, 1)
        found = [torch.cdist(part.double(), codewords, compute_mode=mode).argmin(1) for part in blocks.split(step)]
        return torch.cat(found)
