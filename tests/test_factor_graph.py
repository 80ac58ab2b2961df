"""`FactorGraph` against plain python, and its reductions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mrfq
from mrfq import Capability, FactorGraph, InvalidProblemError, PairwiseMRF, capabilities, generators
from mrfq.problems.dominance import dominated
from mrfq.problems.reduction import clamp, components, merge, reduce, split
from mrfq.testing import exact_energy

INF = math.inf
seeds = st.integers(0, 2**32 - 1)


def model(seed, *, hard=False, arity=4, constant=True):
    """Return a random factor graph and its parts."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 4, 5).tolist()
    sizes = random.integers(1, arity + 1, 6)
    scopes = [tuple(random.permutation(5)[:k].tolist()) for k in sizes]
    scopes += [()] if constant else []
    tables = [random.standard_normal([counts[i] for i in scope]) for scope in scopes]
    if hard:
        for table in tables:
            table[random.random(table.shape) < 0.2] = INF
    parts = list(zip(scopes, tables, strict=True))
    return FactorGraph(counts, parts), counts, parts


def plain_energy(parts, x):
    return float(sum(table[tuple(x[i] for i in scope)] for scope, table in parts))


def labellings(counts):
    return itertools.product(*(range(c) for c in counts))


def random_relaxed(graph, seed=0):
    mask = graph.label_set.mask
    scores = np.random.default_rng(seed).random(graph.shape) * (1 if mask is None else mask.numpy())
    return torch.from_numpy(scores / scores.sum(1, keepdims=True))


@given(seeds, st.booleans())
def test_energies_are_sums_of_table_entries(seed, hard):
    graph, counts, parts = model(seed, hard=hard)
    everything = list(labellings(counts))
    expected = [plain_energy(parts, x) for x in everything]
    np.testing.assert_allclose(graph.energies(torch.tensor(everything)), expected, atol=1e-12)
    assert graph.energy(torch.tensor(everything[-1])) == pytest.approx(expected[-1], abs=1e-12)


@given(seeds)
def test_changes_of_energy_are_differences(seed):
    graph, counts, _ = model(seed)
    random = np.random.default_rng(seed)
    old, new = (torch.from_numpy(random.integers(0, counts)) for _ in range(2))
    change, changed = graph.energy_change(old, new)
    assert change == pytest.approx(graph.energy(new) - graph.energy(old), abs=1e-12)
    assert changed == int((old != new).sum())


@given(seeds)
def test_the_multilinear_energy_is_the_expected_one(seed):
    graph, counts, parts = model(seed)
    u = random_relaxed(graph, seed)
    value, g = graph.linearize(u)
    chance = [math.prod(float(u[i, a]) for i, a in enumerate(x)) for x in labellings(counts)]
    expected = sum(p * plain_energy(parts, x) for p, x in zip(chance, labellings(counts), strict=True))
    assert float(value) == pytest.approx(expected, abs=1e-12)
    for i, a in itertools.product(*map(range, graph.shape)):
        if a < counts[i]:
            vertex = u.clone()
            vertex[i] = 0.0
            vertex[i, a] = 1.0
            free = [table for scope, table in parts if i not in scope]
            scopes = [scope for scope, _ in parts if i not in scope]
            rest = FactorGraph(counts, zip(scopes, free, strict=True)).linearize(u)[0]
            assert float(g[i, a]) == pytest.approx(float(graph.linearize(vertex)[0] - rest), abs=1e-12)


@given(seeds)
def test_a_pairwise_model_is_the_same_problem_in_both_forms(seed):
    graph, counts, _ = model(seed, arity=2)
    pairs = graph.pairwise()
    again = FactorGraph.of(pairs)
    for x in labellings(counts):
        labels = torch.tensor(x)
        assert pairs.energy(labels) == pytest.approx(graph.energy(labels), abs=1e-12)
        assert again.energy(labels) == pytest.approx(graph.energy(labels), abs=1e-12)
    u = random_relaxed(graph, seed)
    assert float(pairs.linearize(u)[0]) == pytest.approx(float(graph.linearize(u)[0]), abs=1e-12)


@pytest.mark.parametrize("rule", ["argmin", "softmax", "sample"])
@pytest.mark.parametrize("order", [None, "colour", torch.tensor([3, 0, 2, 1, 4, 5])])
def test_sweeps_agree_with_those_of_the_pairwise_form(rule, order):
    pairs = generators.potts_graph(6, 3, degree=3, seed=1)
    graph = FactorGraph.of(pairs)
    if isinstance(order, str):  # colours may be numbered differently, so both take those of one
        order = torch.cat(pairs.independent_sets)
    one, other = (torch.randint(3, (6,), generator=torch.Generator().manual_seed(0)) for _ in range(2))
    if rule == "softmax":
        one, other = (random_relaxed(graph) for _ in range(2))
    reports = [
        p.sweep(point, rule, beta=1.5, order=order, generator=torch.Generator().manual_seed(7))
        for p, point in ((graph, one), (pairs, other))
    ]
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    for name in ("energy_change", "changed", "largest_change", "entropy"):
        assert getattr(reports[0], name) == pytest.approx(getattr(reports[1], name), abs=1e-12)


def test_a_sweep_by_colour_visits_sets_that_share_no_factor():
    graph, _, parts = model(3)
    order = graph._colour_order.tolist()
    assert sorted(order) == list(range(5))
    labels = torch.zeros(5, dtype=torch.int64)
    report = graph.sweep(labels, "argmin", order="colour")
    assert report.energy_change == pytest.approx(plain_energy(parts, labels) - plain_energy(parts, [0] * 5), abs=1e-12)


@given(seeds, st.booleans())
def test_icm_ends_where_no_single_change_helps(seed, hard):
    graph, counts, _ = model(seed, hard=hard)
    labels = mrfq.solve(graph, "icm", seed=seed).labels
    energy = graph.energy(labels)
    if energy < INF:
        for i, count in enumerate(counts):
            for a in range(count):
                other = labels.clone()
                other[i] = a
                assert graph.energy(other) >= energy - 1e-12


@given(seeds, st.booleans())
def test_evidence_leaves_the_energies_of_the_others_alone(seed, hard):
    graph, counts, parts = model(seed, hard=hard)
    evidence = {1: counts[1] - 1, 3: 0}
    reduced = graph.condition(evidence)
    agreeing = [x for x in labellings(counts) if all(x[i] == a for i, a in evidence.items())]
    lowest = min(plain_energy(parts, x) for x in agreeing)
    found = reduced.constant if reduced.problem is None else exact_energy(reduced.problem)
    assert found == pytest.approx(lowest, abs=1e-12)
    if reduced.problem is not None:
        for x in labellings(reduced.problem.cardinalities.tolist()):
            full = reduced.expand(torch.tensor(x))
            assert all(full[i] == a for i, a in evidence.items())
            assert graph.energy(full) == pytest.approx(reduced.problem.energy(torch.tensor(x)), abs=1e-12)
            assert torch.equal(reduced.restrict(full), torch.tensor(x))


def test_forbidden_labels_and_single_labels_are_reduced_away():
    never = [[INF, INF], [0.0, 1.0], [2.0, 0.0]]
    reduced = reduce(
        FactorGraph([3, 2, 1], [((0, 1), never), ((0,), [0.0, 0.0, INF]), ((2,), [7.0]), ((1, 2), [[1], [1]])])
    )
    assert reduced.kept.tolist() == [1]
    assert reduced.expand(torch.tensor([1])).tolist() == [1, 1, 0]
    assert reduced.problem.energy(torch.tensor([1])) == 1.0 + 7.0 + 1.0


def test_a_model_with_nothing_left_to_decide_is_a_constant():
    graph = FactorGraph([2, 1], [((0, 1), [[3.0], [4.0]]), ((), 0.5)])
    reduced = graph.condition({0: 1})
    assert reduced.problem is None
    assert reduced.constant == 4.5
    assert reduced.expand().tolist() == [1, 0]


def test_an_infeasible_model_stays_one():
    graph = FactorGraph([2, 2], [((0, 1), np.full((2, 2), INF))])
    reduced = reduce(graph)
    assert reduced.problem.energy(torch.tensor([0, 0])) == INF


def test_components_are_the_parts_that_share_no_factor():
    graph = FactorGraph([2] * 6, [((0, 2, 4), np.zeros((2, 2, 2))), ((1, 5), np.zeros((2, 2)))])
    assert components(graph) == [[0, 2, 4], [1, 5], [3]]


@given(seeds, st.booleans())
def test_some_optimum_uses_no_dominated_label(seed, hard):
    graph, counts, parts = model(seed, hard=hard)
    gone = dominated(graph)
    left = [x for x in labellings(counts) if not any(gone[i, a] for i, a in enumerate(x))]
    assert left
    assert min(plain_energy(parts, x) for x in left) == pytest.approx(exact_energy(graph), abs=1e-12)


def test_a_label_that_is_never_better_is_dominated():
    graph = FactorGraph([2, 3], [((0,), [0.0, 5.0]), ((0, 1), [[0.0, 1, 1], [1.0, 0, 1]])])
    assert dominated(graph)[0].tolist() == [False, True, False]


@given(seeds)
def test_components_add_up_to_the_whole(seed):
    graph, counts, _ = model(seed, arity=2)
    constant, parts = split(graph)
    assert sorted(i for variables, _ in parts for i in variables.tolist()) == list(range(5))
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, counts))
    total = constant + sum(part.energy(x[variables]) for variables, part in parts)
    assert total == pytest.approx(graph.energy(x), abs=1e-12)


def test_merged_tables_add_up_whatever_the_order_of_their_scopes():
    table = np.arange(6.0).reshape(2, 3)
    merged = merge([mrfq.Factor((1, 0), table.T), mrfq.Factor((0, 1), table), mrfq.Factor((), np.array(1.0))])
    assert [scope for scope, _ in merged] == [(0, 1), ()]
    np.testing.assert_array_equal(merged[0].table, 2 * table)


def test_tables_cannot_be_written_to():
    graph, _, _ = model(0)
    with pytest.raises(ValueError, match="read-only"):
        graph.factors()[0].table[...] = 0.0


def test_capabilities_tell_the_two_forms_apart():
    graph, _, _ = model(0)
    assert {Capability.SWEEP, Capability.FACTORS, Capability.BATCH} <= capabilities(graph)
    assert Capability.GRAPH not in capabilities(graph)
    assert {Capability.FACTORS, Capability.GRAPH} <= capabilities(generators.chain(3))


def test_a_pairwise_problem_with_holes_in_its_labels_keeps_them():
    mask = np.array([[True, False, True], [True, True, False]])
    pairs = PairwiseMRF(np.ones((2, 3)), [[0, 1]], np.ones((3, 3)), mask=mask)
    graph = FactorGraph.of(pairs)
    assert graph.cardinalities.tolist() == [3, 2]
    assert graph.energy(torch.tensor([1, 0])) == INF
    assert graph.energy(torch.tensor([2, 1])) == 3.0


@pytest.mark.parametrize(
    ("cardinalities", "factors", "message"),
    [
        ([], [], r"n at least 1"),
        ([2, 0], [], r"cardinalities\[1\] is 0"),
        ([2.0], [], r"whole numbers"),
        ([2, 2], [((0, 2), np.zeros((2, 2)))], r"factors\[0\] has variable 2, but they are numbered 0 to 1"),
        ([2, 2], [((1, 1), np.zeros((2, 2)))], r"factors\[0\] has a variable twice"),
        ([2, 3], [((0,), [0, 0]), ((0, 1), np.zeros((3, 2)))], r"factors\[1\].*needs shape \(2, 3\), got \(3, 2\)"),
        ([2], [((0,), [0.0, math.nan])], r"NaN at \(1,\)"),
        ([2], [((0,), [0.0, -INF])], r"-inf at \(1,\)"),
        ([2], [((0,), ["a", "b"])], r"not an array of numbers"),
    ],
)
def test_bad_parts_are_named(cardinalities, factors, message):
    with pytest.raises(InvalidProblemError, match=message):
        FactorGraph(cardinalities, factors)


def test_other_bad_input_is_named():
    graph = FactorGraph([2, 2, 2], [((0, 1, 2), np.zeros((2, 2, 2)))])
    with pytest.raises(InvalidProblemError, match=r"3 variables, \(0, 1, 2\), does not fit a pairwise model"):
        graph.pairwise()
    with pytest.raises(InvalidProblemError, match="evidence on variable 3"):
        graph.condition({3: 0})
    with pytest.raises(InvalidProblemError, match="label 2, but it has 2 labels"):
        clamp(graph, {0: 2})
    with pytest.raises(InvalidProblemError, match="variable 0"):
        graph.energy(torch.tensor([2, 0, 0]))
    with pytest.raises(InvalidProblemError, match="2 names for 3"):
        FactorGraph([2, 2, 2], [], names=["a", "b"])
    with pytest.raises(InvalidProblemError, match="a labelling of them is needed"):
        graph.condition({}).expand()
