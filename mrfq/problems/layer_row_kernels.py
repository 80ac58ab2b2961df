"""Compiled sweep over the weights of a layer whose rows are independent: any order of visits, exact changes.

Slower than the blocked sweep of `mrfq.problems.layer_kernels`, which works on transposed arrays in single precision
and reports no energies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from mrfq.kernels import kernel, parallel_kernel
from mrfq.problems.block_codebook_kernels import TILE, cheapest_label, relax_block
from mrfq.problems.kronecker_kernels import site_costs
from mrfq.problems.layer_kernels import SAMPLE, SOFTMAX
from mrfq.problems.pairwise_kernels import sample_site


class Rows(NamedTuple):
    """Where a sweep is; it changes all of this."""

    #: (R, C) labels; for the softmax rule it receives the most probable ones
    labels: Any
    #: (R, C, L) relaxed labelling of the softmax rule, or (R, 0, 0)
    u: Any
    #: (R, C) present values m, and `(m - target) H`
    mean: Any
    pull: Any
    #: (R, 4) float64, to be added to: change of energy (of relaxed energy for the softmax rule), labels changed,
    #: largest squared move of a row of `u`, entropy
    report: Any


@kernel
def mean_level(chances: Any, levels: Any) -> float:
    """Return the mean of levels (L,) under probabilities (L,)."""
    total = 0.0
    for a in range(chances.shape[0]):
        total += chances[a] * levels[a]
    return total


@kernel
def move_weight(step: float, column: int, pull: Any, gram: Any) -> None:
    """Add to a row's `(m - t) H` (C,) what follows from a step of one value."""
    for k in range(pull.shape[0]):
        pull[k] += step * gram[column, k]


@parallel_kernel
def sweep_rows(here: Rows, gram: Any, values: Any, order: Any, rule: int, beta: float, uniforms: Any) -> None:
    """Visit the weights of every row, each given all the others.

    Parameters
    ----------
    here : Rows
    gram : (C, C)
    values : (R or 1, G, L)
    order : (R or 1, C)
        The columns of each row in the order of the visits.
    rule : int
    beta : float
    uniforms : (R, C)
        Numbers in [0, 1) for the sample rule, or (0, 0).
    """
    labels, u, mean, pull, report = here
    rows, columns = mean.shape
    width, count = columns // values.shape[1], values.shape[2]
    for tile in numba.prange((rows + TILE - 1) // TILE):
        costs, chances = np.empty(count, mean.dtype), np.empty(count, np.float64)
        for place in range(columns):
            for r in range(tile * TILE, min(rows, tile * TILE + TILE)):
                j = order[r % order.shape[0], place]
                levels = values[r % values.shape[0], j // width]
                lowest = site_costs(costs, levels, gram[j, j], pull[r, j] - gram[j, j] * mean[r, j])
                old = labels[r, j]
                new = cheapest_label(costs, lowest, old)
                if rule == SOFTMAX:
                    relax_block(costs, lowest, beta, chances, u[r, j], report[r])
                    value = mean_level(chances, levels)
                else:
                    if rule == SAMPLE:
                        new = sample_site(costs, beta, uniforms[r, j], chances)
                    report[r, 0] += costs[new] - costs[old]
                    value = levels[new]
                if value != mean[r, j]:
                    move_weight(value - mean[r, j], j, pull[r], gram)
                    mean[r, j] = value
                report[r, 1] += new != old
                labels[r, j] = new
