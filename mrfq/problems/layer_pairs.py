"""Descent on a layer by pairs: two weights of a row take the labels that are best for all the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.kernels import threads_for
from mrfq.problems.layer_pair_kernels import Rows, pair_moves

#: of each column, by default: with four times as many, less than one part in a thousand more is gained
PARTNERS = 8
#: elementary steps that a level of a weight takes
STEPS = 16


@dataclass(eq=False)
class PairDescent:
    """A labelling of a layer on its way down. Everything is on the CPU, numbers are float64.

    Attributes
    ----------
    target : Tensor, shape (R, C)
    gram : Tensor, shape (C, C)
    values : Tensor, shape (R or 1, G, L)
    partners : Tensor, shape (k, C), int64
        Of each column, the strongest first.
    labels : Tensor, shape (R, C), int64
    mean, pull : Tensor, shape (R, C)
        The values m of the weights, and `(m - target) H`.
    rank, stale : int
        Which partner is next, and for how many in a row nothing has changed.
    """

    target: Tensor
    gram: Tensor
    values: Tensor
    partners: Tensor
    labels: Tensor
    mean: Tensor
    pull: Tensor
    rank: int = 0
    stale: int = 0

    @classmethod
    def at(cls, target: Tensor, gram: Tensor, values: Tensor, labels: Tensor, count: int = PARTNERS) -> PairDescent:
        """Return the descent from labels (R, C), which are not changed, with so many partners of each column."""
        aims, metric, levels = (x.detach().cpu().double() for x in (target, gram, values))
        chosen, none = labels.detach().cpu().long().clone(), torch.empty(0)
        return cls(aims, metric, levels, strongest_partners(metric, count), chosen, none, none)

    @property
    def done(self) -> bool:
        """Whether no pair is left that could be improved."""
        return self.stale >= len(self.partners)

    def step(self) -> tuple[float, int]:
        """Pair every weight with its next partner; return the change of energy and how many labels changed."""
        if self.rank == 0:  # anew, so that rounding errors of changes do not add up
            rows, columns = self.labels.shape
            cells = self.labels.view(rows, self.values.shape[1], -1)
            self.mean = self.values.expand(rows, -1, -1).gather(2, cells).view(rows, columns)
            self.pull = (self.mean - self.target) @ self.gram
        report = torch.zeros(len(self.labels), 2, dtype=torch.float64)
        here = Rows(*(x.numpy() for x in (self.labels, self.mean, self.pull, report)))
        with threads_for(STEPS * self.labels.numel() * self.values.shape[2]):
            pair_moves(here, self.gram.numpy(), self.values.numpy(), self.partners[self.rank].numpy())
        change, changed = report.sum(0).tolist()
        self.rank = (self.rank + 1) % len(self.partners)
        self.stale = 0 if changed else self.stale + 1
        return change, int(changed)


def pair_descent(target: Tensor, gram: Tensor, values: Tensor, labels: Tensor, *, partners: int = PARTNERS) -> Tensor:
    """Return labels from which no weight, alone or with one of its partners, can lower the energy of its row.

    Parameters
    ----------
    target : Tensor, shape (R, C)
    gram : Tensor, shape (C, C)
        Symmetric, positive semi-definite.
    values : Tensor, shape (R or 1, G, L)
        Levels, ascending; G divides C.
    labels : Tensor, whole numbers, shape (R, C)
        Where to start.
    partners : int
        Of each column, at least 1: those with the largest :math:`|H_{ij}| / (H_{ii} H_{jj})^{1/2}`.

    Returns
    -------
    Tensor, shape (R, C), of the dtype and on the device of the labels
        The energy of no row is higher than at the start.

    Raises
    ------
    InvalidParameterError
        No partners.

    Examples
    --------
    ICM is stuck at the labels 0, 1 of two weights that only together do better.

    >>> gram = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
    >>> layer = torch.tensor([[0.9, 0.3]]), gram, torch.tensor([[[0.0, 1.0]]])
    >>> pair_descent(*layer, torch.tensor([[0, 1]]))
    tensor([[1, 0]])
    """
    if partners < 1:
        raise InvalidParameterError(f"pair_descent: at least one partner of each column is needed, got {partners}")
    descent = PairDescent.at(target, gram, values, labels, partners)
    while not descent.done:
        descent.step()
    return descent.labels.to(labels.device, labels.dtype)


def strongest_partners(gram: Tensor, count: int) -> Tensor:
    """Return the columns (k, C) that each column is most strongly correlated with, the strongest first.

    k is at most C - 1; a column that is alone is its own partner.

    Examples
    --------
    >>> strongest_partners(torch.tensor([[1.0, 0.5, -0.9], [0.5, 1.0, 0.0], [-0.9, 0.0, 4.0]]), 1)
    tensor([[1, 0, 0]])
    """
    size = len(gram)
    if size == 1:
        return torch.zeros(1, 1, dtype=torch.int64)
    scale = gram.diagonal().clamp(min=0).rsqrt().nan_to_num(posinf=0.0)
    strength = (gram * scale[:, None] * scale).abs()
    strength.fill_diagonal_(-1.0)
    return strength.topk(min(count, size - 1), dim=1).indices.T.contiguous()
