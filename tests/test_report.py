"""The report of a comparison: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mrfq.compare import curves, figures, tables
from mrfq.compare.findings import findings
from mrfq.compare.reading import load_suite
from mrfq.compare.records import Record
from mrfq.compare.report import render
from mrfq.compare.results import Results
from mrfq.compare.runner import Outcome, run_suite
from mrfq.compare.suite import EXACT, Cell, Suite
from mrfq.compare.svg import COLOURS, OTHER, Palette
from mrfq.solution import COLUMNS

NETWORKS = """
name = "networks <&>"
title = "Networks & more"
seeds = 2
budget = 10
solvers = ["rounding", "pmf", "bc", "icm"]
[[problems]]
kind = "digits"
[[problems]]
kind = "digits-tiny"
exact = true
"""
#: test accuracies of two seeds
ACCURACY = {"rounding": (80.0, 82.0), "pmf": (98.0, 99.0), "bc": (98.5, 99.5), EXACT: (97.0, 97.0)}
LOSS = {"rounding": 0.5, "pmf": 0.2, "bc": 0.1, EXACT: 0.1}


class Silent:
    def begin(self, total: int, kept: int) -> None: ...
    def finished(self, cell: Cell, record: Record) -> None: ...
    def notice(self, text: str) -> None: ...


class Page(HTMLParser):
    """The tags of a page, its ids, what it refers to, and whether its tags are balanced."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "data", "action", "srcset", "poster"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results.of(run_suite(load_suite("smoke"), tmp_path_factory.mktemp("smoke"), Silent()))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results with the numbers above, not computed by any solver."""
    path = tmp_path_factory.mktemp("suite") / "networks.toml"
    path.write_text(NETWORKS)
    suite = load_suite(path)
    return Results.of(Outcome(suite, [(cell, invented(cell)) for cell in suite.cells()]))


@pytest.fixture(scope="module")
def html(smoke: Results) -> str:
    return render(smoke)


def invented(cell: Cell) -> Record:
    if cell.solver == "icm":
        return Record("skipped", skipped_reason="NetworkLoss does not offer a site sweep", shape=(100, 2))
    steps = np.linspace(0, 1, 11)
    loss = 0.5 + (LOSS[cell.solver] - 0.5) * steps
    trace = {name: [math.nan] * 11 for name in COLUMNS}
    trace |= {"oracle_calls": list(10 * steps), "seconds": list(0.1 * steps), "entropy": list(0.6 * (1 - steps))}
    trace |= {"energy": list(loss), "best_energy": list(loss), "relaxed_energy": list(loss - 0.1 * (1 - steps))}
    accuracy = ACCURACY[cell.solver][cell.seed]
    metrics = {"test_accuracy": accuracy, "validation_accuracy": accuracy, "test_loss": 0.3, "train_loss": loss[-1]}
    whole = {"test_accuracy": 99.25, "validation_accuracy": 99.0, "test_loss": 0.05, "train_loss": 0.01}
    return Record(
        "done", energy=float(loss[-1]), oracle_calls=10, seconds=0.1, shape=(100, 2), tolerance=1e-6,
        metrics=metrics, float_metrics=whole, trace=trace,
    )  # fmt: skip


def test_the_report_needs_nothing_but_itself(html: str, networks: Results) -> None:
    for text in (html, render(networks)):
        page = Page(text)
        assert page.open == []
        assert all(reference.startswith("#") for reference in page.references)
        assert {reference[1:] for reference in page.references} <= set(page.ids)
        assert len(page.ids) == len(set(page.ids))
        assert not re.search(r"https?://|url\((?!#)|@import|<link|<img|<iframe|fetch\(|XMLHttp", text)
        assert len(text) < 6e6


def test_the_report_says_everything(smoke: Results, html: str) -> None:
    for problem in smoke.problems():
        assert f'id="p-{problem.name}"' in html
        assert html.count(f'aria-label="{problem.name}: ') == 4, "convergence twice, entropy, rounding gap"
    for solver in smoke.solvers():
        assert f'<th scope="row">{solver}' in html
    for text in ("exact optimum", "performance profile", "What fits where", "needs exactly two labels"):
        assert text in html
    assert "not finished" not in html
    assert "nan" not in Page(html).text


def test_the_report_is_the_same_every_time(smoke: Results, html: str) -> None:
    assert render(smoke) == html


def test_names_are_escaped(networks: Results) -> None:
    html = render(networks)
    assert "Networks &amp; more" in html
    assert "networks &lt;&amp;&gt;" in html
    assert "networks <&>" not in html


def test_findings_are_computed_from_the_numbers(networks: Results) -> None:
    found = {finding.label: finding for finding in findings(networks)}
    best = found["digits: bc"]
    assert best.value == "99.0 %"
    assert "bc (best on validation) reaches 99.0 ± 0.7 % test accuracy" in best.text
    assert "18.0 points above nearest rounding (81.0 %)" in best.text
    assert "0.2 points below the float network (99.2 %)" in best.text
    assert "2 of 3 solvers within one point" in best.text
    tiny = found["digits-tiny: seeds solved exactly by bc"]
    assert tiny.value == "2 / 2"
    assert "1 of 2 solvers find the optimum" in tiny.text


def test_findings_of_mrfs(smoke: Results) -> None:
    labels = [finding.label for finding in findings(smoke)]
    assert labels[0].startswith("toy MRFs solved exactly: ")
    assert labels[1].startswith("potts: ")
    counts = {s: sum(run.solved for run in smoke.ran("glass", s)) for s in smoke.solvers()}
    assert findings(smoke)[0].value == f"{max(counts.values())} / 2"


def test_network_tables_have_the_float_network_and_the_exact_optimum(networks: Results) -> None:
    digits, tiny = (tables.problem_table(networks, problem) for problem in networks.problems())
    assert [row.name for row in digits.rows] == ["float network (not quantized)", "bc", "pmf", "rounding"]
    assert [row.role for row in digits.rows] == ["reference", "", "", "baseline"]
    assert [row.name for row in tiny.rows][:3] == ["float network (not quantized)", "exact optimum", "bc"]
    assert digits.rows[0].cells[0].text == "99.25"
    assert digits.rows[1].cells[0].text == "99.00"
    assert digits.rows[1].cells[0].spread == "0.71"
    assert [row.cells[0].best for row in digits.rows] == [False, True, False, False]
    labels = [label for label, _ in tiny.columns]
    solved = {row.name: row.cells[labels.index("solved")].text for row in tiny.rows}
    assert solved["bc"] == "2 of 2"
    assert solved["pmf"] == "0 of 2"
    assert all(len(row.cells) == len(view.columns) for view in (digits, tiny) for row in view.rows)


def test_mrf_tables_are_sorted_by_gap(smoke: Results) -> None:
    glass = tables.problem_table(smoke, smoke.problems()[0])
    column = [label for label, _ in glass.columns].index("gap")
    gaps = [row.cells[column].sort for row in glass.rows]
    assert glass.rows[0].role == "reference"
    assert gaps == sorted(gaps)
    assert tables.overview(smoke).rows[-1].name in ("rounding", "md-tanh")


def test_skipped_solvers_are_listed_by_reason(networks: Results) -> None:
    assert tables.skipped(networks, networks.problems()[0]) == [("NetworkLoss does not offer a site sweep", ["icm"])]
    names, matrix = tables.capability_matrix(networks)
    assert names == ["digits", "digits-tiny"]
    marks = {solver: [fit.mark for fit in fits] for solver, _, fits in matrix}
    assert marks["icm"] == ["no", "no"]
    assert marks["pmf"] == ["yes", "yes"]


def test_failed_and_missing_runs_are_announced(smoke: Results) -> None:
    records = list(smoke.outcome.records)[:-3]
    cell, _ = records[5]
    records[5] = (cell, Record("failed: ValueError: <b>oh</b>"))
    html = render(Results.of(Outcome(smoke.outcome.suite, records)))
    assert "3 runs are missing" in html
    assert "1 run failed" in html
    assert "&lt;b&gt;oh&lt;/b&gt;" in html


def test_results_without_any_finished_run_have_a_report(smoke: Results) -> None:
    suite = smoke.outcome.suite
    records = [(cell, Record("failed: X")) for cell in suite.cells()]
    assert "26 runs failed" in render(Results.of(Outcome(suite, records)))


def test_infinite_energies_have_a_report(smoke: Results) -> None:
    records = [
        (cell, Record(**{**vars(record), "energy": math.inf}) if cell.solver == "rounding" else record)
        for cell, record in smoke.outcome.records
    ]
    assert "∞" in render(Results.of(Outcome(smoke.outcome.suite, records)))


def test_one_solver_and_one_problem_have_a_report(smoke: Results) -> None:
    part: Suite = smoke.outcome.suite.select(problems=["potts"], solvers=["icm"], seeds=[0])
    places = {cell.place for cell in part.cells()}
    records = [(cell, record) for cell, record in smoke.outcome.records if cell.place in places]
    assert len(records) == 1
    assert "potts" in render(Results.of(Outcome(part, records)))


# ---- figures --------------------------------------------------------------------------------------------------------


def test_curves_follow_the_traces(networks: Results) -> None:
    runs = networks.ran("digits", "bc")
    found = curves.curve(runs, "oracle_calls", curves.best_energy, 20)
    assert found is not None
    assert found.x[0] == 0
    assert found.x[-1] == 20, "a run that ended early stays where it ended"
    assert found.mean[0] == 0.5
    assert found.mean[-1] == pytest.approx(0.1)
    assert np.all(np.diff(found.mean) <= 0)
    assert np.all((found.low <= found.mean) & (found.mean <= found.high))
    in_time = curves.curve(runs, "seconds", curves.best_energy, 20)
    assert in_time is not None
    assert in_time.x[-1] == pytest.approx(0.1)


def test_the_gap_left_goes_from_one_to_zero(smoke: Results) -> None:
    for run in smoke.runs:
        if run.record.ran and run.scale > 0:
            left = curves.left_over(run)
            assert left[0] == 1
            assert left[-1] == pytest.approx(run.remaining)
            assert np.all(np.diff(left) <= 1e-9)


def test_profiles_are_distributions(smoke: Results) -> None:
    levels = np.geomspace(1e-3, 1, 9)
    for solver in smoke.solvers():
        quality = curves.quality_profile(smoke, solver, levels)
        assert np.all(np.diff(quality) >= 0)
        assert quality[-1] == (0.5 if solver == "md-tanh" else 1.0), "what does not fit has not solved"
    speed = curves.speed_profile(smoke, 1.0, np.array([1.0, 1e9]))
    assert max(values[0] for values in speed.values()) == 1.0
    assert all(values[0] <= values[1] <= 1 for values in speed.values())


def test_solvers_in_the_same_figure_have_different_colours() -> None:
    groups = [list("abcdefg"), list("cdefghi"), list("jklmnop"), list("aimpxyz")]
    palette = Palette(groups)
    for group in groups:
        assert len({palette.colour(solver) for solver in group}) == len(group)
    assert {palette.colour(solver) for group in groups for solver in group} == set(COLOURS)
    assert palette.colour("unknown") == OTHER


def test_lines_are_marked_for_the_script(smoke: Results) -> None:
    problem = smoke.problems()[0]
    svg = figures.convergence(smoke, problem, "oracle_calls", figures.palette(smoke))
    drawn = set(re.findall(r'data-solver="([^"]*)"', svg))
    assert drawn == set(smoke.solvers("glass")) - {"rounding"}
    assert "#010101" not in svg, "colours of the page, not of matplotlib"


def test_templates_are_packaged() -> None:
    folder = Path(figures.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {"report.html.j2", "macros.html.j2", "report.css", "report.js"}
