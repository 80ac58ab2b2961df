"""Minimum cuts: one small interface over the max-flow libraries that are installed."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from mrfq.errors import InvalidParameterError

Backend = Literal["auto", "pymaxflow", "scipy"]
Floats = np.ndarray[Any, np.dtype[np.float64]]

#: the scipy backend stops once flow and cut agree to this fraction
TOLERANCE = 1e-12
#: largest capacity handed to scipy: its residuals, up to twice a capacity, are 32-bit integers
LARGEST = 2**29


class Cut(NamedTuple):
    """A minimum cut of a network."""

    #: (n,) bool: nodes on the sink's side, as few as there can be
    side: np.ndarray[Any, np.dtype[np.bool_]]
    #: value of a feasible flow, so that no cut is cheaper; +inf if every cut has an infinite arc
    value: float


def minimum_cut(
    n: int,
    source_capacities: Floats,
    sink_capacities: Floats,
    edges: np.ndarray[Any, Any],
    capacities: Floats,
    reverse_capacities: Floats,
    backend: Backend = "auto",
) -> Cut:
    """Return a minimum cut between a source and a sink.

    Parameters
    ----------
    n : int
        Number of nodes, terminals not counted.
    source_capacities, sink_capacities : (n,) array
        Capacities of the arcs from the source and to the sink; not negative, +inf allowed.
    edges : (m, 2) integer array
        Pairs of nodes; parallel ones add up.
    capacities, reverse_capacities : (m,) array
        Capacities of the arcs i -> j and j -> i of each pair.
    backend : {"auto", "pymaxflow", "scipy"}
        "auto" takes PyMaxflow (Boykov and Kolmogorov 2004) if it is installed, else scipy (Dinic).

    Raises
    ------
    InvalidParameterError
        Unknown backend, or one that is not installed.

    Examples
    --------
    >>> one, none = np.array([1.0, 0.0]), np.array([0.0, 2.0])
    >>> cut = minimum_cut(2, one, none, np.array([[0, 1]]), np.array([0.5]), np.array([0.0]), "scipy")
    >>> cut.side.tolist(), cut.value
    ([False, True], 0.5)
    """
    solve = _solve_with(backend)
    if n == 0:
        return Cut(np.zeros(0, dtype=np.bool_), 0.0)
    arcs = [source_capacities, sink_capacities, capacities, reverse_capacities]
    if all(np.isfinite(part).all() for part in arcs):
        return solve(n, edges, *arcs)
    # A finite stand-in that costs more than all finite arcs together is never cut if that can be avoided.
    total = float(sum(part[np.isfinite(part)].sum() for part in arcs))
    infinite = 2 * total if total else 1.0
    side, value = solve(n, edges, *(np.where(np.isinf(part), infinite, part) for part in arcs))
    return Cut(side, value if value < 0.75 * infinite else np.inf)


def check_backend(backend: str) -> None:
    """Raise `InvalidParameterError` unless the backend exists and is installed."""
    _solve_with(backend)


def _solve_with(backend: str) -> Callable[..., Cut]:
    if backend not in ("auto", "pymaxflow", "scipy"):
        raise InvalidParameterError(f"backend must be 'auto', 'pymaxflow' or 'scipy', got {backend!r}")
    if backend == "scipy":
        return _scipy
    if importlib.util.find_spec("maxflow"):
        return _pymaxflow
    if backend == "pymaxflow":
        raise InvalidParameterError("backend 'pymaxflow' needs PyMaxflow: pip install PyMaxflow, or take 'scipy'")
    return _scipy


def _pymaxflow(n: int, edges: Any, source: Floats, sink: Floats, forward: Floats, backward: Floats) -> Cut:
    graph = importlib.import_module("maxflow").GraphFloat(n, len(edges))
    nodes = graph.add_nodes(n)
    if len(edges):
        graph.add_edges(edges[:, 0], edges[:, 1], forward, backward)
    graph.add_grid_tedges(nodes, source, sink)
    value = graph.maxflow()
    # What neither terminal reaches counts as the source's.
    return Cut(graph.get_grid_segments(nodes), float(value))


def _scipy(n: int, edges: Any, source: Floats, sink: Floats, forward: Floats, backward: Floats) -> Cut:
    """Return a minimum cut by Dinic's algorithm on integers, refined.

    Capacities are scaled and rounded down: what flows then is feasible for the true ones too. The next round works
    on the residual capacities at the finer scale that the remaining cut allows.
    """
    through = np.minimum(source, sink)
    residual = _network(n, edges, source - through, sink - through, forward, backward)
    rows = np.repeat(np.arange(n + 2), np.diff(residual.indptr))
    columns = residual.indices
    value = float(through.sum())
    left = float(min((source - through).sum(), (sink - through).sum()))
    if left == 0:
        return Cut(_reaches(n + 1, rows, columns, residual.data > 0)[:n], value)
    while True:
        # No more than `left` can flow: twice that is as good as any larger capacity, and not mistaken for saturated.
        scale = 2.0 ** math.floor(math.log2(LARGEST / (2 * left)))
        rounded = np.floor(np.minimum(residual.data, 2 * left) * scale).astype(np.int32)
        result = maximum_flow(csr_array((rounded, columns, residual.indptr), residual.shape), n, n + 1)
        residual.data -= result.flow.data / scale
        value += float(result.flow_value) / scale
        side = _reaches(n + 1, rows, columns, rounded > result.flow.data)
        before, left = left, float(residual.data[~side[rows] & side[columns]].sum())
        if left <= TOLERANCE * value or left >= before:
            return Cut(side[:n], value)


def _network(n: int, edges: Any, source: Floats, sink: Floats, forward: Floats, backward: Floats) -> csr_array:
    """Return the (n + 2, n + 2) capacities, the source at n and the sink at n + 1; every arc has its reverse."""
    nodes, i, j = np.arange(n), edges[:, 0], edges[:, 1]
    first = np.concatenate([i, np.full(n, n), nodes])
    second = np.concatenate([j, nodes, np.full(n, n + 1)])
    data = np.concatenate([forward, source, sink, backward, np.zeros(2 * n)])
    pairs = np.concatenate([first, second]), np.concatenate([second, first])
    capacities = csr_array((data, pairs), shape=(n + 2, n + 2))
    capacities.sum_duplicates()
    return capacities


def _reaches(sink: int, rows: Any, columns: Any, open_arcs: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which nodes reach the sink, itself included, through open arcs."""
    tails, heads = rows[open_arcs], columns[open_arcs]
    backwards = csr_array((np.ones(len(tails), np.int8), (heads, tails)), shape=(sink + 1, sink + 1))
    found = np.zeros(sink + 1, dtype=np.bool_)
    found[breadth_first_order(backwards, sink, return_predecessors=False)] = True
    return found
