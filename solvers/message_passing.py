"""Sequential tree-reweighted message passing (TRW-S), and what all reweighted methods share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.problems.compressed import Pairwise
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive
from mrfq.solvers.message_graph import MessageGraph, message_graph
from mrfq.solvers.message_kernels import pass_messages


@dataclass
class ReweightedState(State):
    """How long the bound has stood still."""

    #: the bound when it last rose noticeably, and the steps since
    risen: float = -math.inf
    stalled: int = 0


S = TypeVar("S", bound=ReweightedState)


@dataclass(frozen=True)
class Reweighted(Solver[S]):
    """Base of the methods that raise a lower bound by passes over the variables, there and back."""

    tol: float = 1e-9
    patience: int = 30

    def __post_init__(self) -> None:
        positive(self, patience=self.patience)
        if not self.tol >= 0:
            raise InvalidParameterError(f"{type(self).__name__}: tol must be at least 0, got {self.tol}")

    def pass_over(self, state: S, forward: bool) -> tuple[float, float]:
        """Pass messages once, write labels if forward; return a lower bound and how far rounding may have raised it."""
        raise NotImplementedError  # abstract

    def step(self, oracle: Oracle, state: S) -> S:
        oracle.calls += 2
        state.labels = cast(Tensor, state.labels).clone()
        # Labels come with the second pass, which finds fresh messages from ahead.
        bounds = [self.pass_over(state, forward) for forward in (False, True)]
        self.judge(state, max(bound - error for bound, error in bounds))
        return state

    def judge(self, state: S, bound: float) -> None:
        """Keep the bound, and stop when it has stood still for long."""
        state.bound = bound if state.bound is None else max(bound, state.bound)
        if state.bound - state.risen > self.tol * max(1.0, abs(state.bound)):
            state.risen, state.stalled = state.bound, 0
        else:
            state.stalled += 1
        if state.stalled >= self.patience:
            state.status = Status.CONVERGED


@dataclass
class MessageState(ReweightedState):
    """Messages into each half-edge (2m, L), and the prepared graph."""

    messages: np.ndarray | None = None
    graph: MessageGraph | None = None


@dataclass(frozen=True)
class TRWS(Reweighted[MessageState]):
    """Sequential tree-reweighted message passing: a labelling and a lower bound that never falls.

    A step is a pass over the variables in their order and one back. Messages through Potts and truncated linear
    tables take O(L), through others O(L^2).

    Parameters
    ----------
    tol : float
        The bound stands still when it rises by no more than `tol` times its size, or times one if that is smaller.
    patience : int
        The run has converged when the bound has stood still for so many steps.

    Notes
    -----
    The bound is that of the linear-programming relaxation at best: exact on trees, and for two labels with
    submodular costs; loose on frustrated cycles. The number given to the loop is lowered by what rounding can have
    added to it.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> solve(generators.tree(n=200, labels=5, seed=0), TRWS()).proved
    True
    """

    needs = frozenset({Capability.GRAPH})
    reference = "Kolmogorov, Convergent Tree-Reweighted Message Passing for Energy Minimization, PAMI 2006"
    use_when = "a grid or another sparse graph has strong unary costs, and a bound is wanted"

    def init(self, oracle: Oracle, start: Tensor) -> MessageState:
        graph = message_graph(cast(Pairwise, oracle.problem))
        messages = np.zeros((len(graph.neighbour), graph.unary.shape[1]))
        return MessageState(labels=oracle.problem.label_set.round(start).cpu(), messages=messages, graph=graph)

    def pass_over(self, state: MessageState, forward: bool) -> tuple[float, float]:
        assert state.labels is not None
        bound, error = pass_messages(state.messages, state.labels.numpy(), forward, True, state.graph)
        return bound, error
