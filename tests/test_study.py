"""Convergence studies: the certificates of each section, the report, and the command."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import mrfq
from mrfq import generators
from mrfq.commands.study import study as study_command
from mrfq.errors import CapabilityError, InvalidParameterError, MrfqError, UnknownNameError
from mrfq.schedules import Geometric
from mrfq.solvers import ICM, TRWS, MeanField, ParallelMeanField, ProjectedGradient
from mrfq.study import SECTIONS, Results, Study, run_study, write_study
from mrfq.study import running as running_module
from mrfq.study.annealing import Scaled, compared_schedules
from mrfq.study.basins import distinct, effective_number, find_basins
from mrfq.study.bistability import bistability, fixed_point, opposite_starts, with_field
from mrfq.study.command import Request, chosen_solvers, command_line, study_model
from mrfq.study.order import all_labellings, exact_order, magnetisation, polarisation, positions
from mrfq.study.rates import fit_rate, solver_rate
from mrfq.study.recording import Recorded
from mrfq.study.reference import best_known, exact_reference
from mrfq.study.stability import linear_stability, uniform_labelling
from mrfq.testing import PROBLEMS, exact_energy

FERROMAGNET = generators.ferromagnet(3, 3, field=0.0)
GLASS = generators.spin_glass(3, 3, field=0.1, seed=1)


def couplings(mrf: mrfq.PairwiseMRF) -> np.ndarray:
    """The symmetric matrix J of an Ising model."""
    matrix = np.zeros((mrf.shape[0], mrf.shape[0]))
    for (i, j), weight in zip(mrf.edges.tolist(), mrf.weights.tolist(), strict=True):
        matrix[i, j] += weight
        matrix[j, i] += weight
    return matrix


# ---- recording ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [ICM(), MeanField(), MeanField(beta=1.0), ProjectedGradient(), TRWS()])
def test_recording_changes_nothing(solver: mrfq.Solver) -> None:
    plain = mrfq.solve(GLASS, solver, max_iters=20, init="random", seed=3)
    recorded = mrfq.solve(GLASS, Recorded(solver), max_iters=20, init="random", seed=3)
    for name in set(plain.trace.columns) - {"seconds"}:
        np.testing.assert_array_equal(plain.trace[name], recorded.trace[name])
    assert torch.equal(plain.labels, recorded.labels)
    assert plain.status == recorded.status
    log = recorded.checkpoint.state.log
    assert {len(column) for column in log.values()} == {recorded.iterations + 1}


def test_a_recorded_run_can_be_resumed() -> None:
    solver = Recorded(MeanField(beta=1.0))
    whole = mrfq.solve(GLASS, solver, max_iters=12, init="random")
    part = mrfq.solve(GLASS, solver, max_iters=5, init="random")
    rest = mrfq.solve(GLASS, solver, resume=part, max_iters=12)
    assert rest.checkpoint.state.log["free_energy"] == whole.checkpoint.state.log["free_energy"]


@pytest.mark.parametrize("name", ["ragged-labels", "forbidden-labels", "triples", "spin-glass", "parallel-edges"])
@pytest.mark.parametrize("beta", [0.3, 3.0])
def test_sequential_mean_field_descends_to_a_fixed_point(name: str, beta: float) -> None:
    solution = mrfq.solve(PROBLEMS[name](), Recorded(MeanField(beta=beta)), max_iters=3000, init="random")
    log = solution.checkpoint.state.log
    free = np.array(log["free_energy"])
    assert np.all(np.diff(free) <= 1e-9 * np.maximum(1, np.abs(free[:-1])))
    assert log["residual"][-1] < 1e-8


# ---- rates ----------------------------------------------------------------------------------------------------


@given(st.floats(0.05, 0.97), st.floats(1e-3, 1e3))
def test_the_rate_of_a_contraction_is_recovered(factor: float, scale: float) -> None:
    fit = fit_rate(scale * factor ** np.arange(80.0))
    if fit.kind == "none":  # it was over before there were enough points
        assert factor**10 < 1e-11
        return
    assert fit.kind == "linear"
    assert fit.rate == pytest.approx(factor, rel=1e-6)
    k = np.array([20.0])
    assert fit.values(k) == pytest.approx(scale * factor**k, rel=1e-4)


@given(st.floats(-3, -0.75))
def test_the_power_of_a_sublinear_run_is_recovered(power: float) -> None:
    fit = fit_rate(np.concatenate([[2.0], np.arange(1.0, 400.0) ** power]))
    assert fit.kind == "sublinear"
    assert fit.rate == pytest.approx(power, rel=1e-6)


def test_no_rate_without_a_reason_to_give_one() -> None:
    assert "a fit needs 10" in fit_rate(0.5 ** np.arange(6.0)).reason
    assert "less than a factor" in fit_rate(np.ones(50)).reason
    noise = np.exp(3 * np.random.default_rng(0).standard_normal(200) - np.arange(200) / 100)
    assert "explains" in fit_rate(noise).reason
    assert fit_rate(np.full(30, np.nan)).kind == "none"


def test_mean_field_in_the_disordered_phase_has_the_rate_of_its_linearisation() -> None:
    # All at once, deviations from the uniform point shrink by beta times the largest eigenvalue of J.
    largest = float(np.linalg.eigvalsh(couplings(FERROMAGNET))[-1])
    solver = ParallelMeanField(beta=0.7 / largest, damping=0.0)
    results = run_study(Study(FERROMAGNET, {"pmf": solver}, seeds=4, starts=("random",), sections=("rates",)))
    (rate,) = results.rates
    assert (rate.kind, rate.fitted, rate.runs) == ("linear", 4, 4)
    assert rate.median == pytest.approx(0.7, rel=0.02)
    assert rate.low <= rate.median <= rate.high


def test_annealed_and_finished_runs_get_no_rate() -> None:
    solvers = {"annealed": MeanField(beta=Geometric(0.1, 10)), "icm": ICM()}
    results = run_study(Study(GLASS, solvers, seeds=2, beta=0.3, sections=("rates",)))
    reasons = {rate.solver: rate.reason for rate in results.rates if rate.kind == "none"}
    assert "beta changes" in reasons["annealed"]
    assert "a fit needs" in reasons["icm"]
    assert solver_rate("icm", results.of("icm"), 0.0).fitted == 0


# ---- basins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "kind"), [(ICM(), "labellings"), (MeanField(beta=2.0), "marginals")])
def test_two_wells_have_two_basins(solver: mrfq.Solver, kind: str) -> None:
    pair = mrfq.PairwiseMRF.ising([0.0, 0.0], 1.0, [[0, 1]])
    found = find_basins(Study(pair, {"it": solver}, basin_starts=60), "it")
    assert found.kind == kind
    assert {basin.labels for basin in found.basins} == {(0, 0), (1, 1)}
    assert sum(basin.count for basin in found.basins) == found.settled == 60
    assert all(basin.energy == -1.0 for basin in found.basins)
    assert 1.8 < effective_number(found) <= 2 + 1e-12


def test_above_the_critical_temperature_there_is_one_basin() -> None:
    half = 0.5 * linear_stability(FERROMAGNET).critical
    found = find_basins(Study(FERROMAGNET, {"it": MeanField(beta=half)}, basin_starts=10), "it")
    assert [basin.count for basin in found.basins] == [10]
    assert found.basins[0].free_energy == pytest.approx(-9 * math.log(2) / half)


def test_what_does_not_settle_is_counted_apart() -> None:
    # Undamped parallel updates of an antiferromagnetic pair swap its spins for ever.
    pair = mrfq.PairwiseMRF.ising([0.0, 0.0], -1.0, [[0, 1]])
    study = Study(pair, {"it": ParallelMeanField(beta=5.0, damping=0.0)}, basin_starts=20, iterations=10)
    found = find_basins(study, "it")
    assert found.unsettled + found.settled == 20
    assert found.unsettled > 0


def test_points_are_told_apart_by_the_tolerance() -> None:
    points = [torch.tensor([[x, 1 - x]]) for x in (0.1, 0.1005, 0.2, 0.1)]
    assert [count for _, count in distinct(points, 1e-3)] == [3, 1]


# ---- bistability ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [FERROMAGNET, generators.spin_glass(4, 4), generators.dense_ising(12, seed=2)])
def test_linear_stability_is_that_of_the_couplings(problem: mrfq.PairwiseMRF) -> None:
    values = np.linalg.eigvalsh(couplings(problem))
    found = linear_stability(problem)
    assert found.critical == pytest.approx(1 / values[-1], rel=1e-6)
    assert found.flip == pytest.approx(-1 / values[0], rel=1e-6)
    assert found.symmetric


def test_large_operators_are_not_written_out() -> None:
    model = generators.spin_glass(13, 13)
    assert linear_stability(model).critical == pytest.approx(1 / np.linalg.eigvalsh(couplings(model))[-1], rel=1e-6)


def test_potts_and_ragged_models_have_the_eigenvalues_of_the_update() -> None:
    # One Potts edge between L labels: a deviation of both ends alike grows by beta / L.
    potts = mrfq.PairwiseMRF.potts(np.zeros((2, 3)), [[0, 1]], 1.0)
    assert linear_stability(potts).critical == pytest.approx(3.0)
    assert not linear_stability(PROBLEMS["ragged-labels"]()).symmetric
    assert linear_stability(PROBLEMS["no-edges"]()).critical == math.inf


@pytest.mark.parametrize("problem", [FERROMAGNET, generators.spin_glass(4, 4), generators.ferromagnet(2, 5, field=0)])
def test_order_sets_in_where_linear_stability_says(problem: mrfq.PairwiseMRF) -> None:
    stability = linear_stability(problem)
    found = bistability(problem, stability, betas=np.linspace(0.4, 1.9, 9))
    assert found.onset == pytest.approx(stability.critical, rel=5e-3)
    down, up, uniform = found.branches
    below = down.betas < 0.97 * stability.critical
    assert np.abs(down.polarisation[below]).max() < 1e-3
    assert np.all(down.polarisation[down.betas > 1.1 * stability.critical] > 0.1)
    assert np.abs(uniform.polarisation).max() < 1e-9
    np.testing.assert_allclose(up.magnetisation, -down.magnetisation, atol=1e-6)


def test_a_ferromagnet_has_a_pitchfork_and_a_loop() -> None:
    stability = linear_stability(FERROMAGNET)
    found = bistability(FERROMAGNET, stability, betas=np.linspace(0.5, 2, 6))
    assert found.branches[0].magnetisation[-1] < -0.8
    assert found.loop is not None
    assert found.loop.width > 0
    assert np.all(np.diff(found.loop.rising) >= -1e-9)
    assert np.all(found.loop.falling >= found.loop.rising - 1e-9)
    np.testing.assert_allclose(found.loop.falling, -found.loop.rising[::-1], atol=1e-6)


def test_the_field_shifts_unary_costs_by_the_spin() -> None:
    model = with_field(FERROMAGNET, 0.5)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])
    spins = 2 * labels - 1
    assert model.energy(labels) == pytest.approx(FERROMAGNET.energy(labels) - 0.5 * float(spins.sum()))


def test_exact_averages_are_those_of_the_gibbs_distribution() -> None:
    betas = np.array([0.0, 0.4, 2.0])
    found = exact_order(GLASS, betas)
    assert found is not None
    labels = all_labellings(GLASS)
    assert len(torch.unique(labels, dim=0)) == 2**9
    weights = np.exp(-betas[:, None] * GLASS.energies(labels).numpy())
    m = (2 * labels - 1).double().mean(1).numpy()
    np.testing.assert_allclose(found.mean, (weights * m).sum(1) / weights.sum(1), atol=1e-12)
    assert np.all(found.size >= np.abs(found.mean) - 1e-12)
    assert exact_order(generators.spin_glass(8, 8), betas) is None


def test_mean_field_ignores_correlations_of_a_single_spin_exactly() -> None:
    # Without couplings mean-field is exact.
    alone = mrfq.PairwiseMRF([[0.0, 0.7, 0.2], [1.0, 0.0, 0.3]])
    u, settled = fixed_point(alone, uniform_labelling(alone), 1.3)
    exact = exact_order(alone, np.array([1.3]))
    assert settled
    assert exact is not None
    assert magnetisation(alone, u) == pytest.approx(exact.mean[0])


def test_order_parameters_of_ragged_labels() -> None:
    ragged = PROBLEMS["ragged-labels"]()
    place = positions(ragged)
    mask = ragged.label_set.mask
    assert place[1].tolist() == [0, 0, 0]
    assert place[3].tolist() == [-1, 0, 1]
    first, last, uniform = opposite_starts(ragged).values()
    for vertex in (first, last):
        assert polarisation(ragged, vertex) == pytest.approx(1.0)
        assert not bool((vertex.bool() & ~mask).any())
    assert polarisation(ragged, uniform) == pytest.approx(0.0, abs=1e-9)
    assert magnetisation(ragged, first) == -magnetisation(ragged, last) == -0.75


# ---- schedules and references ---------------------------------------------------------------------------------


def test_schedules_share_their_ends() -> None:
    schedules = compared_schedules(0.5, 40.0)
    for name, schedule in schedules.items():
        ends = schedule(0.0), schedule(1.0)
        expected = (math.sqrt(20), math.sqrt(20)) if name == "constant" else (0.5, 40.0)
        assert ends == pytest.approx(expected)
    assert Scaled(2.0, schedules["constant"]).constant


@pytest.mark.parametrize("name", ["tree", "forbidden-pairs", "triples", "infeasible"])
def test_the_reference_is_exact_where_it_says_so(name: str) -> None:
    problem = PROBLEMS[name]()
    reference = exact_reference(problem)
    assert reference is not None
    assert reference.exact
    assert reference.energy == pytest.approx(exact_energy(problem))


def test_without_an_exact_solver_the_best_run_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "exact_reference", lambda problem: None)
    tree = generators.tree(8, 3, seed=0)
    loose = run_study(Study(tree, {"icm": ICM()}, seeds=2, sections=("traces",))).reference
    assert not loose.exact
    assert "may not be optimal" in loose.source
    proved = run_study(Study(tree, {"trws": TRWS()}, seeds=1, sections=("traces",))).reference
    assert proved.exact
    assert proved.energy == pytest.approx(exact_energy(tree))
    assert math.isnan(best_known([]).energy)


# ---- the whole ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results() -> Results:
    solvers = {"mean-field": MeanField(), "trws": TRWS(), "icm": ICM()}
    return run_study(Study(FERROMAGNET, solvers, title="wells <&>", seeds=3, iterations=40, basin_starts=10))


def test_bounds_reference_and_energies_are_in_order(results: Results) -> None:
    assert results.reference.energy == exact_energy(FERROMAGNET)
    for run in results.runs:
        assert run.bound <= results.reference.energy + 1e-9 <= run.energy + 2e-9
        assert np.nanmax(run.columns["best_energy"]) <= run.columns["best_energy"][0]
    assert len(results.runs) == 4 * 3 * 3


def test_the_report_needs_nothing_else(results: Results, tmp_path: Path) -> None:
    page = write_study(results, tmp_path / "new" / "study", forms=("svg",)).read_text("utf-8")
    assert "wells &lt;&amp;&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "#010101" not in page, "colours of the page, not of matplotlib"
    for section in SECTIONS:
        assert f'<section id="{section}">' in page
    folder = tmp_path / "new" / "study"
    summary = json.loads((folder / "study.json").read_text())
    assert {path.stem for path in (folder / "figures").iterdir()} == set(summary["figures"])
    assert summary["bistability"]["onset"] == pytest.approx(summary["stability"]["critical"], rel=0.01)
    with (folder / "traces.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(run.iterations + 1 for run in results.runs)
    assert min(float(row["best_energy"]) for row in rows) == results.reference.energy


def test_a_second_study_replaces_the_files_of_the_first(results: Results, tmp_path: Path) -> None:
    first = dataclasses.replace(results, basins=[], bistability=None)
    write_study(first, tmp_path, forms=("svg",))
    (tmp_path / "figures" / "mine.png").write_text("keep")
    (tmp_path / "notes.txt").write_text("keep")
    write_study(run_study(Study(GLASS, {"icm": ICM()}, seeds=1, sections=("rates",))), tmp_path)
    assert not (tmp_path / "schedules.csv").exists()
    assert not (tmp_path / "figures" / "schedules.svg").exists()
    assert (tmp_path / "figures" / "mine.png").exists()
    assert (tmp_path / "notes.txt").exists()


def test_the_same_study_gives_the_same_files(tmp_path: Path) -> None:
    study = Study(
        GLASS,
        {"mean-field": MeanField(), "icm": ICM()},
        seeds=2,
        iterations=20,
        basin_starts=4,
        sections=("rates", "schedules"),
    )
    for name in ("one", "two"):
        write_study(run_study(study), tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_an_interrupted_study_keeps_what_is_finished(tmp_path: Path) -> None:
    class Impatient:
        def __init__(self) -> None:
            self.parts = 0

        def begin(self, section: str, total: int) -> None:
            pass

        def advance(self) -> None:
            self.parts += 1
            if self.parts == 4:
                raise KeyboardInterrupt

    found = run_study(Study(GLASS, {"icm": ICM()}, seeds=3), Impatient())
    assert found.interrupted
    assert len(found.runs) == 4
    assert "was interrupted" in write_study(found, tmp_path, forms=()).read_text("utf-8")


@pytest.mark.parametrize(
    "name", ["one-variable", "one-label", "infeasible", "huge-costs", "float32", "clauses", "ties"]
)
def test_odd_models_can_be_studied(name: str, tmp_path: Path) -> None:
    problem = PROBLEMS[name]()
    solvers = {"mean-field": MeanField(), "icm": ICM()}
    found = run_study(Study(problem, solvers, seeds=2, iterations=15, basin_starts=3))
    assert write_study(found, tmp_path, forms=()).is_file()


def test_sections_that_do_not_apply_say_why(tmp_path: Path) -> None:
    smooth = PROBLEMS["smooth-binary"]()
    found = run_study(Study(smooth, {"pgd": ProjectedGradient()}, seeds=1, iterations=10, basin_starts=2))
    assert set(found.skipped) == {"bistability", "schedules"}
    assert "no site sweeps" in write_study(found, tmp_path, forms=()).read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seeds": 0}, InvalidParameterError),
        ({"iterations": 0}, InvalidParameterError),
        ({"beta": -1.0}, InvalidParameterError),
        ({"sections": ("trace",)}, UnknownNameError),
        ({"starts": ("unray",)}, UnknownNameError),
        ({"solvers": {}}, InvalidParameterError),
    ],
)
def test_impossible_studies_are_refused(options: dict[str, object], error: type[MrfqError]) -> None:
    with pytest.raises(error):
        Study(**{"problem": GLASS, "solvers": {"icm": ICM()}, **options})  # type: ignore[arg-type]


def test_a_solver_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CapabilityError, match="site sweep"):
        Study(PROBLEMS["smooth-binary"](), {"icm": ICM()})


# ---- the command ----------------------------------------------------------------------------------------------


def test_the_command_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = Request(
        model="ferromagnet",
        settings=("height=2", "width=2", "field=0"),
        solvers=("icm", "mean-field beta=1.5"),
        seeds=2,
        iterations=10,
        basin_starts=4,
        sections=("rates", "basins"),
        out=tmp_path / "study",
    )
    assert study_model(request) == 0
    shown = capsys.readouterr().out
    assert "mean-field beta=1.5" in shown
    assert str(tmp_path / "study" / "report.html") in shown
    command = "mrfq study --model ferromagnet --set height=2 --set width=2 --set field=0 --solver icm"
    assert json.loads((tmp_path / "study" / "study.json").read_text())["command"].startswith(command)


def test_the_command_reads_files(tmp_path: Path) -> None:
    model = tmp_path / "pair.uai"
    model.write_text("MARKOV\n2\n2 2\n1\n2 0 1\n4\n0.9 0.1 0.1 0.9\n")
    request = Request(file=model, seeds=1, iterations=5, sections=("rates",), out=tmp_path / "study")
    assert study_model(request) == 0
    assert "--file" in command_line(request)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either --model KIND or --file"),
        ({"model": "spin-glas"}, "did you mean 'spin-glass'"),
        ({"model": "spin-glass", "settings": ("hight=3",)}, "did you mean 'height'"),
        ({"model": "spin-glass", "settings": ("height",)}, "key=value"),
        ({"model": "frustrated-cycle", "settings": ("n=2",)}, "at least 3"),
        ({"model": "chain", "solvers": ("imc",)}, "did you mean 'icm'"),
        ({"model": "chain", "solvers": ("mean-field 'beta=1",)}, "NAME key=value"),
        ({"model": "chain", "solvers": ("mean-field bta=1",)}, "did you mean 'beta'"),
        ({"model": "chain", "sections": ("rate",)}, "did you mean 'rates'"),
        ({"model": "chain", "file": Path("x.uai")}, "either"),
        ({"file": Path("x.uai"), "settings": ("n=3",)}, "--set belongs to --model"),
    ],
)
def test_bad_requests_are_user_errors(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(MrfqError, match=re.escape(words)):
        study_model(Request(**{"out": tmp_path / "study", **options}))  # type: ignore[arg-type]
    assert not (tmp_path / "study").exists()


def test_options_of_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(study_command)
    out = tmp_path / "study"
    options = ["--model", "chain", "--set", "n=3", "--solver", "icm", "--seeds", "1", "--iterations", "5"]
    options += ["--start", "random", "--section", "traces", "--out", str(out)]
    assert CliRunner().invoke(app, options).exit_code == 0
    assert json.loads((out / "study.json").read_text())["starts"] == ["random"]
    for wrong in (["--seeds", "0"], ["--iterations", "x"], ["--colour", "red"]):
        assert CliRunner().invoke(app, [*options, *wrong]).exit_code == 2
    refused = CliRunner().invoke(app, ["--model", "none"])
    assert isinstance(refused.exception, MrfqError), "which the command line prints, with exit code 2"


def test_out_must_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("mine")
    with pytest.raises(MrfqError, match="a folder is needed"):
        study_model(Request(model="chain", out=tmp_path / "study"))


def test_default_solvers_are_those_that_fit() -> None:
    assert list(chosen_solvers((), GLASS)) == ["mean-field", "trws", "icm"]
    assert "trws" not in chosen_solvers((), PROBLEMS["triples"]())
