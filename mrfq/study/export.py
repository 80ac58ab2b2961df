"""The numbers of a study for other programs: CSV tables and one JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrfq.compare.export import csv_text, environment
from mrfq.files import write_atomically
from mrfq.plain import to_plain
from mrfq.study.annealing import Annealed
from mrfq.study.basins import Basins
from mrfq.study.bistability import Bistability
from mrfq.study.recording import MEASURES
from mrfq.study.results import Results
from mrfq.study.runs import KEPT
from mrfq.study.tables import mean_and_spread

Rows = Iterator[dict[str, Any]]
RATE_COLUMNS = ("solver", "quantity", "kind", "median", "low", "high", "quality", "fitted", "runs", "reason")
TABLES = {
    "traces.csv": ("solver", "start", "seed", *KEPT, *MEASURES),
    "rates.csv": RATE_COLUMNS,
    "basins.csv": ("solver", "kind", "count", "starts", "energy", "free_energy", "labels"),
    "bistability.csv": ("start", "beta", "magnetisation", "polarisation", "converged"),
    "hysteresis.csv": ("field", "rising", "falling"),
    "schedules.csv": ("solver", "schedule", "seed", "best_energy"),
}


#: of the files of each figure
FORMS = ("png", "svg")


def remove_earlier(out: Path) -> None:
    """Remove the tables and the figures of an earlier study in this folder, as far as its `study.json` lists them."""
    try:
        figures = json.loads((out / "study.json").read_text("utf-8"))["figures"]
    except (OSError, ValueError, LookupError, TypeError):
        figures = []
    for name in figures if isinstance(figures, list) else []:
        for form in FORMS:
            (out / "figures" / Path(f"{name}.{form}").name).unlink(missing_ok=True)
    for name in TABLES:
        (out / name).unlink(missing_ok=True)


def write_tables(results: Results, out: Path, figures: Sequence[str] = ()) -> None:
    """Write the tables that have rows, and `study.json`, which lists the figures."""
    makers = (trace_rows, rate_rows, basin_rows, branch_rows, loop_rows, schedule_rows)
    for (name, columns), rows in zip(TABLES.items(), makers, strict=True):
        found = list(rows(results))
        if found:
            write_atomically(out / name, csv_text(columns, found))
    write_atomically(
        out / "study.json", json.dumps({**summary(results), "figures": list(figures)}, indent=2, allow_nan=False) + "\n"
    )


def trace_rows(results: Results) -> Rows:
    """Yield every iteration of every run."""
    for run in results.runs:
        place = {"solver": run.solver, "start": run.start, "seed": run.seed}
        for values in zip(*run.columns.values(), strict=True):
            yield {**place, **{k: float(v) for k, v in zip(run.columns, values, strict=True)}}


def rate_rows(results: Results) -> Rows:
    """Yield the rate of every solver."""
    for rate in results.rates:
        yield {name: getattr(rate, name) for name in RATE_COLUMNS}


def basin_rows(results: Results) -> Rows:
    """Yield every fixed point of every solver."""
    for found in results.basins:
        for basin in found.basins:
            row = {**dataclasses.asdict(basin), "labels": " ".join(map(str, basin.labels))}
            yield {"solver": found.solver, "kind": found.kind, "starts": found.starts, **row}


def branch_rows(results: Results) -> Rows:
    """Yield the fixed points at every temperature."""
    for branch in results.bistability.branches if results.bistability else ():
        columns = (branch.betas, branch.magnetisation, branch.polarisation, branch.converged)
        for beta, m, q, done in zip(*(column.tolist() for column in columns), strict=True):
            yield {"start": branch.start, "beta": beta, "magnetisation": m, "polarisation": q, "converged": done}


def loop_rows(results: Results) -> Rows:
    """Yield the magnetisation in a rising and a falling field."""
    loop = results.bistability.loop if results.bistability else None
    if loop is not None:
        for field, up, down in zip(loop.fields.tolist(), loop.rising.tolist(), loop.falling.tolist(), strict=True):
            yield {"field": field, "rising": up, "falling": down}


def schedule_rows(results: Results) -> Rows:
    """Yield the best energy of every seed under every schedule."""
    for row in results.annealed:
        for seed, energy in enumerate(row.finals.tolist()):
            yield {"solver": row.solver, "schedule": row.schedule, "seed": seed, "best_energy": energy}


def summary(results: Results) -> dict[str, Any]:
    """Return the settings of a study and what it found, as plain data; unknown and infinite numbers are None."""
    study = results.study
    settings = {name: getattr(study, name) for name in ("title", "command", "seeds", "starts", "iterations")}
    found: dict[str, Any] = plain(
        {
            **settings,
            "basin_starts": study.basin_starts,
            "held_beta": study.held_beta,
            "problem": repr(study.problem),
            "solvers": {name: to_plain(solver) for name, solver in study.all_solvers.items()},
            "reference": dataclasses.asdict(results.reference),
            "stability": dataclasses.asdict(study.stability),
            "rates": list(rate_rows(results)),
            "basins": [_basins(found) for found in results.basins],
            "bistability": None if results.bistability is None else _bistability(results.bistability),
            "schedules": [{"solver": row.solver, "schedule": row.schedule, **_spread(row)} for row in results.annealed],
            "skipped": results.skipped,
            "interrupted": results.interrupted,
            "environment": environment(),
        }
    )
    return found


def _spread(row: Annealed) -> dict[str, float]:
    mean, spread = mean_and_spread(row.finals)
    return {"mean": mean, "spread": spread}


def _basins(found: Basins) -> dict[str, Any]:
    names = ("solver", "kind", "starts", "unsettled")
    return {**{name: getattr(found, name) for name in names}, "distinct": len(found.basins)}


def _bistability(found: Bistability) -> dict[str, Any]:
    return {
        "onset": found.onset,
        "loop": None if found.loop is None else {"beta": found.loop.beta, "width": found.loop.width},
        "exact": None if found.exact is None else dataclasses.asdict(found.exact),
    }


def plain(value: Any) -> Any:
    """Return what JSON can hold: arrays as lists, unknown and infinite numbers as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, np.floating):
        value = float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
