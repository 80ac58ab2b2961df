"""Post-training quantization on a GPU does what it does on the CPU, up to rounding."""

import copy

import pytest
import torch
from torch import nn

from mrfq.layerwise.recipe import quantize_layer
from mrfq.layerwise.refit import LayerFit, row_energies
from mrfq.layerwise.spec import parse_levels
from mrfq.layerwise.tables import start_table
from mrfq.nn.packed import load, save
from mrfq.problems import layer_sweeps
from mrfq.problems.layer_solve import gptq
from mrfq.problems.layer_sweeps import Columns, Sweep
from mrfq.quantize.distill import distill
from mrfq.quantize.pipeline import quantize

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def layer(rows=70, columns=150, groups=1, count=4, seed=0):
    """Return target, Gram matrix and levels of correlated inputs; more than two blocks of columns, one input dead."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(600, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    inputs[:, 3] = 0
    values = torch.randn(rows, groups, count, generator=generator).sort(2)[0]
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / 600, values


def on_gpu(parts):
    return tuple(part.cuda() for part in parts)


@pytest.mark.parametrize("rule", ["argmin", "softmax", "sample"])
@pytest.mark.parametrize(("groups", "count"), [(1, 2), (1, 3), (3, 8), (1, 100)])
@pytest.mark.parametrize("rows", [1, 70])
def test_a_sweep_is_the_same_in_every_form(rule, groups, count, rows, monkeypatch):
    given = layer(rows, groups=groups, count=count)
    sweeps = []
    for parts in (given, on_gpu(given), on_gpu(given)):
        columns = Columns.prepare(*parts)
        sweep = Sweep.at(columns, columns.target)
        sweep.run(rule, 4.0, generator=torch.Generator().manual_seed(3))
        sweeps.append(sweep)
        if len(sweeps) == 2:  # the third in torch operations
            monkeypatch.setattr(layer_sweeps, "visit_of", lambda block: layer_sweeps._composed)
    for other in sweeps[1:]:
        assert float((sweeps[0].labels == other.labels.cpu()).double().mean()) > 0.995
        assert float(((sweeps[0].mean - other.mean.cpu()).abs() < 1e-3).double().mean()) > 0.995


@pytest.mark.parametrize("groups", [1, 3])
def test_gptq_is_the_same(groups):
    given = layer(groups=groups)
    assert float((gptq(*given) == gptq(*on_gpu(given)).cpu()).double().mean()) > 0.99


@pytest.mark.parametrize(
    "levels", ["2bit-codebook", "3bit-uniform", "ternary-symmetric", "2bit-g50", "3bit-uniform-g15"]
)
def test_a_refit_is_the_same(levels):
    target, gram, _ = layer()
    spec = parse_levels(levels)
    table = start_table(spec, target, gram.diagonal())
    labels = table.nearest(target)
    fitted, renamed = LayerFit(target, gram).refit(table, labels)
    there, labels_there = LayerFit(target.cuda(), gram.cuda()).refit(table, labels)
    assert torch.equal(renamed, labels_there)
    torch.testing.assert_close(fitted.values, there.values, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("recipe", ["nearest", "gptq", "balanced", "best", "annealing"])
@pytest.mark.parametrize("levels", ["3bit-codebook", "ternary-symmetric", "2bit-uniform-g50"])
def test_a_layer_comes_out_as_good(recipe, levels):
    target, gram, _ = layer()
    here, there = (
        quantize_layer(t, h, parse_levels(levels), recipe) for t, h in ((target, gram), (target.cuda(), gram.cuda()))
    )
    assert there.labels.is_cuda
    measured = row_energies(there.table.values.cpu(), there.labels.cpu(), target, gram)
    torch.testing.assert_close(measured, there.energies.cpu(), rtol=1e-4, atol=1e-6)
    assert float(there.energies.sum()) == pytest.approx(float(here.energies.sum()), rel=0.03)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("levels", ["2bit-codebook", "vector-9x8"])
def test_a_network_on_a_gpu_is_quantized_packed_and_distilled(levels, tmp_path):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(32, 3, 12, 12, generator=generator) for _ in range(6)]
    chosen = (("7", "4bit-codebook"), ("*", levels))
    errors = []
    for device in ("cpu", "cuda"):
        model = network().to(device)
        reference = copy.deepcopy(model)
        report = quantize(model, [x.to(device) for x in inputs], levels=chosen, quality="best")
        errors.append([found.error for found in report.layers])
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert all(p.is_cuda for p in model.parameters())
    done = distill(model, reference, inputs, 40, reach=1.0)
    assert done.after <= done.before
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", network().cuda())
    for one, other in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(one, other)
