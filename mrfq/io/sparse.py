"""Lines `i j w` after a line of sizes: what QPBO and rudy files have in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrfq.io.limits import LARGEST_NUMBER, MOST_ISOLATED
from mrfq.io.numbers import Numbers


class Entries(NamedTuple):
    """Entries of a sparse matrix: rows and columns from 0, and values."""

    i: np.ndarray
    j: np.ndarray
    values: np.ndarray


def sizes(numbers: Numbers, what: str, *, signed: bool) -> tuple[int, int]:
    """Return the numbers of variables and of lines; checked against what is left of the file, if not negative."""
    most = numbers.left + MOST_ISOLATED
    n = numbers.whole("the number of variables", -most if signed else 1, most)
    if n == 0:
        raise numbers.error(numbers.position - 1, "at least one variable")
    room = max(0, (numbers.left - 1) // 3)
    return n, numbers.whole(f"the number of {what}", -room if signed else 0, room)


def entries(numbers: Numbers, n: int, m: int, what: str) -> Entries:
    """Return `m` lines `i j w`, and check that the file ends there."""
    first = numbers.position
    rows = numbers.take(3 * m, f"the {what}").reshape(-1, 3)
    numbers.end()
    i, j, values = rows.T
    good = np.abs(rows) <= LARGEST_NUMBER
    for column, index in enumerate((i, j)):
        good[:, column] = (index >= 1) & (index <= n) & (index == np.floor(index))
    expected = f"{what} `i j w`, i and j from 1 to {n}, w from {-LARGEST_NUMBER:g} to {LARGEST_NUMBER:g}"
    numbers.check(good.ravel(), first, expected)
    return Entries(i.astype(np.int64) - 1, j.astype(np.int64) - 1, values)
