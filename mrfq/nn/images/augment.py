"""Random changes of training images: shifts and mirrorings, drawn for a whole pass at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from mrfq.errors import InvalidParameterError

#: keeps these random numbers apart from those of the order of the images, whose seeds are small numbers
_OTHER = 0x9E3779B9


@dataclass(frozen=True)
class Augment:
    """How training images are changed.

    Attributes
    ----------
    shift : int
        Each image moves by up to so many pixels, each way in each direction, all equally likely; zeros (black)
        move in.
    flip : bool
        Half of the images are mirrored, left to right.
    crop : int
        So many zeros are put around an image, and a random part of its former size is cut out. That is the same
        as a shift; it has its own name because CIFAR-10's usual augmentation does: `Augment(crop=4, flip=True)`.

    Raises
    ------
    InvalidParameterError
        Numbers below 0, or a shift and a crop at once.
    """

    shift: int = 0
    flip: bool = False
    crop: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), bool if field.name == "flip" else int
            if type(value) is not kind or value < 0:
                what = "True or False" if kind is bool else "a number of pixels of at least 0"
                raise InvalidParameterError(f"{field.name}: must be {what}, got {value!r}")
        if self.shift and self.crop:
            raise InvalidParameterError(
                f"shift={self.shift}, crop={self.crop}: a crop of padded images is a shift; give one of them"
            )

    @property
    def reach(self) -> int:
        """Pixels by which an image may move."""
        return self.shift or self.crop


@dataclass(frozen=True, eq=False)
class Changes:
    """What happens to the images of a pass, in the order of the pass.

    Attributes
    ----------
    down, right : Tensor or None
        int64 (n,), from 0 to 2 * reach: the corner of what is cut out of the padded image.
    mirrored : Tensor or None
        bool (n,).
    """

    down: Tensor | None
    right: Tensor | None
    mirrored: Tensor | None


def draw_changes(augment: Augment, n: int, seed: int, device: torch.device) -> Changes:
    """Return the changes of n images; drawn on the CPU, so that they are the same on every device."""
    generator = torch.Generator().manual_seed(seed ^ _OTHER)

    def whole(below: int) -> Tensor:
        return torch.randint(below, (n,), generator=generator).to(device)

    down, right = (whole(2 * augment.reach + 1), whole(2 * augment.reach + 1)) if augment.reach else (None, None)
    return Changes(down, right, whole(2).bool() if augment.flip else None)


def windows(images: Tensor, reach: int) -> Tensor:
    """Return all images that shifts make of each, as a view of the padded images.

    Parameters
    ----------
    images : Tensor
        (n, channels, height, width).
    reach : int
        Pixels of the shift.

    Returns
    -------
    Tensor
        (n, 2 * reach + 1, 2 * reach + 1, channels, height, width), indexed by the corner that is cut out.

    Examples
    --------
    >>> image = torch.tensor([[1, 2], [3, 4]]).reshape(1, 1, 2, 2)
    >>> windows(image, 1)[0, 0, 1, 0].tolist()
    [[0, 0], [1, 2]]
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (reach,) * 4)
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
