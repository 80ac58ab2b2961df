"""The decorator of every numba kernel: compiled once, cached on disk, IEEE infinities respected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a function with numba.

    Sums may be reassociated (so that loops vectorise); infinities and NaN keep their meaning.
    """
    return cast(F, numba.njit(cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"})(function))
