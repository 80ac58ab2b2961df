"""Roof duality: a bound and persistent labels for any pairwise energy of two labels, by one minimum cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SupportsGraph
from mrfq.solution import Status, meets
from mrfq.solver import Solver, State, positive
from mrfq.solvers.cut_kernels import Choice, GraphCosts, choose, energy_change
from mrfq.solvers.graph_cut import (
    Labels,
    cut_choice,
    graph_costs,
    merge_parallel_edges,
    more_than_two_labels,
    proved_bound,
    two_labels,
)
from mrfq.solvers.max_flow import Backend, check_backend, minimum_cut

#: a change of energy counts as one if it exceeds this fraction of the costs it is a difference of
IMPROVEMENT = 1e-12


class RoofDual(NamedTuple):
    """What roof duality tells about a pairwise energy of two labels."""

    #: (n,) int64, -1 where undecided; some optimum has all the others
    labels: Tensor
    #: a proved lower bound of the energy
    bound: float


class Persistency(NamedTuple):
    """The roof dual of a choice: 1 for the second labelling, 0 for the first, -1 undecided, and the cut's value."""

    decided: np.ndarray[Any, np.dtype[np.int8]]
    flow: float


def roof_duality(problem: Problem, backend: Backend = "auto") -> RoofDual:
    """Return the persistent labels and the roof dual bound of a pairwise problem of two labels.

    Parameters
    ----------
    problem : Problem
        With an explicit pairwise graph; every variable has at most two allowed labels.
    backend : {"auto", "pymaxflow", "scipy"}
        Of the maximum flow.

    Returns
    -------
    RoofDual
        Some optimum has all the decided labels together, and overwriting any labelling with them never raises its
        energy (autarky). A submodular energy is decided altogether; in any other, every optimum has the labels that
        are decided (strong persistency).

    Raises
    ------
    InvalidProblemError
        No pairwise graph, or more than two labels.

    Notes
    -----
    Hammer, Hansen and Simeone, Roof duality, complementation and persistency, 1984; the network is that of
    Kolmogorov and Rother, Minimizing non-submodular functions with graph cuts, PAMI 2007, section 2.

    Examples
    --------
    >>> import mrfq
    >>> cycle = mrfq.generators.frustrated_cycle(5, seed=1)
    >>> roof_duality(cycle).labels.tolist()
    [-1, -1, -1, -1, -1]
    """
    if not isinstance(problem, SupportsGraph):
        raise InvalidProblemError(f"roof duality needs an explicit pairwise graph, {type(problem).__name__} has none")
    reason = more_than_two_labels(problem)
    if reason:
        raise InvalidProblemError(f"roof duality needs two labels: {reason}")
    low, high = two_labels(problem)
    costs = merge_parallel_edges(graph_costs(problem))
    decided, bound = _roof_dual(costs, low, high, backend)
    labels = np.where(low == high, low, np.choose(decided + 1, [np.full(len(low), -1), low, high]))
    return RoofDual(torch.from_numpy(labels).to(problem.device), bound)


def _roof_dual(costs: GraphCosts, low: Labels, high: Labels, backend: Backend) -> tuple[Any, float]:
    choice = Choice(*choose(low, high, costs))
    part = persistency(choice, backend)
    decided = np.full(len(low), -1)
    decided[choice.active] = part.decided
    return decided, proved_bound(choice, part.flow, costs.highest)


def persistency(choice: Choice, backend: Backend) -> Persistency:
    """Return the roof dual of a choice between two labellings."""
    if not choice.flipped.any():
        cut = cut_choice(choice, backend)
        return Persistency(cut.side.astype(np.int8), cut.value)
    # Each variable y has a mirror node for 1 - y. Every cost stands twice: once with the nodes, once mirrored.
    k = len(choice.zero)
    least = np.minimum(choice.zero, choice.one)
    source, sink = choice.one - least, choice.zero - least
    tail, head = choice.ends.T
    head = np.where(choice.flipped, head + k, head)
    mirrored = np.where(choice.flipped, head - k, head + k), tail + k
    ends = np.stack([np.concatenate([tail, mirrored[0]]), np.concatenate([head, mirrored[1]])], 1)
    forward, backward = np.tile(choice.forward, 2), np.tile(choice.backward, 2)
    terminals = np.concatenate([source, sink]), np.concatenate([sink, source])
    side, value = minimum_cut(2 * k, *terminals, ends, forward, backward, backend)
    # The sink's side is the smallest there is: what it holds, every minimum cut holds, and so does every optimum.
    one, zero = side[:k] & ~side[k:], side[k:] & ~side[:k]
    return Persistency(np.where(one, 1, np.where(zero, 0, -1)).astype(np.int8), value / 2)


def fuse(costs: GraphCosts, labels: Labels, first: Labels, second: Labels, backend: Backend) -> tuple[Labels, bool]:
    """Return `labels` improved by taking labels from two labellings, and whether anything is left undecided.

    `labels` must agree with one of the two everywhere. The energy never rises: a submodular choice is made by a cut,
    of any other only what is persistent is taken.
    """
    choice = Choice(*choose(first, second, costs))
    if len(choice.active) == 0:
        return labels, False
    decided = persistency(choice, backend).decided
    taken, dropped = choice.active[decided == 1], choice.active[decided == 0]
    fused = labels.copy()
    fused[taken], fused[dropped] = second[taken], first[dropped]
    change, size = energy_change(labels, fused, costs)
    return (fused if change < -IMPROVEMENT * size else labels), bool((decided < 0).any())


@dataclass
class RoofState(State):
    """The variables that are still open, and the number of steps since the last improvement."""

    open: Tensor | None = None
    idle: int = 0


@dataclass(frozen=True)
class QPBO(Solver[RoofState]):
    """Roof duality, then improvement of what it leaves undecided.

    The first step gives the bound and takes the persistent labels; the undecided variables keep the start's. Each
    further step fixes undecided variables at their present labels, in random order, 1, 2, 4, ... of them until only
    1 is free, or roof duality decides all that are, and takes what is persistent along the way: QPBO-I of the paper.

    Parameters
    ----------
    patience : int
        The run has converged after so many steps without improvement.
    backend : {"auto", "pymaxflow", "scipy"}
        Of the maximum flow.

    Notes
    -----
    The energy never rises. If all variables are decided, the labelling is optimal.
    """

    needs = frozenset({Capability.GRAPH})
    reference = "Rother, Kolmogorov, Lempitsky and Szummer, Optimizing Binary MRFs via Extended Roof Duality, CVPR 2007"
    use_when = "there are two labels and few neighbours repel each other: a bound, and labels proved to be optimal"

    patience: int = 10
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        positive(self, patience=self.patience)
        check_backend(self.backend)

    def accepts(self, problem: Problem) -> str | None:
        return more_than_two_labels(problem)

    def init(self, oracle: Oracle, start: Tensor) -> RoofState:
        return RoofState(labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: RoofState) -> RoofState:
        costs = merge_parallel_edges(graph_costs(cast(SupportsGraph, oracle.problem)))
        if state.open is None:
            return self._first_step(oracle, state, costs)
        oracle.calls += 1
        labels = cast(Tensor, state.labels).cpu().numpy()
        improved = self._improve(oracle, costs, labels, state.open)
        state.idle = 0 if (improved != labels).any() else state.idle + 1
        state.labels = torch.from_numpy(improved).to(oracle.problem.device)
        state.status = Status.CONVERGED if state.idle >= self.patience else None
        return state

    def _first_step(self, oracle: Oracle, state: RoofState, costs: GraphCosts) -> RoofState:
        low, high = two_labels(oracle.problem)
        decided, state.bound = _roof_dual(costs, low, high, self.backend)
        oracle.calls += 2
        start = cast(Tensor, state.labels).cpu().numpy()
        start = np.where(low == high, low, start)
        # A start may be a forbidden label, which is neither of the two.
        start = np.where((start == low) | (start == high), start, low)
        labels = np.choose(decided + 1, [start, low, high])
        state.labels = torch.from_numpy(labels).to(oracle.problem.device)
        state.open = torch.from_numpy(((decided < 0) & (low != high)).nonzero()[0])
        energy = oracle.energy(state.labels)
        if meets(energy, state.bound):
            state.bound, state.status = energy, Status.OPTIMAL
        elif len(state.open) == 0:
            state.status = Status.CONVERGED
        return state

    def _improve(self, oracle: Oracle, costs: GraphCosts, labels: Labels, undecided: Tensor) -> Labels:
        """Return the labelling after one pass over the undecided variables in random order."""
        low, high = two_labels(oracle.problem)
        order = undecided[torch.randperm(len(undecided), generator=oracle.generator)].numpy()
        for fixed in _numbers_fixed(len(order)):
            free = order[fixed:]
            first, second = labels.copy(), labels.copy()
            first[free], second[free] = low[free], high[free]
            labels, left = fuse(costs, labels, first, second, self.backend)
            oracle.calls += 2
            if not left:
                break
        return labels


def _numbers_fixed(n: int) -> list[int]:
    """Return 1, 2, 4, ... up to half of n, then n less ... 4, 2, 1: dense models are decided only near the end.

    Examples
    --------
    >>> _numbers_fixed(20)
    [1, 2, 4, 8, 12, 16, 18, 19]
    """
    powers = [2**k for k in range(n.bit_length()) if 2**k < n]
    return sorted({p for p in powers if 2 * p <= n} | {n - p for p in powers if 2 * p <= n})
