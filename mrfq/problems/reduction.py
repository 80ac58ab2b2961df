"""Smaller models with the same answer: labels that are ruled out, variables that are decided, merged tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.problem import Factor, SupportsFactors
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.pairwise import PairwiseMRF


@dataclass(frozen=True)
class Reduction:
    """A model in which some labels and variables of another one are gone.

    Attributes
    ----------
    problem : FactorGraph or None
        The smaller model; None when every variable is decided. Energies are those of the full model, constants
        included.
    constant : float
        Energy of the full model when nothing is left to decide.
    kept : (k,) int64 tensor
        Variables of the full model that are left.
    labels : list of arrays
        For each variable of the full model, the labels that are left, ascending.
    """

    problem: FactorGraph | None
    constant: float
    kept: Tensor
    labels: list[np.ndarray]

    def expand(self, labels: Tensor | None = None) -> Tensor:
        """Return the labelling (n,) of the full model that belongs to one of the smaller model."""
        full = torch.tensor([int(left[0]) for left in self.labels])
        if self.problem is not None:
            if labels is None:
                raise InvalidProblemError(f"{len(self.kept)} variables are not decided: a labelling of them is needed")
            for i, a in zip(self.kept.tolist(), labels.tolist(), strict=True):
                full[i] = int(self.labels[i][a])
        return full

    def restrict(self, labels: Tensor) -> Tensor:
        """Return the labelling of the smaller model that is nearest to one of the full model."""
        found = []
        for i in self.kept.tolist():
            place = np.flatnonzero(self.labels[i] == int(labels[i]))
            found.append(int(place[0]) if len(place) else 0)
        return torch.tensor(found, dtype=torch.int64)


def clamp(problem: SupportsFactors, evidence: Mapping[int, int]) -> np.ndarray:
    """Return the (n, L) bool array of labels that agree with evidence, a label for each observed variable."""
    counts = problem.cardinalities.tolist()
    allowed = np.arange(max(counts)) < np.array(counts)[:, None]
    for i, a in evidence.items():
        if not 0 <= i < len(counts):
            raise InvalidProblemError(f"evidence on variable {i}, but they are numbered 0 to {len(counts) - 1}")
        if not 0 <= a < counts[i]:
            raise InvalidProblemError(f"evidence gives variable {i} the label {a}, but it has {counts[i]} labels")
        allowed[i] = False
        allowed[i, a] = True
    return allowed


def reduce(problem: SupportsFactors, allowed: np.ndarray | None = None) -> Reduction:
    """Return the model that has only allowed labels, without variables that have no choice left, scopes merged.

    Labels that the tables forbid whatever the others do are ruled out as well, until none is left to rule out. A
    variable that would lose its last label keeps one: the model is infeasible, and stays so.

    Parameters
    ----------
    problem : SupportsFactors
    allowed : (n, L) bool array, optional
        At least one label of each variable.
    """
    counts = problem.cardinalities.tolist()
    factors = merge(problem.factors())
    allowed = propagate(factors, clamp(problem, {}) if allowed is None else allowed)
    labels = [np.flatnonzero(allowed[i, :c]) for i, c in enumerate(counts)]
    kept = [i for i, left in enumerate(labels) if len(left) > 1]
    number = {i: k for k, i in enumerate(kept)}
    smaller = []
    touched = [len(left) < c or c == 1 for left, c in zip(labels, counts, strict=True)]
    for scope, table in factors:
        if any(touched[i] for i in scope):
            table = table[np.ix_(*(labels[i] for i in scope))]  # noqa: PLW2901
            table = table.reshape([n for n in table.shape if n > 1])  # noqa: PLW2901
        smaller.append(Factor(tuple(number[i] for i in scope if i in number), table))
    smaller = merge(smaller)
    constant = sum(float(table) for scope, table in smaller if not scope)
    left = FactorGraph([len(labels[i]) for i in kept], smaller) if kept else None
    return Reduction(left, constant, torch.tensor(kept, dtype=torch.int64), labels)


def propagate(factors: list[Factor], allowed: np.ndarray) -> np.ndarray:
    """Return `allowed` without labels that some table forbids whatever the others do (generalised arc consistency)."""
    allowed = allowed.copy()
    hard = [(scope, np.isfinite(table)) for scope, table in factors if scope and np.isinf(table).any()]
    changed = bool(hard)
    while changed:
        changed = False
        for scope, possible in hard:
            joint = possible
            for axis, i in enumerate(scope):
                shape = [-1 if k == axis else 1 for k in range(len(scope))]
                joint = joint & allowed[i, : possible.shape[axis]].reshape(shape)
            for axis, i in enumerate(scope):
                supported = joint.any(axis=tuple(k for k in range(len(scope)) if k != axis))
                before = allowed[i, : len(supported)]
                if supported.any() and (before & ~supported).any():
                    allowed[i, : len(supported)] &= supported
                    changed = True
    return allowed


def merge(factors: list[Factor]) -> list[Factor]:
    """Return the factors with ascending scopes, tables of the same scope added up."""
    merged: dict[tuple[int, ...], np.ndarray] = {}
    for scope, table in factors:
        key, turned = scope, table
        if any(a > b for a, b in itertools.pairwise(scope)):
            order = sorted(range(len(scope)), key=scope.__getitem__)
            key, turned = tuple(scope[k] for k in order), table.transpose(order)
        merged[key] = merged[key] + turned if key in merged else turned
    return [Factor(scope, table) for scope, table in merged.items()]


def pairwise(problem: SupportsFactors) -> PairwiseMRF:
    """Return a model of factors with at most two variables as a `PairwiseMRF` (see `FactorGraph.pairwise`)."""
    counts = problem.cardinalities.numpy()
    n, widest = len(counts), int(counts.max())
    factors = merge(problem.factors())
    unary = np.zeros((n, widest))
    pairs = [factor for factor in factors if len(factor.scope) == 2]
    tables = np.zeros((len(pairs), widest, widest))
    for scope, table in factors:
        if len(scope) > 2:
            raise InvalidProblemError(
                f"a factor on {len(scope)} variables, {scope}, does not fit a pairwise model; solvers of factor graphs "
                "take the model as it is"
            )
        if len(scope) < 2:
            i = scope[0] if scope else 0
            unary[i, : counts[i]] += table
    for e, (_, table) in enumerate(pairs):
        tables[e, : table.shape[0], : table.shape[1]] = table
    ragged = bool((counts < widest).any())
    return PairwiseMRF(
        unary,
        np.array([scope for scope, _ in pairs], dtype=np.int64).reshape(-1, 2),
        tables if pairs else None,
        mask=np.arange(widest) < counts[:, None] if ragged else None,
        names=getattr(problem, "names", None),
    )


def components(problem: SupportsFactors) -> list[list[int]]:
    """Return the connected components of a model, each a sorted list of variables, by their first variable."""
    n = len(problem.cardinalities)
    pairs = [(scope[0], j) for scope, _ in problem.factors() for j in scope[1:]]
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    adjacency = coo_array((np.ones(len(pairs)), (first, second)), shape=(n, n))
    count, group = connected_components(adjacency, directed=False)
    members: list[list[int]] = [[] for _ in range(count)]
    for i, g in enumerate(group.tolist()):
        members[g].append(i)
    return sorted(members, key=lambda part: part[0])


def split(problem: FactorGraph) -> tuple[float, list[tuple[Tensor, FactorGraph]]]:
    """Return the constant of a model, and each connected component: its variables and the model on them."""
    factors = problem.factors()
    counts = problem.cardinalities.tolist()
    groups = components(problem)
    group_of = np.empty(len(counts), dtype=np.int64)
    number = np.empty(len(counts), dtype=np.int64)
    for g, group in enumerate(groups):
        group_of[group] = g
        number[group] = np.arange(len(group))
    own: list[list[Factor]] = [[] for _ in groups]
    for scope, table in factors:
        if scope:
            own[group_of[scope[0]]].append(Factor(tuple(int(number[i]) for i in scope), table))
    constant = sum(float(table) for scope, table in factors if not scope)
    models = [FactorGraph([counts[i] for i in group], own[g]) for g, group in enumerate(groups)]
    return constant, [(torch.tensor(group), model) for group, model in zip(groups, models, strict=True)]
