"""Codes as `MatMulNBits` takes them: blocks of columns, several codes in a byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrfq.errors import InvalidProblemError
from mrfq.nn.onnx_codes import Codes

Array = np.ndarray[Any, np.dtype[Any]]


def block_size(columns: int, groups: int) -> int:
    """Return how many columns share a scale in the operator: 16 to 128, which divide the groups or hold all columns.

    Raises
    ------
    InvalidProblemError
        There is no such number.

    Examples
    --------
    >>> block_size(384, 1), block_size(27, 1), block_size(384, 2), block_size(384, 8)
    (128, 32, 64, 16)
    """
    sizes = (128, 64, 32, 16)
    if groups == 1:
        return min((size for size in sizes if size >= columns), default=128)
    for size in sizes:
        if columns // groups % size == 0:
            return size
    raise InvalidProblemError(f"groups of {columns // groups} columns, which are no multiple of 16")


def packed_codes(found: Codes, block: int, float_zeros: bool) -> tuple[Array, Array, Array]:
    """Return codes, scales and zeros as the operator takes them.

    Returns
    -------
    codes : uint8, shape (R, B, block * bits / 8)
        Of B blocks of columns, padded by zeros; lowest bits first.
    scales : float32, shape (R, B)
    zeros : float32, shape (R, B), or uint8, shape (R, B * bits / 8), rounded up
    """
    rows, columns = found.codes.shape
    groups = found.scales.shape[1]
    blocks = -(-columns // block)
    codes = np.zeros((rows, blocks * block), np.uint8)
    codes[:, :columns] = found.codes.numpy()
    places = np.arange(blocks) * block // (columns // groups) if groups > 1 else np.zeros(blocks, int)
    zeros = (found.zeros.float() if float_zeros else found.whole_zeros).numpy()[:, places]
    if not float_zeros:
        zeros = _joined(zeros.astype(np.uint8), found.bits)
    return _joined(codes.reshape(rows, blocks, block), found.bits), found.scales.numpy()[:, places], zeros


def _joined(codes: Array, bits: int) -> Array:
    """Return codes along the last axis as bytes."""
    each = 8 // bits
    padded = np.zeros((*codes.shape[:-1], -(-codes.shape[-1] // each) * each), np.uint8)
    padded[..., : codes.shape[-1]] = codes
    cells = padded.reshape(*codes.shape[:-1], -1, each)
    joined: Array = np.bitwise_or.reduce(cells << (bits * np.arange(each, dtype=np.uint8)), axis=-1)
    return joined
