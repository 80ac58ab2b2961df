"""The parameters of a finished network: which are discrete, with which labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from mrfq.nn.grids import Grid, grid_of


@dataclass(frozen=True)
class Layer:
    """A parameter of a network.

    Attributes
    ----------
    name : str
    weights : int
        How many it has.
    levels : tuple of float
        That its weights are multiples of; none for a float parameter.
    counts : tuple of int
        Weights at each level.
    scales : int
        Factors of the levels; 0 if weights are the levels themselves.
    """

    name: str
    weights: int
    levels: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    scales: int = 0

    @property
    def shares(self) -> list[float]:
        """The fraction of the weights at each level."""
        return [count / self.weights for count in self.counts]

    @property
    def entropy(self) -> float:
        """Of the distribution over the levels, in bits a weight."""
        return -sum(share * math.log2(share) for share in self.shares if share > 0)


def layers(model: nn.Module) -> list[Layer]:
    """Return the parameters of a network, each once, with the labels of those that have a grid.

    Examples
    --------
    >>> from mrfq.nn.grids import Grid, attach
    >>> model = nn.Linear(4, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -1.0, 1.0, 1.0]]))
    >>> attach(model.weight, Grid((-1.0, 1.0)))
    >>> [(layer.counts, round(layer.entropy, 3)) for layer in layers(model)]
    [((1, 3), 0.811)]
    """
    return [_layer(name, parameter) for name, parameter in model.named_parameters()]


def _layer(name: str, parameter: nn.Parameter) -> Layer:
    grid = grid_of(parameter)
    if not isinstance(grid, Grid):
        return Layer(name, parameter.numel())
    counts = torch.bincount(grid.nearest(parameter).flatten(), minlength=len(grid.levels)).tolist()
    scales = 0 if grid.scales is None else grid.rows
    return Layer(name, parameter.numel(), tuple(grid.levels), tuple(counts), scales)
