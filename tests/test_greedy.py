"""Greedy construction and tabu search: exact on small models, certificates on larger ones."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrfq import InvalidParameterError, PairwiseMRF, generators, solve, testing
from mrfq.solvers.greedy import Greedy
from mrfq.solvers.greedy_kernels import average_tables, construct
from mrfq.solvers.half_edges import half_edges
from mrfq.solvers.tabu import TabuSearch

SETTINGS = {
    "greedy": Greedy(),
    "tabu": TabuSearch(),
    "tabu-short": TabuSearch(tenure=1, patience=3, strength=1.0),
}


def random_model(seed, labels=3, n=6):
    """Return a small model with parallel edges, holes in the mask and forbidden pairs."""
    numbers = np.random.default_rng(seed)
    edges = numbers.integers(n, size=(3 * n, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    tables = numbers.standard_normal((len(edges), labels, labels))
    tables[numbers.random(tables.shape) < 0.05] = math.inf
    mask = numbers.random((n, labels)) < 0.8
    mask[np.arange(n), numbers.integers(labels, size=n)] = True
    return PairwiseMRF(numbers.standard_normal((n, labels)), edges, tables, mask=mask)


def qubo(n, seed):
    """Return min x'Wx with integer coefficients in [-100, 100], the kind of the bqp library."""
    numbers = np.random.default_rng(seed)
    edges = np.stack(np.triu_indices(n, 1), 1)
    tables = np.zeros((len(edges), 2, 2))
    tables[:, 1, 1] = 2 * numbers.integers(-100, 101, len(edges))
    unary = np.zeros((n, 2))
    unary[:, 1] = numbers.integers(-100, 101, n)
    return PairwiseMRF(unary, edges, tables)


@pytest.mark.parametrize("name", ["greedy", "tabu"])
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), labels=st.sampled_from([1, 2, 3, 4]))
def test_small_models_are_solved(name, seed, labels):
    problem = random_model(seed, labels)
    solution = solve(problem, SETTINGS[name], max_iters=4, seed=seed)
    assert solution.energy == pytest.approx(testing.exact_energy(problem), abs=1e-9)


@pytest.mark.parametrize("name", ["greedy", "tabu"])
@pytest.mark.parametrize("make", [generators.dense_ising, qubo])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_dense_models_of_sixteen_variables_are_solved(name, make, seed):
    problem = make(16, seed=seed)
    exact = solve(problem, "exhaustive").energy
    assert solve(problem, SETTINGS[name], max_iters=3, seed=seed).energy == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("make", [generators.dense_ising, qubo])
def test_greedy_and_tabu_agree_on_dense_models_of_sixty_variables(make):
    problem = make(60, seed=5)
    greedy, tabu = (solve(problem, solver, max_iters=30).energy for solver in (Greedy(), TabuSearch()))
    assert greedy == pytest.approx(tabu, abs=1e-9)


def test_tabu_keeps_an_optimum_it_starts_from():
    problem = generators.dense_ising(14, seed=4)
    best = solve(problem, "exhaustive").labels
    assert solve(problem, TabuSearch(), init=best, max_oracle_calls=1).labels.equal(best)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_order_of_the_variables_does_not_matter_to_the_optimum_found(name):
    problem = generators.dense_ising(12, field=0.5, seed=6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    renamed = PairwiseMRF(problem.unary[order], place[problem.edges], problem.edge_tables())
    there, here = (solve(p, SETTINGS[name], max_iters=3) for p in (problem, renamed))
    assert here.labels[place].equal(there.labels)


@pytest.mark.parametrize("name", SETTINGS)
def test_moving_costs_from_edges_to_variables_does_not_matter_to_the_optimum_found(name):
    problem = random_model(11)
    unary, tables = problem.unary.clone(), problem.edge_tables().clone()
    for e, (i, _) in enumerate(problem.edges.tolist()):
        move = torch.linspace(-1, 1, 3, dtype=torch.float64)
        unary[i] += move
        tables[e] -= move[:, None]
    moved = PairwiseMRF(unary, problem.edges, tables, mask=problem.label_set.mask)
    there, here = (solve(p, SETTINGS[name], max_iters=3) for p in (problem, moved))
    assert here.energy == pytest.approx(there.energy, abs=1e-9)


def test_the_best_energy_of_greedy_is_a_local_minimum():
    problem = generators.potts_grid(7, 7, 4, seed=2)
    solution = solve(problem, Greedy(), max_iters=2)
    for i, a in itertools.product(*map(range, problem.shape)):
        other = solution.labels.clone()
        other[i] = a
        assert problem.energy(other) >= solution.energy - 1e-12


def greedy_labels(problem, seed=7):
    graph, labels = half_edges(problem), np.empty(problem.shape[0], np.int64)
    construct(labels, 0.0, np.uint64(seed), average_tables(graph), graph)
    return torch.from_numpy(labels)


def test_construction_follows_a_strong_ferromagnet():
    magnet = generators.ferromagnet(6, 6, coupling=50.0, field=1.0, seed=1)
    for seed in range(1, 9):
        values, counts = greedy_labels(magnet, seed).unique(return_counts=True)
        # What is drawn at the start may disagree, and be a wall between two domains; what follows does not.
        assert len(values) == 1 or counts.min() < 18


def test_construction_takes_the_cheapest_labels_where_there_are_no_edges():
    alone = PairwiseMRF(np.random.default_rng(0).standard_normal((50, 4)))
    labels = greedy_labels(alone)
    assert (labels == alone.unary.argmin(1)).sum() >= 40  # all but those drawn at the start


@given(st.integers(1, 10**6))
def test_construction_takes_labels_that_exist(seed):
    problem = random_model(seed)
    problem.label_set.check(greedy_labels(problem, seed))


@pytest.mark.parametrize("limit", [2, 7, 40])
def test_budgets_of_calls_are_hardly_overshot(limit):
    problem = generators.spin_glass(5, 5, seed=1)
    assert solve(problem, TabuSearch(), max_oracle_calls=limit).oracle_calls == limit
    assert solve(problem, Greedy(), max_oracle_calls=limit).oracle_calls <= limit + 1


@pytest.mark.parametrize(
    "wrong", [lambda: Greedy(noise=-1.0), lambda: TabuSearch(tenure=0), lambda: TabuSearch(strength=0.0)]
)
def test_parameters_are_checked(wrong):
    with pytest.raises(InvalidParameterError, match="must"):
        wrong()
