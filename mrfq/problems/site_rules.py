"""What a site does with its conditional costs: the only difference between ICM, mean-field and Gibbs sampling.

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


@kernel
def softmax_site(costs: Any, beta: float, weights: Any) -> Any:
    """Write `exp(-beta costs)` relative to the cheapest label into `weights`, and the costs above it into `costs`.

    Labels that do not exist get 0 in both. Returns the cheapest label, the sum of the weights, and their sum with the
    costs above the cheapest: normalising is left to the caller, who goes over the row anyway. beta must be positive.
    """
    cheapest = 0
    for a in range(1, costs.shape[0]):
        if costs[a] < costs[cheapest]:
            cheapest = a
    lowest = costs[cheapest]
    total = 0.0
    mean = 0.0
    for a in range(costs.shape[0]):
        above = costs[a] - lowest
        weight = math.exp(-beta * above)
        finite = above if above < math.inf else 0.0
        costs[a] = finite
        weights[a] = weight
        total += weight
        mean += weight * finite
    return cheapest, total, mean
