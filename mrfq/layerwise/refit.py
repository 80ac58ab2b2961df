"""Scales, offsets and codebooks fitted to labels by least squares in the metric of a layer's Gram matrix.

For fixed labels the weights of a row are linear in the numbers that its label sets store, `q = A p`, and its energy
`(q - t) H (q - t)` is a quadratic form in p: its minimum solves `A^T H A p = A^T H t`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.layerwise.refit_equations import as_sets, as_vector, least_squares, normal_equations, times
from mrfq.layerwise.spec import LevelSpec
from mrfq.layerwise.tables import Table, decode, levels_of, round_parameters

#: numbers of a row that are fitted jointly; of rows with more, so many at a time
UNKNOWNS = 256
#: entries of the largest array that is worked on at a time
PART = 1 << 22
#: what of an energy change may be rounding, relative to the numbers it is the difference of
ROUNDING = 1e-13


class _Block(NamedTuple):
    """Groups that are fitted jointly, their columns and the Gram matrix of these."""

    groups: slice
    columns: slice
    gram: Tensor


class LayerFit:
    """Re-fits of one layer, which share what depends on its target alone.

    Parameters
    ----------
    target : Tensor, shape (R, C), floating point
    gram : Tensor, shape (C, C), floating point
        Symmetric and positive semi-definite; taken in float32.

    Raises
    ------
    InvalidProblemError
        Wrong shapes or numbers that are not finite.

    Examples
    --------
    >>> from mrfq.layerwise.spec import parse_levels
    >>> spec = parse_levels("binary")
    >>> table = Table(spec, torch.tensor([[[-1.0, 1.0]]], dtype=torch.float16))
    >>> fit = LayerFit(torch.tensor([[-0.5, 1.0, 2.0]]), torch.eye(3))
    >>> fit.refit(table, torch.tensor([[0, 1, 1]], dtype=torch.uint8))[0].values
    tensor([[[-0.5000,  1.5000]]])
    """

    def __init__(self, target: Tensor, gram: Tensor) -> None:
        _check_layer(target, gram)
        device = _home(target)
        self.target, self.gram = target.detach().to(device), gram.detach().to(device).float().contiguous()
        if not torch.equal(self.gram, self.gram.T):
            self.gram = (self.gram + self.gram.T) / 2
        #: `T H`, float64
        self.pull = self.target.double() @ self.gram.double()

    def refit(self, table: Table, labels: Tensor) -> tuple[Table, Tensor]:
        """Return label sets of least energy for given labels, and the labels in them.

        All groups of a row are fitted jointly if they store at most 256 numbers, else as many groups at a time as do.
        A row keeps its label sets if its energy would not fall (stored numbers are rounded), or if a number would
        leave the range of float16. A level without members, or whose members do not count, stays where it is. Where
        levels change their order, the labels are renamed.

        Parameters
        ----------
        table : Table, of R rows
        labels : Tensor, uint8, shape (R, C)

        Returns
        -------
        table : Table
        labels : Tensor, uint8, shape (R, C)
            A new tensor.

        Raises
        ------
        InvalidProblemError
            Shapes that do not fit the layer, or labels that do not exist.
        """
        device = self.target.device
        old, given = Table(table.spec, table.parameters.detach().to(device)), labels.to(device)
        _check_labels(old.values, given, self.target)
        parameters, renamed = old.parameters.clone(), given.clone()
        for block in self._blocks(old):
            numbers = max(renamed.shape[1], (table.spec.parameters * (block.groups.stop - block.groups.start)) ** 2)
            for rows in _parts(len(renamed), numbers):
                self._refit_block(table.spec, parameters, renamed, rows, block)
        self._undo_rises(old, given, parameters, renamed)
        return Table(table.spec, parameters.to(table.parameters.device)), renamed.to(labels.device)

    def _blocks(self, table: Table) -> Iterator[_Block]:
        groups = table.parameters.shape[1]
        width, step = len(self.gram) // groups, max(UNKNOWNS // table.spec.parameters, 1)
        for first in range(0, groups, step):
            last = min(first + step, groups)
            columns = slice(first * width, last * width)
            yield _Block(slice(first, last), columns, self.gram[columns, columns].contiguous())

    def _refit_block(self, spec: LevelSpec, parameters: Tensor, labels: Tensor, rows: slice, block: _Block) -> None:
        """Fit the label sets of some groups of some rows, in place."""
        before, inside = parameters[rows, block.groups], labels[rows, block.columns]
        pull = self._pull_of(Table(spec, parameters[rows]), labels[rows], rows, block)
        matrix, right = normal_equations(spec, inside, before.shape[1], block.gram, pull)
        now = as_vector(spec, before.double())
        best = as_sets(spec, now + least_squares(matrix, right - times(matrix, now)), before)
        after, turned = _stored(spec, best)
        move = as_vector(spec, _turn(spec, after.double(), turned)) - now
        fall = (move * (2 * (right - times(matrix, now)) - times(matrix, move))).sum(1)
        parts = (move.abs() * (right.abs() + times(matrix.abs(), now.abs() + move.abs()))).sum(1)
        better = (fall > ROUNDING * parts)[:, None]  # never so with infinite numbers
        after = torch.where(better[:, :, None], after, before)
        parameters[rows, block.groups], labels[rows, block.columns] = _ascending(spec, after, inside, turned & better)

    def _pull_of(self, table: Table, labels: Tensor, rows: slice, block: _Block) -> Tensor:
        """Return `t H` on the columns of a block, less what the weights in all other columns contribute."""
        pull = self.pull[rows, block.columns]
        if len(block.gram) == len(self.gram):
            return pull
        weights = table.decode(labels).double()
        weights[:, block.columns] = 0
        return pull - weights @ self.gram[:, block.columns].double()

    def _undo_rises(self, old: Table, given: Tensor, parameters: Tensor, labels: Tensor) -> None:
        """Put back, in place, rows whose energy rose because their levels are rounded when they are decoded."""
        new = Table(old.spec, parameters)
        changed = (parameters != old.parameters).flatten(1).any(1)
        rows = (changed & ~(_decodes_exactly(old) & _decodes_exactly(new))).nonzero()[:, 0]
        if len(rows):
            target = self.target[rows]
            before = row_energies(old.values[rows], given[rows], target, self.gram)
            rose = rows[row_energies(new.values[rows], labels[rows], target, self.gram) > before]
            parameters[rose], labels[rose] = old.parameters[rose], given[rose]


def refit(table: Table, labels: Tensor, target: Tensor, gram: Tensor) -> tuple[Table, Tensor]:
    """Return label sets of least energy for given labels, and the labels in them: `LayerFit(target, gram).refit`.

    Raises
    ------
    InvalidProblemError
        Shapes that do not go together, numbers that are not finite, or labels that do not exist.

    Examples
    --------
    >>> from mrfq.layerwise.spec import parse_levels
    >>> table = Table(parse_levels("ternary-symmetric-f32"), torch.ones(1, 1, 1))
    >>> table, labels = refit(table, torch.tensor([[0, 1, 2]]).byte(), torch.tensor([[-1.0, 0.0, 2.0]]), torch.eye(3))
    >>> table.values
    tensor([[[-1.5000,  0.0000,  1.5000]]])
    """
    return LayerFit(target, gram).refit(table, labels)


def row_energies(values: Tensor, labels: Tensor, target: Tensor, gram: Tensor) -> Tensor:
    """Return the energy `(q - t) H (q - t)` of every row, computed in float64.

    Parameters
    ----------
    values : Tensor, shape (R or 1, G, L)
        Levels of the rows and groups of columns.
    labels : Tensor, whole numbers, shape (R, C)
    target : Tensor, shape (R, C), floating point
    gram : Tensor, shape (C, C), floating point

    Returns
    -------
    Tensor, shape (R,), float64

    Raises
    ------
    InvalidProblemError
        Shapes that do not go together, numbers that are not finite, or labels that do not exist.

    Examples
    --------
    >>> levels, labels = torch.tensor([[[-1.0, 1.0]]]), torch.tensor([[0, 1], [1, 1]])
    >>> row_energies(levels, labels, torch.tensor([[-1.0, 0.0], [0.5, 0.5]]), torch.eye(2))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    _check_layer(target, gram)
    _check_labels(values, labels, target)
    metric, energies = gram.detach().double(), []
    for rows in _parts(len(target), len(metric)):
        levels = values if len(values) == 1 else values[rows]
        error = decode(levels, labels[rows]).double() - target[rows].detach().double()
        energies.append((error @ metric * error).sum(1))
    return torch.cat(energies)


def _home(tensor: Tensor) -> torch.device:
    """Return where re-fits of a layer are computed: on its own device, if that has float64 and is no CPU."""
    return tensor.device if tensor.device.type == "cuda" else torch.device("cpu")


def _parts(rows: int, numbers: int) -> Iterator[slice]:
    """Return ranges of rows whose arrays of so many numbers a row are not too large."""
    step = max(PART // numbers, 1)
    return (slice(k, min(k + step, rows)) for k in range(0, rows, step))


def _stored(spec: LevelSpec, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Return parameters (r, G, P) as stored, and whether a set (r, G) was turned, so that its scale is not negative."""
    if spec.base is None:
        return round_parameters(spec, parameters), parameters.new_zeros(parameters.shape[:2], dtype=torch.bool)
    turned = parameters[..., 0] < 0
    return round_parameters(spec, _turn(spec, parameters, turned)), turned


def _turn(spec: LevelSpec, parameters: Tensor, turned: Tensor) -> Tensor:
    """Return scales, and offsets, of the same levels in the opposite order where sets are to be turned."""
    if spec.base is None:
        return parameters
    ends = parameters.clone()
    ends[..., 0] *= -1
    ends[..., 1:] += parameters[..., :1] * (spec.count - 1)
    return torch.where(turned[:, :, None], ends, parameters)


def _ascending(spec: LevelSpec, parameters: Tensor, labels: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    """Return label sets (r, G, P) with ascending levels, and labels (r, c) that stand for the same levels as before."""
    if spec.base is not None:
        width = labels.shape[1] // turned.shape[1]
        return parameters, torch.where(turned.repeat_interleave(width, 1), spec.count - 1 - labels, labels)
    if bool((parameters.diff(dim=-1) >= 0).all()):
        return parameters, labels
    ordered, origin = parameters.sort(dim=-1, stable=True)
    return ordered, decode(origin.argsort(dim=-1), labels).to(labels.dtype)


def _decodes_exactly(table: Table) -> Tensor:
    """Return whether the levels of each row are linear in what is stored, without rounding."""
    if table.spec.base is None:
        return table.parameters.new_ones(len(table.parameters), dtype=torch.bool)
    return (levels_of(table.spec, table.parameters.double()) == table.values).flatten(1).all(1)


def _check_layer(target: Tensor, gram: Tensor) -> None:
    square = gram.ndim == 2 and gram.shape[0] == gram.shape[1]
    if target.ndim != 2 or 0 in target.shape or not square or len(gram) != target.shape[1]:
        raise InvalidProblemError(
            "layer: a target of shape (R, C) and a Gram matrix of shape (C, C) are needed, got "
            f"{tuple(target.shape)} and {tuple(gram.shape)}"
        )
    for what, tensor in (("target", target), ("Gram matrix", gram)):
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise InvalidProblemError(f"layer: the {what} must hold finite floating-point numbers")


def _check_labels(values: Tensor, labels: Tensor, target: Tensor) -> None:
    if labels.shape != target.shape or len(values) not in (1, len(target)) or target.shape[1] % values.shape[1]:
        raise InvalidProblemError(
            f"layer: levels of shape {tuple(values.shape)} and labels of shape {tuple(labels.shape)} do not fit a "
            f"target of shape {tuple(target.shape)}"
        )
    if labels.is_floating_point() or int(labels.max()) >= values.shape[2] or int(labels.min()) < 0:
        raise InvalidProblemError(f"layer: labels must be whole numbers from 0 to {values.shape[2] - 1}")
