"""`Auto`: its parts never lose an optimum, its choices fit the structure, its proofs are right."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mrfq
from mrfq import FactorGraph, PairwiseMRF, generators
from mrfq.solvers.auto import Auto
from mrfq.solvers.presolve import presolve
from mrfq.solvers.reduced_costs import allowed_labels
from mrfq.testing import exact_energy

INF = math.inf
seeds = st.integers(0, 2**32 - 1)


def random_graph(seed, *, hard=False, n=7, factors=6):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 4, n).tolist()
    parts = []
    for size in random.integers(1, 4, factors):
        scope = random.permutation(n)[:size].tolist()
        table = random.standard_normal([counts[i] for i in scope])
        if hard:
            table[random.random(table.shape) < 0.2] = INF
        parts.append((scope, table))
    return FactorGraph(counts, [*parts, ((), 0.5)])


def notes(solution):
    return "\n".join(solution.notes)


@given(seeds, st.booleans())
def test_small_models_are_solved_and_proved(seed, hard):
    graph = random_graph(seed, hard=hard)
    solution = mrfq.solve(graph, "auto")
    assert solution.proved
    assert solution.energy == pytest.approx(exact_energy(graph), abs=1e-9)


@given(seeds, st.booleans())
def test_presolve_keeps_an_optimum(seed, hard):
    graph = random_graph(seed, hard=hard)
    found = presolve(graph, graph.label_set.round(torch.zeros(graph.shape)))
    total = found.constant + sum(exact_energy(part.problem) for part in found.parts)
    assert total == pytest.approx(exact_energy(graph), abs=1e-9)
    labels = found.expand()
    graph.label_set.check(labels)
    energy = found.constant + sum(part.energy for part in found.parts)
    assert graph.energy(labels) == pytest.approx(energy, abs=1e-9)


@given(seeds, st.booleans())
def test_reduced_costs_keep_every_optimum(seed, hard):
    graph = random_graph(seed, hard=hard, factors=9)
    solution = mrfq.solve(graph, "exhaustive")
    if solution.energy < INF:
        allowed = allowed_labels(graph, solution.energy, passes=5)
        assert allowed[range(graph.shape[0]), solution.labels].all()


def test_reduced_costs_rule_labels_out_where_the_bound_is_tight():
    tree = generators.tree(n=10, labels=4, seed=0)
    energy = mrfq.solve(tree, "elimination").energy
    assert 10 <= int(allowed_labels(tree, energy).sum()) <= 20


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (generators.tree(n=40, labels=6, seed=0), "Elimination, exact, as the graph"),
        (generators.spin_glass(6, 6, seed=0), "the graph has width 6"),
        (
            generators.ferromagnet(40, 40, coupling=0.3, field=0.5, seed=0),
            "GraphCut, two labels and submodular costs are a minimum cut (proved)",
        ),
        (generators.potts_grid(20, 20, 5, weight=0.3, seed=0), "AlphaExpansion"),
        (generators.dense_ising(60, seed=0), "TabuSearch"),
        (generators.spin_glass(30, 30, seed=0), "ParallelAnnealing"),
    ],
    ids=["tree", "narrow", "cut", "structured", "dense", "frustrated"],
)
def test_the_structure_decides(problem, expected):
    solution = mrfq.solve(problem, Auto(memory=2**20, proofs=False))
    assert expected in notes(solution)
    assert solution.energy == problem.energy(solution.labels)
    assert solution.lower_bound <= solution.energy


def test_a_large_model_is_taken_as_it_is():
    problem = generators.spin_glass(150, 150, seed=1)
    solution = mrfq.solve(problem, "auto", max_iters=1)
    assert notes(solution) == "presolve: left out, there are 67,200 tables with 223,800 entries"


def test_tables_on_three_variables_get_message_passing_and_annealing():
    random = np.random.default_rng(0)
    scopes = [random.permutation(60)[:3].tolist() for _ in range(150)]
    graph = FactorGraph([3] * 60, [(scope, random.standard_normal((3, 3, 3))) for scope in scopes])
    solution = mrfq.solve(graph, Auto(proofs=False))
    assert "SRMP, for a bound" in notes(solution)
    assert "SimulatedAnnealing" in notes(solution)
    assert solution.energy < mrfq.solve(graph, "icm").energy


def test_parts_are_solved_one_by_one():
    one, two = generators.spin_glass(3, 3, seed=1), generators.frustrated_cycle(5, seed=2)
    edges = torch.cat([one.edges, two.edges + 9])
    tables = torch.cat([one.edge_tables(), two.edge_tables()])
    both = PairwiseMRF(torch.cat([one.unary, two.unary]), edges, tables)
    solution = mrfq.solve(both, "auto")
    assert solution.proved
    assert "2 independent parts" in notes(solution)
    assert solution.energy == pytest.approx(exact_energy(one) + exact_energy(two), abs=1e-9)


def test_without_proofs_it_stops_at_a_bound():
    solution = mrfq.solve(generators.spin_glass(12, 12, seed=0), Auto(memory=2**10, proofs=False))
    assert not solution.proved
    assert str(solution.status).startswith("converged")
    assert solution.lower_bound < solution.energy


def test_a_time_limit_is_used_and_kept():
    problem = generators.spin_glass(40, 40, seed=0)
    short = mrfq.solve(problem, Auto(proofs=False))
    # However short the limit, there are labels and the simplest bound.
    none = mrfq.solve(problem, "auto", time_limit=0)
    some = mrfq.solve(problem, Auto(memory=2**16), time_limit=short.seconds + 1.0)
    assert none.energy == problem.energy(none.labels)
    assert str(some.status).startswith("time limit")
    assert some.energy <= short.energy


def test_infeasible_models_are_proved_so():
    graph = FactorGraph([2, 2, 2], [((0, 1), np.full((2, 2), INF)), ((1, 2), np.zeros((2, 2)))])
    solution = mrfq.solve(graph, "auto")
    assert solution.energy == solution.lower_bound == INF


# ---- real models ---------------------------------------------------------------------------------------

INSTANCES = Path(os.environ.get("MRFQ_DATA", "")) / "mrf-instances"
needs_instances = pytest.mark.skipif(
    not (INSTANCES / "MANIFEST.tsv").is_file(), reason="MRFQ_DATA names no folder with mrf-instances/MANIFEST.tsv"
)


def manifest():
    """Return (file, energy, proved) of each real model."""
    if not (INSTANCES / "MANIFEST.tsv").is_file():
        return []
    rows = [line.split("\t") for line in (INSTANCES / "MANIFEST.tsv").read_text().splitlines()[1:]]
    return [(row[0], float(row[5]), row[6].startswith("proved")) for row in rows]


@needs_instances
@pytest.mark.parametrize("file", [row[0] for row in manifest() if row[2]])
def test_known_optima_are_reached_and_proved(file):
    energy = next(row[1] for row in manifest() if row[0] == file)
    evidence = INSTANCES / f"{file}.evid"
    problem = mrfq.read(INSTANCES / file, evidence=evidence if evidence.exists() else None)
    solution = mrfq.solve(problem, "auto", time_limit=60)
    assert solution.energy == pytest.approx(energy, abs=1e-4)
    assert solution.proved


@needs_instances
@pytest.mark.parametrize("file", [row[0] for row in manifest() if not row[2]])
def test_best_known_energies_are_reached(file):
    energy = next(row[1] for row in manifest() if row[0] == file)
    solution = mrfq.solve(mrfq.read(INSTANCES / file), "auto", time_limit=40)
    assert solution.energy <= energy + 1e-4
