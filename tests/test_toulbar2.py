"""toulbar2 as a plug-in: exact where it finishes, honest where it does not, and no traces outside."""

import math
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mrfq
from mrfq import Status, testing
from mrfq.errors import CapabilityError, InvalidParameterError
from mrfq.problems.factor_graph import FactorGraph
from mrfq.solvers import toulbar2
from mrfq.solvers.toulbar2 import Toulbar2
from mrfq.solvers.whole_numbers import WholeNumbers

pytest.importorskip("pytoulbar2", reason='needs pytoulbar2: pip install "mrfq[solver-peers]"')


def random_model(seed, forbidden=0.0):
    numbers = np.random.default_rng(seed)
    cards = numbers.integers(1, 4, 6)
    found = [((), numbers.normal())]
    for _ in range(8):
        scope = tuple(int(i) for i in numbers.choice(6, numbers.integers(1, 5), replace=False))
        table = numbers.normal(size=cards[list(scope)])
        table[numbers.random(table.shape) < forbidden] = math.inf
        found.append((scope, table))
    return FactorGraph(cards, found)


def hard(n=40):
    """Return a dense spin glass that takes toulbar2 far more than a few backtracks."""
    numbers = np.random.default_rng(0)
    edges = [(i, j) for i in range(n) for j in range(i)]
    return mrfq.PairwiseMRF.ising(np.zeros(n), numbers.standard_normal(len(edges)), edges)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.6]))
def test_equals_enumeration(seed, forbidden):
    model = random_model(seed, forbidden)
    exact, solution = testing.exact_energy(model), mrfq.solve(model, Toulbar2())
    assert solution.proved
    assert solution.energy == pytest.approx(exact, abs=1e-8)
    assert solution.lower_bound <= exact + 1e-9 * max(1.0, abs(exact))


@given(st.integers(0, 10_000))
def test_whole_numbers_are_below_the_energy(seed):
    model = random_model(seed, forbidden=0.2)
    whole, random = WholeNumbers.of(model), np.random.default_rng(seed)
    if whole is None:
        return
    for _ in range(5):
        labels = torch.tensor([int(random.integers(c)) for c in whole.cardinalities])
        energy, cost = model.energy(labels), whole.cost(labels)
        assert whole.bound(cost) <= energy + 1e-12
        assert (cost == whole.top) == math.isinf(energy)
        if math.isfinite(energy):
            assert energy - whole.bound(cost) <= (len(whole.factors) + 1) / whole.scale + 2 * whole.slack


def test_whole_costs_lose_nothing():
    grid = mrfq.PairwiseMRF.ising([0.5, 0.0, -1.0], [1.0, -2.0, 0.25], [[0, 1], [1, 2], [2, 0]])
    whole, solution = WholeNumbers.of(grid), mrfq.solve(grid, Toulbar2())
    assert whole.scale == 4.0
    assert solution.lower_bound == solution.energy == testing.exact_energy(grid)


def test_searches_grow_bounds_rise_and_resuming_changes_nothing():
    whole = mrfq.solve(hard(), Toulbar2(backtracks=10), max_iters=4)
    bounds = whole.trace["bound"][1:]
    assert whole.status is Status.ITERATION_LIMIT
    assert bounds == sorted(bounds)
    assert whole.lower_bound < whole.energy
    part = mrfq.solve(hard(), Toulbar2(backtracks=10), max_iters=2)
    resumed = mrfq.solve(hard(), Toulbar2(backtracks=10), max_iters=4, resume=part)
    assert torch.equal(whole.labels, resumed.labels)
    assert whole.trace["bound"] == resumed.trace["bound"]


def test_a_start_that_is_optimal_is_proved():
    glass = mrfq.generators.spin_glass(5, 5, field=0.1, seed=1)
    best = mrfq.solve(glass, Toulbar2())
    again = mrfq.solve(glass, Toulbar2(), init=best.labels)
    assert again.proved
    assert torch.equal(again.labels, best.labels)


def test_seconds_end_a_search():
    solution = mrfq.solve(hard(60), Toulbar2(seconds=0.5))
    assert solution.status is Status.TIME_LIMIT
    assert solution.iterations == 1
    assert solution.lower_bound <= solution.energy < math.inf


def test_infeasible_is_proved_without_a_labelling():
    knot = FactorGraph([2, 2], [((0, 1), [[0, math.inf], [math.inf, 0]]), ((0, 1), [[math.inf, 0], [0, math.inf]])])
    solution = mrfq.solve(knot, Toulbar2())
    assert solution.lower_bound == solution.energy == math.inf
    assert solution.labels.shape == (2,)


def test_leaves_signals_alone_and_works_in_threads():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGVTALRM)
    before = [signal.getsignal(number) for number in numbers]
    results = []
    thread = threading.Thread(target=lambda: results.append(mrfq.solve(random_model(1), Toulbar2())))
    thread.start()
    thread.join()
    assert results[0].proved
    assert before == [signal.getsignal(number) for number in numbers]


def test_prints_nothing():
    code = (
        "import mrfq; from mrfq.solvers.toulbar2 import Toulbar2;"
        "mrfq.solve(mrfq.generators.spin_glass(5, 5, seed=0), Toulbar2(seconds=1))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == run.stderr == ""


def test_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(toulbar2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r'pip install "mrfq\[solver-peers\]"'):
        mrfq.solve(random_model(0), Toulbar2())


def test_parameters():
    for wrong in ({"backtracks": 0}, {"seconds": 0.0}):
        with pytest.raises(InvalidParameterError, match="must be positive"):
            Toulbar2(**wrong)
