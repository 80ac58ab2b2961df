"""Compiled parts of the k-means of blocks of weights."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from mrfq.kernels import kernel, parallel_kernel

#: points that a thread takes at a time
CHUNK = 256


@parallel_kernel
def nearest_centres(points: Any, centres: Any, labels: Any, gaps: Any) -> None:
    """Write the nearest centre of each point and the squared distance to it; a tie goes to the lower label.

    Parameters
    ----------
    points : (n, d)
    centres : (d, K)
        Transposed, so that the innermost loops run over labels.
    labels : (n,) int64
    gaps : (n,)
    """
    width, count = centres.shape
    for chunk in numba.prange((points.shape[0] + CHUNK - 1) // CHUNK):
        distances = np.empty(count, points.dtype)
        for i in range(chunk * CHUNK, min(points.shape[0], chunk * CHUNK + CHUNK)):
            distances[:] = 0.0
            for k in range(width):
                x = points[i, k]
                for a in range(count):
                    gap = x - centres[k, a]
                    distances[a] += gap * gap
            lowest = distances[0]
            for a in range(count):
                lowest = min(lowest, distances[a])
            for a in range(count):
                if distances[a] <= lowest:
                    labels[i] = a
                    break
            gaps[i] = lowest


@kernel
def shorten(gaps: Any, points: Any, centre: Any) -> None:
    """Lower the squared distances of points (n, d) to the nearest centre so far by those to a new centre (d,)."""
    for i in range(points.shape[0]):
        total = 0.0
        for k in range(points.shape[1]):
            gap = points[i, k] - centre[k]
            total += gap * gap
        gaps[i] = min(gaps[i], total)
