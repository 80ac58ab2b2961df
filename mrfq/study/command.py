"""What `mrfq study` does: a model and solvers from words, the study, the report, a summary."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from mrfq.commands.settings import make_solver, parse_settings
from mrfq.compare.catalogue import inline
from mrfq.compare.kinds import kinds, try_out
from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.generators import GENERATORS
from mrfq.io.formats import read
from mrfq.problem import Problem, mismatch
from mrfq.registry import make
from mrfq.solver import Solver
from mrfq.study import SECTIONS, Results, Study, run_study, write_study
from mrfq.study.plan import STARTS
from mrfq.study.tables import share_at_reference, written

#: the solvers of a study that names none: those of these that fit
DEFAULT = ("mean-field", "trws", "icm")
#: what a shell reports for a command that Ctrl-C ended
INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    model: str | None = None
    file: Path | None = None
    settings: tuple[str, ...] = ()
    solvers: tuple[str, ...] = ()
    seeds: int = 20
    starts: tuple[str, ...] = ()
    iterations: int = 200
    beta: float | None = None
    basin_starts: int = 100
    sections: tuple[str, ...] = ()
    out: Path = Path("study")


def study_model(request: Request) -> int:
    """Study a model, write the report, print a summary, and return the exit code.

    Raises
    ------
    MrfqError, OSError
        Anything wrong with the request or the file, before any work is done.
    """
    if request.out.exists() and not request.out.is_dir():
        raise InvalidParameterError(f"--out {request.out}: this is a file, a folder is needed")
    title, problem = chosen_model(request)
    study = Study(
        problem,
        chosen_solvers(request.solvers, problem),
        title=title,
        seeds=request.seeds,
        starts=request.starts or STARTS,
        iterations=request.iterations,
        beta=request.beta,
        basin_starts=request.basin_starts,
        sections=request.sections or SECTIONS,
        command=command_line(request),
    )
    console = Console(highlight=False)
    with Bars(console) as bars:
        results = run_study(study, bars)
    path = write_study(results, request.out)
    console.print(summary_table(results))
    for section, reason in results.skipped.items():
        console.print(f"section {section} does not apply: {reason}", markup=False, soft_wrap=True)
    console.print(f"\nreport: {path.resolve()}", soft_wrap=True, markup=False)
    if results.interrupted:
        print("interrupted: the report shows what was finished by then", file=sys.stderr)
    return INTERRUPTED if results.interrupted else 0


def chosen_model(request: Request) -> tuple[str, Problem]:
    """Return a title and the model, generated or read."""
    if (request.model is None) == (request.file is None):
        raise InvalidParameterError("mrfq study needs either --model KIND or --file MODEL")
    if request.file is not None:
        if request.settings:
            raise InvalidParameterError("--set belongs to --model; a model in a file has no parameters")
        return request.file.name, read(request.file)
    assert request.model is not None
    if request.model not in GENERATORS:
        raise UnknownNameError("kind of model", request.model, GENERATORS)
    settings = parse_settings(request.settings)
    kind = kinds()[request.model]
    parameters = kind.resolve("--set", settings)
    problem = try_out(f"--model {request.model}", request.model, parameters, settings.get("seed", 0)).problem
    given = ", ".join(f"{key} = {inline(value)}" for key, value in parameters.items())
    return f"{request.model} ({given})", problem


def chosen_solvers(texts: Sequence[str], problem: Problem) -> dict[str, Solver[Any]]:
    """Return solvers by name, each written `NAME key=value key=value`; by default those that fit.

    Examples
    --------
    >>> from mrfq.generators import chain
    >>> list(chosen_solvers(["icm", "mean-field beta=2 order=random"], chain(3, 2)))
    ['icm', 'mean-field beta=2 order=random']
    """
    if not texts:
        return {name: make(name) for name in DEFAULT if mismatch(problem, make(name)) is None}
    found: dict[str, Solver[Any]] = {}
    for text in texts:
        try:
            name, *settings = shlex.split(text)
        except ValueError as error:
            raise InvalidParameterError(f"--solver {text!r}: write it as --solver 'NAME key=value'") from error
        found[" ".join([name, *settings])] = make_solver(name, settings)
    return found


def command_line(request: Request) -> str:
    """Return the command that makes the same numbers."""
    options: list[tuple[str, Any]] = [("model", request.model), ("file", request.file)]
    options += [("set", text) for text in request.settings] + [("solver", text) for text in request.solvers]
    options += [("seeds", request.seeds), *(("start", start) for start in request.starts)]
    options += [("iterations", request.iterations), ("beta", request.beta), ("basin-starts", request.basin_starts)]
    options += [("section", section) for section in request.sections]
    words = [word for name, value in options if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["mrfq", "study", *words])


class Bars:
    """A progress bar for each section on a terminal, a line for each elsewhere. A context manager."""

    def __init__(self, console: Console) -> None:
        self.console, self.task = console, TaskID(0)
        columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console) if console.is_terminal else None

    def __enter__(self) -> Bars:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress:
            self.progress.stop()

    def begin(self, section: str, total: int) -> None:
        """Begin a section with so many parts."""
        if self.progress:
            self.task = self.progress.add_task(section, total=total)
        else:
            self.console.print(f"{section}: {total} parts", markup=False)

    def advance(self) -> None:
        """Count a part."""
        if self.progress:
            self.progress.advance(self.task)


def summary_table(results: Results) -> Table:
    """Return a line for each solver."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("solver", "runs", "best energy", f"at {results.reference.name}", "rate", "fixed points"):
        table.add_column(column, justify="left" if column == "solver" else "right")
    rates = {rate.solver: rate for rate in results.rates}
    basins = {found.solver: found for found in results.basins}
    for name in results.solvers():
        runs, rate, found = results.of(name), rates.get(name), basins.get(name)
        rated = "-" if rate is None or rate.kind == "none" else f"{rate.kind} {rate.median:.3g}"
        share = f"{share_at_reference(results, runs):.0%}"
        points = "-" if found is None else str(len(found.basins))
        table.add_row(name, str(len(runs)), written(min(run.energy for run in runs), 8), share, rated, points)
    return table
