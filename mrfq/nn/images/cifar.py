"""CIFAR-10: 50,000 and 10,000 colour images of 32x32 pixels, in six files of 10,000, in three formats.

- the binary version: records of one label and 3,072 pixels (red, green and blue planes), `data_batch_1.bin` ...
- the python version: pickled dictionaries with `labels` and `data`, `data_batch_1` ...
- mosaics: lossless WebP images of 100 x 100 tiles, `data_batch_1.webp` ..., with a file of one label a byte,
  `data_batch_1.labels` ...

Source of the first two: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrfq.errors import FileFormatError
from mrfq.nn.images.folders import Layout, locate
from mrfq.nn.images.mosaic import read_mosaic
from mrfq.nn.images.numpy_pickle import read_pickle
from mrfq.nn.images.splits import Split

CLASSES, CHANNELS, SIDE = 10, 3, 32
PIXELS = CHANNELS * SIDE * SIDE
#: sides of a mosaic, in images; a file of any format has as many images as a mosaic
TILES = 100
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Paths = Mapping[str, Path]
#: uint8 pixels of any shape, and uint8 labels
Batch = tuple[Bytes, Bytes]


def _layout(name: str, folders: tuple[str, ...], *suffixes: str) -> Layout:
    return Layout(name, folders, {batch + end: (batch + end,) for batch in (*TRAIN, TEST) for end in suffixes})


BINARY = _layout("the binary version", ("", "cifar-10-batches-bin", "cifar10"), ".bin")
PYTHON = _layout("the python version", ("", "cifar-10-batches-py", "cifar10"), "")
MOSAIC = _layout("WebP mosaics", ("", "cifar10"), ".webp", ".labels")


def read_cifar10(folder: str | Path | None) -> tuple[Split, Split]:
    """Return the training and the test images, uint8 (n, 3, 32, 32), with their labels, in the order of the files.

    Raises
    ------
    InvalidParameterError
        The files are not in the folder, nor in its `cifar-10-batches-bin/`, `cifar-10-batches-py/` or `cifar10/`.
    FileFormatError
        A file that is not CIFAR-10's.
    MrfqError
        Mosaics, and no Pillow to decode them.
    """
    layout, paths = locate("cifar10", folder, [BINARY, PYTHON, MOSAIC])
    read = _READERS[layout.name]
    return _joined([read(paths, name) for name in TRAIN]), _joined([read(paths, TEST)])


def _binary(paths: Paths, name: str) -> Batch:
    path = paths[f"{name}.bin"]
    records = _exact_bytes(path, TILES**2 * (1 + PIXELS)).reshape(TILES**2, 1 + PIXELS)
    return records[:, 1:], _in_range(path, records[:, 0])


def _mosaic(paths: Paths, name: str) -> Batch:
    path = paths[f"{name}.labels"]
    labels = _in_range(path, _exact_bytes(path, TILES**2))
    return read_mosaic(paths[f"{name}.webp"], SIDE, TILES, TILES), labels


def _python(paths: Paths, name: str) -> Batch:
    path = paths[name]
    content = read_pickle(path, largest=2 * TILES**2 * PIXELS + 2**20)
    if not isinstance(content, dict):
        raise FileFormatError(str(path), "the pickle", f"a {type(content).__name__}", "a dictionary")
    images, labels = (_entry(path, content, key) for key in ("data", "labels"))
    if not isinstance(images, np.ndarray) or images.dtype != "uint8" or images.shape != (TILES**2, PIXELS):
        found = f"{images.dtype} of shape {images.shape}" if isinstance(images, np.ndarray) else "no array"
        raise FileFormatError(str(path), "data", found, f"uint8 of shape {(TILES**2, PIXELS)}")
    if not isinstance(labels, list) or len(labels) != TILES**2:
        found = f"{len(labels)} of them" if isinstance(labels, list) else f"a {type(labels).__name__}"
        raise FileFormatError(str(path), "labels", found, f"a list of {TILES**2}")
    for index, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < CLASSES:
            raise _wrong_label(path, index, str(label) if type(label) is int else type(label).__name__)
    return images, np.array(labels, dtype=np.uint8)


_READERS: dict[str, Callable[[Paths, str], Batch]] = {
    BINARY.name: _binary,
    PYTHON.name: _python,
    MOSAIC.name: _mosaic,
}


def _entry(path: Path, content: dict[Any, Any], key: str) -> Any:
    """Return an entry under a text, or under the byte string that it was in Python 2."""
    for spelling in (key.encode(), key):
        if spelling in content:
            return content[spelling]
    raise FileFormatError(str(path), "the pickle", f"no entry {key!r}", "the entries 'data' and 'labels'")


def _exact_bytes(path: Path, size: int) -> Bytes:
    """Return the content of a file that must have so many bytes."""
    with path.open("rb") as file:
        found = path.stat().st_size
        if found != size:
            raise FileFormatError(str(path), "its size", f"{found:,} bytes", f"{size:,}, {TILES**2:,} images")
        data = np.frombuffer(file.read(size), dtype=np.uint8)
    if len(data) != size:
        raise FileFormatError(str(path), "its size", f"only {len(data):,} bytes", f"{size:,}")
    return data


def _in_range(path: Path, labels: Bytes) -> Bytes:
    wrong = labels >= CLASSES
    if wrong.any():
        index = int(wrong.argmax())
        raise _wrong_label(path, index, str(labels[index]))
    return labels


def _wrong_label(path: Path, index: int, found: str) -> FileFormatError:
    return FileFormatError(str(path), f"label {index}", found, f"0 to {CLASSES - 1}")


def _joined(batches: list[Batch]) -> Split:
    images = np.concatenate([pixels.reshape(-1, CHANNELS, SIDE, SIDE) for pixels, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return Split(torch.from_numpy(images), torch.from_numpy(labels).long())
