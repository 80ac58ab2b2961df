"""The numba kernel of sequential message passing on a pairwise graph: TRW-S and max-product share one pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrfq.kernels import kernel
from mrfq.solvers.message_graph import POTTS, TRUNCATED_LINEAR, MessageGraph

ONE = np.uint64(1)


@kernel
def through_table(sent: Any, message: Any, weight: float, table: Any) -> float:
    """Write `min over a of sent[a] + weight table[a, b]` less its minimum over b, and return that."""
    count = sent.shape[0]
    for b in range(count):
        message[b] = math.inf
    for a in range(count):
        h = sent[a]
        if h < math.inf:
            for b in range(count):
                message[b] = min(message[b], h + weight * table[a, b])
    lowest = message[0]
    for b in range(1, count):
        lowest = min(lowest, message[b])
    for b in range(count):
        message[b] -= lowest
    return lowest  # type: ignore[no-any-return]


# The work of a variable is written out in the body of a pass, fast messages included: as functions of their own, which
# pass arrays at every variable, it takes five times as long.


@kernel
def pass_messages(  # noqa: PLR0912, PLR0915
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
    costs, given, sent = np.empty(count), np.empty(count), np.empty(count)
    bound, size = 0.0, 0.0
    for position in range(n):
        i = np.uint64(position if forward else n - 1 - position)
        first, last = start[i], start[i + ONE]
        ahead, behind = 0, 0
        for a in range(count):
            costs[a] = unary[i, a]
            given[a] = unary[i, a]
        for h in range(first, last):
            for a in range(count):
                costs[a] += messages[h, a]
            if (neighbour[h] > i) == forward:
                ahead += 1
            else:
                behind += 1
            if forward and neighbour[h] > i:
                for a in range(count):
                    given[a] += messages[h, a]
            elif forward:
                beside, t, w = np.uint64(labels[neighbour[h]]), graph.table[h], graph.weight[h]
                if graph.kind[t] == POTTS:  # less a constant
                    given[beside] -= w * graph.step[t]
                else:
                    for a in range(count):
                        given[a] += w * graph.tables[t, beside, a]
        best, lowest = 0, costs[0]
        for a in range(1, count):
            lowest = min(lowest, costs[a])
            if given[a] < given[best]:
                best = a
        if forward:
            labels[i] = best
        bound += lowest
        size += abs(lowest)
        gamma = 1.0 / max(ahead, behind, 1) if reweighted else 1.0
        for h in range(first, last):
            if (neighbour[h] > i) != forward:
                continue
            t, w, back = graph.table[h], graph.weight[h], opposite[h]
            step, limit = w * graph.step[t], w * graph.limit[t]
            taken = math.inf
            for a in range(count):
                sent[a] = gamma * (costs[a] - lowest) - messages[h, a]
                taken = min(taken, sent[a])
            if graph.kind[t] == POTTS and step >= 0:
                for b in range(count):
                    messages[back, b] = min(sent[b] - taken, step)
                taken += w * graph.same[t]
            elif graph.kind[t] == TRUNCATED_LINEAR and w >= 0:
                # The lower envelope of cones, in two passes (Felzenszwalb and Huttenlocher, IJCV 2006, section 3.2).
                reach = math.inf
                for b in range(count):
                    reach = min(reach + step, sent[b] - taken)
                    messages[back, b] = min(reach, limit)
                for b in range(count - 1, -1, -1):
                    reach = min(reach + step, messages[back, b])
                    messages[back, b] = reach
                taken += w * graph.same[t]
            else:
                taken = through_table(sent, messages[back], w, graph.tables[graph.table[back]])
            bound += taken
            size += abs(taken)
    return bound, size * 2.0**-50
