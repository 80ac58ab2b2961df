"""Site sweeps that update one independent set of variables after another, all of a set at once, in torch.

The result is that of the sequential sweep in the same order, up to rounding; it runs on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrfq.problem import Rule, SweepReport
from mrfq.problems.compressed import Compressed
from mrfq.problems.pairwise_kernels import GENERAL


class ColourSweep:
    """The half-edges of every independent set, looked up once."""

    def __init__(self, graph: Compressed, sets: list[Tensor]) -> None:
        self.graph = graph
        self.sets = [rows.to(graph.unary.device) for rows in sets]
        degree = graph.start.diff()
        self.halves, self.owners = [], []
        for rows in self.sets:
            count = degree[rows]
            owner = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
            first = graph.start[rows] - (count.cumsum(0) - count)
            self.halves.append(first[owner] + torch.arange(len(owner), device=rows.device))
            self.owners.append(owner)

    def sweep(self, point: Tensor, rule: Rule, beta: float, generator: torch.Generator | None) -> SweepReport:
        """Visit every set once, in place."""
        report = SweepReport(0.0)
        if rule == "softmax":
            report.labels = torch.empty(len(point), dtype=torch.int64, device=point.device)
        for rows, halves, owner in zip(self.sets, self.halves, self.owners, strict=True):
            costs = self._costs(point, rows, halves, owner, relaxed=rule == "softmax")
            if rule == "softmax":
                self._relax(point, rows, costs, beta, report)
            else:
                uniform = None
                if rule == "sample":
                    uniform = torch.rand(len(rows), generator=generator, dtype=torch.float64).to(costs.device)
                self._choose(point, rows, costs, beta, uniform, report)
        return report

    def _costs(self, point: Tensor, rows: Tensor, halves: Tensor, owner: Tensor, *, relaxed: bool) -> Tensor:
        graph = self.graph
        costs = graph.unary[rows]
        neighbour, weight, table = graph.neighbour[halves], graph.weight[halves], graph.table[halves]
        if not relaxed:
            return costs.index_add_(0, owner, weight[:, None] * graph.tables[table, point[neighbour]])
        mass = weight[:, None] * point[neighbour]
        if graph.mode == GENERAL:
            return costs.index_add_(0, owner, torch.einsum("hb,hba->ha", mass, graph.tables[table]))
        return costs + torch.zeros_like(costs).index_add_(0, owner, mass) @ graph.tables[0]

    def _relax(self, u: Tensor, rows: Tensor, costs: Tensor, beta: float, report: SweepReport) -> None:
        old = u[rows]
        new = torch.softmax(-beta * (costs - costs.amin(1, keepdim=True)), 1)
        finite = costs.where(costs.isfinite(), 0.0)
        report.energy_change += float((finite * (new - old)).sum())
        if report.labels is not None:
            report.labels[rows] = costs.argmin(1)
        report.largest_change = max(report.largest_change, float((new - old).norm(dim=1).max()))
        report.entropy += float(torch.special.entr(new).sum())
        u[rows] = new

    def _choose(
        self, labels: Tensor, rows: Tensor, costs: Tensor, beta: float, uniform: Tensor | None, report: SweepReport
    ) -> None:
        """Take the cheapest labels, or samples by inversion if uniform numbers are given."""
        old = labels[rows]
        before = costs.gather(1, old[:, None])[:, 0]
        if uniform is None:
            lowest, new = costs.min(1)
            new = torch.where(lowest < before, new, old)
        else:
            weights = torch.softmax(-beta * (costs - costs.amin(1, keepdim=True)).double(), 1).cumsum(1)
            # In float64, because in float32 a uniform number may round to 1 and draw a label that does not exist.
            new = (weights <= (uniform * weights[:, -1])[:, None]).sum(1)
        report.energy_change += float((costs.gather(1, new[:, None])[:, 0] - before).sum())
        report.changed += int((new != old).sum())
        labels[rows] = new
