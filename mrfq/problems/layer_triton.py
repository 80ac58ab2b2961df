"""The sweep over a block of columns on a GPU: one Triton kernel, a thread a row. Imported only where there is Triton.

What a row has changed so far in the block stays in the registers of its thread, so that a visit of a column costs one
dot product and no launch: `mrfq.problems.layer_sweeps._composed`, which is the same in torch operations, launches ten
kernels a column.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from mrfq.problems.layer_kernels import ARGMIN, SAMPLE, SOFTMAX, Block, Law

#: rows of a program: one for each thread of a warp, so that sums over columns and levels need no exchange
ROWS = 32
#: more levels would not fit into the registers of a thread
MOST_LEVELS = 64


@triton.jit(do_not_specialize=["rows", "count"])  # type: ignore[untyped-decorator,unused-ignore]
def _visit(  # type: ignore[no-untyped-def] # noqa: PLR0917
    mean,
    labels,
    delta,
    residual,
    values,
    gram,
    inverse,
    sharpness,
    columns,
    uniforms,
    rows,
    count,
    width: tl.constexpr,
    rule: tl.constexpr,
    own: tl.constexpr,
    sharp: tl.constexpr,
    most_columns: tl.constexpr,
    most_levels: tl.constexpr,
    tile: tl.constexpr,
):
    r = tl.program_id(0) * tile + tl.arange(0, tile)
    k = tl.arange(0, most_columns)
    a = tl.arange(0, most_levels)[:, None]
    inside, real = r < rows, a < count
    steps = tl.zeros((most_columns, tile), tl.float32)
    level = tl.load(values + a * rows + r[None, :], mask=real & inside[None, :], other=0.0)
    for j in range(width):
        at = j * rows + r
        if own:
            level = tl.load(values + (j * count + a) * rows + r[None, :], mask=real & inside[None, :], other=0.0)
        influence = tl.load(gram + k * width + j, mask=k < width, other=0.0)
        pull = tl.load(residual + at, mask=inside, other=0.0) + tl.sum(influence[:, None] * steps, axis=0)
        now = tl.load(mean + at, mask=inside, other=0.0)
        alone = tl.load(inverse + j + 0 * r)
        x = now - pull * alone
        gap = tl.where(real, (x[None, :] - level) * (x[None, :] - level), float("inf"))
        label = tl.argmin(gap, axis=0)
        chosen = tl.sum(tl.where(a == label[None, :], level, 0.0), axis=0)
        if rule != 0:
            scale = tl.load(sharpness + (at if sharp else r), mask=inside, other=0.0) * tl.load(columns + j)
            excess = (level - chosen[None, :]) * ((level - x[None, :]) + (chosen - x)[None, :])
            weight = tl.where(real, tl.exp(-scale[None, :] * excess), 0.0)
            total = tl.sum(weight, axis=0)
            if rule == 1:
                chosen = tl.sum(weight * level, axis=0) / total
            else:
                drawn = tl.load(uniforms + at, mask=inside, other=0.0) * total
                passed = (tl.cumsum(weight, axis=0) <= drawn[None, :]) & real
                label = tl.minimum(tl.sum(passed.to(tl.int32), axis=0), count - 1)
                chosen = tl.sum(tl.where(a == label[None, :], level, 0.0), axis=0)
        step = tl.where(alone > 0, chosen - now, 0.0)
        tl.store(delta + at, step, mask=inside)
        tl.store(mean + at, chosen, mask=inside & (alone > 0))
        tl.store(labels + at, label.to(tl.uint8), mask=inside & (alone > 0))
        steps = tl.where(k[:, None] == j, step[None, :], steps)


def sweep_block(block: Block, law: Law, rule: int) -> None:
    """Visit the columns of a block in order, for all rows: what the compiled kernel of the same name does.

    Parameters
    ----------
    block : Block of Tensor
        On a GPU, of at most `MOST_LEVELS` levels; what a visit changes must be contiguous.
    law : Law of Tensor
    rule : {ARGMIN, SOFTMAX, SAMPLE}
    """
    assert (ARGMIN, SOFTMAX, SAMPLE) == (0, 1, 2)  # as the kernel has them
    width, rows = block.mean.shape
    parts: list[Any] = [part.contiguous() for part in block[3:]]
    # without random numbers anything on the device stands in their place
    law = Law(law.sharpness.contiguous(), law.columns, law.uniforms if rule == SAMPLE else block.mean)
    with torch.cuda.device(block.mean.device) if block.mean.is_cuda else torch.device("cpu"):
        _visit[(triton.cdiv(rows, ROWS),)](
            *block[:3],
            *parts,
            *law,
            rows,
            block.values.shape[1],
            width=width,
            rule=rule,
            own=len(block.values) > 1,
            sharp=len(law.sharpness) > 1,
            most_columns=triton.next_power_of_2(width),
            most_levels=triton.next_power_of_2(block.values.shape[1]),
            tile=ROWS,
            num_warps=1,
        )
