"""What a comparison shows while it runs, and the summary at its end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mrfq.compare.findings import best_network_solver, float_summary
from mrfq.compare.results import BASELINE, Results
from mrfq.compare.suite import EXACT

if TYPE_CHECKING:
    from mrfq.compare.records import Record
    from mrfq.compare.suite import Cell, ProblemSpec


class Reporter:
    """A progress bar on a terminal, a line per finished run elsewhere; notices go to stderr.

    Use it as a context manager, so that the bar is taken down whatever happens.
    """

    def __init__(self, out: Console, err: Console) -> None:
        self.out, self.err = out, err
        self.progress: Progress | None = None
        self.done = self.total = 0

    def __enter__(self) -> Reporter:
        if self.out.is_terminal:
            columns = (TextColumn("{task.description:<42.42}"), BarColumn(), MofNCompleteColumn())
            self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.out)
            self.progress.start()
            self.task = self.progress.add_task("starting")
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None

    def begin(self, total: int, kept: int) -> None:
        """Say how much there is to do."""
        self.total, self.done = total, kept
        if kept:
            self.say(f"{kept} of {total} runs are finished already, {total - kept} to go")
        if self.progress:
            self.progress.update(self.task, total=total, completed=kept)

    def finished(self, cell: Cell, record: Record) -> None:
        """Count a run, and tell how it ended."""
        self.done += 1
        name = f"{cell.problem.name}  {cell.solver}  seed {cell.seed}"
        if self.progress:
            self.progress.update(self.task, advance=1, description=name)
            if record.failed:
                self.say(f"{name}  {record.status}")
            return
        if record.ran:
            result = f"energy {record.energy:.6g}  {record.oracle_calls} calls  {record.seconds:.2f} s"
        else:
            result = record.status + (f": {record.skipped_reason}" if record.skipped_reason else "")
        self.say(f"[{self.done}/{self.total}]  {name}  {result}")

    def notice(self, text: str) -> None:
        """Pass on something the user should know."""
        self.err.print(Text(f"note: {text}"), soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.out.print(Text(text), soft_wrap=True)


def summary_table(results: Results) -> Table:
    """Return the best solver of every problem (of a network: on validation) against the baseline and the reference."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("problem", "best solver", "its result", "rounding", "reference"):
        table.add_column(column, justify="left" if column in ("problem", "best solver") else "right")
    for problem in results.problems():
        column = result_column(results, problem)
        ranked = results.ranked(problem.name, column)
        chosen = best_network_solver(results, problem.name) if column == "test_accuracy" else None
        best = chosen or (ranked[0] if ranked else "-")
        table.add_row(
            problem.name,
            best,
            _number(results, problem, best, column),
            _number(results, problem, BASELINE, column),
            _reference(results, problem, column),
        )
    return table


def result_column(results: Results, problem: ProblemSpec) -> str:
    """Return the number that a problem is judged by: test accuracy of a network, unless its optimum is known."""
    return "test_accuracy" if problem.family == "network" and not problem.exact else "energy"


def _number(results: Results, problem: ProblemSpec, solver: str, column: str) -> str:
    mean = results.summary(problem.name, solver, column).mean
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f} %" if column == "test_accuracy" else f"{mean:.6g}"


def _reference(results: Results, problem: ProblemSpec, column: str) -> str:
    if column == "test_accuracy":
        mean = float_summary(results, problem.name, column).mean
        return "-" if math.isnan(mean) else f"{mean:.2f} % float"
    exact = _number(results, problem, EXACT, column)
    return "-" if exact == "-" else f"{exact} exact"
