"""Pairwise MRFs from and to networkx graphs."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import torch

from mrfq.errors import InvalidProblemError
from mrfq.problems.pairwise import PairwiseMRF


def from_networkx(graph: nx.Graph[Any], *, unary: str = "unary", table: str = "table") -> PairwiseMRF:
    """Return the pairwise MRF described by a graph.

    Parameters
    ----------
    graph : networkx.Graph
        Every node has the attribute `unary`, a vector of costs (lengths may differ: ragged label counts); every
        edge has the attribute `table`, a matrix of costs. The rows of a table belong to the end point that comes
        first in `graph.nodes` (in a directed graph: to the tail).
    unary, table : str
        Names of the attributes.

    Returns
    -------
    PairwiseMRF
        Its `names` are the nodes, in the order of `graph.nodes`.

    Raises
    ------
    InvalidProblemError
        A missing attribute or a table of the wrong shape; the message names the node or the edge.

    Examples
    --------
    >>> graph = nx.Graph()
    >>> graph.add_node("a", unary=[0.0, 1.0])
    >>> graph.add_node("b", unary=[2.0, 0.0])
    >>> graph.add_edge("a", "b", table=[[0.0, 5.0], [5.0, 0.0]])
    >>> mrf = from_networkx(graph)
    >>> mrf.names, mrf.energy(torch.tensor([1, 1]))
    (['a', 'b'], 1.0)
    """
    nodes = list(graph.nodes)
    if not nodes:
        raise InvalidProblemError("the graph has no nodes")
    position = {node: i for i, node in enumerate(nodes)}
    vectors = [_costs(graph.nodes[node].get(unary), f"node {node!r}", unary, 1) for node in nodes]
    count = max(len(vector) for vector in vectors)
    costs, mask = np.zeros((len(nodes), count)), np.zeros((len(nodes), count), dtype=bool)
    for i, vector in enumerate(vectors):
        costs[i, : len(vector)], mask[i, : len(vector)] = vector, True
    edges = np.zeros((graph.number_of_edges(), 2), dtype=np.int64)
    tables = np.zeros((len(edges), count, count))
    for e, (a, b, data) in enumerate(graph.edges(data=True)):
        if not graph.is_directed() and position[a] > position[b]:
            a, b = b, a  # noqa: PLW2901
        edge = _costs(data.get(table), f"edge {(a, b)!r}", table, 2)
        expected = (len(vectors[position[a]]), len(vectors[position[b]]))
        if edge.shape != expected:
            raise InvalidProblemError(f"edge {(a, b)!r}: {table} needs shape {expected}, got {edge.shape}")
        edges[e] = position[a], position[b]
        tables[e, : expected[0], : expected[1]] = edge
    ragged = None if mask.all() else mask
    return PairwiseMRF(costs, edges, tables if len(edges) else None, mask=ragged, names=nodes)


def to_networkx(mrf: PairwiseMRF, *, unary: str = "unary", table: str = "table") -> nx.MultiGraph[Any]:
    """Return a graph that `from_networkx` turns back into the same model, weights multiplied into the tables.

    A multigraph, because a model may have parallel edges. Labels that do not exist are left out.
    """
    exists = mrf.label_set.mask
    exists = torch.ones(mrf.shape, dtype=torch.bool) if exists is None else exists.cpu()
    graph: nx.MultiGraph[Any] = nx.MultiGraph()
    for name, costs, labels in zip(mrf.names, mrf.unary.cpu(), exists, strict=True):
        graph.add_node(name, **{unary: costs[labels].numpy()})
    for (i, j), costs in zip(mrf.edges.tolist(), mrf.edge_tables().cpu(), strict=True):
        # Tables are written so that their rows belong to the end point that comes first among the nodes.
        i, j, costs = (i, j, costs) if i < j else (j, i, costs.T)  # noqa: PLW2901
        graph.add_edge(mrf.names[i], mrf.names[j], **{table: costs[exists[i]][:, exists[j]].numpy()})
    return graph


def _costs(given: Any, where: str, attribute: str, ndim: int) -> np.ndarray:
    if given is None:
        raise InvalidProblemError(f"{where} has no attribute {attribute!r}")
    try:
        costs = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidProblemError(f"{where}: {attribute} is not an array of numbers: {error}") from error
    if costs.ndim != ndim or 0 in costs.shape:
        what = "a vector" if ndim == 1 else "a matrix"
        raise InvalidProblemError(f"{where}: {attribute} must be {what}, got shape {costs.shape}")
    return costs
