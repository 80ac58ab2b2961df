"""Scales of levels: which pieces of a parameter share one, and the least-squares fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.labels import LabelSet
from mrfq.projections import Nearest

#: none, one for the parameter, one for each output channel, or one for each so many weights of a channel
Scale = Literal["tensor", "channel"] | int | None
ROUNDS = 20


def rows_of(shape: torch.Size, scale: Scale) -> int:
    """Return how many equal consecutive pieces of a parameter have a scale of their own.

    Parameters with less than two dimensions (biases) have no channels and take one scale.

    Raises
    ------
    InvalidParameterError
        An unknown kind of scale, or a group size that does not divide the weights of a channel.

    Examples
    --------
    >>> rows_of(torch.Size([16, 3, 3, 3]), "channel"), rows_of(torch.Size([10, 64]), 32)
    (16, 20)
    """
    if scale is None or scale == "tensor" or (len(shape) < 2 and scale == "channel"):
        return 1
    if scale == "channel":
        return shape[0]
    if not isinstance(scale, int) or isinstance(scale, bool) or scale < 1:
        raise InvalidParameterError(
            f"scale must be None, 'tensor', 'channel' or a number of weights that share one, got {scale!r}"
        )
    if len(shape) < 2:
        return 1
    channel = shape.numel() // shape[0]
    if channel % scale:
        raise InvalidParameterError(
            f"scale: groups of {scale} weights do not divide the {channel} weights of a channel of a parameter of "
            f"shape {tuple(shape)}"
        )
    return shape.numel() // scale


def fit_scales(weights: Tensor, levels: Sequence[float] | LabelSet, rounds: int = ROUNDS) -> Tensor:
    """Return the scales s > 0 of least-squares fits `weights[r] ~ s[r] q`, q from the levels.

    Alternates nearest levels and the closed form `<w, q> / <q, q>`; for levels -1 and 1 the first round is exact,
    `mean |w|`.

    Parameters
    ----------
    weights : Tensor, shape (rows, m)
    levels : sequence of float or LabelSet
        A label set that was used before, so that it knows its levels as numbers, is what a GPU need not be waited for.

    Returns
    -------
    Tensor, shape (rows,)
        1 where the weights or the levels are all zero.

    Examples
    --------
    >>> fit_scales(torch.tensor([[0.5, -0.3, 0.1], [2.0, 2.0, -2.0]]), [-1.0, 1.0])
    tensor([0.3000, 2.0000])
    """
    labels = levels if isinstance(levels, LabelSet) else LabelSet.shared(levels, 1, dtype=weights.dtype)
    numbers = labels.shared_levels
    assert numbers is not None
    size = sum(abs(q) for q in numbers) / len(numbers)
    if size == 0:
        return torch.ones_like(weights[:, 0])
    spread = weights.abs().mean(1, keepdim=True)
    scale = torch.where(spread > 0, spread / size, 1.0)
    for _ in range(1 if numbers == (-1.0, 1.0) else rounds):
        q = Nearest().value(weights / scale, 1.0, labels)
        fitted = (weights * q).sum(1, keepdim=True) / (q * q).sum(1, keepdim=True)
        scale = torch.where(fitted > 0, fitted, scale)
    return scale[:, 0]


def fit_scale(weights: Tensor, levels: Sequence[float]) -> float:
    """Return the scale of a least-squares fit of all `weights` by `s q`, q from the levels (see `fit_scales`).

    Examples
    --------
    >>> round(fit_scale(torch.tensor([0.5, -0.3, 0.1]), [-1.0, 1.0]), 6)
    0.3
    """
    return float(fit_scales(weights.reshape(1, -1), levels)[0])
