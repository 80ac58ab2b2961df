"""A picture of the weights of a layer and of its levels or codewords, in the units of a page."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrfq.nn.grids import grid_of
from mrfq.nn.table_grids import RowGrid, VectorGrid

#: bars of a histogram, and how many standard deviations it reaches to both sides
BARS, REACH = 56, 3.5
#: the same of a picture of codewords
POINTS_REACH = 2.6
#: of the picture
WIDTH, HEIGHT = 200.0, 84.0
#: codewords and blocks of weights that are drawn
POINTS = 512
#: rows of a level that the bar on its mark covers
SPREAD = (0.1, 0.9)
#: levels whose shares are listed
LISTED = 8


@dataclass(frozen=True)
class Mark:
    """A level: where it is (0 to 1), in 80 % of the rows from `low` to `high`, and the share of weights at it."""

    place: float
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Picture:
    """What is drawn of a layer.

    Attributes
    ----------
    name, text : str
        The layer, and what there is to see.
    outline : str
        The histogram of the float weights as a path.
    marks : tuple of Mark
        The levels of rows.
    blocks, codewords : tuple of (float, float)
        The first two coordinates of float blocks and of codewords, for vector codebooks.
    """

    name: str
    text: str
    outline: str = ""
    marks: tuple[Mark, ...] = ()
    blocks: tuple[tuple[float, float], ...] = ()
    codewords: tuple[tuple[float, float], ...] = ()


@torch.no_grad()
def picture(name: str, original: Tensor, quantized: nn.Parameter) -> Picture | None:
    """Return the picture of a layer, or None if nothing is known of its levels.

    Parameters
    ----------
    name : str
    original : Tensor
        The float weights; their first axis is that of the output channels.
    quantized : nn.Parameter
        Of the same shape, on a grid.
    """
    grid = grid_of(quantized)
    weights = original.detach().float().cpu()
    if isinstance(grid, RowGrid):
        return _levels(name, weights, grid, grid.nearest(quantized.detach()).cpu())
    if isinstance(grid, VectorGrid):
        return _codewords(name, weights, grid.codewords.float().cpu())
    return None


def _levels(name: str, weights: Tensor, grid: RowGrid, labels: Tensor) -> Picture:
    values = grid.table.values.float().cpu()
    rows, _, count = values.shape
    matrix = weights.reshape(rows, -1)
    unit = _unit(matrix.square().mean(1, keepdim=True).sqrt())
    shares = torch.bincount(labels.flatten(), minlength=count) / labels.numel()
    places = _across(values / unit[:, :, None]).reshape(-1, count)
    low, middle, high = torch.quantile(_some(places), torch.tensor([SPREAD[0], 0.5, SPREAD[1]]), dim=0)
    marks = tuple(Mark(*found) for found in zip(*(t.tolist() for t in (middle, low, high, shares)), strict=True))
    listed = (
        ", ".join(f"{100 * mark.share:.0f}" for mark in marks) if count <= LISTED else f"up to {100 * shares.max():.0f}"
    )
    text = f"{rows * values.shape[1]:,} sets of {count} levels; at each {listed}\u00a0% of the weights"
    return Picture(name, text, _outline(matrix / unit), marks)


def _codewords(name: str, weights: Tensor, codewords: Tensor) -> Picture:
    count, dim = codewords.shape
    blocks = weights.reshape(-1, dim)
    unit = _unit(blocks.square().mean().sqrt())
    text = f"{count:,} codewords of {dim} weights, and some of the {len(blocks):,} float blocks; first two coordinates"
    return Picture(name, text, blocks=_points(blocks / unit), codewords=_points(codewords / unit))


def _unit(scale: Tensor) -> Tensor:
    """Return a scale to divide by; 1 where there is nothing but zeros."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _across(values: Tensor, reach: float = REACH) -> Tensor:
    """Return places from 0 to 1 in a picture; what is beyond it is at its end."""
    return ((values + reach) / (2 * reach)).clamp(0, 1)


def _some(rows: Tensor) -> Tensor:
    """Return rows spread evenly over all, few enough for a quantile."""
    return rows[:: max(1, len(rows) // 4096)]


def _points(rows: Tensor) -> tuple[tuple[float, float], ...]:
    """Return the first two coordinates of some rows."""
    rows = rows[:: max(1, -(-len(rows) // POINTS))]
    x, y = (_across(rows[:, axis], POINTS_REACH) for axis in (0, min(1, rows.shape[1] - 1)))
    return tuple(zip(x.tolist(), (1 - y).tolist(), strict=True))


def _outline(values: Tensor) -> str:
    """Return a histogram as a closed path, as high as the picture."""
    counts = torch.histc(values, BARS, -REACH, REACH)
    heights = (counts / counts.max().clamp(min=1)).tolist()
    steps = "".join(f"V{HEIGHT * (1 - h):.1f}H{WIDTH * (k + 1) / BARS:.1f}" for k, h in enumerate(heights))
    return f"M0 {HEIGHT:g}{steps}V{HEIGHT:g}Z"
