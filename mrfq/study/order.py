"""Order parameters of a labelling problem, relaxed and exact: how much variables agree, and how decided they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrfq.problem import Problem, SupportsBatch
from mrfq.study.runs import Floats

#: labellings that the exact order parameters may enumerate
ENUMERABLE = 2**16


def positions(problem: Problem) -> Tensor:
    """Return the (n, L) positions of the labels on a scale from -1 (the first) to 1 (the last); 0 for a single one."""
    exists = _exists(problem)
    count = exists.sum(1, keepdim=True)
    rank = exists.cumsum(1) - 1
    place = 2 * rank / (count - 1).clamp(min=1) - 1
    return torch.where(exists & (count > 1), place.double(), 0.0)


def magnetisation(problem: Problem, u: Tensor) -> float:
    """Return the mean position of a relaxed labelling; for spins their mean."""
    return float((positions(problem) * u.double()).sum() / len(u))


def polarisation(problem: Problem, u: Tensor) -> float:
    """Return how far a relaxed labelling is from uniform, 0 to 1: for spins the root mean square magnetisation.

    It also sees order whose sign changes from site to site, as in an antiferromagnet or a glass.
    """
    count = _exists(problem).sum(1)
    free = count > 1
    spread = (count * (u.double() ** 2).sum(1) - 1) / (count - 1).clamp(min=1)
    return math.sqrt(max(float(spread[free].mean()), 0.0)) if bool(free.any()) else 0.0


@dataclass(frozen=True)
class ExactOrder:
    """Exact averages over the Gibbs distribution `exp(-beta E) / Z`, one per inverse temperature.

    Parameters
    ----------
    betas : (k,) array
    mean : (k,) array
        Of the magnetisation.
    size : (k,) array
        Of its absolute value, which a symmetry does not make vanish.
    """

    betas: Floats
    mean: Floats
    size: Floats


def exact_order(problem: Problem, betas: Floats) -> ExactOrder | None:
    """Return exact averages by enumeration, or None if there are too many labellings."""
    counts = _exists(problem).sum(1).tolist()
    if math.prod(counts) > ENUMERABLE or not isinstance(problem, SupportsBatch):
        return None
    labels = all_labellings(problem)
    energies = problem.energies(labels).numpy()
    place = positions(problem)
    m = place[torch.arange(len(place)), labels].mean(1).numpy()
    finite = np.isfinite(energies)
    if not finite.any():
        return None
    above, m = energies[finite] - energies[finite].min(), m[finite]
    weights = np.exp(-betas[:, None] * above)
    weights /= weights.sum(1, keepdims=True)
    return ExactOrder(betas, weights @ m, weights @ np.abs(m))


def all_labellings(problem: Problem) -> Tensor:
    """Return every labelling of a small problem, shape (k, n)."""
    existing = [row.nonzero()[:, 0] for row in _exists(problem)]
    digits = np.unravel_index(
        np.arange(math.prod(len(labels) for labels in existing)), [len(labels) for labels in existing]
    )
    columns = [labels[torch.from_numpy(digit)] for labels, digit in zip(existing, digits, strict=True)]
    return torch.stack(columns, 1)


def _exists(problem: Problem) -> Tensor:
    mask = problem.label_set.mask
    return torch.ones(problem.shape, dtype=torch.bool) if mask is None else mask.cpu()
