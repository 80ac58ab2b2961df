"""Distillation: levels, codewords, and what stayed float, tuned so that the outputs come nearer to the float network's.

Labels stay as they are, and no labels of the data are needed. The gradient of a level is the sum over the weights that
have its label (Stock et al., "And the bit goes down", ICLR 2020, section 3.3, take the mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.layerwise.tables import Table, round_parameters
from mrfq.nn.grids import attach, grid_of
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.quantize.plan import Batch

#: how many times the network is measured on the batches that are held out
CHECKS = 20
#: float parameters with at most so many dimensions (biases, norms) are tuned too
VECTORS = 1
Augment = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True)
class Distillation:
    """What distillation did.

    Attributes
    ----------
    steps : int
        The step whose parameters were kept; 0 if none was better than the start.
    before, after : float
        Mean squared error of the outputs over their variance, on the batches that were held out (on all, if none
        were), before and after.
    """

    steps: int
    before: float
    after: float


def distill(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[Batch],
    steps: int,
    *,
    rate: float = 3e-3,
    held_out: float = 0.1,
    seed: int = 0,
    augment: Augment | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Distillation:
    """Tune a quantized network in place towards the outputs of the float network.

    The label sets of weights with a grid (`RowGrid`, `VectorGrid`), biases, and the parameters of normalisation layers
    are trained by Adam with a rate that falls along half a cosine; batch-norm statistics stay. The parameters that did
    best on the batches held out are kept, rounded as they will be stored, if they do better than those at the start.

    Parameters
    ----------
    model : nn.Module
        Quantized; on the device of the batches.
    reference : nn.Module
        The float network.
    batches : iterable of (args, kwargs)
        Inputs. Positions that `attention_mask` rules out do not count.
    steps : int
        At least 1; each takes one batch, in an order drawn anew for every pass.
    rate : float
        Of Adam, for levels relative to the size of the weights of their row.
    held_out : float
        Part of the batches, the last ones, that choose what is kept; at least one if there are two, unless 0.
    seed : int
        Of the order, and of `augment`.
    augment : callable, optional
        Changes a batch at random, by a generator, before both networks see it.
    callback : callable, optional
        Told the step and the error on the batches held out.

    Returns
    -------
    Distillation

    Raises
    ------
    InvalidParameterError
        Steps, a rate or a fraction that cannot be, or no batches.
    InvalidProblemError
        No weight has a label set, or an output is not finite.

    Examples
    --------
    >>> import copy
    >>> from mrfq.quantize.pipeline import as_batches, quantize
    >>> generator = torch.Generator().manual_seed(0)
    >>> reference = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    >>> model, batches = copy.deepcopy(reference), [torch.randn(64, 8, generator=generator) for _ in range(8)]
    >>> report = quantize(model, batches, levels="binary")
    >>> done = distill(model, reference, as_batches(batches), 100)
    >>> done.after < done.before, len(model[0].weight[0].unique()) <= 2
    (True, True)
    """
    train, test = _divided(list(batches), held_out)
    _check(steps, rate)
    parts = _parts(model)
    with _evaluating(model, reference):
        wanted = [_outputs(reference(*args, **kwargs), kwargs) for args, kwargs in test]
        run = _Run(model, reference, parts, train, seed, augment)
        before = run.error(test, wanted)
        best, kept, at = before, None, 0
        optimizer = torch.optim.Adam([part.move for part in parts], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            run.backward(step)
            optimizer.step()
            schedule.step()
            if step % max(steps // CHECKS, 1) == 0 or step == steps:
                error = run.error(test, wanted)
                if callback is not None:
                    callback(step, error)
                if error < best:
                    best, at, kept = error, step, [part.move.detach().clone() for part in parts]
        if kept is not None:
            for part, move in zip(parts, kept, strict=True):
                part.move.data.copy_(move)
                part.write()
    return Distillation(at, before, best)


class _Part:
    """A parameter of the network as a function of what is trained: a multiple of `move`, which begins at 0."""

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name, self.parameter = name, parameter
        self.move = torch.zeros_like(self.start).requires_grad_()

    @property
    def start(self) -> Tensor:
        return self.parameter.detach()

    @property
    def moved(self) -> Tensor:
        return self.start + self.move

    def value(self) -> Tensor:
        """Return the parameter, differentiable with respect to `move`."""
        return self.moved

    def write(self) -> None:
        """Make the network's parameter what it has become, rounded as it is stored."""
        self.parameter.data.copy_(self.moved.detach())


class _Rows(_Part):
    """Weights with label sets of rows and groups of columns."""

    def __init__(self, name: str, parameter: nn.Parameter, grid: RowGrid) -> None:
        self.grid, table = grid, grid.table
        rows = parameter.detach().reshape(len(table.parameters), -1)
        self.labels = table.nearest(rows).to(parameter.device)
        self.size = rows.float().square().mean(1).sqrt().clamp(min=1e-12)[:, None, None]
        self.parameters = table.parameters.detach().to(parameter.device).float()
        super().__init__(name, parameter)

    @property
    def start(self) -> Tensor:
        return self.parameters

    @property
    def moved(self) -> Tensor:
        return self.parameters + self.size * self.move

    def value(self) -> Tensor:
        spec, moved = self.grid.table.spec, self.moved
        if spec.base is not None:
            base = torch.tensor(spec.base, dtype=moved.dtype, device=moved.device)
            levels = moved[..., :1] * base
            moved = moved[..., 1:] + levels if spec.kind == "uniform" else levels
        sets = moved.flatten(0, 1)
        weights = sets.gather(1, self.labels.reshape(len(sets), -1).long())
        return weights.reshape(self.parameter.shape).to(self.parameter.dtype)

    def write(self) -> None:
        spec, labels = self.grid.table.spec, self.labels
        parameters = round_parameters(spec, self.moved.detach().double())
        if spec.base is None:
            parameters, labels = _ascending(parameters, labels)
        else:
            parameters[..., 0].clamp_(min=0)
        table = Table(spec, parameters)
        self.parameter.data.copy_(table.decode(labels).reshape(self.parameter.shape))
        attach(self.parameter, RowGrid(table))


def _ascending(codebooks: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return codebooks (R, G, L) with their levels in order, and labels (R, C) renamed to match."""
    levels, order = codebooks.sort(2)
    cells = labels.reshape(len(labels), codebooks.shape[1], -1).long()
    return levels, order.argsort(2).gather(2, cells).reshape(labels.shape).to(torch.uint8)


class _Blocks(_Part):
    """Weights made of codewords."""

    def __init__(self, name: str, parameter: nn.Parameter, grid: VectorGrid) -> None:
        self.codewords = grid.codewords.detach().to(parameter.device)
        self.labels = grid.nearest(parameter)
        self.size = float(parameter.detach().float().square().mean().sqrt().clamp(min=1e-12))
        super().__init__(name, parameter)

    @property
    def start(self) -> Tensor:
        return self.codewords.float()

    @property
    def moved(self) -> Tensor:
        return self.start + self.size * self.move

    def value(self) -> Tensor:
        return self.moved[self.labels].reshape(self.parameter.shape).to(self.parameter.dtype)

    def write(self) -> None:
        grid = VectorGrid(self.moved.detach().to(self.codewords.dtype))
        self.parameter.data.copy_(grid.decode(self.labels, tuple(self.parameter.shape)))
        attach(self.parameter, grid)


class _Run:
    """Both networks, what is trained, and the batches."""

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        parts: list[_Part],
        train: list[Batch],
        seed: int,
        augment: Augment | None,
    ) -> None:
        self.model, self.reference, self.parts, self.train, self.augment = model, reference, parts, train, augment
        self.generator = torch.Generator().manual_seed(seed)
        self.order: list[int] = []

    def backward(self, step: int) -> None:
        """Add the gradients of the error on the next batch."""
        if not self.order:
            self.order = torch.randperm(len(self.train), generator=self.generator).tolist()
        batch = self.train[self.order.pop()]
        if self.augment is not None:
            batch = self.augment(batch, self.generator)
        with torch.no_grad():
            wanted = _outputs(self.reference(*batch[0], **batch[1]), batch[1])
        with torch.enable_grad():
            error, size = _distance(self._outputs(batch), wanted)
            loss = error / size
            if not math.isfinite(value := float(loss.detach())):
                raise InvalidProblemError(f"distillation: the error at step {step} is {value}; lower the rate")
            loss.backward()

    @torch.no_grad()
    def error(self, batches: list[Batch], wanted: list[list[Tensor]]) -> float:
        """Return the squared error over the variance, on all of some batches."""
        found = [_distance(self._outputs(b), w) for b, w in zip(batches, wanted, strict=True)]
        error, size = (float(torch.stack(column).sum()) for column in zip(*found, strict=True))
        return error / size

    def _outputs(self, batch: Batch) -> list[Tensor]:
        values = {part.name: part.value() for part in self.parts}
        return _outputs(functional_call(self.model, values, batch[0], batch[1]), batch[1])


def _parts(model: nn.Module) -> list[_Part]:
    parts: list[_Part] = []
    for name, parameter in model.named_parameters():
        grid = grid_of(parameter)
        if isinstance(grid, RowGrid):
            parts.append(_Rows(name, parameter, grid))
        elif isinstance(grid, VectorGrid):
            parts.append(_Blocks(name, parameter, grid))
        elif grid is None and parameter.ndim <= VECTORS and parameter.is_floating_point():
            parts.append(_Part(name, parameter))
    if not any(isinstance(part, _Rows | _Blocks) for part in parts):
        raise InvalidProblemError("distillation: no weight of the network has a label set; quantize it first")
    return parts


def _outputs(value: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the floating-point tensors of an output, without positions that an attention mask rules out."""
    if isinstance(value, Tensor):
        value = [value]
    items = value.values() if isinstance(value, Mapping) else value
    mask = kwargs.get("attention_mask")
    found = []
    for tensor in items:
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            inside = isinstance(mask, Tensor) and tensor.ndim > 2 and tensor.shape[:2] == mask.shape
            found.append(tensor[torch.as_tensor(mask).bool()] if inside else tensor)
    return found


def _distance(found: list[Tensor], wanted: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the summed squared error of outputs, and the summed squared deviation of the wanted ones."""
    error = torch.stack([(a.float() - b.float()).square().sum() for a, b in zip(found, wanted, strict=True)]).sum()
    size = torch.stack([(b.float() - b.float().mean(0)).square().sum() for b in wanted]).sum()
    return error, size.clamp(min=1e-30)


@contextmanager
def _evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode without gradients of their own parameters for a while."""
    modules = [(module, module.training) for network in networks for module in network.modules()]
    needed = [(p, p.requires_grad) for network in networks for p in network.parameters()]
    try:
        for network in networks:
            network.eval().requires_grad_(False)
        with torch.no_grad():
            yield
    finally:
        for module, training in modules:
            module.training = training
        for parameter, wanted in needed:
            parameter.requires_grad_(wanted)


def _divided(batches: list[Batch], held_out: float) -> tuple[list[Batch], list[Batch]]:
    """Return the batches to train on and those to choose by."""
    if not batches:
        raise InvalidParameterError("distillation: there are no batches")
    if not 0 <= held_out < 1:
        raise InvalidParameterError(f"distillation: held_out must be from 0 to below 1, got {held_out}")
    count = max(round(held_out * len(batches)), 1) if held_out and len(batches) > 1 else 0
    return (batches[:-count], batches[-count:]) if count else (batches, batches)


def _check(steps: int, rate: float) -> None:
    if not isinstance(steps, int) or steps < 1 or not 0 < rate < math.inf:
        raise InvalidParameterError(f"distillation: at least one step and a positive rate, got {steps!r} and {rate!r}")
