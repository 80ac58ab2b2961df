"""`LayerCodebook`: a layer whose rows are made of codewords, with the output error as the energy."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.labels import LabelSet
from mrfq.problem import Rule, SweepReport
from mrfq.problems.block_sweeps import BlockRows, own_costs
from mrfq.problems.gram_checks import check_gram, check_matrix
from mrfq.problems.layer_model import LayerModel, check_explicit
from mrfq.problems.pairwise import Array, PairwiseMRF


class LayerCodebook(LayerModel):
    r"""A layer whose rows are made of codewords: :math:`E(x) = \sum_r (q_r - t_r) H (q_r - t_r)^T`.

    The row :math:`q_r` is C / d codewords side by side. Variables are blocks, numbered row by row; labels are the
    numbers 0 to K - 1 of the codewords (see `BlockCodebook`). The blocks of a row form a fully connected pairwise
    model, rows are independent of one another. With H block diagonal it is a `BlockCodebook`.

    Parameters
    ----------
    target : (R, C) array
        The rows t, outputs x inputs.
    gram : (C, C) array
        Positive semi-definite H, for instance the mean of x x^T over the inputs of the layer.
    codewords : (K, d) array
        d divides C.
    dtype : torch.dtype
    device : torch.device or str

    Raises
    ------
    InvalidProblemError
        Wrong shapes, d that does not divide C, numbers that are not finite, H not positive semi-definite.

    Notes
    -----
    A sweep visits the blocks of a row one after another and all rows side by side. With the residual g = (m - t) H of
    the present values m, codeword c costs :math:`c^T H_{pp} c + 2 c^T (g_p - H_{pp} m_p)` at block p, which takes
    d (K + C) operations with the update of g. Energies are computed in double precision whatever the dtype.

    Examples
    --------
    >>> coupled = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> layer = LayerCodebook([[0.4, 0.4]], coupled, [[0.0], [1.0]])
    >>> [round(layer.energy(torch.tensor(x)), 3) for x in ([0, 0], [0, 1])]
    [0.608, 0.088]
    """

    def __init__(
        self,
        target: Array,
        gram: Array,
        codewords: Array,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.target = check_matrix("target", target, dtype).to(device)
        rows, columns = self.target.shape
        self.codewords = check_matrix("codewords", codewords, dtype).to(device)
        count, width = self.codewords.shape
        if columns % width:
            raise InvalidProblemError(f"blocks of {width} weights do not divide the {columns} columns of the target")
        self.gram = check_gram("gram", gram, columns, dtype)[0].to(device)
        self.blocks = columns // width
        self.label_set = LabelSet.shared(list(range(count)), rows * self.blocks, dtype=dtype, device=device)
        self.dtype, self.device = dtype, self.target.device

    # ---- what every problem has -------------------------------------------------------------------------

    def _weights(self, labels: Tensor) -> Tensor:
        return self.codewords[labels].view(len(labels), *self.target.shape)

    def _energies(self, weights: Tensor) -> Tensor:
        error = (weights - self.target).double()
        return ((error @ self.gram.double()) * error).sum((1, 2))

    def _change(self, old: Tensor, new: Tensor, rows: Tensor) -> Tensor:
        before, after = (self.codewords[x.view(-1, self.blocks)[rows]].flatten(1).double() for x in (old, new))
        middle = before + after - 2 * self.target[rows].double()
        return (((after - before) @ self.gram.double()) * middle).sum()

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the multilinear extension E(u) and its gradient, the conditional costs, shape (n, K)."""
        rows = self._rows(u @ self.codewords)
        costs = torch.einsum("rpi,ai->rpa", rows.slope(), 2 * self.codewords)
        own = u.view(costs.shape) * rows.own
        value = ((rows.mean - self.target) * rows.pull).sum() + own.sum() - rows.within()
        return value, (costs + rows.own).flatten(0, 1)

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
        """Visit every block once, in place (see `mrfq.problem.SupportsSweep`); blocks p of all rows share a colour."""
        rows = self._rows(point @ self.codewords if rule == "softmax" else self.codewords[point])
        if isinstance(order, str) or order is None:
            visits = None
        else:  # rows do not touch one another, so only the order within each row matters
            visits = order[(order // self.blocks).argsort(stable=True)].view(-1, self.blocks) % self.blocks
        return rows.sweep(point, rule, beta, visits, generator)

    @cached_property
    def unary(self) -> Tensor:
        """(n, K) cost of each codeword at each block if the other blocks of the row had no error."""
        wanted = self.target.view(-1, self.blocks, self.codewords.shape[1])
        aims = torch.einsum("rpi,pij->rpj", wanted, self._diagonal)
        cross = torch.einsum("rpj,aj->rpa", aims, 2 * self.codewords)
        return (self._own - cross + (aims * wanted).sum(2, keepdim=True)).clamp(min=0).flatten(0, 1)

    def initial(self) -> Tensor:
        """Return the relaxed labelling in which every block has the codeword that is cheapest by itself."""
        return self.label_set.one_hot(self.unary.argmin(1), self.dtype)

    def pairwise(self) -> PairwiseMRF:
        """Return the same model with explicit tables, for exact solvers; for tiny layers.

        Raises
        ------
        InvalidParameterError
            The tables would have more than `mrfq.problems.layer_model.LARGEST_EXPLICIT` entries.
        """
        n, count = self.shape
        pairs = torch.triu_indices(self.blocks, self.blocks, 1).T
        check_explicit(len(self.target) * len(pairs) * count**2)
        width = self.codewords.shape[1]
        gram = self.gram.view(self.blocks, width, self.blocks, width)[pairs[:, 0], :, pairs[:, 1]]
        tables = 2 * torch.einsum("ai,eij,bj->eab", self.codewords, gram, self.codewords)
        pull = (self.target @ self.gram).view(n, width)
        alone = self._own.repeat(len(self.target), 1) - 2 * pull @ self.codewords.T
        alone[0] += (self.target @ self.gram * self.target).sum()
        edges = torch.cat([pairs + r * self.blocks for r in range(len(self.target))])
        return PairwiseMRF(alone, edges, tables.repeat(len(self.target), 1, 1), dtype=self.dtype)

    # ---- prepared on first use --------------------------------------------------------------------------

    @cached_property
    def _diagonal(self) -> Tensor:
        """(P, d, d) blocks of the Gram matrix on its diagonal."""
        width = self.codewords.shape[1]
        return torch.stack([self.gram[i : i + width, i : i + width] for i in range(0, len(self.gram), width)])

    @cached_property
    def _own(self) -> Tensor:
        return own_costs(self._diagonal, self.codewords)

    def _rows(self, values: Tensor) -> BlockRows:
        mean = values.reshape(self.target.shape)
        return BlockRows(mean, (mean - self.target) @ self.gram, self.gram, self._diagonal, self.codewords, self._own)

    def __repr__(self) -> str:
        rows, columns = self.target.shape
        count, width = self.codewords.shape
        return f"LayerCodebook({rows} rows of {columns} weights in blocks of {width}, {count} codewords)"
