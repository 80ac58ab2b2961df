"""The compiled part of re-fits: sums of a Gram matrix over the cells that labels cut it into."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from mrfq.kernels import kernel, parallel_kernel

#: columns of the Gram matrix that are summed together; what a row adds up of them stays in the fastest cache
STRIP = 128


@kernel
def add_cells(gram: Any, cells: Any, factors: Any, sums: Any) -> None:
    """Do the work of `cell_sums` for some rows, with the Gram matrix in strips that they all go through."""
    rows, columns = cells.shape
    count = sums.shape[1]
    strip, partial = np.zeros((columns, STRIP), np.float32), np.empty((count, STRIP))
    for start in range(0, columns, STRIP):
        stop = min(start + STRIP, columns)
        strip[:stop, : stop - start] = gram[:stop, start:stop]
        for r in range(rows):
            partial[:] = 0
            for j in range(stop):
                factor = factors[r, j] if j < start else 0.5 * factors[r, j]  # a square on the diagonal, both halves
                into = partial[cells[r, j]]
                for k in range(STRIP):
                    into[k] += factor * strip[j, k]
            for a in range(count):
                for k in range(stop - start):
                    sums[r, a, cells[r, start + k]] += factors[r, start + k] * partial[a, k]
    for r in range(rows):
        for a in range(count):
            for b in range(a + 1):
                both = sums[r, a, b] + sums[r, b, a]
                sums[r, a, b] = both
                sums[r, b, a] = both


@parallel_kernel
def cell_sums(gram: Any, cells: Any, factors: Any, sums: Any, chunk: int) -> None:
    """Add up `sums[r, a, b] = sum of factors[r, j] gram[j, k] factors[r, k]` over j in cell a, k in cell b.

    By rows of the Gram matrix, each added as a whole to the sum of its cell: the cost is that of C^2 / 2 vectorised
    additions a row, however many cells there are. Only the upper triangle is read; products and sums are in float64,
    in which sums of float32 numbers hardly round at all.

    Parameters
    ----------
    gram : (C, C) float32
        Symmetric.
    cells : (R, C) int32
        From 0 to n - 1.
    factors : (R, C) float64
    sums : (R, n, n) float64
        Zeros at first; overwritten.
    chunk : int
        Rows that a thread takes at a time, and that go through a strip of the Gram matrix before the next is copied.
    """
    rows = cells.shape[0]
    for i in numba.prange((rows + chunk - 1) // chunk):
        part = slice(i * chunk, min((i + 1) * chunk, rows))
        add_cells(gram, cells[part], factors[part], sums[part])
