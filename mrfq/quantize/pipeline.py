"""`quantize`: a network, layer by layer in the order in which they run, without training and without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrfq.errors import UnknownNameError
from mrfq.quantize.batches import as_batches
from mrfq.quantize.guard import cuda_devices, prepared, transaction
from mrfq.quantize.layers import find_layers
from mrfq.quantize.options import Options
from mrfq.quantize.report import Report
from mrfq.quantize.solving import recipe_of
from mrfq.quantize.work import Callback, Work


def quantize(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    options: Options | None = None,
    callback: Callback | None = None,
    state_folder: str | Path | None = None,
    **settings: Any,
) -> Report:
    """Quantize the layers of a network in place, so that its outputs change as little as possible.

    Layer by layer, in the order in which a forward pass comes to them, the weights become those of a label set with
    which the layer, on the inputs that it gets from the layers quantized before, comes nearest to the outputs of the
    float network. Linear layers, convolutions and embeddings are quantized; everything else stays float.

    Parameters
    ----------
    model : nn.Module
        On any device. It is in the same mode afterwards as before, and after an error its weights are what they were.
    calibration : iterable of batches
        Inputs of the network, without labels: a batch is a tensor, a tuple of positional arguments, or a dictionary of
        keyword arguments. Positions that a keyword argument `attention_mask` rules out do not count.
    options : Options, optional
    callback : callable, optional
        Called with a `Progress` before every stage and after every layer. What it raises ends the run; layers that are
        done are in `state_folder`.
    state_folder : str or path, optional
        Where to keep finished layers, so that the same call goes on after an interruption, to the same bits.
    **settings
        Fields of `Options`, such as `levels="2bit-codebook"`, `quality="best"`, `baselines=True`.

    Returns
    -------
    Report
        Errors, bits and times of every layer. The network itself is ready for `mrfq.save`.

    Raises
    ------
    InvalidParameterError, UnknownNameError
        Options that cannot be, or do not fit the network or the batches; a state folder of another run.
    InvalidProblemError
        A layer that the calibration inputs never reach, activations or weights that are not finite, batches that run
        through different layers.
    FileFormatError
        A damaged file in the state folder.

    Notes
    -----
    A layer that is used several times in a forward pass, or whose weight is tied to that of another, is quantized at
    its last use; until then it runs with its float weights. Networks whose choice of layers depends on the data, and
    weights that a module does not use through its own forward, cannot be quantized.

    References
    ----------
    E. Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR 2023,
    for the layer-wise problem and one of the solvers.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> batches = [torch.randn(64, 8, generator=generator) for _ in range(4)]
    >>> report = quantize(model, batches, levels="2bit-codebook")
    >>> [layer.name for layer in report.layers], len(model[0].weight[0].unique()) <= 4
    (['0', '2'], True)
    """
    options = _options(options, settings)
    recipe_of(options)
    with prepared(model), torch.random.fork_rng(cuda_devices(model)):
        batches = as_batches(calibration)
        layers, notes = find_layers(model, options)
        with (
            transaction(model) as reference,
            Work(model, reference, layers, batches, options, callback=callback, folder=state_folder) as work,
        ):
            work.notes += notes
            return work.finish()


def _options(options: Options | None, settings: dict[str, Any]) -> Options:
    known = [f.name for f in dataclasses.fields(Options)]
    for name in settings:
        if name not in known:
            raise UnknownNameError("option", name, known, "quantize")
    return dataclasses.replace(options or Options(), **settings)
