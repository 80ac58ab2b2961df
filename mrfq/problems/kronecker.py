"""`KroneckerQuadratic`: the error of a layer with coupled inputs and coupled outputs."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mrfq.problem import Rule, SweepReport
from mrfq.problems.block_codebook_kernels import RULES
from mrfq.problems.gram_checks import check_gram, check_matrix
from mrfq.problems.kronecker_kernels import Coupled, Here, sweep_sites
from mrfq.problems.layer_model import LevelModel, check_explicit
from mrfq.problems.pairwise import Array, PairwiseMRF


class KroneckerQuadratic(LevelModel):
    r"""A layer's weights with the energy :math:`E(x) = \mathrm{tr}(G D A D^T)`, :math:`D = Q(x) - T`.

    A second-order model of what the change of a layer does to a network's loss, with the curvature in the form of
    Kronecker factors (K-FAC: Martens and Grosse, ICML 2015): A is the second moment of the layer's inputs, G that of
    the gradients of the loss with respect to its outputs. All weights are coupled. With G the identity it is the
    output error, whose rows are independent of one another.

    Variables are weights, numbered row by row.

    Parameters
    ----------
    target : (R, C) array
        The weights T to come close to, outputs x inputs.
    gram_in : (C, C) array
        Positive semi-definite A.
    gram_out : (R, R) array
        Positive semi-definite G.
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
    A sweep visits one weight after another, on the CPU. The residual :math:`S = G (M - T) A` of the present values M
    gives the conditional cost :math:`h q^2 + 2 q (S_{rj} - h M_{rj})` of level q, with :math:`h = G_{rr} A_{jj}`. A row
    of S is computed when a visit of the row begins and kept up to date within it: R C (R + 2 C) operations a sweep.
    Energies are computed in double precision whatever the dtype. Where levels are equal, those of the label set are
    told apart by a unit in the last place.

    Examples
    --------
    >>> layer = KroneckerQuadratic([[0.4], [0.4]], [[1.0]], [[1.0, 0.9], [0.9, 1.0]], [[[0.0, 1.0]]])
    >>> [round(layer.energy(torch.tensor(x)), 3) for x in ([0, 0], [0, 1])]
    [0.608, 0.088]
    """

    def __init__(
        self, target: Array, gram_in: Array, gram_out: Array, values: Array, *, dtype: torch.dtype = torch.float64
    ) -> None:
        wanted = check_matrix("target", target, dtype)
        rows, columns = wanted.shape
        self.gram_in = check_gram("gram_in", gram_in, columns, dtype)[0]
        self.gram_out = check_gram("gram_out", gram_out, rows, dtype)[0]
        super().__init__(wanted, values)

    # ---- what every problem has -------------------------------------------------------------------------

    def _energies(self, weights: Tensor) -> Tensor:
        error = (weights - self.target).double()
        return ((self.gram_out.double() @ error) * (error @ self.gram_in.double())).sum((1, 2))

    def _change(self, old: Tensor, new: Tensor, rows: Tensor) -> Tensor:
        before, after = (self._values.decode(x[None])[0].double() for x in (old, new))
        pull = self.gram_out[rows].double() @ (before + after - 2 * self.target.double())
        return ((after[rows] - before[rows]) @ self.gram_in.double() * pull).sum()

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the multilinear extension E(u) and its gradient, the conditional costs, shape (n, L)."""
        mean, curvature = self._values.mean(u), self._curvature
        error = mean - self.target
        residual = self.gram_out @ error @ self.gram_in
        slope = 2 * (residual - curvature * mean)
        costs = (curvature.view(-1, 1) * self._values.per_weight + slope.view(-1, 1)) * self._values.per_weight
        spread = (u * self._values.per_weight.square()).sum(1).view(mean.shape) - mean.square()
        return (error * residual).sum() + (curvature * spread).sum(), costs

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
        """Visit every weight once, in place (see `mrfq.problem.SupportsSweep`); every weight has its own colour."""
        mean = self._values.mean(point) if rule == "softmax" else self._values.decode(point[None])[0]
        labels, u, uniforms = point, self._nothing, self._nothing[0]
        if rule == "softmax":
            labels, u = self.label_set.round(point), point
        if rule == "sample":
            uniforms = torch.rand(len(point), generator=generator, dtype=torch.float64)
        visits = self._sites if order is None or isinstance(order, str) else order
        here = Here(*(x.numpy() for x in (labels, u, mean, (mean - self.target) @ self.gram_in)))
        layer = Coupled(*(x.numpy() for x in (self.gram_in, self.gram_out, self.values)))
        report = sweep_sites(here, layer, visits.numpy(), RULES[rule], beta, uniforms.numpy())
        change, changed, largest, entropy = report
        if rule == "softmax":
            return SweepReport(change, largest_change=largest, entropy=entropy, labels=labels)
        return SweepReport(change, changed, exact=self.dtype == torch.float64)

    def pairwise(self) -> PairwiseMRF:
        """Return the same model with explicit tables, for exact solvers; for tiny layers.

        Raises
        ------
        InvalidParameterError
            The tables would have more than `mrfq.problems.layer_model.LARGEST_EXPLICIT` entries.
        """
        n, count = self.shape
        check_explicit(n * (n - 1) // 2 * count**2)
        i, j = torch.triu_indices(n, n, 1)
        coupling = torch.kron(self.gram_out, self.gram_in)[i, j]
        tables = (
            2 * coupling[:, None, None] * self._values.per_weight[i][:, :, None] * self._values.per_weight[j][:, None]
        )
        pull = self.gram_out @ self.target @ self.gram_in
        alone = (self._curvature.view(-1, 1) * self._values.per_weight - 2 * pull.view(-1, 1)) * self._values.per_weight
        alone[0] += (pull * self.target).sum()
        return PairwiseMRF(alone, torch.stack([i, j], 1), tables, dtype=self.dtype)

    # ---- prepared on first use --------------------------------------------------------------------------

    @cached_property
    def _curvature(self) -> Tensor:
        """(R, C) `G_rr A_jj`."""
        return torch.outer(self.gram_out.diagonal(), self.gram_in.diagonal())

    @cached_property
    def _sites(self) -> Tensor:
        return torch.arange(self.shape[0])

    @cached_property
    def _nothing(self) -> Tensor:
        return torch.empty(1, 0, dtype=self.dtype)
