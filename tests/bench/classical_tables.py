"""The figures as markdown tables, between two markers of a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from classical_pairs import EQUAL, Known, best_known, pairs
from classical_targets import Check, all_checks
from page import insert_between, markers

BEGIN, END = markers("classical")
#: CPU times of a pair that are worth pointing out: ours this many times the peer's, and no less than so many seconds
SLOWER, NOTICED = 2.0, 0.02


def tables(figures: dict[str, Any]) -> str:
    """Return all tables, with what they were measured on."""
    parts = [where(figures), targets(all_checks(figures)), pair_table(figures["rows"]), every_run(figures)]
    return "\n\n".join(parts)


def insert(page: Path, text: str) -> None:
    """Put the tables between the markers of a page (see `insert_between`)."""
    insert_between(page, text, "classical")


def where(figures: dict[str, Any]) -> str:
    """Return the sentence that names machine, versions and load."""
    machine, load, settings = figures["machine"], figures["load"], figures["settings"]
    peers = ", ".join(f"{name} {version or 'not installed'}" for name, version in figures["versions"].items())
    return (
        f"Measured on {figures['date'][:10]} on {machine['cores']} cores of {machine['processor']}, "
        f"Python {machine['python']}, torch {machine['torch']}, numba {machine['numba']}; {peers}. "
        f"{settings['jobs']} processes at a time, one thread each; load average {load['start'][0]:.1f} at the start "
        f"and {load['end'][0]:.1f} at the end; {figures['wall_seconds'] / 60:.1f} minutes"
        + (", small models only (`--quick`)." if settings["quick"] else ".")
    )


def targets(checks: list[Check]) -> str:
    """Return the table of what must hold."""
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines = ["| | target | measured | |", "|---|---|---|---|"]
    for check in checks:
        verdict = words[check.met] + (f": {check.remark}" if check.remark else "")
        lines.append(f"| {check.group} | {check.target} | {check.measured} | {verdict} |")
    return "\n".join(lines)


def pair_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of pairs."""
    lines = [
        "| model | ours / peer | energy above the peer's, % of the larger | seeds | CPU time ours / peer | |",
        "|---|---|---|---|---|---|",
    ]
    for pair in pairs(rows):
        remark = pair.verdict + (f", {pair.remark}" if pair.remark else "")
        remark += f", {pair.ratio:.1f} times slower" if pair.ratio > SLOWER and pair.seconds > NOTICED else ""
        amount = "0" if abs(pair.percent) < 100 * EQUAL else f"{pair.percent:+.3f}"
        amount += f" ± {pair.error:.3f}" if pair.error >= 5e-4 else ""
        names = f"`{pair.ours}` / {pair.peer}"
        lines.append(f"| {pair.instance} | {names} | {amount} | {pair.seeds} | {pair.ratio:.2f} | {remark} |")
    return "\n".join(lines)


def every_run(figures: dict[str, Any]) -> str:
    """Return the table of all methods on all models."""
    instances, rows = figures["instances"], figures["rows"]
    reported = {
        name: (it["energy"], it["status"].startswith("proved"))
        for name, it in instances.items()
        if it["energy"] is not None
    }
    known = best_known(rows, reported)
    head = "| model | method | gap, % | bound gap, % | proved | CPU s | of it building | MB |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *_lines(instances, rows, known)])


def _lines(instances: dict[str, Any], rows: list[dict[str, Any]], known: dict[tuple[str, int], Known]) -> Iterator[str]:
    for name in instances:
        best = known.get((name, 0))
        if best is not None:
            proof = "optimal" if best.proved else "best known"
            yield f"| **{name}** | {best.energy:.6f}, {proof} | | | | | | |"
        for method in dict.fromkeys(row["method"] for row in rows if row["instance"] == name):
            runs = [row for row in rows if (row["instance"], row["method"]) == (name, method)]
            shown = f"`{method}`" if runs[0]["ours"] else f"*{method}*"
            yield f"| | {shown} | " + " | ".join(_cells(name, runs, known)) + " |"


def _cells(name: str, runs: list[dict[str, Any]], known: dict[tuple[str, int], Known]) -> list[str]:
    done = [row for row in runs if row["energy"] is not None and row["cpu"] is not None]
    if not done:
        return [runs[0]["note"], "", "", _median(runs, "cpu", "{:.3g}"), "", ""]
    gaps = [percent(row["energy"], known[name, row["seed"]].energy) for row in done]
    bounds = [percent(known[name, row["seed"]].energy, row["bound"]) for row in done if row["bound"] is not None]
    spread = f" ± {statistics.stdev(gaps):.3f}" if len(gaps) > 1 and max(gaps) >= 5e-4 else ""
    proved = sum(row["proved"] for row in done)
    return [
        small(statistics.fmean(gaps)) + spread,
        small(statistics.fmean(bounds)) if bounds else "",
        ("yes" if proved == len(done) else f"{proved} of {len(done)}") if proved else "",
        _median(done, "cpu", "{:.3g}"),
        _median(done, "build", "{:.3f}") if not done[0]["ours"] else "",
        _median(done[:1], "memory_mb", "{:.1f}"),
    ]


def percent(high: float, low: float) -> float:
    """Return the difference of two energies in percent of the larger one."""
    if not math.isfinite(high) or not math.isfinite(low):
        return math.inf
    return 100 * (high - low) / max(abs(high), abs(low), 1e-12)


def small(value: float) -> str:
    """Return a percentage; 0 where it is rounding."""
    if not math.isfinite(value):
        return "no allowed labels"
    return "0" if abs(value) < 100 * EQUAL else f"{value:.3f}" if abs(value) >= 5e-4 else f"{value:.0e}"


def _median(rows: list[dict[str, Any]], column: str, form: str) -> str:
    values = [row[column] for row in rows if row[column] is not None]
    return form.format(statistics.median(values)) if values else ""
