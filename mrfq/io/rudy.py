"""Graphs for maximum cut, in the format of the generator rudy and of the G-set.

`n m`, then m lines `i j w`: an edge and its weight, vertices numbered from 1. The energy of a labelling is minus the
weight of the edges between vertices with different labels.
"""

from __future__ import annotations

import numpy as np

from mrfq.errors import InvalidProblemError
from mrfq.io.numbers import Numbers
from mrfq.io.quadratic import lines, two_label_costs
from mrfq.io.sparse import entries, sizes
from mrfq.io.text import Text
from mrfq.problem import SupportsFactors
from mrfq.problems.pairwise import PairwiseMRF


def parse_rudy(text: Text) -> PairwiseMRF:
    """Return the model of a graph to cut: a Potts model of two labels."""
    numbers = Numbers(text)
    n, m = sizes(numbers, "edges", signed=False)
    first = numbers.position
    i, j, weights = entries(numbers, n, m, "edges")
    numbers.check((i != j).repeat(3), first, "an edge between two different vertices")
    return PairwiseMRF.potts(np.zeros((n, 2)), np.stack([i, j], 1), -weights)


def render_rudy(problem: SupportsFactors) -> str:
    """Return the text of a rudy file.

    Raises
    ------
    InvalidProblemError
        The energy is not minus the weight of a cut.
    """
    costs = two_label_costs(problem, "a rudy file")
    form = costs.in_spins()
    if not costs.negligible(form.linear, form.constant + form.couplings.sum()):
        raise InvalidProblemError(
            "the energy is not minus the weight of a cut: fields or a constant are left over; write .LG or .json"
        )
    i, j = costs.edges.T
    return lines(f"{len(costs.unary)} {len(costs.edges)}", i, j, 2 * form.couplings)
