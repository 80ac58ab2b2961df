"""The numba kernel of bucket elimination: join the tables of a bucket and minimise over its variable, in one pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrfq.kernels import kernel


@kernel
def lower_to_zero(costs: Any) -> Any:
    """Subtract the lowest cost from all; return 0, or +inf if there is no finite one."""
    lowest = costs.min()
    if lowest == math.inf:
        return math.inf
    for k in range(costs.shape[0]):
        costs[k] -= lowest
    return 0.0


@kernel
def eliminate(values: Any, start: Any, stride: Any, shape: Any, message: Any, back: Any) -> Any:
    """Write `message[s] = min_a sum_t table_t[a, s]` and the label a that attains it for all separator labellings s.

    The joint table is never stored: an odometer runs over the separator and keeps each table's offset up to date.

    The lowest cost of each table and of the message is taken off, and only told if it is +inf: constants do not matter
    to the labels, and small costs would drown in large ones.

    Parameters
    ----------
    values : (total,) float64
        The tables, one after another; changed.
    start : (1 + tables,) int64
        Where each begins, and where the last ends.
    stride : (tables, 1 + separators) int64
        What a step along each axis adds to the index, 0 where the table does not have it; axis 0 is the variable.
    shape : (1 + separators,) int64
    message : (size,) float64
        Written; the last separator varies fastest.
    back : (size,) unsigned integers
        Written; a tie goes to the lowest label.

    Returns
    -------
    float
        +inf if every labelling of the bucket is forbidden, else 0.
    """
    tables, axes = stride.shape
    for t in range(tables):
        lower_to_zero(values[start[t] : start[t + 1]])
    offset = start[:tables].copy()
    digit = np.zeros(axes, np.int64)
    for s in range(message.shape[0]):
        lowest, label = math.inf, 0
        for a in range(shape[0]):
            cost = 0.0
            for t in range(tables):
                cost += values[offset[t] + a * stride[t, 0]]
            if cost < lowest:
                lowest, label = cost, a
        message[s], back[s] = lowest, label
        axis = axes - 1
        while axis > 0:
            digit[axis] += 1
            if digit[axis] < shape[axis]:
                for t in range(tables):
                    offset[t] += stride[t, axis]
                break
            digit[axis] = 0
            for t in range(tables):
                offset[t] -= stride[t, axis] * (shape[axis] - 1)
            axis -= 1
    return lower_to_zero(message)
