"""Distillation: what a quantized network is made of, tuned so that its outputs come nearer to the float network's.

No labels of the data are needed. Levels, codewords and what stayed float are always tuned; the labels of the weights
are, too, if that is asked for. The gradient of a level is the sum over the weights that have its label (Stock et al.,
"And the bit goes down", ICLR 2020, section 3.3, take the mean).
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
from mrfq.nn.data import to_device
from mrfq.quantize.batches import as_batch, as_batches
from mrfq.quantize.plan import Batch
from mrfq.quantize.sequence import held_out_batches
from mrfq.quantize.tunable import Tunable, tunables

#: how many times the network is measured on the batches that are held out
CHECKS = 20
#: gives the batch of a step, which counts from 0
Source = Callable[[int], Any]


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
    calibration: Iterable[Any],
    steps: int,
    *,
    rate: float = 3e-3,
    reach: float = 0.0,
    held_out: float = 0.1,
    seed: int = 0,
    source: Source | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Distillation:
    """Tune a quantized network in place towards the outputs of the float network.

    The label sets of weights with a grid (`RowGrid`, `VectorGrid`), biases, and the parameters of normalisation layers
    are trained by Adam with a rate that falls along half a cosine; batch-norm statistics stay. With a `reach`
    every weight also has a latent, which begins at the weight, follows the straight-through gradient, and decides the
    label: that of the nearest level. What did best on the batches held out is kept, rounded as it will be stored, if it
    does better than the start.

    Parameters
    ----------
    model : nn.Module
        Quantized, on any device.
    reference : nn.Module
        The float network, on the same device.
    calibration : iterable of batches
        Inputs, as `quantize` takes them. Positions that `attention_mask` rules out do not count.
    steps : int
        At least 1; each takes one batch, in an order drawn anew for every pass.
    rate : float
        Of Adam, for levels relative to the size of the weights of their row.
    reach : float
        How far a latent can go in all steps together, relative to the size of the weights of its row, which decides the
        rate of latents; 0 leaves all labels as they are, and 5 is a good value where they may change.
    held_out : float
        Part of the batches, the last ones, that choose what is kept; at least one if there are two, unless 0.
    seed : int
        Of the order.
    source : callable, optional
        Gives the batch of each step, counted from 0, in place of the batches that are not held out: for example images
        in new batches, mirrored at random. It should not know what is held out.
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
    >>> from mrfq.quantize.pipeline import quantize
    >>> generator = torch.Generator().manual_seed(0)
    >>> reference = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    >>> model, batches = copy.deepcopy(reference), [torch.randn(64, 8, generator=generator) for _ in range(8)]
    >>> report = quantize(model, batches, levels="binary")
    >>> done = distill(model, reference, batches, 100)
    >>> done.after < done.before, len(model[0].weight[0].unique()) <= 2
    (True, True)
    """
    device = next(model.parameters()).device
    train, test = _divided([to_device(batch, device) for batch in as_batches(calibration)], held_out)
    _check(steps, rate, reach)
    parts = tunables(model, labels=reach > 0)
    with _evaluating(model, reference):
        wanted = [_outputs(reference(*args, **kwargs), kwargs) for args, kwargs in test]
        run = _Run(model, reference, parts, _on_device(source, device) if source else _in_passes(train, seed))
        before = run.error(test, wanted)
        best, kept, at = before, None, 0
        optimizer = _optimizer(parts, rate, 2 * reach / steps)  # half a cosine halves it on average
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
                    best, at, kept = error, step, [part.state() for part in parts]
        if kept is not None:
            for part, state in zip(parts, kept, strict=True):
                part.restore(state)
                part.write()
    return Distillation(at, before, best)


class _Run:
    """Both networks, what is trained, and where the batches come from."""

    def __init__(
        self, model: nn.Module, reference: nn.Module, parts: list[Tunable], source: Callable[[int], Batch]
    ) -> None:
        self.model, self.reference, self.parts, self.source = model, reference, parts, source

    def backward(self, step: int) -> None:
        """Add the gradients of the error on the batch of a step."""
        batch = self.source(step - 1)
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


def _on_device(source: Source, device: torch.device) -> Callable[[int], Batch]:
    """Return what gives the batches of a source as arguments of a network on a device."""
    return lambda step: to_device(as_batch(step, source(step)), device)


def _in_passes(batches: list[Batch], seed: int) -> Callable[[int], Batch]:
    """Return what gives one batch after another, in an order drawn anew for every pass."""
    generator, order = torch.Generator().manual_seed(seed), list[int]()

    def source(step: int) -> Batch:
        if not order:
            order.extend(torch.randperm(len(batches), generator=generator).tolist())
        return batches[order.pop()]

    return source


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
    if not 0 <= held_out < 1:
        raise InvalidParameterError(f"distillation: held_out must be from 0 to below 1, got {held_out}")
    count = held_out_batches(held_out, len(batches))
    return (batches[:-count], batches[-count:]) if count else (batches, batches)


def _optimizer(parts: list[Tunable], rate: float, label_rate: float) -> torch.optim.Optimizer:
    latents = [part.turn for part in parts if part.turn is not None]
    groups = [{"params": [part.move for part in parts], "lr": rate}]
    return torch.optim.Adam(groups + ([{"params": latents, "lr": label_rate}] if latents else []))


def _check(steps: int, rate: float, reach: float) -> None:
    if not isinstance(steps, int) or steps < 1 or not 0 < rate < math.inf:
        raise InvalidParameterError(f"distillation: at least one step and a positive rate, got {steps!r} and {rate!r}")
    if not 0 <= reach < math.inf:
        raise InvalidParameterError(f"distillation: the reach of latents must be at least 0, got {reach!r}")
