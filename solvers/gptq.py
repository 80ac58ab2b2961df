"""GPTQ: the layers of a network, column after column, the error of each made good by those that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsLayer
from mrfq.problems.layer_solve import gptq
from mrfq.solution import Status
from mrfq.solver import Solver, State

#: labels are bytes
MOST_LEVELS = 256


@dataclass(frozen=True)
class GPTQ(Solver[State]):
    """GPTQ, which is Babai's nearest plane algorithm: one greedy pass over the columns of a layer.

    Parameters
    ----------
    damping : float
        This part of the mean diagonal entry of the Gram matrix is added to its diagonal.
    order : {"activation", "natural"}
        From the largest diagonal entry to the smallest, or as the columns come.

    Notes
    -----
    The start is not used. The pass works in single precision and is charged one oracle call.

    Examples
    --------
    >>> from mrfq import solve
    >>> from mrfq.problems.layer import LayerQuadratic
    >>> layer = LayerQuadratic([[0.4, 0.4]], [[1.0, 0.9], [0.9, 1.0]], [[[0.0, 1.0]]])
    >>> solve(layer, GPTQ()).labels.tolist()
    [0, 1]
    """

    needs = frozenset({Capability.LAYER})
    max_iters = None
    reference = "Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Transformers, ICLR 2023"
    use_when = "a layer is to be quantized in one pass; the start of better solvers, and the baseline they must beat"

    damping: float = 0.01
    order: Literal["activation", "natural"] = "activation"

    def __post_init__(self) -> None:
        if not 0 <= self.damping < float("inf"):
            raise InvalidParameterError(f"GPTQ: damping must be at least 0, got {self.damping}")
        if self.order not in ("activation", "natural"):
            raise InvalidParameterError(f"GPTQ: order must be 'activation' or 'natural', got {self.order!r}")

    def accepts(self, problem: Problem) -> str | None:
        return too_many_levels(problem)

    def init(self, oracle: Oracle, start: Tensor) -> State:
        return State(labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: State) -> State:
        state.labels = _labels(oracle, self.damping, self.order)
        state.status = Status.CONVERGED
        return state


def too_many_levels(problem: Problem) -> str | None:
    """Return why the blocked sweeps cannot work on a layer: its labels do not fit a byte."""
    count = problem.shape[1]
    return f"it has {count} levels, the sweeps over layers know at most {MOST_LEVELS}" if count > MOST_LEVELS else None


def check_start(owner: object, start: str) -> None:
    """Raise `InvalidParameterError` unless a run can begin there."""
    if start not in ("given", "gptq"):
        raise InvalidParameterError(f"{type(owner).__name__}: start must be 'given' or 'gptq', got {start!r}")


def first_labels(oracle: Oracle, given: Tensor, start: Literal["given", "gptq"]) -> Tensor:
    """Return the labelling (n,) that a run begins with: the given start (n, L) rounded, or that of GPTQ, one call."""
    return _labels(oracle) if start == "gptq" else oracle.problem.label_set.round(given)


def _labels(oracle: Oracle, damping: float = 0.01, order: Literal["activation", "natural"] = "activation") -> Tensor:
    layer = cast(SupportsLayer, oracle.problem)
    oracle.calls += 1
    return gptq(layer.target, layer.gram, layer.values, damping=damping, order=order).view(-1).long()
