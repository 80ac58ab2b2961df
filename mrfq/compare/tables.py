"""The tables of a report, as plain rows that the template only has to lay out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from mrfq.compare.results import BASELINE, Results, Run, Summary
from mrfq.compare.suite import EXACT, ProblemSpec


@dataclass
class TableCell:
    """A number, written, with what it is sorted by."""

    text: str
    sort: float = math.nan
    spread: str = ""
    best: bool = False
    #: length of the bar behind it, 0 to 1
    bar: float | None = None
    title: str = ""

    @property
    def key(self) -> str:
        """Return the sort key as the page's script reads it."""
        return "" if math.isnan(self.sort) else f"{self.sort:.9g}"


@dataclass
class Row:
    """A solver, or a reference, with a cell per column."""

    name: str
    cells: list[TableCell]
    #: "reference", "baseline" or ""
    role: str = ""


@dataclass
class TableView:
    """A table: labels of its columns with an explanation each, and rows, best first."""

    columns: list[tuple[str, str]]
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """A number of every run: its name, label, explanation and format."""

    name: str
    label: str
    help: str
    digits: int = 2
    #: which end is best: "high", "low" or "" for neither
    best: str = "low"
    bar: bool = False


ACCURACY = Column("test_accuracy", "test accuracy, %", "on images never used to choose anything", 2, "high", bar=True)
VALIDATION = Column("validation_accuracy", "validation, %", "accuracy on the validation images", 2, "high")
TEST_LOSS = Column("test_loss", "test loss", "cross-entropy on the test images, in nats", 4)
TRAIN_LOSS = Column("energy", "training loss", "the energy that the solvers minimise", 4)
ENERGY = Column("energy", "energy", "of the best labelling found", 3)
GAP = Column("gap", "gap", "energy above the reference", 3, bar=True)
BOUND = Column("lower_bound", "lower bound", "proved by the solver", 3, "")
CALLS = Column("oracle_calls", "oracle calls", "made of those allowed; fewer if the solver stopped by itself", 0, "")
SECONDS = Column("seconds", "time, s", "of the solver alone; evaluations are not charged", 3, "")


def columns(results: Results, problem: ProblemSpec) -> list[Column]:
    """Return the columns of a problem's table."""
    if problem.family == "network":
        return [ACCURACY, VALIDATION, TEST_LOSS, TRAIN_LOSS, *([GAP] if problem.exact else []), CALLS, SECONDS]
    runs = [run for s in results.solvers(problem.name) for run in results.ran(problem.name, s)]
    bounds = [BOUND] if any(run.record.lower_bound is not None for run in runs) else []
    return [ENERGY, GAP, *bounds, CALLS, SECONDS]


def problem_table(results: Results, problem: ProblemSpec) -> TableView:
    """Return mean and spread over the seeds of every solver that ran on a problem, best first."""
    shown = columns(results, problem)
    order = GAP if problem.exact or problem.family == "mrf" else ACCURACY
    names = results.ranked(problem.name, order.name, descending=order.best == "high")
    view = TableView([(column.label, column.help) for column in shown])
    solved = problem.exact or problem.family == "mrf"
    if solved:
        goal = "the exact optimum" if problem.exact else "the best energy found by any solver"
        view.columns.insert(shown.index(GAP) + 1, ("solved", f"seeds on which it reached {goal}"))
    view.rows = _references(results, problem, shown)
    for name in names:
        row = Row(name, [_cell(results.summary(problem.name, name, c.name), c) for c in shown])
        row.role = "baseline" if name == BASELINE else ""
        view.rows.append(row)
    mine = [row for row in view.rows if row.role != "reference"]
    for number, column in enumerate(shown):
        _mark_best([row.cells[number] for row in mine], column)
        if column.bar:
            _add_bars([row.cells[number] for row in view.rows], column)
    if solved:
        for row in view.rows:
            row.cells.insert(shown.index(GAP) + 1, _solved(results, problem, row))
    return view


def _references(results: Results, problem: ProblemSpec, shown: list[Column]) -> list[Row]:
    """Return the rows that solvers are measured against: the float network and the exact optimum."""
    rows = []
    if problem.family == "network":
        runs = [run for run in results.runs if run.problem == problem.name and run.record.float_metrics]
        seeds = {run.cell.seed: run for run in runs}
        names = {"energy": "float_train_loss", "test_accuracy": "float_test_accuracy",
                 "validation_accuracy": "float_validation_accuracy", "test_loss": "float_test_loss"}  # fmt: skip
        cells = [
            _cell(Summary.of(run.value(names[c.name]) for run in seeds.values()), c)
            if c.name in names
            else TableCell("")
            for c in shown
        ]
        rows.append(Row("float network (not quantized)", cells, "reference"))
    if results.ran(problem.name, EXACT):
        cells = [_cell(results.summary(problem.name, EXACT, c.name), c) for c in shown]
        rows.append(Row("exact optimum", cells, "reference"))
    return rows


def _cell(summary: Summary, column: Column) -> TableCell:
    if math.isnan(summary.mean):
        return TableCell("–")
    if math.isinf(summary.mean):
        return TableCell("∞" if summary.mean > 0 else "−∞", summary.mean)
    digits = 1 if column.digits == 3 and abs(summary.mean) >= 1000 else column.digits
    text = "0" if summary.mean == 0 and column is GAP else number(summary.mean, digits)
    spread = number(summary.spread, digits) if summary.count > 1 and column.best and text != "0" else ""
    title = f"mean and standard deviation of {summary.count} seeds" if spread else ""
    return TableCell(text, summary.mean, spread, title=title)


def number(value: float, digits: int) -> str:
    """Return a number with a true minus sign and thousands apart."""
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", "\u202f")


def _mark_best(cells: list[TableCell], column: Column) -> None:
    known = [cell for cell in cells if not math.isnan(cell.sort)]
    if not column.best or len(known) < 2:
        return
    best = (max if column.best == "high" else min)(known, key=lambda cell: cell.sort).text
    for cell in known:
        cell.best = cell.text == best


def _add_bars(cells: list[TableCell], column: Column) -> None:
    """Give each number a bar; accuracies from the lowest one shown, gaps from 0."""
    known = [cell.sort for cell in cells if math.isfinite(cell.sort)]
    if not known or max(known) == min(known):
        return
    low = 0.0 if column is GAP else max(0.0, min(known) - 0.15 * (max(known) - min(known)))
    for cell in cells:
        if math.isfinite(cell.sort):
            cell.bar = (cell.sort - low) / (max(known) - low)


def _solved(results: Results, problem: ProblemSpec, row: Row) -> TableCell:
    runs = results.ran(problem.name, row.name)
    if row.role == "reference" or not runs:
        return TableCell("")
    count = sum(run.solved for run in runs)
    return TableCell(f"{count} of {len(runs)}", count, best=count == len(runs))


def overview(results: Results) -> TableView:
    """Return the fraction of the initial gap that every solver leaves on every MRF, in percent, best first."""
    problems = results.problems("mrf")
    view = TableView([(p.name, f"against {'the exact optimum' if p.exact else 'the best found'}") for p in problems])
    view.columns.append(("mean", "over the problems it fits"))
    for solver in results.solvers():
        means = [results.summary(p.name, solver, "remaining").mean for p in problems]
        known = [mean for mean in means if math.isfinite(mean)]
        if known:
            cells = [_heat(mean) for mean in [*means, sum(known) / len(known)]]
            view.rows.append(Row(solver, cells, "baseline" if solver == BASELINE else ""))
    view.rows.sort(key=lambda row: (sum(cell.text == "" for cell in row.cells), row.cells[-1].sort))
    for number_, _ in enumerate(view.columns):
        _mark_best([row.cells[number_] for row in view.rows], GAP)
    return view


def _heat(mean: float) -> TableCell:
    if math.isnan(mean):
        return TableCell("")
    text = "0" if mean == 0 else "< 0.1" if mean < 0.0005 else number(100 * mean, 1)
    shade = min(max(math.log10(max(mean, 1e-3)) / 3 + 1, 0.0), 1.0)  # 0.1 % is pale, 100 % is full
    return TableCell(text, mean, bar=shade if mean > 0 else 0.0)


@dataclass(frozen=True)
class Fit:
    """Whether a solver fits a problem."""

    mark: str
    reason: str


def capability_matrix(results: Results) -> tuple[list[str], list[tuple[str, str, list[Fit]]]]:
    """Return the names of the problems, and for each solver its name, its needs and whether it fits each."""
    problems = [problem.name for problem in results.problems()]
    rows = []
    for solver in results.solvers():
        runs = [results.of_pair(problem, solver)[:1] for problem in problems]
        needs = next((run[0].record.needs for run in runs if run and run[0].record.needs), [])
        rows.append((solver, ", ".join(needs) or "gradients or energies", [_fit(run) for run in runs]))
    return problems, rows


def _fit(runs: list[Run]) -> Fit:
    if not runs:
        return Fit("missing", "not run yet")
    record = runs[0].record
    if record.skipped:
        return Fit("no", record.skipped_reason)
    return Fit("failed", record.status) if record.failed else Fit("yes", "fits")


def skipped(results: Results, problem: ProblemSpec) -> list[tuple[str, list[str]]]:
    """Return the reasons why solvers were skipped on a problem, and which."""
    reasons: dict[str, list[str]] = {}
    for solver in results.solvers():
        for run in results.of_pair(problem.name, solver)[:1]:
            if run.record.skipped:
                reasons.setdefault(run.record.skipped_reason, []).append(solver)
    return list(reasons.items())


def failures(runs: Iterable[Run]) -> list[str]:
    """Return a line for every run that failed."""
    return [f"{r.problem}, {r.solver}, seed {r.cell.seed}: {r.record.status}" for r in runs if r.record.failed]
