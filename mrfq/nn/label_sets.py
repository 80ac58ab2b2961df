"""What layers may share in a packed file: sets of levels, kinds of tables, codebooks; as the manifest lists them.

.. code-block:: text

    [3, "F32", 29, 46]                           levels: how many, their dtype; digits and bits of a word of labels
    ["uniform", 4, "F16", 1, 2, "weighted", 64]  tables: kind, labels, dtype; the word; fit, columns of a group (0: all)
    ["vector", 256, "F16", 1, 8, 9]              a codebook: codewords, dtype; the word; weights of a codeword

Levels and codewords are the content of a set. What each layer has of its own are its sides: the scales of levels, the
parameters of tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.layerwise.spec import LevelSpec
from mrfq.layerwise.tables import Table
from mrfq.nn.grids import Grid
from mrfq.nn.packing import Word, best_word, byte_word
from mrfq.nn.shared_sets import FEW_LEVELS, MOST_LEVELS, NAMES, SharedSet, Take, is_record, most_weights
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.nn.weight_grids import WeightGrid

#: how the manifest calls a codebook
VECTOR = "vector"


@dataclass(frozen=True, eq=False)
class Levels(SharedSet):
    """The levels of a `Grid`."""

    form = (int, str, int, int)
    values: Tensor
    word: Word

    @classmethod
    def of(cls, grid: Grid, align: bool) -> Levels:
        return cls(torch.tensor(grid.levels, dtype=grid.precision), _word(grid.count, align))

    @classmethod
    def read(cls, record: list[Any], take: Take) -> Levels:
        count, precision, digits, bits = record
        _check(0 < count <= MOST_LEVELS and precision in ("F32", "F64"), record)
        values = take(precision, count)
        return cls(values, Word(max(count, 2), digits, bits))

    @property
    def content(self) -> Tensor:
        return self.values

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def precision(self) -> str:
        return NAMES[self.values.dtype]

    def record(self) -> list[int | str]:
        return [self.count, self.precision, self.word.digits, self.word.bits]

    def sides(self, rows: int, weights: int) -> int:
        return rows

    def grid(self, side: Tensor, rows: int) -> Grid:
        return Grid(tuple(self.values.tolist()), side if rows else None, self.values.dtype)


@dataclass(frozen=True, eq=False)
class Tables(SharedSet):
    """What the tables of `RowGrid` say of themselves."""

    form = (str, int, str, int, int, str, int)
    spec: LevelSpec
    word: Word

    @classmethod
    def of(cls, grid: RowGrid, align: bool) -> Tables:
        return cls(grid.table.spec, _word(grid.count, align))

    @classmethod
    def read(cls, record: list[Any], take: Take) -> Tables:
        kind, count, precision, digits, bits, fit, group = record
        _check(1 < count <= FEW_LEVELS and group >= 0 and precision in ("F16", "F32"), record)
        spec = LevelSpec(count=count, kind=kind, group=group or None, fit=fit, precision=precision)
        return cls(spec, Word(count, digits, bits))

    @property
    def count(self) -> int:
        return self.spec.count

    @property
    def precision(self) -> str:
        return self.spec.precision

    def record(self) -> list[int | str]:
        spec, word = self.spec, self.word
        return [spec.kind, spec.count, spec.precision, word.digits, word.bits, spec.fit, spec.group or 0]

    def sides(self, rows: int, weights: int) -> int:
        group = self.spec.group or 1
        _check(rows > 0 and weights > 0 and weights // rows % group == 0, [rows, weights, group])
        return rows * self.spec.groups(weights // rows) * self.spec.parameters

    def grid(self, side: Tensor, rows: int) -> RowGrid:
        return RowGrid(Table(self.spec, side.reshape(rows, -1, self.spec.parameters)))


@dataclass(frozen=True, eq=False)
class Codewords(SharedSet):
    """The codebook of a `VectorGrid`."""

    form = (str, int, str, int, int, int)
    codewords: Tensor
    word: Word

    @classmethod
    def of(cls, grid: VectorGrid, align: bool) -> Codewords:
        return cls(grid.codewords.detach().cpu(), _word(grid.count, align))

    @classmethod
    def read(cls, record: list[Any], take: Take) -> Codewords:
        kind, count, precision, digits, bits, block = record
        _check(kind == VECTOR and 0 < count <= MOST_LEVELS and precision in ("F16", "F32"), record)
        word = Word(max(count, 2), digits, bits)
        _check(0 < block <= most_weights(count), record)
        return cls(take(precision, count * block).reshape(count, block), word)

    @property
    def content(self) -> Tensor:
        return self.codewords

    @property
    def count(self) -> int:
        return len(self.codewords)

    @property
    def precision(self) -> str:
        return NAMES[self.codewords.dtype]

    @property
    def block(self) -> int:
        return self.codewords.shape[1]

    def record(self) -> list[int | str]:
        return [VECTOR, self.count, self.precision, self.word.digits, self.word.bits, self.block]

    def sides(self, rows: int, weights: int) -> int:
        _check(rows == 0, [rows])
        return 0

    def grid(self, side: Tensor, rows: int) -> VectorGrid:
        return VectorGrid(self.codewords)


def shared_set(grid: WeightGrid, align: bool) -> SharedSet:
    """Return what a grid may share with others."""
    if isinstance(grid, RowGrid):
        return Tables.of(grid, align)
    if isinstance(grid, VectorGrid):
        return Codewords.of(grid, align)
    if isinstance(grid, Grid):
        return Levels.of(grid, align)
    raise InvalidProblemError(f"grid: a packed file has no place for a {type(grid).__name__}")


def side_of(grid: WeightGrid) -> tuple[int, Tensor | None]:
    """Return the rows and the numbers that a grid has of its own."""
    if isinstance(grid, RowGrid):
        return grid.rows, grid.table.parameters
    if isinstance(grid, Grid) and grid.scales is not None:
        return grid.rows, grid.scales.to(grid.precision)
    return 0, None


def read_set(record: Any, take: Take) -> SharedSet:
    """Return an entry of the list, with its content.

    Raises
    ------
    InvalidProblemError, InvalidParameterError
        It is none.
    """
    for kind in (Levels, Tables, Codewords):
        if is_record(record, kind.form):
            return kind.read(record, take)
    raise InvalidProblemError("an entry of another form")


def _word(count: int, align: bool) -> Word:
    return byte_word(count) if align else best_word(count)


def _check(good: bool, record: list[Any]) -> None:
    if not good:
        raise InvalidProblemError(f"numbers out of range: {ascii(record)[:80]}")
