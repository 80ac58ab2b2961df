"""Subset ICM: its forests are forests, its moves exact, and its end keeps what it promises."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrfq import InvalidParameterError, PairwiseMRF, Status, generators, solve, testing
from mrfq.solvers.forest_kernels import forest_moves, grow_forest, labelling_energy, solve_forest
from mrfq.solvers.half_edges import half_edges
from mrfq.solvers.subset_icm import SubsetICM
from mrfq.solvers.subset_icm_kernels import subset_moves

SETTINGS = {"default": SubsetICM(), "single": SubsetICM(size=1, patience=1), "large": SubsetICM(size=5, patience=2)}


def random_model(seed, labels=3, n=7, forbidden=0.03):
    """Return a small sparse model with parallel edges, holes in the mask and forbidden pairs."""
    numbers = np.random.default_rng(seed)
    edges = numbers.integers(n, size=(2 * n, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    tables = numbers.standard_normal((len(edges), labels, labels))
    tables[numbers.random(tables.shape) < forbidden] = math.inf
    mask = numbers.random((n, labels)) < 0.8
    mask[np.arange(n), numbers.integers(labels, size=n)] = True
    return PairwiseMRF(numbers.standard_normal((n, labels)), edges, tables, mask=mask)


def random_labels(problem, seed):
    return problem.label_set.round(torch.rand(problem.shape, generator=torch.Generator().manual_seed(seed)))


def changes(problem, labels, members):
    """Yield every labelling that differs from `labels` inside `members` only, by labels that exist."""
    mask = problem.label_set.mask
    rows = torch.ones(problem.shape, dtype=torch.bool) if mask is None else mask
    for values in itertools.product(*(rows[i].nonzero()[:, 0].tolist() for i in members)):
        other = labels.clone()
        other[list(members)] = torch.tensor(values)
        yield other


# ---- forests --------------------------------------------------------------------------------------------


@given(st.integers(1, 10**6))
def test_random_forests_are_maximal_induced_forests(seed):
    problem = random_model(seed, n=12)
    graph = nx.Graph(problem.edges.tolist())
    graph.add_nodes_from(range(12))
    inside = np.empty(12, bool)
    grow_forest(inside, np.uint64(seed), half_edges(problem))
    members = set(np.flatnonzero(inside).tolist())
    assert nx.is_forest(graph.subgraph(members))
    assert not any(nx.is_forest(graph.subgraph(members | {i})) for i in set(range(12)) - members)


def test_forests_cover_more_than_half_of_a_grid():
    graph, inside = half_edges(generators.spin_glass(32, 32)), np.empty(1024, bool)
    for seed in range(1, 6):
        grow_forest(inside, np.uint64(seed), graph)
        assert inside.mean() > 0.5


@given(st.integers(1, 10**6), st.sampled_from([2, 3]))
def test_a_forest_move_is_exact_given_the_rest(seed, labels):
    problem = random_model(seed, labels, n=6)
    graph, inside = half_edges(problem), np.empty(6, bool)
    x = random_labels(problem, seed)
    grow_forest(inside, np.uint64(seed), graph)
    moved = x.numpy().copy()
    solve_forest(moved, inside, graph)
    members = np.flatnonzero(inside).tolist()
    assert (moved == x.numpy())[~inside].all()
    # Infeasible surroundings stay infeasible; among the rest, energies are those of the graph with finite stand-ins.
    best = min(labelling_energy(y.numpy(), graph) for y in changes(problem, x, members))
    assert labelling_energy(moved, graph) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("labels", [2, 5])
def test_one_forest_move_solves_a_tree(labels):
    problem = generators.tree(8 if labels == 2 else 6, labels, seed=3)
    solution = solve(problem, SubsetICM(), init="random", max_oracle_calls=1)
    assert solution.oracle_calls == 1
    assert solution.energy == pytest.approx(testing.exact_energy(problem), abs=1e-9)


def test_labels_that_are_as_good_are_kept():
    problem = testing.PROBLEMS["ties"]()
    x = torch.tensor([2, 0, 1, 2])
    kept = x.numpy().copy()
    _, stale, moves = forest_moves(kept, 9, 5, 0, np.uint64(3), half_edges(problem))
    assert (stale, moves) == (5, 5)
    assert (kept == x.numpy()).all()


# ---- subsets --------------------------------------------------------------------------------------------


def connected_subsets(problem, size):
    graph = nx.Graph(problem.edges.tolist())
    graph.add_nodes_from(range(problem.shape[0]))
    for k in range(1, size + 1):
        for members in itertools.combinations(range(problem.shape[0]), k):
            if nx.is_connected(graph.subgraph(members)):
                yield members


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@given(seed=st.integers(0, 10**6))
def test_every_connected_subset_is_tried_exactly_once(size, seed):
    problem = random_model(seed, n=7)
    exact = solve(problem, "exhaustive").labels
    counts = [int(row.sum()) - 1 for row in problem.label_set.mask] if problem.label_set.mask is not None else [2] * 7
    expected = sum(math.prod(counts[i] for i in members) for members in connected_subsets(problem, size))
    x = exact.numpy().copy()
    _, clean, tries = subset_moves(x, size, 0, 0, 10**9, half_edges(problem))
    assert clean == 7
    assert tries == expected + 7  # each first variable costs one more than its tries
    assert (x == exact.numpy()).all()


@pytest.mark.parametrize("size", [1, 2, 3])
@given(seed=st.integers(0, 10**6))
def test_at_the_end_no_connected_subset_improves(size, seed):
    problem = random_model(seed, n=7, forbidden=0.0)
    solution = solve(problem, SubsetICM(size=size, patience=1), init="random", seed=seed)
    assert solution.status is Status.CONVERGED
    for members in connected_subsets(problem, size):
        best = min(problem.energy(y) for y in changes(problem, solution.labels, members))
        assert best >= solution.energy - 1e-9


@given(seed=st.integers(0, 10**6), labels=st.sampled_from([2, 3]))
def test_subsets_as_large_as_the_model_solve_it(seed, labels):
    problem = random_model(seed, labels, n=5)
    solution = solve(problem, SubsetICM(size=5, patience=1), init="random", seed=seed)
    assert solution.energy == pytest.approx(testing.exact_energy(problem), abs=1e-9)


# ---- the solver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [generators.spin_glass, generators.potts_grid, generators.denoising])
def test_the_energy_never_rises_and_ends_below_icm(make):
    problem = make(16, 16, seed=4)
    solution = solve(problem, SubsetICM())
    energies = solution.trace["energy"]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies))
    assert solution.energy < solve(problem, "icm").energy


def test_a_budget_of_calls_is_respected_by_forest_moves():
    problem = generators.spin_glass(16, 16, seed=4)
    assert solve(problem, SubsetICM(patience=100), max_oracle_calls=13).oracle_calls == 13


@pytest.mark.parametrize("wrong", [{"size": 0}, {"patience": 0}])
def test_parameters_are_checked(wrong):
    with pytest.raises(InvalidParameterError, match="SubsetICM"):
        SubsetICM(**wrong)
