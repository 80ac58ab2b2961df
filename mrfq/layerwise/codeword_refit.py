"""Codewords by least squares in the metric of a whole layer, the labels given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: steps of conjugate gradients, and the relative size of the gradient at which they end
STEPS, CLOSE = 30, 1e-4
#: what is added to a block of the preconditioner, relative to the mean of its diagonal
RIDGE = 1e-4


def refit_codewords(codewords: Tensor, labels: Tensor, target: Tensor, gram: Tensor, diagonal: Tensor) -> Tensor:
    """Return codewords with a lower sum over the rows of `(q - t) H (q - t)^T`, or the same if there are none.

    The normal equations are solved by conjugate gradients from the present codewords, preconditioned by the matrix of
    each codeword by itself. They are never formed: a step costs one product with H.

    Parameters
    ----------
    codewords : Tensor, shape (K, d), float32
    labels : Tensor, shape (R, P), int64
    target : Tensor, shape (R, C), float32
    gram : Tensor, shape (C, C), float32
    diagonal : Tensor, shape (P, d, d), float32
        The blocks of the Gram matrix on its diagonal.

    Examples
    --------
    >>> target, labels = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[0, 0, 1]])
    >>> found = refit_codewords(torch.zeros(2, 1), labels, target, torch.eye(3), torch.ones(3, 1, 1))
    >>> [round(x, 3) for x in found.flatten().tolist()]
    [1.5, 5.0]
    """
    shape, flat = codewords.shape, labels.flatten()

    def gather(values: Tensor) -> Tensor:
        """Return the sum over its blocks of the values (R, C) for each codeword, float64."""
        sums = torch.zeros(shape, dtype=torch.float64)
        return sums.index_add_(0, flat, values.reshape(-1, shape[1]).double())

    def apply(step: Tensor) -> Tensor:
        return gather(step.float()[labels].flatten(1) @ gram)

    found = codewords.double()
    residual = gather((target - codewords[labels].flatten(1)) @ gram)
    inverse = _preconditioner(labels, diagonal, len(codewords))
    better = inverse(residual)
    direction, steepness = better, float((residual * better).sum())
    first = steepness
    for _ in range(STEPS):
        if steepness <= CLOSE**2 * first:
            break
        image = apply(direction)
        curvature = float((direction * image).sum())
        if curvature <= 0:
            break
        found = found + (steepness / curvature) * direction
        residual = residual - (steepness / curvature) * image
        better = inverse(residual)
        steeper = float((residual * better).sum())
        direction = better + (steeper / steepness) * direction
        steepness = steeper
    return _better(found.float(), codewords, labels, target, gram)


def _preconditioner(labels: Tensor, diagonal: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Return the inverse of the normal equations without what couples different codewords."""
    blocks, width = diagonal.shape[:2]
    places = torch.arange(blocks).expand_as(labels)
    members = torch.bincount((labels * blocks + places).flatten(), minlength=count * blocks).view(count, blocks)
    own = torch.einsum("ap,pij->aij", members.double(), diagonal.double())
    size = own.diagonal(dim1=1, dim2=2).mean(1)
    size = torch.where(size > 0, size, 1.0)
    factor = torch.linalg.cholesky(own + RIDGE * size[:, None, None] * torch.eye(width))

    def inverse(gradient: Tensor) -> Tensor:
        return torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]

    return inverse


def _better(found: Tensor, present: Tensor, labels: Tensor, target: Tensor, gram: Tensor) -> Tensor:
    """Return the codewords of lower energy."""
    energies = []
    for codewords in (found, present):
        error = codewords[labels].flatten(1) - target
        energies.append(float(((error @ gram) * error).sum(dtype=torch.float64)))
    return found if energies[0] < energies[1] else present
