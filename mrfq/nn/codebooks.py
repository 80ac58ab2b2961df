"""Grids of parameters that are discrete without saying so, found by their values.

A network that was copied, or made discrete by other means, has no grids attached. Its weights are the same numbers
all the same: few in the whole tensor or in every output channel, or whole multiples of a scale in every output channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrfq.layerwise.spec import LevelSpec
from mrfq.layerwise.tables import Table
from mrfq.nn.grids import Grid
from mrfq.nn.packing import best_word
from mrfq.nn.table_grids import RowGrid
from mrfq.nn.weight_grids import WeightGrid

#: of weights that are packed
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: distinct values of a codebook
MOST_VALUES = 256
#: whole multiples of the scale of a channel, up and down
LARGEST_MULTIPLE = 255
#: entries that are looked at first, so that float weights cost little
SAMPLE = 4096
#: what a grid, and a table of its own kind, take in the manifest, in bytes, about
MENTION, TABLE_MENTION = 16, 64


def find_grid(weights: Tensor) -> Grid | RowGrid | None:
    """Return the cheapest grid that every weight is on, or None if storing them as they are takes less.

    Parameters
    ----------
    weights : Tensor, floating point, any shape
        The first axis is that of the output channels.

    Examples
    --------
    >>> find_grid(torch.tensor([0.25, -0.5, 0.25, 0.25] * 8)).levels
    (-0.5, 0.25)
    >>> find_grid(torch.randn(32)) is None
    True
    """
    if weights.dtype not in DTYPES or weights.numel() == 0:
        return None
    weights = weights.detach().cpu()
    makers = _shared, _by_channel, _books
    found = [grid for make in makers if (grid := make(weights)) is not None and grid.exact(weights)]
    best = min(found, key=lambda grid: _size(grid, weights.numel()), default=None)
    pays = best is not None and _size(best, weights.numel()) < weights.numel() * weights.itemsize
    return best if pays else None


def packed_size(grid: WeightGrid, count: int) -> int:
    """Return how many bytes `count` weights on a grid take: labels, levels and scales, or tables, or codewords.

    Examples
    --------
    >>> packed_size(Grid((-1.0, 1.0), torch.ones(2)), 80)
    26
    """
    return best_word(grid.count).size(count // grid.block) + grid.side_bytes


def _size(grid: Grid | RowGrid, count: int) -> int:
    """Return what weights on a grid take in a file, about."""
    return packed_size(grid, count) + (TABLE_MENTION if isinstance(grid, RowGrid) else MENTION)


def _shared(weights: Tensor) -> Grid | None:
    """Return the distinct values as levels, if they are few."""
    flat = weights.flatten()
    if _distinct(flat[:SAMPLE]) is None or (values := _distinct(flat)) is None:
        return None
    return Grid(tuple(values.tolist()), None, _precision(weights))


def _distinct(values: Tensor) -> Tensor | None:
    """Return the distinct values in ascending order, unless they are too many or not finite; -0 is 0."""
    found = torch.unique(values.to(_precision(values))) + 0.0
    return found if len(found) <= MOST_VALUES and bool(found.isfinite().all()) else None


def _by_channel(weights: Tensor) -> Grid | None:
    """Return a scale for each channel of which its weights are whole multiples, and these as levels."""
    if weights.ndim < 2 or len(weights) > weights.numel() // 2:
        return None
    scales, multiples = [], set[float]()
    largest = 0
    for row in weights.flatten(1):
        if _distinct(row[:SAMPLE]) is None or (values := _distinct(row)) is None:
            return None
        found = _row_scale(values, largest, weights.dtype)
        if found is None or len(multiples) > MOST_VALUES:
            return None
        scales.append(found)
        whole = torch.round(values / found)
        multiples.update(whole.tolist())
        largest = int(whole.abs().max())
    if len(multiples) > MOST_VALUES:
        return None
    return Grid(tuple(sorted(multiples)), torch.stack(scales), _precision(weights))


def _books(weights: Tensor) -> RowGrid | None:
    """Return a codebook for each channel, of its distinct values, in float16 if that holds them."""
    if weights.ndim < 2 or _distinct(weights[0].flatten()[:SAMPLE]) is None:
        return None
    books = []
    for row in weights.flatten(1):
        if (values := _distinct(row)) is None or values.dtype != torch.float32:
            return None
        books.append(values)
    count = max(2, *map(len, books))
    if count * len(books) * 2 > weights.numel() * weights.itemsize:
        return None
    table = torch.stack([torch.cat([book, book[-1:].expand(count - len(book))]) for book in books])[:, None]
    half = table.half()
    if torch.equal(half.float(), table):
        return RowGrid(Table(LevelSpec(count, precision="F16"), half))
    return RowGrid(Table(LevelSpec(count, precision="F32"), table))


def _row_scale(values: Tensor, guess: int, dtype: torch.dtype) -> Tensor | None:
    """Return a scale whose whole multiples, rounded to a dtype, are all values; the largest is `guess` times it, first.

    The largest value was rounded, so that its quotient may be a unit in the last place off.
    """
    top = values.abs().max()
    if top == 0:
        return torch.ones_like(top)
    for multiples in (torch.tensor([guess] if guess else []), torch.arange(1, LARGEST_MULTIPLE + 1)):
        middle = top / multiples.to(values.dtype)
        down, up = (torch.nextafter(middle, middle.new_tensor(end)) for end in (0.0, torch.inf))
        scales = torch.stack([middle, down, up], dim=1).flatten()
        nearest = torch.round(values / scales[:, None]) * scales[:, None]
        fits = (nearest.to(dtype) == values).all(1) & (scales > 0)
        if bool(fits.any()):
            return scales[fits.nonzero()[0, 0]]
    return None


def _precision(weights: Tensor) -> torch.dtype:
    return torch.float64 if weights.dtype == torch.float64 else torch.float32
