"""What the weights of a layer should be, and the metric in which deviations count."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrfq.quantize.moments import Moments


def metric(moments: Moments, centred: bool) -> tuple[Tensor, Tensor]:
    """Return (gram, cross), about the means or about zero, float64 of shapes (g, C, C) and (g, R, C)."""
    return (moments.gram, moments.cross) if centred else (moments.raw_gram, moments.raw_cross)


def best_weights(gram: Tensor, cross: Tensor, weight: Tensor, damping: float) -> Tensor:
    """Return the weights whose outputs come nearest to those wanted, drawn a little towards given weights.

    They minimise `E |z - t x|^2 + d |t - w|^2` with d the damping times the mean of the diagonal of the Gram matrix:
    the target for the labels of a layer whose inputs x are those of the quantized network, and whose outputs z are
    those of the float network. Directions of which the calibration inputs tell nothing keep the float weights.

    Parameters
    ----------
    gram : Tensor, shape (g, C, C), float64
        Moments of the inputs.
    cross : Tensor, shape (g, R, C), float64
        Of outputs and inputs.
    weight : Tensor, shape (g, R, C)
        The float weights.
    damping : float
        At least 0.

    Returns
    -------
    Tensor, shape (g, R, C), float64

    Examples
    --------
    >>> x = torch.randn(1, 3, 400, dtype=torch.float64)
    >>> weight = torch.randn(1, 2, 3, dtype=torch.float64)
    >>> found = best_weights(x @ x.mT, weight @ x @ x.mT, torch.zeros(1, 2, 3), damping=0.0)
    >>> torch.allclose(found, weight)
    True
    """
    weight = weight.to(gram)
    return torch.stack([_solved(h, c, w, damping) for h, c, w in zip(gram, cross, weight, strict=True)])


def _solved(gram: Tensor, cross: Tensor, weight: Tensor, damping: float) -> Tensor:
    """Return `w + (cross - w H) (H + d)^-1`; inputs without variance keep their weight."""
    mean = float(gram.diagonal().mean())
    if not mean > 0 or not math.isfinite(mean):
        return weight
    gap = cross - weight @ gram
    damped = gram + damping * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    root, failed = torch.linalg.cholesky_ex(damped)
    alive = gram.diagonal() > 0
    if not int(failed) and bool(root.diagonal().square().min() > 1e-13 * mean):
        step = torch.cholesky_solve(gap.mT, root).mT
    else:  # singular: the smallest change that does it
        step = gap @ torch.linalg.pinv(damped, hermitian=True, rtol=1e-10)
    return weight + torch.where(alive, step, 0.0)


def least_squares(moments: Moments, weight: Tensor, shift: bool = True) -> tuple[Tensor, Tensor]:
    """Return scale and shift (g, R), float64, with which `scale * (weight @ x) + shift` is nearest to the outputs.

    Parameters
    ----------
    moments : Moments
    weight : Tensor, shape (g, R, C)
    shift : bool
        Whether there may be a shift; it is 0 otherwise.

    Notes
    -----
    A row of weights without effect has the scale 1.
    """
    gram, cross = metric(moments, centred=shift)
    weight = weight.to(gram)
    explained = (weight * cross).sum(-1)
    energy = ((weight @ gram) * weight).sum(-1)
    known = energy > 1e-12 * (weight**2).sum(-1) * gram.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    scale = torch.where(known, explained / torch.where(known, energy, 1.0), 1.0)
    if not shift:
        return scale, torch.zeros_like(scale)
    return scale, best_shift(moments, weight, scale)


def best_shift(moments: Moments, weight: Tensor, scale: Tensor) -> Tensor:
    """Return the shift (g, R) that makes up for the mean error of `scale * (weight @ x)`."""
    return moments.mean_z - scale * (weight.to(scale) @ moments.mean_x[:, :, None])[..., 0]
