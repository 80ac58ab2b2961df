"""A quantization on the console: one live line on a terminal, a line for each layer elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrfq.quantize.calibration import Calibration
from mrfq.quantize.folder import Folder
from mrfq.quantize.report import LayerReport, Progress
from mrfq.quantize.reporting import Listener
from mrfq.quantize.settings import Settings
from mrfq.runs.console import LiveConsole, duration, facts


class ConsoleListener(LiveConsole, Listener):
    """Shows a quantization while it goes on."""

    opening = "reading inputs and weights"

    def __init__(self, console: Console, asked: Callable[[], bool] = lambda: False) -> None:
        super().__init__(console, asked)
        self._seconds = 0.0

    def begin(self, settings: Settings, inputs: Calibration, folder: Folder) -> None:
        self._seconds, self.began = 0.0, True
        how = settings.quality if settings.solver is None else f"{settings.quality}, {settings.solver}"
        self._say(
            f"{settings.model}, {settings.levels}, {how}: {inputs.count:,} inputs of {settings.calibration} on "
            f"{settings.device}"
        )

    def progress(self, event: Progress) -> None:
        place = f"{event.stage}/{event.stages}"
        if event.layer is not None:
            self._seconds += event.layer.seconds
            self._say(f"{place}  {described(event.layer)}{self._remaining(event)}")
        elif self._status:
            self._status.update(Text(f"{place}  {event.message}"))

    def _remaining(self, event: Progress) -> str:
        """Return the time that is left at the speed of the layers so far, those of an interrupted run included."""
        left = event.stages - event.stage
        return f"  ETA {duration(left * self._seconds / event.stage)}" if left else ""


def described(layer: LayerReport) -> str:
    """Return a layer in a line."""
    found = f"{layer.name}  {'x'.join(map(str, layer.shape))}  {layer.levels}  error {layer.error:.3g}"
    if layer.error_held_out is not None:
        found += f"  held out {layer.error_held_out:.3g}"
    if layer.optimality is not None:
        found += f"  optimality {layer.optimality:.3g}"
    for name, baseline in layer.baselines.items():
        found += "" if (error := baseline["error"]) is None else f"  {name} {error:.3g}"
    return found


def summary_table(summary: dict[str, Any]) -> Table:
    """Return the summary of a quantization for people."""
    rows = [("network", f"{summary['model']}, {summary['levels']}, {summary['quality']}, seed {summary['seed']}")]
    if summary["test_accuracy"] is not None:
        rows.append(("test accuracy", f"{summary['test_accuracy']:.2f} %"))
        rows.append(("float network", f"{summary['float_test_accuracy']:.2f} %"))
    if summary["distillation"] is not None:
        found = summary["distillation"]
        rows.append(("distillation", f"error of the outputs {found['before']:.3g} before, {found['after']:.3g} after"))
    for name, found in summary["ratios"].items():
        rows += [("error", f"{ratio:.2f} times that of {name}") for key, ratio in found.items() if key == "error"]
    size = f"{summary['packed_bytes']:,} bytes, {summary['compression']:.1f} times smaller than in float32"
    rows += [
        ("a quantized weight", f"{summary['bits_per_weight']:.3g} bits, codebooks and scales included"),
        ("model file", size),
        ("time", duration(summary["seconds"])),
    ]
    return facts(rows)
