"""The normal equations of re-fits: one small system a row, in the numbers that its label sets store."""

from __future__ import annotations

import torch
from torch import Tensor

from mrfq.kernels import threads_for
from mrfq.layerwise.refit_kernels import cell_sums
from mrfq.layerwise.spec import LevelSpec

#: rows that are worked on together at most
CHUNK = 256
#: added to the unit diagonal of scaled equations: the first of these that makes them definite
RIDGES = (1e-7, 1e-5, 1e-3)
#: a number that counts less than this, relative to that of its row which counts most, stays as it is
WEIGHTLESS = 1e-12


def as_vector(spec: LevelSpec, parameters: Tensor) -> Tensor:
    """Return the numbers of rows (r, G, P) as (r, n): the levels group by group, or the scales before the offsets."""
    return (parameters if spec.base is None else parameters.transpose(1, 2)).flatten(1)


def as_sets(spec: LevelSpec, vector: Tensor, like: Tensor) -> Tensor:
    """Return vectors (r, n) as label sets in the shape (r, G, P) of others."""
    rows, groups, count = like.shape
    return vector.reshape(like.shape) if spec.base is None else vector.reshape(rows, count, groups).transpose(1, 2)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the products (r, n) of matrices (r, n, n) and vectors (r, n)."""
    return (matrix @ vector[:, :, None])[:, :, 0]


def normal_equations(spec: LevelSpec, labels: Tensor, groups: int, gram: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Return `A^T H A` and `A^T H t` of every row, where `q = A p` are its weights and p what its label sets store.

    Parameters
    ----------
    spec : LevelSpec
    labels : Tensor, uint8, shape (r, c)
    groups : int
        Of the columns.
    gram : Tensor, shape (c, c), float32
    pull : Tensor, shape (r, c), float64
        `t H`.

    Returns
    -------
    matrix : Tensor, shape (r, n, n), float64
    right : Tensor, shape (r, n), float64
        In the order of `as_vector`.

    Examples
    --------
    >>> spec, labels = LevelSpec(2, "uniform"), torch.tensor([[0, 1, 1]]).byte()
    >>> matrix, right = normal_equations(spec, labels, 1, torch.eye(3), torch.ones(1, 3, dtype=torch.float64))
    >>> matrix, right
    (tensor([[[2., 2.],
             [2., 3.]]], dtype=torch.float64), tensor([[2., 3.]], dtype=torch.float64))
    """
    cells, factors = _design(spec, labels, groups)
    count = groups * (spec.count if spec.base is None else 1)
    matrix = factors.new_zeros(len(labels), count, count)
    (_compiled_sums if gram.device.type == "cpu" else _composed_sums)(gram, cells, factors, matrix, groups)
    right = factors.new_zeros(len(labels), count).scatter_add_(1, cells.long(), factors * pull)
    return _with_offsets(matrix, right, factors, gram, pull) if spec.kind == "uniform" else (matrix, right)


def _compiled_sums(gram: Tensor, cells: Tensor, factors: Tensor, sums: Tensor, groups: int) -> None:
    with threads_for(cells.numel() * (len(gram) // 16 + sums.shape[1])) as threads:
        chunk = min(-(-len(cells) // threads), CHUNK)
        cell_sums(gram.numpy(), cells.numpy(), factors.numpy(), sums.numpy(), chunk)


def _composed_sums(gram: Tensor, cells: Tensor, factors: Tensor, sums: Tensor, groups: int) -> None:
    """Do what `cell_sums` does, by a product with the Gram matrix for every number that a row stores."""
    metric, into = gram.double(), cells.long()
    each, width = sums.shape[1] // groups, len(gram) // groups
    for number in range(sums.shape[1]):
        own = slice(number // each * width, (number // each + 1) * width)
        members = torch.where(cells[:, own] == number, factors[:, own], 0.0)
        sums[:, :, number].scatter_add_(1, into, factors * (members @ metric[own]))


def least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """Return solutions x (r, n) of `M x = b` with M (r, n, n) positive semi-definite and b (r, n) in its range.

    Numbers without weight are 0, and so are all of a row whose equations are not definite even with a ridge. The ridge
    is what single-precision Gram matrices leave undetermined anyway.

    Examples
    --------
    >>> matrix = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    >>> least_squares(matrix, torch.tensor([[4.0, 0.0]], dtype=torch.float64)).round(decimals=5)
    tensor([[2., 0.]], dtype=torch.float64)
    """
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    counts = diagonal > WEIGHTLESS * diagonal.amax(1, keepdim=True).clamp(min=0)
    inverse = torch.where(counts, diagonal, 1).rsqrt() * counts
    scaled = matrix * inverse[:, :, None] * inverse[:, None, :]
    found = torch.zeros_like(right)
    left = torch.arange(len(matrix), device=matrix.device)
    for ridge in RIDGES:
        part = scaled[left]
        part.diagonal(dim1=1, dim2=2).copy_(torch.full_like(right[left], 1 + ridge))
        factor, failed = torch.linalg.cholesky_ex(part)
        good = failed == 0
        solved = torch.cholesky_solve((right * inverse)[left[good], :, None], factor[good])[:, :, 0]
        found[left[good]] = solved * inverse[left[good]]
        if len(left := left[~good]) == 0:
            break
    return found


def _design(spec: LevelSpec, labels: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return for each weight the number it depends on, int32, and by which factor, float64; offsets left out."""
    group = torch.arange(groups, dtype=torch.int32, device=labels.device).repeat_interleave(labels.shape[1] // groups)
    if spec.base is None:
        return group * spec.count + labels.int(), torch.ones(labels.shape, dtype=torch.float64, device=labels.device)
    base = torch.tensor(spec.base, dtype=torch.float64, device=labels.device)
    return group.expand(labels.shape).contiguous(), base[labels.long()]


def _with_offsets(matrix: Tensor, right: Tensor, factors: Tensor, gram: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Return the equations of the scales of groups with those of their offsets added."""
    rows, groups = right.shape
    by_group = gram.reshape(groups, -1, len(gram)).sum(1, dtype=torch.float64).reshape(groups, groups, -1)
    mixed = torch.einsum("rhc,ghc->rhg", factors.reshape(rows, groups, -1), by_group)
    offsets = by_group.sum(-1).expand(rows, groups, groups)
    upper, lower = torch.cat([matrix, mixed], 2), torch.cat([mixed.transpose(1, 2), offsets], 2)
    return torch.cat([upper, lower], 1), torch.cat([right, pull.reshape(rows, groups, -1).sum(-1)], 1)
