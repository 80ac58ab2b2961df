"""Pairwise cost tables, shape (L, L), and the edges of grids."""

from __future__ import annotations

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError


def potts(labels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the table that costs 1 when the labels differ.

    Examples
    --------
    >>> potts(2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return 1 - torch.eye(labels, dtype=dtype)


def truncated_linear(labels: int, limit: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the table `min(|a - b|, limit)`."""
    return _distance(labels, dtype).clamp(max=limit)


def truncated_quadratic(labels: int, limit: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the table `min((a - b)^2, limit)`."""
    return (_distance(labels, dtype) ** 2).clamp(max=limit)


def spins(dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the table `-s t` of two spins; label 0 is spin -1, label 1 is spin +1."""
    return torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=dtype)


def grid_edges(height: int, width: int, connectivity: int = 4) -> Tensor:
    """Return the (m, 2) edges of a grid whose pixels are numbered row by row.

    First the horizontal edges, then the vertical ones; with connectivity 8 then the two diagonals.

    Examples
    --------
    >>> grid_edges(2, 2).tolist()
    [[0, 1], [2, 3], [0, 2], [1, 3]]
    """
    if connectivity not in (4, 8):
        raise InvalidParameterError(f"connectivity must be 4 or 8, got {connectivity}")
    pixel = torch.arange(height * width).reshape(height, width)
    pairs = [(pixel[:, :-1], pixel[:, 1:]), (pixel[:-1], pixel[1:])]
    if connectivity == 8:
        pairs += [(pixel[:-1, :-1], pixel[1:, 1:]), (pixel[:-1, 1:], pixel[1:, :-1])]
    return torch.cat([torch.stack([a.flatten(), b.flatten()], 1) for a, b in pairs])


def _distance(labels: int, dtype: torch.dtype) -> Tensor:
    index = torch.arange(labels, dtype=dtype)
    return (index[:, None] - index).abs()
