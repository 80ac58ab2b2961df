"""`mrfq solve`: read a model, minimise its energy, say what was found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import mrfq
from mrfq.commands.interrupt import Interrupt
from mrfq.commands.settings import make_solver
from mrfq.errors import InvalidParameterError
from mrfq.files import write_atomically
from mrfq.io.formats import read
from mrfq.io.mpe import write_mpe
from mrfq.problem import SupportsFactors
from mrfq.solution import Solution

#: labels that the summary shows; files and --json have all of them
SHOWN = 64
#: what a shell reports for a command that Ctrl-C ended
INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    file: Path
    solver: str = "auto"
    settings: tuple[str, ...] = ()
    evidence: Path | None = None
    time_limit: float | None = None
    seed: int = 0
    max_iters: int | None = None
    out: Path | None = None
    mpe: Path | None = None
    trace: Path | None = None
    as_json: bool = False


def solve_file(request: Request) -> int:
    """Solve a model, write and print the result, and return the exit code.

    Raises
    ------
    MrfqError, OSError
        Anything wrong with the request or the file; results are checked to have a place before the run.
    """
    _check_outputs(request)
    solver = make_solver(request.solver, request.settings)
    problem = read(request.file, evidence=request.evidence)
    with Interrupt() as interrupt, live(Console(stderr=True, highlight=False)) as show:

        def callback(row: dict[str, float]) -> bool:
            show(row)
            return interrupt.asked

        solution = mrfq.solve(
            problem,
            solver,
            max_iters=request.max_iters,
            time_limit=request.time_limit,
            seed=request.seed,
            callback=callback,
        )
    summary = summarise(request.solver, problem, solution)
    _write(request, summary, solution)
    if request.as_json:
        print(json.dumps(summary, allow_nan=False))
    else:
        Console(highlight=False).print(_table(summary, solution.notes))
    return INTERRUPTED if interrupt.asked else 0


def summarise(solver: str, problem: SupportsFactors, solution: Solution) -> dict[str, Any]:
    """Return what was found as plain data.

    A number that is unknown or infinite is None: the energy, if every labelling that was seen is forbidden; the
    bound and the gap, if the solver proves none.
    """
    return {
        "energy": _finite(solution.energy),
        "lower_bound": _finite(solution.lower_bound),
        "gap": _finite(solution.gap),
        "proved": solution.proved,
        "solver": solver,
        "status": str(solution.status),
        "labels": solution.labels.tolist(),
        "seconds": solution.seconds,
        "variables": len(solution.labels),
        "factors": len(problem.factors()),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _check_outputs(request: Request) -> None:
    """Raise an error about a result that could not be written, before any work is done."""
    for option, path in (("--out", request.out), ("--mpe", request.mpe), ("--trace", request.trace)):
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidParameterError(f"{option} {path}: there is no folder {path.parent}")
    if request.trace is not None and request.trace.suffix.lower() not in (".csv", ".json"):
        raise InvalidParameterError(f"--trace {request.trace}: the name must end in .csv or .json")


def _write(request: Request, summary: dict[str, Any], solution: Solution) -> None:
    if request.out is not None:
        write_atomically(request.out, json.dumps(summary, allow_nan=False) + "\n")
    if request.mpe is not None:
        write_mpe(solution.labels, request.mpe)
    if request.trace is not None:
        as_csv = request.trace.suffix.lower() == ".csv"
        write_atomically(request.trace, solution.trace.to_csv() if as_csv else solution.trace.to_json() + "\n")


@contextmanager
def live(console: Console) -> Iterator[Callable[[dict[str, float]], None]]:
    """Show the best energy and the bound while a run goes on, on a terminal only."""
    if not console.is_terminal:
        yield lambda row: None
        return
    with console.status("starting") as status:

        def show(row: dict[str, float]) -> None:
            bound = "" if math.isnan(row["bound"]) else f"  bound {row['bound']:.10g}"
            status.update(f"iteration {row['iteration']:.0f}  energy {row['best_energy']:.10g}{bound}")

        yield show


def _table(summary: dict[str, Any], notes: Sequence[str]) -> Table:
    """Return the summary for people, with what the solver has to say about its choices."""
    energy = "every labelling seen is forbidden" if summary["energy"] is None else f"{summary['energy']:.12g}"
    bound = "none" if summary["lower_bound"] is None else f"{summary['lower_bound']:.12g}"
    gap = "unknown" if summary["gap"] is None else f"{summary['gap']:.6g}"
    labels = " ".join(map(str, summary["labels"][:SHOWN]))
    rest = summary["variables"] - SHOWN
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (
        ("energy", energy + " (proved optimal)" * summary["proved"]),
        ("lower bound", bound),
        ("gap", gap),
        ("status", summary["status"]),
        ("solver", summary["solver"]),
        *(("" if k else "what it did", note) for k, note in enumerate(notes)),
        ("seconds", f"{summary['seconds']:.3f}"),
        ("model", f"{summary['variables']} variables, {summary['factors']} factors"),
        ("labels", labels + (f" ... and {rest} more (--json, --out and --mpe have all)" if rest > 0 else "")),
    ):
        table.add_row(name, Text(text))
    return table
