"""The weight, inputs and outputs of a layer as matrices; those of a convolution by unfolding what it sees."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
#: numbers of an unfolded input that are in memory at a time
CHUNK = 2**24


def matrix(weight: Tensor, groups: int) -> Tensor:
    """Return a weight as (groups, rows / groups, columns)."""
    return weight.reshape(groups, len(weight) // groups, -1)


def signature(module: nn.Module) -> tuple[object, ...]:
    """Return what decides, with the input, what the unfolded input is."""
    if isinstance(module, nn.Linear | nn.Embedding):
        return (type(module).__name__,)
    assert isinstance(module, Convolution)
    geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    return (*geometry, module.padding_mode)


def unfolded(module: nn.Module, x: Tensor, z: Tensor, keep: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and outputs of a layer position by position, as matrices, a part at a time.

    Parameters
    ----------
    module : nn.Linear or convolution
    x : Tensor
        Its input.
    z : Tensor
        Outputs at the same positions, of as many channels as one likes.
    keep : Tensor, bool, optional
        Of a shape that `x` begins with: the positions of a linear layer that count; ignored if it does not fit.

    Yields
    ------
    (Tensor, Tensor)
        Shapes (g, C, p) and (g, R, p) with g groups and p positions: `W[i] @ X[i]` is the output without bias.
    """
    if isinstance(module, nn.Linear):
        yield from _linear(x, z, keep)
        return
    assert isinstance(module, Convolution)
    spatial = len(module.kernel_size)
    if x.ndim == spatial + 1:
        x, z = x[None], z[None]
    size = math.prod(module.kernel_size) * x.shape[1] * math.prod(z.shape[2:])
    step = max(CHUNK // max(size, 1), 1)
    for part, out in zip(x.split(step), z.split(step), strict=True):
        yield _windows(module, part), out.unflatten(1, (module.groups, -1)).flatten(3).permute(1, 2, 0, 3).flatten(2)


def channels(module: nn.Module, values: Tensor, like: Tensor) -> Tensor:
    """Return numbers per output channel in a shape that broadcasts against an output of the layer."""
    after = 0 if isinstance(module, nn.Linear) else len(module.kernel_size)  # type: ignore[arg-type]
    return values.to(like).reshape(-1, *[1] * after)


def _linear(x: Tensor, z: Tensor, keep: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    fits = keep is not None and keep.shape == x.shape[:-1]
    rows, outputs = x.reshape(-1, x.shape[-1]), z.reshape(-1, z.shape[-1])
    if fits and keep is not None:
        rows, outputs = rows[keep.reshape(-1)], outputs[keep.reshape(-1)]
    step = max(CHUNK // x.shape[-1], 1)
    for part, out in zip(rows.split(step), outputs.split(step), strict=True):
        yield part.T[None], out.T[None]


def _windows(module: Convolution, x: Tensor) -> Tensor:
    """Return what a convolution sees, (groups, inputs * kernel, positions)."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padding = _padding(module)
    x = functional.pad(x, padding, mode=mode) if any(padding) else x
    x = x.unflatten(1, (module.groups, -1))
    spatial = len(module.kernel_size)
    for axis, (size, step, apart) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True)):
        x = x.unfold(3 + axis, (size - 1) * apart + 1, step)[..., ::apart]
    kernel = range(3 + spatial, 3 + 2 * spatial)
    return x.permute(1, 2, *kernel, 0, *range(3, 3 + spatial)).flatten(1, 1 + spatial).flatten(2)


def _padding(module: Convolution) -> list[int]:
    """Return the zeros before and after each axis, the last axis first."""
    sides: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        total = module.dilation[axis] * (module.kernel_size[axis] - 1)
        if isinstance(module.padding, str):
            before, after = (total // 2, total - total // 2) if module.padding == "same" else (0, 0)
        else:
            before = after = module.padding[axis]
        sides += [before, after]
    return sides
