"""Annealing in chains: incremental costs, the schedule's end, what is handed over; and the graph it runs on."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrfq import Constant, Geometric, InvalidParameterError, PairwiseMRF, generators, solve, testing
from mrfq.oracle import Oracle
from mrfq.solvers.annealing import ParallelAnnealing, used
from mrfq.solvers.annealing_kernels import conditional_costs, descend_labels, descend_spins, flip_costs, relabel
from mrfq.solvers.half_edges import half_edges, ising_form

SETTINGS = {"default": ParallelAnnealing(), "three": ParallelAnnealing(chains=3, sweeps=5)}


def random_model(seed, labels=3, n=6, forbid=0.2, ragged=True):
    """Return a small model with parallel edges, holes in the mask and forbidden pairs."""
    numbers = np.random.default_rng(seed)
    edges = numbers.integers(n, size=(3 * n, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    tables = numbers.standard_normal((len(edges), labels, labels))
    tables[numbers.random(tables.shape) < forbid / 4] = math.inf
    unary = numbers.standard_normal((n, labels))
    mask = numbers.random((n, labels)) < 0.8 if ragged else np.ones((n, labels), bool)
    mask[np.arange(n), numbers.integers(labels, size=n)] = True
    return PairwiseMRF(unary, edges, tables, mask=mask)


def labellings(problem):
    mask = problem.label_set.mask
    rows = torch.ones(problem.shape, dtype=torch.bool) if mask is None else mask
    return [torch.tensor(x) for x in itertools.product(*(row.nonzero()[:, 0].tolist() for row in rows))]


def is_local_minimum(problem, labels):
    """Return whether no single change of a label lowers the energy."""
    energy, mask = problem.energy(labels), problem.label_set.mask
    for i, a in itertools.product(*map(range, problem.shape)):
        other = labels.clone()
        other[i] = a
        if (mask is None or mask[i, a]) and problem.energy(other) < energy - 1e-9 * max(1, abs(energy)):
            return False
    return True


# ---- the graph ------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4]))
def test_half_edges_have_the_energy_of_the_problem(seed, labels):
    problem = random_model(seed, labels, forbid=0.0)
    graph = half_edges(problem)
    costs = np.empty(graph.unary.shape)
    for x in labellings(problem)[::7]:
        assert conditional_costs(x.numpy(), costs, graph) == pytest.approx(problem.energy(x), abs=1e-9)


@given(st.integers(0, 10**6))
def test_the_finite_stand_in_keeps_every_allowed_labelling_below_every_forbidden_one(seed):
    problem = random_model(seed, labels=2, n=5, forbid=0.8)
    graph = half_edges(problem)
    costs = np.empty(graph.unary.shape)
    told = {tuple(x.tolist()): conditional_costs(x.numpy(), costs, graph) for x in labellings(problem)}
    true = {x: problem.energy(torch.tensor(x)) for x in told}
    allowed = [told[x] for x in told if math.isfinite(true[x])]
    forbidden = [told[x] for x in told if math.isinf(true[x])]
    assert not allowed or not forbidden or max(allowed) < min(forbidden)


@pytest.mark.parametrize(
    ("make", "stored", "potts"),
    [
        (lambda: generators.potts_grid(3, 3, 4), 1, True),
        (lambda: generators.spin_glass(3, 3), 1, True),
        (lambda: generators.denoising(3, 3, 12, table="truncated-linear"), 1, False),
        (testing.PROBLEMS["asymmetric-table"], 8, False),
    ],
)
def test_multiples_of_one_symmetric_table_are_stored_once(make, stored, potts):
    graph = half_edges(make())
    assert (len(graph.tables), graph.potts) == (stored, potts)


def test_tables_that_differ_only_in_small_entries_are_not_taken_for_one():
    tables = np.array([[[1e30, 5.0], [5.0, 1e30]], [[1e30, 7.0], [7.0, 1e30]]])
    assert len(half_edges(PairwiseMRF(np.zeros((3, 2)), [[0, 1], [1, 2]], tables)).tables) == 4


@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
def test_incremental_costs_are_those_computed_anew(seed, labels):
    problem = random_model(seed, labels, ragged=False)
    graph, numbers = half_edges(problem), np.random.default_rng(seed)
    x = numbers.integers(labels, size=6)
    costs, anew = np.empty(graph.unary.shape), np.empty(graph.unary.shape)
    conditional_costs(x, costs, graph)
    for i, a in zip(numbers.integers(6, size=9), numbers.integers(labels, size=9), strict=True):
        relabel(np.uint64(i), a, x, costs, graph)
    conditional_costs(x, anew, graph)
    np.testing.assert_allclose(costs - costs.min(1, keepdims=True), anew - anew.min(1, keepdims=True), atol=1e-9)


@given(st.integers(0, 10**6))
def test_two_labels_as_spins_are_the_same_model(seed):
    problem = random_model(seed, labels=2, forbid=0.0)
    graph = half_edges(problem)
    spins, anew, n = np.empty(6), np.empty(graph.unary.shape), np.arange(6)
    offsets = []
    for x in labellings(problem):
        energy = flip_costs(1.0 - 2.0 * x.numpy(), spins, ising_form(graph))
        offsets.append(problem.energy(x) - energy)
        conditional_costs(x.numpy(), anew, graph)
        np.testing.assert_allclose(spins, anew[n, 1 - x.numpy()] - anew[n, x.numpy()], atol=1e-9)
    np.testing.assert_allclose(offsets, offsets[0], atol=1e-9)


@given(st.integers(0, 10**6))
def test_both_descents_end_at_local_minima(seed):
    problem = random_model(seed, labels=2, forbid=0.0)
    graph = half_edges(problem)
    start = problem.label_set.round(torch.rand(problem.shape, generator=torch.Generator().manual_seed(seed)))
    for descend, model in ((descend_labels, graph), (descend_spins, ising_form(graph))):
        x = start.numpy().copy()
        descend(x, model)
        assert is_local_minimum(problem, torch.tensor(x))


# ---- the solver -----------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
def test_small_models_are_solved_and_what_is_handed_over_is_a_local_minimum(seed, labels):
    problem = random_model(seed, labels)
    solution = solve(problem, ParallelAnnealing(chains=4, sweeps=20), max_iters=20, seed=seed)
    assert solution.energy == pytest.approx(testing.exact_energy(problem), abs=1e-9)
    assert math.isinf(solution.energy) or is_local_minimum(problem, solution.relaxed.argmax(1))


@pytest.mark.parametrize("make", [generators.spin_glass, generators.potts_grid])
def test_costs_times_a_power_of_two_give_the_same_run(make):
    problem = make(6, 6, seed=1)
    scaled = PairwiseMRF(4 * problem.unary, problem.edges, 4 * problem.edge_tables())
    one, four = (solve(p, ParallelAnnealing(), max_iters=4, seed=5) for p in (problem, scaled))
    assert four.labels.equal(one.labels)
    assert four.trace["beta"][-1] == one.trace["beta"][-1] / 4


def test_a_cold_chain_never_rises_and_a_hot_one_does():
    problem = generators.spin_glass(8, 8, seed=2)
    start = torch.zeros(64, dtype=torch.int64)
    cold = solve(problem, ParallelAnnealing(beta=Constant(1e9), sweeps=2), init=start, max_iters=10)
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(cold.trace["energy"]))
    hot = solve(problem, ParallelAnnealing(beta=Constant(0.1), sweeps=2), init=start, max_iters=10)
    assert any(b > a for a, b in itertools.pairwise(hot.trace["energy"]))


@pytest.mark.parametrize("labels", [2, 3])
def test_a_chain_at_a_fixed_temperature_samples_the_gibbs_law(labels):
    from mrfq.solvers.annealing_kernels import anneal_labels, anneal_spins

    problem = random_model(3, labels, n=3, forbid=0.0, ragged=False)
    graph = half_edges(problem)
    anneal, model = (anneal_spins, ising_form(graph)) if labels == 2 else (anneal_labels, graph)
    x, seed, beta = np.zeros(3, np.int64), np.uint64(12345), np.full(2, 0.7)
    counts = np.zeros((labels,) * 3)
    for _ in range(20000):
        seed = np.uint64(anneal(x, beta, seed, model))
        counts[tuple(x)] += 1
    law = np.exp([-0.7 * problem.energy(y) for y in labellings(problem)])
    np.testing.assert_allclose(counts.ravel() / counts.sum(), law / law.sum(), atol=0.015)


# ---- budgets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"max_iters": 1}, {"max_iters": 7}, {"max_oracle_calls": 500}])
def test_the_schedule_ends_with_the_budget(budget):
    problem, schedule = generators.spin_glass(5, 5, seed=1), Geometric(0.1, 10.0)
    solution = solve(problem, ParallelAnnealing(schedule, sweeps=30), **budget)
    assert solution.trace["beta"][-1] == pytest.approx(10.0, rel=1e-12)
    assert all(b >= a for a, b in itertools.pairwise(solution.trace["beta"]))


@pytest.mark.parametrize("chains", [1, 3, 8])
@pytest.mark.parametrize("limit", [3, 50, 101])
def test_a_budget_of_calls_is_used_up_and_hardly_overshot(chains, limit):
    solution = solve(generators.spin_glass(5, 5, seed=1), ParallelAnnealing(chains=chains), max_oracle_calls=limit)
    assert solution.oracle_calls == limit


def test_used_is_the_fraction_before_and_after_a_step():
    oracle = Oracle(generators.spin_glass(2, 2), seed=0)
    oracle.horizon = 4
    assert [used(oracle, steps, 0) for steps in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    oracle.horizon, oracle.max_calls = 2**62, 10
    assert [used(oracle, 1, calls) for calls in (0, 5, 10)] == [pytest.approx(0, abs=1e-9), 0.5, 1]


@pytest.mark.parametrize("wrong", [{"chains": 0}, {"sweeps": 1}, {"sweeps": 0}])
def test_parameters_are_checked(wrong):
    with pytest.raises(InvalidParameterError, match="ParallelAnnealing"):
        ParallelAnnealing(**wrong)
