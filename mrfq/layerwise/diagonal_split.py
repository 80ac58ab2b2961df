"""Positive semi-definite matrices split into a diagonal one, as large as possible, and a semi-definite rest."""

from __future__ import annotations

import torch
from torch import Tensor

#: inverse temperatures of the barrier, in units of the mean diagonal entry: from the first, by this factor, to the last
FIRST, FACTOR, LAST = 0.1, 0.2, 3e-3
#: Newton steps of a barrier and of all of them, and the length of a step that is short enough to go on
STEPS, MOST_STEPS, SHORT = 8, 40, 1.0
#: a step is shortened by this factor until it stays inside
SHORTER = 0.7
#: relative to the diagonal: what is added to it so that there is an inside
INSIDE = 1e-8
#: relative to the largest weight: no weight is below this
LEAST = 1e-3


def diagonal_split(gram: Tensor, weights: Tensor) -> Tensor:
    """Return a diagonal D of large weighted sum for which `gram - diag(D)` is positive semi-definite.

    Parameters
    ----------
    gram : Tensor, shape (C, C), float64
        Symmetric, and positive semi-definite up to rounding errors.
    weights : Tensor, shape (C,), float64
        At least 0, not all 0.

    Returns
    -------
    Tensor, shape (C,), float64
        At least 0 up to a small allowance for rounding, by which entries may be below.

    Notes
    -----
    Maximises `sum(w D) + mu (log det(H - D) + sum(log D))` by Newton's method for falling mu, in the coordinates in
    which the diagonal of the Gram matrix is one; some twenty factorisations of it.

    References
    ----------
    S. J. Benson, Y. Ye and X. Zhang, "Solving large-scale sparse semidefinite programs for combinatorial optimization",
    SIAM Journal on Optimization 10(2), 2000.

    Examples
    --------
    >>> gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> diagonal = diagonal_split(gram, torch.ones(2, dtype=torch.float64))
    >>> bool((diagonal > 0.98).all() and (diagonal <= 1).all())
    True
    """
    scaled, scale = _unit_diagonal(gram)
    aim = weights * scale.square()
    aim = (aim / aim.amax().clamp(min=torch.finfo(aim.dtype).tiny)).clamp(min=LEAST)
    lowest = float(torch.linalg.eigvalsh(scaled)[0])
    allowance = max(INSIDE, -2 * lowest)
    scaled.diagonal().add_(allowance)
    diagonal = _follow(scaled, aim / aim.mean(), 0.5 * (lowest + allowance))
    scaled.diagonal().sub_(allowance)
    return _certified(scaled, diagonal - allowance) * scale.square()


def eigenvalue_split(gram: Tensor) -> Tensor:
    """Return the diagonal D with `gram - diag(D)` semi-definite that is a multiple of the diagonal of the matrix.

    Examples
    --------
    >>> eigenvalue_split(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)).round(decimals=9)
    tensor([1., 1.], dtype=torch.float64)
    """
    scaled, scale = _unit_diagonal(gram)
    lowest = torch.linalg.eigvalsh(scaled)[0].expand(len(gram))
    return _certified(scaled, lowest) * scale.square()


def _unit_diagonal(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix scaled to a diagonal of ones, as a new tensor, and the scales; zeros stay zeros."""
    diagonal = gram.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1.0).sqrt()
    return gram / scale / scale[:, None], scale


def _follow(gram: Tensor, weights: Tensor, start: float) -> Tensor:
    """Return the maximum of the last barrier; `gram` is positive definite, and `gram - start` too."""
    diagonal = torch.full_like(weights, start)
    factor = torch.linalg.cholesky(gram - torch.diag(diagonal))
    barrier, taken = FIRST, 0
    while barrier >= LAST and taken < MOST_STEPS:
        for _ in range(STEPS):
            step, length = _newton(factor, diagonal, weights, barrier)
            diagonal, factor = _move(gram, diagonal, step, factor)
            taken += 1
            if length < SHORT:
                break
        barrier *= FACTOR
    return diagonal


def _newton(factor: Tensor, diagonal: Tensor, weights: Tensor, barrier: float) -> tuple[Tensor, float]:
    """Return the Newton step from a point and its length in the metric of the barrier."""
    inverse = torch.cholesky_inverse(factor)
    slope = weights / barrier - inverse.diagonal() + 1 / diagonal
    curvature = inverse.square_()
    curvature.diagonal().add_(diagonal.pow(-2))
    step = torch.cholesky_solve(slope[:, None], torch.linalg.cholesky(curvature))[:, 0]
    return step, float((step * slope).sum().clamp(min=0).sqrt())


def _move(gram: Tensor, diagonal: Tensor, step: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point after as much of a step as stays inside, and the Cholesky factor of what is left there."""
    size = 1.0
    while size > torch.finfo(torch.float64).eps:
        there = diagonal + size * step
        if bool((there > 0).all()):
            found, failed = torch.linalg.cholesky_ex(gram - torch.diag(there))
            if not bool(failed):
                return there, found
        size *= SHORTER
    return diagonal, factor


def _certified(gram: Tensor, diagonal: Tensor) -> Tensor:
    """Return the diagonal, lowered until the rest is positive semi-definite whatever rounding does."""
    spectrum = torch.linalg.eigvalsh(gram - torch.diag(diagonal))
    error = 4 * len(gram) * torch.finfo(torch.float64).eps * spectrum.abs().amax()
    lowered: Tensor = diagonal + spectrum[0].clamp(max=0) - error
    return lowered
