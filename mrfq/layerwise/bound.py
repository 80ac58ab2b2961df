r"""A lower bound of the energy of a layer, row by row: how far from the optimum a quantization can be at most.

Split :math:`H = M + \mathrm{diag}(D)` with M positive semi-definite. For a row q of levels and any y

.. math:: (q - t) H (q - t)^T \ge -y M y^T + \sum_j \min_a [s_j (q_a - t_j) + D_j (q_a - t_j)^2], \quad s = 2 y M,

because a convex function lies above its tangents. The best y is that of a convex relaxation: weights x between the
levels, with the parabola of D replaced by its chords from level to level, which lie above it. The best D is the
dual of the semi-definite relaxation; one D serves all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.kernels import threads_for
from mrfq.layerwise.bound_kernels import descend_relaxed, optimal_slopes, tangent_minima
from mrfq.layerwise.diagonal_split import diagonal_split, eigenvalue_split
from mrfq.problems.gram_checks import check_gram, check_matrix
from mrfq.problems.layer_values import LayerValues

#: sweeps of the relaxation between two looks at its bound
SWEEPS = 50
#: the relaxation is solved to this relative distance from its own optimum
TOLERANCE = 0.01


def layer_bound(target: Tensor, gram: Tensor, values: Tensor, *, rounds: int = 2, sweeps: int = 300) -> Tensor:
    """Return a lower bound of the energy `(q - t) H (q - t)^T` of every row over all its labellings.

    Parameters
    ----------
    target : Tensor, shape (R, C)
    gram : Tensor, shape (C, C)
        Symmetric, positive semi-definite, singular or not.
    values : Tensor, shape (R or 1, G, L)
        Ascending levels of each row and each of G groups of C / G consecutive columns.
    rounds : int
        How often the split of the Gram matrix is adapted to where the relaxation leaves the levels; at least 1.
    sweeps : int
        Most sweeps of coordinate descent over a relaxation.

    Returns
    -------
    Tensor, shape (R,), float64
        On the CPU. Below 0 by rounding errors where nothing can be shown.

    Raises
    ------
    InvalidProblemError
        Shapes that do not fit, levels that descend, numbers that are not finite, a matrix that is not positive
        semi-definite.
    InvalidParameterError
        Rounds or sweeps below 1.

    Notes
    -----
    The bound holds whatever the descent reaches: it is evaluated in double precision from a split whose smallest
    eigenvalue is computed, with an allowance for rounding. It is never below the classical bound, the smallest
    eigenvalue (of the Gram matrix scaled to a unit diagonal) times the squared distance to the nearest levels. The
    work grows with C^3: a few seconds for some hundred columns.

    How tight it is depends on the number of levels: about 0.9 of the best energy known for binary rows of real
    layers with a thousand inputs, 0.4 to 0.8 for ternary ones, 0.1 to 0.5 at 3 bits; less where few inputs make the
    Gram matrix close to singular.

    References
    ----------
    M. X. Goemans and D. P. Williamson, "Improved approximation algorithms for maximum cut and satisfiability problems
    using semidefinite programming", Journal of the ACM 42(6), 1995; the relaxation of two levels is theirs.

    Examples
    --------
    >>> gram = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> bound = layer_bound(torch.tensor([[0.4, 0.4]]), gram, torch.tensor([[[0.0, 1.0]]]))
    >>> bool(0.23 < bound < 0.28)  # the best labels, 0 and 1, have the energy 0.28
    True
    """
    if rounds < 1 or sweeps < 1:
        raise InvalidParameterError(f"layer_bound: rounds and sweeps must be at least 1, got {rounds} and {sweeps}")
    aims = check_matrix("target", target, torch.float64)
    rows, columns = aims.shape
    metric = check_gram("gram", gram, columns, torch.float64)[0]
    relaxation = _Relaxation(aims, metric, LayerValues(values, rows, columns).levels)
    best = relaxation.tangent(torch.zeros_like(aims), metric, eigenvalue_split(metric))
    weights = relaxation.spacing()
    for _ in range(rounds):
        bound, gaps = relaxation.solve(diagonal_split(metric, weights), sweeps)
        best = best.maximum(bound)
        weights = weights / weights.mean() + gaps / gaps.mean().clamp(min=torch.finfo(gaps.dtype).tiny)
    return best


class _Relaxation:
    """Rows whose weights may lie between the levels."""

    def __init__(self, target: Tensor, gram: Tensor, values: Tensor) -> None:
        self.target, self.gram, self.values = target, gram, values

    def spacing(self) -> Tensor:
        """Return the mean squared distance of neighbouring levels of each column, (C,)."""
        steps = self.values.diff(dim=2).square().sum((0, 2))
        steps = steps if bool(steps.any()) else torch.ones_like(steps)
        return steps.repeat_interleave(self.target.shape[1] // len(steps))

    def solve(self, diagonal: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
        """Return the bound (R,) of a split, and by how much the chords of each column are above the parabola, (C,)."""
        target, weights, rest = self.target, diagonal.clamp(min=0), self.gram - torch.diag(diagonal)
        factor = torch.linalg.cholesky_ex(rest)
        x, best, gaps = self._clipped(), target.new_full((len(target),), -torch.inf), torch.empty_like(target)
        for done in range(0, sweeps, SWEEPS):
            pull = (x - target) @ rest
            layer = (target.numpy(), self.values.numpy())
            with threads_for(x.numel() * len(rest) * SWEEPS):
                most = min(SWEEPS, sweeps - done)
                descend_relaxed(x.numpy(), pull.numpy(), *layer, rest.numpy(), weights.numpy(), most)
            slopes = 2 * (x - target) @ rest
            value = (slopes * (x - target)).sum(1) / 2
            optimal_slopes(x.numpy(), *layer, weights.numpy(), slopes.numpy(), gaps.numpy())
            value += ((x - target).square() + gaps) @ weights
            y = x - target if int(factor.info) else torch.cholesky_solve(slopes.T, factor.L).T / 2
            best = best.maximum(self.tangent(y, rest, diagonal))
            if bool((value - best <= TOLERANCE * value).all()):
                break
        return best, gaps.mean(0)

    def tangent(self, y: Tensor, rest: Tensor, diagonal: Tensor) -> Tensor:
        """Return the bound (R,) of the tangents at y (R, C), less what rounding may have added to it."""
        half = y @ rest
        least, largest = torch.empty_like(half), torch.empty_like(half)
        layer = (self.target.numpy(), self.values.numpy(), diagonal.numpy())
        tangent_minima((2 * half).numpy(), *layer, least.numpy(), largest.numpy())
        sizes = (y.abs() @ rest.abs()) * (y.abs() + 2 * largest) + diagonal.abs() * largest.square()
        error = 4 * y.shape[1] * torch.finfo(torch.float64).eps * sizes.sum(1)
        return least.sum(1) - (half * y).sum(1) - error

    def _clipped(self) -> Tensor:
        """Return the target where it is between the first and the last level, else the nearer of them."""
        width = self.target.shape[1] // self.values.shape[1]
        low, high = (self.values[..., a].repeat_interleave(width, 1) for a in (0, -1))
        return self.target.clamp(low, high)
