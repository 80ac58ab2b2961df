"""What distillation tunes: parameters of a network as functions of numbers that an optimiser moves.

The weights of a layer have labels, which follow latents, and label sets, which are numbers themselves. A latent is a
weight before it is rounded; the gradient reaches it as if there were no rounding. In the terms of the family of
first-order solvers: projection to the nearest level, carry dual, pull identity, which is BinaryConnect for levels that
are learned at the same time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidProblemError
from mrfq.layerwise.tables import Table, decode, levels_of, round_parameters
from mrfq.nn.grids import attach, grid_of
from mrfq.nn.table_grids import CHUNK, RowGrid, VectorGrid

#: float parameters with at most so many dimensions (biases, norms) are tuned too
VECTORS = 1


class Tunable:
    """A parameter of a network as a function of what is trained: a multiple of `move`, which begins at 0.

    Parameters
    ----------
    name : str
    parameter : nn.Parameter
        Float, of any shape.

    Attributes
    ----------
    move : Tensor
        Added to the numbers at the start.
    turn : Tensor or None
        Added to the latents at the start, if labels may change.
    """

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name, self.parameter = name, parameter
        self.move = torch.zeros_like(self.start).requires_grad_()
        self.turn: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """What `move` is added to, up to a factor."""
        return self.parameter.detach()

    @property
    def moved(self) -> Tensor:
        """The numbers as they are now."""
        return self.start + self.move

    def value(self) -> Tensor:
        """Return the parameter, differentiable with respect to `move` and `turn`."""
        return self.moved

    def write(self) -> None:
        """Make the network's parameter what it has become, rounded as it is stored."""
        self.parameter.data.copy_(self.moved.detach())

    def state(self) -> list[Tensor]:
        """Return copies of what is trained."""
        return [part.detach().clone() for part in (self.move, self.turn) if part is not None]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to what `state` returned."""
        for part, kept in zip((part for part in (self.move, self.turn) if part is not None), state, strict=True):
            part.data.copy_(kept)


class TunableRows(Tunable):
    """Weights with label sets of rows and groups of columns.

    Parameters
    ----------
    name : str
    parameter : nn.Parameter
        On the levels of the grid.
    grid : RowGrid
    labels : bool
        Whether labels may change.
    """

    def __init__(self, name: str, parameter: nn.Parameter, grid: RowGrid, labels: bool = False) -> None:
        self.grid = grid.to(parameter.device)
        table = self.grid.table
        rows = parameter.detach().reshape(len(table.parameters), -1)
        self.labels = table.nearest(rows)
        self.size = rows.float().square().mean(1).sqrt().clamp(min=1e-12)[:, None]
        self.parameters = table.parameters.detach().float()
        super().__init__(name, parameter)
        if labels:
            self.weights = rows.float().clone()
            self.turn = torch.zeros_like(self.weights).requires_grad_()

    @property
    def start(self) -> Tensor:
        return self.parameters

    @property
    def moved(self) -> Tensor:
        return self.parameters + self.size[:, :, None] * self.move

    def value(self) -> Tensor:
        sets = levels_of(self.grid.table.spec, self.moved).flatten(0, 1)
        if self.turn is None:
            weights = sets.gather(1, self.labels.reshape(len(sets), -1).long())
        else:
            latents = (self.weights + self.size * self.turn).reshape(len(sets), -1)
            sets = sets.sort(1).values
            found = _nearest(sets.detach(), latents.detach())
            self.labels = found.to(torch.uint8).reshape(self.weights.shape)
            weights = sets.gather(1, found) + (latents - latents.detach())
        return weights.reshape(self.parameter.shape).to(self.parameter.dtype)

    def write(self) -> None:
        spec = self.grid.table.spec
        if self.turn is not None:
            self.value()  # the labels of the latents as they are now, in ascending levels
        parameters, labels = round_parameters(spec, self.moved.detach().double()), self.labels
        if spec.base is None:
            parameters, order = parameters.sort(2)
            labels = labels if self.turn is not None else decode(order.argsort(2), labels).to(torch.uint8)
        else:
            parameters[..., 0].clamp_(min=0)
        table = Table(spec, parameters)
        self.parameter.data.copy_(table.decode(labels).reshape(self.parameter.shape))
        attach(self.parameter, RowGrid(table))


class TunableBlocks(Tunable):
    """Weights made of codewords.

    Parameters
    ----------
    name : str
    parameter : nn.Parameter
        Made of the codewords of the grid.
    grid : VectorGrid
    labels : bool
        Whether labels may change.
    """

    def __init__(self, name: str, parameter: nn.Parameter, grid: VectorGrid, labels: bool = False) -> None:
        self.codewords = grid.codewords.detach().to(parameter.device)
        self.labels = grid.nearest(parameter.detach())
        self.size = float(parameter.detach().float().square().mean().sqrt().clamp(min=1e-12))
        super().__init__(name, parameter)
        if labels:
            self.weights = parameter.detach().float().reshape(-1, grid.block).clone()
            self.turn = torch.zeros_like(self.weights).requires_grad_()

    @property
    def start(self) -> Tensor:
        return self.codewords.float()

    @property
    def moved(self) -> Tensor:
        return self.start + self.size * self.move

    def value(self) -> Tensor:
        codewords = self.moved
        if self.turn is None:
            weights = codewords[self.labels]
        else:
            latents = self.weights + self.size * self.turn
            self.labels = _nearest_codeword(codewords.detach(), latents.detach())
            weights = codewords[self.labels] + (latents - latents.detach())
        return weights.reshape(self.parameter.shape).to(self.parameter.dtype)

    def write(self) -> None:
        if self.turn is not None:
            self.value()  # the labels of the latents as they are now
        grid = VectorGrid(self.moved.detach().to(self.codewords.dtype))
        self.parameter.data.copy_(grid.decode(self.labels, tuple(self.parameter.shape)))
        attach(self.parameter, grid)


def tunables(model: nn.Module, labels: bool = False) -> list[Tunable]:
    """Return what can be tuned in a quantized network: label sets, codewords, biases, norms; with `labels` labels, too.

    Raises
    ------
    InvalidProblemError
        No weight has a label set.

    Examples
    --------
    >>> from mrfq.quantize.pipeline import quantize
    >>> model = nn.Linear(4, 3)
    >>> report = quantize(model, [torch.randn(8, 4)], levels="binary")
    >>> [(part.name, type(part).__name__) for part in tunables(model)]
    [('weight', 'TunableRows'), ('bias', 'Tunable')]
    """
    found: list[Tunable] = []
    for name, parameter in model.named_parameters():
        grid = grid_of(parameter)
        if isinstance(grid, RowGrid):
            found.append(TunableRows(name, parameter, grid, labels))
        elif isinstance(grid, VectorGrid):
            found.append(TunableBlocks(name, parameter, grid, labels))
        elif grid is None and parameter.ndim <= VECTORS and parameter.is_floating_point():
            found.append(Tunable(name, parameter))
    if not any(isinstance(part, TunableRows | TunableBlocks) for part in found):
        raise InvalidProblemError("distillation: no weight of the network has a label set; quantize it first")
    return found


def _nearest(levels: Tensor, points: Tensor) -> Tensor:
    """Return the labels (s, n) of the nearest of ascending levels (s, L) to points (s, n)."""
    return torch.searchsorted((levels[:, :-1] + levels[:, 1:]) / 2, points.contiguous())


def _nearest_codeword(codewords: Tensor, points: Tensor) -> Tensor:
    """Return the labels (n,) of the codewords (K, d) nearest to points (n, d)."""
    half = codewords.square().sum(1) / 2
    step = max(CHUNK // len(codewords), 1)
    return torch.cat([(half - part @ codewords.T).argmin(1) for part in points.split(step)])
