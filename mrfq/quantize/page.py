"""`quantize.html`: what a quantization found, for people, in one file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from mrfq.compare.tables import number
from mrfq.quantize.figures import OURS, error_chart, keys, methods, value
from mrfq.quantize.folder import Folder
from mrfq.quantize.pictures import HEIGHT, WIDTH, Picture, picture
from mrfq.runs.console import duration
from mrfq.runs.page import write_template

#: pictures of layers on a page; of more layers, those with the largest errors
PICTURES = 64
#: label sets in the title
MENTIONED = 2


def write_page(summary: dict[str, Any], model: nn.Module, original: nn.Module, folder: Folder) -> None:
    """Write `quantize.html`."""
    layers = summary["layers"]
    write_template(
        folder,
        "mrfq.quantize",
        "quantize.html.j2",
        summary=summary,
        title=title(summary),
        tiles=tiles(summary),
        chart=error_chart(layers) if layers else "",
        keys=keys(layers),
        methods=methods(layers)[1:],
        layers=layers,
        bounded=any(layer["optimality"] is not None for layer in layers),
        pictures=pictures(layers, model, original),
        picture_size=(WIDTH, HEIGHT),
        short=short,
        best=best,
    )


def title(summary: dict[str, Any]) -> str:
    """Return what was quantized, in a line."""
    used = list(dict.fromkeys(layer["levels"] for layer in summary["layers"]))
    if len(used) <= MENTIONED:
        return f"{summary['model']}, {' and '.join(used) or 'float'} weights"
    return f"{summary['model']}, {summary['levels']} and other weights"


def tiles(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return label, number and sentence of what matters most."""
    found = []
    if summary["test_accuracy"] is not None:
        lost = summary["test_accuracy"] - summary["float_test_accuracy"]
        against = f"{summary['float_test_accuracy']:.2f} % before quantization ({_signed(lost)})."
        found.append(("test accuracy", f"{summary['test_accuracy']:.2f} %", against))
    found.append(
        (
            "model file",
            f"{number(summary['packed_bytes'] / 1000, 1)} kB",
            f"{summary['compression']:.1f} times smaller than in float32.",
        )
    )
    share = summary["quantized_parameters"] / summary["parameters"]
    text = f"codebooks and scales included; {100 * share:.4g} % of the parameters are quantized."
    found.append(("a quantized weight", f"{summary['bits_per_weight']:.3g} bits", text))
    if (tuned := summary["distillation"]) is not None:
        text = f"{tuned['before']:.3g} before; squared error of the network's outputs over their variance."
        found.append(("after distillation", f"{tuned['after']:.3g}", text))
    for name, ratio in summary["ratios"].items():
        key = "error_held_out" if "error_held_out" in ratio else "error"
        where = "held-out" if key == "error_held_out" else "calibration"
        text = f"times the error of {name} on the same {where} inputs, geometric mean over the layers."
        found.append((f"against {name}", f"{ratio[key]:.2f}×", text))
    if summary["layers"]:
        found.append(_worst(summary["layers"]))
    found.append(("time", duration(summary["seconds"]), f"for {len(summary['layers'])} layers."))
    return found


def _worst(layers: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    worst = max(layers, key=lambda layer: layer["error"] or 0.0)
    text = f"of the variance of its outputs is error: layer {worst['name']}, on the calibration inputs."
    return "largest error", f"{100 * (worst['error'] or 0.0):.3g} %", text


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def pictures(layers: Sequence[dict[str, Any]], model: nn.Module, original: nn.Module) -> list[Picture]:
    """Return the pictures of layers in their order, of the worst ones if there are too many."""
    worst = sorted(layers, key=lambda layer: -(layer["error"] or 0.0))[:PICTURES]
    shown = {layer["name"] for layer in worst}
    quantized, before = dict(model.named_parameters()), dict(original.named_parameters())
    found = []
    for name in (layer["name"] for layer in layers if layer["name"] in shown):
        key = f"{name}.weight" if name else "weight"
        if key in quantized and (made := picture(name, before[key], quantized[key])) is not None:
            found.append(made)
    return found


def short(found: float | None) -> str:
    """Return an error for a table.

    Examples
    --------
    >>> short(0.012345), short(None), short(2e-6)
    ('0.0123', '–', '2e−06')
    """
    return "–" if found is None else f"{found:.3g}".replace("-", "−")


def best(layer: dict[str, Any], key: str) -> str | None:
    """Return the method with the smallest error, or None where there is nothing to compare."""
    known = {name: value(layer, name, key) for name in (OURS, *layer["baselines"])}
    known = {name: error for name, error in known.items() if math.isfinite(error)}
    return min(known, key=known.__getitem__) if len(known) > 1 else None
