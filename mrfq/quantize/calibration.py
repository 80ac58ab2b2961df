"""Inputs to calibrate with: training images of a built-in data set, or what a function of the user's returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.nn.data import to_device
from mrfq.nn.images import IMAGENET, Augment, ImageBatches, ImageData, Split, load_images
from mrfq.quantize.sequence import held_out_batches
from mrfq.quantize.settings import Settings
from mrfq.user_functions import call_named

#: how images may be changed without another meaning; of digits of 8 x 8 a pixel is too much
AUGMENTS = {"digits": Augment(), "mnist": Augment(shift=1), "cifar10": Augment(crop=2, flip=True)}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs of a network, on its device.

    Attributes
    ----------
    batches : list
        Each a tensor, a tuple of positional arguments or a dictionary of keyword arguments of the network.
    count : int
        Inputs in all batches, along their first axis.
    data : ImageData or None
        The data set they come from, if it is a built-in one.
    drawn : Split or None
        The images that were drawn from it, in the order of the batches.
    """

    batches: list[Any]
    count: int
    data: ImageData | None = None
    drawn: Split | None = None

    def augmented(self, held_out: float, batch_size: int, seed: int) -> Callable[[int], Tensor] | None:
        """Return what gives batches of changed images without end, by number; None for other inputs than images.

        The images of the batches that distillation holds out, the last ones, are not among them.
        """
        if self.data is None or self.drawn is None:
            return None
        kept = self.batches[: len(self.batches) - held_out_batches(held_out, len(self.batches))]
        images = self.drawn.head(sum(len(batch) for batch in kept))
        batches = ImageBatches(self.data, images, batch_size, seed=seed, augment=AUGMENTS[self.data.name])
        return lambda step: batches.shuffled(step)[0]


def calibration(settings: Settings) -> Calibration:
    """Return the inputs that resolved settings ask for.

    Raises
    ------
    InvalidParameterError
        Fewer images than samples, a folder without them, or a function that fails or returns no batches.
    FileFormatError
        Damaged images.
    """
    return _images(settings) if settings.dataset is not None else _own(settings)


def _images(settings: Settings) -> Calibration:
    """Return training images, drawn with the seed, in batches; validation and test images are not among them."""
    assert settings.dataset is not None
    normalise = IMAGENET if settings.normalise == "imagenet" else None
    data = load_images(settings.dataset, settings.data, device=settings.device, normalise=normalise)
    n = len(data.train)
    if settings.samples > n:
        raise InvalidParameterError(f"samples {settings.samples} is more than the {n:,} training images")
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))[: settings.samples]
    drawn = data.train.take(rows.to(settings.device))
    batches = [inputs for inputs, _ in ImageBatches(data, drawn, settings.batch_size, seed=0)]
    return Calibration(batches, settings.samples, data, drawn)


def _own(settings: Settings) -> Calibration:
    """Return the batches of the user's function, as many as it takes to have the samples."""
    place = f"calibration {settings.calibration!r}"
    offered: dict[str, object] = {name: getattr(settings, name) for name in ("samples", "batch_size", "seed", "data")}
    found = call_named("calibration", settings.calibration, offered)
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping | Tensor):
        raise InvalidParameterError(f"{place}: must return batches, a list for example, not a {type(found).__name__}")
    batches, count = [], 0
    for number, batch in enumerate(found):
        batches.append(to_device(checked_batch(f"{place}, batch {number}", batch), torch.device(settings.device)))
        count += batch_length(batches[-1])
        if count >= settings.samples:
            break
    if not batches:
        raise InvalidParameterError(f"{place}: returned no batches")
    return Calibration(batches, count)


def checked_batch(place: str, batch: Any) -> Any:
    """Return a batch, a list as a tuple.

    Raises
    ------
    InvalidParameterError
        No tensor, or no tuple or dictionary with a tensor, or one with nothing in it.
    """
    batch = tuple(batch) if isinstance(batch, list) else batch
    named = isinstance(batch, Mapping) and all(isinstance(name, str) for name in batch)
    if not isinstance(batch, Tensor | tuple) and not named:
        raise InvalidParameterError(
            f"{place}: must be a tensor, a tuple of arguments or a dictionary of named ones, "
            f"not a {type(batch).__name__}"
        )
    if not any(tensor.ndim and len(tensor) for tensor in tensors(batch)):
        raise InvalidParameterError(f"{place}: has no inputs in it; needs a tensor with at least one")
    return dict(batch) if named else batch


def batch_length(batch: Any) -> int:
    """Return the number of inputs in a batch: the length of its first tensor that has one.

    Examples
    --------
    >>> batch_length({"scale": torch.tensor(2.0), "tokens": torch.zeros(3, 8)})
    3
    """
    return next(len(tensor) for tensor in tensors(batch) if tensor.ndim)


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
