"""Numbered batches of normalised images, all of it done on the device of the images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.nn.data import Batches
from mrfq.nn.images.augment import Augment, Changes, draw_changes, windows
from mrfq.nn.images.splits import ImageData, Split

#: so that the seeds of all passes fit into 64 bits
LARGEST_SEED = 2**40


@dataclass(frozen=True, eq=False)
class _Pass:
    """The order of a pass and what happens to its images; on the device, so that a step waits for nothing."""

    epoch: int
    order: Tensor
    changes: Changes | None


class ImageBatches(Batches):
    """Batches of the images of a data set: pairs of float32 (m, channels, height, width) and int64 (m,).

    A pixel x becomes `(x / maximum - mean) / std`. Shuffled passes consist of `count` batches of exactly `batch_size`
    images; the remainder of each pass, less than a batch, is left out, and is another one in each pass. The fixed
    order, which iterating goes through once, covers every image, in `fixed_count` batches whose sizes differ by one at
    most; nothing is augmented there.

    Batch `shuffled(draw)` is a function of the data, the settings, `seed` and `draw` alone, augmentation included: the
    batches of a resumed run are those of an uninterrupted one. Random numbers are drawn once a pass and put on the
    device; no batch waits for the device.

    Parameters
    ----------
    data : ImageData
    split : str or Split
        "train", "validation", "test", or other images of the same shape, `data.train.head(5000)` for example.
    batch_size : int
        At most; all images if there are fewer.
    seed : int
        Of the shuffling and of the augmentation.
    augment : Augment, optional
        Of the shuffled batches.

    Raises
    ------
    InvalidParameterError
        A batch size below 1, a seed out of range, or a shift of whole images.
    InvalidProblemError
        No images, or images of another shape.

    Examples
    --------
    >>> from mrfq.nn.images import load_images
    >>> batches = ImageBatches(load_images("digits"), "train", 100, seed=0, augment=Augment(shift=1))
    >>> batches.count, batches.fixed_count
    (10, 11)
    >>> inputs, labels = batches.shuffled(3)
    >>> inputs.shape, inputs.dtype, labels.shape
    (torch.Size([100, 1, 8, 8]), torch.float32, torch.Size([100]))
    """

    def __init__(
        self, data: ImageData, split: str | Split, batch_size: int, *, seed: int, augment: Augment | None = None
    ) -> None:
        self.split = _checked_split(data, split)
        self.augment = augment or Augment()
        _check_numbers(data, batch_size, seed, self.augment)
        n = len(self.split)
        self.seed, self.batch_size = seed, min(batch_size, n)
        self.count, self.fixed_count = n // self.batch_size, math.ceil(n / self.batch_size)
        self.device = self.split.images.device
        self._windows = windows(self.split.images, self.augment.reach) if self.augment.reach else None
        std, mean = (torch.tensor(values, dtype=torch.float64) for values in (data.std, data.mean))
        self._factor = self._per_channel(1 / (data.maximum * std))
        self._summand = self._per_channel(-mean / std)
        self._pass: _Pass | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.fixed(index) for index in range(self.fixed_count))

    def fixed(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.fixed_count:
            raise InvalidParameterError(f"index: of a batch, must be from 0 to {self.fixed_count - 1}, got {index}")
        smaller, more = divmod(len(self.split), self.fixed_count)
        start = index * smaller + min(index, more)
        places = slice(start, start + smaller + (index < more))
        return self._normalised(self.split.images[places]), self.split.labels[places]

    def shuffled(self, draw: int) -> tuple[Tensor, Tensor]:
        epoch, index = divmod(draw, self.count)
        if self._pass is None or epoch != self._pass.epoch:
            self._pass = self._begin(epoch)
        places = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows = self._pass.order[places]
        images = self._changed(rows, places, self._pass.changes)
        return self._normalised(images), self.split.labels.index_select(0, rows)

    def _begin(self, epoch: int) -> _Pass:
        """Return the order and the changes of a pass."""
        n = len(self.split)
        order = self.permutation(epoch, n).to(self.device)
        if self.augment == Augment():
            return _Pass(epoch, order, None)
        return _Pass(epoch, order, draw_changes(self.augment, n, (self.seed + 1) * 1_000_003 + epoch, self.device))

    def _changed(self, rows: Tensor, places: slice, changes: Changes | None) -> Tensor:
        """Return images, uint8, as augmentation changes those at some places of a pass."""
        if changes is None:
            return self.split.images.index_select(0, rows)
        if self._windows is None or changes.down is None or changes.right is None:
            images = self.split.images.index_select(0, rows)
        else:
            images = self._windows[rows, changes.down[places], changes.right[places]]
        if changes.mirrored is None:
            return images
        return torch.where(changes.mirrored[places, None, None, None], images.flip(-1), images)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).mul_(self._factor).add_(self._summand)

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.to(torch.float32).reshape(1, -1, 1, 1).to(self.device)


def _checked_split(data: ImageData, split: str | Split) -> Split:
    """Return the images that are meant, at least one, of the data set's shape."""
    name, chosen = (split, data.split(split)) if isinstance(split, str) else ("split", split)
    shape = tuple(chosen.images.shape[1:])
    if len(chosen) == 0 or shape != data.shape:
        found = f"images of shape {shape}" if len(chosen) else "no images"
        raise InvalidProblemError(f"{data.name}, {name}: has {found}; needs at least one of shape {data.shape}")
    return chosen


def _check_numbers(data: ImageData, batch_size: int, seed: int, augment: Augment) -> None:
    side = min(data.shape[1:])
    if type(batch_size) is not int or batch_size < 1:
        raise InvalidParameterError(f"batch_size: must be a number of images of at least 1, got {batch_size!r}")
    if type(seed) is not int or not 0 <= seed < LARGEST_SEED:
        raise InvalidParameterError(f"seed: must be a whole number from 0 to {LARGEST_SEED - 1:,}, got {seed!r}")
    if augment.reach >= side:
        raise InvalidParameterError(
            f"shift or crop: must be less than the {side} pixels of the images' shorter side, got {augment.reach}"
        )
