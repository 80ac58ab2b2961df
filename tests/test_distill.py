"""Distillation: levels, codewords and labels tuned towards the float network's outputs."""

import copy

import pytest
import torch
from torch import nn

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.nn.grids import grid_of
from mrfq.nn.packed import load, save
from mrfq.quantize.distill import distill
from mrfq.quantize.pipeline import quantize
from mrfq.quantize.tunable import Tunable, TunableBlocks, TunableRows, tunables

LEVELS = ["binary", "ternary-symmetric", "2bit-codebook", "3bit-uniform", "2bit-g8", "2bit-pow2-f32", "vector-4x8"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()


def batches(count=8, size=64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 8, generator=generator) for _ in range(count)]


def quantized(levels="binary", quality="gptq"):
    """Return a quantized network and the float one."""
    reference = network()
    model = copy.deepcopy(reference)
    quantize(model, batches(), levels=levels, quality=quality)
    return model, reference


def labels_of(model):
    return [part.labels for part in tunables(model) if isinstance(part, TunableRows | TunableBlocks)]


@torch.no_grad()
def error(model, reference, given):
    """Return the squared error of the outputs over their variance."""
    wanted = [reference(x) for x in given]
    squares = sum(float((model(x) - w).square().sum()) for x, w in zip(given, wanted, strict=True))
    return squares / sum(float((w - w.mean(0)).square().sum()) for w in wanted)


@pytest.mark.parametrize("reach", [0.0, 1.0])
@pytest.mark.parametrize("levels", LEVELS)
def test_the_outputs_come_nearer_and_the_weights_stay_on_their_grids(levels, reach, tmp_path):
    model, reference = quantized(levels)
    start = error(model, reference, batches()[-1:])
    done = distill(model, reference, batches(), 60, reach=reach)
    assert done.before == pytest.approx(start, rel=1e-4)
    assert done.after < done.before
    assert error(model, reference, batches()[-1:]) == pytest.approx(done.after, rel=0.01)  # levels are rounded
    for weight in (model[0].weight, model[3].weight):
        assert grid_of(weight).exact(weight)
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", network())
    for (name, value), other in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("levels", ["binary-symmetric", "ternary-codebook", "vector-2x16"])
def test_labels_move_only_where_that_is_asked_for(levels):
    changed = []
    for reach in (0.0, 2.0):
        model, reference = quantized(levels)
        parts = {part.name: part for part in tunables(model, labels=reach > 0)}
        before = {name: part.parameter.detach().clone() for name, part in parts.items()}
        start = labels_of(model)
        distill(model, reference, batches(), 80, reach=reach)
        assert not torch.equal(model[0].weight, before["0.weight"])
        changed.append(any(not torch.equal(a, b) for a, b in zip(start, labels_of(model), strict=True)))
    assert changed == [False, True]


def test_moving_labels_finds_what_levels_alone_cannot():
    """A network whose labels are all wrong has its signs back after distillation."""
    torch.manual_seed(0)
    reference = nn.Linear(16, 4, bias=False)
    reference.weight.data.sign_()
    found = []
    for reach in (0.0, 5.0):
        model = copy.deepcopy(reference)
        quantize(model, [torch.randn(64, 16)], levels="binary-symmetric", quality="nearest")
        wrong = tunables(model)[0]
        wrong.labels = 1 - wrong.labels
        wrong.write()
        assert bool((model.weight.sign() == -reference.weight).all())
        given = [torch.randn(64, 16) for _ in range(8)]
        distill(model, reference, given, 200, reach=reach)
        found.append(float((model.weight.sign() == reference.weight).double().mean()))
    assert found[0] < 0.1
    assert found[1] == 1.0


def test_what_is_worse_on_other_inputs_is_not_kept():
    model, reference = quantized("3bit-codebook", "balanced")
    before = copy.deepcopy(model.state_dict())
    done = distill(model, reference, batches(), 3, rate=1.0)
    assert (done.steps, done.after) == (0, done.before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_gradients_of_levels_are_sums_and_of_latents_as_if_nothing_were_rounded():
    model, _ = quantized("2bit-codebook")
    part = tunables(model, labels=True)[0]
    assert isinstance(part, TunableRows)
    factors = torch.randn(part.parameter.shape, generator=torch.Generator().manual_seed(2))
    with torch.enable_grad():
        (part.value() * factors).sum().backward()
    wanted = torch.zeros_like(part.move).scatter_add_(2, part.labels.long()[:, None], factors[:, None])
    torch.testing.assert_close(part.move.grad, wanted * part.size[:, :, None])
    torch.testing.assert_close(part.turn.grad, factors * part.size)


def test_codewords_and_their_latents_have_gradients_of_the_same_kind():
    model, _ = quantized("vector-4x8")
    part = tunables(model, labels=True)[0]
    assert isinstance(part, TunableBlocks)
    factors = torch.randn(part.parameter.shape, generator=torch.Generator().manual_seed(2))
    with torch.enable_grad():
        (part.value() * factors).sum().backward()
    blocks = factors.reshape(-1, 4)
    wanted = torch.zeros_like(part.move).index_add_(0, part.labels, blocks)
    torch.testing.assert_close(part.move.grad, wanted * part.size)
    torch.testing.assert_close(part.turn.grad, blocks * part.size)


def test_biases_and_norms_are_tuned_and_what_else_is_float_is_not():
    model, _ = quantized()
    model.extra = nn.Linear(3, 3)
    kinds = {part.name: type(part) for part in tunables(model)}
    assert kinds == {
        "0.weight": TunableRows, "0.bias": Tunable, "2.weight": Tunable, "2.bias": Tunable,
        "3.weight": TunableRows, "3.bias": Tunable, "extra.bias": Tunable,
    }  # fmt: skip


@pytest.mark.parametrize("reach", [0.0, 1.0])
def test_the_same_seed_gives_the_same_bits(reach):
    found = []
    for seed in (0, 0, 1):
        model, reference = quantized("ternary")
        distill(model, reference, batches(), 20, seed=seed, reach=reach)
        found.append(model[0].weight.clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_batches_can_come_from_elsewhere():
    model, reference = quantized()
    generator, asked = torch.Generator().manual_seed(5), []

    def source(step):
        asked.append(step)
        return torch.randn(32, 8, generator=generator)

    done = distill(model, reference, batches(), 30, source=source)
    assert asked == list(range(30))
    assert done.before == pytest.approx(error(*quantized(), batches()[-1:]), rel=1e-4)
    assert done.after < done.before


def test_modes_and_gradients_are_as_they_were():
    model, reference = quantized()
    model.train()
    model[0].bias.requires_grad_(False)
    distill(model, reference, batches(), 3)
    assert model.training
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
    assert all(p.grad is None for p in (*model.parameters(), *reference.parameters()))


class Masked(nn.Module):
    """Gives its inputs back through a layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, attention_mask=None):
        return {"states": self.layer(x)}


def test_positions_that_are_masked_do_not_count():
    torch.manual_seed(0)
    reference = Masked().eval()
    inputs = [torch.randn(6, 5, 4) for _ in range(4)]
    mask = torch.ones(6, 5, dtype=torch.long)
    mask[:, 3:] = 0
    found = []
    for filling in (0.0, 100.0):
        given = [{"x": torch.where(mask[..., None].bool(), x, filling), "attention_mask": mask} for x in inputs]
        model = copy.deepcopy(reference)
        quantize(model, given, levels="binary")
        distill(model, reference, given, 10)
        found.append(model.layer.weight.clone())
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "at least one step"),
        ({"steps": 2.5}, "at least one step"),
        ({"rate": 0.0}, "positive rate"),
        ({"rate": float("nan")}, "positive rate"),
        ({"reach": -0.1}, "reach of latents must be at least 0"),
        ({"reach": float("inf")}, "reach of latents must be at least 0"),
        ({"held_out": 1.0}, "held_out must be from 0 to below 1"),
        ({"calibration": []}, "calibration has no batches"),
        ({"calibration": torch.ones(3, 8)}, "a single batch goes into a list"),
        ({"source": lambda step: "x"}, "batch 0 is a str"),
    ],
)
def test_mistakes_are_explained(settings, words):
    model, reference = quantized()
    given = {"calibration": batches(), "steps": 5, **settings}
    with pytest.raises(InvalidParameterError, match=words):
        distill(model, reference, **given)


def test_a_float_network_and_infinite_errors_are_refused():
    with pytest.raises(InvalidProblemError, match="quantize it first"):
        distill(network(), network(), batches(), 5)
    model, reference = quantized()
    reference[3].bias.data[0] = float("nan")
    with pytest.raises(InvalidProblemError, match="the error at step 1 is nan"):
        distill(model, reference, batches(), 5)
