"""Descent on the layers of networks in which two weights of a row change together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsLayer, SweepReport
from mrfq.problems.layer_pairs import PARTNERS, PairDescent
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive
from mrfq.solvers.gptq import check_start, first_labels, too_many_levels


@dataclass
class PairState(State):
    """The descent."""

    descent: PairDescent | None = None


@dataclass(frozen=True)
class PairMoves(Solver[PairState]):
    """Descent on a layer by pairs: two weights of a row take the labels that are best for all the others.

    A weight often cannot leave its level unless another one, coupled to it, makes good for it at once: ICM is stuck
    there. Each column is paired with those it is most strongly correlated with.

    Parameters
    ----------
    partners : int
        Of each column: those with the largest :math:`|H_{ij}| / (H_{ii} H_{jj})^{1/2}`.
    start : {"given", "gptq"}
        Where the run begins; "gptq" is charged one oracle call.

    Notes
    -----
    The energy never rises. The run converges, and then no change of one weight, and of no weight together with one of
    its partners, lowers the energy beyond rounding. A step pairs every weight with one partner and is charged one
    oracle call; it runs on the CPU, rows in parallel, in double precision.

    Examples
    --------
    >>> from mrfq import solve
    >>> from mrfq.layerwise.instances import synthetic_layer
    >>> layer = synthetic_layer(8, 32, "2bit", seed=0)
    >>> solve(layer, PairMoves()).energy < solve(layer, "icm").energy
    True
    """

    needs = frozenset({Capability.LAYER})
    max_iters = None
    reference = "Kernighan and Lin, Bell System Technical Journal 1970; Andres et al., The Lazy Flipper, ECCV 2012"
    use_when = "a layer has good labels already, from GPTQ or layer-mean-field, and a few percent more are wanted"

    partners: int = PARTNERS
    start: Literal["given", "gptq"] = "given"

    def __post_init__(self) -> None:
        positive(self, partners=self.partners)
        check_start(self, self.start)

    def accepts(self, problem: Problem) -> str | None:
        return too_many_levels(problem) if self.start == "gptq" else None

    def init(self, oracle: Oracle, start: Tensor) -> PairState:
        layer, labels = cast(SupportsLayer, oracle.problem), first_labels(oracle, start, self.start)
        rows = labels.view(layer.target.shape)
        descent = PairDescent.at(layer.target, layer.gram, layer.values, rows, self.partners)
        return PairState(labels=labels, descent=descent)

    def step(self, oracle: Oracle, state: PairState) -> PairState:
        descent = cast(PairDescent, state.descent)
        change, changed = descent.step()
        oracle.calls += 1
        state.labels = descent.labels.view(-1).to(oracle.problem.device, copy=True)
        state.sweep = SweepReport(change, changed, exact=True)
        state.status = Status.CONVERGED if descent.done else None
        return state
