"""What the models of a layer share: labellings of its weights, with an energy that is quadratic in their errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.labels import LabelSet
from mrfq.problems.layer_values import LayerValues
from mrfq.problems.pairwise import Array

#: labellings whose energies are computed at once
CHUNK = 1024
#: entries of the tables of an explicit model
LARGEST_EXPLICIT = 2**24


class LayerModel(ABC):
    """A model whose labellings are weights (R, C), to come close to a target; variables are numbered row by row."""

    target: Tensor
    label_set: LabelSet

    @abstractmethod
    def _weights(self, labels: Tensor) -> Tensor:
        """Return the weights (k, R, C) of k labellings, shape (k, n)."""

    @abstractmethod
    def _energies(self, weights: Tensor) -> Tensor:
        """Return the (k,) float64 energies of weights (k, R, C)."""

    @abstractmethod
    def _change(self, old: Tensor, new: Tensor, rows: Tensor) -> Tensor:
        """Return what going from one labelling to another costs, which differ in these rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of variables and of labels."""
        return self.label_set.shape

    def decode(self, labels: Tensor) -> Tensor:
        """Return the weights (R, C) of a labelling (n,)."""
        return self._weights(self.label_set.check(labels)[None])[0]

    def energy(self, labels: Tensor) -> float:
        """Return the energy of a labelling (n,)."""
        return float(self.energies(self.label_set.check(labels)[None])[0])

    def energies(self, labels: Tensor) -> Tensor:
        """Return the (k,) float64 energies of k labellings, shape (k, n)."""
        return torch.cat([self._energies(self._weights(part)) for part in labels.split(CHUNK)])

    def energy_change(self, old: Tensor, new: Tensor) -> tuple[float, int]:
        """Return what going from one labelling to another costs, and how many labels differ; rows that differ count."""
        differs = old != new
        rows = differs.view(len(self.target), -1).any(1).nonzero()[:, 0]
        return float(self._change(old, new, rows)), int(differs.sum())


class LevelModel(LayerModel):
    """A model of a layer, on the CPU, in which every weight is a variable and its labels are levels.

    Parameters
    ----------
    target : Tensor, shape (R, C)
    values : (R or 1, G, L) array
        Levels: see `LayerValues`.
    """

    device = torch.device("cpu")
    curvature_calls = 1

    def __init__(self, target: Tensor, values: Array) -> None:
        self.target, self.dtype = target, target.dtype
        rows, columns = target.shape
        self._values = LayerValues(values, rows, columns, target.dtype)
        self.values = self._values.levels
        self.label_set = self._values.label_set

    @property
    @abstractmethod
    def _curvature(self) -> Tensor:
        """(R, C) half the second derivatives with respect to the weights."""

    @cached_property
    def unary(self) -> Tensor:
        """(n, L) cost of each level of each weight if no other weight had an error."""
        gap = self._values.per_weight - self.target.view(-1, 1)
        return self._curvature.view(-1, 1) * gap.square()

    def initial(self) -> Tensor:
        """Return the relaxed labelling whose mean values are the target, as far as the levels reach."""
        return self.label_set.interpolate(self.target.view(-1))

    def curvature(self, labels: Tensor) -> Tensor:
        """Return the (n,) second derivatives with respect to the weights, which do not depend on the labelling."""
        return 2 * self._curvature.view(-1)

    def _weights(self, labels: Tensor) -> Tensor:
        return self._values.decode(labels)

    def __repr__(self) -> str:
        rows, columns = self.target.shape
        return f"{type(self).__name__}({rows} rows of {columns} weights, {self.values.shape[2]} levels)"


def check_explicit(size: int) -> None:
    """Raise `InvalidParameterError` if an explicit model would have too many entries in its tables."""
    if size > LARGEST_EXPLICIT:
        raise InvalidParameterError(f"explicit tables would have {size:,} entries, the limit is {LARGEST_EXPLICIT:,}")
