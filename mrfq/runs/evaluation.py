"""What a network is worth on images that do not train it, whether it takes them, and how it is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidParameterError
from mrfq.nn.images import ImageBatches, ImageData, Split

#: images that a network sees at once when it is evaluated
AT_ONCE = 500


class Grade(NamedTuple):
    """Mean cross-entropy in nats, and accuracy in percent."""

    loss: float
    accuracy: float


@torch.no_grad()
def grade(model: nn.Module, batches: ImageBatches, logit_scale: float) -> Grade:
    """Return the loss and the accuracy of a network in evaluation mode over one pass, in which it is left.

    Parameters
    ----------
    model : nn.Module
    batches : ImageBatches
    logit_scale : float
        What the outputs are multiplied by before the softmax.
    """
    model.eval()
    losses, hits, count = [], [], 0
    for inputs, targets in batches:
        outputs = model(inputs).float()
        losses.append(nn.functional.cross_entropy(logit_scale * outputs, targets, reduction="sum"))
        hits.append((outputs.argmax(1) == targets).sum())
        count += len(targets)
    return Grade(float(torch.stack(losses).double().sum()) / count, 100 * int(torch.stack(hits).sum()) / count)


def in_order(data: ImageData, split: Split) -> ImageBatches:
    """Return clean images in their order, in batches of nearly equal size."""
    return ImageBatches(data, split, AT_ONCE, seed=0)


def subset(split: Split, count: int) -> Split:
    """Return a fixed random choice of images, in their order; all of them if there are no more than `count`."""
    n = len(split)
    if n <= count:
        return split
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count].sort().values
    return split.take(rows.to(split.labels.device))


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a network, and which of its parts are in training mode."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, training in modes:
            module.training = training


@torch.no_grad()
def check_outputs(model: nn.Module, data: ImageData) -> None:
    """Raise `InvalidParameterError` unless the network makes a number for each class of images of this shape."""
    inputs, _ = in_order(data, subset(data.train, 2)).fixed(0)
    with untouched(model):
        try:
            outputs = model.eval()(inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            raise InvalidParameterError(
                f"model: it cannot take inputs of shape {tuple(inputs.shape)}: {error}"
            ) from error
    if not isinstance(outputs, Tensor) or outputs.shape != (2, data.classes):
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise InvalidParameterError(
            f"model: two images must give outputs of shape (2, {data.classes}), one number a class; got {found}"
        )
