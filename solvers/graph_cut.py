"""Graph cuts: the exact minimum of a submodular energy of two labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsGraph
from mrfq.solution import Status, meets
from mrfq.solver import Solver, State
from mrfq.solvers.cut_kernels import Choice, GraphCosts, choose, cost_range, first_not_submodular
from mrfq.solvers.max_flow import Backend, Cut, check_backend, minimum_cut

Labels = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

#: bounds are lowered by this fraction of the numbers they are sums of, which is more than rounding can add
MARGIN = 2.0**-46


@dataclass(frozen=True)
class GraphCut(Solver[State]):
    """The exact minimum of a submodular energy of two labels, by one minimum cut.

    Parameters
    ----------
    backend : {"auto", "pymaxflow", "scipy"}
        Of the maximum flow; "auto" takes PyMaxflow if it is installed.

    Notes
    -----
    An edge is submodular if `theta(0, 0) + theta(1, 1) <= theta(0, 1) + theta(1, 0)`; parallel edges are added up
    first. Labels that do not exist or are forbidden do not count, so that more labels are fine as long as every
    variable has two that are allowed.

    Examples
    --------
    >>> import mrfq
    >>> magnet = mrfq.PairwiseMRF.ising([0.3, -0.1, -0.1], 1.0, [[0, 1], [1, 2]])
    >>> solution = mrfq.solve(magnet, GraphCut())
    >>> solution.labels.tolist(), solution.proved
    ([1, 1, 1], True)
    """

    needs = frozenset({Capability.GRAPH})
    reference = "Greig, Porteous and Seheult, Exact Maximum A Posteriori Estimation for Binary Images, JRSS B 1989"
    use_when = "there are two labels and neighbours attract each other: exact, and fast"

    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_backend(self.backend)

    def accepts(self, problem: Problem) -> str | None:
        reason = more_than_two_labels(problem)
        if reason:
            return reason
        if not binary_choice(problem).flipped.any():
            return None
        low, high = two_labels(problem)
        costs = merge_parallel_edges(graph_costs(cast(SupportsGraph, problem)))
        return _not_submodular(costs, int(first_not_submodular(low, high, costs)), low, high)

    def init(self, oracle: Oracle, start: Tensor) -> State:
        return State(labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: State) -> State:
        problem = oracle.problem
        low, high = two_labels(problem)
        costs, choice = graph_costs(cast(SupportsGraph, problem)), binary_choice(problem)
        cut = cut_choice(choice, self.backend)
        oracle.calls += 1
        labels = low.copy()
        labels[choice.active[cut.side]] = high[choice.active[cut.side]]
        state.labels = torch.from_numpy(labels).to(problem.device)
        energy = oracle.energy(state.labels)
        state.bound = proved_bound(choice, cut.value, costs.highest)
        # They differ by rounding only, unless costs cancel that are larger than their sum by many orders.
        proved = meets(energy, state.bound)
        state.bound = energy if proved else state.bound
        state.status = Status.OPTIMAL if proved else Status.CONVERGED
        return state


#: costs and choices prepared for problems that are still in use
_known: WeakKeyDictionary[SupportsGraph, GraphCosts] = WeakKeyDictionary()
_choices: WeakKeyDictionary[Problem, Choice] = WeakKeyDictionary()


def binary_choice(problem: Problem) -> Choice:
    """Return the choice between the two labels of every variable; `flipped` where edges are not submodular.

    Parallel edges are merged only if some edge is not submodular by itself.
    """
    if problem not in _choices:
        low, high = two_labels(problem)
        costs = graph_costs(cast(SupportsGraph, problem))
        choice = Choice(*choose(low, high, costs))
        if choice.flipped.any():
            choice = Choice(*choose(low, high, merge_parallel_edges(costs)))
        _choices[problem] = choice
    return _choices[problem]


def graph_costs(problem: SupportsGraph) -> GraphCosts:
    """Return the costs of a pairwise model for the kernels, with a finite stand-in for forbidden ones."""
    if problem not in _known:
        _known[problem] = _prepare(problem)
    return _known[problem]


def _prepare(problem: SupportsGraph) -> GraphCosts:
    unary = problem.unary.to("cpu", torch.float64).numpy()
    edges = problem.edges.cpu().numpy()
    if problem.weights.dtype == torch.float64:
        tables, weights = problem.tables.cpu().numpy(), problem.weights.cpu().numpy()
    else:  # products of single-precision factors are rounded as the energy rounds them
        tables, weights = problem.edge_tables().to("cpu", torch.float64).numpy(), np.ones(len(edges))
    if len(edges) == 0:
        tables, weights = np.zeros((1, unary.shape[1], unary.shape[1])), np.zeros(0)
    spread, largest, highest = cost_range(unary, np.ones(len(unary)))
    of_pairs = cost_range(tables.reshape(len(tables), -1), weights)
    hard = 2 * (spread + of_pairs[0] + max(largest, of_pairs[1])) or 1.0
    exists, forbidden = problem_mask(problem), np.isinf(unary)
    if forbidden.any():
        unary = np.where(forbidden if exists is None else forbidden & exists, hard, unary)
    return GraphCosts(unary, edges, tables, weights, hard, highest + of_pairs[2])


def problem_mask(problem: Any) -> Mask | None:
    """Return which labels exist, (n, L), or None when all do."""
    mask = problem.label_set.mask
    return None if mask is None else cast(Mask, mask.cpu().numpy())


def two_labels(problem: Problem) -> tuple[Labels, Labels]:
    """Return the lowest and the highest label of every variable; the same one if there is only one.

    Labels that are forbidden do not count, unless all of a variable's are.
    """
    n, count = problem.shape
    allowed = _allowed(problem)
    if allowed is None:
        return np.zeros(n, np.int64), np.full(n, count - 1)
    return allowed.argmax(1), count - 1 - allowed[:, ::-1].argmax(1)


def more_than_two_labels(problem: Problem) -> str | None:
    """Return what is wrong if a variable has more than two allowed labels, else None."""
    n, count = problem.shape
    allowed = _allowed(problem)
    counts = np.full(n, count) if allowed is None else allowed.sum(1)
    if (counts <= 2).all():
        return None
    i = int(counts.argmax())
    return f"variable {i} has {counts[i]} labels, and a cut chooses between two; `expansion` handles more"


def _allowed(problem: Problem) -> Mask | None:
    unary = cast(SupportsGraph, problem).unary.cpu().numpy()
    allowed, exists = np.isfinite(unary), problem_mask(problem)
    if exists is None and allowed.all():
        return None
    exists = np.ones_like(allowed) if exists is None else exists
    allowed = allowed & exists
    return cast(Mask, np.where(allowed.any(1, keepdims=True), allowed, exists))


def merge_parallel_edges(costs: GraphCosts) -> GraphCosts:
    """Return the same costs with one edge for each pair of variables."""
    n, m = len(costs.unary), len(costs.edges)
    swapped = costs.edges[:, 0] > costs.edges[:, 1]
    edges = np.where(swapped[:, None], costs.edges[:, ::-1], costs.edges)
    pairs, number = np.unique(edges[:, 0] * n + edges[:, 1], return_inverse=True)
    if len(pairs) == m:
        return costs
    expanded = np.broadcast_to(costs.tables, (m, *costs.tables.shape[1:]))
    forbidden = np.isinf(expanded)
    weighted = np.where(forbidden, np.inf, costs.weights[:, None, None] * np.where(forbidden, 0.0, expanded))
    tables = np.zeros((len(pairs), *costs.tables.shape[1:]))
    np.add.at(tables, number, np.where(swapped[:, None, None], weighted.transpose(0, 2, 1), weighted))
    return costs._replace(edges=np.stack([pairs // n, pairs % n], 1), tables=tables, weights=np.ones(len(pairs)))


def _not_submodular(costs: GraphCosts, e: int, low: Labels, high: Labels) -> str:
    i, j = (int(end) for end in costs.edges[e])
    table = costs.tables[0 if len(costs.tables) == 1 else e]
    ends = [(a, b) for a in (low[i], high[i]) for b in (low[j], high[j])]
    forbidden, weight = math.inf, costs.weights[e]
    a, b, c, d = (forbidden if table[pair] == math.inf else float(weight * table[pair]) for pair in ends)
    return (
        f"the edge between variables {i} and {j} is not submodular, its costs [[{a:g}, {b:g}], [{c:g}, {d:g}]] have "
        f"{a:g} + {d:g} > {b:g} + {c:g}; `qpbo` handles such edges"
    )


def cut_choice(choice: Choice, backend: Backend) -> Cut:
    """Return the best choice of a submodular energy: `side` is True where the second labelling is taken."""
    least = np.minimum(choice.zero, choice.one)
    source, sink = choice.one - least, choice.zero - least
    return minimum_cut(len(least), source, sink, choice.ends, choice.forward, choice.backward, backend)


def proved_bound(choice: Choice, flow: float, highest: float) -> float:
    """Return the lower bound that a flow proves, safe from rounding; +inf if no labelling is allowed."""
    least = np.minimum(choice.zero, choice.one)
    size = abs(choice.constant) + float(np.abs(least).sum()) + flow
    bound = choice.constant + float(least.sum()) + flow - MARGIN * size
    return bound if bound <= highest else math.inf
