"""Images with their labels, and how a training set is divided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError, UnknownNameError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, on one device.

    Attributes
    ----------
    images : Tensor
        uint8, (n, channels, height, width).
    labels : Tensor
        int64, (n,).

    Examples
    --------
    >>> split = Split(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    >>> len(split), split.head(2).labels.tolist()
    (3, [0, 1])
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise InvalidProblemError(
                f"images: must be uint8 (n, channels, height, width), got {self.images.dtype} of shape "
                f"{tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise InvalidProblemError(
                f"labels: must be int64 ({len(self.images)},), one for each image, got {self.labels.dtype} of shape "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, n: int) -> Split:
        """Return the first n images, all if there are fewer."""
        return Split(self.images[:n], self.labels[:n])

    def take(self, rows: Tensor) -> Split:
        """Return the images of these numbers, int64."""
        return Split(self.images.index_select(0, rows), self.labels.index_select(0, rows))

    def to(self, device: torch.device | str) -> Split:
        """Return the same on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of images, divided, on one device.

    Attributes
    ----------
    name : str
    classes : int
        Labels are 0 to classes - 1.
    shape : (int, int, int)
        Channels, height and width of an image.
    train, validation, test : Split
        No image is in two of them. The validation part may be empty.
    mean, std : tuple of float
        Of each channel, in units in which the brightest pixel is 1: what `ImageBatches` normalises with.
    maximum : int
        The brightest a pixel can be, 255 by default.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    maximum: int = 255

    def split(self, name: str) -> Split:
        """Return a part by its name, "train", "validation" or "test"."""
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS)
        found: Split = getattr(self, name)
        return found


def divide(data: Split, validation: int, seed: int) -> tuple[Split, Split]:
    """Return training and validation images: the last ones of a permutation are for validation.

    The permutation is that of numpy's `RandomState(seed)`, which is the same in every version and on every machine.

    Examples
    --------
    >>> split = Split(torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.arange(5))
    >>> [part.labels.tolist() for part in divide(split, 2, seed=0)]
    [[2, 0, 1], [3, 4]]
    """
    n = len(data)
    if type(validation) is not int or not 0 <= validation < n:
        raise InvalidParameterError(
            f"validation: must be a number of images from 0 to {n - 1}, one less than there are to train on, got "
            f"{validation!r}"
        )
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InvalidParameterError(f"seed: of the split, must be a whole number from 0 to 2^32 - 1, got {seed!r}")
    order = torch.from_numpy(np.random.RandomState(seed).permutation(n).astype(np.int64)).to(data.labels.device)
    return data.take(order[: n - validation]), data.take(order[n - validation :])
