"""Numba kernels of sequential message passing on a pairwise graph: TRW-S and max-product share one pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrfq.kernels import kernel
from mrfq.solvers.message_graph import POTTS, TRUNCATED_LINEAR, MessageGraph

ONE = np.uint64(1)


@kernel
def through_potts(sent: Any, out: Any, weight: float) -> Any:
    """Write `out[b] = min(sent[b], weight + min over a != b of sent[a])` less its minimum, and return that."""
    count = sent.shape[0]
    lowest = sent.min()
    if weight >= 0:
        for b in range(count):
            out[b] = min(sent[b] - lowest, weight)
        return lowest
    best = sent.argmin()
    second = math.inf
    for a in range(count):
        if a != best:
            second = min(second, sent[a])
    for b in range(count):
        out[b] = min(sent[b], weight + (second if b == best else lowest))
    return normalise(out)


@kernel
def through_truncated_linear(sent: Any, out: Any, step: float, limit: float) -> Any:
    """Write `out[b] = min over a of sent[a] + min(step |a - b|, limit)` less its minimum, and return that.

    The lower envelope of cones takes two passes (Felzenszwalb and Huttenlocher, IJCV 2006, section 3.2).
    """
    count = sent.shape[0]
    lowest = sent.min()
    reach = math.inf
    for b in range(count):
        reach = min(reach + step, sent[b] - lowest)
        out[b] = min(reach, limit)
    for b in range(count - 1, -1, -1):
        reach = min(reach + step, out[b])
        out[b] = reach
    return lowest


@kernel
def normalise(message: Any) -> Any:
    """Subtract the minimum of a message from it, and return it."""
    lowest = message.min()
    for b in range(message.shape[0]):
        message[b] -= lowest
    return lowest


@kernel
def through_table(sent: Any, out: Any, weight: float, table: Any) -> Any:
    """Write `out[b] = min over a of sent[a] + weight table[a, b]` less its minimum, and return that."""
    for b in range(out.shape[0]):
        out[b] = math.inf
    for a in range(sent.shape[0]):
        h = sent[a]
        if h < math.inf:
            for b in range(out.shape[0]):
                out[b] = min(out[b], h + weight * table[a, b])
    return normalise(out)


@kernel
def send(sent: Any, out: Any, half: Any, graph: MessageGraph) -> Any:
    """Send the costs of the labels at one end of a half-edge through its table; return what was taken off.

    A difference to the costs of equal labels is all that a message through a table with a fast form sees.
    """
    t, w = graph.table[half], graph.weight[half]
    if graph.kind[t] == POTTS:
        return w * graph.same[t] + through_potts(sent, out, w * graph.step[t])
    if graph.kind[t] == TRUNCATED_LINEAR and w >= 0:
        return w * graph.same[t] + through_truncated_linear(sent, out, w * graph.step[t], w * graph.limit[t])
    back = graph.opposite[half]
    return through_table(sent, out, w, graph.tables[graph.table[back]])


@kernel
def pass_messages(  # noqa: PLR0912
    messages: Any, labels: Any, forward: bool, reweighted: bool, graph: MessageGraph
) -> Any:
    """Visit all variables in order, or backward, sending messages ahead; return (lower bound, rounding error).

    `messages[h]` comes in through half-edge h. With `reweighted`, variable i sends `gamma_i` of its costs, gamma_i one
    over the larger of the numbers of its neighbours ahead and behind (TRW-S), otherwise all of them (max-product,
    whose "bound" means nothing). A forward pass also writes labels: each variable takes its cheapest label given
    the labels behind it and the messages from ahead (Kolmogorov, PAMI 2006, section 4).
    """
    unary, start, neighbour, opposite = graph.unary, graph.start, graph.neighbour, graph.opposite
    n, count = unary.shape
    costs, sent = np.empty(count), np.empty(count)
    bound, size = 0.0, 0.0
    for position in range(n):
        i = np.uint64(position if forward else n - 1 - position)
        for a in range(count):
            costs[a] = unary[i, a]
        if forward:
            for h in range(start[i], start[i + ONE]):
                if neighbour[h] > i:
                    for a in range(count):
                        costs[a] += messages[h, a]
                else:
                    b, t, w = np.uint64(labels[neighbour[h]]), graph.table[h], graph.weight[h]
                    for a in range(count):
                        costs[a] += w * graph.tables[t, b, a]
            labels[i] = costs.argmin()
            for a in range(count):
                costs[a] = unary[i, a]
        ahead, behind = 0, 0
        for h in range(start[i], start[i + ONE]):
            if (neighbour[h] > i) == forward:
                ahead += 1
            else:
                behind += 1
            for a in range(count):
                costs[a] += messages[h, a]
        taken = normalise(costs)
        bound += taken
        size += abs(taken)
        gamma = 1.0 / max(ahead, behind, 1) if reweighted else 1.0
        for h in range(start[i], start[i + ONE]):
            if (neighbour[h] > i) == forward:
                for a in range(count):
                    sent[a] = gamma * costs[a] - messages[h, a]
                taken = send(sent, messages[opposite[h]], h, graph)
                bound += taken
                size += abs(taken)
    return bound, size * 2.0**-50
