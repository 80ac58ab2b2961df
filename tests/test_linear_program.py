"""The linear and the integer program: bounds that hold, tight where theory says so, exact against enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mrfq
from mrfq import Status, testing
from mrfq.errors import CapabilityError, InvalidParameterError
from mrfq.problems.factor_graph import FactorGraph
from mrfq.solvers.integer_program import IntegerProgram, safe_bound
from mrfq.solvers.linear_program import LinearProgram
from mrfq.solvers.local_polytope import LocalPolytope, grain, on_grid


def random_model(seed, forbidden=0.0, whole=False):
    """Return a small factor graph of mixed arity with ragged labels."""
    numbers = np.random.default_rng(seed)
    cards = numbers.integers(1, 4, 5)
    found = [((), numbers.normal())] if not whole else []
    for _ in range(8):
        scope = tuple(int(i) for i in numbers.choice(5, numbers.integers(1, 4), replace=False))
        table = numbers.normal(size=cards[list(scope)])
        table = np.round(4 * table) if whole else table
        table[numbers.random(table.shape) < forbidden] = math.inf
        found.append((scope, table))
    return FactorGraph(cards, found)


def slack(value):
    return 1e-9 * max(1.0, abs(value))


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]))
def test_bound_exact_energy(seed, forbidden):
    model = random_model(seed, forbidden)
    exact = testing.exact_energy(model)
    relaxed, integral = (mrfq.solve(model, solver) for solver in (LinearProgram(), IntegerProgram()))
    assert relaxed.lower_bound <= exact + slack(exact)
    assert integral.lower_bound <= exact + slack(exact)
    assert math.isinf(exact) or integral.lower_bound >= relaxed.lower_bound - slack(exact)
    assert integral.proved
    assert integral.energy == pytest.approx(exact, abs=1e-8)
    if relaxed.proved:
        assert relaxed.energy == pytest.approx(exact, abs=1e-8)


@given(st.integers(0, 10_000), st.floats(0, 1e3))
def test_any_multipliers_give_a_bound(seed, size):
    model = random_model(seed, forbidden=0.1)
    exact, polytope = testing.exact_energy(model), LocalPolytope(model)
    if not polytope.infeasible:
        multipliers = size * np.random.default_rng(seed).standard_normal(len(polytope.right))
        assert polytope.bound(multipliers) <= exact + slack(exact)


def test_tight_on_trees_and_submodular_models():
    for model in (mrfq.generators.tree(10, labels=3, seed=1), mrfq.generators.ferromagnet(4, 4, seed=1)):
        solution = mrfq.solve(model, LinearProgram())
        assert solution.status is Status.OPTIMAL
        assert solution.proved


def test_frustrated_cycle_has_the_known_gap():
    # Every edge of a frustrated cycle can be half satisfied at once: the relaxation says -n, the truth is -n + 2.
    cycle = mrfq.PairwiseMRF.ising(np.zeros(5), [-1.0, 1, 1, 1, 1], [[i, (i + 1) % 5] for i in range(5)])
    relaxed, integral = mrfq.solve(cycle, LinearProgram()), mrfq.solve(cycle, IntegerProgram())
    assert relaxed.lower_bound == -5.0
    assert relaxed.status is Status.CONVERGED
    assert integral.energy == integral.lower_bound == -3.0
    assert integral.status is Status.OPTIMAL
    torch.testing.assert_close(relaxed.relaxed, torch.full((5, 2), 0.5, dtype=torch.float64))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_whole_costs_are_proved(seed):
    model = random_model(seed, forbidden=0.1, whole=True)
    solution = mrfq.solve(model, IntegerProgram())
    if not LocalPolytope(model).infeasible and math.isfinite(solution.energy):
        assert solution.proved
        assert solution.energy == testing.exact_energy(model)


def test_the_bound_of_the_integer_program_is_below_what_is_reported():
    polytope = LocalPolytope(random_model(0))
    reported = 2.0
    assert safe_bound(polytope, reported) < polytope.constant + polytope.scale * reported
    assert safe_bound(polytope, None) == safe_bound(polytope, -math.inf) == -math.inf


def test_a_proof_of_our_own_where_the_tolerances_of_branch_and_cut_do_not_do():
    glass = mrfq.generators.spin_glass(4, 4, field=0.1, seed=0)
    exact = mrfq.solve(glass, "exhaustive").energy
    without, proved = (mrfq.solve(glass, IntegerProgram(proof=k)) for k in (0, 200))
    assert without.status is Status.CONVERGED
    assert not without.proved
    assert without.lower_bound < exact
    assert proved.status is Status.OPTIMAL
    assert proved.energy == pytest.approx(exact, abs=1e-9)
    bounds = proved.trace["bound"][1:]
    assert bounds == sorted(bounds)
    assert len(bounds) > 1
    assert mrfq.solve(glass, IntegerProgram(proof=2)).iterations == 2


@given(st.integers(0, 10_000))
def test_arc_consistency_keeps_every_allowed_labelling(seed):
    model = random_model(seed, forbidden=0.5)
    polytope = LocalPolytope(model)
    if polytope.infeasible:
        return
    left = polytope.supported(np.isfinite(polytope.unary))
    for labels in itertools.product(*(range(c) for c in model.cardinalities.tolist())):
        if math.isfinite(model.energy(torch.tensor(labels))):
            assert left is not None
            assert all(left[i, a] for i, a in enumerate(labels))


def test_reparametrisation_does_not_change_the_bound():
    model = random_model(3)
    moved = []
    for scope, table in model.factors():
        if len(scope) == 2:
            message = np.arange(table.shape[0]) * 0.7
            moved += [(scope, table - message[:, None]), (scope[:1], message)]
        else:
            moved.append((scope, table))
    bounds = [mrfq.solve(m, LinearProgram()).lower_bound for m in (model, FactorGraph(model.cardinalities, moved))]
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-6)


def test_a_model_that_forbids_everything():
    model = FactorGraph([2, 2], [((0, 1), np.full((2, 2), math.inf)), ((0,), [0.0, 1.0])])
    for solver in (LinearProgram(), IntegerProgram()):
        assert mrfq.solve(model, solver).lower_bound == math.inf
    knot = FactorGraph([2, 2], [((0, 1), [[0, math.inf], [math.inf, 0]]), ((0, 1), [[math.inf, 0], [0, math.inf]])])
    assert (
        mrfq.solve(knot, LinearProgram()).status is Status.CONVERGED
    )  # no table alone says so, nor does a half of each
    assert mrfq.solve(knot, IntegerProgram()).lower_bound == math.inf


def test_limits_leave_a_labelling_and_a_bound():
    glass = mrfq.generators.spin_glass(6, 6, field=0.1, seed=0)
    for solver in (LinearProgram(seconds=1e-9), IntegerProgram(seconds=1e-9), IntegerProgram(nodes=1)):
        solution = mrfq.solve(glass, solver)
        assert solution.lower_bound <= solution.energy < math.inf


def test_too_large_is_refused():
    chain = mrfq.generators.chain(10, labels=4, seed=0)
    for kind in (LinearProgram, IntegerProgram):
        with pytest.raises(CapabilityError, match="184 indicators of labels and configurations, the limit is 100"):
            mrfq.solve(chain, kind(columns=100))
        with pytest.raises(InvalidParameterError, match="columns must be positive"):
            kind(columns=0)
    with pytest.raises(InvalidParameterError, match="proof must not be negative"):
        IntegerProgram(proof=-1)
    for kind in (LinearProgram, IntegerProgram):
        assert kind(columns=184).accepts(chain) is None


def test_grids_of_costs():
    assert grain(FactorGraph([2], [((0,), [1.0, 3.0])]).factors()) == 1.0
    assert grain(FactorGraph([2], [((0,), [1.0, math.inf]), ((), 0.375)]).factors()) == 0.125
    assert grain(FactorGraph([2], [((0,), [1.0, 0.1])]).factors()) == 0.0
    assert grain(FactorGraph([2], [((0,), [1.0, 1e30])]).factors()) == 0.0
    assert on_grid(0.2, 0.5) == 0.5
    assert on_grid(-1.0, 0.5) == -1.0
    assert on_grid(0.2, 0.0) == 0.2
    assert on_grid(math.inf, 1.0) == math.inf
