"""What a site does with its conditional costs: ICM takes the cheapest label, Gibbs sampling draws one.

Mean-field, which keeps the whole distribution, has its softmax in the sweep itself.

`costs` holds the energy of every label of one variable given all the others; +inf marks a label that does not
exist. At least one cost is finite.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrfq.kernels import kernel


@kernel
def argmin_site(costs: Any, current: int) -> int:
    """Return the cheapest label; a tie keeps the current label, else takes the lowest."""
    best, lowest = current, costs[np.uint64(current)]
    for a in range(costs.shape[0]):
        if costs[a] < lowest:
            best, lowest = a, costs[a]
    return best


@kernel
def sample_site(costs: Any, beta: float, uniform: float, weights: Any) -> int:
    """Return a label drawn from `exp(-beta costs)` by inversion of one uniform number; `weights` is scratch."""
    lowest = costs.min()
    total = 0.0
    for a in range(costs.shape[0]):
        total += math.exp(-beta * (costs[a] - lowest))
        weights[a] = total
    threshold = uniform * total
    for a in range(costs.shape[0]):
        if weights[a] > threshold:
            return a
    return int(costs.argmin())
