"""Generators: the same seed gives the same model; each has the structure its name promises."""

import networkx as nx
import pytest
import torch

from mrfq import InvalidParameterError, generators
from mrfq.testing import exact_energy

SMALL = {
    "spin-glass": {"height": 3, "width": 4},
    "ferromagnet": {"height": 3, "width": 4},
    "dense-ising": {"n": 6},
    "potts-grid": {"height": 3, "width": 4, "labels": 3},
    "potts-graph": {"n": 8},
    "denoising": {"height": 4, "width": 5},
    "chain": {"n": 5},
    "tree": {"n": 7},
    "frustrated-cycle": {"n": 5},
}


def same(a, b):
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("unary", "edges", "tables", "weights"))


def graph(mrf):
    return nx.Graph(mrf.edges.tolist())


def test_the_table_of_generators_is_complete():
    assert set(SMALL) == set(generators.GENERATORS)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_model(name):
    make = generators.GENERATORS[name]
    assert same(make(**SMALL[name], seed=4), make(**SMALL[name], seed=4))
    assert not same(make(**SMALL[name], seed=4), make(**SMALL[name], seed=5))


@pytest.mark.parametrize("name", SMALL)
def test_generators_leave_the_global_random_state_alone(name):
    before = torch.get_rng_state()
    generators.GENERATORS[name](**SMALL[name])
    assert torch.equal(before, torch.get_rng_state())


def test_trees_and_chains_have_no_cycle():
    for mrf in (generators.tree(12, seed=3), generators.chain(12)):
        assert nx.is_tree(graph(mrf))


@pytest.mark.parametrize("make", [generators.tree, generators.chain])
@pytest.mark.parametrize("n", [1, 2])
def test_trees_and_chains_may_be_tiny(make, n):
    assert make(n).shape == (n, 4)
    assert len(make(n).edges) == n - 1


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_a_frustrated_cycle_cannot_satisfy_all_its_edges(n):
    mrf = generators.frustrated_cycle(n, field=0.0)
    assert int((mrf.weights < 0).sum()) % 2 == 1
    assert exact_energy(mrf) == -(n - 2)


def test_a_ferromagnet_is_submodular():
    tables = generators.ferromagnet(3, 3).edge_tables()
    assert bool((tables[:, 0, 0] + tables[:, 1, 1] <= tables[:, 0, 1] + tables[:, 1, 0]).all())


def test_a_dense_model_couples_every_pair():
    assert graph(generators.dense_ising(6)).number_of_edges() == 15


def test_a_potts_graph_is_regular():
    assert {degree for _, degree in graph(generators.potts_graph(10, degree=4)).degree} == {4}


@pytest.mark.parametrize("table", ["potts", "truncated-linear"])
def test_denoising_keeps_its_table(table):
    mrf = generators.denoising(6, 7, 5, table=table)
    assert mrf.shape == (42, 5)
    assert float(mrf.tables.max()) == (1.0 if table == "potts" else 1.25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generators.ferromagnet(coupling=-1), "at least 0"),
        (lambda: generators.frustrated_cycle(2), "at least 3"),
        (lambda: generators.denoising(table="quadratic"), "'potts' or 'truncated-linear'"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(InvalidParameterError, match=message):
        make()
