"""Checks of the parts of a pairwise MRF: one clear message that names the first bad entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError


def check_unary(unary: Any, dtype: torch.dtype) -> Tensor:
    """Return unary costs as a new (n, L) tensor; +inf is allowed, NaN and -inf are not."""
    costs = as_costs("unary costs", unary, dtype)
    if costs.ndim != 2 or 0 in costs.shape:
        raise InvalidProblemError(
            f"unary costs need shape (variables, labels), both at least 1, got {tuple(costs.shape)}"
        )
    _check_costs("unary", costs)
    return costs


def check_mask(mask: Any, shape: tuple[int, int]) -> Tensor | None:
    """Return the mask of existing labels as a new bool tensor; every variable needs a label."""
    if mask is None:
        return None
    exists = torch.tensor(_array("mask", mask))
    if exists.shape != shape or exists.dtype != torch.bool:
        raise InvalidProblemError(f"mask needs shape {shape} and type bool, got {tuple(exists.shape)}, {exists.dtype}")
    empty = ~exists.any(1)
    if bool(empty.any()):
        raise InvalidProblemError(f"mask leaves variable {int(empty.nonzero()[0])} without any label")
    return exists


def check_edges(edges: Any, n: int) -> Tensor:
    """Return edges as a new (m, 2) int64 tensor."""
    given = _array("edges", edges)
    if given.size == 0:
        return torch.zeros((0, 2), dtype=torch.int64)
    if given.ndim != 2 or given.shape[1] != 2 or given.dtype.kind not in "iu":
        raise InvalidProblemError(f"edges need shape (m, 2) and whole numbers, got {given.shape} and {given.dtype}")
    pairs = torch.tensor(given.astype(np.int64))
    outside = ((pairs < 0) | (pairs >= n)).any(1)
    if bool(outside.any()):
        e = int(outside.nonzero()[0])
        raise InvalidProblemError(
            f"edges[{e}] is {tuple(pairs[e].tolist())}, but the variables are numbered 0 to {n - 1}"
        )
    loops = pairs[:, 0] == pairs[:, 1]
    if bool(loops.any()):
        e = int(loops.nonzero()[0])
        raise InvalidProblemError(f"edges[{e}] joins variable {int(pairs[e, 0])} to itself; add it to the unary costs")
    return pairs


def check_tables(tables: Any, weights: Any, m: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return tables (1 or m, L, L) and weights (m,) as new tensors."""
    if tables is None:
        if m:
            raise InvalidProblemError(f"{m} edges but no tables: give one of shape ({count}, {count}), or one per edge")
        tables = torch.zeros((count, count))
    costs = as_costs("tables", tables, dtype)
    if costs.ndim == 2:
        costs = costs[None]
    if costs.ndim != 3 or costs.shape[1:] != (count, count) or len(costs) not in (1, m):
        raise InvalidProblemError(
            f"tables need shape ({count}, {count}) or ({m}, {count}, {count}), got {tuple(costs.shape)}"
        )
    _check_costs("tables", costs)
    factors = torch.ones(m, dtype=dtype) if weights is None else as_costs("weights", weights, dtype)
    if factors.ndim == 0:
        factors = factors.repeat(m)
    if factors.shape != (m,):
        raise InvalidProblemError(f"weights need shape ({m},), got {tuple(factors.shape)}")
    if not bool(factors.isfinite().all()):
        e = int((~factors.isfinite()).nonzero()[0])
        raise InvalidProblemError(f"weights[{e}] is {float(factors[e])}, but weights are finite")
    if bool(costs.isinf().any()) and bool((factors <= 0).any()):
        e = int((factors <= 0).nonzero()[0])
        raise InvalidProblemError(f"weights[{e}] is {float(factors[e])}, but tables with +inf need positive weights")
    return costs, factors


def _array(what: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise InvalidProblemError(f"{what} are not a rectangular array: {error}") from error


def as_costs(what: str, given: Any, dtype: torch.dtype) -> Tensor:
    """Return numbers as a new tensor on the CPU."""
    try:
        if isinstance(given, Tensor):
            return given.detach().to("cpu", dtype, copy=True)
        return torch.tensor(np.asarray(given, dtype=np.float64), dtype=dtype)
    except (ValueError, TypeError) as error:
        raise InvalidProblemError(f"{what} are not an array of numbers: {error}") from error


def _check_costs(what: str, costs: Tensor) -> None:
    bad = costs.isnan() | (costs == -torch.inf)
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        index = ", ".join(str(k) for k in where)
        value = "NaN" if bool(costs[tuple(where)].isnan()) else "-inf"
        raise InvalidProblemError(f"{what}[{index}] is {value}; costs are finite, or +inf for what is forbidden")
