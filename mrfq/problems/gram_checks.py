"""Checks of targets and Gram matrices: one clear message that names what is wrong and where."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.problems.checks import as_costs

#: relative size of an asymmetry or of a negative eigenvalue that rounding may cause; single precision is common
ROUNDING = 1e-4
#: rows of a matrix whose eigenvalues are computed to check it
LARGEST_DECOMPOSED = 512


def check_matrix(what: str, given: Any, dtype: torch.dtype, *, columns: int | None = None) -> Tensor:
    """Return a matrix of finite numbers as a new tensor on the CPU, of so many columns."""
    matrix = as_costs(what, given, dtype)
    if matrix.ndim != 2 or 0 in matrix.shape or columns not in (None, matrix.shape[1]):
        wanted = "a matrix that is not empty" if columns is None else f"a matrix of {columns} columns"
        raise InvalidProblemError(f"{what}: {wanted} is needed, got shape {tuple(matrix.shape)}")
    _check_finite(what, matrix)
    return matrix


def check_gram(what: str, given: Any, size: int, dtype: torch.dtype, *, many: bool = False) -> Tensor:
    """Return a positive semi-definite matrix (size, size), or several, as a new symmetric tensor (p, size, size).

    Asymmetry and negative eigenvalues of the size of rounding errors are let through; the first is averaged out. The
    eigenvalues of large matrices are not computed: only their diagonals are looked at.
    """
    matrices = as_costs(what, given, dtype)
    matrices = matrices[None] if matrices.ndim == 2 else matrices
    if matrices.ndim != 3 or matrices.shape[1:] != (size, size) or not (len(matrices) == 1 or (many and len(matrices))):
        several = f" or (p, {size}, {size})" if many else ""
        raise InvalidProblemError(f"{what}: shape ({size}, {size}){several} is needed, got {tuple(matrices.shape)}")
    _check_finite(what, matrices)
    for matrix in matrices:
        _check_semi_definite(what, matrix)
    return (matrices + matrices.mT) / 2


def whitening(gram: Tensor, floor: float = 0.0) -> Tensor:
    """Return a matrix L (d, d), float64, with `L L^T` equal to a positive semi-definite matrix, singular or not.

    Eigenvalues below `floor` times the largest are raised to that; with all of them 0 and a floor, L is the identity.
    """
    values, vectors = torch.linalg.eigh(gram.double())
    top = values.amax().clamp(min=0)
    if floor > 0 and top == 0:
        return torch.eye(len(gram), dtype=torch.float64)
    root: Tensor = vectors * values.clamp(min=float(floor * top)).sqrt()
    return root


def _check_finite(what: str, tensor: Tensor) -> None:
    bad = ~tensor.isfinite()
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        index = ", ".join(str(k) for k in where)
        raise InvalidProblemError(f"{what}[{index}] is {float(tensor[tuple(where)])}, but all numbers must be finite")


def _check_semi_definite(what: str, matrix: Tensor) -> None:
    size = float(matrix.abs().amax())
    skew = float((matrix - matrix.T).abs().amax())
    if skew > ROUNDING * size:
        raise InvalidProblemError(
            f"{what} must be symmetric; entries differ from the transposed ones by up to {skew:.3g}"
        )
    diagonal = matrix.diagonal()
    if bool((diagonal < -ROUNDING * size).any()):
        i = int(diagonal.argmin())
        raise InvalidProblemError(
            f"{what} must be positive semi-definite, but entry ({i}, {i}) is {float(diagonal[i]):.3g}"
        )
    if len(matrix) <= LARGEST_DECOMPOSED:
        lowest = float(torch.linalg.eigvalsh(((matrix + matrix.T) / 2).double())[0])
        if lowest < -ROUNDING * size * len(matrix) ** 0.5:
            raise InvalidProblemError(f"{what} must be positive semi-definite, but it has the eigenvalue {lowest:.3g}")
