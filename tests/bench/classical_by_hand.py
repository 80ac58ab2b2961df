"""Loops and calls written for one kind of model only, as somebody without the library would write them."""

from __future__ import annotations

import numpy as np
import torch


def hand_mean_field(unary: torch.Tensor, weight: float, sweeps: int) -> torch.Tensor:
    """Return parallel mean-field marginals of a Potts grid, (L, height, width), by a loop for nothing else."""
    u = torch.softmax(-unary, 0)
    for k in range(sweeps):
        costs = unary.clone()
        costs[:, 1:] -= weight * u[:, :-1]
        costs[:, :-1] -= weight * u[:, 1:]
        costs[:, :, 1:] -= weight * u[:, :, :-1]
        costs[:, :, :-1] -= weight * u[:, :, 1:]
        beta = 0.1 * 100 ** (k / max(sweeps - 1, 1))
        u = 0.5 * u + 0.5 * torch.softmax(-beta * costs, 0)
    return u


def grid_cut(unary: np.ndarray) -> np.ndarray:
    """Return the labels of a ferromagnet of coupling 1, by PyMaxflow's functions for grids."""
    import maxflow

    graph = maxflow.GraphFloat()
    nodes = graph.add_grid_nodes(unary.shape[:2])
    graph.add_grid_edges(nodes, 2.0, symmetric=True)
    graph.add_grid_tedges(nodes, unary[..., 1], unary[..., 0])
    graph.maxflow()
    return graph.get_grid_segments(nodes).astype(np.int64).ravel()
