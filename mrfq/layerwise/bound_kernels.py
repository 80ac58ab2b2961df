"""Compiled parts of the convex relaxation of a layer: coordinate descent, slopes at its end, tangents."""

from __future__ import annotations

import math
from typing import Any

import numba

from mrfq.kernels import kernel, parallel_kernel

#: a row is done when a sweep moves it by less than this part of its first sweep, in squared distances
STILL = 1e-16


@kernel
def relaxed_minimum(x: float, slope: float, curvature: float, weight: float, target: float, levels: Any) -> Any:
    """Return the minimum over y of a parabola and of the chords of another one between levels.

    The first has half the slope `slope` and half the curvature `curvature` at x, the second is `weight (y - target)^2`
    at the levels (L,), ascending, and straight between them; y lies between the first and the last level.
    """
    for k in range(levels.shape[0] - 1):
        a, b = levels[k], levels[k + 1]
        chord = 0.5 * weight * (a + b - 2.0 * target)
        if slope + curvature * (a - x) + chord >= 0.0:
            return a
        if slope + curvature * (b - x) + chord >= 0.0:
            return min(max(x - (slope + chord) / curvature, a), b)
    return levels[levels.shape[0] - 1]


@parallel_kernel
def descend_relaxed(x: Any, pull: Any, target: Any, values: Any, matrix: Any, weights: Any, sweeps: int) -> None:
    """Run sweeps over the columns of every row, in place.

    Parameters
    ----------
    x : (R, C)
    pull : (R, C)
        `(x - target) matrix`.
    target : (R, C)
    values : (R or 1, G, L)
    matrix : (C, C)
        Positive semi-definite.
    weights : (C,)
        Of the squared distances to the target that are replaced by their chords; at least 0.
    sweeps : int
        At most.
    """
    columns = x.shape[1]
    width = columns // values.shape[1]
    for r in numba.prange(x.shape[0]):
        first = 0.0
        for sweep in range(sweeps):
            moved = 0.0
            for j in range(columns):
                curvature = matrix[j, j]
                if curvature > 0.0:
                    levels = values[r % values.shape[0], j // width]
                    y = relaxed_minimum(x[r, j], pull[r, j], curvature, weights[j], target[r, j], levels)
                    step = y - x[r, j]
                    x[r, j] = y
                    moved += curvature * step * step
                    if step != 0.0:
                        for k in range(columns):
                            pull[r, k] += step * matrix[j, k]
            if sweep == 0:
                first = moved
            if moved <= STILL * first:
                break


@kernel
def optimal_slopes(x: Any, target: Any, values: Any, weights: Any, slopes: Any, gaps: Any) -> None:
    """Bring slopes (R, C) of the parabola to where the chords balance them, and measure the chords.

    At an optimum each slope is minus a slope of the chords at x, between that on the left and that on the right.

    Parameters
    ----------
    x, target, values, weights
        See `descend_relaxed`.
    slopes : (R, C)
        Changed in place.
    gaps : (R, C)
        Receives how much higher the chord of `(y - target)^2` is at x than the parabola.
    """
    columns = x.shape[1]
    width = columns // values.shape[1]
    for r in range(x.shape[0]):
        for j in range(columns):
            levels = values[r % values.shape[0], j // width]
            low, high, gaps[r, j] = -math.inf, math.inf, 0.0
            for k in range(levels.shape[0] - 1):
                a, b = levels[k], levels[k + 1]
                chord = weights[j] * (a + b - 2.0 * target[r, j])
                if a < x[r, j] and x[r, j] <= b:
                    low = chord
                if a <= x[r, j] and x[r, j] < b:
                    high = chord
                    gaps[r, j] = (x[r, j] - a) * (b - x[r, j])
            slopes[r, j] = min(max(slopes[r, j], -high), -low)


@kernel
def tangent_minima(slopes: Any, target: Any, values: Any, diagonal: Any, least: Any, largest: Any) -> None:
    """Write the least `s e + D e^2` over the distances e of levels to the target, and the largest |e|.

    Parameters
    ----------
    slopes : (R, C)
    target : (R, C)
    values : (R or 1, G, L)
    diagonal : (C,)
    least, largest : (R, C)
    """
    columns = target.shape[1]
    width = columns // values.shape[1]
    for r in range(target.shape[0]):
        for j in range(columns):
            levels = values[r % values.shape[0], j // width]
            least[r, j], largest[r, j] = math.inf, 0.0
            for a in range(levels.shape[0]):
                distance = levels[a] - target[r, j]
                least[r, j] = min(least[r, j], distance * (slopes[r, j] + diagonal[j] * distance))
                largest[r, j] = max(largest[r, j], abs(distance))
