"""Models from and to networkx graphs."""

import itertools
from functools import partial

import networkx as nx
import numpy as np
import pytest
import torch

from mrfq import InvalidProblemError, PairwiseMRF, from_networkx, generators, solve, testing, to_networkx


def example(kind=nx.Graph):
    graph = kind()
    graph.add_node("b", unary=[0.0, 1.0, 0.5])
    graph.add_node("a", unary=[2.0, 0.0])
    graph.add_node(3, unary=[0.0])
    graph.add_edge("b", "a", table=[[0.0, 5.0], [4.0, 0.0], [1.0, 1.0]])
    graph.add_edge("a", 3, table=[[7.0], [8.0]])
    return graph


@pytest.mark.parametrize("kind", [nx.Graph, nx.MultiGraph, nx.DiGraph, nx.MultiDiGraph])
def test_costs_are_those_of_the_attributes(kind):
    mrf = from_networkx(example(kind))
    assert mrf.names == ["b", "a", 3]
    assert mrf.shape == (3, 3)
    assert mrf.energy(torch.tensor([1, 0, 0])) == 1.0 + 2.0 + 4.0 + 7.0
    assert mrf.energy(torch.tensor([2, 1, 0])) == 0.5 + 0.0 + 1.0 + 8.0


def test_rows_belong_to_the_first_node_however_the_edge_is_written():
    graph = nx.Graph()
    graph.add_node("a", unary=[0.0, 0.0])
    graph.add_node("b", unary=[0.0, 0.0, 0.0])
    graph.add_edge("b", "a", table=[[0, 1, 2], [3, 4, 5]])
    assert from_networkx(graph).energy(torch.tensor([1, 2])) == 5.0


def test_rows_belong_to_the_tail_of_a_directed_edge():
    graph = nx.DiGraph()
    graph.add_node("a", unary=[0.0, 0.0])
    graph.add_node("b", unary=[0.0, 0.0, 0.0])
    graph.add_edge("b", "a", table=[[0, 1], [2, 3], [4, 5]])
    assert from_networkx(graph).energy(torch.tensor([1, 2])) == 5.0


def test_parallel_edges_add_up():
    graph = nx.MultiGraph()
    graph.add_nodes_from("ab", unary=[0.0, 0.0])
    for _ in range(2):
        graph.add_edge("a", "b", table=[[0, 1], [1, 0]])
    assert from_networkx(graph).energy(torch.tensor([0, 1])) == 2.0


@pytest.mark.parametrize(
    "make",
    [
        partial(generators.tree, 6, 3, seed=2),
        partial(generators.spin_glass, 2, 3, field=0.2),
        partial(generators.potts_grid, 2, 3, 3),
        testing.PROBLEMS["asymmetric-table"],
        testing.PROBLEMS["ragged-ends"],
        testing.PROBLEMS["forbidden-labels"],
        testing.PROBLEMS["forbidden-pairs"],
        testing.PROBLEMS["parallel-edges"],
        partial(PairwiseMRF, [[0.0, 1.0]]),
    ],
)
def test_a_round_trip_keeps_every_energy(make):
    mrf = make()
    again = from_networkx(to_networkx(mrf))
    assert again.names == mrf.names
    exists = torch.ones(mrf.shape, dtype=torch.bool) if mrf.label_set.mask is None else mrf.label_set.mask
    for x in itertools.product(*(row.nonzero()[:, 0].tolist() for row in exists)):
        labels = torch.tensor(x)
        assert again.energy(labels) == pytest.approx(mrf.energy(labels), rel=1e-14)


def test_a_gap_in_the_labels_is_closed():
    mrf = testing.PROBLEMS["ragged-labels"]()
    assert solve(from_networkx(to_networkx(mrf)), "exhaustive").energy == testing.exact_energy(mrf)


def without(attribute, *where):
    graph = example()
    del (graph.nodes if len(where) == 1 else graph.edges)[where if len(where) > 1 else where[0]][attribute]
    return graph


def with_table(table):
    graph = example()
    graph.edges["b", "a"]["table"] = table
    return graph


def with_unary(unary):
    graph = example()
    graph.nodes["a"]["unary"] = unary
    return graph


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.Graph(), "no nodes"),
        (without("unary", "a"), "node 'a' has no attribute 'unary'"),
        (without("table", "b", "a"), r"edge \('b', 'a'\) has no attribute 'table'"),
        (with_table(np.zeros((2, 3))), r"edge \('b', 'a'\): table needs shape \(3, 2\), got \(2, 3\)"),
        (with_table("words"), r"edge \('b', 'a'\): table is not an array of numbers"),
        (with_table([1.0]), "must be a matrix"),
        (with_unary([[1.0]]), "node 'a': unary must be a vector"),
        (with_unary([]), "node 'a': unary must be a vector"),
        (with_unary([np.nan, 0.0]), "NaN"),
    ],
)
def test_bad_graphs_are_named(graph, message):
    with pytest.raises(InvalidProblemError, match=message):
        from_networkx(graph)
