"""What is set up around the quantization of a network, and undone after it, or after an error."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.nn.grids import attach, grid_of


@contextlib.contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients and short cuts around its modules; undone afterwards."""
    if not isinstance(model, nn.Module):
        raise InvalidParameterError(f"model must be a torch.nn.Module, not a {type(model).__name__}")
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # it would go around the linear layers of an encoder
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def transaction(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of a network; if an error ends the context, the network becomes what the copy is."""
    try:
        reference = copy.deepcopy(model)
    except RuntimeError as error:
        raise InvalidProblemError(f"the network cannot be copied ({error}); detach the tensors it keeps") from error
    kept = [(p, p.data, grid_of(p)) for p in model.parameters()]
    try:
        yield reference
    except BaseException:
        for (parameter, data, grid), exact in zip(kept, reference.parameters(), strict=True):
            parameter.data = data
            parameter.data.copy_(exact.data)
            attach(parameter, grid)
        for buffer, same in zip(model.buffers(), reference.buffers(), strict=True):
            buffer.copy_(same)
        raise


def cuda_devices(model: nn.Module) -> list[int]:
    """Return the CUDA devices of a network."""
    found = {p.device for p in model.parameters()} if isinstance(model, nn.Module) else set()
    return sorted({device.index or 0 for device in found if device.type == "cuda"})
