"""Weights as small whole numbers: `scale * (code - zero)` with codes of 2, 4 or 8 bits, as `MatMulNBits` takes them.

The operator takes zeros that are whole numbers, and, of 2 and 4 bits, also floats, by slower ways for all but 2 bits in
float32. A zero that is no whole number is therefore rounded, and what a weight lacks then is a shift, the same for all
columns of a group: the product of the shifts with the sums of the inputs puts it right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.nn.grids import Grid
from mrfq.nn.table_grids import RowGrid
from mrfq.nn.weight_grids import WeightGrid

#: bits of codes
CONTAINERS = (2, 4, 8)
#: by how much codes may miss weights, relative to the largest of a set
ROUNDING = 2.0**-20


@dataclass(frozen=True, eq=False)
class Codes:
    """Weights of R rows and C columns with G groups of columns.

    Attributes
    ----------
    codes : Tensor, uint8, shape (R, C)
    scales : Tensor, float32, shape (R, G)
    zeros : Tensor, float64, shape (R, G)
    bits : int
        2, 4 or 8.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int

    @property
    def whole_zeros(self) -> Tensor:
        """The nearest zeros that are codes, float32."""
        return self.zeros.round().clamp(0, 2**self.bits - 1).float()

    @property
    def shifts(self) -> Tensor:
        """What weights lack with these, float32 of shape (R, G)."""
        return (self.scales * (self.whole_zeros - self.zeros)).float()

    @property
    def whole(self) -> bool:
        """Whether they lack nothing."""
        return not bool(self.shifts.any())

    def decode(self, float_zeros: bool = False) -> Tensor:
        """Return the weights, float32 of shape (R, C), as they are computed with floats or whole numbers as zeros."""
        rows, groups = self.scales.shape
        cells = self.codes.float().reshape(rows, groups, -1)
        zeros = self.zeros.float() if float_zeros else self.whole_zeros
        weights = (cells - zeros[..., None]) * self.scales[..., None]
        return (weights if float_zeros else weights + self.shifts[..., None]).reshape(rows, -1)


@dataclass(frozen=True, eq=False)
class Form:
    """Levels as `unit * (codes - zero)`."""

    codes: tuple[int, ...]
    unit: float
    zero: float
    bits: int

    @property
    def whole(self) -> bool:
        return self.zero.is_integer()


def find_codes(weights: Tensor, grid: WeightGrid) -> Codes:
    """Return weights as codes.

    Parameters
    ----------
    weights : Tensor, float32, shape (R, C)
    grid : WeightGrid
        That they are on.

    Raises
    ------
    InvalidProblemError
        There are none; the message, which begins with a small letter, says why.

    Examples
    --------
    >>> weights = torch.tensor([[-0.5, 0.5, 0.5]])
    >>> found = find_codes(weights, Grid((-1.0, 1.0), torch.tensor([0.5])))
    >>> found.codes.tolist(), found.whole_zeros.tolist(), found.bits
    ([[0, 2, 2]], [[1.0]], 2)
    """
    if weights.dtype != torch.float32:
        raise InvalidProblemError(f"weights of {weights.dtype}, not float32")
    labels = grid.nearest(weights).cpu()
    if isinstance(grid, Grid):
        found = _scaled(labels, grid.levels, _scales_of(grid, len(weights)))
    elif not isinstance(grid, RowGrid):
        raise InvalidProblemError("codewords are not multiples of a scale")
    else:
        found = _of_table(labels, grid)
    _check(found, weights.detach().cpu())
    return found


def _of_table(labels: Tensor, grid: RowGrid) -> Codes:
    spec, stored = grid.table.spec, grid.table.parameters.detach().cpu().float()
    if spec.kind == "uniform":
        return _shifted(labels, spec.count, stored[..., 0], stored[..., 1])
    if spec.base is not None:
        return _scaled(labels, spec.base, stored[..., 0])
    if spec.count > 2:
        raise InvalidProblemError(f"codebooks of {spec.count} levels are not multiples of a scale")
    return _shifted(labels, spec.count, stored[..., 1] - stored[..., 0], stored[..., 0])


def _scales_of(grid: Grid, rows: int) -> Tensor:
    """Return the scales of a grid, shape (R, G)."""
    scales = torch.ones(1) if grid.scales is None else grid.scales.detach().cpu().float()
    if len(scales) == 1:
        return scales.expand(rows)[:, None]
    if len(scales) % rows:
        raise InvalidProblemError(f"{len(scales)} scales do not divide {rows} rows")
    return scales.reshape(rows, -1)


def _scaled(labels: Tensor, base: Sequence[float], scales: Tensor) -> Codes:
    """Return the codes of levels times scales."""
    forms = sorted(_forms(base), key=lambda form: (form.bits, not form.whole))
    if not forms:
        raise InvalidProblemError(f"{len(base)} levels that no codes of 8 bits stand for")
    form = forms[0]
    codes = torch.tensor(form.codes, dtype=torch.uint8)[labels]
    zeros = torch.full_like(scales, form.zero, dtype=torch.float64)
    return Codes(codes, scales * form.unit, zeros, form.bits)


def _shifted(labels: Tensor, count: int, scales: Tensor, offsets: Tensor) -> Codes:
    """Return the codes of evenly spaced levels that may begin anywhere."""
    bits = _container(count - 1)
    if bits is None:
        raise InvalidProblemError(f"{count} levels that no codes of 8 bits stand for")
    scales = torch.where(scales > 0, scales, 1)  # where there is one level, all labels are 0
    return Codes(labels.to(torch.uint8), scales, -offsets.double() / scales.double(), bits)


def _forms(base: Sequence[float]) -> Iterator[Form]:
    """Return which codes stand for levels: multiples of a unit, or of a unit from the first of them on."""
    levels = [Fraction(level) for level in base]
    unit = _common(levels)
    multiples = [int(level / unit) for level in levels]
    low = min(0, *multiples)
    bits = _container(max(*multiples, 0) - low)
    if bits is not None:
        yield Form(tuple(k - low for k in multiples), float(unit), float(-low), bits)
    steps = [level - levels[0] for level in levels]
    unit = _common(steps)
    bits = _container(int(steps[-1] / unit))
    if bits is not None:
        yield Form(tuple(int(step / unit) for step in steps), float(unit), float(-levels[0] / unit), bits)


def _common(numbers: Sequence[Fraction]) -> Fraction:
    """Return the largest number that all others are multiples of; 1 if they are all 0."""
    below = math.lcm(*(number.denominator for number in numbers))
    return Fraction(math.gcd(*(int(number * below) for number in numbers)) or below, below)


def _container(largest: int) -> int | None:
    return next((bits for bits in CONTAINERS if largest < 2**bits), None)


def _check(found: Codes, weights: Tensor) -> None:
    """Raise an error unless codes are the weights, but for rounding."""
    sets = found.scales.numel()
    largest = weights.abs().reshape(sets, -1).amax(1)
    for float_zeros in (False, True):
        miss = (found.decode(float_zeros) - weights).abs().reshape(sets, -1).amax(1)
        if not bool((miss <= ROUNDING * largest).all()):
            raise InvalidProblemError("offsets so large that codes would lose the digits of the weights")
