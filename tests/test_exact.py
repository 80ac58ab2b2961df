"""Bucket elimination against enumeration, its orders against definitions, and real models with known optima."""

import copy
import csv
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mrfq
from mrfq import testing
from mrfq.errors import CapabilityError, InvalidParameterError
from mrfq.problems.factor_graph import FactorGraph
from mrfq.solvers import elimination
from mrfq.solvers.elimination import Elimination, memory_needed, order_of
from mrfq.solvers.elimination_orders import cuthill_mckee, elimination_order, follow, min_fill, min_weight, natural


def random_model(seed, n=6, factors=7, arity=3, labels=3, forbidden=0.0):
    """Return a factor graph with ragged labels, repeated scopes, a constant and some forbidden configurations."""
    numbers = np.random.default_rng(seed)
    cards = numbers.integers(1, labels + 1, n)
    found = [((), numbers.normal())]
    for _ in range(factors):
        scope = tuple(int(i) for i in numbers.choice(n, numbers.integers(1, min(arity, n) + 1), replace=False))
        table = numbers.normal(size=cards[list(scope)])
        table[numbers.random(table.shape) < forbidden] = math.inf
        found.append((scope, table))
    return FactorGraph(cards, found)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.7]))
def test_equals_enumeration(seed, forbidden):
    model = random_model(seed, forbidden=forbidden)
    solution = mrfq.solve(model, Elimination())
    assert solution.proved
    assert solution.energy == pytest.approx(testing.exact_energy(model), abs=1e-9)


def test_equals_enumeration_of_pairwise_models():
    for seed in range(5):
        for model in (
            mrfq.generators.spin_glass(3, 4, field=0.1, seed=seed),
            mrfq.generators.potts_graph(6, labels=3, seed=seed),
        ):
            solution = mrfq.solve(model, Elimination())
            assert solution.energy == pytest.approx(testing.exact_energy(model), abs=1e-9)


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_names_of_variables_do_not_matter(seed, shuffle):
    model = random_model(seed)
    new = list(range(model.shape[0]))
    shuffle.shuffle(new)
    cards = [0] * len(new)
    for old, count in enumerate(model.cardinalities.tolist()):
        cards[new[old]] = count
    renamed = FactorGraph(cards, [(tuple(new[i] for i in scope), table) for scope, table in model.factors()])
    energies = [mrfq.solve(m, Elimination()).energy for m in (model, renamed)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.floats(-100, 100))
def test_costs_may_be_scaled_and_moved(seed, factor, shift):
    model = random_model(seed, forbidden=0.2)
    changed = FactorGraph(model.cardinalities, [(s, factor * t) for s, t in model.factors()] + [((), shift)])
    before, after = (mrfq.solve(m, Elimination()).energy for m in (model, changed))
    assert after == pytest.approx(factor * before + shift, rel=1e-9, abs=1e-9)


def test_steps_may_be_small(monkeypatch):
    model = mrfq.generators.spin_glass(4, 4, field=0.1, seed=2)
    whole = mrfq.solve(model, Elimination())
    monkeypatch.setattr(elimination, "STEP", 1)
    pieces = mrfq.solve(model, Elimination())
    assert pieces.iterations == 16
    assert torch.equal(pieces.labels, whole.labels)
    part = mrfq.solve(model, Elimination(), max_iters=5)
    assert part.lower_bound is None
    assert not part.proved
    kept = copy.deepcopy(part)
    for _ in range(2):
        resumed = mrfq.solve(model, Elimination(), max_iters=50, resume=part)
        assert resumed.proved
        assert torch.equal(resumed.labels, whole.labels)
    assert len(kept.checkpoint.state.back) == len(part.checkpoint.state.back)


def test_small_costs_survive_beside_large_ones():
    costs = [((0,), [1e30, 1e30]), ((1,), [-1e30, 3e30]), ((0, 1), [[0.2, 0.0], [0.1, 0.0]])]
    assert mrfq.solve(FactorGraph([2, 2], costs), Elimination()).labels.tolist() == [1, 0]


def test_many_labels():
    numbers = np.random.default_rng(0)
    unary, table = numbers.normal(size=(3, 300)), numbers.normal(size=(300, 300))
    chain = mrfq.PairwiseMRF(unary, [[0, 1], [1, 2]], table)
    first = unary[0][:, None] + table + unary[1]
    best = (first.min(0)[:, None] + table + unary[2]).min()
    assert mrfq.solve(chain, Elimination()).energy == pytest.approx(best, abs=1e-9)


def test_too_wide_is_refused_before_anything_is_allocated():
    dense = mrfq.generators.dense_ising(60, seed=0)
    with pytest.raises(CapabilityError, match=r"width \d+ or more, too wide for 1 GiB"):
        mrfq.solve(dense, Elimination())
    grid = mrfq.generators.spin_glass(6, 6, seed=0)
    needed = memory_needed(order_of(grid, 2**30), 2)
    assert Elimination(memory=needed).accepts(grid) is None
    assert "width 6 and needs" in Elimination(memory=needed - 1).accepts(grid)


def test_memory_must_be_positive():
    with pytest.raises(InvalidParameterError, match="memory must be positive"):
        Elimination(memory=0)


# ---- orders ---------------------------------------------------------------------------------------------


def by_definition(sequence, cards, scopes):
    """Return (width, largest, total) of an order, by connecting neighbours one variable at a time."""
    graph = {v: set() for v in sequence}
    for scope in scopes:
        for i, j in itertools.permutations(scope, 2):
            graph[i].add(j)
    sizes, widths = [], []
    for v in sequence:
        around = graph.pop(v)
        widths.append(len(around))
        sizes.append(cards[v] * math.prod(cards[i] for i in around))
        for i in around:
            graph[i] = (graph[i] | around) - {i, v}
    return max(widths), max(sizes), sum(sizes)


@given(st.integers(0, 10_000))
def test_order_figures(seed):
    numbers = np.random.default_rng(seed)
    n = int(numbers.integers(1, 12))
    cards = numbers.integers(1, 5, n).tolist()
    scopes = [tuple(numbers.choice(n, min(n, 3), replace=False).tolist()) for _ in range(n)]
    for rule in (natural, cuthill_mckee, min_weight, min_fill):
        sequence = rule(cards, scopes)
        assert sorted(sequence) == list(range(n))
        order = follow(sequence, cards, scopes)
        assert (order.width, order.table_size, order.total_size) == by_definition(sequence, cards, scopes)
        assert order.complete
        assert order.live_size <= order.message_size
        assert elimination_order(cards, scopes).table_size <= order.table_size


def test_trees_and_cycles_have_their_treewidth():
    assert elimination_order([3] * 9, [(0, i) for i in range(1, 9)]).width == 1  # a star, hub first in natural order
    assert elimination_order([3] * 9, [(i, (i * 4 + 4) % 9) for i in range(9)]).width == 2
    assert elimination_order([2] * 7, itertools.combinations(range(7), 2)).width == 6
    assert elimination_order([2, 3], []).table_size == 3


def test_an_order_is_given_up_at_the_limit():
    order = elimination_order([2] * 40, itertools.combinations(range(40), 2), limit=2**10)
    assert not order.complete
    assert order.table_size > 2**10
    assert sorted(order.sequence) == list(range(40))


def test_long_chains_and_wide_stars_take_linear_work():
    n = 20_000
    for edges in ([(i, i + 1) for i in range(n - 1)], [(0, i) for i in range(1, n)]):
        order = elimination_order([4] * n, edges)
        assert order.width == 1
        assert order.total_size < 16 * n
    chain = mrfq.generators.chain(n=n, labels=4, seed=0)
    solution = mrfq.solve(chain, Elimination())
    assert solution.proved
    assert solution.iterations == 1


# ---- real models ----------------------------------------------------------------------------------------

FEASIBLE = ("Segmentation_12.uai", "pdb1akg.uai", "pdb1ajj.uai.gz", "network.uai", "smokers_20.uai", "water.uai")


@pytest.mark.parametrize("name", [*FEASIBLE, "grid20x20.f10.uai"])
def test_real_models(name):
    root = Path(os.environ.get("MRFQ_DATA", "")) / "mrf-instances"
    if "MRFQ_DATA" not in os.environ or not (root / name).exists():
        pytest.skip(f"needs $MRFQ_DATA/mrf-instances/{name}")
    with open(root / "MANIFEST.tsv") as table:
        known = {row["file"]: row for row in csv.DictReader(table, delimiter="\t")}[name]
    assert known["status"].startswith("proved")
    evidence = root / f"{name}.evid"
    model = mrfq.read(root / name, evidence=evidence) if evidence.exists() else mrfq.read(root / name)
    solution = mrfq.solve(model, Elimination())
    assert solution.proved
    assert solution.energy == pytest.approx(float(known["energy"]), abs=1e-4)
