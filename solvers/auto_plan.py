"""Which solver a part of a model gets, and why: the rules of `Auto`, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from mrfq.oracle import UNLIMITED
from mrfq.problem import SupportsGraph
from mrfq.solver import Solver
from mrfq.solvers.annealing import ParallelAnnealing
from mrfq.solvers.belief_propagation import MaxProduct
from mrfq.solvers.elimination import Elimination, order_of
from mrfq.solvers.factor_messages import SRMP
from mrfq.solvers.graph_cut import GraphCut
from mrfq.solvers.integer_program import IntegerProgram
from mrfq.solvers.message_passing import TRWS
from mrfq.solvers.move_making import AlphaExpansion
from mrfq.solvers.presolve import Part, is_pairwise
from mrfq.solvers.roof_duality import QPBO
from mrfq.solvers.site import ICM, SimulatedAnnealing
from mrfq.solvers.subset_icm import SubsetICM
from mrfq.solvers.tabu import TabuSearch
from mrfq.solvers.toulbar2 import Toulbar2

#: table entries of elimination that are computed at once, and as a proof
QUICK, LONG = 2**24, 2**33
#: more variables are not searched for an order at once: that would take longer than message passing
ORDERED = 5000
#: steps of message passing with a bound and without, sweeps of a first search, and its growth from round to round
PASSES, BELIEFS, SWEEPS, GROWTH = 300, 50, 2000, 4
#: a model is dense when its variables have more neighbours than this on average
DENSE = 16
#: fraction of the time left that a search for a proof may take; where the gap is large, better labels are likelier
SHARE = 0.4
#: variables of a model that toulbar2 searches when there is no time limit
SEARCHED = 500
#: columns of an integer program that is tried as a proof; a tenth without a time limit
SMALL = 20_000


@dataclass(frozen=True)
class Limits:
    """What a rule may use: bytes, seconds that are left (None without a time limit), and the round of searches."""

    memory: int
    seconds: float | None
    round: int = 0


@dataclass(frozen=True)
class Attempt:
    """A solver to run on a part, the number of its steps, a budget of oracle calls for schedules, and why."""

    solver: Solver[Any]
    why: str
    steps: int
    calls: int | None = None


def quick_elimination(part: Part, limits: Limits) -> Attempt | None:
    """Narrow graphs are solved exactly at once."""
    return _elimination(part, limits.memory, QUICK)


def long_elimination(part: Part, limits: Limits) -> Attempt | None:
    """Wider graphs are still solved exactly as long as memory holds the tables."""
    return _elimination(part, limits.memory, LONG)


def cut(part: Part, limits: Limits) -> Attempt | None:
    """Two labels that attract are a minimum cut."""
    if is_pairwise(part.problem) and GraphCut().accepts(part.problem) is None:
        return Attempt(GraphCut(), "two labels and submodular costs are a minimum cut", 1)
    return None


def messages(part: Part, limits: Limits) -> Attempt:
    """Message passing gives a bound, and on structured models a good labelling."""
    if is_pairwise(part.problem):
        return Attempt(TRWS(tol=1e-7, patience=10), "for a bound, and labels that follow it", PASSES)
    return Attempt(SRMP(tol=1e-7, patience=10), "for a bound, with tables on more than two variables", PASSES)


def beliefs(part: Part, limits: Limits) -> Attempt | None:
    """Max-product often finds better labels than the methods with a bound, where labels are many."""
    if part.problem.shape[1] == 2 and is_pairwise(part.problem):
        return None
    return Attempt(MaxProduct(tol=1e-6), "for other labels than those that follow the bound", BELIEFS)


def moves(part: Part, limits: Limits) -> Attempt | None:
    """Large moves repair what message passing leaves."""
    if not is_pairwise(part.problem):
        return Attempt(ICM(), "for single changes of the best labelling", 100)
    if part.problem.shape[1] == 2:
        return Attempt(QPBO(), "for improvements by roof duality, as two labels are not submodular here", 100)
    if part.problem.shape[1] > 256:
        return None
    return Attempt(AlphaExpansion(), "for large moves from the best labelling", 20)


def search(part: Part, limits: Limits) -> Attempt:
    """Annealing where the graph is sparse, tabu search where it is dense; longer from round to round."""
    sweeps = SWEEPS * GROWTH**limits.round
    if not is_pairwise(part.problem):
        return Attempt(SimulatedAnnealing(), "as the bound is not met", sweeps)
    if _degree(part) > DENSE and part.problem.shape[0] <= 5000:
        return Attempt(TabuSearch(), "as the bound is not met and the graph is dense", UNLIMITED, sweeps)
    return Attempt(ParallelAnnealing(), "as the bound is not met", UNLIMITED, sweeps)


def polish(part: Part, limits: Limits) -> Attempt | None:
    """Exact moves of trees and small subsets finish what a search has found."""
    if not is_pairwise(part.problem):
        return Attempt(ICM(), "for single changes of the best labelling", 100)
    return Attempt(SubsetICM(patience=50), "for exact moves of induced trees and small subsets", 200)


def integer_program(part: Part, limits: Limits) -> Attempt | None:
    """Small models are handed to branch and cut."""
    if limits.seconds is None:
        solver = IntegerProgram(columns=SMALL // 10, nodes=1000)
    else:
        solver = IntegerProgram(columns=SMALL, seconds=SHARE * limits.seconds)
    if solver.accepts(part.problem):
        return None
    return Attempt(solver, "for a proof, as the model is small", 1)


def branch_and_bound(part: Part, limits: Limits) -> Attempt | None:
    """toulbar2, where it is installed, searches for a proof; with a time limit, as long as that allows."""
    if limits.seconds is not None:
        solver, steps = Toulbar2(seconds=max(SHARE * limits.seconds, 1e-3)), 1
    elif part.problem.shape[0] <= SEARCHED:
        solver, steps = Toulbar2(backtracks=2000), 3
    else:  # its first propagation alone may take minutes
        return None
    if solver.accepts(part.problem):
        return None
    return Attempt(solver, "for a proof", steps)


Rule = Callable[[Part, Limits], Attempt | None]
RULES: dict[str, Rule] = {
    "quick elimination": quick_elimination,
    "cut": cut,
    "messages": messages,
    "beliefs": beliefs,
    "moves": moves,
    "search": search,
    "polish": polish,
    "long elimination": long_elimination,
    "integer program": integer_program,
    "branch and bound": branch_and_bound,
}
#: exact where the structure allows it, then a bound and a good labelling, then proofs
FIRST = ("cut", "quick elimination", "messages", "beliefs", "moves", "search", "polish", "fix")
PROOFS = ("long elimination", "branch and bound", "integer program")
#: once labels have been ruled out
AGAIN = ("quick elimination", "messages", "fix")
#: while there is time
MORE = ("search", "polish")


def _elimination(part: Part, memory: int, most: int) -> Attempt | None:
    solver = Elimination(memory)
    if part.problem.shape[0] > ORDERED and not _almost_a_tree(part):
        return None
    if solver.accepts(part.problem):
        return None
    order = order_of(part.problem, memory)
    if order.total_size > most:
        return None
    why = "exact, as the graph is a tree" if order.width <= 1 else f"exact, as the graph has width {order.width}"
    return Attempt(solver, why, UNLIMITED)


def _almost_a_tree(part: Part) -> bool:
    joined = sum(len(scope) - 1 for scope, _ in part.problem.factors() if scope)
    return joined <= 1.02 * part.problem.shape[0]


def _degree(part: Part) -> float:
    """Return the mean number of neighbours."""
    return 2 * len(cast(SupportsGraph, part.problem).edges) / part.problem.shape[0]
