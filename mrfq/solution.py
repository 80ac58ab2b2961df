"""What a run returns: `Solution`, its `Trace`, and a `Status` that is a sentence."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mrfq.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = (
    "iteration",
    "relaxed_energy",
    "energy",
    "best_energy",
    "bound",
    "entropy",
    "beta",
    "changed",
    "oracle_calls",
    "seconds",
)


class Status(StrEnum):
    """Why a run ended."""

    CONVERGED = "converged: the solver reached a point it would not leave"
    OPTIMAL = "optimal: the labelling is proved to have the lowest energy"
    ITERATION_LIMIT = "iteration limit reached"
    CALL_LIMIT = "oracle call limit reached"
    TIME_LIMIT = "time limit reached"
    STALLED = "stalled: the solver repeats itself without converging"
    NON_FINITE = "non-finite numbers appeared; the best labelling before them is returned"
    STOPPED = "stopped by the callback"


@dataclass
class Trace:
    """The history of a run, one list a column.

    Columns: `iteration`; `relaxed_energy` (of the relaxed labelling, where the solver knows it); `energy` (of the
    rounded labelling; where possible the last one plus what changed, exact up to rounding); `best_energy` so far;
    `bound`; `entropy` (mean per variable, in nats); `beta`; `changed` (labels that differ from the previous row);
    `oracle_calls`; `seconds` (solver time, evaluation not charged).
    Missing numbers are NaN.
    """

    columns: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def append(self, **row: float) -> None:
        """Add a row; columns left out become NaN."""
        for name, values in self.columns.items():
            values.append(row.get(name, math.nan))

    def __len__(self) -> int:
        return len(self.columns["iteration"])

    def __getitem__(self, column: str) -> list[float]:
        return self.columns[column]

    def rows(self) -> list[dict[str, float]]:
        """Return the trace as a list of dictionaries."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]

    def to_pandas(self) -> pd.DataFrame:
        """Return the trace as a data frame (needs the extra `pandas`)."""
        import pandas as pd

        return pd.DataFrame(self.columns)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the trace as CSV text, and write it to `path` if one is given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        if path is not None:
            write_atomically(path, text.getvalue())
        return text.getvalue()

    def to_json(self) -> str:
        """Return the trace as a JSON object of columns, with null for missing or infinite numbers."""
        finite = {k: [x if math.isfinite(x) else None for x in v] for k, v in self.columns.items()}
        return json.dumps(finite)

    def plot(self, x: str = "oracle_calls", ax: Axes | None = None) -> Axes:
        """Draw energies and bound against a column of the trace, and return the axes."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        for name, style in (("relaxed_energy", ":"), ("energy", "-"), ("best_energy", "--"), ("bound", "-.")):
            if not all(math.isnan(value) for value in self[name]):
                ax.plot(self[x], self[name], style, label=name.replace("_", " "))
        ax.set_xlabel(x.replace("_", " "))
        ax.set_ylabel("energy")
        ax.legend()
        return ax


def meets(energy: float, bound: float) -> bool:
    """Return whether a lower bound proves an energy optimal, to 1e-9 of its size."""
    if energy == bound:
        return True
    return math.isfinite(energy) and math.isfinite(bound) and energy - bound <= 1e-9 * max(1.0, abs(bound))


@dataclass
class Solution:
    """The result of `mrfq.solve`."""

    #: best labelling seen, (n,) int64
    labels: Tensor
    #: its energy, recomputed from the labels
    energy: float
    #: last relaxed labelling, (n, L); the one-hot labelling for discrete solvers
    relaxed: Tensor
    #: largest proved lower bound, or None
    lower_bound: float | None
    status: Status
    trace: Trace
    iterations: int
    oracle_calls: int
    #: solver time in seconds, without the loop's evaluations
    seconds: float
    #: what a solver that makes choices did, and why
    notes: tuple[str, ...] = ()
    #: everything a later `solve(..., resume=solution)` needs to go on
    checkpoint: Any = field(repr=False, default=None)

    @property
    def gap(self) -> float | None:
        """Energy minus lower bound, or None without a bound."""
        if self.lower_bound is None:
            return None
        return 0.0 if self.energy == self.lower_bound else self.energy - self.lower_bound

    @property
    def proved(self) -> bool:
        """Whether the bound meets the energy, to 1e-9 of its size."""
        return self.lower_bound is not None and meets(self.energy, self.lower_bound)
