"""The linear programming relaxation on the local marginal polytope, solved by HiGHS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsFactors
from mrfq.solution import Status, meets
from mrfq.solver import Solver, State, positive
from mrfq.solvers.local_polytope import LocalPolytope, too_many_columns


@dataclass(frozen=True)
class LinearProgram(Solver[State]):
    r"""LP relaxation on the local marginal polytope, solved by HiGHS.

    Indicators :math:`\mu_i(a)` of the labels and :math:`\mu_f(x_f)` of the configurations of each factor are relaxed
    to [0, 1], and required to agree: :math:`\sum_{x_f: x_i = a} \mu_f(x_f) = \mu_i(a)`. The relaxed labelling
    of the run are the :math:`\mu_i`; where they are integral they are optimal.

    Parameters
    ----------
    columns : int
        Largest number of indicators; a larger problem is refused.
    seconds : float, optional
        Given to HiGHS as its own limit, as a step cannot be interrupted.

    Notes
    -----
    HiGHS stops at tolerances, so its objective value proves nothing. The bound is computed from its multipliers: they
    move costs between factors and variables without changing any energy, and then the sum of the lowest cost
    of each part is a bound whatever the multipliers are (`LocalPolytope.bound`).

    Examples
    --------
    >>> import mrfq
    >>> mrfq.solve(mrfq.generators.tree(n=12, labels=3, seed=0), LinearProgram()).proved  # tight on trees
    True
    """

    needs = frozenset({Capability.FACTORS})
    reference = "Wainwright and Jordan, Graphical Models, Exponential Families, and Variational Inference, 2008, ch. 8"
    use_when = (
        "the bound of the relaxation itself is wanted, as a reference for message passing, on up to 10^5 indicators"
    )

    columns: int = 200_000
    seconds: float | None = None

    def __post_init__(self) -> None:
        positive(self, columns=self.columns, seconds=self.seconds)

    def accepts(self, problem: Problem) -> str | None:
        return too_many_columns(problem, self.columns)

    def init(self, oracle: Oracle, start: Tensor) -> State:
        return State(u=start.clone())

    def step(self, oracle: Oracle, state: State) -> State:
        oracle.calls += 1
        problem = oracle.problem
        polytope = LocalPolytope(cast(SupportsFactors, problem))
        if polytope.infeasible:
            state.bound, state.status = math.inf, Status.OPTIMAL
            return state
        solved = polytope.relax(self.seconds)
        state.bound, state.status = solved.bound, solved.status
        if solved.marginals is not None:
            state.u = torch.zeros(problem.shape, dtype=problem.dtype)
            state.u[:, : solved.marginals.shape[1]] = torch.from_numpy(solved.marginals)
            state.u = state.u.to(problem.device)
            if meets(oracle.energy(problem.label_set.round(state.u)), solved.bound):
                state.status = Status.OPTIMAL
        return state
