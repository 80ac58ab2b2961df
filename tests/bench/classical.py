"""Our classical solvers and their peers, side by side on generated and real models: `make bench`.

    python tests/bench/classical.py --out bench/classical.json      # measure
    python tests/bench/classical.py --table bench/classical.json    # print the tables
    python tests/bench/classical.py --table bench/classical.json --docs docs/benchmarks.md    # and put them there

Each method runs on each model in a fresh process with one thread. The real models are those in the folder
`$MRFQ_DATA/mrf-instances`; without the variable they are left out. `--quick` tries everything on small models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
#: seconds after which a process is given up
PATIENCE = 900


def child(arguments: list[str]) -> list[dict[str, Any]]:
    """Run this file in a process of its own, and return the rows that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, __file__, *arguments, "--out", str(out)]
        try:
            done = subprocess.run(
                command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return [{"failed": f"no answer within {PATIENCE} s"}]
        if done.returncode or not out.exists():
            return [{"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}]
        rows: list[dict[str, Any]] = json.loads(out.read_text())
        return rows


def one(options: argparse.Namespace) -> None:
    """Do what a child does: one method on one model, or the targets that need runs of their own."""
    from classical_instances import instances
    from classical_measure import as_dict, measure
    from classical_methods import METHODS
    from classical_targets import cuts, message_passing

    if options.targets:
        import torch

        torch.set_num_threads(1)
        rows = [asdict(check) for check in (*message_passing(options.quick), *cuts(options.quick))]
    else:
        name, method = options.one
        rows = [as_dict(row) for row in measure(instances(options.quick)[name], METHODS[method], options.quick)]
    options.out.write_text(json.dumps(rows))


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything, and return the figures."""
    from classical_instances import instances
    from classical_methods import methods_for
    from classical_targets import Check
    from peers import PEERS

    began, load, quick = time.perf_counter(), os.getloadavg(), ["--quick"] * options.quick
    chosen = [it for it in instances(options.quick).values() if options.only in it.name]
    listed = [(it, m.name) for it in chosen for m in methods_for(it)]
    # What takes longest begins first.
    tasks = sorted(listed, key=lambda task: -_weight(*task))

    def run(task: tuple[Any, str]) -> list[dict[str, Any]]:
        instance, method = task
        rows = child(["--one", instance.name, method, *quick])
        if rows and "failed" in rows[0]:
            rows = [{**_blank(instance.name, method), "note": f"failed: {rows[0]['failed']}"}]
        print(_progress(rows), flush=True)
        return rows

    with ThreadPoolExecutor(options.jobs) as pool:
        found = dict(zip([(it.name, m) for it, m in tasks], pool.map(run, tasks), strict=True))
    rows = [row for it, method in listed for row in found[it.name, method]]
    # Ratios of times are measured with nothing else running.
    measured = child(["--targets", *quick])
    if measured and "failed" in measured[0]:
        measured = [asdict(Check("b", "targets (b) and (c)", "", None, measured[0]["failed"]))]
    return {
        "machine": machine(),
        "versions": {peer.package: peer.version() for peer in PEERS},
        "settings": {"jobs": options.jobs, "quick": options.quick, "threads": 1},
        "load": {"start": load, "end": os.getloadavg()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": time.perf_counter() - began,
        "instances": {it.name: {"kind": it.kind, "energy": it.energy, "status": it.status} for it in chosen},
        "rows": rows,
        "measured": measured,
    }


def _weight(instance: Any, method: str) -> float:
    long = {"auto": instance.auto_limit, "toulbar2": instance.limit, "pytoulbar2": instance.limit}
    return float(long.get(method, 10 * instance.budget if "annealing" in method else 0.0))


def _blank(instance: str, method: str) -> dict[str, Any]:
    from classical_measure import Row, as_dict
    from classical_methods import METHODS, Ours

    return as_dict(Row(instance, method, isinstance(METHODS[method], Ours)))


def _progress(rows: list[dict[str, Any]]) -> str:
    row = rows[0]
    if row["energy"] is None:
        return f"{row['instance']:28s}{row['method']:18s}{row['note']}"
    return f"{row['instance']:28s}{row['method']:18s}{row['energy']:16.6f}{row['cpu']:9.3f} s"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import numba
    import torch
    from speed import processor

    versions = {"python": platform.python_version(), "numba": numba.__version__, "torch": torch.__version__}
    return {"processor": processor(), "cores": os.cpu_count(), **versions}


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/classical.json"))
    parser.add_argument("--quick", action="store_true", help="small models, small budgets")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at a time")
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose name contains this")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the tables of an earlier run")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="with --table: write them between the page's markers")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "METHOD"), help=argparse.SUPPRESS)
    parser.add_argument("--targets", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one or options.targets:
        one(options)
        return
    from classical_tables import insert, tables

    if options.table:
        text = tables(json.loads(options.table.read_text()))
        insert(options.docs, text) if options.docs else print(text)
        return
    figures = measure_all(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(tables(figures))
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
