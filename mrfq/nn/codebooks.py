"""Grids of parameters that are discrete without saying so, found by their values.

A network that was copied, or made discrete by other means, has no grids attached. Its weights are the same numbers
all the same: few in the whole tensor, or whole multiples of a scale in every output channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrfq.nn.grids import Grid
from mrfq.nn.packing import best_word

#: of weights that are packed
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: distinct values of a codebook
MOST_VALUES = 256
#: whole multiples of the scale of a channel, up and down
LARGEST_MULTIPLE = 255
#: entries that are looked at first, so that float weights cost little
SAMPLE = 4096
#: what a grid takes in the manifest, in bytes, about
MENTION = 16


def find_grid(weights: Tensor) -> Grid | None:
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
    found = [grid for grid in (_shared(weights), _by_channel(weights)) if grid is not None and grid.exact(weights)]
    best = min(found, key=lambda grid: packed_size(grid, weights.numel()), default=None)
    pays = best is not None and packed_size(best, weights.numel()) + MENTION < weights.numel() * weights.itemsize
    return best if pays else None


def packed_size(grid: Grid, count: int) -> int:
    """Return how many bytes `count` weights on a grid take: labels, levels and scales.

    Examples
    --------
    >>> packed_size(Grid((-1.0, 1.0), torch.ones(2)), 80)
    26
    """
    scales = 0 if grid.scales is None else len(grid.scales)
    return best_word(len(grid.levels)).size(count) + (len(grid.levels) + scales) * grid.precision.itemsize


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
