"""The decorator of every numba kernel: compiled once, cached on disk, IEEE infinities respected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

#: Sums may be reassociated, so that loops vectorise. Infinities keep their meaning; costs are checked to hold no NaN
#: before they get here.
FAST = {"reassoc", "contract", "arcp", "nsz", "nnan"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba."""
    compiled: Callable[..., Any] = numba.njit(cache=True, fastmath=FAST)(function)
    return compiled
