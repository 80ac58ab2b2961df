"""Annealed mean-field on the layers of networks, with a temperature of its own for every weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsLayer
from mrfq.problems.layer_sweeps import Columns, Sweep
from mrfq.schedules import Geometric, Schedule
from mrfq.solution import Status
from mrfq.solver import Solver, State
from mrfq.solvers.gptq import check_start, first_labels, too_many_levels


@dataclass
class LayerState(State):
    """The layer in the form of the sweeps, and where they are."""

    place: Sweep | None = None


@dataclass(frozen=True)
class LayerMeanField(Solver[LayerState]):
    r"""Sequential mean-field on a layer, annealed at a temperature that is scaled for every weight; then ICM.

    With x the best value of a weight given all others, its label a has the probability
    :math:`p_a \propto e^{-\beta (x - q_a)^2 / s^2}`, where s is the size of the quantization step. The conditional cost
    of the label is :math:`H_{jj} (x - q_a)^2`: the columns of a layer differ in it by orders of magnitude, and at one
    temperature for all some would be frozen while others are still undecided.

    Parameters
    ----------
    beta : Schedule
        Inverse temperature of squared distances in units of the quantization step (the square root of twelve times
        the mean squared distance of the targets to their nearest levels).
    descent : float
        The last part of the run belongs to ICM, which ends it as soon as nothing changes.
    start : {"given", "gptq"}
        Where the run begins; "gptq" is charged one oracle call.

    Notes
    -----
    A given start is taken at its mean values: the target itself by default, or a labelling. Sweeps visit the
    columns from the largest diagonal entry of the Gram matrix to the smallest, in single precision, on the device of
    the layer; one sweep is one oracle call.

    Examples
    --------
    >>> from mrfq import solve
    >>> from mrfq.layerwise.instances import synthetic_layer
    >>> layer = synthetic_layer(8, 32, "2bit", seed=0)
    >>> solve(layer, LayerMeanField(), max_iters=60).energy < solve(layer, "icm").energy
    True
    """

    needs = frozenset({Capability.LAYER})
    max_iters = 100
    reference = "Wainwright and Jordan, Graphical Models, Exponential Families, and Variational Inference, 2008, ch. 5"
    use_when = "the labels of a layer are to be good: far below GPTQ's error, for some ten times its work"

    beta: Schedule = Geometric(2.0, 40.0)
    descent: float = 0.1
    start: Literal["given", "gptq"] = "given"

    def __post_init__(self) -> None:
        if not 0 <= self.descent < 1:
            raise InvalidParameterError(f"LayerMeanField: descent must be at least 0 and below 1, got {self.descent}")
        check_start(self, self.start)

    def accepts(self, problem: Problem) -> str | None:
        return too_many_levels(problem)

    def init(self, oracle: Oracle, start: Tensor) -> LayerState:
        layer, labels = cast(SupportsLayer, oracle.problem), first_labels(oracle, start, self.start)
        columns = Columns.prepare(layer.target, layer.gram, layer.values)
        chosen = columns.arrange(labels.view(layer.target.shape).to(torch.uint8))
        values = columns.decode(chosen)
        if self.start == "given":
            values = oracle.problem.label_set.mean(start).view(layer.target.shape).T[columns.order].float()
        return LayerState(labels=labels, place=Sweep.at(columns, values, chosen), beta=self.beta(0.0, 0))

    def step(self, oracle: Oracle, state: LayerState) -> LayerState:
        place, last = cast(Sweep, state.place), 1 - self.descent
        if oracle.progress <= last:
            state.beta = self.beta(oracle.progress / last, oracle.iteration)
            place.run("softmax", state.beta)
        elif place.run("argmin") == 0:
            state.status = Status.CONVERGED
        oracle.calls += 1
        state.labels = place.columns.restore(place.labels).view(-1).long()
        return state
