"""The harness that measures solvers and peers: its arithmetic, and what it says where something is missing."""

import importlib.metadata
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mrfq
from mrfq import generators
from mrfq.testing import exact_energy

BENCH = Path(__file__).parent / "bench"
sys.path.insert(0, str(BENCH))

import classical_by_hand  # noqa: E402
import classical_found  # noqa: E402
import classical_instances  # noqa: E402
import classical_measure  # noqa: E402
import classical_methods  # noqa: E402
import classical_pairs  # noqa: E402
import classical_tables  # noqa: E402
import classical_targets  # noqa: E402
import peers  # noqa: E402

seeds = st.integers(0, 2**32 - 1)
QUICK = classical_instances.instances(quick=True)
TINY = classical_instances.Instance("tiny", "spin glass", lambda seed: generators.spin_glass(3, 4, seed=seed), ())


def binary_model(seed, n=6):
    """Return a model of two labels with any tables and parallel edges."""
    random = np.random.default_rng(seed)
    edges = random.integers(n, size=(9, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    return mrfq.PairwiseMRF(random.standard_normal((n, 2)), edges, random.standard_normal((len(edges), 2, 2)))


def row(**values):
    """Return a row of the figures."""
    blank = classical_measure.as_dict(
        classical_measure.Row("model", "parallel-annealing", ours=True, cpu=1.0, wall=1.0)
    )
    return {**blank, **values}


# ---- peers --------------------------------------------------------------------------------------------


@given(seeds)
def test_the_polynomial_is_the_energy(seed):
    problem = binary_model(seed)
    form = classical_found.quadratic_form(problem)
    for number in range(2**6):
        x = np.array([number >> i & 1 for i in range(6)])
        i, j = form.edges.T
        value = form.constant + form.linear @ x + (form.quadratic * x[i] * x[j]).sum()
        assert value == pytest.approx(problem.energy(torch.from_numpy(x)), abs=1e-9)


MODELS = {
    "PyMaxflow": lambda seed: generators.ferromagnet(3, 4, seed=seed),
    "gco expansion": lambda seed: generators.denoising(3, 3, 3, seed=seed),
    "gco swap": lambda seed: generators.denoising(3, 3, 3, table="truncated-linear", seed=seed),
    "gco swap, our start": lambda seed: generators.potts_grid(3, 3, 3, seed=seed),
    "dwave annealing": binary_model,
    "dwave tabu": binary_model,
    "dwave greedy": binary_model,
    "thinqpbo": binary_model,
    "pytoulbar2": lambda seed: mrfq.FactorGraph.of(generators.potts_graph(6, 3, seed=seed)),
}


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_peers_find_labels_and_bounds_of_our_energy(peer, seed):
    if peer.version() is None:
        pytest.skip(f"{peer.package} is not installed")
    problem = MODELS[peer.name](seed)
    exact = exact_energy(problem)
    found = peer.run(problem, seed % 1000, 5 if peer.search else 2)
    energy = classical_methods.energy_of(problem, found.labels)
    problem.label_set.check(torch.as_tensor(found.labels))
    assert energy >= exact - 1e-9
    assert found.bound is None or found.bound <= exact + 1e-4
    if found.proved:
        assert energy == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("settings", peers.ANNEALING_SETTINGS)
def test_settings_of_annealing_are_those_of_its_sampler(settings):
    if next(peer for peer in peers.PEERS if peer.name == "dwave annealing").version() is None:
        pytest.skip("dwave-samplers is not installed")
    problem = binary_model(3)
    found = peers.dwave_annealing(problem, 0, 400, **settings)
    assert classical_methods.energy_of(problem, found.labels) == pytest.approx(exact_energy(problem), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("PyMaxflow", generators.spin_glass(3, 3)),
        ("PyMaxflow", generators.tree(4, 3)),
        ("gco expansion", generators.tree(4, 3)),
        ("gco swap", mrfq.FactorGraph([2, 2], [((0, 1), [[0.0, 1.0], [1.0, 0.0]])])),
        ("dwave annealing", mrfq.PairwiseMRF([[0.0, math.inf]], np.zeros((0, 2)))),
    ],
)
def test_a_peer_says_why_it_does_not_take_a_model(name, problem):
    peer = classical_methods.METHODS[name]
    if peer.version() is None:
        pytest.skip(f"{peer.package} is not installed")
    with pytest.raises(classical_found.Unsuitable, match=r"label|table|submodular"):
        peer.run(problem, 0, 1)


# ---- measuring ----------------------------------------------------------------------------------------


def test_a_missing_peer_is_a_row_that_says_so(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(peers.importlib.metadata, "version", missing)
    for peer in peers.PEERS:
        (only,) = classical_measure.measure(TINY, peer)
        assert only.note == f"{peer.package} is not installed"
        assert only.energy is None
    (check,) = classical_targets.cuts(quick=True)
    assert check.met is None
    assert check.remark == "PyMaxflow is not installed"


@pytest.mark.parametrize("name", ["trws", "qpbo", "greedy"])
def test_a_run_of_ours_is_measured(name):
    rows = classical_measure.measure(QUICK["dense Ising 20"], classical_methods.METHODS[name], quick=True)
    assert [each.seed for each in rows] == [0, 1]
    for each in rows:
        exact = mrfq.solve(generators.dense_ising(20, seed=each.seed), "elimination").energy
        assert each.energy >= exact - 1e-9
        assert each.bound is None or each.bound <= exact + 1e-9
        assert each.cpu > 0
        assert each.memory_mb is None or each.memory_mb >= 0


def test_every_generated_model_has_methods_and_a_small_one_of_its_kind():
    kinds = {instance.kind for instance in QUICK.values()}
    for instance in classical_instances.generated():
        assert instance.kind in kinds
    for instance in QUICK.values():
        names = [method.name for method in classical_methods.methods_for(instance)]
        assert "auto" in names
        assert len(names) == len(set(names))


@given(rate=st.floats(1e-6, 1e-2), fixed=st.floats(0, 0.1), budget=st.floats(0.2, 5))
def test_the_effort_fits_the_budget(rate, fixed, budget):
    clock = [0.0]

    def run(effort):
        clock[0] += fixed + rate * effort

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classical_measure, "cpu_seconds", lambda: clock[0])
        effort = classical_measure.fitted(run, budget)
    took = fixed + rate * effort
    assert took <= max(budget + fixed, fixed + rate) * (1 + 1e-6)
    assert took >= 0.2 * budget


def test_the_best_settings_are_chosen():
    def run(problem, seed, effort, label=0):
        return classical_found.Found(np.full(12, label))

    magnet = mrfq.PairwiseMRF(np.tile([0.0, -1.0, 1.0], (12, 1)), np.zeros((0, 2)))
    instance = classical_instances.Instance("tiny", "magnet", lambda seed: magnet, (), budget=1e-9)
    options = ({"label": 0}, {"label": 1}, {"label": 2})
    peer = peers.Peer("search", "parallel-annealing", "numpy", "numpy", run, search=True, settings=options)
    assert classical_measure.tuned(instance, peer)[0] == {"label": 1}


def test_real_models_come_from_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "mrf-instances"
    folder.mkdir()
    (folder / "coin.uai").write_text("MARKOV 2  2 2  1  2 0 1  4 0.25 0.75 0.5 0.5")
    (folder / "coin.uai.evid").write_text("1  0 1")
    (folder / "MANIFEST.tsv").write_text("file\tenergy\tstatus\ncoin.uai\t0.693147\tproved optimum\n")
    monkeypatch.setenv("MRFQ_DATA", str(tmp_path))
    (instance,) = classical_instances.real()
    assert exact_energy(instance.make(0)) == pytest.approx(instance.energy, abs=1e-4)
    assert exact_energy(classical_measure.miniature(instance)) == pytest.approx(instance.energy, abs=1e-4)
    monkeypatch.delenv("MRFQ_DATA")
    assert classical_instances.real() == []


def test_one_run_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "rows.json"
    command = [sys.executable, str(BENCH / "classical.py"), "--quick", "--one", "dense Ising 20", "trws"]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=120)
    assert [each["method"] for each in json.loads(out.read_text())] == ["trws", "trws"]


# ---- targets ------------------------------------------------------------------------------------------


def test_bounds_of_message_passing_do_not_fall():
    assert classical_targets.largest_fall(generators.spin_glass(5, 5), steps=10) <= classical_targets.ROUNDING


def test_the_loops_by_hand_compute_what_the_library_computes():
    grid = generators.potts_grid(4, 5, 3, weight=0.7)
    unary = grid.unary.T.reshape(3, 4, 5)
    start = torch.softmax(-grid.unary, 1)
    theirs = mrfq.solve(grid, "parallel-mean-field", init=start, max_iters=6).relaxed
    assert torch.allclose(classical_by_hand.hand_mean_field(unary, 0.7, 6).reshape(3, -1).T, theirs, atol=1e-12)
    pytest.importorskip("maxflow")
    magnet = generators.ferromagnet(3, 4, seed=2)
    labels = classical_by_hand.grid_cut(magnet.unary.numpy().reshape(3, 4, 2))
    assert magnet.energy(torch.from_numpy(labels)) == pytest.approx(exact_energy(magnet), abs=1e-9)


@pytest.mark.parametrize(
    ("status", "energy", "proved", "met", "remark"),
    [
        ("proved optimum", 5.0, True, True, ""),
        ("proved optimum", 5.0, False, False, "not proved"),
        ("proved optimum", 5.5, True, False, "0.5 above"),
        ("best known, not proved", 5.0, False, True, ""),
        ("best known, not proved", 4.0, False, True, "1 below"),
        ("best known, not proved", 5.1, False, False, "0.1 above"),
        ("proved optimum", None, False, False, ""),
    ],
)
def test_targets_of_real_models(status, energy, proved, met, remark):
    models = {"model": {"kind": "real", "energy": 5.0, "status": status}}
    figures = {"instances": models, "rows": [row(method="auto", energy=energy, proved=proved)]}
    (check,) = classical_targets.real_models(figures)
    assert (check.met, check.remark) == (met, remark)
    figures["rows"][0]["wall"] = 70.0
    assert [late.met for late in classical_targets.real_models(figures)] == [False]


# ---- pairs and tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([-10, -11, -12], [-10, -11, -12], "equal"),
        ([-10, -11, -12], [-10.1, -11.1, -12.1], "worse"),
        ([-10.1, -11.1, -12.1], [-10, -11, -12], "better"),
        ([-10, -12, -12], [-11, -11, -12], "equal"),
        ([-10], [-10.1], "worse"),
    ],
)
def test_verdicts(ours, theirs, verdict):
    rows = [row(energy=energy, seed=seed) for seed, energy in enumerate(ours)]
    rows += [row(energy=energy, seed=seed, method="dwave annealing", cpu=0.5) for seed, energy in enumerate(theirs)]
    (pair,) = classical_pairs.pairs(rows)
    assert (pair.verdict, pair.ratio, pair.seeds) == (verdict, 2.0, len(ours))
    *_, check = classical_targets.against_peers(rows)
    assert check.met is (verdict != "worse")


def test_the_best_known_energy_is_the_lowest_and_proved_by_whoever_reached_it():
    rows = [row(energy=5.0), row(energy=4.0, method="auto"), row(energy=5.0, proved=True, seed=1), row(energy=None)]
    known = classical_pairs.best_known(rows, {})
    assert known["model", 0] == classical_pairs.Known(4.0, proved=False)
    assert known["model", 1] == classical_pairs.Known(5.0, proved=True)
    assert classical_pairs.best_known(rows[:1], {"model": (3.0, True)})["model", 0].energy == 3.0


def figures():
    rows = [
        row(energy=-5.0, bound=-5.5, memory_mb=1.0),
        row(energy=-4.0, seed=1),
        row(energy=-5.0, method="dwave annealing", ours=False, settings={"reads": 4, "effort": 100.0}),
        row(method="tabu", note="only forbidden labellings"),
        row(method="dwave tabu", ours=False, note="dwave-samplers is not installed", cpu=None),
    ]
    return {
        "machine": {"processor": "one", "cores": 1, "python": "3", "torch": "2", "numba": "0"},
        "versions": {"dwave-samplers": None},
        "settings": {"jobs": 1, "quick": True, "threads": 1},
        "load": {"start": [0.0, 0, 0], "end": [1.0, 0, 0]},
        "date": "2000-01-01T00:00:00",
        "wall_seconds": 60.0,
        "instances": {"model": {"kind": "spin glass", "energy": None, "status": ""}},
        "rows": rows,
        "measured": [],
    }


def test_tables_are_tables():
    text = classical_tables.tables(json.loads(json.dumps(figures())))
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert "dwave-samplers is not installed" in text
    assert "only forbidden labellings" in text
    assert "reads 4, effort 100" in text


def test_tables_go_between_the_markers_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{classical_tables.BEGIN}\nold\n{classical_tables.END}\nafter\n")
    for text in ("new", "newer"):
        classical_tables.insert(page, text)
    expected = f"before\n{classical_tables.BEGIN}\n\nnewer\n\n{classical_tables.END}\nafter\n"
    assert page.read_text() == expected
    page.write_text("no markers\n")
    with pytest.raises(SystemExit, match="needs a line"):
        classical_tables.insert(page, "new")
