"""Bucket elimination: exact min-sum dynamic programming on any factors, where the graph is narrow enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability, Factor, Problem, SupportsFactors
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive
from mrfq.solvers.elimination_kernels import eliminate
from mrfq.solvers.elimination_orders import Order, elimination_order

#: work of a step, in table entries: about a second
STEP = 2**26
#: what a variable costs however small its table, in table entries
OVERHEAD = 2000

#: a table in the bucket of its first variable: positions in the order, ascending, and the costs, flattened
Table = tuple[tuple[int, ...], np.ndarray]
#: separator of an eliminated variable, and its best label for each labelling of the separator, flattened
Back = tuple[tuple[int, ...], np.ndarray]


@dataclass
class EliminationState(State):
    """Buckets of tables by position in the order; back-pointers of the variables that are gone."""

    sequence: tuple[int, ...] = ()
    cardinalities: tuple[int, ...] = ()
    buckets: list[list[Table]] = field(default_factory=list)
    back: list[Back] = field(default_factory=list)


@dataclass(frozen=True)
class Elimination(Solver[EliminationState]):
    r"""Bucket elimination: exact, in time exponential in the width of the elimination order only.

    The variable at hand is minimised out of the sum of all tables it is in, which leaves a message on its
    neighbours, :math:`m(x_S) = \min_a \sum_t \theta_t(a, x_S)`; going back, every variable takes its best label. On
    a tree this is dynamic programming (Viterbi on a chain), in linear time.

    Parameters
    ----------
    memory : int
        Bytes for back-pointers and messages. A problem that needs more is refused before anything is allocated.

    Examples
    --------
    >>> import mrfq
    >>> tree = mrfq.generators.tree(n=200, labels=5, seed=0)
    >>> mrfq.solve(tree, Elimination()).proved
    True
    """

    needs = frozenset({Capability.FACTORS})
    reference = "Dechter, Bucket Elimination: A Unifying Framework for Reasoning, Artificial Intelligence 1999, fig. 14"
    use_when = "the graph is a tree or narrow (20 binary variables across): exact, however frustrated"

    memory: int = 2**30

    def __post_init__(self) -> None:
        positive(self, memory=self.memory)

    def accepts(self, problem: Problem) -> str | None:
        order = order_of(problem, self.memory)
        needed = memory_needed(order, problem.shape[1])
        if order.complete and needed <= self.memory:
            return None
        if not order.complete:
            return (
                f"every elimination order found has width {order.width} or more, too wide for {_readable(self.memory)}"
            )
        return (
            f"the best elimination order found has width {order.width} and needs {_readable(needed)}, "
            f"memory allows {_readable(self.memory)}"
        )

    def init(self, oracle: Oracle, start: Tensor) -> EliminationState:
        problem = cast(SupportsFactors, oracle.problem)
        sequence = order_of(oracle.problem, self.memory).sequence
        counts = problem.cardinalities.tolist()
        state = EliminationState(
            labels=oracle.problem.label_set.round(start),
            sequence=sequence,
            cardinalities=tuple(counts[v] for v in sequence),
            buckets=[[] for _ in sequence],
        )
        position = {v: p for p, v in enumerate(sequence)}
        for factor in problem.factors():
            if factor.scope:
                scope, costs = _sorted(factor, position)
                state.buckets[scope[0]].append((scope, costs))
        return state

    def step(self, oracle: Oracle, state: EliminationState) -> EliminationState:
        oracle.calls += 1
        work, feasible = 0, True
        while feasible and work < STEP and len(state.back) < len(state.sequence):
            entries, feasible = _eliminate_next(state)
            work += entries + OVERHEAD
        if not feasible:
            state.bound, state.status = float("inf"), Status.OPTIMAL
        elif len(state.back) == len(state.sequence):
            state.labels = _trace_back(state).to(oracle.problem.device)
            # The minimum up to rounding; a bound of the same kind as the energy meets it exactly.
            state.bound, state.status = oracle.energy(state.labels), Status.OPTIMAL
        if state.status is not None:
            state.buckets, state.back = [], []
        return state


#: orders found for problems that are still in use, by the memory they may take: `accepts` and `init` ask for the same
_known: WeakKeyDictionary[Problem, dict[int, Order]] = WeakKeyDictionary()


def order_of(problem: Problem, memory: int) -> Order:
    """Return the elimination order of a problem, found once; given up at a message that memory cannot hold."""
    if type(problem).__hash__ is None:  # cannot be remembered
        return _find_order(problem, memory)
    orders = _known.setdefault(problem, {})
    if memory not in orders:
        orders[memory] = _find_order(problem, memory)
    return orders[memory]


def _find_order(problem: Problem, memory: int) -> Order:
    model = cast(SupportsFactors, problem)
    # A joint table is never stored, only its message, which is smaller by the number of labels of one variable.
    limit = memory * problem.shape[1]
    return elimination_order(model.cardinalities.tolist(), (f.scope for f in model.factors()), limit)


def memory_needed(order: Order, labels: int) -> int:
    """Return the bytes that elimination allocates: back-pointers, live messages, and a copy of those being joined."""
    return _back_type(labels).itemsize * order.message_size + 2 * 8 * order.live_size


def _back_type(labels: int) -> np.dtype[Any]:
    """Return the smallest type that holds a label."""
    return np.min_scalar_type(labels - 1)


def _readable(size: int) -> str:
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min((max(size, 1).bit_length() - 1) // 10, len(units) - 1)
    return f"{size / 1024**power:,.3g} {units[power]}"


def _sorted(factor: Factor, position: dict[int, int]) -> Table:
    """Return a factor with its axes in the order of elimination."""
    scope = [position[v] for v in factor.scope]
    axes = sorted(range(len(scope)), key=scope.__getitem__)
    return tuple(sorted(scope)), factor.table.transpose(axes).ravel()


def _eliminate_next(state: EliminationState) -> tuple[int, bool]:
    """Eliminate one variable; return the entries of its joint table, and whether anything in it is allowed."""
    p = len(state.back)
    tables = state.buckets[p]
    state.buckets[p] = []  # lets go of the messages as soon as they are used
    separator = tuple(sorted({q for scope, _ in tables for q in scope if q != p}))
    axes = (p, *separator)
    shape = np.array([state.cardinalities[q] for q in axes])
    size = int(shape[1:].prod())
    message = np.empty(size)
    back = np.empty(size, _back_type(state.cardinalities[p]))
    start = np.cumsum([0] + [len(costs) for _, costs in tables])
    values = np.concatenate([costs for _, costs in tables]) if tables else np.empty(0)
    lowest = eliminate(values, start, _strides(tables, axes, state.cardinalities), shape, message, back)
    state.back.append((separator, back))
    if separator:
        state.buckets[separator[0]].append((separator, message))
    return size * int(shape[0]), lowest == 0.0


def _strides(tables: Sequence[Table], axes: Sequence[int], cardinalities: Sequence[int]) -> np.ndarray:
    """Return the (tables, axes) steps of each flat table along each axis of the joint table, 0 where it has none."""
    column = {q: k for k, q in enumerate(axes)}
    strides = np.zeros((len(tables), len(axes)), dtype=np.int64)
    for t, (scope, _) in enumerate(tables):
        step = 1
        for q in reversed(scope):
            strides[t, column[q]] = step
            step *= cardinalities[q]
    return strides


def _trace_back(state: EliminationState) -> Tensor:
    """Return the optimal labelling: the last variable first, each given those eliminated after it."""
    chosen = [0] * len(state.sequence)
    for p in reversed(range(len(chosen))):
        separator, back = state.back[p]
        index = 0
        for q in separator:
            index = index * state.cardinalities[q] + chosen[q]
        chosen[p] = int(back[index])
    labels = torch.empty(len(chosen), dtype=torch.int64)
    labels[list(state.sequence)] = torch.tensor(chosen)
    return labels
