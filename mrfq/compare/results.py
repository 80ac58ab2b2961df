"""All runs of a comparison as rows, their gaps, and their means and spreads over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from mrfq.compare.records import Record
from mrfq.compare.runner import Outcome
from mrfq.compare.suite import EXACT, Cell, ProblemSpec

#: the solver that returns the rounded start, if the suite has it
BASELINE = "rounding"


@dataclass(frozen=True)
class Run:
    """One cell with its record and its gap to the reference."""

    cell: Cell
    record: Record
    #: energy of the exact optimum, or the best energy that any solver found for this problem and seed
    reference: float
    #: "exact", "best", or "" without any energy
    gap_to: str

    @property
    def problem(self) -> str:
        """Name of the problem."""
        return self.cell.problem.name

    @property
    def solver(self) -> str:
        """Label of the solver."""
        return self.cell.solver

    @property
    def gap(self) -> float:
        """Energy above the reference; 0 where they differ by rounding errors, NaN if the solver did not run."""
        return self.above(self.record.energy)

    @property
    def solved(self) -> bool:
        """Whether the run reached the reference."""
        return self.gap <= 0

    def above(self, energy: float) -> float:
        """Return an energy minus the reference, 0 where they differ by rounding errors."""
        if energy == self.reference:
            return 0.0
        gap = energy - self.reference
        return 0.0 if abs(gap) <= self.record.tolerance * max(1.0, abs(self.reference)) else gap

    @property
    def scale(self) -> float:
        """Gap of the start, which all solvers of a problem and seed share; 0 if it is already optimal."""
        return self.above(self.record.trace["best_energy"][0]) if self.record.trace else math.nan

    @property
    def remaining(self) -> float:
        """Fraction of the gap of the start that is left: 1 at the start, 0 at the reference."""
        if self.gap == 0:
            return 0.0
        return self.gap / self.scale if math.isfinite(self.scale) and self.scale > 0 else math.nan

    def value(self, column: str) -> float:
        """Return a number of the run by its name: of its metrics, its float metrics, its record, or itself."""
        record = self.record
        if column in record.metrics:
            return record.metrics[column]
        if column.startswith("float_"):
            return record.float_metrics.get(column.removeprefix("float_"), math.nan)
        if column in ("gap", "remaining"):
            return float(getattr(self, column))
        found = getattr(record, column, math.nan)
        return math.nan if found is None else float(found)


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of a number over the seeds."""

    mean: float
    spread: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Return the summary of the values that are not NaN."""
        known = [value for value in values if not math.isnan(value)]
        if not known or not all(map(math.isfinite, known)):
            return cls(
                known[0] if known and len(set(known)) == 1 else (math.inf if known else math.nan), 0.0, len(known)
            )
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0, len(known))


@dataclass
class Results:
    """The runs of a comparison, looked up by problem and solver."""

    outcome: Outcome
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def of(cls, outcome: Outcome) -> Results:
        """Return the results of an outcome, gaps computed."""
        exact: dict[tuple[str, int], float] = {}
        best: dict[tuple[str, int], float] = {}
        for cell, record in outcome.records:
            place = (cell.problem.name, cell.seed)
            if record.ran and not math.isnan(record.energy):
                best[place] = min(record.energy, best.get(place, math.inf))
                if cell.solver == EXACT:
                    exact[place] = record.energy
        results = cls(outcome)
        for cell, record in outcome.records:
            place = (cell.problem.name, cell.seed)
            found = "exact" if place in exact else "best" if place in best else ""
            reference = exact.get(place, best.get(place, math.nan))
            results.runs.append(Run(cell, record, reference, found))
        return results

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], list[Run]]:
        found: dict[tuple[str, str], list[Run]] = {}
        for run in self.runs:
            found.setdefault((run.problem, run.solver), []).append(run)
        return found

    def of_pair(self, problem: str, solver: str) -> list[Run]:
        """Return the finished runs of a solver on a problem, skipped and failed ones among them."""
        return self._by_place.get((problem, solver), [])

    def ran(self, problem: str, solver: str) -> list[Run]:
        """Return the runs of a solver on a problem that came to an end."""
        return [run for run in self.of_pair(problem, solver) if run.record.ran]

    def problems(self, family: str | None = None) -> list[ProblemSpec]:
        """Return the problems of the suite that have any run."""
        started = {run.problem for run in self.runs}
        return [p for p in self.outcome.suite.problems if p.name in started and (family is None or p.family == family)]

    def solvers(self, problem: str | None = None) -> list[str]:
        """Return the solvers of the suite; only those that ran on the problem, if one is given."""
        names = [solver.name for solver in self.outcome.suite.solvers]
        return names if problem is None else [name for name in names if self.ran(problem, name)]

    def summary(self, problem: str, solver: str, column: str) -> Summary:
        """Return mean and spread of a number over the seeds."""
        return Summary.of(run.value(column) for run in self.ran(problem, solver))

    def ranked(self, problem: str, column: str, *, descending: bool = False) -> list[str]:
        """Return the solvers that ran on a problem, best mean first."""

        def order(solver: str) -> tuple[bool, float]:
            mean = self.summary(problem, solver, column).mean
            return math.isnan(mean), -mean if descending else mean

        return sorted(self.solvers(problem), key=order)

    def any_run(self, problem: str, accept: Callable[[Run], bool] = lambda run: run.record.ran) -> Run | None:
        """Return a run of the problem for what all its runs share."""
        return next((run for run in self.runs if run.problem == problem and accept(run)), None)
