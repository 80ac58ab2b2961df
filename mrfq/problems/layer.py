"""`LayerQuadratic`: the output error of a layer, a fully connected model for every row."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mrfq.kernels import threads_for
from mrfq.problem import Rule, SweepReport
from mrfq.problems.block_codebook_kernels import RULES
from mrfq.problems.gram_checks import check_gram, check_matrix
from mrfq.problems.layer_model import LevelModel, check_explicit
from mrfq.problems.layer_row_kernels import Rows, sweep_rows
from mrfq.problems.pairwise import Array, PairwiseMRF

#: elementary steps that a level of a weight takes in a sweep
STEPS = 8


class LayerQuadratic(LevelModel):
    r"""A layer's weights with the output error as the energy: :math:`E(x) = \sum_r (q_r - t_r) H (q_r - t_r)^T`.

    With H the mean of :math:`x x^T` over the inputs of the layer, this is the mean squared distance of the outputs Q x
    and T x. Variables are weights, numbered row by row. The weights of a row form a fully connected pairwise model;
    rows share H and are independent of one another.

    Parameters
    ----------
    target : (R, C) array
        The weights T to come close to, outputs x inputs. Of a convolution: outputs x (inputs of the group x height x
        width).
    gram : (C, C) array
        Positive semi-definite H, singular or not.
    values : (R, G, L) or (1, G, L) array
        Ascending levels of each row, or shared, for each of G groups of C / G consecutive columns. Equal levels are
        allowed.
    dtype : torch.dtype

    Raises
    ------
    InvalidProblemError
        Wrong shapes, groups that do not divide the columns, levels that descend, numbers that are not finite, a
        matrix that is not positive semi-definite; the message says where.

    Notes
    -----
    A sweep visits the weights of a row one after another and all rows side by side, on the CPU. With the residual
    :math:`g = (m - t) H` of the present values m, level q costs :math:`h q^2 + 2 q (g_j - h m_j)` at column j, with
    :math:`h = H_{jj}`; R C (C + L) operations a sweep. Energies are computed in double precision whatever the dtype.
    A column without influence (its row of H is 0) keeps its labels in ICM. Where levels are equal, those of the label
    set are told apart by a unit in the last place.

    The functions of `mrfq.problems.layer_solve` do the same work several times as fast, in single precision.

    Examples
    --------
    >>> layer = LayerQuadratic([[0.4, 0.4]], [[1.0, 0.9], [0.9, 1.0]], [[[0.0, 1.0]]])
    >>> [round(layer.energy(torch.tensor(x)), 3) for x in ([0, 0], [0, 1])]
    [0.608, 0.088]
    """

    def __init__(self, target: Array, gram: Array, values: Array, *, dtype: torch.dtype = torch.float64) -> None:
        wanted = check_matrix("target", target, dtype)
        self.gram = check_gram("gram", gram, wanted.shape[1], dtype)[0]
        super().__init__(wanted, values)

    # ---- what every problem has -------------------------------------------------------------------------

    def _energies(self, weights: Tensor) -> Tensor:
        error = weights.double() - self.target.double()
        return ((error @ self.gram.double()) * error).sum((1, 2))

    def _change(self, old: Tensor, new: Tensor, rows: Tensor) -> Tensor:
        before, after = (self._values.decode(x[None])[0, rows].double() for x in (old, new))
        middle = before + after - 2 * self.target[rows].double()
        return (((after - before) @ self.gram.double()) * middle).sum()

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the multilinear extension E(u) and its gradient, the conditional costs, shape (n, L).

        E(u) is the expected energy of weights drawn independently: that of the mean weights, and the variance of each
        weight times its diagonal entry of H.
        """
        mean, levels, diagonal = self._values.mean(u), self._values.per_weight, self.gram.diagonal()
        error = mean - self.target
        residual = error @ self.gram
        slope = 2 * (residual - diagonal * mean)
        costs = (self._curvature.view(-1, 1) * levels + slope.view(-1, 1)) * levels
        spread = (u * (levels - mean.view(-1, 1)).square()).sum(1).view(mean.shape)
        return (error * residual).sum() + (diagonal * spread).sum(), costs

    # ---- optional capabilities --------------------------------------------------------------------------

    def sweep(
        self,
        point: Tensor,
        rule: Rule,
        *,
        beta: float = 1.0,
        order: Tensor | Literal["colour"] | None = None,
        generator: torch.Generator | None = None,
    ) -> SweepReport:
        """Visit every weight once, in place (see `mrfq.problem.SupportsSweep`); a column of all rows is a colour."""
        rows, columns = self.target.shape
        soft, visits = rule == "softmax", self._visits(order)
        mean = self._values.mean(point) if soft else self._values.decode(point[None])[0]
        labels = self.label_set.round(point) if soft else point
        u = point.view(rows, columns, -1) if soft else point.new_empty((rows, 0, 0), dtype=self.dtype)
        report = torch.zeros(rows, 4, dtype=torch.float64)
        here = Rows(*(x.numpy() for x in (labels.view(rows, -1), u, mean, (mean - self.target) @ self.gram, report)))
        uniforms = self._uniforms(order, generator) if rule == "sample" else report[:0, :0]
        layer = self.gram.numpy(), self.values.numpy()
        with threads_for(self.shape[0] * (columns + STEPS * self.shape[1])):
            sweep_rows(here, *layer, visits.numpy(), RULES[rule], beta, uniforms.numpy())
        change, changed, _, entropy = report.sum(0).tolist()
        if soft:
            moved = float(report[:, 2].max().sqrt())
            return SweepReport(change, largest_change=moved, entropy=entropy, labels=labels)
        return SweepReport(change, int(changed), exact=self.dtype == torch.float64)

    def pairwise(self) -> PairwiseMRF:
        """Return the same model with explicit tables, for exact solvers; for tiny layers.

        Raises
        ------
        InvalidParameterError
            The tables would have more than `mrfq.problems.layer_model.LARGEST_EXPLICIT` entries.
        """
        (rows, columns), (n, count) = self.target.shape, self.shape
        i, j = torch.triu_indices(columns, columns, 1)
        check_explicit(rows * len(i) * count**2)
        levels, pull = self._values.per_weight, self.target @ self.gram
        alone = (self._curvature.view(-1, 1) * levels - 2 * pull.view(-1, 1)) * levels
        alone[0] += (pull * self.target).sum()
        first = torch.arange(0, n, columns)[:, None]
        edges = torch.stack([(first + i).flatten(), (first + j).flatten()], 1)
        left, right = levels[edges[:, 0]], levels[edges[:, 1]]
        tables = (2 * self.gram[i, j]).repeat(rows)[:, None, None] * left[:, :, None] * right[:, None]
        return PairwiseMRF(alone, edges, tables if len(edges) else None, dtype=self.dtype)

    # ---- prepared on first use --------------------------------------------------------------------------

    def _visits(self, order: Tensor | Literal["colour"] | None) -> Tensor:
        """Return the order of the columns in each row; rows do not touch one another, so nothing else matters."""
        columns = self.target.shape[1]
        if order is None or isinstance(order, str):
            return torch.arange(columns)[None]
        return order[(order // columns).argsort(stable=True)].view(-1, columns) % columns

    def _uniforms(self, order: Tensor | Literal["colour"] | None, generator: torch.Generator | None) -> Tensor:
        """Return a random number for each weight; they are drawn in the order of the visits."""
        drawn = torch.rand(self.shape[0], generator=generator, dtype=torch.float64)
        if order is not None and not isinstance(order, str):
            drawn = torch.empty_like(drawn).scatter_(0, order, drawn)
        return drawn.view(self.target.shape)

    @cached_property
    def _curvature(self) -> Tensor:
        """(R, C) diagonal of H, repeated."""
        return self.gram.diagonal().repeat(len(self.target), 1)
