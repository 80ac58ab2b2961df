"""Mosaics: many small images as the tiles of one lossless WebP image, with a file of one label a byte."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mrfq.errors import FileFormatError, MrfqError

#: where a WebP file of one lossless image says so, and says how large it is
_HEADER = 25
_SIGNATURE = 0x2F


def read_mosaic(path: str | Path, tile: int, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Return the tiles of a lossless RGB image, row after row.

    Parameters
    ----------
    path : str or path
    tile : int
        Side of a tile, in pixels.
    rows, columns : int
        Of the mosaic, in tiles.

    Returns
    -------
    array
        uint8, (rows * columns, 3, tile, tile).

    Raises
    ------
    FileFormatError
        Not a lossless WebP image of that size; the size is checked before anything is decoded.
    MrfqError
        Pillow, which decodes it, is not installed, or cannot read WebP.
    """
    data = _checked(Path(path), (columns * tile, rows * tile))
    pixels = _decode(str(path), data)
    if pixels.shape != (rows * tile, columns * tile, 3):
        raise FileFormatError(str(path), "content", f"pixels of shape {pixels.shape}", "three colours a pixel")
    tiles = pixels.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles.reshape(rows * columns, 3, tile, tile))


def _checked(path: Path, size: tuple[int, int]) -> bytes:
    """Return what is in a file whose header announces an image of that width and height."""
    width, height = size
    largest = 4 * width * height + 2**16
    with path.open("rb") as file:
        data = file.read(largest + 1) if path.stat().st_size <= largest else b""
    if not data:
        raise FileFormatError(str(path), "its size", f"{path.stat().st_size:,} bytes", f"1 to {largest:,}")
    head = data[:_HEADER]
    if len(head) < _HEADER or head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8L" or head[20] != _SIGNATURE:
        raise FileFormatError(str(path), "header", f"the bytes {head[:16].hex(' ')}", "a lossless WebP image")
    bits = int.from_bytes(head[21:25], "little")
    found = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if found != size:
        raise FileFormatError(str(path), "header", f"{found[0]}x{found[1]} pixels", f"{width}x{height}")
    return data


def _decode(path: str, data: bytes) -> np.ndarray[Any, Any]:
    try:
        from PIL import Image, features
    except ImportError as error:
        raise MrfqError(f"{path}: WebP images are read through Pillow, which is missing: pip install pillow") from error
    if not features.check("webp"):
        raise MrfqError(f"{path}: this build of Pillow cannot read WebP images: pip install --upgrade pillow")
    try:
        with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            return np.asarray(image)
    except Exception as error:  # broken images make Pillow raise almost anything
        found = f"broken WebP data ({type(error).__name__}: {error})"
        raise FileFormatError(path, "content", found, "a complete image") from error
