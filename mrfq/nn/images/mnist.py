"""MNIST: 60,000 and 10,000 handwritten digits of 28x28 pixels, in four IDX files."""

from __future__ import annotations

from pathlib import Path

import torch

from mrfq.errors import FileFormatError
from mrfq.nn.images.folders import Layout, locate
from mrfq.nn.images.idx import read_idx
from mrfq.nn.images.splits import Split

CLASSES, SIDE = 10, 28
#: images in the two parts
COUNTS = {"train": 60_000, "test": 10_000}
_PREFIXES = {"train": "train", "test": "t10k"}


def _names(stem: str, axes: int) -> tuple[str, ...]:
    plain = (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte")
    return (f"{plain[0]}.gz", plain[0], plain[1], f"{plain[1]}.gz")


LAYOUT = Layout(
    "MNIST's IDX files, plain or .gz",
    ("", "mnist", "MNIST/raw"),
    {
        f"{part} {kind}": _names(f"{prefix}-{kind}", axes)
        for part, prefix in _PREFIXES.items()
        for kind, axes in (("images", 3), ("labels", 1))
    },
)


def read_mnist(folder: str | Path | None) -> tuple[Split, Split]:
    """Return the training and the test images, uint8 (n, 1, 28, 28), with their labels, in the order of the files.

    Raises
    ------
    InvalidParameterError
        The files are not in the folder, nor in its `mnist/` or `MNIST/raw/`.
    FileFormatError
        A file that is not MNIST's.
    """
    _, paths = locate("mnist", folder, [LAYOUT])
    train, test = (_read(paths[f"{part} images"], paths[f"{part} labels"], count) for part, count in COUNTS.items())
    return train, test


def _read(images_path: Path, labels_path: Path, count: int) -> Split:
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, shape in ((images_path, images, (count, SIDE, SIDE)), (labels_path, labels, (count,))):
        if array.shape != shape or array.dtype != "uint8":
            found = f"{array.dtype} of shape {array.shape}"
            raise FileFormatError(str(path), "header", found, f"uint8 of shape {shape}")
    if labels.max() >= CLASSES:
        first = int((labels >= CLASSES).argmax())
        raise FileFormatError(str(labels_path), f"label {first}", str(labels[first]), f"0 to {CLASSES - 1}")
    return Split(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())
