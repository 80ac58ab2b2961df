"""Sequential reweighted message passing on factor graphs: TRW-S for factors of any arity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsFactors
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.factor_kernels import Flat
from mrfq.problems.reduction import merge
from mrfq.solvers.factor_message_kernels import reweighted_pass
from mrfq.solvers.message_passing import Reweighted, ReweightedState


@dataclass
class FactorState(ReweightedState):
    """What each place has told its factor, (places, L), and the prepared model."""

    toward: np.ndarray | None = None
    model: FactorModel | None = None


class Factored(Problem, SupportsFactors, Protocol):
    """A problem that is a list of cost tables."""


class FactorModel:
    """A factor graph without its constant and its unary factors, which are kept aside."""

    def __init__(self, problem: Factored) -> None:
        # Forbidden costs become finite before anything is split, so that the stand-in outweighs all of the model.
        whole = FactorGraph(problem.cardinalities, merge(problem.factors()))
        finite = whole.factors(finite=True)
        self.constant = sum(float(table) for scope, table in finite if not scope)
        self.unary = np.zeros(whole.shape)
        for scope, table in finite:
            if len(scope) == 1:
                self.unary[scope[0], : len(table)] += table
        self._shut_out(problem, whole)
        #: the factors of two and more variables
        self.graph = FactorGraph(problem.cardinalities, [factor for factor in finite if len(factor.scope) > 1])
        self.flat: Flat = self.graph.compressed
        scopes = [factor.scope for factor in self.graph.factors()]
        bounds = np.array([(min(scope), max(scope)) for scope in scopes], dtype=np.int64).reshape(-1, 2)
        #: the lowest and the highest variable in the factor of each place
        self.ends = bounds[self.flat.owner]
        self.work = np.empty(max((factor.table.size for factor in self.graph.factors()), default=1))

    def _shut_out(self, problem: Factored, whole: FactorGraph) -> None:
        """Make labels that do not exist dearer than anything their variable's factors can cost."""
        n, count = whole.shape
        mask = problem.label_set.mask
        exists = torch.ones(problem.shape, dtype=torch.bool) if mask is None else mask.cpu()
        #: (n, L), of the labels that exist
        self.exists = exists & (torch.arange(problem.shape[1]) < problem.cardinalities[:, None])
        degree = np.bincount(whole.compressed.scope, minlength=n)
        dear = 2 * (degree + 1) * np.abs(whole.compressed.tables).max(initial=1.0)
        self.unary += np.where(self.exists[:, :count], 0.0, dear[:, None])

    def zeros(self) -> np.ndarray:
        """Return messages of zero, one row a place."""
        return np.zeros((len(self.flat.scope), self.unary.shape[1]))


@dataclass(frozen=True)
class SRMP(Reweighted[FactorState]):
    """Sequential reweighted message passing: TRW-S on factor graphs of any arity.

    A step is a pass over the variables in their order and one back. The bound never falls, and is that of the
    linear-programming relaxation (in which factors agree on their variables) at best. On pairwise models it is that of
    `TRWS`, which is faster there.

    Parameters
    ----------
    tol, patience
        As in `TRWS`.

    Examples
    --------
    >>> from mrfq import FactorGraph, solve
    >>> parity = np.indices((2, 2, 2)).sum(0) % 2  # an odd number of ones costs 1
    >>> graph = FactorGraph([2, 2, 2], [((0, 1, 2), parity), ((0,), [5, 0]), ((1,), [5, 0])])
    >>> solve(graph, SRMP()).proved
    True
    """

    needs = frozenset({Capability.FACTORS})
    reference = "Kolmogorov, A New Look at Reweighted Message Passing, PAMI 2015"
    use_when = "a sparse model has factors on more than two variables, and a bound is wanted"

    def init(self, oracle: Oracle, start: Tensor) -> FactorState:
        model = FactorModel(cast(Factored, oracle.problem))
        labels = oracle.problem.label_set.round(start)
        return FactorState(labels=labels, toward=model.zeros(), model=model)

    def pass_over(self, state: FactorState, forward: bool) -> tuple[float, float]:
        model = state.model
        assert model is not None
        assert state.labels is not None
        labels = state.labels.numpy()
        bound, error = reweighted_pass(state.toward, model.unary, labels, forward, model.flat, model.ends, model.work)
        return bound + model.constant, error
