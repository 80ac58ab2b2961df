"""The mean and the standard deviation of the pixels of each channel, exact."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError

#: mean and standard deviation of each channel
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

#: of ImageNet's training images, with which most published networks normalise
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def channel_statistics(images: Tensor, maximum: int = 255) -> Statistics:
    """Return the mean and the standard deviation of every channel, in units of `maximum`.

    Sums are of whole numbers, so that the result does not depend on their order; the variance is that of the images
    themselves (divided by the number of pixels).

    Parameters
    ----------
    images : Tensor
        uint8, (n, channels, height, width), at least one.
    maximum : int
        What counts as 1.

    Raises
    ------
    InvalidProblemError
        No images, or a channel with the same value everywhere, which cannot be normalised.

    Examples
    --------
    >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    if images.numel() == 0:
        raise InvalidProblemError("images: none, so that they have no mean and standard deviation")
    moments = [_moments(images[:, channel], maximum) for channel in range(images.shape[1])]
    for channel, (mean, std) in enumerate(moments):
        if std == 0:
            raise InvalidProblemError(
                f"images: channel {channel} is {mean:.3g} everywhere; give normalise=(mean, std) to go on"
            )
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _moments(pixels: Tensor, maximum: int) -> tuple[float, float]:
    counts = torch.bincount(pixels.reshape(-1), minlength=256).tolist()
    n = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value * value * count for value, count in enumerate(counts))
    variance = Fraction(n * squares - total * total, (n * maximum) ** 2)
    return float(Fraction(total, n * maximum)), math.sqrt(variance)
