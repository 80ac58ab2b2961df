"""The decorator of every numba kernel: compiled once, cached on disk, IEEE infinities respected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba.

    Sums may be reassociated (so that loops vectorise); infinities and NaN keep their meaning.
    """
    compiled: Callable[..., Any] = numba.njit(cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"})(function)
    return compiled
