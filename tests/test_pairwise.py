"""`PairwiseMRF` against plain python: energies, conditional costs, sweeps, invariances, bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrfq import InvalidParameterError, InvalidProblemError, PairwiseMRF, capabilities, generators
from mrfq.problem import Capability
from mrfq.problems import tables as make_table

INF = math.inf
seeds = st.integers(0, 2**32 - 1)


def model(seed, n=5, labels=3, *, shared=False, symmetric=False, masked=False, hard=False, dtype=torch.float64):
    """Return a random model, and its parts as numpy arrays (unary, edges, one table per edge, mask)."""
    random = np.random.default_rng(seed)
    pairs = [p for p in itertools.combinations(range(n), 2) if random.random() < 0.6] or [(0, n - 1)]
    edges = np.array([p if random.random() < 0.5 else p[::-1] for p in pairs])
    unary = random.standard_normal((n, labels))
    table = random.standard_normal((labels, labels) if shared else (len(edges), labels, labels))
    if symmetric:
        table = table + table.swapaxes(-1, -2)
    weights = random.random(len(edges)) + 0.5
    if hard:
        unary[random.random(unary.shape) < 0.2] = INF
        table[random.random(table.shape) < 0.15] = INF
    mask = np.ones(unary.shape, dtype=bool)
    if masked:
        mask[:, 1:] = random.random((n, labels - 1)) < 0.7
    mrf = PairwiseMRF(unary, edges, table, weights=weights, mask=mask if masked else None, dtype=dtype)
    each = weights[:, None, None] * np.broadcast_to(table, (len(edges), labels, labels))
    return mrf, (unary, edges, each, mask)


def plain_energy(parts, x):
    unary, edges, each, _ = parts
    total = sum(unary[i, a] for i, a in enumerate(x))
    return total + sum(each[e, x[i], x[j]] for e, (i, j) in enumerate(edges))


def plain_costs(parts, x, i):
    """Return the energies of all labels of variable i, the others fixed; NaN for labels that do not exist."""
    costs = [plain_energy(parts, [*x[:i], a, *x[i + 1 :]]) for a in range(parts[0].shape[1])]
    return np.where(parts[3][i], costs, np.nan)


def labellings(parts):
    return itertools.product(*(np.flatnonzero(row).tolist() for row in parts[3]))


def random_relaxed(parts, seed=0):
    scores = np.random.default_rng(seed).random(parts[3].shape) * parts[3]
    return torch.from_numpy(scores / scores.sum(1, keepdims=True))


def expectation(parts, u):
    total = 0.0
    for x in labellings(parts):
        probability = math.prod(float(u[i, a]) for i, a in enumerate(x))
        total += probability * plain_energy(parts, x)
    return total


KINDS = {
    "potts": {},
    "shared": {"shared": True, "symmetric": True},
    "asymmetric": {"shared": True},
    "each": {},
    "masked": {"masked": True},
    "masked-shared": {"masked": True, "shared": True},
}


def of_kind(kind, seed):
    if kind != "potts":
        return model(seed, **KINDS[kind])
    mrf, (unary, edges, _, mask) = model(seed)
    weights = np.random.default_rng(seed).standard_normal(len(edges))
    mrf = PairwiseMRF.potts(unary, edges, weights)
    return mrf, (unary, edges, weights[:, None, None] * (1 - np.eye(3)), mask)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# ---- energies and linearisation -------------------------------------------------------------------------


def test_energy_is_that_of_plain_python(kind):
    mrf, parts = of_kind(kind, 0)
    for x in labellings(parts):
        assert mrf.energy(torch.tensor(x)) == pytest.approx(plain_energy(parts, x), abs=1e-12)


def test_batch_energies_are_the_single_ones(kind):
    mrf, parts = of_kind(kind, 1)
    batch = torch.tensor(list(labellings(parts)))
    single = torch.tensor([mrf.energy(x) for x in batch], dtype=torch.float64)
    torch.testing.assert_close(mrf.energies(batch), single, rtol=0, atol=1e-12)


def test_batch_energies_in_float32_are_as_exact_as_single_ones():
    mrf, parts = model(2, n=6, dtype=torch.float32)
    batch = torch.tensor(list(labellings(parts)))
    single = torch.tensor([mrf.energy(x) for x in batch], dtype=torch.float64)
    assert mrf.energies(batch).dtype == torch.float64
    torch.testing.assert_close(mrf.energies(batch), single, rtol=1e-14, atol=1e-14)


def test_forbidden_labellings_cost_infinity():
    mrf, parts = model(3, hard=True)
    energies = [(mrf.energy(torch.tensor(x)), plain_energy(parts, x)) for x in labellings(parts)]
    assert any(math.isinf(plain) for _, plain in energies)
    assert all(ours == plain or ours == pytest.approx(plain, abs=1e-12) for ours, plain in energies)


def test_relaxed_energy_is_the_expectation(kind):
    mrf, parts = of_kind(kind, 4)
    u = random_relaxed(parts)
    assert float(mrf.linearize(u)[0]) == pytest.approx(expectation(parts, u), abs=1e-12)


def test_gradient_is_the_finite_difference_of_the_expectation(kind):
    # Along the simplex, where the expectation is affine in every row: the quotient has no truncation error.
    mrf, parts = of_kind(kind, 5)
    u = random_relaxed(parts)
    _, g = mrf.linearize(u)
    for i, a in np.argwhere(parts[3]):
        moved = u.clone()
        moved[i, a] += 1.0
        moved[i, 0] -= 1.0
        difference = expectation(parts, moved) - expectation(parts, u)
        assert float(g[i, a] - g[i, 0]) == pytest.approx(difference, abs=1e-12)
    assert not g[~torch.from_numpy(parts[3])].any()


def test_gradient_at_a_labelling_is_the_conditional_costs(kind):
    mrf, parts = of_kind(kind, 6)
    for x in itertools.islice(labellings(parts), 0, None, 7):
        _, g = mrf.linearize(mrf.label_set.one_hot(torch.tensor(x)))
        for i in range(len(x)):
            costs, exists = plain_costs(parts, x, i), parts[3][i]
            ours = g[i].numpy()[exists]
            np.testing.assert_allclose(ours - ours[0], (costs - costs[exists][0])[exists], atol=1e-12)


@given(seed=seeds)
def test_every_allowed_labelling_is_preferred_to_every_forbidden_one(seed):
    mrf, parts = model(seed, n=4, hard=True)
    soft = {x: float(mrf.linearize(mrf.label_set.one_hot(torch.tensor(x)))[0]) for x in labellings(parts)}
    allowed = [soft[x] for x in soft if math.isfinite(plain_energy(parts, x))]
    forbidden = [soft[x] for x in soft if math.isinf(plain_energy(parts, x))]
    assert all(math.isfinite(value) for value in soft.values())
    assert not allowed or not forbidden or max(allowed) < min(forbidden)


def test_an_expensive_allowed_label_is_preferred_to_a_forbidden_one():
    mrf = PairwiseMRF([[1000.0, INF], [0.0, 1.0]])
    _, g = mrf.linearize(torch.full((2, 2), 0.5, dtype=torch.float64))
    assert g[0, 0] < g[0, 1]
    table = PairwiseMRF(np.zeros((2, 2)), [[0, 1]], [[INF, 1000.0], [1000.0, INF]], weights=0.1)
    labels = torch.tensor([0, 0])
    table.sweep(labels, "argmin")
    assert table.energy(labels) == 100.0


# ---- sweeps ---------------------------------------------------------------------------------------------


def colour_order(mrf):
    return torch.cat(mrf.independent_sets)


ORDERS = {"given": lambda mrf: torch.tensor([3, 0, 4, 2, 1]), "fixed": lambda mrf: None, "colour": lambda mrf: "colour"}


def visiting(mrf, order):
    order = ORDERS[order](mrf)
    return {None: range(5), "colour": colour_order(mrf).tolist()}.get(order) if not torch.is_tensor(order) else order


@pytest.mark.parametrize("order", ORDERS)
def test_argmin_sweep_is_that_of_plain_python(kind, order):
    mrf, parts = of_kind(kind, 7)
    labels = torch.tensor([np.flatnonzero(row)[-1] for row in parts[3]])
    before, x = mrf.energy(labels), labels.tolist()
    report = mrf.sweep(labels, "argmin", order=ORDERS[order](mrf))
    start = list(x)
    for i in visiting(mrf, order):
        x[i] = int(np.nanargmin(plain_costs(parts, x, int(i))))
    assert labels.tolist() == x
    assert report.energy_change == pytest.approx(mrf.energy(labels) - before, abs=1e-12)
    assert report.changed == sum(a != b for a, b in zip(start, x, strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_softmax_sweep_is_that_of_plain_python(kind, order):
    mrf, parts = of_kind(kind, 8)
    u = random_relaxed(parts)
    expected, before = u.clone(), float(mrf.linearize(u)[0])
    report = mrf.sweep(u, "softmax", beta=1.7, order=ORDERS[order](mrf))
    for i in visiting(mrf, order):
        _, g = mrf.linearize(expected)
        exists = torch.from_numpy(parts[3][int(i)])
        expected[i] = torch.softmax((-1.7 * g[i]).masked_fill(~exists, -INF), 0)
    torch.testing.assert_close(u, expected, rtol=0, atol=1e-12)
    assert report.energy_change == pytest.approx(float(mrf.linearize(u)[0]) - before, abs=1e-12)
    assert report.entropy == pytest.approx(float(torch.special.entr(u).sum()), abs=1e-12)
    largest_row = float((u - random_relaxed(parts)).norm(dim=1).max())
    assert report.largest_change == pytest.approx(largest_row, abs=1e-12)
    assert report.labels.equal(mrf.label_set.round(u))


@pytest.mark.parametrize("order", ORDERS)
def test_sample_sweep_is_inversion_of_one_uniform_number_a_site(kind, order):
    mrf, parts = of_kind(kind, 9)
    labels = torch.tensor([np.flatnonzero(row)[0] for row in parts[3]])
    before, x = mrf.energy(labels), labels.tolist()
    generator = torch.Generator().manual_seed(5)
    again = torch.Generator().manual_seed(5)
    report = mrf.sweep(labels, "sample", beta=0.8, order=ORDERS[order](mrf), generator=generator)
    if order == "colour":
        uniforms = torch.cat([torch.rand(len(s), generator=again, dtype=torch.float64) for s in mrf.independent_sets])
    else:
        uniforms = torch.rand(5, generator=again, dtype=torch.float64)
    for i, uniform in zip(visiting(mrf, order), uniforms, strict=True):
        costs = plain_costs(parts, x, int(i))
        law = np.nan_to_num(np.exp(-0.8 * (costs - np.nanmin(costs))))
        x[i] = int(np.searchsorted(law.cumsum() / law.sum(), float(uniform), side="right"))
    assert labels.tolist() == x
    assert report.energy_change == pytest.approx(mrf.energy(labels) - before, abs=1e-12)


def test_independent_sets_cover_every_variable_once_and_share_no_edge():
    for mrf, _ in (of_kind("each", seed) for seed in range(10)):
        sets = mrf.independent_sets
        assert sorted(torch.cat(sets).tolist()) == list(range(5))
        colour = {int(i): c for c, rows in enumerate(sets) for i in rows}
        assert all(colour[i] != colour[j] for i, j in mrf.edges.tolist())


def test_a_grid_has_two_independent_sets():
    assert len(generators.potts_grid(5, 4).independent_sets) == 2


def test_ties_of_the_argmin_keep_the_label():
    flat = PairwiseMRF(np.zeros((3, 4)), [[0, 1], [1, 2]], np.zeros((4, 4)))
    for order in (None, "colour"):
        labels = torch.tensor([3, 1, 2])
        assert flat.sweep(labels, "argmin", order=order).changed == 0
        assert labels.tolist() == [3, 1, 2]


def test_the_largest_uniform_number_draws_an_existing_label(monkeypatch):
    mrf = PairwiseMRF(np.zeros((2, 3)), mask=[[True, True, False], [True, True, True]], dtype=torch.float32)
    monkeypatch.setattr(torch, "rand", lambda n, **options: torch.full((n,), 1 - 2.0**-53, dtype=torch.float64))
    for order in (None, "colour"):
        labels = torch.tensor([0, 0])
        mrf.sweep(labels, "sample", order=order)
        assert labels.tolist() == [1, 2]


# ---- invariances ----------------------------------------------------------------------------------------


@given(seed=seeds)
def test_reparametrisation_moves_costs_but_no_energy(seed):
    mrf, (unary, edges, each, _) = model(seed)
    random = np.random.default_rng(seed)
    unary, each = unary.copy(), each.copy()
    for e, (i, j) in enumerate(edges):
        message = random.standard_normal(3), random.standard_normal(3)
        unary[i] += message[0]
        unary[j] += message[1]
        each[e] -= message[0][:, None] + message[1]
    moved = PairwiseMRF(unary, edges, each)
    x = torch.from_numpy(random.integers(0, 3, 5))
    assert moved.energy(x) == pytest.approx(mrf.energy(x), abs=1e-10)
    labels, others = x.clone(), x.clone()
    mrf.sweep(labels, "argmin")
    moved.sweep(others, "argmin")
    assert labels.equal(others)


@given(seed=seeds)
def test_renumbering_variables_changes_nothing(seed):
    mrf, (unary, edges, each, _) = model(seed)
    random = np.random.default_rng(seed)
    place = random.permutation(5)  # variable i becomes variable place[i]
    moved = PairwiseMRF(unary[np.argsort(place)], place[edges], each)
    x = torch.from_numpy(random.integers(0, 3, 5))
    y = x[torch.from_numpy(np.argsort(place))]
    assert moved.energy(y) == pytest.approx(mrf.energy(x), abs=1e-12)
    torch.testing.assert_close(
        moved.linearize(moved.label_set.one_hot(y))[1][place], mrf.linearize(mrf.label_set.one_hot(x))[1]
    )


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_scaling_costs_scales_energies_and_inverse_temperature(seed, factor):
    mrf, (unary, edges, each, mask) = model(seed)
    scaled = PairwiseMRF(factor * unary, edges, factor * each)
    u, v = random_relaxed((unary, edges, each, mask), seed), random_relaxed((unary, edges, each, mask), seed)
    mrf.sweep(u, "softmax", beta=2.0)
    scaled.sweep(v, "softmax", beta=2.0 / factor)
    torch.testing.assert_close(u, v, rtol=0, atol=1e-9)
    x = u.argmax(1)
    assert scaled.energy(x) == pytest.approx(factor * mrf.energy(x), rel=1e-9, abs=1e-9)


@given(seed=seeds)
def test_a_shared_table_is_the_same_as_its_copies(seed):
    mrf, (unary, edges, each, _) = model(seed, shared=True)
    copies = PairwiseMRF(unary, edges, each)
    u = random_relaxed((unary, edges, each, np.ones((5, 3), dtype=bool)), seed)
    torch.testing.assert_close(mrf.linearize(u)[1], copies.linearize(u)[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(mrf.edge_tables(), copies.edge_tables())


@given(seed=seeds)
def test_turning_edges_round_transposes_tables(seed):
    mrf, (unary, edges, each, _) = model(seed)
    turned = PairwiseMRF(unary, edges[:, ::-1].copy(), each.swapaxes(1, 2).copy())
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, 5))
    assert turned.energy(x) == pytest.approx(mrf.energy(x), abs=1e-12)


# ---- common models --------------------------------------------------------------------------------------


def test_ising_has_the_energy_of_physics():
    mrf = PairwiseMRF.ising([0.5, -0.2, 0.0], [1.0, -2.0], [[0, 1], [1, 2]])
    for x in itertools.product((0, 1), repeat=3):
        s = [2 * a - 1 for a in x]
        expected = -0.5 * s[0] + 0.2 * s[1] - s[0] * s[1] + 2 * s[1] * s[2]
        assert mrf.energy(torch.tensor(x)) == pytest.approx(expected, abs=1e-12)


def test_grid_tables_are_the_distances_of_labels():
    assert make_table.truncated_linear(4, 2.0)[0].tolist() == [0, 1, 2, 2]
    assert make_table.truncated_quadratic(4, 5.0)[0].tolist() == [0, 1, 4, 5]
    assert make_table.spins().tolist() == [[-1, 1], [1, -1]]


@pytest.mark.parametrize(("connectivity", "count"), [(4, 17), (8, 29)])
def test_grids_have_the_right_edges(connectivity, count):
    edges = make_table.grid_edges(3, 4, connectivity).tolist()
    assert len(edges) == count == len({frozenset(e) for e in edges})
    reach = 1 if connectivity == 4 else 2
    assert all(1 <= abs(a // 4 - b // 4) + abs(a % 4 - b % 4) <= reach for a, b in edges)


@pytest.mark.parametrize("make", [PairwiseMRF.truncated_linear_grid, PairwiseMRF.truncated_quadratic_grid])
def test_truncated_grids_pay_their_limit(make):
    mrf = make(np.zeros((1, 2, 4)), 2.0, 1.5)
    assert mrf.energy(torch.tensor([0, 3])) == 3.0
    assert mrf.energy(torch.tensor([0, 1])) == 2.0


def test_costs_are_copied():
    unary, table = torch.zeros(2, 2, dtype=torch.float64), np.zeros((2, 2))
    mrf = PairwiseMRF(unary, [[0, 1]], table)
    unary += 1
    table += 1
    assert mrf.energy(torch.tensor([0, 0])) == 0.0


def test_a_pairwise_model_offers_sweeps_a_graph_and_batches():
    found = capabilities(generators.chain(3))
    assert found == {Capability.SWEEP, Capability.GRAPH, Capability.FACTORS, Capability.BATCH}


def test_numpy_labels_are_accepted():
    mrf, parts = model(0)
    assert mrf.energy(np.array([0, 1, 2, 1, 0])) == pytest.approx(plain_energy(parts, [0, 1, 2, 1, 0]))


# ---- bad input ------------------------------------------------------------------------------------------

U = np.zeros((3, 2))
E = [[0, 1], [1, 2]]
T = np.zeros((2, 2))
NAN_AT = np.where(np.arange(6).reshape(3, 2) == 3, np.nan, 0.0)

BAD = {
    "unary is flat": (lambda: PairwiseMRF([1.0, 2.0]), r"\(variables, labels\).*got \(2,\)"),
    "no variable": (lambda: PairwiseMRF(np.zeros((0, 2))), r"at least 1, got \(0, 2\)"),
    "ragged unary": (lambda: PairwiseMRF([[0, 1], [0]]), "unary costs are not an array of numbers"),
    "words": (lambda: PairwiseMRF([["a", "b"]]), "unary costs are not an array of numbers"),
    "NaN unary": (lambda: PairwiseMRF(NAN_AT), r"unary\[1, 1\] is NaN"),
    "-inf unary": (lambda: PairwiseMRF([[0.0, -INF]]), r"unary\[0, 1\] is -inf"),
    "edge to nowhere": (lambda: PairwiseMRF(U, [[0, 1], [1, 3]], T), r"edges\[1\] is \(1, 3\).*0 to 2"),
    "negative end": (lambda: PairwiseMRF(U, [[-1, 1]], T), r"edges\[0\] is \(-1, 1\)"),
    "self loop": (lambda: PairwiseMRF(U, [[0, 1], [2, 2]], T), r"edges\[1\] joins variable 2 to itself"),
    "three ends": (lambda: PairwiseMRF(U, [[0, 1, 2]], T), r"shape \(m, 2\)"),
    "float ends": (lambda: PairwiseMRF(U, [[0.0, 1.0]], T), "whole numbers"),
    "ragged edges": (lambda: PairwiseMRF(U, [[0, 1], [2]], T), "edges"),
    "no tables": (lambda: PairwiseMRF(U, E), r"2 edges but no tables"),
    "wrong table": (lambda: PairwiseMRF(U, E, np.zeros((3, 3))), r"\(2, 2\) or \(2, 2, 2\), got"),
    "wrong count": (lambda: PairwiseMRF(U, E, np.zeros((3, 2, 2))), r"got \(3, 2, 2\)"),
    "NaN table": (lambda: PairwiseMRF(U, E, [[0.0, np.nan], [0.0, 0.0]]), r"tables\[0, 0, 1\] is NaN"),
    "-inf table": (lambda: PairwiseMRF(U, E, [[0, 0], [0, -INF]]), r"tables\[0, 1, 1\] is -inf"),
    "wrong weights": (lambda: PairwiseMRF(U, E, T, weights=[1.0]), r"weights need shape \(2,\).*\(1,\)"),
    "NaN weight": (lambda: PairwiseMRF(U, E, T, weights=[1.0, np.nan]), r"weights\[1\] is nan"),
    "inf weight": (lambda: PairwiseMRF(U, E, T, weights=[INF, 1.0]), r"weights\[0\] is inf"),
    "hard and negative": (lambda: PairwiseMRF(U, E, [[0, INF], [0, 0]], weights=[1, -1]), r"weights\[1\] is -1"),
    "wrong mask": (lambda: PairwiseMRF(U, mask=np.ones((2, 2), dtype=bool)), r"mask needs shape \(3, 2\)"),
    "mask of numbers": (lambda: PairwiseMRF(U, mask=np.ones((3, 2))), "type bool"),
    "ragged mask": (lambda: PairwiseMRF(U, mask=[[True, True], [True], [True]]), "mask"),
    "empty variable": (lambda: PairwiseMRF(U, mask=[[True, True], [False, False], [True, True]]), "variable 1"),
    "wrong names": (lambda: PairwiseMRF(U, names=["a"]), "1 names for 3 variables"),
    "flat fields": (lambda: PairwiseMRF.ising([[0.0]], 1.0, E), r"fields need shape \(n,\)"),
    "word fields": (lambda: PairwiseMRF.ising(["a"], 1.0, E), "fields"),
    "flat grid": (lambda: PairwiseMRF.potts_grid(U), r"\(height, width, labels\)"),
    "no grid": (lambda: PairwiseMRF.potts_grid(3.0), r"\(height, width, labels\)"),
    "word grid": (lambda: PairwiseMRF.grid([[["a"]]], T), "unary costs are not an array of numbers"),
    "label too large": (lambda: PairwiseMRF(U, E, T).energy(torch.tensor([0, 2, 0])), r"labels\[1\] is 2"),
    "label negative": (lambda: PairwiseMRF(U, E, T).energy(torch.tensor([0, 0, -1])), r"labels\[2\] is -1"),
    "too few labels": (lambda: PairwiseMRF(U, E, T).energy(torch.tensor([0, 0])), r"needs shape \(3,\)"),
    "real labels": (lambda: PairwiseMRF(U, E, T).energy(torch.zeros(3)), "whole numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    make, message = BAD[case]
    with pytest.raises(InvalidProblemError, match=message):
        make()


def test_bad_connectivity_is_named():
    with pytest.raises(InvalidParameterError, match="4 or 8, got 6"):
        PairwiseMRF.potts_grid(np.zeros((2, 2, 2)), connectivity=6)
