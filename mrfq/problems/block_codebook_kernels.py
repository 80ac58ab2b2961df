"""Compiled parts of the sweeps over a layer made of codewords: rows side by side, blocks one after another."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from mrfq.kernels import kernel, parallel_kernel
from mrfq.problems.layer_kernels import ARGMIN, SAMPLE, SOFTMAX
from mrfq.problems.pairwise_kernels import sample_site

#: rows that take turns at a block, so that its rows of the Gram matrix are read from the cache
TILE = 16
#: what a sweep may do with the conditional costs of a site
RULES = {"argmin": ARGMIN, "softmax": SOFTMAX, "sample": SAMPLE}
#: beyond this many units of temperature above the cheapest, a label has probability 0 in double precision
NEVER = 50.0


class Point(NamedTuple):
    """Where a sweep is; it changes all of this."""

    #: (R, W) the residual `(m - t) H` of the present values, and these
    pull: Any
    mean: Any
    #: (R, P) chosen labels, for the softmax rule the most probable ones; negative: none yet
    labels: Any
    #: (R, P, K) relaxed labelling of the softmax rule, or (R, 0, 0) if it is not wanted
    u: Any
    #: (R, 4) float64, to be added to: change of energy (of relaxed energy, if `u` is kept), labels changed, largest
    #: squared move of a row of `u`, entropy
    report: Any


class Layer(NamedTuple):
    """The columns that are visited: P blocks of d, W in all."""

    #: (W, W)
    gram: Any
    #: (d, K) on the CPU, so that the innermost loops run over labels
    codewords: Any
    #: (P, K) costs `c H_pp c`
    own: Any
    #: (R or 1, P) the blocks of each row in the order of the visits
    order: Any


class Choice(NamedTuple):
    """What a site does with its conditional costs."""

    rule: int
    #: (P,) inverse temperatures; not used by the argmin rule
    betas: Any
    #: (R, P) numbers in [0, 1) for the sample rule, or (0, 0)
    uniforms: Any


@kernel
def block_costs(costs: Any, pull: Any, mean: Any, gram: Any, first: int, codewords: Any, own: Any) -> Any:
    """Write what each codeword costs at the block that begins at column `first`, and return the lowest cost.

    The cost is `c H_pp c + 2 c (g_p - H_pp m_p)`; a part that is the same for all codewords is left out.

    Parameters
    ----------
    costs : (K,), overwritten
    pull, mean : (W,)
        The row's `(m - t) H` and its values m.
    gram : (W, W)
    first : int
    codewords : (d, K)
    own : (K,)
        `c H_pp c`.
    """
    width, count = codewords.shape
    for a in range(count):
        costs[a] = own[a]
    for i in range(width):
        slope = pull[first + i]
        for j in range(width):
            slope -= gram[first + j, first + i] * mean[first + j]
        slope += slope
        for a in range(count):
            costs[a] += slope * codewords[i, a]
    lowest = costs[0]
    for a in range(count):
        lowest = min(lowest, costs[a])
    return lowest


@kernel
def cheapest_label(costs: Any, lowest: float, old: int) -> int:
    """Return the label of the lowest cost; a tie keeps the old label, else takes the lowest."""
    if old >= 0 and costs[old] <= lowest:
        return old
    for a in range(costs.shape[0]):
        if costs[a] <= lowest:
            return a
    return old


@kernel
def soften(costs: Any, lowest: float, beta: float, probabilities: Any) -> Any:
    """Write the softmax of `-beta costs` to `probabilities`, the costs above the lowest to `costs`; return the entropy.

    A label that is more than `NEVER` temperatures above the cheapest gets probability 0.
    """
    total, expected = 0.0, 0.0
    for a in range(costs.shape[0]):
        costs[a] -= lowest
        above = beta * costs[a]
        probabilities[a] = 0.0
        if above < NEVER:
            weight = math.exp(-above)
            probabilities[a] = weight
            total += weight
            expected += weight * above
    scale = 1.0 / total
    for a in range(costs.shape[0]):
        probabilities[a] *= scale
    return math.log(total) + expected * scale


@kernel
def replace_row(u: Any, probabilities: Any, costs: Any) -> Any:
    """Put new probabilities into a row of a relaxed labelling; return (change of energy, squared length of the move).

    Changes of a row add up to zero, so costs above the cheapest do as well as costs.
    """
    change, moved = 0.0, 0.0
    for a in range(costs.shape[0]):
        difference = probabilities[a] - u[a]
        change += costs[a] * difference
        moved += difference * difference
        u[a] = probabilities[a]
    return change, moved


@kernel
def move_block(values: Any, first: int, pull: Any, mean: Any, gram: Any) -> None:
    """Give a block the values (d,), and add what follows from the change to the row's `(m - t) H`."""
    for i in range(values.shape[0]):
        size = values[i] - mean[first + i]
        mean[first + i] = values[i]
        if size != 0.0:
            for k in range(pull.shape[0]):
                pull[k] += size * gram[first + i, k]


@kernel
def mean_codeword(values: Any, chances: Any, codewords: Any) -> None:
    """Write the mean of the codewords (d, K) under probabilities (K,) to `values` (d,)."""
    for i in range(values.shape[0]):
        total = 0.0
        for a in range(chances.shape[0]):
            total += chances[a] * codewords[i, a]
        values[i] = total


@kernel
def relax_block(costs: Any, lowest: float, beta: float, chances: Any, u: Any, report: Any) -> None:
    """Replace the probabilities of a block and add to the row's report; `u` has no rows if it is not kept."""
    report[3] += soften(costs, lowest, beta, chances)
    if u.shape[0] > 0:
        change, moved = replace_row(u, chances, costs)
        report[0] += change
        report[2] = max(report[2], moved)


@parallel_kernel
def sweep_blocks(point: Point, layer: Layer, choice: Choice) -> None:
    """Visit the blocks of every row, each given all the others; rows are independent of one another."""
    pull, mean, labels, u, report = point
    gram, codewords, own, order = layer
    rule, betas, uniforms = choice
    rows, blocks = labels.shape
    width, count = codewords.shape
    for tile in numba.prange((rows + TILE - 1) // TILE):
        costs, chances = np.empty(count, mean.dtype), np.empty(count, mean.dtype)
        values = np.empty(width, mean.dtype)
        for place in range(blocks):
            for r in range(tile * TILE, min(rows, tile * TILE + TILE)):
                p = order[r % order.shape[0], place]
                lowest = block_costs(costs, pull[r], mean[r], gram, p * width, codewords, own[p])
                old = labels[r, p]
                new = cheapest_label(costs, lowest, old)
                if rule == SOFTMAX:
                    relax_block(
                        costs, lowest, betas[p], chances, u[r, p] if u.shape[1] > 0 else u[r, 0:0, 0], report[r]
                    )
                    mean_codeword(values, chances, codewords)
                else:
                    if rule == SAMPLE:
                        new = sample_site(costs, betas[p], uniforms[r, p], chances)
                    if old >= 0:
                        report[r, 0] += costs[new] - costs[old]
                    values[:] = codewords[:, new]
                if rule == SOFTMAX or new != old:
                    move_block(values, p * width, pull[r], mean[r], gram)
                report[r, 1] += new != old
                labels[r, p] = new
