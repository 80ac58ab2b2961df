"""Cuts are minimum, submodular energies are solved exactly, moves never make an energy worse."""

import importlib.util
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mrfq
from mrfq import PairwiseMRF, testing
from mrfq.errors import CapabilityError, InvalidParameterError
from mrfq.problems.tables import potts
from mrfq.solution import Status
from mrfq.solvers import max_flow
from mrfq.solvers.cut_kernels import Choice, choose
from mrfq.solvers.graph_cut import GraphCut, graph_costs
from mrfq.solvers.max_flow import minimum_cut
from mrfq.solvers.move_making import AlphaBetaSwap, AlphaExpansion, constant_energies

BACKENDS = ["scipy", pytest.param("pymaxflow", marks=pytest.mark.skipif(
    importlib.util.find_spec("maxflow") is None, reason="PyMaxflow is not installed"))]  # fmt: skip
SOLVERS = [GraphCut(), GraphCut("scipy"), AlphaExpansion(), AlphaExpansion("random", "scipy"), AlphaBetaSwap()]


# ---- minimum cuts ----------------------------------------------------------------------------------------


def cut_value(side, source, sink, edges, forward, backward):
    i, j = side[edges[:, 0]], side[edges[:, 1]]
    return source[side].sum() + sink[~side].sum() + forward[~i & j].sum() + backward[i & ~j].sum()


def random_network(seed, rare=0.0):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 8))
    edges = random.integers(0, n, (int(random.integers(0, 16)), 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    parts = [random.exponential(size=k) * (random.random(k) < 0.6) for k in (n, n, len(edges), len(edges))]
    for part in parts:
        part[random.random(len(part)) < 0.1] = rare
    return n, parts[0], parts[1], edges, parts[2], parts[3]


@pytest.mark.parametrize("rare", [0.0, 1e30, np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cut_is_minimum_and_its_value_a_bound(backend, rare):
    for seed in range(25):
        n, *network = random_network(seed, rare)
        cut = minimum_cut(n, *network, backend)
        every = (np.array(side) for side in itertools.product([False, True], repeat=n))
        lowest = min(cut_value(side, *network) for side in every)
        assert cut_value(cut.side, *network) == pytest.approx(lowest, rel=1e-11, abs=1e-11)
        assert cut.value == pytest.approx(lowest, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_side_of_the_sink_is_the_smallest(backend):
    for seed in range(25):
        n, *network = random_network(seed)
        network = [part if part.ndim == 2 else np.round(4 * part) for part in network]  # ties
        sides = [np.array(side) for side in itertools.product([False, True], repeat=n)]
        values = [cut_value(side, *network) for side in sides]
        minimum = [side for side, value in zip(sides, values, strict=True) if value == min(values)]
        assert minimum_cut(n, *network, backend).side.tolist() == np.all(minimum, 0).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_capacities_of_very_different_sizes(backend):
    edges = np.array([[0, 1], [1, 2]])
    capacities = np.array([1e-9, 1e9])
    ends = np.array([1e12, 0, 0]), np.array([0, 0, 1e12])
    cut = minimum_cut(3, *ends, edges, capacities, capacities, backend)
    assert cut.side.tolist() == [False, True, True]
    assert cut.value == pytest.approx(1e-9, rel=1e-9)


def test_no_nodes():
    none = np.zeros(0)
    assert minimum_cut(0, none, none, np.zeros((0, 2), int), none, none).value == 0


def test_backends_that_cannot_be_had(monkeypatch):
    with pytest.raises(InvalidParameterError, match="'auto', 'pymaxflow' or 'scipy', got 'boost'"):
        GraphCut("boost")
    monkeypatch.setattr(max_flow.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidParameterError, match="pip install PyMaxflow"):
        AlphaExpansion(backend="pymaxflow")
    assert mrfq.solve(PairwiseMRF([[0, 1]]), GraphCut()).proved  # "auto" takes scipy


# ---- exact minima ----------------------------------------------------------------------------------------


def submodular_model(seed):
    """Random costs with forbidden labels and pairs, parallel edges and, of three labels, one that does not exist."""
    random = np.random.default_rng(seed)
    n, m = int(random.integers(2, 7)), int(random.integers(1, 12))
    edges = np.array([random.choice(n, 2, replace=False) for _ in range(m)])
    small = random.integers(-3, 4, (m, 2, 2)) if seed % 2 else random.standard_normal((m, 2, 2))
    small = small.astype(float)
    small[:, 0, 1] += np.maximum(small[:, 0, 0] + small[:, 1, 1] - small[:, 0, 1] - small[:, 1, 0], 0)
    forbid = random.random(m) < 0.3
    which = random.integers(0, 4, m)
    small[forbid & (which == 0), 0, 1] = np.inf
    small[forbid & (which == 1), 1, 0] = np.inf
    small[forbid & (which == 2), 1, :] = np.inf
    small[forbid & (which == 3), :, 0] = np.inf
    labels = np.sort([random.choice(3, 2, replace=False) for _ in range(n)], 1)
    unary, tables = random.standard_normal((n, 3)), random.standard_normal((m, 3, 3))
    mask = np.zeros((n, 3), bool)
    np.put_along_axis(mask, labels, True, 1)
    unary[random.random((n, 3)) < 0.1] = np.inf
    for table, part, (i, j) in zip(tables, small, edges, strict=True):
        table[np.ix_(labels[i], labels[j])] = part
    return PairwiseMRF(unary, edges, tables, mask=mask)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(40))
def test_a_submodular_energy_is_solved_exactly(seed, backend):
    model = submodular_model(seed)
    solution, exact = mrfq.solve(model, GraphCut(backend)), testing.exact_energy(model)
    assert solution.energy == pytest.approx(exact, rel=1e-12, abs=1e-12)
    assert solution.status is Status.OPTIMAL
    assert solution.lower_bound == pytest.approx(exact, rel=1e-12, abs=1e-12)


@given(st.integers(0, 10**6), st.floats(1e-12, 1e12))
def test_the_minimum_scales_and_permutes(seed, factor):
    model = submodular_model(seed)
    random = np.random.default_rng(seed)
    place = torch.from_numpy(random.permutation(model.shape[0]))  # variable i goes to place[i]
    unary, mask = torch.empty_like(model.unary), torch.empty(model.shape, dtype=torch.bool)
    unary[place], mask[place] = factor * model.unary, model.label_set.mask
    other = PairwiseMRF(unary, place[model.edges], factor * model.tables, mask=mask)
    energies = [mrfq.solve(each, GraphCut()).energy for each in (model, other)]
    assert energies[1] == pytest.approx(factor * energies[0], rel=1e-9, abs=1e-9 * factor)


@given(st.integers(0, 10**6))
def test_the_minimum_does_not_depend_on_where_costs_are_written(seed):
    random = np.random.default_rng(seed)
    model = mrfq.generators.denoising(3, 3, 2, seed=seed)
    unary, tables = model.unary.numpy().copy(), model.edge_tables().numpy().copy()
    for (i, j), table in zip(model.edges.tolist(), tables, strict=True):
        to_first, to_second = random.normal(size=(2, 2))
        unary[i] -= to_first
        unary[j] -= to_second
        np.add(table, to_first[:, None] + to_second, out=table)
    moved = mrfq.solve(PairwiseMRF(unary, model.edges, tables), GraphCut())
    assert moved.proved
    assert moved.energy == pytest.approx(mrfq.solve(model, GraphCut()).energy, rel=1e-9, abs=1e-9)


def test_small_costs_survive_huge_ones():
    unary = [[0.3, 1e30], [1e30, 0.2], [0.5, 0.1]]
    tables = [[[1.0, 1e30], [1e30, 0.7]], [[0.0, 0.25], [1e30, 0.0]]]
    model = PairwiseMRF(unary, [[0, 2], [1, 2]], [tables[0], np.array(tables[1]).T])
    solution = mrfq.solve(model, GraphCut())
    assert solution.energy == testing.exact_energy(model)
    assert solution.status is Status.OPTIMAL


def test_parallel_edges_are_added_up_before_they_are_judged():
    attract, repel = 2 * potts(2), -potts(2)
    model = PairwiseMRF([[0, 1], [2, 0]], [[0, 1], [1, 0]], torch.stack([attract, repel]))
    assert mrfq.solve(model, GraphCut()).energy == testing.exact_energy(model)
    with pytest.raises(CapabilityError, match=r"between variables 0 and 1 is not submodular.*`qpbo`"):
        mrfq.solve(PairwiseMRF([[0, 1], [2, 0]], [[0, 1], [1, 0]], torch.stack([repel, repel])), GraphCut())


def test_refusals_name_what_is_wrong():
    model = PairwiseMRF(np.zeros((3, 2)), [[0, 1], [2, 1]], [potts(2).numpy(), [[0.5, -1], [0, np.inf]]])
    reason = GraphCut().accepts(model)
    assert "between variables 2 and 1 is not submodular, its costs [[0.5, -1], [0, inf]]" in reason
    assert "variable 1 has 3 labels" in GraphCut().accepts(PairwiseMRF([[0, 1, np.inf], [0, 1, 2]]))


def test_the_choice_has_the_energy_of_the_labellings():
    """The network's energy is that of the model, for each of the labellings between two."""
    random = np.random.default_rng(5)
    model = testing.PROBLEMS["asymmetric-table"]()
    first, second = random.integers(0, 3, (2, 4))
    choice = Choice(*choose(first, second, graph_costs(model)))
    for bits in itertools.product([0, 1], repeat=len(choice.active)):
        labels, y = first.copy(), np.array(bits)
        labels[choice.active] = np.where(y == 1, second[choice.active], first[choice.active])
        energy = choice.constant + np.where(y == 1, choice.one, choice.zero).sum()
        for (i, j), f, b, flip in zip(choice.ends, choice.forward, choice.backward, choice.flipped, strict=True):
            other = 1 - y[j] if flip else y[j]
            energy += f * (1 - y[i]) * other + b * y[i] * (1 - other)
        assert energy == pytest.approx(model.energy(torch.from_numpy(labels)), abs=1e-12)


# ---- moves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS[2:], ids=repr)
@pytest.mark.parametrize("seed", range(12))
def test_moves_never_raise_the_energy(solver, seed):
    random = np.random.default_rng(seed)
    n, m = 7, 12
    edges = np.array([random.choice(n, 2, replace=False) for _ in range(m)])
    tables = random.standard_normal((m, 3, 3))
    unary = random.standard_normal((n, 3))
    if seed % 3 == 0:
        unary[random.random((n, 3)) < 0.2] = np.inf
        tables[random.random((m, 3, 3)) < 0.1] = np.inf
    model = PairwiseMRF(unary, edges, tables)
    solution = mrfq.solve(model, solver, init="random", seed=seed)
    energies = solution.trace["energy"]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies))
    assert solution.status is Status.CONVERGED


@pytest.mark.parametrize("seed", range(6))
def test_no_expansion_improves_the_end(seed):
    model = mrfq.generators.denoising(2, 4, 3, seed=seed)  # Potts: every expansion is submodular
    solution = mrfq.solve(model, AlphaExpansion(), init="random", seed=seed)
    labels = solution.labels.numpy()
    for alpha, moved in itertools.product(range(3), itertools.product([False, True], repeat=8)):
        other = np.where(moved, alpha, labels)
        assert model.energy(torch.from_numpy(other)) >= solution.energy - 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_no_swap_improves_the_end(seed):
    model = mrfq.generators.denoising(2, 4, 3, table="truncated-linear", seed=seed)
    solution = mrfq.solve(model, AlphaBetaSwap(), init="random", seed=seed)
    for x in itertools.product(range(3), repeat=8):
        changed = {tuple(sorted(pair)) for pair in zip(x, solution.labels.tolist(), strict=True) if pair[0] != pair[1]}
        if len(changed) == 1:  # all changes are between one pair of labels
            assert model.energy(torch.tensor(x)) >= solution.energy - 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_expansion_is_within_its_factor(seed):
    model = mrfq.generators.denoising(3, 3, 3, seed=seed)
    unary = model.unary - model.unary.amin(1, keepdim=True)
    model = PairwiseMRF(unary, model.edges, model.tables, weights=model.weights)
    assert mrfq.solve(model, AlphaExpansion(), init="random").energy <= 2 * testing.exact_energy(model) + 1e-9


def test_two_labels_are_one_expansion_away_from_the_optimum():
    model = mrfq.generators.denoising(4, 4, 2, seed=3)
    start = np.zeros(16, dtype=np.int64)
    assert mrfq.solve(model, AlphaExpansion(), init=start, max_iters=1).energy == pytest.approx(
        mrfq.solve(model, GraphCut()).energy
    )


def test_hard_constraints_stay_met():
    differ = np.where(np.eye(3, dtype=bool), np.inf, 0.0)
    ring = [[i, (i + 1) % 5] for i in range(5)]
    model = PairwiseMRF(np.random.default_rng(0).random((5, 3)), ring, differ)
    start = np.array([0, 1, 0, 1, 2])
    for solver in (AlphaExpansion(), AlphaBetaSwap()):
        solution = mrfq.solve(model, solver, init=start)
        assert max(solution.trace["energy"]) <= model.energy(torch.from_numpy(start))


def test_the_order_must_be_known():
    with pytest.raises(InvalidParameterError, match="AlphaBetaSwap: order must be 'fixed' or 'random'"):
        AlphaBetaSwap(order="colour")


# ---- where moves begin ---------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_constant_energies_are_those_of_constant_labellings(seed):
    problem = mrfq.generators.potts_graph(6, 4, degree=3, seed=seed)
    expected = [problem.energy(torch.full((6,), a)) for a in range(4)]
    np.testing.assert_allclose(constant_energies(graph_costs(problem)), expected, atol=1e-12)


def test_moves_begin_with_one_label_everywhere_if_that_costs_less():
    grid = mrfq.generators.potts_grid(6, 6, 4, weight=2.0, seed=0)
    for solver in (AlphaExpansion(), AlphaBetaSwap()):
        first = mrfq.solve(grid, solver, max_iters=0)
        assert len(set(first.labels.tolist())) == 1
        assert first.energy < mrfq.solve(grid, "rounding").energy
    # Where neighbours repel each other one label everywhere is a trap, however little it costs.
    tables = mrfq.generators.chain(6, 3, seed=0)
    for problem in (tables, mrfq.generators.potts_graph(8, 3, seed=0), mrfq.generators.dense_ising(8, seed=0)):
        given = mrfq.solve(problem, AlphaBetaSwap(), max_iters=0)
        assert given.energy == mrfq.solve(problem, "rounding").energy
    denoising = mrfq.generators.denoising(6, 6, 3, noise=0.1, seed=0)
    assert mrfq.solve(denoising, AlphaBetaSwap(), max_iters=0).energy == mrfq.solve(denoising, "rounding").energy


def test_a_forbidden_label_is_nowhere_to_begin():
    unary = np.array([[math.inf, 1.0, 9.0], [0.0, 1.0, 9.0]])
    problem = mrfq.PairwiseMRF(unary, [[0, 1]], 5.0 * (1 - np.eye(3)))
    energies = constant_energies(graph_costs(problem))
    assert energies.tolist() == [math.inf, 2.0, 18.0]
