"""`summary.html`: what a run found, for people, in one file that needs nothing else; and its curves as images."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Any

from mrfq.compare.report import environment, resource
from mrfq.compare.tables import number
from mrfq.files import write_atomically
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
    page = environment("mrfq.train").get_template("train.html.j2")
    text = page.render(
        summary=summary,
        title=title(summary),
        tiles=tiles(summary),
        drawings=drawn,
        keys=keys(drawn, quantized=quantized),
        layers=layers,
        histogram=histogram,
        levels=written_levels,
        number=number,
        settings=[line.split(" = ", 1) for line in folder.config.read_text("utf-8").splitlines()],
        date=datetime.date.today().isoformat(),
        css=resource("report.css"),
        js=resource("report.js"),
    )
    write_atomically(folder.page, text)


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


def duration(seconds: float) -> str:
    """Return a time in the largest units that fit.

    Examples
    --------
    >>> duration(7.26), duration(3725), duration(60)
    ('7.3 s', '1:02:05', '1:00')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
