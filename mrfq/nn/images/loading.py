"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.nn.images import cifar, digits, mnist
from mrfq.nn.images.splits import ImageData, Split, divide
from mrfq.nn.images.statistics import Statistics, channel_statistics

Parts = tuple[Split, Split, Split]


@dataclass(frozen=True)
class DataSet:
    """A data set that has a name."""

    #: of the folder, how many images to validate on (None: the usual number), and the seed of their choice
    read: Callable[[str | Path | None, int | None, int], Parts]
    classes: int
    summary: str
    maximum: int = 255


def _mnist(folder: str | Path | None, validation: int | None, seed: int) -> Parts:
    train, test = mnist.read_mnist(folder)
    return *divide(train, 10_000 if validation is None else validation, seed), test


def _cifar10(folder: str | Path | None, validation: int | None, seed: int) -> Parts:
    train, test = cifar.read_cifar10(folder)
    return *divide(train, 5_000 if validation is None else validation, seed), test


def _digits(folder: str | Path | None, validation: int | None, seed: int) -> Parts:
    train, held_out, test = digits.read_digits()
    if validation is None:
        return train, held_out, test
    both = Split(torch.cat([train.images, held_out.images]), torch.cat([train.labels, held_out.labels]))
    return *divide(both, validation, seed), test


#: the data sets, by name; iterating gives the names
DATASETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "digits": DataSet(_digits, digits.CLASSES, "1,797 grey images of 8x8, with scikit-learn", digits.MAXIMUM),
        "mnist": DataSet(_mnist, mnist.CLASSES, "70,000 grey images of 28x28, four IDX files"),
        "cifar10": DataSet(_cifar10, cifar.CLASSES, "60,000 colour images of 32x32, binary, python or WebP files"),
    }
)


def load_images(
    name: str,
    folder: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
    validation: int | None = None,
    seed: int = 0,
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
) -> ImageData:
    """Return a data set, divided and on a device.

    Parameters
    ----------
    name : str
        One of `DATASETS`.
    folder : str or path, optional
        Where the files are; `digits` needs none.
    device : torch.device or str
    validation : int, optional
        Images of the training set that are held out, by default 10,000 of MNIST, 5,000 of CIFAR-10, and the 359 that
        `mrfq.nn.digits` holds out.
    seed : int
        Of the choice of those images. Results are comparable only where it is the same, so that it is not the seed
        of a training run.
    normalise : (sequence of float, sequence of float), optional
        Mean and standard deviation of each channel, in units in which the brightest pixel is 1, `IMAGENET` for
        example. By default those of the training images, without the validation images.

    Raises
    ------
    UnknownNameError
        No data set has the name.
    InvalidParameterError
        The files are not in the folder, or a number is out of range.
    FileFormatError
        A file is not what its name says.
    MrfqError
        scikit-learn (for digits) or Pillow (for mosaics) is not installed.

    Examples
    --------
    >>> data = load_images("digits")
    >>> data.shape, len(data.train), len(data.validation), len(data.test)
    ((1, 8, 8), 1078, 359, 360)
    """
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    chosen = DATASETS[name]
    train, held_out, test = chosen.read(folder, validation, seed)
    channels, height, width = train.images.shape[1:]
    mean, std = channel_statistics(train.images, chosen.maximum) if normalise is None else _checked(normalise, channels)
    train, held_out, test = train.to(device), held_out.to(device), test.to(device)
    shape = (channels, height, width)
    return ImageData(name, chosen.classes, shape, train, held_out, test, mean, std, chosen.maximum)


def _checked(normalise: tuple[Sequence[float], Sequence[float]], channels: int) -> Statistics:
    mean, std = (tuple(float(value) for value in values) for values in normalise)
    finite = all(torch.tensor([*mean, *std]).isfinite().tolist())
    if len(mean) != channels or len(std) != channels or not finite or min(std, default=0) <= 0:
        raise InvalidParameterError(
            f"normalise: must be {channels} means and {channels} positive standard deviations, got {mean} and {std}"
        )
    return mean, std
