"""QPBO files: quadratic pseudo-boolean optimisation, min or max x'Wx.

`N M`, then M lines `i j w`, numbered from 1: the entries of one half of the symmetric matrix W, so that those off the
diagonal count twice. A negative N means x in {-1, 1}, else {0, 1}; a negative M means maximise. Label 1 is x = 1, and
the energy of a maximisation is -x'Wx.
"""

from __future__ import annotations

import numpy as np

from mrfq.errors import InvalidProblemError
from mrfq.io.numbers import Numbers
from mrfq.io.quadratic import Quadratic, lines, two_label_costs
from mrfq.io.sparse import entries, sizes
from mrfq.io.text import Text
from mrfq.problem import SupportsFactors
from mrfq.problems.pairwise import PairwiseMRF
from mrfq.problems.tables import spins

#: the table of the product of two bits
PRODUCT = np.array([[0.0, 0.0], [0.0, 1.0]])


def parse_qpbo(text: Text) -> PairwiseMRF:
    """Return the model of a QPBO file."""
    numbers = Numbers(text)
    n, m = sizes(numbers, "entries", signed=True)
    i, j, values = entries(numbers, abs(n), abs(m), "entries")
    values = -values if m < 0 else values
    on_diagonal = i == j
    diagonal, w = values[on_diagonal], values[~on_diagonal]
    unary = np.zeros((abs(n), 2))
    if n < 0:
        unary[0] += diagonal.sum()  # x_i^2 = 1
    else:
        np.add.at(unary[:, 1], i[on_diagonal], diagonal)
    edges = np.stack([i, j], 1)[~on_diagonal]
    return PairwiseMRF(unary, edges, -spins() if n < 0 else PRODUCT, weights=2 * w)


def render_qpbo(problem: SupportsFactors) -> str:
    """Return the text of a QPBO file.

    Raises
    ------
    InvalidProblemError
        The model has more than two labels, a factor of more than two variables or costs of +inf; or it needs a
        constant together with linear terms, for which the format has no place.
    """
    costs = two_label_costs(problem, "QPBO")
    n = len(costs.unary)
    bits, signs = costs.in_bits(), costs.in_spins()
    if costs.negligible(bits.constant):
        return _lines(n, bits.linear, costs.edges, bits)
    if costs.negligible(signs.linear):
        diagonal = np.zeros(n)
        diagonal[0] = signs.constant
        return _lines(-n, diagonal, costs.edges, signs)
    raise InvalidProblemError(
        f"the energy of labels 0 is {bits.constant:g}, but a QPBO file has no place for a constant; write .LG or .json"
    )


def _lines(n: int, diagonal: np.ndarray, edges: np.ndarray, form: Quadratic) -> str:
    """Return the file with the entries that are not 0."""
    on, off = np.flatnonzero(diagonal), form.couplings != 0
    i, j = np.sort(edges[off], axis=1).T
    weights = np.concatenate([diagonal[on], form.couplings[off] / 2])
    return lines(f"{n} {len(weights)}", np.concatenate([on, i]), np.concatenate([on, j]), weights)
