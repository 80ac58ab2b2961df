"""The Triton form of a sweep where there is no GPU: what it computes, by Triton's interpreter, and that it compiles."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from mrfq.problems import layer_sweeps
from mrfq.problems.layer_solve import gptq
from mrfq.problems.layer_sweeps import Columns, Sweep

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def layer(rows, columns, groups, count):
    """Return target, Gram matrix and levels of correlated inputs, one of them dead."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    inputs[:, 2] = 0
    values = torch.randn(rows, groups, count, generator=generator).sort(2)[0]
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / 300, values


def compare():
    """Compare the kernel with the sweep in torch operations; run in a process of its own, interpreted."""
    from mrfq.problems.layer_triton import sweep_block

    for rows, columns, groups, count in ((40, 50, 1, 8), (33, 70, 5, 3), (5, 7, 1, 16), (64, 64, 1, 2)):
        given = layer(rows, columns, groups, count)
        prepared = Columns.prepare(*given)
        for rule in ("argmin", "softmax", "sample"):
            sweeps = []
            for form in (layer_sweeps._composed, sweep_block):
                layer_sweeps.visit_of = lambda block, form=form: form
                sweep = Sweep.at(prepared, prepared.target)
                sweep.run(rule, 3.0, generator=torch.Generator().manual_seed(1))
                sweeps.append(sweep)
            assert torch.equal(sweeps[0].labels, sweeps[1].labels), (rule, rows)
            torch.testing.assert_close(sweeps[0].mean, sweeps[1].mean, atol=1e-5, rtol=0)
        compiled = gptq(*given)
        layer_sweeps._rounded = layer_sweeps._rounded_by_visits
        assert float((gptq(*given) == compiled).double().mean()) > 0.99


def compile_kernels():
    """Compile the kernel for two generations of GPUs, which needs none."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mrfq.problems.layer_triton import MOST_LEVELS, ROWS, _visit

    names, numbers = _visit.arg_names, {"rows", "count"}
    for capability in (80, 90):
        for rule, own, levels, width in (
            (0, False, 8, 64),
            (1, True, 16, 64),
            (2, False, MOST_LEVELS, 64),
            (1, False, 2, 1),
        ):
            constants = {
                "width": width, "rule": rule, "own": own, "sharp": own, "tile": ROWS,
                "most_columns": width, "most_levels": levels,
            }  # fmt: skip
            kinds = {
                name: "constexpr" if name in constants else "i32" if name in numbers else "*fp32" for name in names
            }
            source = ASTSource(
                fn=_visit,
                signature={**kinds, "labels": "*u8"},
                constexprs={(names.index(name),): value for name, value in constants.items()},
            )
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 1})
            assert made.asm["cubin"]


@pytest.mark.parametrize(("action", "interpret"), [("compare", "1"), ("compile_kernels", "0")])
def test_the_kernel(action, interpret):
    code = f"import sys; sys.path[:0] = [{os.path.dirname(__file__)!r}]; import test_layer_triton as t; t.{action}()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={**os.environ, "TRITON_INTERPRET": interpret},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
