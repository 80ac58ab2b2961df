"""What can be decided about a model before any search: smaller, independent parts with the same optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mrfq.problem import Problem, SupportsFactors, SupportsGraph
from mrfq.problems.dominance import dominated
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.reduction import Reduction, clamp, components, propagate, reduce, split
from mrfq.solution import meets
from mrfq.solvers.factor_messages import Factored
from mrfq.solvers.graph_cut import GraphCut
from mrfq.solvers.roof_duality import roof_duality

#: models with more table entries, or more tables, are taken as they are: ruling labels out would take too long
ENTRIES, FACTORS = 2_000_000, 60_000
#: rounds of ruling labels out, each of which makes the next possible
ROUNDS = 50


@dataclass
class Part:
    """A connected part of a model, the best labelling of it, and what is proved.

    `problem` may shrink as labels are ruled out; `labels` is always a labelling of the part as it was first.
    """

    #: of the presolved model
    variables: Tensor
    problem: Factored
    labels: Tensor
    energy: float = math.inf
    bound: float = -math.inf
    #: from the part as it was first to `problem`
    reductions: list[Reduction] = field(default_factory=list)

    @property
    def proved(self) -> bool:
        """Whether nothing is left to do."""
        return meets(self.energy, self.bound)

    def offer(self, labels: Tensor, energy: float) -> bool:
        """Keep a labelling of `problem` if it is better, and say whether it is."""
        if energy < self.energy:
            for reduction in reversed(self.reductions):
                labels = reduction.expand(labels)
            self.energy, self.labels = energy, labels.clone()
            return True
        return False

    def start(self) -> Tensor:
        """Return the best labelling as one of `problem`."""
        labels = self.labels
        for reduction in self.reductions:
            labels = reduction.restrict(labels)
        return labels

    def shrink(self, allowed: np.ndarray) -> None:
        """Rule labels out that no labelling better than the best one has."""
        reduction = reduce(self.problem, allowed)
        if reduction.problem is None:
            self.bound = self.energy = min(self.energy, reduction.constant)
        else:
            self.reductions.append(reduction)
            self.problem = simplest(reduction.problem)


@dataclass
class Presolved:
    """The parts of a model, what is decided, and how it was done."""

    reductions: list[Reduction]
    constant: float
    parts: list[Part]
    notes: list[str]

    def expand(self) -> Tensor:
        """Return the labelling of the whole model that the parts' best labellings make up."""
        labels = torch.zeros(sum(len(part.variables) for part in self.parts), dtype=torch.int64)
        for part in self.parts:
            labels[part.variables] = part.labels
        for reduction in reversed(self.reductions):
            labels = reduction.expand(labels if reduction.problem is not None else None)
        return labels

    @property
    def energy(self) -> float:
        """The energy of the whole model at the parts' best labellings."""
        return self.constant + sum(part.energy for part in self.parts)

    @property
    def bound(self) -> float:
        """A lower bound of the energy of the whole model."""
        return self.constant + sum(part.bound for part in self.parts)


def presolve(problem: Factored, start: Tensor) -> Presolved:
    """Return the undecided parts of a model, each with the part of the labelling `start` that belongs to it."""
    if is_pairwise(problem) and GraphCut().accepts(problem) is None:
        return _whole(problem, start, -math.inf, "presolve: left out, the model is a minimum cut")
    graph = FactorGraph.of(problem)
    factors = graph.factors()
    if size(graph) > ENTRIES or len(factors) > FACTORS:
        note = f"presolve: left out, there are {len(factors):,} tables with {size(graph):,} entries"
        return _whole(problem, start, lowest(graph), note)
    reductions, left = rule_out(graph, problem.label_set.mask)
    note = _summary(graph, left)
    if left is None:
        return Presolved(reductions, reductions[-1].constant, [], [note])
    if not reductions and len(components(left)) == 1:  # as it was: the problem itself may have faster forms
        return _whole(problem, start, lowest(graph), note)
    labels = start
    for reduction in reductions:
        labels = reduction.restrict(labels)
    constant, models = split(left)
    parts = []
    for variables, model in models:
        own = labels[variables]
        parts.append(Part(variables, simplest(model), own, model.energy(own), lowest(model)))
    return Presolved(reductions, constant, parts, [note])


def rule_out(graph: FactorGraph, mask: Tensor | None) -> tuple[list[Reduction], FactorGraph | None]:
    """Return the reductions, one after another, until nothing more is ruled out, and what is left."""
    reductions: list[Reduction] = []
    left = graph
    exists = clamp(graph, {})
    allowed = exists if mask is None else mask.cpu().numpy()[:, : exists.shape[1]]
    for _ in range(ROUNDS):
        allowed = propagate(left.factors(), allowed)
        if (allowed != exists).any() or int(left.cardinalities.min()) == 1:
            reductions.append(reduce(left, allowed))
            if reductions[-1].problem is None:
                return reductions, None
            left = reductions[-1].problem
        ruled_out = dispensable(left)
        if not ruled_out.any():
            break
        exists = clamp(left, {})
        allowed = exists & ~ruled_out
    return reductions, left


def _whole(problem: Factored, start: Tensor, bound: float, note: str) -> Presolved:
    part = Part(torch.arange(problem.shape[0]), problem, start, problem.energy(start), bound)
    return Presolved([], 0.0, [part], [note])


def dispensable(model: FactorGraph) -> np.ndarray:
    """Return the labels (n, L) that some optimum does without: dominated ones, and those roof duality rules out."""
    gone = dominated(model)
    if not gone.any() and model.arity <= 2 and model.shape[1] == 2:
        for i, a in enumerate(roof_duality(cast(Problem, model.pairwise())).labels.tolist()):
            if a >= 0:
                gone[i, 1 - a] = True
    return gone


def simplest(model: FactorGraph) -> Factored:
    """Return a model of pairs in the pairwise form, for which there are more and faster solvers."""
    if model.arity > 2:
        return model
    padded = len(model.factors()) * model.shape[1] ** 2
    return cast(Factored, model.pairwise()) if padded <= max(4 * size(model), ENTRIES) else model


def size(model: SupportsFactors) -> int:
    """Return the number of table entries."""
    return sum(table.size for _, table in model.factors())


def lowest(model: FactorGraph) -> float:
    """Return the simplest lower bound: the sum of the lowest entries of all tables."""
    return float(sum(table.min() for _, table in model.factors()))


def is_pairwise(problem: Problem) -> bool:
    """Return whether solvers of pairwise graphs take the problem."""
    return isinstance(problem, SupportsGraph)


def _summary(before: FactorGraph, after: FactorGraph | None) -> str:
    if after is None:
        return f"presolve: all {before.shape[0]} variables decided"
    if after is before:
        return "presolve: nothing to rule out"
    labels = int(before.cardinalities.sum()) - int(after.cardinalities.sum())
    variables = before.shape[0] - after.shape[0]
    return f"presolve: {variables} of {before.shape[0]} variables decided, {labels} labels ruled out"
