"""Compiled sweep over the weights of a layer whose rows and columns are both coupled."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mrfq.kernels import kernel
from mrfq.problems.block_codebook_kernels import cheapest_label, replace_row, soften
from mrfq.problems.layer_kernels import SAMPLE, SOFTMAX
from mrfq.problems.pairwise_kernels import sample_site

#: visits of one row in a row from which its residual is worth having as a whole
RUN = 8


@kernel
def row_residual(residual: Any, gram_out: Any, right: Any, row: int) -> None:
    """Write row `row` of `G D A` to `residual` (C,); `right` is `D A`."""
    residual[:] = 0.0
    for k in range(right.shape[0]):
        weight = gram_out[row, k]
        for j in range(right.shape[1]):
            residual[j] += weight * right[k, j]


@kernel
def entry_residual(gram_out: Any, right: Any, row: int, column: int) -> float:
    """Return one entry of `G D A`."""
    total = 0.0
    for k in range(right.shape[0]):
        total += gram_out[row, k] * right[k, column]
    return total


@kernel
def site_costs(costs: Any, levels: Any, curvature: float, slope: float) -> float:
    """Write `h q^2 + 2 s q` for every level q, and return the lowest."""
    lowest = math.inf
    for a in range(costs.shape[0]):
        costs[a] = levels[a] * (curvature * levels[a] + 2.0 * slope)
        lowest = min(lowest, costs[a])
    return lowest


@kernel
def move_site(step: float, row: int, column: int, gram_in: Any, right: Any, residual: Any, diagonal: float) -> None:
    """Take a step of one value over to `D A` and to the residual of its row."""
    scaled = step * diagonal
    for k in range(residual.shape[0]):
        right[row, k] += step * gram_in[column, k]
        residual[k] += scaled * gram_in[column, k]


class Here(NamedTuple):
    """Where a sweep is; it changes all of this."""

    #: (R C,) labels; for the softmax rule it receives the most probable ones
    labels: Any
    #: (R C, L) relaxed labelling of the softmax rule
    u: Any
    #: (R, C) present values m, and `(m - target) A`
    mean: Any
    right: Any


class Coupled(NamedTuple):
    """A layer."""

    #: (C, C) and (R, R)
    gram_in: Any
    gram_out: Any
    #: (R or 1, G, L)
    values: Any


@kernel
def sweep_sites(here: Here, layer: Coupled, order: Any, rule: int, beta: float, uniforms: Any) -> Any:
    """Visit the weights in order; return (change of energy, labels changed, largest move of a row of u, entropy)."""
    labels, u, mean, right = here
    gram_in, gram_out, values = layer
    columns, count = mean.shape[1], values.shape[2]
    group = columns // values.shape[1]
    costs, chances = np.empty(count, mean.dtype), np.empty(count, np.float64)
    residual = np.empty(columns, mean.dtype)
    change, changed, largest, entropy = 0.0, 0, 0.0, 0.0
    current, whole = -1, False
    for place in range(order.shape[0]):
        i = order[place]
        r, j = i // columns, i % columns
        if r != current:
            last = place + RUN
            current, whole = r, last < order.shape[0] and order[last] // columns == r
            if whole:
                row_residual(residual, gram_out, right, r)
        slope = residual[j] if whole else entry_residual(gram_out, right, r, j)
        curvature = gram_out[r, r] * gram_in[j, j]
        levels = values[r % values.shape[0], j // group]
        lowest = site_costs(costs, levels, curvature, slope - curvature * mean[r, j])
        old = labels[i]
        new = cheapest_label(costs, lowest, old)
        value = 0.0
        if rule == SOFTMAX:
            entropy += soften(costs, lowest, beta, chances)
            gain, moved = replace_row(u[i], chances, costs)
            change += gain
            largest = max(largest, moved)
            for a in range(count):
                value += chances[a] * levels[a]
        else:
            if rule == SAMPLE:
                new = sample_site(costs, beta, uniforms[place], chances)
            change += costs[new] - costs[old]
            value = levels[new]
        changed += new != old
        labels[i] = new
        if value != mean[r, j]:
            move_site(value - mean[r, j], r, j, gram_in, right, residual, gram_out[r, r])
            mean[r, j] = value
    return change, changed, math.sqrt(largest), entropy
