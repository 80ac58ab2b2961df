r"""Sweeps over the blocks of a layer made of codewords: block after block, all rows side by side.

With the residual g = (m - t) H of the present values m, codeword c costs
:math:`c^T H_{pp} c + 2 c^T (g_p - H_{pp} m_p)` at block p. A compiled kernel visits some blocks at a time and keeps
their residual up to date; that of the other columns follows by one matrix product. On other devices than the CPU the
visits are torch operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numba
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.problem import Rule, SweepReport
from mrfq.problems.block_codebook_kernels import RULES, TILE, Choice, Layer, Point, sweep_blocks
from mrfq.problems.layer_kernels import SAMPLE, SOFTMAX

#: columns that are visited between two matrix products, about
COLUMNS = 64


def own_costs(diagonal: Tensor, codewords: Tensor) -> Tensor:
    """Return `c H_pp c` of each codeword (K, d) at each of the blocks, whose matrices are (P, d, d); shape (P, K)."""
    return torch.einsum("ai,pij,aj->pa", codewords, diagonal, codewords)


@dataclass(eq=False)
class BlockRows:
    """A point in a layer made of codewords. Sweeps change `mean` and `pull` in place.

    Attributes
    ----------
    mean : Tensor, shape (R, C)
        Present values; mean values for mean-field.
    pull : Tensor, shape (R, C)
        `(mean - target) H`.
    gram : Tensor, shape (C, C)
    diagonal : Tensor, shape (P, d, d)
        The blocks of the Gram matrix on its diagonal.
    codewords : Tensor, shape (K, d)
    own : Tensor, shape (P, K)
        Of `own_costs`.
    """

    mean: Tensor
    pull: Tensor
    gram: Tensor
    diagonal: Tensor
    codewords: Tensor
    own: Tensor

    def slope(self) -> Tensor:
        """Return `g_p - H_pp m_p` of every block, shape (R, P, d)."""
        blocks, width = self.diagonal.shape[:2]
        parts = self.mean.view(-1, blocks, width)
        return self.pull.view(parts.shape) - torch.einsum("rpi,pij->rpj", parts, self.diagonal)

    def within(self) -> Tensor:
        """Return the sum over all blocks of `m_p H_pp m_p`, 0-d."""
        parts = self.mean.view(-1, *self.diagonal.shape[:2])
        return torch.einsum("rpi,pij,rpj->", parts, self.diagonal, parts)

    def sweep(
        self, point: Tensor, rule: Rule, beta: float, visits: Tensor | None, generator: torch.Generator | None
    ) -> SweepReport:
        """Visit every block once and write to `point`, labels (n,) or a relaxed labelling (n, K)."""
        rows, blocks = len(self.mean), len(self.diagonal)
        betas = self.mean.new_full((blocks,), beta)
        if rule == "softmax":
            labels = torch.full((rows, blocks), -1, device=point.device)
            report = self.visit(labels, rule, betas, u=point.view(rows, blocks, -1), visits=visits)
            change, _, moved, entropy = report.unbind(1)
            return SweepReport(
                float(change.sum()),
                largest_change=float(moved.amax().sqrt()),
                entropy=float(entropy.sum()),
                labels=labels.view(-1),
            )
        report = self.visit(point.view(rows, blocks), rule, betas, visits=visits, generator=generator)
        change, changed = report[:, :2].sum(0).tolist()
        return SweepReport(change, int(changed), exact=self.mean.dtype == torch.float64)

    def visit(
        self,
        labels: Tensor,
        rule: Rule,
        betas: Tensor,
        *,
        u: Tensor | None = None,
        visits: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Visit every block of every row once.

        Parameters
        ----------
        labels : Tensor, shape (R, P), int64
            Present labels, -1 for none yet; receives the chosen, or the most probable, ones.
        rule : {"argmin", "softmax", "sample"}
        betas : Tensor, shape (P,)
            Inverse temperature of each block.
        u : Tensor, shape (R, P, K), optional
            A relaxed labelling to keep up to date, for the rule "softmax".
        visits : Tensor, shape (R, P), int64, optional
            The blocks of each row in the order of the visits; 0 to P - 1 by default.
        generator : torch.Generator, optional
            Of the rule "sample".

        Returns
        -------
        Tensor, shape (R, 4), float64
            Per row: change of (relaxed) energy, labels changed, largest squared move of a row of `u`, entropy.
        """
        report = self.mean.new_zeros(len(labels), 4, dtype=torch.float64)
        uniforms = self.mean.new_empty(0, 0, dtype=torch.float64)
        if rule == "sample":
            uniforms = torch.rand(labels.shape, generator=generator, dtype=torch.float64).to(labels.device)
        u = self.mean.new_empty(len(labels), 0, 0) if u is None else u
        point = Point(self.pull, self.mean, labels, u, report)
        choice = Choice(RULES[rule], betas, uniforms)
        if visits is not None:
            if labels.device.type != "cpu":
                raise InvalidParameterError("other orders than 0..n-1 run on the CPU")
            layer = Layer(self.gram, self.codewords, self.own, visits)
            _visit(point, layer, choice)
            return report
        for some in _groups(len(self.diagonal), self.diagonal.shape[1]):
            self._visit_some(some, point, choice)
        return report

    def _visit_some(self, some: slice, point: Point, choice: Choice) -> None:
        """Visit some blocks of every row in order, then bring the whole residual up to date."""
        width = self.diagonal.shape[1]
        columns = slice(some.start * width, some.stop * width)
        before, order = self.mean[:, columns].clone(), torch.arange(some.stop - some.start, device=self.mean.device)
        gram = self.gram[columns, columns].contiguous()
        part = Point(
            pull=self.pull[:, columns].clone(),
            mean=self.mean[:, columns].clone(),
            labels=point.labels[:, some].contiguous(),
            u=point.u[:, some].contiguous(),
            report=point.report,
        )
        own = Choice(choice.rule, choice.betas[some], choice.uniforms[:, some].contiguous())
        _visit(part, Layer(gram, self.codewords, self.own[some], order[None]), own)
        self.mean[:, columns], point.labels[:, some] = part.mean, part.labels
        if point.u.shape[1]:
            point.u[:, some] = part.u
        self.pull.addmm_(part.mean - before, self.gram[columns])


def _groups(blocks: int, width: int) -> list[slice]:
    size = max(1, COLUMNS // width)
    return [slice(i, min(i + size, blocks)) for i in range(0, blocks, size)]


@contextmanager
def threads(most: int) -> Iterator[None]:
    """Let compiled loops run on at most so many threads: others would only be waited for."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(before, most))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _visit(point: Point, layer: Layer, choice: Choice) -> None:
    if point.mean.device.type != "cpu":
        visit_composed(point, layer, choice)
        return
    transposed = layer._replace(codewords=layer.codewords.T.contiguous(), order=layer.order.contiguous())
    numbers = choice._replace(betas=choice.betas.numpy(), uniforms=choice.uniforms.numpy())
    tiles = -(-len(point.labels) // TILE)
    with threads(tiles):
        sweep_blocks(Point(*(x.numpy() for x in point)), Layer(*(x.numpy() for x in transposed)), numbers)


def visit_composed(point: Point, layer: Layer, choice: Choice) -> None:
    """Do what `sweep_blocks` does, in torch operations that work on all rows at once; codewords are (K, d) here."""
    width = layer.codewords.shape[1]
    for p in range(point.labels.shape[1]):
        columns = slice(p * width, p * width + width)
        slope = point.pull[:, columns] - point.mean[:, columns] @ layer.gram[columns, columns]
        costs = layer.own[p] + 2 * slope @ layer.codewords.T
        old, (lowest, cheapest) = point.labels[:, p].clone(), costs.min(1)
        present = costs.gather(1, old.clamp(min=0)[:, None])[:, 0]
        new = torch.where((old >= 0) & (present <= lowest), old, cheapest)
        above = costs - lowest[:, None]
        chances = torch.softmax(-choice.betas[p] * above, 1)
        if choice.rule == SOFTMAX:
            values = chances @ layer.codewords
            _report_relaxed(point, p, above, chances)
        else:
            if choice.rule == SAMPLE:
                drawn = (chances.double().cumsum(1) <= choice.uniforms[:, p, None]).sum(1)
                new = drawn.clamp(max=len(layer.codewords) - 1)
            change = costs.gather(1, new[:, None])[:, 0] - present
            point.report[:, 0] += torch.where(old >= 0, change, 0.0)
            values = layer.codewords[new]
        point.report[:, 1] += new != old
        point.labels[:, p] = new
        point.pull.addmm_(values - point.mean[:, columns], layer.gram[columns])
        point.mean[:, columns] = values


def _report_relaxed(point: Point, p: int, above: Tensor, chances: Tensor) -> None:
    point.report[:, 3] += torch.special.entr(chances).sum(1)
    if point.u.shape[1]:
        moves = chances - point.u[:, p]
        point.report[:, 0] += (above * moves).sum(1)
        point.report[:, 2] = torch.maximum(point.report[:, 2], moves.square().sum(1).double())
        point.u[:, p] = chances
