"""Compiled parts of the sweeps over a layer: rows side by side, columns one after another.

Arrays are transposed, (columns, rows), so that the innermost loops run over rows that lie next to each other; they
are independent of one another, and the compiler turns them into vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from mrfq.kernels import FAST

#: what a site does with its conditional costs
ARGMIN, SOFTMAX, SAMPLE = 0, 1, 2
#: rows that are worked on together: what a block of columns needs of them stays in the fastest cache
CHUNK = 64


def parallel_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose `prange` loops run on all threads."""
    compiled: Callable[..., Any] = numba.njit(cache=True, fastmath=FAST, parallel=True)(function)
    return compiled


@numba.njit(cache=True, fastmath=FAST, inline="always")
def _exp(x: Any) -> Any:
    """Return e^x for x <= 0 in single precision, to 2e-7 relative; in a form that compilers turn into vectors."""
    x = max(x, np.float32(-87.0))
    scaled = x * np.float32(1.4426950408889634)
    whole = np.floor(scaled + np.float32(0.5))
    rest = (x - whole * np.float32(0.693359375)) - whole * np.float32(-2.12194440e-4)
    value = np.float32(1.9875691500e-4)
    value = value * rest + np.float32(1.3981999507e-3)
    value = value * rest + np.float32(8.3334519073e-3)
    value = value * rest + np.float32(4.1665795894e-2)
    value = value * rest + np.float32(1.6666665459e-1)
    value = value * rest + np.float32(5.0000001201e-1)
    value = value * rest * rest + rest + np.float32(1.0)
    power = (np.int32(whole) + np.int32(127)) << np.int32(23)
    return value * np.int32(power).view(np.float32)


@parallel_kernel
def sweep_block(
    residual: Any, mean: Any, labels: Any, delta: Any, values: Any, gram: Any, inverse: Any, sharpness: Any,
    columns: Any, uniforms: Any, rule: int,
) -> None:  # fmt: skip
    """Visit the columns of a block in order, for all rows.

    Parameters
    ----------
    residual : (B, R)
        `(mean - target) H` before the block; used up.
    mean : (B, R)
        Values of the weights, mean ones for the softmax rule; overwritten.
    labels : (B, R) uint8
        The most probable or chosen labels; overwritten.
    delta : (B, R)
        Receives the change of the values.
    values : (B, L, R) or (1, L, R)
        Levels, ascending.
    gram : (B, B)
    inverse : (B,)
        One over the diagonal of the Gram matrix, 0 for columns to leave alone.
    sharpness : (B, R) or (1, R)
        Probabilities are proportional to `exp(-columns[j] sharpness[j, r] (x - level)^2)`.
    columns : (B,)
    uniforms : (B, R) or (0, 0)
        Random numbers in [0, 1) for the sample rule.
    rule : int
    """
    width, rows = mean.shape
    count = values.shape[1]
    own, sharp = values.shape[0] > 1, sharpness.shape[0] > 1
    for chunk in numba.prange((rows + CHUNK - 1) // CHUNK):
        first = chunk * CHUNK
        size = min(CHUNK, rows - first)
        pull = np.zeros((width, CHUNK), np.float32)  # what is changed often lies together, padded to whole vectors
        pull[:, :size] = residual[:, first : first + size]
        level = np.zeros((count, CHUNK), np.float32)
        now, x, best, pick, mixed, total, scale = np.zeros((7, CHUNK), np.float32)
        for j in range(width):
            if inverse[j] == 0.0:
                delta[j, first : first + size] = 0.0
                continue
            if own or j == 0:
                level[:, :size] = values[j if own else 0, :, first : first + size]
            if rule != ARGMIN and (sharp or j == 0):
                scale[:size] = sharpness[j if sharp else 0, first : first + size]
            now[:size] = mean[j, first : first + size]
            for r in range(CHUNK):
                x[r] = now[r] - pull[j, r] * inverse[j]
                best[r] = np.float32(np.inf)
            for a in range(count):
                for r in range(CHUNK):
                    gap = (x[r] - level[a, r]) * (x[r] - level[a, r])
                    # everything is loaded before the choice, which then needs no branch
                    value, least, number, kept = level[a, r], best[r], pick[r], mixed[r]
                    nearer = gap < least
                    pick[r] = np.float32(a) if nearer else number
                    mixed[r] = value if nearer else kept
                    best[r] = gap if nearer else least
            if rule == SOFTMAX:
                total[:] = np.float32(0.0)
                mixed[:] = np.float32(0.0)
                for a in range(count):
                    for r in range(CHUNK):
                        gap = (x[r] - level[a, r]) * (x[r] - level[a, r]) - best[r]
                        weight = _exp(-scale[r] * columns[j] * gap)
                        total[r] += weight
                        mixed[r] += weight * level[a, r]
                for r in range(CHUNK):
                    mixed[r] /= total[r]
            elif rule == SAMPLE:
                total[:] = np.float32(0.0)
                for a in range(count):
                    for r in range(CHUNK):
                        gap = (x[r] - level[a, r]) * (x[r] - level[a, r]) - best[r]
                        total[r] += _exp(-scale[r] * columns[j] * gap)
                for r in range(size):
                    total[r] *= uniforms[j, first + r]
                pick[:] = np.float32(-1.0)
                for a in range(count):
                    for r in range(CHUNK):
                        gap = (x[r] - level[a, r]) * (x[r] - level[a, r]) - best[r]
                        total[r] -= _exp(-scale[r] * columns[j] * gap)
                        value, number, kept = level[a, r], pick[r], mixed[r]
                        found = (number < np.float32(0.0)) & ((total[r] < np.float32(0.0)) | (a == count - 1))
                        pick[r] = np.float32(a) if found else number
                        mixed[r] = value if found else kept
            for r in range(size):
                mean[j, first + r] = mixed[r]
                delta[j, first + r] = mixed[r] - now[r]
                labels[j, first + r] = np.uint8(pick[r])
            for r in range(CHUNK):
                mixed[r] -= now[r]
            for k in range(j + 1, width):
                coupling = gram[j, k]
                for r in range(CHUNK):
                    pull[k, r] += coupling * mixed[r]


@parallel_kernel
def plane_block(offset: Any, target: Any, labels: Any, error: Any, values: Any, factor: Any) -> None:
    """Round the columns of a block in order, each at the best value given those before it (Babai's nearest plane).

    Parameters
    ----------
    offset : (B, R)
        `sum_k factor[j, k] error[k]` over the columns k before the block; used up.
    target : (B, R)
    labels : (B, R) uint8
        Receives the labels.
    error : (B, R)
        Receives the chosen levels less the target.
    values : (B, L, R) or (1, L, R)
    factor : (B, B)
        Rows of the lower triangular factor R of `H = R^T R`, divided by their diagonal entries.
    """
    width, rows = target.shape
    count = values.shape[1]
    own = values.shape[0] > 1
    for chunk in numba.prange((rows + CHUNK - 1) // CHUNK):
        first = chunk * CHUNK
        size = min(CHUNK, rows - first)
        pull = np.zeros((width, CHUNK), np.float32)
        pull[:, :size] = offset[:, first : first + size]
        level = np.zeros((count, CHUNK), np.float32)
        wanted, best, pick, chosen = np.zeros((4, CHUNK), np.float32)
        for j in range(width):
            if own or j == 0:
                level[:, :size] = values[j if own else 0, :, first : first + size]
            wanted[:size] = target[j, first : first + size]
            best[:] = np.float32(np.inf)
            for a in range(count):
                for r in range(CHUNK):
                    gap = wanted[r] - pull[j, r] - level[a, r]
                    gap *= gap
                    value, least, number, kept = level[a, r], best[r], pick[r], chosen[r]
                    nearer = gap < least
                    pick[r] = np.float32(a) if nearer else number
                    chosen[r] = value if nearer else kept
                    best[r] = gap if nearer else least
            for r in range(CHUNK):
                chosen[r] -= wanted[r]
            for r in range(size):
                error[j, first + r] = chosen[r]
                labels[j, first + r] = np.uint8(pick[r])
            for k in range(j + 1, width):
                coupling = factor[k, j]
                for r in range(CHUNK):
                    pull[k, r] += coupling * chosen[r]
