"""Batch-norm statistics after the weights have changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mrfq.nn.data import to_device


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """Return the layers of a network that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
    ]


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace running statistics by plain averages over one pass; the network is left in evaluation mode.

    Only the normalisation layers are put into training mode, so that dropout stays off.
    """
    layers = batch_norms(model)
    model.eval()
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    device = next(model.parameters()).device
    for inputs, _ in batches:
        model(to_device(inputs, device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
