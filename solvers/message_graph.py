"""A pairwise model prepared for message passing: half-edges, their opposites, and the shape of each table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrfq.problems.compressed import Pairwise, compress
from mrfq.solvers.half_edges import opposite

#: how a message through a table is computed: in O(L) for the first two, in O(L^2) otherwise
POTTS, TRUNCATED_LINEAR, GENERAL = 0, 1, 2


class MessageGraph(NamedTuple):
    """Half-edges of variable i are `start[i]:start[i + 1]`; forbidden costs are large and finite."""

    #: (n, L) costs; +inf marks a label that does not exist
    unary: Any
    start: Any
    #: the variable at the other end of a half-edge, and the number of the half-edge there
    neighbour: Any
    opposite: Any
    #: the factor and the number of a half-edge's table
    weight: Any
    table: Any
    #: `tables[t, b, a]` costs own label a beside neighbour label b
    tables: Any
    #: of each table: POTTS, TRUNCATED_LINEAR or GENERAL; the cost of equal labels; the step above it to the next
    #: label; and the most above it
    kind: Any
    same: Any
    step: Any
    limit: Any


def message_graph(problem: Pairwise) -> MessageGraph:
    """Return the prepared form of a model, in float64."""
    graph = compress(problem)
    order = problem.edges.cpu().T.flatten().argsort(stable=True)
    tables = graph.tables.to("cpu", torch.float64)
    kind, same, step, limit = _shapes(tables)
    # Unsigned indices spare the kernels a test for negative ones at every look-up.
    return MessageGraph(
        unary=graph.unary.to("cpu", torch.float64).numpy(),
        start=graph.start.cpu().numpy().astype(np.uint64),
        neighbour=graph.neighbour.cpu().numpy().astype(np.uint32),
        opposite=opposite(order.numpy()),
        weight=graph.weight.to("cpu", torch.float64).numpy(),
        table=graph.table.cpu().numpy().astype(np.uint32),
        tables=tables.numpy(),
        kind=kind.numpy(),
        same=same.numpy(),
        step=step.numpy(),
        limit=limit.numpy(),
    )


def _shapes(tables: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return kind, equal-label cost, step and limit of each table (T, L, L)."""
    count = tables.shape[1]
    label = torch.arange(count)
    distance = (label[:, None] - label).abs().to(torch.float64)
    same = tables[:, 0, 0].clone()
    step = tables[:, 0, min(1, count - 1)] - same
    limit = tables[:, 0, count - 1] - same
    slack = 1e-13 * (1 + tables.abs().amax((1, 2)))

    def matches(shape: Tensor) -> Tensor:
        return ((tables - same[:, None, None] - shape).abs() <= slack[:, None, None]).flatten(1).all(1)

    potts = matches(step[:, None, None] * (distance > 0))
    linear = torch.minimum(step[:, None, None] * distance, limit[:, None, None])
    truncated = matches(linear) & (step >= 0) & (limit >= 0)
    kind = torch.full((len(tables),), GENERAL)
    kind[truncated] = TRUNCATED_LINEAR
    kind[potts] = POTTS
    return kind, same, step, limit
