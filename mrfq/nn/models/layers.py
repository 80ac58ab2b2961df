"""What the networks are made of: layers followed by batch norm, without biases, and reproducible first weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from mrfq.errors import InvalidParameterError

#: height and width, or one number for both
Size = int | tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """What a network takes in and gives out, checked.

    Attributes
    ----------
    channels : int
        Of the images.
    height, width : int
        Of the images, in pixels.
    classes : int
        Outputs of the network.
    """

    channels: int
    height: int
    width: int
    classes: int

    @classmethod
    def of(cls, channels: int, size: Size, classes: int) -> Shape:
        """Return the shape for images of a size, one number for both sides or (height, width)."""
        height, width = (size, size) if isinstance(size, int) else size
        given = {"channels": channels, "height": height, "width": width, "classes": classes}
        for name, value in given.items():
            if type(value) is not int or value < 1:
                raise InvalidParameterError(f"{name}: must be a whole number of at least 1, got {value!r}")
        return cls(channels, height, width, classes)

    @property
    def pixels(self) -> int:
        """Numbers in an image, all channels."""
        return self.channels * self.height * self.width

    def at_least(self, side: int, network: str) -> None:
        """Raise an error if a side is shorter than a network needs."""
        if min(self.height, self.width) < side:
            raise InvalidParameterError(
                f"{network}: needs images of at least {side}x{side} pixels, got {self.height}x{self.width}"
            )


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that keeps the size, or divides it by the stride, rounded up."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's global generators as if they had just been seeded, and put them back afterwards."""
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise InvalidParameterError(f"seed: must be a whole number of at least 0, got {seed!r}")
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
