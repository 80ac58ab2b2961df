"""Compiled descent over pairs of weights of a layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba

from mrfq.kernels import kernel, parallel_kernel

#: a gain counts if it is larger than this part of the sizes of the terms it is the sum of
ROUNDING = 1e-12


class Rows(NamedTuple):
    """Where a descent is, in double precision; it changes all of this."""

    #: (R, C) int64
    labels: Any
    #: (R, C) values m of the weights, and `(m - target) H`
    mean: Any
    pull: Any
    #: (R, 2) change of energy and labels changed, to be added to
    report: Any


@kernel
def nearest_level(levels: Any, wanted: float) -> int:
    """Return the number of the ascending level that is nearest; a tie goes to the lower one."""
    low, high = 0, levels.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if wanted - levels[middle] <= levels[middle + 1] - wanted:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def best_pair(i: int, j: int, row: Any, gram: Any, levels: Any, others: Any) -> Any:
    """Return labels of two weights of a row that lower its energy most, and by how much; 0 if none does.

    Every level of weight i is tried with the best level of weight j for it, which is the nearest to the minimum of a
    parabola. With i and j the same, weight i alone is changed.

    Parameters
    ----------
    i, j : int
    row : tuple
        Labels, values and `(m - t) H` of the row, each (C,).
    gram : (C, C)
    levels, others : (L,)
        Of weight i and of weight j.
    """
    labels, mean, pull = row
    first, second, gain = labels[i], labels[j], 0.0
    for a in range(levels.shape[0]):
        step = levels[a] - mean[i]
        change, size = step * (2.0 * pull[i] + gram[i, i] * step), abs(step * pull[i]) + gram[i, i] * step * step
        b = labels[j]
        if i != j and gram[j, j] > 0.0:
            slope = pull[j] + gram[i, j] * step
            b = nearest_level(others, mean[j] - slope / gram[j, j])
            move = others[b] - mean[j]
            change += move * (2.0 * slope + gram[j, j] * move)
            size += abs(move) * (abs(pull[j]) + abs(gram[i, j] * step)) + gram[j, j] * move * move
        if change < gain and change < -ROUNDING * size:
            first, second, gain = a, b, change
    return first, second, gain


@kernel
def set_label(j: int, label: int, value: float, row: Any, gram: Any) -> None:
    """Give a weight of a row another label and its value, and keep `(m - t) H` up to date."""
    labels, mean, pull = row
    step = value - mean[j]
    labels[j], mean[j] = label, value
    if step != 0.0:
        for k in range(pull.shape[0]):
            pull[k] += step * gram[j, k]


@parallel_kernel
def pair_moves(here: Rows, gram: Any, values: Any, partners: Any) -> None:
    """Give every weight and its partner (C,) the best labels for all the others, weight after weight in every row.

    A weight that is its own partner is changed alone.
    """
    labels, mean, pull, report = here
    width = labels.shape[1] // values.shape[1]
    for r in numba.prange(labels.shape[0]):
        row, own = (labels[r], mean[r], pull[r]), values[r % values.shape[0]]
        for i in range(labels.shape[1]):
            j = partners[i]
            levels, others = own[i // width], own[j // width]
            first, second, gain = best_pair(i, j, row, gram, levels, others)
            if gain < 0.0:
                report[r, 0] += gain
                report[r, 1] += (first != labels[r, i]) + (i != j and second != labels[r, j])
                set_label(i, first, levels[first], row, gram)
                if i != j:
                    set_label(j, second, others[second], row, gram)
