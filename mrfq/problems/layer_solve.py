"""Labels for all rows of a layer: nearest levels, GPTQ, ICM, annealed mean-field, simulated annealing.

Every function takes a target (R, C), a Gram matrix (C, C) and levels (R or 1, G, L), and returns labels (R, C), uint8.
The energy of a row q is `(q - t) H (q - t)^T`; rows are independent of one another.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.problems.layer_sweeps import Columns, Sweep, nearest_plane
from mrfq.schedules import Geometric

#: a positive multiple of the mean diagonal of the Gram matrix is added to its diagonal, times ten until it can be
#: factorised, at most so often
ATTEMPTS = 8


def nearest(target: Tensor, values: Tensor) -> Tensor:
    """Return the labels of the nearest levels."""
    columns = Columns.prepare(target, torch.eye(target.shape[1], device=target.device), values, _natural(target))
    return columns.restore(columns.nearest(columns.target))


def gptq(
    target: Tensor,
    gram: Tensor,
    values: Tensor,
    *,
    damping: float = 0.01,
    order: Literal["activation", "natural"] = "activation",
) -> Tensor:
    """Return the labels of GPTQ: column after column, the error of each made good by those that follow.

    Parameters
    ----------
    target : Tensor, shape (R, C)
    gram : Tensor, shape (C, C)
        Symmetric, positive semi-definite.
    values : Tensor, shape (R or 1, G, L)
        Levels, ascending; G divides C.
    damping : float
        This part of the mean diagonal entry is added to the diagonal.
    order : {"activation", "natural"}
        From the largest diagonal entry to the smallest, or as the columns come.

    Returns
    -------
    Tensor, shape (R, C), uint8

    Notes
    -----
    GPTQ is Babai's nearest plane algorithm on the lattice of the levels: with `H = R^T R`, R lower triangular, the
    energy is `sum_j (sum_k<=j R_jk (q_k - t_k))^2`, and each term is made as small as those before it allow. That
    needs one Cholesky factor and no inverse, which the usual formulation takes two factors and an inverse for.

    References
    ----------
    Frantar et al., GPTQ, ICLR 2023.

    Examples
    --------
    >>> gram = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> levels = torch.tensor([[[0.0, 1.0]]])
    >>> nearest(torch.tensor([[0.4, 0.4]]), levels), gptq(torch.tensor([[0.4, 0.4]]), gram, levels)
    (tensor([[0, 0]], dtype=torch.uint8), tensor([[0, 1]], dtype=torch.uint8))
    """
    columns = Columns.prepare(target, gram, values, _natural(target) if order == "natural" else None)
    return columns.restore(gptq_columns(columns, damping))


def gptq_columns(columns: Columns, damping: float = 0.01) -> Tensor:
    """Return the labels (C, R) of GPTQ in the order of the columns."""
    return nearest_plane(columns, plane_factor(columns.gram, damping))


def icm(target: Tensor, gram: Tensor, values: Tensor, labels: Tensor, *, sweeps: int = 100) -> Tensor:
    """Return labels that iterated conditional modes reach: each weight in turn takes its best level given the others.

    The energy of no row rises. Ends early when a sweep changes nothing.
    """
    sweep = Sweep.at_labels(columns := Columns.prepare(target, gram, values), columns.arrange(labels))
    descend(sweep, sweeps)
    return columns.restore(sweep.labels)


def mean_field(
    target: Tensor,
    gram: Tensor,
    values: Tensor,
    *,
    start: Tensor | None = None,
    sweeps: int = 30,
    beta: tuple[float, float] = (2.0, 40.0),
) -> Tensor:
    """Return labels by annealed sequential mean-field.

    Parameters
    ----------
    target, gram, values : Tensor
    start : Tensor, shape (R, C), optional
        Values to start from; by default the target.
    sweeps : int
    beta : (float, float)
        First and last inverse temperature of squared distances in units of the quantization step.
    """
    columns = Columns.prepare(target, gram, values)
    begin = columns.target if start is None else start.T[columns.order].float()
    sweep = Sweep.at(columns, begin)
    anneal(sweep, "softmax", sweeps, beta)
    return columns.restore(sweep.labels)


def anneal(
    sweep: Sweep, rule: str, sweeps: int, beta: tuple[float, float], generator: torch.Generator | None = None
) -> None:
    """Run sweeps at a geometric schedule of the inverse temperature, in place."""
    schedule = Geometric(*beta)
    for k in range(sweeps):
        sweep.run(rule, schedule(k / max(sweeps - 1, 1), k), generator=generator)


def descend(sweep: Sweep, sweeps: int) -> int:
    """Run sweeps of ICM in place until one changes nothing; return how many were run."""
    for k in range(sweeps):
        if sweep.run("argmin") == 0:
            return k + 1
    return sweeps


def plane_factor(gram: Tensor, damping: float) -> Tensor:
    """Return the lower triangular R of `H = R^T R`, rows divided by their diagonal, float32.

    Raises
    ------
    InvalidProblemError
        The matrix has entries that are not finite, or is too far from positive semi-definite.
    """
    if damping < 0:
        raise InvalidParameterError(f"GPTQ: damping must not be negative, got {damping}")
    if not bool(gram.isfinite().all()):
        raise InvalidProblemError("GPTQ: the Gram matrix has entries that are not finite")
    typical = float(gram.diagonal().double().mean()) or 1.0
    for attempt in range(ATTEMPTS):
        shift = typical * (damping if attempt == 0 else max(damping, 1e-6) * 10**attempt)
        damped = gram.double().flip(0, 1)
        damped.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed.any()):
            lower: Tensor = factor.T.flip(0, 1)
            lower = lower / lower.diagonal()[:, None]
            return lower.float().contiguous()
    raise InvalidProblemError("GPTQ: the Gram matrix is not positive semi-definite")


def _natural(target: Tensor) -> Tensor:
    return torch.arange(target.shape[1], device=target.device)
