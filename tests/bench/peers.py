"""Other people's solvers, each called the way its users would: model in, labels out.

Every function takes a problem, a seed and an effort (what it means differs), builds the peer's own data structure, and
says how many CPU seconds of its time that took.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from classical_found import Found, Unsuitable, quadratic_form, two_label_costs
from peers_search import dwave_annealing, dwave_greedy, dwave_tabu, toulbar2

# ---- cuts ---------------------------------------------------------------------------------------------


def pymaxflow(problem: Any, seed: int, effort: float) -> Found:
    """PyMaxflow on the list of edges."""
    import maxflow

    form = quadratic_form(problem)
    began = time.process_time()
    if (form.quadratic > 0).any():
        raise Unsuitable("not submodular")
    n, (i, j) = len(form.linear), form.edges.T
    # q x_i x_j = q x_i - q x_i (1 - x_j): an arc that is cut where i has label 1 and j label 0
    terminal = form.linear + np.bincount(i, form.quadratic, n)
    graph = maxflow.GraphFloat(n, len(form.edges))
    nodes = graph.add_nodes(n)
    graph.add_edges(j, i, -form.quadratic, np.zeros(len(form.edges)))
    graph.add_grid_tedges(nodes, np.maximum(terminal, 0), np.maximum(-terminal, 0))
    build = time.process_time() - began
    value = graph.maxflow()
    labels = graph.get_grid_segments(nodes).astype(np.int64)
    # Label 1 is the sink's side, whose source arc, the cost of label 1, is cut; an arc j -> i is cut for x_i=1, x_j=0.
    return Found(labels, form.constant + float(np.minimum(terminal, 0).sum()) + float(value), True, build)


def thinqpbo(problem: Any, seed: int, effort: float) -> Found:
    """QPBO, then improvement until ten calls in a row find nothing lower; the effort is a limit of CPU seconds.

    The labels of a call may cost more than those it was given, though its documentation says otherwise: the lowest are
    kept.
    """
    from thinqpbo import QPBODouble

    tables, unary = two_label_costs(problem)
    began = time.process_time()
    graph = QPBODouble(len(unary), len(tables))
    graph.add_node(len(unary))
    for i, (zero, one) in enumerate(unary.tolist()):
        graph.add_unary_term(i, zero, one)
    for (i, j), ((a, b), (c, d)) in zip(problem.edges.tolist(), tables.tolist(), strict=True):
        graph.add_pairwise_term(i, j, a, b, c, d)
    graph.merge_parallel_edges()
    build = time.process_time() - began
    graph.solve()
    bound = graph.compute_twice_lower_bound() / 2
    graph.compute_weak_persistencies()
    found = np.array([graph.get_label(i) for i in range(len(unary))])
    if (found >= 0).all():
        return Found(found, bound, True, build)
    for i in np.flatnonzero(found < 0).tolist():
        graph.set_label(i, int(unary[i].argmin()))
    end, idle, best = time.process_time() + effort, 0, math.inf
    while idle < 10 and time.process_time() < end:
        graph.improve()
        energy = graph.compute_twice_energy()
        idle = 0 if energy < best else idle + 1
        if energy < best:
            best, found = energy, np.array([graph.get_label(i) for i in range(len(unary))])
    return Found(np.maximum(found, 0), bound, False, build)


# ---- large moves --------------------------------------------------------------------------------------

#: gco sums costs in 32-bit integers and refuses terms above this
GCO_LARGEST = 10_000_000


def gco_moves(problem: Any, seed: int, effort: float, swap: bool = False, same_start: bool = False) -> Found:
    """gco-wrapper on integers scaled by us: its float interface keeps three digits of the edge weights.

    It starts with label 0 everywhere, or as ours does with the labels of the lowest unary costs.
    """
    import gco

    tables, weights = getattr(problem, "tables", None), getattr(problem, "weights", None)
    if tables is None or len(tables) != 1 or not bool((weights == weights[0]).all()):
        raise Unsuitable("more than one table of pairwise costs")
    unary, table = problem.unary.double().numpy(), float(weights[0]) * tables[0].double().numpy()
    if not (np.isfinite(table).all() and np.isfinite(unary).all()):
        raise Unsuitable("forbidden labels")
    if (np.diag(table) != 0).any() or (table < 0).any() or (table != table.T).any():
        raise Unsuitable("pairwise costs are not a semi-metric")
    began = time.process_time()
    unary = unary - unary.min(1, keepdims=True)
    scale = GCO_LARGEST / max(unary.max(), table.max(), 1e-300) / 2
    graph = gco.GCO()
    graph.create_general_graph(*unary.shape, energy_is_float=False)
    graph.set_data_cost(np.rint(unary * scale))
    low, high = np.sort(problem.edges.numpy(), axis=1).T
    graph.set_all_neighbors(low, high, np.ones(len(low)))
    graph.set_smooth_cost(np.ceil(table * scale))  # rounding up keeps the triangle inequality
    for i, label in enumerate(unary.argmin(1).tolist() if same_start else []):
        graph.init_label_at_site(i, label)
    build = time.process_time() - began
    graph.swap(-1) if swap else graph.expansion(-1)
    labels = graph.get_labels().astype(np.int64)
    graph.destroy_graph()
    return Found(labels, build=build)


# ---- the table ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A peer: its name, which of our solvers it is measured against, its package and module, and how it is called.

    The effort of a `search` is fitted to a budget of CPU time, with each of its `settings`; the best ones are taken.
    """

    name: str
    rival: str
    package: str
    module: str
    run: Callable[..., Found]
    search: bool = False
    settings: tuple[dict[str, Any], ...] = ({},)

    def version(self) -> str | None:
        """Return the version that is installed, or None."""
        try:
            version = importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None
        importlib.import_module(self.module)
        return version


ANNEALING_SETTINGS = (
    {"reads": 1},
    {"reads": 1, "betas": (0.2, 10.0)},
    {"reads": 1, "betas": (0.6, 6.0)},
    {"reads": 1, "betas": (0.6, 10.0), "beta_schedule_type": "linear"},
    {"reads": 4, "betas": (0.6, 6.0)},
    {"reads": 1, "betas": (0.6, 6.0), "randomize_order": True},
)
PEERS = (
    Peer("PyMaxflow", "graph-cut", "PyMaxflow", "maxflow", pymaxflow),
    Peer("thinqpbo", "qpbo", "thinqpbo", "thinqpbo", thinqpbo),
    Peer("gco expansion", "expansion", "gco-wrapper", "gco", gco_moves),
    Peer("gco swap", "swap", "gco-wrapper", "gco", partial(gco_moves, swap=True)),
    Peer("gco swap, our start", "swap", "gco-wrapper", "gco", partial(gco_moves, swap=True, same_start=True)),
    Peer(
        "dwave annealing",
        "parallel-annealing",
        "dwave-samplers",
        "dwave.samplers",
        dwave_annealing,
        True,
        ANNEALING_SETTINGS,
    ),
    Peer("dwave tabu", "tabu", "dwave-samplers", "dwave.samplers", dwave_tabu, True),
    Peer("dwave greedy", "greedy", "dwave-samplers", "dwave.samplers", dwave_greedy, True),
    Peer("pytoulbar2", "toulbar2", "pytoulbar2", "pytoulbar2", toulbar2),
)
