"""`report.html` of a study, its figures as files, and its tables."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mrfq.compare.report import environment, resource
from mrfq.compare.svg import Palette
from mrfq.compare.tables import TableView
from mrfq.files import write_atomically
from mrfq.study import figures, tables
from mrfq.study.annealing import ends
from mrfq.study.drawing import Drawing
from mrfq.study.export import FORMS, remove_earlier, summary, write_tables
from mrfq.study.plan import SECTIONS
from mrfq.study.rates import FALL, POINTS, QUALITY
from mrfq.study.results import Results
from mrfq.study.trace_figures import rate_drawings, trace_drawings


@dataclass
class Section:
    """What the report says about one question."""

    name: str
    title: str
    about: str
    first: str = "solver"
    table: TableView | None = None
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    keys: list[dict[str, str]] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    #: what is missing, and why
    notes: list[tuple[str, str]] = field(default_factory=list)


def write_study(results: Results, out: str | Path, forms: Sequence[str] = FORMS) -> Path:
    """Write the report, its figures (PNG and SVG) and its tables into a folder; return the path of the report.

    Parameters
    ----------
    results : Results
    out : str or Path
        Made if it does not exist; tables and figures that an earlier study left there are removed.
    forms : sequence of str
        Of the figures' files: "png", "svg", both, or none; the report has its own.
    """
    folder = Path(out)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    parts = sections(results)
    names = [drawing.name for part in parts for drawing in part.drawings]
    remove_earlier(folder)
    write_tables(results, folder, names)
    for drawing in (drawing for part in parts for drawing in part.drawings):
        for form, content in drawing.files(forms).items():
            write_atomically(folder / "figures" / f"{drawing.name}.{form}", content)
    path = folder / "report.html"
    write_atomically(path, render(results, parts))
    return path


def render(results: Results, parts: list[Section]) -> str:
    """Return the report as HTML."""
    missing = [name for name in SECTIONS if name in results.skipped]
    return (
        environment("mrfq.study")
        .get_template("study.html.j2")
        .render(
            results=results,
            study=results.study,
            findings=findings(results),
            sections=parts,
            skipped=[(name, results.skipped[name]) for name in missing],
            settings=summary(results),
            date=datetime.date.today().isoformat(),
            css=resource("report.css"),
            js=resource("report.js"),
        )
    )


def sections(results: Results) -> list[Section]:
    """Return the sections that have something to show."""
    wanted = results.study.sections
    palette = Palette([list(results.study.all_solvers)])
    keys = [palette.key(name) for name in results.study.all_solvers]
    found = []
    if results.runs and "traces" in wanted:
        found.append(
            Section("traces", "Runs", _about_runs(results), table=tables.run_table(results), keys=keys,
                    drawings=trace_drawings(results, palette))
        )  # fmt: skip
    if results.rates:
        found.append(
            Section("rates", "Rates of convergence", ABOUT_RATES, table=tables.rate_table(results.rates),
                    drawings=rate_drawings(results, palette),
                    notes=[(rate.solver, rate.reason) for rate in results.rates if rate.kind == "none"])
        )  # fmt: skip
    if results.basins:
        found.append(
            Section("basins", "Basins of attraction", ABOUT_BASINS, table=tables.basin_table(results),
                    drawings=figures.basin_drawings(results, palette))
        )  # fmt: skip
    if (branches := results.bistability) is not None:
        names = figures.branch_names(branches)
        colours = Palette([names])
        found.append(
            Section("bistability", "Mean-field against temperature", ABOUT_BISTABILITY,
                    facts=tables.stability_facts(branches), keys=[colours.key(name) for name in names],
                    drawings=figures.bistability_drawings(branches))
        )  # fmt: skip
    if results.annealed:
        colours = figures.schedule_keys()
        found.append(
            Section("schedules", "Annealing schedules", _about_schedules(results), "schedule",
                    tables.schedule_table(results), keys=[colours.key(row.name) for row in
                    tables.schedule_table(results).rows], drawings=figures.schedule_drawings(results))
        )  # fmt: skip
    return found


ABOUT_RATES = (
    "Fitted to the tail of each run: the second half of the iterations up to the last error above rounding, or the "
    f"last {POINTS} if that is more. A line of the logarithm of the error against the iteration is a linear rate, "
    "against the logarithm of the iteration a sublinear one; the better fit is taken. No rate is given for fewer than "
    f"{POINTS} points, an R² below {QUALITY}, an error that falls by less than a factor of {FALL:g} over the tail, or "
    "if fewer than half of the runs have a rate of the same kind."
)
ABOUT_BASINS = (
    "From many random starts: which fixed points does a solver reach, and how often? Marginals of mean-field are the "
    "same if no probability differs by more than 0.001; labellings if all labels agree."
)
ABOUT_BISTABILITY = (
    "Fixed points of sequential mean-field from opposite starts. Below the critical β all starts lead to the same one; "
    "above it the uniform point is unstable, and the starts part (a pitchfork, if the unary costs favour no label)."
)


def _about_runs(results: Results) -> str:
    study = results.study
    return (
        f"Every solver from every start with {study.seeds} seeds, {study.iterations} iterations at most. Gaps are to "
        f"{results.reference.name}: energy {tables.written(results.reference.energy, 10)}, {results.reference.source}. "
        f"Mean-field that anneals is also held at β = {study.held_beta:.4g}, since only there it has fixed points. "
        "What is measured is not charged to the solvers."
    )


def _about_schedules(results: Results) -> str:
    first, last = ends(results.study)
    return (
        f"The same {results.study.iterations} sweeps and {results.study.seeds} seeds for all, from random starts; "
        f"β from {first:.3g} to {last:.3g}, the constant one at their geometric mean."
    )


def findings(results: Results) -> list[tuple[str, str, str]]:
    """Return label, number and sentence of what stands out."""
    reference, found = results.reference, []
    if math.isfinite(reference.energy):
        label = "exact optimum" if reference.exact else "best known energy"
        found.append((label, tables.written(reference.energy, 7), reference.source + "."))
    if results.runs:
        shares = {name: tables.share_at_reference(results, results.of(name)) for name in results.solvers()}
        best = max(shares, key=lambda name: shares[name])
        if shares[best] > 0:
            found.append(("most often at it", f"{shares[best]:.0%}", f"of the runs of {best}."))
        else:
            means = {name: np.mean([run.energy for run in results.of(name)]) for name in results.solvers()}
            best = min(means, key=lambda name: means[name])
            gap = tables.written(float(means[best]) - reference.energy, 3)
            found.append(("smallest mean gap", gap, f"by {best}; no run closes it."))
    linear = [rate for rate in results.rates if rate.kind == "linear"]
    if linear:
        fastest = min(linear, key=lambda rate: rate.median)
        text = f"linear rate of {fastest.solver}: what is left of the error after an iteration."
        found.append(("fastest tail", f"× {fastest.median:.3g}", text))
    if (branches := results.bistability) is not None:
        onset = f", measured {branches.onset:.4g}" if math.isfinite(branches.onset) else ""
        number = tables.written(branches.stability.critical, 4)
        found.append(("critical β of mean-field", number, f"by linear stability{onset}."))
    return found
