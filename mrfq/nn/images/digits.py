"""scikit-learn's handwritten digits as images of 8x8 pixels, split as in `mrfq.nn.digits`."""

from __future__ import annotations

import torch

from mrfq.nn import digits
from mrfq.nn.images.splits import Split

CLASSES, SIDE = 10, 8
#: the brightest a pixel can be
MAXIMUM = 16


def read_digits() -> tuple[Split, Split, Split]:
    """Return the 1,078 training, 359 validation and 360 test images, uint8 (n, 1, 8, 8) from 0 to 16.

    Raises
    ------
    MrfqError
        scikit-learn, which carries the images, is not installed.
    """
    parts = digits.load()
    train, validation, test = (
        Split((MAXIMUM * images).to(torch.uint8).reshape(-1, 1, SIDE, SIDE), labels.long())
        for images, labels in (parts[name] for name in digits.SPLITS)
    )
    return train, validation, test
