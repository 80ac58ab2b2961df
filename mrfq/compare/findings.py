"""The headline findings of a report, computed from its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mrfq.compare.results import BASELINE, Results, Summary
from mrfq.compare.suite import EXACT, ProblemSpec
from mrfq.compare.tables import number


@dataclass(frozen=True)
class Finding:
    """A number worth a tile, and the sentence it belongs to."""

    value: str
    label: str
    text: str


def findings(results: Results) -> list[Finding]:
    """Return the findings of a comparison: one per network, one for all exact MRFs, one per other MRF."""
    found = []
    for problem in results.problems("network"):
        found.append(_exact_network(results, problem) if problem.exact else _network(results, problem))
    found.append(_exact_mrfs(results))
    found += [_open_mrf(results, problem) for problem in results.problems("mrf") if not problem.exact]
    return [finding for finding in found if finding is not None]


def best_network_solver(results: Results, problem: str) -> str | None:
    """Return the solver with the best validation accuracy: the test images choose nothing."""
    ranked = results.ranked(problem, "validation_accuracy", descending=True)
    known = [s for s in ranked if not math.isnan(results.summary(problem, s, "validation_accuracy").mean)]
    return known[0] if known else None


def float_summary(results: Results, problem: str, column: str) -> Summary:
    """Return a metric of the float networks, one per seed."""
    runs = [run for run in results.runs if run.problem == problem and run.record.float_metrics]
    return Summary.of({run.cell.seed: run.value(f"float_{column}") for run in runs}.values())


def _network(results: Results, problem: ProblemSpec) -> Finding | None:
    best = best_network_solver(results, problem.name)
    if best is None:
        return None
    mine = results.summary(problem.name, best, "test_accuracy")
    whole = float_summary(results, problem.name, "test_accuracy").mean
    near = [
        s for s in results.solvers(problem.name) if results.summary(problem.name, s, "test_accuracy").mean >= whole - 1
    ]
    sentence = f"{best} (best on validation) reaches {_pm(mine, 1)} % test accuracy"
    base = results.summary(problem.name, BASELINE, "test_accuracy").mean
    if not math.isnan(base):
        sentence += f", {_points(mine.mean - base)} nearest rounding ({number(base, 1)} %)"
    sentence += f" and {_points(mine.mean - whole)} the float network ({number(whole, 1)} %)."
    sentence += (
        f" {_count(len(near), len(results.solvers(problem.name)), 'solver')} within one point of the float network."
    )
    return Finding(f"{number(mine.mean, 1)} %", f"{problem.name}: {best}", sentence)


def _exact_network(results: Results, problem: ProblemSpec) -> Finding | None:
    exact = results.summary(problem.name, EXACT, "energy")
    ranked = [s for s in results.ranked(problem.name, "gap") if s != BASELINE]
    if not ranked or math.isnan(exact.mean):
        return None
    best = ranked[0]
    runs = results.ran(problem.name, best)
    solved = sum(run.solved for run in runs)
    loss = results.summary(problem.name, best, "energy").mean
    base = results.summary(problem.name, BASELINE, "energy").mean
    ever = [s for s in ranked if any(run.solved for run in results.ran(problem.name, s))]
    sentence = f"{best} comes closest: training loss {number(loss, 3)}, the exact optimum is {number(exact.mean, 3)}"
    if not math.isnan(base):
        sentence += f", nearest rounding gives {number(base, 3)}"
    sentence += f". {_count(len(ever), len(ranked), 'solver')} find the optimum for at least one seed."
    return Finding(f"{solved} / {len(runs)}", f"{problem.name}: seeds solved exactly by {best}", sentence)


def _exact_mrfs(results: Results) -> Finding | None:
    problems = [problem.name for problem in results.problems("mrf") if problem.exact]
    solved: dict[str, int] = {}
    tried: dict[str, int] = {}
    for solver in results.solvers():
        runs = [run for problem in problems for run in results.ran(problem, solver)]
        solved[solver], tried[solver] = sum(run.solved for run in runs), len(runs)
    if not any(tried.values()):
        return None
    order = sorted(solved, key=lambda solver: -solved[solver])
    total = len({(run.problem, run.cell.seed) for run in results.runs if run.problem in problems and run.record.ran})
    leaders = [s for s in order if solved[s] == solved[order[0]]]
    others = [s for s in order if s not in leaders and s != BASELINE][:2]
    sentence = f"{_names(leaders)} {'finds' if len(leaders) == 1 else 'find'} the exact optimum of "
    sentence += f"{solved[order[0]]} of {total} toy MRFs"
    if others:
        sentence += ", followed by " + _names([f"{s} ({solved[s]})" for s in others])
    if "icm" in solved and "icm" not in leaders + others and tried["icm"]:
        sentence += f"; icm alone solves {solved['icm']}"
    return Finding(f"{solved[order[0]]} / {total}", f"toy MRFs solved exactly: {_names(leaders)}", sentence + ".")


def _open_mrf(results: Results, problem: ProblemSpec) -> Finding | None:
    ranked = [s for s in results.ranked(problem.name, "gap") if s != BASELINE]
    if not ranked or not math.isfinite(results.summary(problem.name, ranked[0], "energy").mean):
        return None
    best = ranked[0]
    energy = results.summary(problem.name, best, "energy").mean
    sentence = f"{best} has the lowest mean energy, {number(energy, 1)}"
    if len(ranked) > 1:
        second = ranked[1]
        sentence += f", ahead of {second} ({number(results.summary(problem.name, second, 'energy').mean, 1)})"
    base = results.summary(problem.name, BASELINE, "energy").mean
    if math.isfinite(base):
        sentence += f"; rounding the start gives {number(base, 1)}"
    return Finding(number(energy, 0), f"{problem.name}: {best}", sentence + ".")


def _pm(summary: Summary, digits: int) -> str:
    text = number(summary.mean, digits)
    return f"{text} ± {number(summary.spread, digits)}" if summary.count > 1 else text


def _points(difference: float) -> str:
    if abs(difference) < 0.05:
        return "level with"
    return f"{number(abs(difference), 1)} points {'above' if difference > 0 else 'below'}"


def _count(found: int, total: int, what: str) -> str:
    return f"{found} of {total} {what}s"


def _names(names: list[str]) -> str:
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
