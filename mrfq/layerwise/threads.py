"""How many threads a compiled loop gets: no more than torch has, and one where the work is not worth sharing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

#: elementary steps of a thread that outweigh waking it up
GRAIN = 1 << 20


@contextmanager
def threads_for(work: int) -> Iterator[int]:
    """Let compiled parallel loops run on as many threads as so many elementary steps deserve.

    Examples
    --------
    >>> with threads_for(1000) as count:
    ...     count
    1
    """
    before = numba.get_num_threads()
    count = max(min(work // GRAIN, torch.get_num_threads(), before), 1)
    numba.set_num_threads(count)
    try:
        yield count
    finally:
        numba.set_num_threads(before)
