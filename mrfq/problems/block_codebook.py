"""`BlockCodebook`: blocks of weights that each take the cheapest of some codewords.

The energy of "And the bit goes down" (Stock et al., ICLR 2020). `LayerCodebook` has the output error of a
whole layer, in which the blocks of a row act together.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.problems.gram_checks import check_gram, check_matrix, whitening
from mrfq.problems.pairwise import Array, PairwiseMRF


class BlockCodebook(PairwiseMRF):
    r"""Blocks of weights that each take a codeword: :math:`E(x) = \sum_i (v_i - c_{x_i})^T G_i (v_i - c_{x_i})`.

    A pairwise model without edges, so that every solver applies; the exact optimum is the cheapest codeword of each
    block. The labels of the label set are the numbers 0 to K - 1 of the codewords, as in other models whose labels are
    not numbers on a scale; `decode` gives the blocks.

    Parameters
    ----------
    blocks : (n, d) array
        The blocks v.
    gram : (d, d) or (p, d, d) array
        Positive semi-definite G, one for all blocks or one for each of p positions.
    codewords : (K, d) array
    index : (n,) integer array, optional
        The position of each block, needed if there are several.
    dtype : torch.dtype
        Of costs.
    device : torch.device or str

    Raises
    ------
    InvalidProblemError
        Wrong shapes, numbers that are not finite, a matrix that is not symmetric or has a negative eigenvalue.

    Notes
    -----
    In the whitened space z = L^T v with G = L L^T costs are squared distances; they are computed so, one coordinate
    after another, in memory of the order n K.

    Examples
    --------
    >>> problem = BlockCodebook([[0.0, 1.0], [2.0, 2.0]], torch.eye(2), [[0.0, 0.0], [2.0, 2.0]])
    >>> problem.unary.tolist()
    [[1.0, 5.0], [8.0, 0.0]]
    >>> problem.decode(torch.tensor([0, 1])).tolist()
    [[0.0, 0.0], [2.0, 2.0]]
    """

    def __init__(
        self,
        blocks: Array,
        gram: Array,
        codewords: Array,
        *,
        index: Array | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.blocks = check_matrix("blocks", blocks, dtype)
        width = self.blocks.shape[1]
        self.codewords = check_matrix("codewords", codewords, dtype, columns=width)
        self.gram = check_gram("gram", gram, width, dtype, many=True)
        self.index = _check_index(index, len(self.blocks), len(self.gram))
        super().__init__(self._costs(), dtype=dtype, device=device)

    def decode(self, labels: Tensor) -> Tensor:
        """Return the blocks (n, d) of a labelling (n,)."""
        return self.codewords[self.label_set.check(labels).to(self.codewords.device)]

    def _costs(self) -> Tensor:
        costs = torch.zeros(len(self.blocks), len(self.codewords), dtype=self.blocks.dtype)
        for position, gram in enumerate(self.gram):
            members = (self.index == position).nonzero()[:, 0]
            white = whitening(gram).to(costs.dtype)
            for z, c in zip((self.blocks[members] @ white).T, (self.codewords @ white).T, strict=True):
                costs[members] += (z[:, None] - c).square_()
        return costs

    def __repr__(self) -> str:
        n, count = self.shape
        return f"BlockCodebook({n} blocks of {self.blocks.shape[1]} weights, {count} codewords)"


def _check_index(index: Array | None, n: int, positions: int) -> Tensor:
    """Return the position of each block as an (n,) int64 tensor."""
    if index is None:
        if positions > 1:
            raise InvalidProblemError(
                f"{positions} Gram matrices need an index: the position of each of the {n} blocks"
            )
        return torch.zeros(n, dtype=torch.int64)
    given = np.asarray(index)
    if given.shape != (n,) or given.dtype.kind not in "iu":
        raise InvalidProblemError(f"index needs shape ({n},) and whole numbers, got {given.shape} and {given.dtype}")
    outside = (given < 0) | (given >= positions)
    if outside.any():
        i = int(outside.argmax())
        raise InvalidProblemError(f"index[{i}] is {given[i]}, but the positions are numbered 0 to {positions - 1}")
    return torch.tensor(given.astype(np.int64))
