r"""Sweeps over all rows of a layer at once: columns one after another inside a block, matrix products between blocks.

The energy of a row q is :math:`(q - t) H (q - t)^T`. With the residual :math:`g = (m - t) H` of the present values m,
the best value of column j given all others is :math:`x = m_j - g_j / H_{jj}`, and the conditional cost of a level a is
:math:`H_{jj} (x - a)^2` and a constant. ICM takes the nearest level, mean-field the mean under
:math:`p_a \propto e^{-\beta s (x - a)^2}`, annealing a sample of that law: one sweep. On the CPU the inside of a block
is a kernel compiled by numba, on a GPU one compiled by Triton where that is installed, elsewhere a sequence of torch
operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec

import torch
from torch import Tensor

from mrfq.kernels import threads_for
from mrfq.problems.layer_kernels import ARGMIN, SAMPLE, SOFTMAX, Block, Law, plane_block, sweep_block

#: columns that are visited between two matrix products
BLOCK = 64
#: elementary steps that a level of a site takes, about: a distance and an exponential
STEPS = 8
RULES = {"argmin": ARGMIN, "softmax": SOFTMAX, "sample": SAMPLE}
NO_NUMBERS = torch.empty(0, 0)


@dataclass(frozen=True, eq=False)
class Columns:
    """A layer prepared for sweeps: transposed, its columns in the order of the visits.

    Attributes
    ----------
    target : Tensor, shape (C, R), float32
    gram : Tensor, shape (C, C), float32
    values : Tensor, shape (G, L, R), float32
        Levels of the groups of columns.
    group : Tensor, shape (C,), int64
        The group of each column.
    order : Tensor, shape (C,), int64
        The column of the layer that is visited at each place.
    """

    target: Tensor
    gram: Tensor
    values: Tensor
    group: Tensor
    order: Tensor

    @classmethod
    def prepare(cls, target: Tensor, gram: Tensor, values: Tensor, order: Tensor | None = None) -> Columns:
        """Return a layer in the form of the sweeps.

        Parameters
        ----------
        target : Tensor, shape (R, C)
        gram : Tensor, shape (C, C)
        values : Tensor, shape (R or 1, G, L)
            Levels of each row and each group of C / G consecutive columns.
        order : Tensor, shape (C,), optional
            Order of the visits; by default from the largest to the smallest diagonal entry of the Gram matrix.
        """
        rows, columns = target.shape
        if order is None:
            order = gram.diagonal().argsort(descending=True, stable=True)
        groups = values.shape[1]
        return cls(
            target.T[order].float().contiguous(),
            gram[order][:, order].float().contiguous(),
            values.expand(rows, -1, -1).permute(1, 2, 0).float().contiguous(),
            order // (columns // groups),
            order,
        )

    def with_values(self, values: Tensor) -> Columns:
        """Return the same layer with other levels, shape (R or 1, G, L)."""
        moved = values.expand(self.target.shape[1], -1, -1).permute(1, 2, 0).float().contiguous()
        return Columns(self.target, self.gram, moved, self.group, self.order)

    @cached_property
    def inverse(self) -> Tensor:
        """One over the diagonal of the Gram matrix, shape (C,); 0 for columns without influence, which stay alone."""
        diagonal = self.gram.diagonal()
        return torch.where(diagonal > 0, 1 / diagonal, 0.0)

    @cached_property
    def spacing(self) -> Tensor:
        """Size of the quantization step at the target, shape (G, R); 1 where all of it is on a level.

        The square root of twelve times the mean squared distance to the nearest level: the distance of evenly spaced
        levels, and a fair measure of others, which lie closer where the weights are many.
        """
        error = (self.decode(self.nearest(self.target)) - self.target).square()
        groups, rows = self.values.shape[0], self.target.shape[1]
        total = error.new_zeros(groups, rows).index_add_(0, self.group, error)
        step = (12 * total * groups / len(self.group)).sqrt()
        return torch.where(step > 0, step, 1.0)

    def levels_of(self, block: slice) -> Tensor:
        """Return the levels of a block of columns, shape (B, L, R), or (1, L, R) if all columns share them."""
        return self.values if len(self.values) == 1 else self.values[self.group[block]]

    def decode(self, labels: Tensor) -> Tensor:
        """Return the values (C, R) of labels (C, R), in the order of the visits."""
        out = torch.empty_like(self.target)
        for block in _blocks(len(self.target)):
            levels = self.levels_of(block).expand(block.stop - block.start, -1, -1)
            out[block] = levels.gather(1, labels[block].long()[:, None])[:, 0]
        return out

    def nearest(self, wanted: Tensor) -> Tensor:
        """Return the labels (C, R) of the levels nearest to values (C, R)."""
        out = torch.empty(wanted.shape, dtype=torch.uint8, device=wanted.device)
        for block in _blocks(len(wanted)):
            out[block] = (wanted[block, None] - self.levels_of(block)).abs().argmin(1).to(torch.uint8)
        return out

    def arrange(self, labels: Tensor) -> Tensor:
        """Return labels (R, C) of the layer in the order of the visits, (C, R)."""
        return labels.T[self.order].contiguous()

    def restore(self, labels: Tensor) -> Tensor:
        """Return labels (C, R) in the order of the layer, (R, C)."""
        out = torch.empty_like(labels)
        out[self.order] = labels
        return out.T.contiguous()


@dataclass(eq=False)
class Sweep:
    """A point in a layer, and its residual, which sweeps keep up to date.

    Attributes
    ----------
    mean : Tensor, shape (C, R), float32
        Values, or mean values, in the order of the visits.
    residual : Tensor, shape (C, R), float32
        `H (mean - target)`.
    labels : Tensor, shape (C, R), uint8
        The most probable, or chosen, labels.
    """

    columns: Columns
    mean: Tensor
    residual: Tensor
    labels: Tensor

    @classmethod
    def at(cls, columns: Columns, mean: Tensor, labels: Tensor | None = None) -> Sweep:
        """Return the sweep at given values (C, R)."""
        labels = columns.nearest(mean) if labels is None else labels.clone()
        return cls(columns, mean.clone(), columns.gram @ (mean - columns.target), labels)

    @classmethod
    def at_labels(cls, columns: Columns, labels: Tensor) -> Sweep:
        """Return the sweep at labels (C, R)."""
        return cls.at(columns, columns.decode(labels), labels)

    def run(
        self, rule: str, beta: float = 1.0, *, absolute: bool = False, generator: torch.Generator | None = None
    ) -> int:
        """Visit all columns once; return the number of blocks in which anything moved.

        Parameters
        ----------
        rule : {"argmin", "softmax", "sample"}
        beta : float
            Inverse temperature of squared distances in units of the quantization step, so that it acts alike on all
            columns; with `absolute`, of the energy itself.
        """
        moved = 0
        for block in _blocks(len(self.mean)):
            delta = self._visit(block, rule, beta, absolute, generator)
            if bool(delta.any()):
                moved += 1
                self.residual.addmm_(self.columns.gram[:, block], delta)
        return moved

    def _visit(self, block: slice, rule: str, beta: float, absolute: bool, generator: torch.Generator | None) -> Tensor:
        layer = self.columns
        uniforms = NO_NUMBERS
        if rule == "sample":
            uniforms = torch.rand(self.mean[block].shape, generator=generator).to(self.mean.device)
        sharpness, columns = self._temperatures(block, beta, absolute)
        delta = torch.empty_like(self.mean[block])
        here = Block(
            self.mean[block],
            self.labels[block],
            delta,
            self.residual[block],
            layer.levels_of(block),
            layer.gram[block, block].contiguous(),
            layer.inverse[block],
        )
        visit_of(here)(here, Law(sharpness, columns, uniforms), RULES[rule])
        return delta

    def _temperatures(self, block: slice, beta: float, absolute: bool) -> tuple[Tensor, Tensor]:
        layer = self.columns
        if absolute:
            return layer.target.new_ones(1, layer.target.shape[1]), beta * layer.gram.diagonal()[block]
        spacing = layer.spacing if len(layer.values) == 1 else layer.spacing[layer.group[block]]
        return spacing.pow(-2), layer.target.new_full((block.stop - block.start,), beta)


@cache
def has_triton() -> bool:
    """Return whether Triton is installed; asked once, not at every block."""
    return find_spec("triton") is not None


def visit_of(block: Block) -> Callable[[Block, Law, int], None]:
    """Return what visits the columns of a block on its device; all of these do the same."""
    device = block.mean.device.type
    if device == "cuda" and has_triton():
        from mrfq.problems.layer_triton import MOST_LEVELS, sweep_block

        if block.values.shape[1] <= MOST_LEVELS:
            return sweep_block
    return _compiled if device == "cpu" else _composed


def _compiled(block: Block, law: Law, rule: int) -> None:
    sites, width = block.mean.numel(), len(block.mean)
    with threads_for(sites * (width // 2 + STEPS * block.values.shape[1])):
        sweep_block(Block(*(x.numpy() for x in block)), Law(*(x.numpy() for x in law)), rule)


def _composed(block: Block, law: Law, rule: int) -> None:
    """Do what `sweep_block` does, in torch operations that work on all rows at once."""
    mean, labels, delta, residual, values, gram, inverse = block
    residual = residual.clone()
    for j in range(len(mean)):
        levels = values[j if len(values) > 1 else 0]
        x = mean[j] - residual[j] * inverse[j]
        label = (x - levels).square().argmin(0)
        chosen = levels.gather(0, label[None])[0]
        if rule != ARGMIN:
            sharp = law.sharpness[j if len(law.sharpness) > 1 else 0] * law.columns[j]
            weights = (-sharp * (levels - chosen) * ((levels - x) + (chosen - x))).exp()
        if rule == SOFTMAX:
            chosen = (weights * levels).sum(0) / weights.sum(0)
        if rule == SAMPLE:
            drawn = (weights.cumsum(0) <= law.uniforms[j] * weights.sum(0)).sum(0)
            label = drawn.clamp(max=len(levels) - 1)
            chosen = levels.gather(0, label[None])[0]
        alive = inverse[j] > 0
        delta[j] = torch.where(alive, chosen - mean[j], 0.0)
        mean[j] = torch.where(alive, chosen, mean[j])
        labels[j] = torch.where(alive, label.to(torch.uint8), labels[j])
        residual[j + 1 :].addr_(gram[j, j + 1 :], delta[j])


def nearest_plane(columns: Columns, factor: Tensor) -> Tensor:
    """Return the labels (C, R) of one pass of Babai's nearest plane, in the order of the columns.

    Parameters
    ----------
    factor : Tensor, shape (C, C)
        Lower triangular R with `H = R^T R`, each row divided by its diagonal entry.
    """
    labels = torch.empty(columns.target.shape, dtype=torch.uint8, device=columns.target.device)
    error = torch.zeros_like(columns.target)
    for block in _blocks(len(columns.target)):
        offset = factor[block, : block.start] @ error[: block.start]
        own = factor[block, block].T.contiguous()
        round_block = _rounded if columns.target.device.type == "cpu" else _rounded_by_visits
        round_block(offset, columns.target[block], labels[block], error[block], columns.levels_of(block), own)
    return labels


def _rounded(offset: Tensor, target: Tensor, labels: Tensor, error: Tensor, values: Tensor, factor: Tensor) -> None:
    with threads_for(offset.numel() * (len(offset) // 2 + values.shape[1])):
        plane_block(*(part.numpy() for part in (offset, target, labels, error, values, factor)))


def _rounded_by_visits(
    offset: Tensor, target: Tensor, labels: Tensor, error: Tensor, values: Tensor, factor: Tensor
) -> None:
    """Do what `plane_block` does: a sweep of ICM in which columns act on later ones by the factor, and singly."""
    one = torch.ones_like(target[:, 0])
    here = Block(target.clone(), labels, error, offset, values, factor, one)
    visit_of(here)(here, Law(torch.ones_like(target[:1]), one, NO_NUMBERS), ARGMIN)


def _blocks(count: int) -> list[slice]:
    return [slice(i, min(i + BLOCK, count)) for i in range(0, count, BLOCK)]
