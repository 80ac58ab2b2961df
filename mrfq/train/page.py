"""`summary.html`: what a run found, for people, in one file that needs nothing else; and its curves as images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mrfq.compare.tables import number
from mrfq.files import write_atomically
from mrfq.runs.console import duration
from mrfq.runs.page import write_template
from mrfq.train.figures import drawings, keys
from mrfq.train.folder import Folder
from mrfq.train.layers import Layer

#: the kind of file of each curve
FORM = "png"
#: levels above which the page does not list them one by one
LISTED = 16


def write_page(
    summary: dict[str, Any], layers: Sequence[Layer], rows: Sequence[dict[str, Any]], folder: Folder
) -> None:
    """Write `summary.html`, and each of its curves as an image into the folder `curves`."""
    quantized = summary["levels"] is not None
    drawn = drawings(rows, summary["best_epoch"], quantized=quantized)
    curves = folder.path / "curves"
    curves.mkdir(exist_ok=True)
    for drawing in drawn:
        for form, content in drawing.files([FORM]).items():
            write_atomically(curves / f"{drawing.name}.{form}", content)
    write_template(
        folder,
        "mrfq.train",
        "train.html.j2",
        summary=summary,
        title=title(summary),
        tiles=tiles(summary),
        drawings=drawn,
        keys=keys(drawn, quantized=quantized),
        layers=layers,
        histogram=histogram,
        levels=written_levels,
    )


def title(summary: dict[str, Any]) -> str:
    """Return what was trained, in a line."""
    labels = "float weights" if summary["levels"] is None else f"{written_levels(summary['levels'])} weights"
    return f"{summary['model']} on {summary['dataset']}, {labels}"


def tiles(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return label, number and sentence of what matters most."""
    partly = summary["quantized_parameters"] < summary["parameters"] and summary["levels"] is not None
    float_accuracy = summary["float_test_accuracy"]
    against = (
        "" if float_accuracy is None or summary["levels"] is None else f"; {float_accuracy:.2f} % before quantization"
    )
    found = [
        ("test accuracy", f"{summary['test_accuracy']:.2f} %", f"looked at once, at the end{against}."),
        (
            "validation accuracy",
            f"{summary['validation_accuracy']:.2f} %",
            f"of the network of epoch {summary['best_epoch']}, which was best on these images.",
        ),
        (
            "model file",
            f"{number(summary['packed_bytes'] / 1000, 1)} kB",
            f"{summary['compression']:.1f} times smaller than in float32; {summary['bits_per_weight']:.3g} bits a "
            f"{'quantized ' if partly else ''}weight.",
        ),
        (
            "time",
            duration(summary["seconds"]),
            f"for {number(summary['steps'], 0)} steps and {summary['epochs']} epochs.",
        ),
    ]
    if summary["step_overhead"] is not None:
        text = "time of a training step over that of the float network, at the median."
        found.append(("labels cost", f"{100 * summary['step_overhead']:+.0f} %".replace("-", "−"), text))
    return found


def written_levels(levels: Any) -> str:
    """Return levels in words.

    Examples
    --------
    >>> written_levels("ternary"), written_levels((-0.5, 1.0))
    ('ternary', '−0.5, 1')
    """
    if isinstance(levels, str):
        return levels
    shown = [f"{level:g}".replace("-", "−") for level in levels]
    return ", ".join(shown) if len(shown) <= LISTED else f"{len(shown)} levels, {shown[0]} to {shown[-1]}"


def histogram(layer: Layer) -> list[tuple[float, float, float, str]]:
    """Return a bar for each level: left end and width, height (all fractions of the picture), and what it says."""
    width = 1 / len(layer.levels)
    highest = max(layer.shares)
    return [
        (place * width, width, share / highest if math.isfinite(share) else 0.0, f"{level:g}: {100 * share:.1f} %")
        for place, (level, share) in enumerate(zip(layer.levels, layer.shares, strict=True))
    ]
