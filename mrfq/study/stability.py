"""Linear stability of mean-field at the uniform labelling: where order sets in, and where parallel updates flip.

Around the uniform labelling, `u <- softmax(-beta g(u))` multiplies a small deviation by `-beta D A`, where A is the
Hessian of the relaxed energy and D the covariance of a uniform label. The largest eigenvalue of `-D A` is one over the
critical beta; for the Ising model it is that of the couplings, so beta_c = 1 / rho(J) for a ferromagnet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from mrfq.problem import Problem

#: operators of at most this size are written out and decomposed completely
DENSE = 300
#: step of the central difference; exact for pairwise energies, whose gradient is affine
STEP = 1e-3
#: costs of single labels below this part of the couplings are no field
NO_FIELD = 1e-9


@dataclass(frozen=True)
class Stability:
    """What linear stability says about mean-field near the uniform labelling.

    Parameters
    ----------
    critical : float
        Inverse temperature above which a deviation grows; inf if none ever does.
    flip : float
        Inverse temperature above which undamped parallel updates amplify a deviation of alternating sign.
    symmetric : bool
        Whether the uniform labelling is a fixed point at every temperature, so that `critical` is a bifurcation.
    """

    critical: float
    flip: float
    symmetric: bool


def linear_stability(problem: Problem) -> Stability:
    """Return the eigenvalues of mean-field at the uniform labelling, as inverse temperatures.

    Examples
    --------
    Two spins with a coupling of 2:

    >>> from mrfq import PairwiseMRF
    >>> linear_stability(PairwiseMRF.ising([0.0, 0.0], 2.0, [[0, 1]]))
    Stability(critical=0.5, flip=0.5, symmetric=True)
    """
    uniform = uniform_labelling(problem)
    _, g = problem.linearize(uniform)
    if not bool(g.isfinite().all()):
        return Stability(math.inf, math.inf, symmetric=False)
    apply = _operator(problem, uniform)
    low, high = _extreme_eigenvalues(apply, uniform.numel())
    field = float(_centred(g.double(), uniform).abs().max())
    scale = max(abs(low), abs(high))
    return Stability(_beta(high, scale), _beta(-low, scale), field <= NO_FIELD * max(scale, 1e-300))


def uniform_labelling(problem: Problem) -> Tensor:
    """Return the (n, L) relaxed labelling in which all labels of a variable are alike."""
    mask = problem.label_set.mask
    exists = torch.ones(problem.shape, dtype=problem.dtype) if mask is None else mask.to("cpu", problem.dtype)
    return (exists / exists.sum(1, keepdim=True)).to(problem.device)


def _beta(eigenvalue: float, scale: float) -> float:
    return float(f"{1 / eigenvalue:.12g}") if eigenvalue > 1e-12 * scale else math.inf


def _centred(v: Tensor, uniform: Tensor) -> Tensor:
    """Return v minus its mean over the labels of each variable, 0 for labels that do not exist."""
    return torch.where(uniform > 0, v - (uniform * v).sum(1, keepdim=True), 0.0)


def _operator(problem: Problem, uniform: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """Return the symmetric form `-W P A P W` of the linearised update: P centres, W takes roots of probabilities."""
    root = uniform.sqrt()

    def apply(flat: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(np.ascontiguousarray(flat)).reshape(uniform.shape).to(uniform.dtype)
        direction = STEP * _centred(root * v, uniform)
        _, ahead = problem.linearize(uniform + direction)
        _, behind = problem.linearize(uniform - direction)
        image = -root * _centred((ahead - behind) / (2 * STEP), uniform)
        return image.double().reshape(-1).numpy()

    return apply


def _extreme_eigenvalues(apply: Callable[[np.ndarray], np.ndarray], size: int) -> tuple[float, float]:
    """Return the lowest and the highest eigenvalue of a symmetric operator."""
    if size <= DENSE:
        matrix = np.stack([apply(row) for row in np.eye(size)])
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        return float(values[0]), float(values[-1])
    operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
    first = np.random.default_rng(0).standard_normal(size)  # a fixed start, so that the result can be repeated
    values = eigsh(operator, k=2, which="BE", v0=first, return_eigenvectors=False)
    return float(values.min()), float(values.max())
