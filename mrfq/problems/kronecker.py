"""`KroneckerQuadratic`: the error of a layer with coupled inputs and coupled outputs."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.problem import Rule, SweepReport
from mrfq.problems.block_codebook_kernels import RULES
from mrfq.problems.gram_checks import check_gram, check_matrix
from mrfq.problems.kronecker_kernels import Coupled, Here, sweep_sites
from mrfq.problems.layer_values import LayerValues
from mrfq.problems.pairwise import Array, PairwiseMRF

#: labellings whose energies are computed at once
CHUNK = 1024
#: entries of the tables of an explicit model
LARGEST_EXPLICIT = 2**24


class KroneckerQuadratic:
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

    device = torch.device("cpu")
    curvature_calls = 1

    def __init__(
        self, target: Array, gram_in: Array, gram_out: Array, values: Array, *, dtype: torch.dtype = torch.float64
    ) -> None:
        self.target = check_matrix("target", target, dtype)
        rows, columns = self.target.shape
        self.gram_in = check_gram("gram_in", gram_in, columns, dtype)[0]
        self.gram_out = check_gram("gram_out", gram_out, rows, dtype)[0]
        self._values = LayerValues(values, rows, columns, dtype)
        self.values = self._values.levels
        self.label_set = self._values.label_set
        self.dtype = dtype

    # ---- what every problem has -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Number of weights and of levels."""
        return self.label_set.shape

    def decode(self, labels: Tensor) -> Tensor:
        """Return the weights (R, C) of a labelling (n,)."""
        return self._values.decode(self.label_set.check(labels)[None])[0]

    def energy(self, labels: Tensor) -> float:
        """Return the energy of a labelling (n,)."""
        return float(self.energies(self.label_set.check(labels)[None])[0])

    def energies(self, labels: Tensor) -> Tensor:
        """Return the (k,) float64 energies of k labellings, shape (k, n)."""
        a, g, found = self.gram_in.double(), self.gram_out.double(), []
        for part in labels.split(CHUNK):
            error = (self._values.decode(part) - self.target).double()
            found.append(((g @ error) * (error @ a)).sum((1, 2)))
        return torch.cat(found)

    def energy_change(self, old: Tensor, new: Tensor) -> tuple[float, int]:
        """Return what going from one labelling to another costs, and how many labels differ; rows that differ count."""
        differs = old != new
        rows = differs.view(self.target.shape).any(1).nonzero()[:, 0]
        before, after = (self._values.decode(x[None])[0].double() for x in (old, new))
        pull = self.gram_out[rows].double() @ (before + after - 2 * self.target.double())
        change = ((after[rows] - before[rows]) @ self.gram_in.double() * pull).sum()
        return float(change), int(differs.sum())

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

    def pairwise(self) -> PairwiseMRF:
        """Return the same model with explicit tables, for exact solvers; for tiny layers.

        Raises
        ------
        InvalidParameterError
            The tables would have more than `LARGEST_EXPLICIT` entries.
        """
        n, count = self.shape
        size = n * (n - 1) // 2 * count**2
        if size > LARGEST_EXPLICIT:
            raise InvalidParameterError(
                f"explicit tables would have {size:,} entries, the limit is {LARGEST_EXPLICIT:,}"
            )
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

    def __repr__(self) -> str:
        rows, columns = self.target.shape
        return f"KroneckerQuadratic({rows} rows of {columns} weights, {self.values.shape[2]} levels)"
