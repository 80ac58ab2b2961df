"""Compiled fits of label sets to weights: one set after another in each thread.

Weights of a set are sorted once. With sums over the first so many of them, the squared error of any run of neighbours
around its mean is known at once, so that a set of labels costs as much to judge as it has labels, not weights.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from mrfq.kernels import kernel, parallel_kernel

#: places where the exact search may divide a set of weights; all of them in smaller sets
MARKS = 512
#: passes of nearest levels and means, or of rounding and least squares; they end by themselves much earlier
PASSES = 100
#: how the ends of a range are drawn in: so many steps of such a ratio
RATIO_ONE, STEPS_ONE = 0.97, 160
RATIO_BOTH, STEPS_BOTH = 0.8, 18
#: then widths, relative, of ranges around the best one, and steps in them
NEIGHBOURHOODS, STEPS_NEAR = (0.15, 0.03), 8
#: of candidates the best so many are polished; fewer where there are many levels, which need it less and cost more
POLISHED, POLISHED_MANY, MANY = 12, 6, 32


@kernel
def sort_set(weights: Any, importance: Any, free: bool) -> Any:
    """Return (sorted weights less their mean, sums of h, h w and h w^2 over the first i of them, the mean).

    Importances are taken relative to the largest, and weights without are left out; if all are 0, they count alike.
    The mean is 0 if not `free`.
    """
    largest = importance.max()
    order = np.argsort(weights)
    if largest > 0:
        order = order[importance[order] > 0]
    n = order.shape[0]
    w, h, sums = weights[order], np.ones(n), np.zeros((n + 1, 3))
    if largest > 0:
        h = importance[order] / largest
    mean = (h * w).sum() / h.sum() if free else 0.0
    w -= mean
    for i in range(n):
        sums[i + 1, 0] = sums[i, 0] + h[i]
        sums[i + 1, 1] = sums[i, 1] + h[i] * w[i]
        sums[i + 1, 2] = sums[i, 2] + h[i] * w[i] * w[i]
    return w, sums, mean


@kernel
def first_above(w: Any, bound: float, start: int) -> Any:
    """Return the first position from `start` on of a weight above the bound, in steps that double and then halve."""
    n = w.shape[0]
    low, step = start, 1
    while low + step <= n and w[low + step - 1] <= bound:
        low += step
        step *= 2
    high = min(low + step - 1, n)
    while low < high:
        middle = (low + high) // 2
        if w[middle] <= bound:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def run_error(sums: Any, start: int, stop: int) -> Any:
    """Return the weighted squared error of a run of weights around its mean."""
    mass = sums[stop, 0] - sums[start, 0]
    if mass <= 0:
        return 0.0
    first = sums[stop, 1] - sums[start, 1]
    return sums[stop, 2] - sums[start, 2] - first * first / mass


@kernel
def run_level(w: Any, sums: Any, start: int, stop: int) -> Any:
    """Return the weighted mean of a run; of an empty one the weight that follows, the middle if none weighs."""
    if start == stop:
        return w[min(start, w.shape[0] - 1)]
    mass = sums[stop, 0] - sums[start, 0]
    level = (sums[stop, 1] - sums[start, 1]) / mass if mass > 0 else 0.5 * (w[start] + w[stop - 1])
    return min(max(level, w[start]), w[stop - 1])


@kernel
def marks_of(w: Any, sums: Any) -> Any:
    """Return ascending places, 0 and n among them, where it may pay to divide the weights.

    In large sets their density is that of the levels of a fine quantizer, (importance x frequency)^(1/3), mixed with
    that of the weights themselves.
    """
    n = w.shape[0]
    if n <= MARKS:
        return np.arange(n + 1)
    density = np.empty(n)
    total = 0.0
    for i in range(1, n):
        gap = w[i] - w[i - 1]
        density[i] = (sums[i + 1, 0] - sums[i - 1, 0]) ** (1 / 3) * gap ** (2 / 3)
        total += density[i]
    marks = np.empty(MARKS + 1, np.int64)
    marks[0], count, reached, passed = 0, 1, 0.0, 0
    for i in range(1, n):
        reached += 0.5 / n + (0.5 * density[i] / total if total > 0 else 0.5 / n)
        if int(reached * MARKS) > passed and count < MARKS:
            passed = int(reached * MARKS)
            marks[count] = i
            count += 1
    marks[count] = n
    return marks[: count + 1]


@kernel
def divide(sums: Any, marks: Any, count: int) -> Any:
    """Return where the runs of a division into `count` begin, and where the last ends, of the least squared error.

    Dynamic programme over the marks, exact if they are all the places there are. Where the last run of the best
    division of a prefix begins does not move left as the prefix grows: places halfway between known ones come next,
    and take time in proportion to the marks for each run and each halving.
    """
    m = marks.shape[0] - 1
    before, after = np.empty(m + 1), np.empty(m + 1)
    choice = np.zeros((count, m + 1), np.int32)
    for i in range(m + 1):
        before[i] = run_error(sums, 0, marks[i])
    for k in range(1, count):
        after[0] = 0.0
        step = 1
        while 2 * step <= m:
            step *= 2
        while step > 0:
            for i in range(step, m + 1, 2 * step):
                last = min(i, choice[k, i + step]) if i + step <= m else i
                best, at = np.inf, choice[k, i - step]
                for j in range(at, last + 1):
                    error = before[j] + run_error(sums, marks[j], marks[i])
                    if error < best:
                        best, at = error, j
                after[i], choice[k, i] = best, at
            step //= 2
        before, after = after, before
    first = np.empty(count + 1, np.int64)
    first[count] = marks[m]
    i = m
    for k in range(count - 1, -1, -1):
        i = choice[k, i]
        first[k] = marks[i]
    return first


@kernel
def settle(w: Any, sums: Any, first: Any, levels: Any) -> None:
    """Write the levels that alternate means of runs and nearest levels (Lloyd's algorithm) end at."""
    count = levels.shape[0]
    for _ in range(PASSES):
        for a in range(count):
            levels[a] = run_level(w, sums, first[a], first[a + 1])
        changed = False
        for a in range(1, count):
            place = first_above(w, 0.5 * (levels[a - 1] + levels[a]), first[a - 1])
            changed = changed or place != first[a]
            first[a] = place
        if not changed:
            return


@parallel_kernel
def fit_codebooks(weights: Any, importance: Any, groups: int, levels: Any) -> None:
    """Write the levels of every group of every row: weighted k-means on the line.

    Parameters
    ----------
    weights : (R, C)
    importance : (1 or R, C)
    groups : int
    levels : (R, groups, L) float64
    """
    width = weights.shape[1] // groups
    for i in numba.prange(weights.shape[0] * groups):
        r, g = i // groups, i % groups
        columns = slice(g * width, (g + 1) * width)
        w, sums, mean = sort_set(weights[r, columns], importance[min(r, importance.shape[0] - 1), columns], True)
        first = divide(sums, marks_of(w, sums), levels.shape[2])
        settle(w, sums, first, levels[r, g])
        levels[r, g] += mean


@kernel
def affine_step(w: Any, sums: Any, base: Any, scale: float, offset: float, free: bool) -> Any:
    """Return (scale, offset, squared error) of least squares on the nearest of the levels `offset + scale base`."""
    count = base.shape[0]
    start = 0
    hb = hbb = hwb = 0.0
    for a in range(count):
        stop = w.shape[0]
        if a + 1 < count:
            stop = first_above(w, offset + scale * 0.5 * (base[a] + base[a + 1]), start)
        mass = sums[stop, 0] - sums[start, 0]
        hb += base[a] * mass
        hbb += base[a] * base[a] * mass
        hwb += base[a] * (sums[stop, 1] - sums[start, 1])
        start = stop
    h, hw, hww = sums[start, 0], sums[start, 1], sums[start, 2]
    spread, together = (hbb - hb * hb / h, hwb - hw * hb / h) if free else (hbb, hwb)
    if spread > 1e-12 * hbb:
        scale = max(together / spread, 0.0)
    offset = (hw - scale * hb) / h if free else 0.0
    square = hww + scale * scale * hbb + offset * offset * h
    return scale, offset, square - 2 * scale * hwb - 2 * offset * hw + 2 * scale * offset * hb


@kernel
def drawn_in(low: float, high: float, factors: Any, base: Any, free: bool) -> Any:
    """Return scales and offsets of ranges whose ends are multiplied by factors: each by each, or both by the same."""
    count = len(factors)
    if not free:
        return max(-low, high) / base[-1] * factors, np.zeros(count)
    scales, offsets = np.empty(count * count), np.empty(count * count)
    for k in range(count * count):
        bottom, top = low * factors[k // count], high * factors[k % count]
        scales[k] = (top - bottom) / (base[-1] - base[0])
        offsets[k] = bottom - scales[k] * base[0]
    return scales, offsets


@kernel
def best_polished(w: Any, sums: Any, base: Any, scales: Any, offsets: Any, free: bool) -> Any:
    """Return (scale, offset, squared error): the best candidates polished by rounding and least squares in turn."""
    errors = np.empty(len(scales))
    for k in range(len(scales)):
        scales[k], offsets[k], errors[k] = affine_step(w, sums, base, scales[k], offsets[k], free)
    best = (scales[0], offsets[0], np.inf)
    for k in np.argsort(errors)[: POLISHED if len(base) <= MANY else POLISHED_MANY]:
        found = (scales[k], offsets[k], errors[k])
        for _ in range(PASSES):
            step = affine_step(w, sums, base, found[0], found[1], free)
            if not step[2] < found[2] * (1 - 1e-9):
                break
            found = step
        if found[2] < best[2]:
            best = found
    return best


@kernel
def affine_fit(w: Any, sums: Any, base: Any, free: bool) -> Any:
    """Return (scale, offset): from the whole range inwards, then twice around the best range, closer each time."""
    factors = RATIO_BOTH ** np.arange(STEPS_BOTH) if free else RATIO_ONE ** np.arange(STEPS_ONE)
    scales, offsets = drawn_in(w[0], w[-1], factors, base, free)
    scale, offset, error = best_polished(w, sums, base, scales, offsets, free)
    for width in NEIGHBOURHOODS:
        near = 1 + width * np.linspace(-1, 1, STEPS_NEAR)
        ends = offset + scale * base[0], offset + scale * base[-1]
        scales, offsets = drawn_in(ends[0], ends[1], near, base, free)
        found = best_polished(w, sums, base, scales, offsets, free)
        if found[2] < error:
            scale, offset, error = found
    return scale, offset


@parallel_kernel
def fit_affine(weights: Any, importance: Any, groups: int, base: Any, fitted: Any) -> None:
    """Write the scale, and the offset if there is room for it, of every group of every row.

    Parameters
    ----------
    weights : (R, C)
    importance : (1 or R, C)
    groups : int
    base : (L,) float64
        Ascending; the last is positive.
    fitted : (R, groups, 1 or 2) float64
    """
    width = weights.shape[1] // groups
    free = fitted.shape[2] == 2
    for i in numba.prange(weights.shape[0] * groups):
        r, g = i // groups, i % groups
        columns = slice(g * width, (g + 1) * width)
        w, sums, mean = sort_set(weights[r, columns], importance[min(r, importance.shape[0] - 1), columns], free)
        scale, offset = affine_fit(w, sums, base, free)
        fitted[r, g, 0] = scale
        if free:
            fitted[r, g, 1] = offset + mean
