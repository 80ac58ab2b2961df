"""`summary.json`: what a quantization found, for other programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from mrfq.compare.export import environment
from mrfq.quantize.folder import Folder
from mrfq.quantize.report import LayerReport
from mrfq.quantize.settings import Settings
from mrfq.runs.settings import devices

if TYPE_CHECKING:
    from mrfq.quantize.job import Result

FLOAT_BYTES = 4


class Accuracies(NamedTuple):
    """Test accuracies in percent of the quantized and of the float network; None without labelled images."""

    quantized: float | None
    original: float | None


def summarise(settings: Settings, folder: Folder, result: Result, accuracies: Accuracies) -> dict[str, Any]:
    """Return the summary of a finished quantization.

    Accuracies are in percent. `error` and `error_held_out` of a layer are the mean squared errors of its outputs as
    fractions of their variance, on the calibration inputs and on those that only measure. `packed_bytes` is the size
    of `model.safetensors`, `compression` how many times smaller it is than all numbers of the network in float32,
    `bits_per_weight` the mean over all quantized weights, codebooks and scales included. Errors of layers are those
    before distillation, whose own are of the outputs of the network. `optimality` is a lower bound of the energy that
    the solver minimised over the energy that it reached, 1 at most. What is not known is None.
    """
    model, report = result.model, result.report
    packed, whole = folder.model.stat().st_size, float_bytes(model)
    layers = [layer_entry(layer) for layer in report.layers]
    return {
        "model": settings.model,
        "calibration": settings.calibration,
        "weights": settings.weights,
        "levels": settings.levels,
        "quality": settings.quality,
        "solver": settings.solver,
        "seed": settings.seed,
        "samples": settings.samples,
        "test_accuracy": accuracies.quantized,
        "float_test_accuracy": accuracies.original,
        "bits_per_weight": report.bits_per_weight,
        "packed_bytes": packed,
        "float_bytes": whole,
        "compression": whole / packed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "quantized_parameters": sum(layer["weights"] for layer in layers),
        "seconds": report.seconds,
        "ratios": ratios(layers),
        "distillation": None if result.distillation is None else dataclasses.asdict(result.distillation),
        "layers": layers,
        "notes": list(report.notes),
        "command": f"mrfq quantize --config {folder.config.name} --out FOLDER",
        "settings": dataclasses.asdict(settings),
        "environment": {**environment(), **devices(settings)},
    }


def layer_entry(layer: LayerReport) -> dict[str, Any]:
    """Return what there is to say about a layer, as plain data."""
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "weights": math.prod(layer.shape),
        "levels": layer.levels,
        "bits_per_weight": layer.bits_per_weight,
        "error": layer.error,
        "error_held_out": layer.error_held_out,
        "optimality": layer.optimality,
        "baselines": {name: dict(found) for name, found in layer.baselines.items()},
        "seconds": layer.seconds,
        "notes": list(layer.notes),
    }


def ratios(layers: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the geometric mean over the layers of their error relative to that of each baseline.

    Examples
    --------
    >>> layer = {"error": 0.02, "error_held_out": None, "baselines": {"gptq": {"error": 0.04, "error_held_out": None}}}
    >>> ratios([layer, layer])
    {'gptq': {'error': 0.5}}
    """
    logs: dict[str, dict[str, list[float]]] = {}
    for layer in layers:
        for name, found in layer["baselines"].items():
            for key in ("error", "error_held_out"):
                ours, theirs = layer[key], found.get(key)
                if ours and theirs:
                    logs.setdefault(name, {}).setdefault(key, []).append(math.log(ours / theirs))
    return {
        name: {key: math.exp(sum(values) / len(values)) for key, values in found.items()}
        for name, found in logs.items()
    }


def float_bytes(model: nn.Module) -> int:
    """Return what all numbers of a network take in float32, tied ones once, buffers included."""
    tensors = {id(value): value for value in model.state_dict(keep_vars=True).values()}.values()
    return sum(t.numel() * (FLOAT_BYTES if t.is_floating_point() else t.itemsize) for t in tensors)
