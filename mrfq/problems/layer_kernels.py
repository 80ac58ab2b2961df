"""Compiled parts of the sweeps over a layer: rows side by side, columns one after another.

Arrays are transposed, (columns, rows), so that the innermost loops run over rows that lie next to each other; they
are independent of one another, and the compiler turns them into vector instructions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from mrfq.kernels import FAST, parallel_kernel

#: what a site does with its conditional costs
ARGMIN, SOFTMAX, SAMPLE = 0, 1, 2
#: rows that are worked on together: what a block of columns needs of them stays in the fastest cache
CHUNK = 64
#: parts of a kernel that are put in its place: a call would cost as much as what they do
inlined = numba.njit(cache=True, fastmath=FAST, inline="always")


@inlined
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


@inlined
def _nearest(x: Any, level: Any, best: Any, pick: Any, chosen: Any) -> None:
    """Find the nearest of the levels (L, CHUNK): squared distance, number and value."""
    best[:] = np.float32(np.inf)
    for a in range(level.shape[0]):
        for r in range(CHUNK):
            gap = (x[r] - level[a, r]) * (x[r] - level[a, r])
            # everything is loaded before the choice, which then needs no branch
            value, least, number, kept = level[a, r], best[r], pick[r], chosen[r]
            nearer = gap < least
            pick[r] = np.float32(a) if nearer else number
            chosen[r] = value if nearer else kept
            best[r] = gap if nearer else least


@inlined
def _excess(x: Any, level: Any, near: Any) -> Any:
    """Return `(x - level)^2 - (x - near)^2`; no large squares cancel where x is far from both."""
    return (level - near) * ((level - x) + (near - x))


@inlined
def _soften(x: Any, level: Any, near: Any, scale: Any, total: Any, chosen: Any) -> None:
    """Take the mean of the levels under `exp(-scale (x - level)^2)`; the nearest ones are `near`."""
    total[:] = np.float32(0.0)
    chosen[:] = np.float32(0.0)
    for a in range(level.shape[0]):
        for r in range(CHUNK):
            weight = _exp(-scale[r] * _excess(x[r], level[a, r], near[r]))
            total[r] += weight
            chosen[r] += weight * level[a, r]
    for r in range(CHUNK):
        chosen[r] /= total[r]


@inlined
def _draw(x: Any, level: Any, near: Any, scale: Any, total: Any, pick: Any, chosen: Any) -> None:
    """Draw a level under `exp(-scale (x - level)^2)`: the first at which the cumulative law passes a random number.

    The random numbers, in [0, 1), are in `chosen` at first.
    """
    total[:] = np.float32(0.0)
    for a in range(level.shape[0]):
        for r in range(CHUNK):
            total[r] += _exp(-scale[r] * _excess(x[r], level[a, r], near[r]))
    for r in range(CHUNK):
        total[r] *= chosen[r]
        pick[r] = np.float32(-1.0)
    for a in range(level.shape[0]):
        for r in range(CHUNK):
            total[r] -= _exp(-scale[r] * _excess(x[r], level[a, r], near[r]))
            value, number, kept = level[a, r], pick[r], chosen[r]
            found = (number < np.float32(0.0)) & ((total[r] < np.float32(0.0)) | (a == level.shape[0] - 1))
            pick[r] = np.float32(a) if found else number
            chosen[r] = value if found else kept


@inlined
def _push(pull: Any, step: Any, factor: Any, j: int) -> None:
    """Add what a step at column j does to the columns after it: `factor[j, k] step`."""
    for k in range(j + 1, pull.shape[0]):
        for r in range(CHUNK):
            pull[k, r] += factor[j, k] * step[r]


class Block(NamedTuple):
    """A block of B columns of a layer, for all R rows; a visit changes the first four."""

    #: (B, R) values of the weights, mean ones for the softmax rule
    mean: Any
    #: (B, R) uint8, the most probable or chosen labels
    labels: Any
    #: (B, R) receives the change of the values
    delta: Any
    #: (B, R) `(mean - target) H` before the block
    residual: Any
    #: (B, L, R) or (1, L, R) ascending levels
    values: Any
    #: (B, B), and one over the diagonal, 0 for columns to leave alone
    gram: Any
    inverse: Any


class Law(NamedTuple):
    """Probabilities of levels at a site: proportional to `exp(-columns[j] sharpness[j, r] (x - level)^2)`."""

    #: (B, R) or (1, R)
    sharpness: Any
    #: (B,)
    columns: Any
    #: (B, R) random numbers in [0, 1) for the sample rule, else (0, 0)
    uniforms: Any


@parallel_kernel
def sweep_block(block: Block, law: Law, rule: int) -> None:
    """Visit the columns of a block in order, for all rows."""
    mean, labels, delta, residual, values, gram, inverse = block
    sharpness, columns, uniforms = law
    width, rows = mean.shape
    own, sharp = values.shape[0] > 1, sharpness.shape[0] > 1
    for chunk in numba.prange((rows + CHUNK - 1) // CHUNK):
        first = chunk * CHUNK
        size = min(CHUNK, rows - first)
        here = slice(first, first + size)
        # what is changed often lies together, padded to whole vectors
        pull, level = np.zeros((width, CHUNK), np.float32), np.zeros((values.shape[1], CHUNK), np.float32)
        now, x, best, pick, chosen, total, scale = np.zeros((7, CHUNK), np.float32)
        pull[:, :size] = residual[:, here]
        for j in range(width):
            if inverse[j] == 0.0:
                delta[j, here] = 0.0
                continue
            if own or j == 0:
                level[:, :size] = values[j if own else 0, :, here]
            now[:size] = mean[j, here]
            for r in range(CHUNK):
                x[r] = now[r] - pull[j, r] * inverse[j]
            _nearest(x, level, best, pick, chosen)
            if rule != ARGMIN:
                scale[:size] = sharpness[j if sharp else 0, here] * columns[j]
                best[:] = chosen
            if rule == SOFTMAX:
                _soften(x, level, best, scale, total, chosen)
            if rule == SAMPLE:
                chosen[:size] = uniforms[j, here]
                _draw(x, level, best, scale, total, pick, chosen)
            for r in range(size):
                mean[j, first + r] = chosen[r]
                delta[j, first + r] = chosen[r] - now[r]
                labels[j, first + r] = np.uint8(pick[r])
            for r in range(CHUNK):
                chosen[r] -= now[r]
            _push(pull, chosen, gram, j)


@parallel_kernel
def plane_block(offset: Any, target: Any, labels: Any, error: Any, values: Any, factor: Any) -> None:
    """Round the columns of a block in order, each at the best value given those before it (Babai's nearest plane).

    Parameters
    ----------
    offset : (B, R)
        `sum_k factor[k, j] error[k]` over the columns k before the block.
    target : (B, R)
    labels : (B, R) uint8
        Receives the labels.
    error : (B, R)
        Receives the chosen levels less the target.
    values : (B, L, R) or (1, L, R)
    factor : (B, B)
        The transposed block of `mrfq.problems.layer_solve.plane_factor`: what an error at j does at k.
    """
    width, rows = target.shape
    own = values.shape[0] > 1
    for chunk in numba.prange((rows + CHUNK - 1) // CHUNK):
        first = chunk * CHUNK
        size = min(CHUNK, rows - first)
        here = slice(first, first + size)
        pull, level = np.zeros((width, CHUNK), np.float32), np.zeros((values.shape[1], CHUNK), np.float32)
        wanted, x, best, pick, chosen = np.zeros((5, CHUNK), np.float32)
        pull[:, :size] = offset[:, here]
        for j in range(width):
            if own or j == 0:
                level[:, :size] = values[j if own else 0, :, here]
            wanted[:size] = target[j, here]
            for r in range(CHUNK):
                x[r] = wanted[r] - pull[j, r]
            _nearest(x, level, best, pick, chosen)
            for r in range(CHUNK):
                chosen[r] -= wanted[r]
            for r in range(size):
                error[j, first + r] = chosen[r]
                labels[j, first + r] = np.uint8(pick[r])
            _push(pull, chosen, factor, j)
