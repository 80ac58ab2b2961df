"""Scale and shift of output channels, folded into the batch norm behind a layer, its bias, or its levels."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from mrfq.layerwise.tables import Table, round_parameters
from mrfq.nn.grids import attach

BatchNorm = nn.modules.batchnorm._BatchNorm
#: scales outside of these bounds are left out: the channel is next to constant, or of the wrong sign
SMALLEST, LARGEST = 1e-3, 1e3


def possible(norm: BatchNorm, scale: Tensor, statistics: bool = False) -> Tensor:
    """Return which scales a batch norm can take up, bool of the same shape (channels,).

    One without factors of its own has only its running variance for them, which cannot fall below 0; `statistics` asks
    for that of any.
    """
    bounded = scale.isfinite() & (scale.abs() >= SMALLEST) & (scale.abs() <= LARGEST)
    if norm.affine and not statistics:
        return bounded
    assert norm.running_var is not None
    variance = norm.running_var.double().cpu() + norm.eps
    return bounded & (scale > 0) & (variance / scale**2 >= norm.eps)


def fold_into_norm(
    norm: BatchNorm, scale: Tensor, shift: Tensor, bias: Tensor | None = None, statistics: bool = False
) -> None:
    """Change a batch norm so that what it made of `scale * y + shift + bias` it now makes of `y + bias`.

    Parameters
    ----------
    norm : BatchNorm1d, 2d or 3d
        With running statistics.
    scale, shift : Tensor, shape (channels,)
        Scales that are `possible`.
    bias : Tensor, shape (channels,), optional
        Of the layer in front, which keeps it.
    statistics : bool
        Whether to leave the factors of the batch norm alone, so that statistics that are estimated later take the
        place of scale and shift.

    Examples
    --------
    >>> norm = nn.BatchNorm1d(2).eval()
    >>> y = torch.randn(5, 2)
    >>> wanted = norm(y * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -1.0]))
    >>> fold_into_norm(norm, torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0]))
    >>> torch.allclose(norm(y), wanted, atol=1e-6)
    True
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    with torch.no_grad():
        scale, shift = scale.to(mean.device, torch.float64), shift.to(mean.device, torch.float64)
        offset = torch.zeros_like(shift) if bias is None else bias.to(shift)
        mean.copy_((mean.double() - shift - offset) / scale + offset)
        if norm.affine and not statistics:
            norm.weight.copy_(norm.weight.double() * scale)
            attach(norm.weight, None)
        else:
            variance.copy_(((variance.double() + norm.eps) / scale**2 - norm.eps).clamp(min=0))


def fold_into_bias(module: nn.Module, shift: Tensor) -> None:
    """Add a shift (channels,) to the bias of a layer."""
    bias = module._parameters["bias"]
    assert bias is not None
    with torch.no_grad():
        bias.copy_(bias.double() + shift.to(bias.device, torch.float64))
    attach(bias, None)


def scaled_table(table: Table, scale: Tensor) -> Table | None:
    """Return a table with all values of each row times a positive number, rounded as it is stored.

    Parameters
    ----------
    table : Table
    scale : Tensor, shape (R,)
        Rows whose scale is not positive, or out of all proportion, keep theirs.

    Returns
    -------
    Table or None
        None if the numbers do not fit into the precision.
    """
    scale = torch.where((scale >= SMALLEST) & (scale <= LARGEST), scale, torch.ones_like(scale))
    stored = table.parameters.double()
    parameters = round_parameters(table.spec, stored * scale.to(stored)[:, None, None])
    return dataclasses.replace(table, parameters=parameters) if bool(parameters.isfinite().all()) else None


def gain(norm: BatchNorm | None, channels: int) -> Tensor:
    """Return what a batch norm multiplies each channel by, float64 (channels,); 1 without one."""
    if norm is None:
        return torch.ones(channels, dtype=torch.float64)
    assert norm.running_var is not None
    factor = norm.weight.double() if norm.affine else torch.ones_like(norm.running_var, dtype=torch.float64)
    return factor / (norm.running_var.double() + norm.eps).sqrt()


def correction(norm: BatchNorm | None, channels: int) -> Tensor:
    """Return by what to multiply an error behind the batch norm to have it in front, float64 (channels,).

    Channels that the batch norm all but switches off have 0: nothing in front of it helps.
    """
    factor = gain(norm, channels)
    tiny = factor.abs() < SMALLEST * factor.abs().mean()
    return torch.where(tiny | (factor == 0), 0.0, 1 / torch.where(factor == 0, 1.0, factor))
