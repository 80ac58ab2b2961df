"""A run on the console: one live line on a terminal, a line for each epoch elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrfq.runs.console import LiveConsole, duration, facts
from mrfq.train.folder import Folder
from mrfq.train.page import title
from mrfq.train.reporting import Report
from mrfq.train.run import Run


class ConsoleReport(LiveConsole, Report):
    """Shows a training run while it goes on."""

    opening = "reading the images"

    def __init__(self, console: Console, asked: Callable[[], bool] = lambda: False) -> None:
        super().__init__(console, asked)
        self._start, self._first, self._last = time.perf_counter(), 0, ""

    def begin(self, run: Run, folder: Folder) -> None:
        settings = run.settings
        self._start, self._first, self.began = time.perf_counter(), run.progress.step, True
        labels = f", {settings.method}, {settings.levels}" if settings.quantized else ", float"
        where = f"{settings.model} on {settings.dataset}{labels}: {run.total_steps:,} steps on {settings.device}"
        self._say(where + (f", from step {self._first:,}" if self._first else ""))

    def look(self, run: Run, loss: float, accuracy: float) -> None:
        if self._status:
            now = f"loss {loss:.4f}  accuracy {accuracy:.2f} %"
            self._status.update(Text(f"{self._place(run)}  {now}{self._last}  {self._remaining(run)}"))

    def epoch(self, run: Run, row: dict[str, Any]) -> None:
        text = f"loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.2f} %"
        self._last = measured(row)
        self.note(f"{self._place(run)}  {text}{self._last}  {self._remaining(run)}")

    @staticmethod
    def _place(run: Run) -> str:
        epochs = -(-run.total_steps // run.epoch_steps)
        return f"epoch {run.epoch}/{epochs}  step {run.progress.step:,}/{run.total_steps:,}"

    def _remaining(self, run: Run) -> str:
        """Return the time that is left at the speed since the run began or went on, evaluations included."""
        done = max(run.progress.step - self._first, 1)
        left = (run.total_steps - run.progress.step) * (time.perf_counter() - self._start) / done
        return f"ETA {duration(left)}"


def measured(row: dict[str, Any]) -> str:
    """Return what an epoch was measured by, as far as it is known.

    Examples
    --------
    >>> measured({"validation_accuracy": 98.5, "best": 1, "entropy": 0.25, "discrete": 0.5})
    '  validation 98.50 % (best)  entropy 0.2500  discrete 50.0 %'
    """
    found = ""
    if "validation_accuracy" in row:
        found += f"  validation {row['validation_accuracy']:.2f} %" + " (best)" * bool(row["best"])
    if "entropy" in row:
        found += f"  entropy {row['entropy']:.4f}  discrete {100 * row['discrete']:.1f} %"
    return found


def summary_table(summary: dict[str, Any]) -> Table:
    """Return the summary of a run for people."""
    known = None if summary["levels"] is None else summary["float_test_accuracy"]
    overhead = summary["step_overhead"]
    rows = [
        ("run", title(summary) + f", {summary['method']}, seed {summary['seed']}"),
        ("test accuracy", f"{summary['test_accuracy']:.2f} %"),
        ("float network", None if known is None else f"{known:.2f} %"),
        ("validation", f"{summary['validation_accuracy']:.2f} % (network of epoch {summary['best_epoch']})"),
        (
            "model file",
            f"{summary['packed_bytes']:,} bytes, {summary['compression']:.1f} times smaller than in float32",
        ),
        ("cost of labels", None if overhead is None else f"{100 * overhead:+.0f} % of the time of a float step"),
        ("time", duration(summary["seconds"])),
    ]
    return facts(rows)
