"""Training-time quantization on MNIST and CIFAR-10: every method, several seeds, the tables of `docs/benchmarks.md`.

    python tests/bench/training.py --data FOLDER                         # train, two runs at a time
    python tests/bench/training.py --data FOLDER --suite mnist-lenet5    # one suite of training.toml
    python tests/bench/training.py --docs docs/benchmarks.md             # put what there is into the tables

What finished runs found is collected in training.json beside this file, from which the tables are made; such runs are
not run again, one that was interrupted goes on, and what has other settings than training.toml is dropped. The folder
holds the data sets as `mrfq train --data` expects them. With `--limit-steps` every run is cut short, to try the
commands, and nothing is collected.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from page import insert_between

from mrfq.errors import MrfqError
from mrfq.train import Settings, train

SUITES, RESULTS = Path(__file__).with_suffix(".toml"), Path(__file__).with_suffix(".json")
#: what is kept of a summary
KEPT = ("test_accuracy", "validation_accuracy", "train_accuracy", "best_epoch", "steps", "seconds", "packed_bytes")


@dataclass(frozen=True)
class Job:
    """One training run of a suite."""

    suite: str
    name: str
    seed: int
    settings: dict[str, Any]

    @property
    def folder(self) -> str:
        """Where its files are, below the folder of all runs."""
        return f"{self.suite}/{self.name}-{self.seed}"


def jobs_of(suite: str, entry: dict[str, Any]) -> list[Job]:
    """Return the runs of a suite, all methods of one seed before the next seed."""
    return [
        Job(suite, name, seed, {"method": name, **entry["settings"], **own, "seed": seed})
        for seed in entry["seeds"]
        for name, own in entry["methods"].items()
    ]


def run(job: Job, data: str, out: Path, device: str, limit_steps: int | None) -> str:
    """Train, and return a line about it."""
    folder, began = out / job.folder, time.perf_counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    extra = {"data": data, "device": device, "threads": 1, "limit_steps": limit_steps}
    try:
        summary = train(Settings(**job.settings, **extra), folder, resume=folder.exists())
    except MrfqError as error:
        return f"{job.folder}: FAILED: {error}"
    return f"{job.folder}: {summary['test_accuracy']:.2f} ({time.perf_counter() - began:.0f} s)"


def collect(out: Path, jobs: list[Job]) -> None:
    """Add what finished runs found to the results, and drop what belongs to no job any more."""
    known = {job.folder: job for job in jobs}
    found = {
        key: entry for key, entry in results().items() if key in known and entry["settings"] == known[key].settings
    }
    for job in jobs:
        path = out / job.folder / "summary.json"
        if path.exists():
            summary = json.loads(path.read_text())
            machine = f"{summary['environment']['device']}, torch {summary['environment']['torch']}"
            kept = {name: summary[name] for name in KEPT}
            if all(summary["settings"][name] == _listed(value) for name, value in job.settings.items()):
                found[job.folder] = {"settings": job.settings, **kept, "machine": machine}
    rows = (f"{json.dumps(key)}: {json.dumps(found[key])}" for key in sorted(found))
    RESULTS.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def results() -> dict[str, Any]:
    """Return what finished runs found, by their folder."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def summaries(suite: str, entry: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return what finished runs found, by the name of the row."""
    known = results()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in entry["methods"]}
    for job in jobs_of(suite, entry):
        if known.get(job.folder, {}).get("settings") == job.settings:
            found[job.name].append(known[job.folder])
    return found


def spread(values: list[float]) -> str:
    """Return mean and standard deviation (of the sample) as text."""
    if not values:
        return "not run"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def row(name: str, runs: list[dict[str, Any]], entry: dict[str, Any]) -> list[str]:
    """Return the cells of a row."""
    tests = [run["test_accuracy"] for run in runs]
    goal, verdict = entry.get("target", {}).get(name), ""
    if goal is not None:
        verdict = f"{goal:.2f}"
        if tests:
            gap = statistics.mean(tests) - goal
            verdict += ": met" if gap >= 0 else f": **missed by {-gap:.2f}**"
    own = ", ".join(f"{key} {value}" for key, value in entry["methods"][name].items())
    seconds = f"{min(run['seconds'] for run in runs):.0f}" if runs else ""
    size = f"{runs[0]['packed_bytes'] / 1000:.1f}" if runs else ""
    validation = spread([run["validation_accuracy"] for run in runs]) if runs else ""
    return [f"`{name}`", spread(tests), validation, str(len(runs)), own, seconds, size, verdict]


def table(suite: str, entry: dict[str, Any]) -> str:
    """Return the table of a suite, best test accuracy first; rows without runs say so."""
    found = summaries(suite, entry)
    head = ["", "test %", "validation %", "seeds", "settings", "seconds, least", "kB", "target"]
    order = sorted(
        found, key=lambda name: -statistics.mean(r["test_accuracy"] for r in found[name]) if found[name] else 0
    )
    rows = [row(name, found[name], entry) for name in order]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    common = ", ".join(f"{key} {value}" for key, value in entry["settings"].items() if key not in ("model", "dataset"))
    words = entry.get("words", "")
    return f"**{entry['title']}** ({common}). {words}\n\n" + "\n".join(lines)


def main() -> None:
    """Train or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data sets; without it nothing is trained")
    parser.add_argument("--out", type=Path, default=Path("bench/training"), help="folder of the runs")
    parser.add_argument("--suite", action="append", help="only this suite; repeatable")
    parser.add_argument("--method", action="append", help="only this row; repeatable")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="train also what has been collected before")
    parser.add_argument("--limit-steps", type=int)
    parser.add_argument("--collect", action="store_true", help="look for finished runs without training")
    parser.add_argument("--docs", type=Path, help="page with the markers for the tables")
    options = parser.parse_args()
    suites = tomllib.loads(SUITES.read_text())
    chosen = {name: entry for name, entry in suites.items() if not options.suite or name in options.suite}
    if options.suite and len(chosen) < len(set(options.suite)):
        raise SystemExit(f"unknown suite; there are {', '.join(suites)}")
    every = [job for name, entry in suites.items() for job in jobs_of(name, entry)]
    if options.data:
        jobs = [job for name, entry in chosen.items() for job in jobs_of(name, entry)]
        jobs = [job for job in jobs if not options.method or job.name in options.method]
        known = {} if options.limit_steps or options.fresh else results()
        jobs = [job for job in jobs if known.get(job.folder, {}).get("settings") != job.settings]
        lines = Parallel(n_jobs=options.jobs, return_as="generator_unordered", verbose=0)(
            delayed(run)(job, options.data, options.out, options.device, options.limit_steps) for job in jobs
        )
        for line in lines:
            print(line, flush=True)
            if options.limit_steps is None:
                collect(options.out, every)
    elif options.collect:
        collect(options.out, every)
    text = "\n\n".join(table(name, entry) for name, entry in chosen.items())
    if options.docs:
        insert_between(options.docs, text, "training")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
