"""TRW-S, its form for factor graphs, and max-product: bounds, exactness on trees, fast messages."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mrfq
from mrfq import FactorGraph, InvalidParameterError, PairwiseMRF, generators, testing
from mrfq.problems import tables as make_table
from mrfq.solvers.belief_propagation import MaxProduct, ParallelMaxProduct
from mrfq.solvers.factor_messages import SRMP
from mrfq.solvers.message_graph import GENERAL, POTTS, TRUNCATED_LINEAR, message_graph
from mrfq.solvers.message_kernels import pass_messages
from mrfq.solvers.message_passing import TRWS

INF = math.inf
seeds = st.integers(0, 2**32 - 1)


def random_model(seed, n=6, labels=3, probability=0.5, hard=False):
    random = np.random.default_rng(seed)
    edges = [p for p in itertools.combinations(range(n), 2) if random.random() < probability] or [(0, 1)]
    unary = random.standard_normal((n, labels))
    tables = random.standard_normal((len(edges), labels, labels))
    if hard:
        tables[random.random(tables.shape) < 0.15] = INF
    return PairwiseMRF(unary, edges, tables)


def factor_tree(seed, n=7):
    """Return a random factor graph without cycles, with tables on two and three variables."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 4, n).tolist()
    scopes, known = [], [0]
    while len(known) < n:
        new = list(range(len(known), min(n, len(known) + int(random.integers(1, 3)))))
        scope = random.permutation([int(random.choice(known)), *new]).tolist()
        scopes.append(scope)
        known += new
    scopes += [[i] for i in range(n)] + [[]]
    return FactorGraph(counts, [(scope, random.standard_normal([counts[i] for i in scope])) for scope in scopes])


def bounds(solution):
    return [b for b in solution.trace["bound"] if not math.isnan(b)]


# ---- bounds --------------------------------------------------------------------------------------------


@given(seeds, st.booleans(), st.sampled_from([TRWS(), SRMP()]))
def test_the_bound_never_falls_and_is_below_the_optimum(seed, hard, solver):
    problem = random_model(seed, hard=hard)
    solution = mrfq.solve(problem, solver, max_iters=30)
    found = bounds(solution)
    exact = testing.exact_energy(problem)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(found))
    assert found[-1] <= exact + 1e-9 * max(1.0, abs(exact))


@given(seeds)
def test_the_two_bounds_are_the_same_on_pairwise_models(seed):
    problem = random_model(seed, n=5)
    one, other = (mrfq.solve(problem, s, max_iters=10) for s in (TRWS(), SRMP()))
    length = min(len(bounds(one)), len(bounds(other)))
    np.testing.assert_allclose(bounds(one)[:length], bounds(other)[:length], atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_trees_are_solved_and_proved(seed):
    problem = generators.tree(n=9, labels=3, seed=seed)
    exact = testing.exact_energy(problem)
    for solver in (TRWS(), SRMP()):
        solution = mrfq.solve(problem, solver)
        assert solution.proved
        assert solution.energy == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_chain_takes_one_step(seed):
    solution = mrfq.solve(generators.chain(n=50, labels=4, seed=seed), TRWS())
    assert solution.proved
    assert solution.iterations == 1


@given(seeds)
def test_factor_graphs_without_cycles_are_solved_and_proved(seed):
    problem = factor_tree(seed)
    solution = mrfq.solve(problem, SRMP())
    assert solution.proved
    assert solution.energy == pytest.approx(testing.exact_energy(problem), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_submodular_models_are_tight_and_frustrated_cycles_are_not(seed):
    tight = mrfq.solve(generators.ferromagnet(5, 5, coupling=0.5, seed=seed), TRWS(), max_iters=500)
    assert tight.gap <= 1e-4 * abs(tight.energy)
    cycle = generators.frustrated_cycle(5, seed=seed)
    loose = mrfq.solve(cycle, TRWS(), max_iters=500)
    assert testing.exact_energy(cycle) - loose.lower_bound > 0.5


@given(seeds)
def test_the_bound_does_not_exceed_that_of_the_linear_program(seed):
    problem = random_model(seed, n=4, labels=2, probability=1.0)
    bound = mrfq.solve(problem, TRWS(), max_iters=200).lower_bound
    again = mrfq.solve(FactorGraph.of(problem), SRMP(), max_iters=200).lower_bound
    relaxed = mrfq.solve(problem, "lp").lower_bound
    assert max(bound, again) <= relaxed + 1e-6


@given(seeds)
def test_bounds_do_not_depend_on_how_costs_are_split(seed):
    """Adding a function of a variable to its unary costs and taking it off an edge changes nothing to the optimum."""
    problem = random_model(seed)
    random = np.random.default_rng(seed)
    shift = random.standard_normal(3)
    unary, tables = problem.unary.clone(), problem.tables.clone()
    unary[problem.edges[0, 0]] += torch.from_numpy(shift)
    tables[0] -= torch.from_numpy(shift)[:, None]
    other = PairwiseMRF(unary, problem.edges, tables)
    x = torch.from_numpy(random.integers(0, 3, 6))
    assert other.energy(x) == pytest.approx(problem.energy(x), abs=1e-12)
    assert mrfq.solve(other, TRWS(), max_iters=50).lower_bound <= testing.exact_energy(problem) + 1e-9


def test_costs_scale():
    problem = random_model(3)
    scaled = PairwiseMRF(problem.unary * 1e6, problem.edges, problem.tables * 1e6)
    one, other = (mrfq.solve(p, TRWS(), max_iters=20) for p in (problem, scaled))
    assert other.lower_bound == pytest.approx(1e6 * one.lower_bound, rel=1e-9)
    assert torch.equal(one.labels, other.labels)


def test_the_run_ends_when_the_bound_stands_still():
    solution = mrfq.solve(generators.spin_glass(6, 6, seed=0), TRWS(patience=5), max_iters=10_000)
    assert str(solution.status).startswith("converged")
    assert solution.iterations < 1000


# ---- fast messages -------------------------------------------------------------------------------------


@given(
    seeds,
    st.sampled_from(["potts", "truncated linear", "linear"]),
    st.floats(-2, 2, allow_nan=False),
    st.integers(1, 7),
)
def test_fast_messages_are_the_general_ones(seed, shape, weight, labels):
    random = np.random.default_rng(seed)
    make = {
        "potts": make_table.potts(labels),
        "truncated linear": make_table.truncated_linear(labels, 2.0),
        "linear": make_table.truncated_linear(labels, labels + 1.0),
    }
    table = make[shape] * 0.7 + 0.3
    unary = random.standard_normal((2, labels))
    graph = message_graph(PairwiseMRF(unary, [[0, 1]], table, weights=weight))
    if labels > 2:
        assert graph.kind.tolist() == [POTTS if shape == "potts" else TRUNCATED_LINEAR]
    messages = np.zeros((2, labels))
    bound, _ = pass_messages(messages, np.zeros(2, dtype=np.int64), True, True, graph)
    expected = (unary[0][:, None] + weight * table.numpy()).min(0)
    np.testing.assert_allclose(messages[1], expected - expected.min(), atol=1e-12)
    assert bound == pytest.approx((unary[1] + expected).min(), abs=1e-12)


def test_tables_without_a_fast_form_are_found_out():
    for table in (make_table.truncated_quadratic(4, 5.0), torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0.5]])):
        problem = PairwiseMRF(np.zeros((2, len(table))), [[0, 1]], table)
        assert message_graph(problem).kind.tolist() == [GENERAL]


@pytest.mark.parametrize("table", ["potts", "truncated-linear"])
def test_a_table_per_edge_gives_the_same_run_as_a_shared_one(table):
    shared = generators.denoising(5, 6, 5, table=table, seed=2)
    own = PairwiseMRF(shared.unary, shared.edges, shared.edge_tables())
    graph = FactorGraph.of(shared).pairwise()
    runs = [mrfq.solve(problem, TRWS(), max_iters=8) for problem in (shared, own, graph)]
    for run in runs[1:]:
        assert torch.equal(run.labels, runs[0].labels)
        np.testing.assert_allclose(bounds(run), bounds(runs[0]), atol=1e-9)


# ---- max-product ---------------------------------------------------------------------------------------


@given(seeds, st.sampled_from([MaxProduct(), ParallelMaxProduct(0.0), ParallelMaxProduct(0.3)]))
def test_max_product_is_exact_without_cycles(seed, solver):
    problem = factor_tree(seed)
    solution = mrfq.solve(problem, solver)
    assert str(solution.status).startswith("converged")
    assert solution.energy == pytest.approx(testing.exact_energy(problem), abs=1e-9)


@pytest.mark.parametrize("solver", [MaxProduct(), ParallelMaxProduct()])
def test_both_forms_of_a_pairwise_model_give_the_same_labels(solver):
    pairs = generators.tree(n=12, labels=4, seed=3)
    runs = [mrfq.solve(problem, solver) for problem in (pairs, FactorGraph.of(pairs))]
    assert torch.equal(runs[0].labels, runs[1].labels)


def test_flooding_sends_what_the_sequential_form_sends_on_a_chain():
    """At the fixed point there is only one set of messages on a tree, so beliefs and labels agree."""
    chain = FactorGraph.of(generators.chain(n=15, labels=3, seed=4))
    sequential, flooding = (mrfq.solve(chain, s) for s in (MaxProduct(), ParallelMaxProduct(0.0)))
    messages = [solution.checkpoint.state.messages for solution in (sequential, flooding)]
    np.testing.assert_allclose(messages[0], messages[1].numpy(), atol=1e-9)


def test_undamped_flooding_oscillates_where_damping_helps():
    # Two spins that want to be equal, seen through two parallel edges that together are a cycle.
    problem = generators.potts_graph(8, 2, degree=3, seed=1)
    wild, calm = (mrfq.solve(problem, ParallelMaxProduct(d), max_iters=400) for d in (0.0, 0.8))
    assert calm.energy <= wild.energy + 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TRWS(tol=-1.0), "TRWS: tol must be at least 0, got -1.0"),
        (lambda: TRWS(patience=0), "TRWS: patience must be positive"),
        (lambda: MaxProduct(tol=math.nan), "MaxProduct: tol"),
        (lambda: ParallelMaxProduct(damping=1.0), r"damping must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(InvalidParameterError, match=message):
        make()


def test_a_pairwise_solver_says_why_it_does_not_take_factors():
    with pytest.raises(mrfq.CapabilityError, match="explicit pairwise graph, it has a table on 3 variables"):
        mrfq.solve(FactorGraph([2, 2, 2], [((0, 1, 2), np.zeros((2, 2, 2)))]), TRWS())
    with pytest.raises(mrfq.CapabilityError, match=r"explicit pairwise graph; its method pairwise\(\) gives"):
        mrfq.solve(FactorGraph([2, 2], [((0, 1), np.zeros((2, 2)))]), TRWS())
