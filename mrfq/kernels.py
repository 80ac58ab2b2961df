"""The decorators of every numba kernel: compiled once, cached on disk, IEEE infinities respected; and the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import torch

#: Sums may be reassociated, so that loops vectorise. Infinities keep their meaning; costs are checked to hold no NaN
#: before they get here.
FAST = {"reassoc", "contract", "arcp", "nsz", "nnan"}
#: elementary steps of a thread that outweigh waking it up
GRAIN = 1 << 20


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba."""
    compiled: Callable[..., Any] = numba.njit(cache=True, fastmath=FAST)(function)
    return compiled


def parallel_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose `prange` loops run on several threads, as many as `threads_for` allows around the call.

    The function must not ask for the number of threads itself: numba could not cache it.
    """
    compiled: Callable[..., Any] = numba.njit(cache=True, fastmath=FAST, parallel=True)(function)
    return compiled


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch compute on so many threads for a while; None leaves the number as it is.

    Examples
    --------
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads_for(work: int) -> Iterator[int]:
    """Let compiled parallel loops run on as many threads as so many elementary steps deserve, at most torch's number.

    Examples
    --------
    >>> with threads_for(1000) as count:
    ...     count
    1
    """
    torch_threads = torch.get_num_threads()  # before numba starts its threads, which may raise it
    before = numba.get_num_threads()
    count = max(min(work // GRAIN, torch_threads, before), 1)
    numba.set_num_threads(count)
    try:
        yield count
    finally:
        numba.set_num_threads(before)
        torch.set_num_threads(torch_threads)  # both may use the same runtime, which has one number for a thread
