"""`runs.csv`, `traces.csv` and `suite.json`: the numbers of a comparison for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import mrfq
from mrfq.compare.results import Results, Run
from mrfq.compare.suite import Suite
from mrfq.files import write_atomically
from mrfq.solution import COLUMNS

RUN_COLUMNS = (
    "problem",
    "kind",
    "solver",
    "seed",
    "status",
    "energy",
    "lower_bound",
    "gap",
    "gap_to",
    "test_accuracy",
    "test_loss",
    "validation_accuracy",
    "validation_loss",
    "train_accuracy",
    "train_loss",
    "float_test_accuracy",
    "float_test_loss",
    "oracle_calls",
    "iterations",
    "seconds",
    "entropy",
    "skipped_reason",
)
TRACE_COLUMNS = ("problem", "solver", "seed", *COLUMNS)
TIMES = frozenset({"seconds"})


def write_tables(results: Results, out: Path) -> None:
    """Write the three files into `out`, each atomically."""
    write_atomically(out / "runs.csv", csv_text(RUN_COLUMNS, (run_row(run) for run in results.runs)))
    write_atomically(out / "traces.csv", csv_text(TRACE_COLUMNS, trace_rows(results)))
    write_atomically(out / "suite.json", suite_json(results.outcome.suite))


def run_row(run: Run) -> dict[str, Any]:
    """Return a run as a row of `runs.csv`; what does not apply is left empty."""
    record = run.record
    fixed = {
        "problem": run.problem,
        "kind": run.cell.problem.kind,
        "solver": run.solver,
        "seed": run.cell.seed,
        "status": record.status,
        "skipped_reason": record.skipped_reason,
    }
    if not record.ran:
        return fixed
    entropy = record.trace["entropy"][-1] if record.trace else math.nan
    numbers = {name: run.value(name) for name in RUN_COLUMNS if name not in fixed}
    counts = {"oracle_calls": record.oracle_calls, "iterations": record.iterations}
    return {**numbers, **counts, **fixed, "entropy": entropy, "gap_to": run.gap_to}


def trace_rows(results: Results) -> Iterable[dict[str, Any]]:
    """Return the rows of `traces.csv`."""
    for run in results.runs:
        place = {"problem": run.problem, "solver": run.solver, "seed": run.cell.seed}
        for values in zip(*run.record.trace.values(), strict=True):
            yield {**place, **dict(zip(run.record.trace, values, strict=True))}


def csv_text(columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> str:
    """Return rows as CSV; what a row lacks, and NaN, is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(columns)
    writer.writerow(names)
    writer.writerows([_shown(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _shown(value: Any) -> Any:
    """Return a number as it is written: nothing for NaN, no fraction for whole numbers of a trace."""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return value


def environment() -> dict[str, str]:
    """Return the versions and the machine that results depend on."""
    versions = {name: _version(name) for name in ("torch", "numpy", "numba", "scipy", "scikit-learn", "joblib")}
    return {
        "mrfq": mrfq.__version__,
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "cpu": _processor(),
        "cores": str(os.cpu_count()),
    }


def suite_json(suite: Suite) -> str:
    """Return the resolved suite with every parameter; `mrfq compare suite.json` runs the same cells."""
    return json.dumps({**suite.to_plain(), "environment": environment()}, indent=2) + "\n"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
