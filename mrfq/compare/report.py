"""`report.html`: everything that a comparison found, in one file that needs nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mrfq.compare import export, figures, tables
from mrfq.compare.catalogue import inline
from mrfq.compare.figures import Panel
from mrfq.compare.findings import findings
from mrfq.compare.results import BASELINE, Results
from mrfq.compare.suite import ProblemSpec
from mrfq.compare.svg import Palette
from mrfq.files import write_atomically


@dataclass
class Section:
    """What the report says about one problem."""

    spec: ProblemSpec
    facts: str
    table: tables.TableView
    keys: list[dict[str, str]]
    panels: list[Panel]
    skipped: list[tuple[str, list[str]]]


def write_all(results: Results, out: Path) -> Path:
    """Write the tables and the report into `out`, each atomically; return the path of the report."""
    export.write_tables(results, out)
    path = out / "report.html"
    write_atomically(path, render(results))
    return path


def render(results: Results) -> str:
    """Return the report as HTML."""
    suite = results.outcome.suite
    colours = figures.palette(results)
    sections = [section(results, problem, colours) for problem in results.problems()]
    total = sum(1 for _ in suite.cells())
    matrix = tables.capability_matrix(results)
    profiles = figures.profiles(results, colours) if len(results.solvers()) > 1 else []
    return (
        environment("mrfq.compare")
        .get_template("report.html.j2")
        .render(
            suite=suite,
            counts=_counts(results, total),
            unfinished=total - len(results.runs),
            findings=findings(results),
            networks=[s for s in sections if s.spec.family == "network"],
            mrfs=[s for s in sections if s.spec.family == "mrf"],
            overview=tables.overview(results),
            profiles=profiles,
            profile_keys=[colours.key(solver) for solver in figures.profile_highlights(results)],
            matrix=matrix,
            failures=tables.failures(results.runs),
            environment=export.environment(),
            parameters=list(_parameters(results)),
            solvers=list(_solvers(results)),
            date=datetime.date.today().isoformat(),
            baseline=BASELINE,
            css=resource("report.css"),
            js=resource("report.js"),
        )
    )


def section(results: Results, problem: ProblemSpec, colours: Palette) -> Section:
    """Return what the report says about one problem."""
    shown = figures.highlights(results, problem)
    return Section(
        problem,
        facts(results, problem),
        tables.problem_table(results, problem),
        [colours.key(solver) for solver in shown],
        figures.panels(results, problem, colours) if shown else [],
        tables.skipped(results, problem),
    )


def facts(results: Results, problem: ProblemSpec) -> str:
    """Return the size and the budget of a problem in a line."""
    run = results.any_run(problem.name, lambda run: run.record.shape[0] > 0)
    size = ""
    if run is not None:
        n, count = run.record.shape
        what = "weights" if problem.family == "network" else "variables"
        size = f"{tables.number(n, 0)} {what}, {count} labels; "
    reference = "gaps to the exact optimum" if problem.exact else "gaps to the best energy found"
    tail = "" if problem.family == "network" and not problem.exact else f"; {reference}"
    return f"{size}budget of {problem.budget} oracle calls{tail}"


def _counts(results: Results, total: int) -> list[tuple[str, str]]:
    suite = results.outcome.suite
    ran = sum(run.record.ran for run in results.runs)
    skipped = sum(run.record.skipped for run in results.runs)
    failed = sum(run.record.failed for run in results.runs)
    return [
        (str(len(suite.problems)), "problems"),
        (str(len(suite.solvers)), "solvers"),
        (str(len(suite.seeds)), "seeds"),
        (f"{ran}", "runs"),
        (f"{skipped}", "skipped"),
        *([(f"{failed}", "failed")] if failed else []),
        *([(f"{total - len(results.runs)}", "not run yet")] if total > len(results.runs) else []),
    ]


def _parameters(results: Results) -> Iterator[tuple[str, str, str]]:
    for problem in results.outcome.suite.problems:
        yield problem.name, problem.kind, ", ".join(f"{k} = {inline(v)}" for k, v in problem.parameters.items())


def _solvers(results: Results) -> Iterator[tuple[str, str, str, str]]:
    for solver in results.outcome.suite.solvers:
        groups: dict[str, list[str]] = {_written(solver.plain): []}
        for problem in results.outcome.suite.problems:
            groups.setdefault(_written(solver.plain_on(problem.name)), []).append(problem.name)
        used = {text: names for text, names in groups.items() if names}
        for text, names in used.items():
            yield solver.name, str(solver.plain["solver"]), ", ".join(names) if len(used) > 1 else "all", text


def _written(plain: Any) -> str:
    return ", ".join(f"{key} = {inline(value)}" for key, value in plain.items() if key != "solver")


def environment(package: str) -> Environment:
    """Return the templates of a package, which may import `macros.html.j2`."""
    loader = ChoiceLoader([PackageLoader(name, "templates") for name in dict.fromkeys((package, "mrfq.compare"))])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def resource(name: str) -> str:
    """Return the style sheet or the script that all reports share."""
    return (resources.files("mrfq.compare") / "templates" / name).read_text("utf-8")
