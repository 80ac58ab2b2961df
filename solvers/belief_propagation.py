"""Max-product belief propagation (min-sum, in costs): sequential, and flooding with damping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, SupportsGraph
from mrfq.problems.compressed import Pairwise
from mrfq.solution import Status
from mrfq.solver import Solver, State
from mrfq.solvers.factor_message_kernels import max_product_pass
from mrfq.solvers.factor_messages import Factored, FactorModel
from mrfq.solvers.message_graph import MessageGraph, message_graph
from mrfq.solvers.message_kernels import pass_messages


@dataclass
class BeliefState(State):
    """Messages, and the model prepared for the pairwise kernel or for that of factors."""

    messages: np.ndarray | None = None
    graph: MessageGraph | None = None
    toward: np.ndarray | None = None
    model: FactorModel | None = None


@dataclass(frozen=True)
class MaxProduct(Solver[BeliefState]):
    """Max-product belief propagation, sequential: a pass over the variables in their order and one back a step.

    Parameters
    ----------
    tol : float
        The run has converged when no message changes by more in a step.

    Notes
    -----
    Exact on trees once messages have crossed them. On graphs with cycles there is no bound, and it may not
    converge. Models with a pairwise graph use messages in O(L) where their tables allow it.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> chain = generators.chain(n=7, labels=3, seed=0)
    >>> solve(chain, MaxProduct()).energy == solve(chain, "exhaustive").energy
    True
    """

    needs = frozenset({Capability.FACTORS})
    reference = "Pearl, Probabilistic Reasoning in Intelligent Systems, 1988, ch. 5"
    use_when = "a tree, or a sparse graph with few and long cycles"

    tol: float = 1e-9

    def __post_init__(self) -> None:
        _check_tol(self, self.tol)

    def init(self, oracle: Oracle, start: Tensor) -> BeliefState:
        problem = oracle.problem
        state = BeliefState(labels=problem.label_set.round(start).cpu())
        if isinstance(problem, SupportsGraph):
            state.graph = message_graph(cast(Pairwise, problem))
            state.messages = np.zeros((len(state.graph.neighbour), problem.shape[1]))
        else:
            state.model = FactorModel(cast(Factored, problem))
            state.messages, state.toward = state.model.zeros(), state.model.zeros()
        return state

    def step(self, oracle: Oracle, state: BeliefState) -> BeliefState:
        oracle.calls += 2
        state.labels = cast(Tensor, state.labels).clone()
        labels, messages = state.labels.numpy(), cast(np.ndarray, state.messages)
        before = messages.copy()
        for forward in (False, True):
            if state.graph is not None:
                pass_messages(messages, labels, forward, False, state.graph)
            else:
                model = cast(FactorModel, state.model)
                max_product_pass(messages, state.toward, model.unary, labels, forward, model.flat, model.work)
        if not messages.size or float(np.abs(messages - before).max()) <= self.tol:
            state.status = Status.CONVERGED
        return state


@dataclass
class Group:
    """Factors of one shape: tables (k, L1, ..., Lr) and the numbers of their places, (k, r)."""

    tables: Tensor
    places: Tensor


@dataclass
class FloodingState(State):
    """Messages of factors (places, L), the variable of each place, and the model on the problem's device."""

    messages: Tensor | None = None
    variable: Tensor | None = None
    costs: Tensor | None = None
    groups: list[Group] = field(default_factory=list)


@dataclass(frozen=True)
class ParallelMaxProduct(Solver[FloodingState]):
    """Max-product belief propagation, flooding: all messages at once, damped; on the device of the problem.

    Parameters
    ----------
    damping : float
        Weight of the old message in the new one, at least 0 and below 1. Without damping, graphs with cycles
        often make it oscillate.
    tol : float
        The run has converged when no message changes by more in a step.
    """

    needs = frozenset({Capability.FACTORS})
    reference = "Murphy, Weiss and Jordan, Loopy Belief Propagation for Approximate Inference, UAI 1999"
    use_when = "max-product on a GPU; on a CPU the sequential form needs fewer passes"

    damping: float = 0.5
    tol: float = 1e-9

    def __post_init__(self) -> None:
        _check_tol(self, self.tol)
        if not 0 <= self.damping < 1:
            raise InvalidParameterError(f"ParallelMaxProduct: damping must be in [0, 1), got {self.damping}")

    def init(self, oracle: Oracle, start: Tensor) -> FloodingState:
        problem = oracle.problem
        model = FactorModel(cast(Factored, problem))
        device = problem.device
        costs = torch.full(problem.shape, torch.inf, dtype=torch.float64)
        costs[:, : model.unary.shape[1]] = torch.from_numpy(model.unary)
        costs = costs.masked_fill(~model.exists, torch.inf).to(device)
        variable = torch.from_numpy(model.flat.scope).to(device)
        return FloodingState(
            labels=problem.label_set.round(start),
            messages=torch.zeros((len(variable), problem.shape[1]), dtype=torch.float64, device=device),
            variable=variable,
            costs=costs,
            groups=_groups(model, device),
        )

    def step(self, oracle: Oracle, state: FloodingState) -> FloodingState:
        oracle.calls += 1
        messages, variable = cast(Tensor, state.messages), cast(Tensor, state.variable)
        costs = cast(Tensor, state.costs)
        toward = costs.index_add(0, variable, messages)[variable] - messages
        new = messages.clone()
        for group in state.groups:
            _send(group, toward, new)
        state.messages = new.lerp(messages, self.damping)
        state.labels = costs.index_add(0, variable, state.messages).argmin(1)
        if not messages.numel() or float((state.messages - messages).abs().max()) <= self.tol:
            state.status = Status.CONVERGED
        return state


def _groups(model: FactorModel, device: torch.device) -> list[Group]:
    """Return the factors grouped by shape, so that those of a group send their messages together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    factors = model.graph.factors()
    for f, factor in enumerate(factors):
        by_shape.setdefault(factor.table.shape, []).append(f)
    first = torch.from_numpy(model.flat.first)
    groups = []
    for shape, members in by_shape.items():
        tables = torch.from_numpy(np.stack([factors[f].table for f in members])).to(device)
        groups.append(Group(tables, (first[members][:, None] + torch.arange(len(shape))).to(device)))
    return groups


def _send(group: Group, toward: Tensor, out: Tensor) -> None:
    """Write the messages of a group's factors to `out` (places, L)."""
    arity = group.places.shape[1]
    told = []
    total = group.tables
    for axis in range(arity):
        count = group.tables.shape[axis + 1]
        shape = [-1, *(count if k == axis else 1 for k in range(arity))]
        told.append(toward[group.places[:, axis], :count])
        total = total + told[axis].reshape(shape)
    for axis in range(arity):
        others = [k + 1 for k in range(arity) if k != axis]
        message = total.amin(others) - told[axis]
        out[group.places[:, axis], : message.shape[1]] = message - message.amin(1, keepdim=True)


def _check_tol(owner: object, tol: float) -> None:
    if not tol >= 0:
        raise InvalidParameterError(f"{type(owner).__name__}: tol must be at least 0, got {tol}")
