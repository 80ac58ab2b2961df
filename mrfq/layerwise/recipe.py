"""What is done to a layer: a start, a solver for the labels, and re-fits of the label sets in between.

A recipe is plain data. Energies never rise from step to step, row by row, so that whatever follows GPTQ is at least
as good as GPTQ on the same layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.layerwise.refit import LayerFit, row_energies
from mrfq.layerwise.spec import LevelSpec
from mrfq.layerwise.tables import Table, start_table
from mrfq.problems.layer_pairs import pair_descent
from mrfq.problems.layer_solve import anneal, descend, gptq_columns
from mrfq.problems.layer_sweeps import Columns, Sweep

LayerSolver = Literal["nearest", "gptq", "icm", "mean-field", "annealing"]
RULES = {"mean-field": "softmax", "annealing": "sample"}


@dataclass(frozen=True)
class Recipe:
    """How a layer is quantized.

    Parameters
    ----------
    solver : {"nearest", "gptq", "icm", "mean-field", "annealing"}
        Each begins where the one before it ends: GPTQ, ICM from there, mean-field or annealing from there.
    sweeps : int
        Of a round of mean-field or annealing; ICM follows them.
    beta : tuple of float
        The inverse temperatures that the rounds begin with, one after the other, and last that with which all of them
        end; of squared distances, in units of the quantization step: the square root of twelve times the mean squared
        distance to the nearest level. A round begins where the one before it has ended, on label sets that were fitted
        again in between, and each row keeps the best labels that it has had.
    refits : int
        How often the label sets are fitted again, with `descent` sweeps of ICM each time: before the first round,
        after every round, and at the end.
    descent : int
        Most sweeps of ICM at a time.
    pairs : int
        With how many of its most strongly coupled partners each weight is moved jointly, in descents after mean-field
        or annealing and at the end; 0 for none.
    damping : float
        Of GPTQ: this part of the mean diagonal entry is added to the diagonal of the Gram matrix.
    order : {"activation", "natural"}
        Of the columns in GPTQ.

    Raises
    ------
    InvalidParameterError
        A value outside its domain.
    """

    solver: LayerSolver = "gptq"
    sweeps: int = 100
    beta: tuple[float, ...] = (2.0, 40.0)
    refits: int = 0
    descent: int = 5
    pairs: int = 0
    damping: float = 0.01
    order: Literal["activation", "natural"] = "activation"

    def __post_init__(self) -> None:
        if self.solver not in get_args(LayerSolver):
            raise UnknownNameError("layer solver", self.solver, get_args(LayerSolver))
        for name, least in {"sweeps": 1, "refits": 0, "descent": 1, "pairs": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InvalidParameterError(f"recipe: {name} must be a whole number, at least {least}, got {value!r}")
        if len(self.beta) < 2 or not all(0 < first <= self.beta[-1] < float("inf") for first in self.beta):
            raise InvalidParameterError(
                "recipe: beta must hold a positive number for each round and a last one that is at least as large and "
                f"finite, got {self.beta}"
            )
        if not 0 <= self.damping < float("inf") or self.order not in ("activation", "natural"):
            raise InvalidParameterError(
                f"recipe: damping must be at least 0 and order 'activation' or 'natural', got {self.damping} and "
                f"{self.order!r}"
            )


#: what can be asked for by name: qualities, and solvers alone
RECIPES: dict[str, Recipe] = {
    "fast": Recipe("gptq"),
    "balanced": Recipe("icm", refits=2, descent=3),
    "best": Recipe("mean-field", sweeps=50, beta=(3.0, 3.0, 4.0, 4.0, 40.0), refits=1, pairs=8),
    "nearest": Recipe("nearest"),
    "gptq": Recipe("gptq"),
    "icm": Recipe("icm", descent=30),
    "mean-field": Recipe("mean-field"),
    "annealing": Recipe("annealing"),
}
QUALITIES = ("fast", "balanced", "best")


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized layer.

    Attributes
    ----------
    table : Table
    labels : Tensor, uint8, shape (R, C)
    energies : Tensor, float64, shape (R,)
        `(q - t) H (q - t)^T` of each row.
    """

    table: Table
    labels: Tensor
    energies: Tensor

    @property
    def weight(self) -> Tensor:
        """The weights, shape (R, C), float32."""
        return self.table.decode(self.labels)


def named_recipe(recipe: Recipe | str, **changes: object) -> Recipe:
    """Return a recipe by its name, with some of its fields changed.

    Raises
    ------
    UnknownNameError
        Neither a quality ("fast", "balanced", "best") nor a solver.

    Examples
    --------
    >>> named_recipe("best", sweeps=100).sweeps
    100
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise UnknownNameError("quality or layer solver", recipe, RECIPES)
        recipe = RECIPES[recipe]
    return replace(recipe, **changes)  # type: ignore[arg-type]


def quantize_layer(
    target: Tensor, gram: Tensor, spec: LevelSpec, recipe: Recipe | str = "balanced", *, seed: int = 0
) -> Quantized:
    """Return label sets and labels of little energy for a layer.

    Parameters
    ----------
    target : Tensor, shape (R, C), floating point
        The weights that the rows should come close to.
    gram : Tensor, shape (C, C)
        Second moments or covariance of the inputs, the metric of the distance; symmetric, positive semi-definite.
    spec : LevelSpec
    recipe : Recipe or str
        "fast" (GPTQ), "balanced" (GPTQ, ICM, re-fits), "best" (mean-field, re-fits and pairs), or a solver alone on the
        label sets it starts with: "nearest", "gptq", "icm", "mean-field", "annealing".
    seed : int
        Of annealing; the others draw no numbers.

    Raises
    ------
    InvalidProblemError, InvalidParameterError, UnknownNameError
        Shapes that do not fit, numbers that are not finite, groups that do not divide, unknown names.

    Examples
    --------
    >>> from mrfq.layerwise.spec import parse_levels
    >>> generator = torch.Generator().manual_seed(0)
    >>> inputs, weight = torch.randn(500, 64, generator=generator), torch.randn(8, 64, generator=generator)
    >>> inputs = inputs @ torch.randn(64, 64, generator=generator)
    >>> made = [quantize_layer(weight, inputs.T @ inputs / 500, parse_levels("2bit"), name) for name in QUALITIES]
    >>> [bool(a.energies.sum() > b.energies.sum()) for a, b in zip(made, made[1:])]
    [True, True]
    """
    recipe = named_recipe(recipe)
    _check(target, gram)
    work = _Work(target, gram, start_table(spec, target, gram.diagonal().clamp(min=0)), recipe)
    if recipe.solver == "nearest":
        return work.result(work.table.nearest(target))
    labels = work.columns.restore(gptq_columns(work.columns, recipe.damping))
    if recipe.solver == "gptq":
        return work.result(labels)
    labels = work.refined(work.descended(labels))
    if recipe.solver in RULES:
        generator = torch.Generator().manual_seed(seed)
        for first in recipe.beta[:-1]:
            labels = work.refined(work.annealed(labels, first, generator))
        labels = work.refined(work.paired(labels))
    return work.result(work.paired(labels))


class _Work:
    """A layer while it is being quantized: its label sets change, and its labels with them."""

    def __init__(self, target: Tensor, gram: Tensor, table: Table, recipe: Recipe) -> None:
        self.target, self.gram, self.recipe = target, gram, recipe
        self.table = table
        order = torch.arange(target.shape[1], device=target.device) if recipe.order == "natural" else None
        self.columns = Columns.prepare(target, gram, table.values, order)
        self.fit: LayerFit | None = None

    def descended(self, labels: Tensor) -> Tensor:
        """Return the labels after ICM."""
        sweep = Sweep.at_labels(self.columns, self.columns.arrange(labels))
        descend(sweep, self.recipe.descent)
        return self.columns.restore(sweep.labels)

    def refined(self, labels: Tensor) -> Tensor:
        """Return the labels after rounds of a re-fit of the label sets and ICM."""
        for _ in range(self.recipe.refits):
            self.fit = self.fit or LayerFit(self.target, self.gram)
            self.table, labels = self.fit.refit(self.table, labels)
            self.columns = self.columns.with_values(self.table.values)
            labels = self.descended(labels)
        return labels

    def annealed(self, labels: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """Return the labels after a round of mean-field or annealing from there, of each row the better ones."""
        recipe = self.recipe
        sweep = Sweep.at_labels(self.columns, self.columns.arrange(labels))
        anneal(sweep, RULES[recipe.solver], recipe.sweeps, (beta, recipe.beta[-1]), generator)
        found = self.descended(self.columns.restore(sweep.labels))
        better = self.energies(found) < self.energies(labels)
        return torch.where(better[:, None], found, labels)

    def paired(self, labels: Tensor) -> Tensor:
        """Return the labels after a descent by pairs of weights."""
        if not self.recipe.pairs:
            return labels
        found = pair_descent(self.target, self.gram, self.table.values, labels, partners=self.recipe.pairs)
        return found.to(labels)

    def energies(self, labels: Tensor) -> Tensor:
        return row_energies(self.table.values, labels, self.target, self.gram)

    def result(self, labels: Tensor) -> Quantized:
        return Quantized(self.table, labels, self.energies(labels))


def _check(target: Tensor, gram: Tensor) -> None:
    if target.ndim != 2 or gram.shape != (target.shape[1], target.shape[1]):
        raise InvalidProblemError(
            f"a layer needs a target (R, C) and a Gram matrix (C, C), got {tuple(target.shape)} and {tuple(gram.shape)}"
        )
    for what, matrix in (("target", target), ("Gram matrix", gram)):
        if not bool(matrix.isfinite().all()):
            where = (~matrix.isfinite()).nonzero()[0].tolist()
            raise InvalidProblemError(f"the {what} has an entry that is not finite at {where}")
