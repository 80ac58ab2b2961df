"""What a set of labels is: how many, of which kind, shared by which weights, and how many bits it takes.

A specification is written as a short text, `3bit-codebook` or `2bit-uniform-minmax-g64`, on the command line and in
reports alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch

from mrfq.errors import InvalidParameterError
from mrfq.layerwise.spec_text import Fit, Kind, Precision, level_fields, level_text, vector_fields, words_of

#: labels are stored as bytes
MOST_LABELS = 256
#: codewords of vectors
MOST_CODEWORDS = 65536
#: more halvings than these labels need leave the normal range of float32 once they are scaled
MOST_POWERS = 128
DTYPES: dict[Precision, torch.dtype] = {"F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class LevelSpec:
    """The labels of a layer's weights and what is stored of their levels.

    Parameters
    ----------
    count : int
        Labels, 2 to 256.
    kind : {"codebook", "uniform", "symmetric", "power-of-two"}
        Free levels; `offset + scale * (0, 1, .., L - 1)`; a scale times levels that lie evenly around zero; a scale
        times plus and minus 1, 1/2, 1/4, and so on. The last two have a level of zero if the count is odd.
    group : int, optional
        Consecutive columns that share a label set; without, each row has one.
    fit : {"min-max", "error", "weighted"}
        How a start is chosen: from the smallest to the largest weight, by least squared error, or by least squared
        error weighted by the importance of the columns. Codebooks know the last two.
    precision : {"F16", "F32"}
        Of what is stored: scales, offsets, codebooks.

    Raises
    ------
    InvalidParameterError
        A value outside these.

    Examples
    --------
    >>> spec = LevelSpec(4, "symmetric", group=64)
    >>> str(spec), spec.base
    ('2bit-symmetric-g64', (-1.5, -0.5, 0.5, 1.5))
    >>> spec.bits(rows=8, columns=128) / (8 * 128)
    2.25
    """

    count: int
    kind: Kind = "codebook"
    group: int | None = None
    fit: Fit = "weighted"
    precision: Precision = "F16"

    def __post_init__(self) -> None:
        _check_whole("labels", self.count, 2, MOST_LABELS)
        _check_choice("kind", self.kind, get_args(Kind))
        _check_choice("fit", self.fit, get_args(Fit))
        _check_choice("precision", self.precision, get_args(Precision))
        if self.group is not None:
            _check_whole("columns of a group", self.group, 1, None)
        if self.kind == "codebook" and self.fit == "min-max":
            raise InvalidParameterError(
                "levels: a codebook is fitted to all weights, 'weighted' or 'error', not 'min-max'"
            )
        if self.kind == "power-of-two" and self.count > MOST_POWERS:
            raise InvalidParameterError(
                f"levels: {self.count} labels would need the power 2^-{(self.count - 1) // 2}; at most {MOST_POWERS} "
                "labels of kind 'power-of-two'"
            )

    @property
    def base(self) -> tuple[float, ...] | None:
        """The levels at scale 1 and offset 0, ascending; None for codebooks."""
        half = self.count // 2
        if self.kind == "codebook":
            return None
        if self.kind == "uniform":
            return tuple(float(a) for a in range(self.count))
        if self.kind == "power-of-two":
            positive = [2.0**-k for k in reversed(range(half))]
        elif self.count == 2:
            positive = [1.0]
        else:
            positive = [a + (1.0 if self.count % 2 else 0.5) for a in range(half)]
        return (*(-q for q in reversed(positive)), *([0.0] if self.count % 2 else []), *positive)

    @property
    def parameters(self) -> int:
        """How many numbers a label set stores."""
        return {"codebook": self.count, "uniform": 2, "symmetric": 1, "power-of-two": 1}[self.kind]

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored numbers."""
        return DTYPES[self.precision]

    def groups(self, columns: int, name: str = "") -> int:
        """Return how many label sets a row of so many columns has.

        Raises
        ------
        InvalidParameterError
            The group size does not divide the columns; the message starts with `name`, that of the layer.
        """
        if self.group is None:
            return 1
        if columns % self.group:
            raise InvalidParameterError(
                f"{name + ': ' if name else ''}groups of {self.group} columns do not divide {columns} columns"
                + _divisors_near(columns, self.group)
            )
        return columns // self.group

    def bits(self, rows: int, columns: int) -> float:
        """Return all bits of a layer: those of the labels, `log2 count` each, and of the label sets.

        Raises
        ------
        InvalidParameterError
            The group size does not divide the columns.
        """
        stored = rows * self.groups(columns) * self.parameters
        return rows * columns * math.log2(self.count) + stored * 8 * self.dtype.itemsize

    def __str__(self) -> str:
        return level_text(self.count, self.kind, self.fit, self.group, self.precision)


@dataclass(frozen=True)
class VectorSpec:
    """Labels of blocks of weights: each block is one of the codewords of its layer.

    Parameters
    ----------
    dim : int
        Consecutive weights of a row that make a block.
    count : int
        Codewords, 1 to 65536.
    precision : {"F16", "F32"}
        Of the codewords.

    Raises
    ------
    InvalidParameterError
        A value outside these.

    Examples
    --------
    >>> spec = VectorSpec(9, 256)
    >>> str(spec), spec.bits(rows=64, columns=576)
    ('vector-9x256', 69632.0)
    >>> spec.clamped(blocks=600).count
    128
    """

    dim: int
    count: int
    precision: Precision = "F16"

    def __post_init__(self) -> None:
        _check_whole("weights of a block", self.dim, 1, None)
        _check_whole("codewords", self.count, 1, MOST_CODEWORDS)
        _check_choice("precision", self.precision, get_args(Precision))

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored codewords."""
        return DTYPES[self.precision]

    def blocks(self, rows: int, columns: int, name: str = "") -> int:
        """Return how many blocks a layer has.

        Raises
        ------
        InvalidParameterError
            The blocks do not divide the columns; the message starts with `name`, that of the layer.
        """
        if columns % self.dim:
            raise InvalidParameterError(
                f"{name + ': ' if name else ''}blocks of {self.dim} weights do not divide {columns} columns"
                + _divisors_near(columns, self.dim)
            )
        return rows * (columns // self.dim)

    def bits(self, rows: int, columns: int) -> float:
        """Return all bits of a layer with this many codewords: labels and codewords.

        Raises
        ------
        InvalidParameterError
            The blocks do not divide the columns.
        """
        labels = self.blocks(rows, columns) * math.log2(self.count)
        return labels + self.count * self.dim * 8 * self.dtype.itemsize

    def clamped(self, blocks: int) -> VectorSpec:
        """Return the same with at most so many codewords: the largest power of two up to a quarter of `blocks`."""
        most = 1 << max(blocks // 4, 1).bit_length() - 1
        return VectorSpec(self.dim, min(self.count, most), self.precision)

    def __str__(self) -> str:
        return f"vector-{self.dim}x{self.count}" + ("-f32" if self.precision == "F32" else "")


def parse_levels(text: str) -> LevelSpec | VectorSpec:
    """Read a specification; `str` of the result reads as the same again.

    Parameters
    ----------
    text : str
        `SIZE[-KIND][-FIT][-gN][-f32]` with SIZE `binary`, `ternary`, `1bit` to `8bit` or `2levels` to `256levels`,
        KIND `codebook` (if none is given), `uniform`, `symmetric` or `pow2`, FIT `minmax`, `error` or `weighted`, N the
        columns that share a label set; or `vector-DIMxCODEWORDS[-f32]`. Upper and lower case are the same.

    Raises
    ------
    InvalidParameterError
        Anything else; the message names the part that was not understood.

    Examples
    --------
    >>> parse_levels("2bit-uniform-minmax-g64")
    LevelSpec(count=4, kind='uniform', group=64, fit='min-max', precision='F16')
    >>> str(parse_levels("Ternary")), parse_levels("vector-9x256")
    ('ternary-codebook', VectorSpec(dim=9, count=256, precision='F16'))
    """
    if words_of(text)[0] == "vector":
        return VectorSpec(**vector_fields(text))  # type: ignore[arg-type]
    return LevelSpec(**level_fields(text))  # type: ignore[arg-type]


def _divisors_near(columns: int, size: int) -> str:
    """Return a hint at the next smaller and larger size that divides, if there are any."""
    divisors = [d for d in range(2, min(columns, 4 * size) + 1) if columns % d == 0]
    near = [d for d in divisors if d < size][-1:] + [d for d in divisors if d > size][:1]
    return f"; {' and '.join(map(str, near))} would" if near else ""


def _check_whole(what: str, value: object, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        bounds = f"{low} to {high}" if high is not None else f"{low} or more"
        raise InvalidParameterError(f"levels: the number of {what} is {bounds}, got {value!r}")


def _check_choice(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidParameterError(f"levels: the {what} is {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
