"""Where a run starts: one relaxed labelling for every kind of solver, so that comparisons are fair."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.problem import Problem, SupportsUnary

Init = str | Tensor | np.ndarray | None
NOISE = 1e-2


def starting_point(problem: Problem, init: Init, generator: torch.Generator) -> Tensor:
    """Return the (n, L) relaxed labelling a run starts from.

    Parameters
    ----------
    problem : Problem
    init : str, array or None
        None asks the problem (its method `initial`, e.g. the float weights of a network), else means "unary".
        "unary": softmax of minus the unary costs on the scale of their spread, with a little noise that breaks
        ties; "uniform": all labels alike, with the same noise; "random": rows uniform on the simplex. An array
        is a labelling (n,) or a relaxed labelling (n, L).
    generator : torch.Generator

    Raises
    ------
    InvalidParameterError
        An unknown name.
    InvalidProblemError
        An array of the wrong shape, with labels out of range, or whose rows are not on the simplex.
    """
    if init is None:
        initial = getattr(problem, "initial", None)
        if initial is not None:
            return _checked(problem, initial())
        init = "unary"
    if not isinstance(init, str):
        try:
            given = torch.as_tensor(init)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidProblemError(f"init is not an array of numbers: {error}") from error
        return _checked(problem, given)
    if init not in ("unary", "uniform", "random"):
        raise InvalidParameterError(f"init must be 'unary', 'uniform', 'random' or an array, got {init!r}")
    scores = _noise(problem, generator, 1.0 if init == "random" else NOISE)
    if init == "unary" and isinstance(problem, SupportsUnary):
        scores = scores - _standardised(problem)
    if problem.label_set.mask is not None:
        scores = scores.masked_fill(~problem.label_set.mask, -torch.inf)
    return _softmax(scores).to(problem.dtype).to(problem.device)


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax of each row; that of two labels is a sigmoid, which torch computes ten times as fast."""
    if scores.shape[1] != 2:
        return torch.softmax(scores, 1)
    first = torch.sigmoid(scores[:, 0] - scores[:, 1])
    return torch.stack([first, 1 - first], 1)


def _noise(problem: Problem, generator: torch.Generator, scale: float) -> Tensor:
    """Return log-exponential scores: their softmax is uniform on the simplex when scale is 1."""
    exponential = -torch.log1p(-torch.rand(problem.shape, generator=generator, dtype=torch.float64))
    return scale * exponential.clamp(min=1e-12).log()


def _standardised(problem: SupportsUnary) -> Tensor:
    """Return unary costs above each row's lowest, in units of their mean spread; forbidden labels far above."""
    unary = problem.unary.to("cpu", torch.float64)
    lowest = torch.minimum(unary[:, 0], unary[:, 1])[:, None] if unary.shape[1] == 2 else unary.amin(1, keepdim=True)
    above = unary - lowest
    apart = (above > 0) & (above < torch.inf)
    spread = float(above.where(apart, 0.0).sum() / apart.sum()) if bool(apart.any()) else 1.0
    return torch.nan_to_num(above / (spread if math.isfinite(spread) else 1.0), nan=50.0, posinf=50.0)


def _checked(problem: Problem, given: Tensor) -> Tensor:
    labels = problem.label_set
    if given.ndim == 1:
        return labels.one_hot(labels.check(given), problem.dtype)
    if given.shape != problem.shape:
        n, count = problem.shape
        raise InvalidProblemError(f"init needs shape ({n},) or ({n}, {count}), got {tuple(given.shape)}")
    u = given.to(problem.device, problem.dtype, copy=True)
    bad = ~((u >= 0).all(1) & ((u.sum(1) - 1).abs() <= 1e-3))
    if labels.mask is not None:
        bad |= (u.masked_fill(labels.mask, 0) > 0).any(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InvalidProblemError(f"row {row} of init is not a distribution over the labels of variable {row}")
    return u
