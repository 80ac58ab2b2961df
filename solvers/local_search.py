"""ICM where the linearisation is only local: moves are proposed by the model and kept only if the energy falls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive


@dataclass
class BlockState(State):
    """The proposed moves, best first, at the current labelling; None when they must be computed anew."""

    energy: float = 0.0
    variables: Tensor | None = None
    targets: Tensor | None = None
    block: int = 0


@dataclass(frozen=True)
class BlockICM(Solver[BlockState]):
    """Iterated conditional modes in blocks, for energies that are not multilinear, such as a network's loss.

    The linearisation predicts what each single change of a label does: `g (l - w)`, with the diagonal curvature
    `g (l - w) + 1/2 h (l - w)^2` when asked. The most promising changes are applied as one block and kept only if
    the true energy falls; otherwise the block is halved. A single change that was tried and did not help is
    struck off until something else changes.

    Parameters
    ----------
    curvature : bool
        Ask the problem for its diagonal curvature.
    fraction : float
        Size of the first block, as a fraction of the proposed changes.
    tol : float
        A change is proposed if its predicted gain is larger.

    Notes
    -----
    The energy falls at every accepted block. The run converges at a labelling none of whose single changes both
    is predicted to improve and does.
    """

    reference = "Besag, JRSS B 1986, with the loss linearised as in Ajanthan et al., ICCV 2019"
    use_when = "polishing a quantized network on its training loss; any problem with a gradient"

    curvature: bool = False
    fraction: float = 0.1
    tol: float = 1e-12

    def __post_init__(self) -> None:
        positive(self, fraction=self.fraction)

    def required(self) -> frozenset[Capability]:
        return frozenset({Capability.CURVATURE}) if self.curvature else frozenset()

    def init(self, oracle: Oracle, start: Tensor) -> BlockState:
        labels = oracle.problem.label_set.round(start)
        return BlockState(labels=labels, energy=oracle.energy(labels))

    def step(self, oracle: Oracle, state: BlockState) -> BlockState:
        labels = cast(Tensor, state.labels)
        if state.variables is None:
            state.variables, state.targets, distinct = self.proposals(oracle, labels)
            first = max(1, int(self.fraction * distinct))
            state.block = min(2 * state.block or first, max(distinct, 1))
        variables, targets = state.variables, cast(Tensor, state.targets)
        if len(variables) == 0:
            state.status = Status.CONVERGED
            return state
        trial = labels.clone()
        trial[variables[: state.block]] = targets[: state.block]
        energy = oracle.energy(trial)
        if energy < state.energy:
            state.labels, state.energy, state.variables = trial, energy, None
        elif state.block > 1:
            state.block //= 2
        else:
            state.variables, state.targets = variables[1:], targets[1:]
            if len(variables) == 1:
                state.status = Status.CONVERGED
        return state

    def proposals(self, oracle: Oracle, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return variables and new labels of the single changes that are predicted to help, and how many are distinct.

        First come the best changes of distinct variables, then the other changes, each kind best first.
        """
        label_set = oracle.problem.label_set
        _, g = oracle.linearize_fully(label_set.one_hot(labels, oracle.problem.dtype))
        change = g - g.gather(1, labels[:, None])
        if self.curvature:
            levels = torch.nan_to_num(label_set.rows()).to(g.dtype)
            move = levels - label_set.decode(labels).to(g.dtype)[:, None]
            change = change + 0.5 * oracle.curvature(labels)[:, None] * move**2
        if label_set.mask is not None:
            change = change.masked_fill(~label_set.mask, torch.inf)
        change.scatter_(1, labels[:, None], 0.0)
        gain, target = (-change).max(1)
        order = gain.argsort(descending=True, stable=True)
        order = order[gain[order] > self.tol]
        rest = change.scatter(1, target[:, None], 0.0)
        variables, targets = (-rest > self.tol).nonzero().unbind(1)
        later = rest[variables, targets].argsort(stable=True)
        return torch.cat([order, variables[later]]), torch.cat([target[order], targets[later]]), len(order)
