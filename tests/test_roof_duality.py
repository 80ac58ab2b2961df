"""Persistent labels are in an optimum, the bound is below it, and improving never makes a labelling worse."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mrfq
from mrfq import PairwiseMRF, testing
from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.solution import Status
from mrfq.solvers.graph_cut import GraphCut
from mrfq.solvers.roof_duality import QPBO, roof_duality

BACKENDS = ["scipy"] + ["pymaxflow"] * (importlib.util.find_spec("maxflow") is not None)


def glass(seed):
    """Random costs of two labels: real or integer (ties), with and without forbidden ones, strong fields or none."""
    random = np.random.default_rng(seed)
    n, m = int(random.integers(2, 8)), int(random.integers(1, 12))
    edges = np.array([random.choice(n, 2, replace=False) for _ in range(m)])
    unary = random.choice([0.0, 1.0, 3.0]) * random.standard_normal((n, 2))
    tables = random.standard_normal((m, 2, 2))
    if seed % 2:
        unary, tables = unary.round(), tables.round()
    if seed % 3 == 0:
        unary[random.random((n, 2)) < 0.1] = np.inf
        tables[random.random((m, 2, 2)) < 0.1] = np.inf
    return PairwiseMRF(unary, edges, tables)


def all_labellings(model):
    return torch.tensor(list(itertools.product([0, 1], repeat=model.shape[0])))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", range(5))
def test_some_optimum_has_all_persistent_labels_and_the_bound_is_below(block, backend):
    for seed in range(20 * block, 20 * block + 20):
        model = glass(seed)
        labels, bound = roof_duality(model, backend)
        every = all_labellings(model)
        energies = model.energies(every)
        exact = float(energies.min())
        assert bound <= exact + 1e-9 * max(1.0, abs(exact))
        optimal = every[energies <= exact + 1e-9]
        if np.isfinite(exact):
            decided = labels >= 0
            assert (optimal[:, decided] == labels[decided]).all(1).any(), seed
            if decided.all():
                assert bound == pytest.approx(exact, rel=1e-9, abs=1e-9)


@given(st.integers(0, 10**6))
def test_overwriting_with_persistent_labels_never_raises_an_energy(seed):
    model = glass(seed)
    labels, _ = roof_duality(model)
    every = all_labellings(model)
    overwritten = torch.where(labels >= 0, labels, every)
    before, after = model.energies(every), model.energies(overwritten)
    if bool(before.isfinite().any()):
        assert (after <= before + 1e-9).all()


@given(st.integers(0, 10**6), st.floats(1e-9, 1e9))
def test_the_bound_scales(seed, factor):
    model = glass(seed)
    scaled = PairwiseMRF(factor * model.unary, model.edges, factor * model.tables)
    bounds = roof_duality(model).bound, roof_duality(scaled).bound
    assert bounds[1] == pytest.approx(factor * bounds[0], rel=1e-9, abs=1e-9 * factor)


@given(st.integers(0, 10**6))
def test_switching_the_two_labels_of_a_variable_changes_nothing(seed):
    model = glass(seed)
    random = np.random.default_rng(seed)
    switch = random.random(model.shape[0]) < 0.5
    unary, tables = model.unary.numpy().copy(), model.edge_tables().numpy().copy()
    unary[switch] = unary[switch, ::-1]
    for (i, j), table in zip(model.edges.tolist(), tables, strict=True):
        table[:] = table[::-1] if switch[i] else table
        table[:] = table[:, ::-1] if switch[j] else table
    switched = PairwiseMRF(unary, model.edges, tables)
    assert roof_duality(switched).bound == pytest.approx(roof_duality(model).bound, rel=1e-9, abs=1e-9)


def test_a_submodular_energy_is_decided_altogether():
    model = mrfq.generators.denoising(6, 6, 2, seed=1)
    labels, bound = roof_duality(model)
    assert (labels >= 0).all()
    assert model.energy(labels) == pytest.approx(bound, rel=1e-9)
    solution = mrfq.solve(model, QPBO())
    assert solution.iterations == 1
    assert solution.proved
    assert solution.energy == pytest.approx(mrfq.solve(model, GraphCut()).energy)


def test_repelling_neighbours_on_a_tree_are_no_obstacle():
    model = mrfq.generators.tree(12, 2, seed=4)
    solution = mrfq.solve(model, QPBO())
    assert solution.status is Status.OPTIMAL
    assert solution.energy == pytest.approx(testing.exact_energy(model))


def test_ties_are_broken_by_fixing_one_variable():
    """An antiferromagnet on a bipartite graph: two optima, so nothing is persistent before a variable is fixed."""
    ring = [[i, (i + 1) % 6] for i in range(6)]
    model = PairwiseMRF.ising(np.zeros(6), -1.0, ring)
    assert (roof_duality(model).labels == -1).all()
    solution = mrfq.solve(model, QPBO(), init=np.zeros(6, dtype=np.int64))
    assert solution.proved
    assert solution.energy == -6


@pytest.mark.parametrize("seed", range(8))
def test_improving_never_raises_the_energy_and_ends(seed):
    model = mrfq.generators.spin_glass(3, 4, field=0.1, seed=seed)
    solution = mrfq.solve(model, QPBO(), init="random", seed=seed)
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(solution.trace["energy"]))
    exact = testing.exact_energy(model)
    assert solution.lower_bound <= exact + 1e-9
    assert solution.energy >= exact - 1e-9
    assert solution.status in (Status.CONVERGED, Status.OPTIMAL)


def test_holes_and_fixed_variables_keep_their_labels():
    mask = np.array([[1, 0, 1], [0, 1, 0], [0, 1, 1]], dtype=bool)
    random = np.random.default_rng(2)
    model = PairwiseMRF(random.normal(size=(3, 3)), [[0, 1], [1, 2]], random.normal(size=(2, 3, 3)), mask=mask)
    labels, bound = roof_duality(model)
    assert model.energy(labels) == pytest.approx(testing.exact_energy(model)) == pytest.approx(bound)


def test_parallel_edges_are_added_up():
    """Each of two parallel edges alone leaves the pair undecided; together they cancel."""
    table = np.array([[0.0, 2.0], [2.0, 0.0]])
    model = PairwiseMRF([[0, 1], [0.5, 0]], [[0, 1], [1, 0]], [table, -table])
    labels, bound = roof_duality(model)
    assert labels.tolist() == [0, 1]
    assert bound == pytest.approx(0.0)


def test_an_infeasible_model_is_found_out():
    """Three variables that must all differ, with two labels."""
    differ = np.where(np.eye(2, dtype=bool), np.inf, 0.0)
    pair = PairwiseMRF(np.zeros((2, 2)), [[0, 1], [0, 1]], [differ, np.where(differ == 0, np.inf, 0.0)])
    assert roof_duality(pair).bound == np.inf
    triangle = PairwiseMRF(np.zeros((3, 2)), [[0, 1], [1, 2], [2, 0]], differ)
    assert mrfq.solve(triangle, QPBO()).energy == np.inf


def test_what_does_not_fit_is_refused():
    with pytest.raises(InvalidProblemError, match="variable 0 has 3 labels"):
        roof_duality(mrfq.generators.chain(3, 3))
    with pytest.raises(InvalidProblemError, match="LogCosh has none"):
        roof_duality(testing.PROBLEMS["smooth-binary"]())
    with pytest.raises(InvalidParameterError, match="patience must be positive"):
        QPBO(patience=0)
