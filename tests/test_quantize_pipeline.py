"""`quantize` as a whole: on small networks of every make, and on a published one."""

import copy
import itertools
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import mrfq
from mrfq.errors import FileFormatError, InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.layerwise.bound import layer_bound
from mrfq.nn.grids import grid_of
from mrfq.nn.packed import load, save
from mrfq.quantize.options import Options
from mrfq.quantize.pipeline import quantize
from mrfq.quantize.sequence import held_passes

DATA = Path(os.environ.get("MRFQ_DATA", "")) / "data"
needs_data = pytest.mark.skipif(
    "MRFQ_DATA" not in os.environ or not DATA.is_dir(), reason="MRFQ_DATA names no folder with data/"
)


class Residual(nn.Module):
    """Convolutions of several kinds with batch norm, a residual block with a projection, and a linear layer."""

    def __init__(self, affine=True):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, affine=affine)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(8, affine=affine)
        self.depth = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, affine=affine)
        self.down, self.bn3 = nn.Conv2d(8, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8, affine=affine)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.bn0(self.stem(x)))
        y = functional.relu(self.depth(functional.relu(self.bn1(self.conv1(x)))))
        y = self.bn2(self.conv2(y))
        y += self.bn3(self.down(x))
        return self.head(functional.relu(y).mean((2, 3)))


class Texts(nn.Module):
    """An encoder with keyword arguments, attention, and an output layer tied to the embedding."""

    def __init__(self, tied=True):
        super().__init__()
        self.words, self.places = nn.Embedding(40, 16), nn.Embedding(12, 16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16, bias=name != "k") for name in "qkvo")
        self.norm = nn.LayerNorm(16)
        self.decoder = nn.Linear(16, 40, bias=False)
        if tied:
            self.decoder.weight = self.words.weight

    def forward(self, input_ids, attention_mask=None):
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        mask = None if attention_mask is None else attention_mask[:, None].bool()
        x = self.norm(self.out(functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), mask)) + x)
        return self.decoder(x)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def residual(affine=True):
    model = Residual(affine)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.3, 1.0)
    return model.eval()


def images(count=5, size=16):
    return [torch.randn(size, 3, 12, 12) for _ in range(count)]


def texts(count=4):
    found = []
    for _ in range(count):
        mask = (torch.arange(12) < torch.randint(5, 13, (8, 1))).long()
        found.append({"input_ids": torch.randint(0, 40, (8, 12)), "attention_mask": mask})
    return found


def same(one, two):
    return all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())


def outputs(model, batches):
    with torch.no_grad():
        return torch.cat([model(**batch) if isinstance(batch, dict) else model(batch) for batch in batches])


def seen_by(model, name, batches):
    """Return the input and the output of a layer on each batch."""
    found = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, args, out: found.append((args[0], out)))
    outputs(model, batches)
    handle.remove()
    return found


def test_every_layer_gets_weights_of_its_label_set_and_saves():
    model, batches = residual(), images()
    report = quantize(model, batches, levels="ternary")
    order = ["stem", "conv1", "depth", "down", "conv2", "head"]
    assert [layer.name for layer in report.layers] == order
    for layer in report.layers:
        weight = model.get_submodule(layer.name).weight
        assert grid_of(weight).exact(weight)
        assert all(len(row.unique()) <= 3 for row in weight.flatten(1))
        assert 0 < layer.error < 1
        assert layer.error_held_out > 0
        assert (layer.shape, layer.levels) == (tuple(weight.shape), "ternary-codebook")
        rows, columns = len(weight), weight[0].numel()
        assert layer.bits_per_weight == pytest.approx((rows * columns * 1.585 + rows * 48) / (rows * columns), 1e-4)
    assert report.bits_per_weight == pytest.approx(
        sum(layer.bits_per_weight * torch.Size(layer.shape).numel() for layer in report.layers)
        / sum(torch.Size(layer.shape).numel() for layer in report.layers)
    )
    assert report.notes == []


def test_a_saved_network_is_the_same_when_it_is_loaded(tmp_path):
    model, batches = residual(), images(2)
    quantize(
        model, batches, levels=(("stem", None), ("head", "vector-4x8"), ("conv*", "2bit-uniform-g4"), ("*", "3bit"))
    )
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors", Residual()).eval()
    assert same(model, again)
    assert torch.equal(outputs(model, batches), outputs(again, batches))
    assert mrfq.nn is not None


@pytest.mark.parametrize("levels", ["8bit", "6bit-uniform"])
@pytest.mark.parametrize("make", [residual, lambda: residual(affine=False)])
def test_many_levels_leave_the_function_as_it_was(levels, make):
    model, batches = make(), images()
    before = outputs(model, batches)
    report = quantize(model, batches, levels=levels)
    assert all(layer.error < 0.01 for layer in report.layers)
    after = outputs(model, batches)
    assert float(((after - before) ** 2).mean() / before.var(0).mean()) < 0.02


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"centred": False},
        {"asymmetric": False},
        {"shortcut": False},
        {"rescale": False},
        {"asymmetric": False, "centred": False, "shortcut": False, "rescale": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("affine", [True, False])
def test_reported_errors_are_those_of_the_network(settings, affine):
    """What the closed form says of a layer is what its outputs in the final network show, on the data."""
    model, batches = residual(affine), images(4)
    float_model = copy.deepcopy(model)
    report = quantize(model, batches, levels="2bit", held_out=0.25, **settings)
    asymmetric, shortcut = settings.get("asymmetric", True), settings.get("shortcut", True)
    norms = {"stem": "bn0", "conv1": "bn1", "conv2": "bn2", "down": "bn3"}
    for layer in report.layers:
        for which, error in ((slice(0, 3), layer.error), (slice(3, 4), layer.error_held_out)):
            part = batches[which]
            module, exact = model.get_submodule(layer.name), float_model.get_submodule(layer.name)
            x, y = map(torch.cat, zip(*seen_by(model, layer.name, part), strict=True))
            z = torch.cat([out for _, out in seen_by(float_model, layer.name, part)])
            z = z if asymmetric else exact(x).detach()
            if norm := norms.get(layer.name):
                bn, float_bn = model.get_submodule(norm), float_model.get_submodule(norm)
                y, z = bn(y), float_bn(z)  # the error in front of the batch norm is the one behind it, unscaled
                gain = (float_bn.weight if affine else 1) / (float_bn.running_var + float_bn.eps).sqrt()
            if layer.name == "conv2" and shortcut:
                z = z + torch.cat([out for _, out in seen_by(float_model, "bn3", part)])
                z = z - torch.cat([out for _, out in seen_by(model, "bn3", part)])
            if norm:
                y, z = y / gain[:, None, None], z / gain[:, None, None]
            y, z = (part.detach().double().transpose(1, -1).flatten(0, -2) for part in (y, z))
            found = ((y - z) ** 2).mean(0).sum() / z.var(0, correction=0).sum()
            assert float(found) == pytest.approx(error, rel=1e-4), layer.name
        assert module.weight.shape == exact.weight.shape


def test_each_step_of_the_recipe_helps():
    batches, fresh = images(8), images(4)
    wanted = None
    errors = {}
    for name, settings in {
        "all": {},
        "no rescale": {"rescale": False},
        "no target": {"asymmetric": False, "shortcut": False},
        "nearest": {"quality": "nearest"},
    }.items():
        torch.manual_seed(1)
        model = residual()
        wanted = outputs(model, fresh) if wanted is None else wanted
        quantize(model, batches, levels="binary", **settings)
        errors[name] = float(((outputs(model, fresh) - wanted) ** 2).mean())
    assert errors["all"] < min(errors["no target"], errors["nearest"], errors["no rescale"])


@pytest.mark.parametrize("make", [lambda: (residual(), images(4)), lambda: (Texts().eval(), texts())])
def test_held_and_repeated_passes_give_the_same_bits(make, monkeypatch):
    float_model, batches = make()
    found = []
    for memory in (0.0, 2.0, 1e-3):
        if memory == 1e-3:
            monkeypatch.setattr("mrfq.quantize.sequence.held_passes", lambda memory, live, count: count // 2)
        model = copy.deepcopy(float_model)
        report = quantize(model, batches, levels="2bit", memory=memory)
        found.append((model, [layer.error for layer in report.layers]))
    for model, errors in found[1:]:
        assert same(model, found[0][0])
        assert errors == found[0][1]


def test_what_is_held_follows_from_the_memory():
    assert held_passes(2.0, 2**29, 10) == 2
    assert held_passes(2.0, 2**20, 10) == 10
    assert held_passes(2.0, 0, 10**6) == 512


def test_nothing_else_of_the_network_or_the_surroundings_changes():
    model, batches = residual().train(), images(3)
    model.stem.eval()
    model.head.weight.requires_grad_(False)
    float_model = copy.deepcopy(model)
    state, inputs = torch.get_rng_state(), [batch.clone() for batch in batches]
    torch.set_num_threads(1)
    quantize(model, iter(batches), levels=(("head", "vector-4x8"), ("*", "2bit")))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == 1
    assert model.training
    assert model.bn0.training
    assert not model.stem.training
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in float_model.parameters()]
    assert all(torch.equal(one, two) for one, two in zip(batches, inputs, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.bn0.bias, float_model.bn0.bias)
    assert model.bn0.num_batches_tracked == 0


def test_after_an_error_the_network_is_what_it_was():
    model, batches = residual(), images(3)
    quantize(model, batches, levels=(("stem", "2bit"),))
    before, grid = copy.deepcopy(model), grid_of(model.stem.weight)

    def stop(event):
        if event.layer is not None and event.layer.name == "down":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, batches, levels="ternary", callback=stop)
    assert same(model, before)
    assert grid_of(model.stem.weight) is grid
    assert grid_of(model.conv1.weight) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("at", [0, 3, 5])
@pytest.mark.parametrize(
    "make",
    [lambda: (residual(), images(3), "head"), lambda: (Texts().eval(), texts(3), "out")],
    ids=["images", "texts"],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, at, make):
    float_model, batches, vectors = make()
    levels = ((vectors, "vector-4x8"), ("*", "2bit"))
    whole = copy.deepcopy(float_model)
    report = quantize(whole, batches, levels=levels, state_folder=tmp_path / "whole")
    model, done = copy.deepcopy(float_model), []

    def stop(event):
        if event.layer is not None:
            done.append(event.layer.name)
        if len(done) > at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, batches, levels=levels, state_folder=tmp_path / "part", callback=stop)
    assert same(model, float_model)
    again = quantize(model, batches, levels=levels, state_folder=tmp_path / "part", memory=0.0)
    assert same(model, whole)
    for one, two in zip(report.layers, again.layers, strict=True):
        assert (one.name, one.error, one.error_held_out, one.notes) == (
            two.name,
            two.error,
            two.error_held_out,
            two.notes,
        )
    for one, two in zip(whole.parameters(), model.parameters(), strict=True):
        assert (grid_of(one) is None) == (grid_of(two) is None)
    assert again.bits_per_weight == report.bits_per_weight


def test_a_state_folder_belongs_to_one_run(tmp_path):
    model, batches = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), [torch.randn(9, 4) for _ in range(2)]
    quantize(copy.deepcopy(model), batches, levels="2bit", state_folder=tmp_path)
    with pytest.raises(InvalidParameterError, match="a run with other options; give"):
        quantize(copy.deepcopy(model), batches, levels="3bit", state_folder=tmp_path)
    with pytest.raises(InvalidParameterError, match="a run with other calibration inputs"):
        quantize(copy.deepcopy(model), batches[:1], levels="2bit", state_folder=tmp_path)
    other = copy.deepcopy(model)
    other[2].bias.data += 1
    with pytest.raises(InvalidParameterError, match="a run with other weights"):
        quantize(other, batches, levels="2bit", state_folder=tmp_path)
    path = tmp_path / "stage-0001.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = copy.deepcopy(model)
    with pytest.raises(FileFormatError, match=r"stage-0001.safetensors:the checksum"):
        quantize(model, batches, levels="2bit", state_folder=tmp_path)
    assert same(model, before)


def test_damaged_stages_are_refused(tmp_path):
    from mrfq.io.state_tree import read_state, write_state
    from mrfq.quantize.state import KIND, VERSION

    model, batches = nn.Sequential(nn.Linear(4, 8)), [torch.randn(9, 4) for _ in range(2)]
    quantize(copy.deepcopy(model), batches, levels="2bit", state_folder=tmp_path)
    path = tmp_path / "stage-0000.safetensors"
    good = read_state(path, KIND, VERSION)

    def changed(**changes):
        return {"origin": good["origin"], "layers": {0: good["layers"][0] | changes}}

    bad = [
        {"origin": good["origin"]},
        {"origin": good["origin"], "layers": {1: good["layers"][0]}},
        {"origin": good["origin"], "layers": {0: 3}},
        changed(labels=good["layers"][0]["labels"] + 4),
        changed(labels=good["layers"][0]["labels"][:3]),
        changed(labels="none"),
        changed(stored=good["layers"][0]["stored"][:3]),
        changed(stored=good["layers"][0]["stored"].float()),
        changed(stored=good["layers"][0]["stored"] * float("nan")),
        changed(report={"name": "x"}),
        changed(changed={"0.bias": torch.ones(3)}),
        changed(changed={"weight": torch.ones(8)}),
        [1, 2],
    ]
    for tree in bad:
        write_state(path, KIND, VERSION, tree)
        with pytest.raises(FileFormatError, match="stage-0000"):
            quantize(copy.deepcopy(model), batches, levels="2bit", state_folder=tmp_path)
    write_state(path, KIND, VERSION - 1, good)
    with pytest.raises(FileFormatError, match="version"):
        quantize(copy.deepcopy(model), batches, levels="2bit", state_folder=tmp_path)


def test_baselines_are_measured_on_the_same_targets():
    model, plain, batches = residual(), residual(), images(4)
    plain.load_state_dict(model.state_dict())
    report = quantize(model, batches, levels="ternary", baselines=True)
    quantize(plain, batches, levels="ternary")
    assert same(model, plain)
    for layer in report.layers:
        assert list(layer.baselines) == ["nearest", "gptq"]
        assert layer.error <= layer.baselines["gptq"]["error"] * (1 + 1e-6)
        assert all(value > 0 for found in layer.baselines.values() for value in found.values())
    totals = [sum(layer.baselines[name]["error"] for layer in report.layers) for name in ("nearest", "gptq")]
    assert sum(layer.error for layer in report.layers) < totals[1] < totals[0]
    fast = quantize(plain := residual(), batches, levels=(("stem", "ternary"),), quality="gptq", baselines=True)
    assert fast.layers[0].error == fast.layers[0].baselines["gptq"]["error"]
    assert plain.stem.weight.unique().numel() > 1


def energy(weight, target, gram):
    """Return the distance of rows of weights (R or R x k, C) from a target in the metric of a Gram matrix."""
    gap = (weight - target).double()
    return ((gap @ gram) * gap).sum(-1)


def rated(model, batches, **settings):
    """Return the optimality of a network of one layer."""
    return quantize(model, batches, bounds=True, held_out=0.0, **settings).layers[0].optimality


@pytest.mark.parametrize("quality", ["nearest", "gptq", "best"])
def test_the_optimality_is_true(quality):
    """No labelling has less energy than the bound, and the bound is that of the target, metric and levels used."""
    model, batches = nn.Sequential(nn.Linear(8, 6)), [torch.randn(40, 8) @ torch.randn(8, 8) for _ in range(3)]
    target, x = model[0].weight.detach().clone(), torch.cat(batches).double()
    found = rated(model, batches, levels="binary", quality=quality, rescale=False)
    gram = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    ours = energy(model[0].weight.detach(), target, gram)
    values = grid_of(model[0].weight).table.values
    labels = torch.tensor(list(itertools.product((0, 1), repeat=8)))
    every = torch.stack([row[0][labels] for row in values])  # (rows, labellings, columns)
    least = energy(every, target[:, None], gram).amin(1)
    assert 0 < found <= float(least.sum() / ours.sum()) * (1 + 1e-4) <= 1 + 2e-4
    assert found == pytest.approx(float(layer_bound(target, gram, values).clamp(min=0).sum() / ours.sum()), rel=1e-3)
    assert found > 0.5 or quality == "nearest"


def test_the_optimality_is_one_where_the_bound_is_tight():
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)))  # their covariance is the identity
    for levels in ("binary", "3bit"):
        for quality in ("nearest", "balanced"):
            model = nn.Sequential(nn.Linear(6, 5))
            assert rated(model, [signs], levels=levels, quality=quality) == pytest.approx(1, abs=1e-5)


def test_scale_and_shift_come_after_the_optimality():
    batches = [torch.randn(40, 8) @ torch.randn(8, 8) + 1 for _ in range(3)]
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6).eval())
    with_scale, without = (
        rated(copy.deepcopy(model), batches, levels="ternary", rescale=rescale) for rescale in (True, False)
    )
    assert with_scale == without
    assert 0 < without < 1


def test_bounds_change_nothing_and_are_known_for_all_kinds_of_layers():
    model, batches = residual(), images(3)
    plain = copy.deepcopy(model)
    levels = (("head", "vector-4x8"), ("conv2", "2bit-uniform-g4"), ("*", "binary"))
    report = quantize(model, batches, levels=levels, bounds=True, baselines=True)
    without = quantize(plain, batches, levels=levels, baselines=True)
    assert same(model, plain)
    for one, other in zip(report.layers, without.layers, strict=True):
        assert other.optimality is None
        assert (one.error, one.baselines, one.notes) == (other.error, other.baselines, other.notes)
    found = {layer.name: layer.optimality for layer in report.layers}
    assert found.pop("head") is None
    assert all(0 < optimality <= 1 for optimality in found.values())
    assert max(found.values()) < 1


def test_no_bounds_of_embeddings():
    report = quantize(Texts(tied=False).eval(), texts(), levels="ternary", bounds=True)
    found = {layer.name: layer.optimality for layer in report.layers}
    assert found.pop("words") is found.pop("places") is None
    assert all(0 < optimality <= 1 for optimality in found.values())


def test_layers_that_are_too_wide_for_a_bound_say_so():
    model, batches = nn.Sequential(nn.Linear(1025, 2), nn.Linear(2, 2)), [torch.randn(8, 1025) for _ in range(2)]
    wide, narrow = quantize(model, batches, levels="binary", quality="fast", bounds=True).layers
    assert wide.optimality is None
    assert wide.notes == ["no lower bound of its energy: that is computed up to 1,024 columns, and it has 1,025"]
    assert 0 <= narrow.optimality <= 1
    assert narrow.notes == []


@pytest.mark.parametrize("constant", [[0], [1, 3], [0, 1, 2, 3, 4, 5]])
def test_bounds_with_inputs_that_never_change(constant):
    model, batches = nn.Sequential(nn.Linear(6, 4)), [torch.randn(32, 6) for _ in range(2)]
    for batch in batches:
        batch[:, constant] = torch.linspace(0.1, 7.3, len(constant))
    layer = quantize(model, batches, levels="ternary", bounds=True).layers[0]
    assert layer.optimality is not None or len(layer.notes) == 1
    assert layer.optimality is None or 0 <= layer.optimality <= 1
    assert len(constant) == 6 or layer.optimality > 0


@pytest.mark.parametrize("error", [InvalidProblemError, torch.linalg.LinAlgError])
def test_a_bound_that_cannot_be_computed_does_not_end_the_run(error, monkeypatch):
    def failing(*_):
        raise error("gram: too bad")

    model, batches = nn.Sequential(nn.Linear(4, 3)), [torch.randn(9, 4) for _ in range(2)]
    monkeypatch.setattr("mrfq.quantize.solving.layer_bound", failing)
    layer = quantize(model, batches, levels="binary", bounds=True).layers[0]
    assert layer.optimality is None
    assert layer.notes == ["no lower bound of its energy: gram: too bad"]


def test_a_resumed_run_knows_its_bounds(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [torch.randn(9, 4) for _ in range(2)]
    first, again = (
        quantize(copy.deepcopy(model), batches, levels="2bit", bounds=True, state_folder=tmp_path) for _ in range(2)
    )
    assert [layer.optimality for layer in again.layers] == [layer.optimality for layer in first.layers]
    assert 0 < again.layers[0].optimality <= 1
    with pytest.raises(InvalidParameterError, match="a run with other options; give"):
        quantize(copy.deepcopy(model), batches, levels="2bit", state_folder=tmp_path)


def test_tied_weights_and_texts():
    model, batches = Texts().eval(), texts()
    before = outputs(model, batches)
    report = quantize(model, batches, levels="4bit")
    assert [layer.name for layer in report.layers] == ["places", "q", "k", "v", "out", "words"]
    assert model.decoder.weight is model.words.weight
    assert len(model.words.weight[0].unique()) <= 16
    words = report.layers[-1]
    assert words.kind == "linear"
    assert "used 2 times" in words.notes[0]
    assert "second moments in place of covariances" in words.notes[1]
    keys = report.layers[2]
    assert keys.notes == ["nothing can take up a shift of its outputs: second moments in place of covariances"]
    assert report.layers[1].notes == []
    after = outputs(model, batches)
    assert float(((after - before) ** 2).mean() / before.var()) < 0.2
    with pytest.raises(InvalidParameterError, match="are tied"):
        quantize(Texts(), batches, levels={"words": "2bit", "*": "3bit"})


def test_padding_decides_nothing():
    batches = texts()
    other = [{**batch, "input_ids": batch["input_ids"] * batch["attention_mask"]} for batch in batches]
    one, two = Texts(tied=False).eval(), Texts(tied=False).eval()
    two.load_state_dict(one.state_dict())
    levels = (("words", None), ("places", None), ("*", "2bit"))
    quantize(one, batches, levels=levels)
    quantize(two, other, levels=levels)
    for name in ("q", "k", "v"):
        assert torch.equal(one.get_submodule(name).weight, two.get_submodule(name).weight)


def test_a_layer_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.a(self.b(self.a(x).relu()).relu())

    model, batches = Twice(), [torch.randn(32, 6) + 1 for _ in range(3)]
    float_model = copy.deepcopy(model)
    stages = []
    report = quantize(model, batches, levels="binary", callback=stages.append)
    assert [layer.name for layer in report.layers] == ["b", "a"]
    assert "used 2 times in a forward pass" in report.layers[1].notes[0]
    assert [event.stage for event in stages] == [1, 2, 2, 3, 3]
    # its moments are of both calls: the first in front of b with float weights, the second behind the quantized b
    x = torch.cat([torch.cat(batches[:2]), float_model.a(torch.cat(batches[:2])).relu()]).detach()
    x = torch.cat([x[:64], model.b(x[64:]).relu()]).detach().double()
    z = float_model.a(torch.cat(batches[:2]))
    z = torch.cat([z, float_model.a(float_model.b(z.relu()).relu())]).detach().double()
    y = (x @ model.a.weight.T.double() + model.a.bias.double()).detach()
    assert report.layers[1].error == pytest.approx(
        float(((y - z) ** 2).mean(0).sum() / z.var(0, correction=0).sum()), rel=1e-4
    )


def test_dead_and_constant_inputs():
    model, batches = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), [torch.randn(32, 6) for _ in range(3)]
    for batch in batches:
        batch[:, 1], batch[:, 2] = 0, 3
    before = outputs(model, batches)
    report = quantize(model, batches, levels="8bit")
    assert report.layers[0].error < 1e-3
    torch.testing.assert_close(outputs(model, batches), before, atol=0.05, rtol=0.05)
    constant = [torch.ones(8, 6)]
    report = quantize(model, constant, levels="2bit")
    assert report.layers[0].error < 1e-6
    assert report.layers[0].error_held_out is None
    assert report.notes == ["one batch of calibration inputs: none is left to measure errors on other inputs"]


def test_attention_of_torch_stays_float_and_its_neighbours_do_not():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.3).eval()
    batches = [torch.randn(4, 5, 8) for _ in range(3)]
    attention = copy.deepcopy(model.self_attn.state_dict())
    report = quantize(model, batches, levels="3bit")
    assert [layer.name for layer in report.layers] == ["linear1", "linear2"]
    assert [note.split(" ")[0] for note in report.notes] == ["self_attn", "self_attn.out_proj"]
    assert all(torch.equal(value, attention[name]) for name, value in model.self_attn.state_dict().items())


def test_batch_norm_statistics_can_be_estimated_anew():
    model, batches = residual(), images(4)
    quantize(model, batches, levels="3bit", reestimate=True, held_out=0.0)
    x = torch.cat([out for _, out in seen_by(model, "stem", batches)])
    torch.testing.assert_close(model.bn0.running_mean, x.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert torch.equal(model.bn0.weight, torch.ones(8))


def test_dtypes_of_networks():
    for dtype in (torch.float64, torch.bfloat16):
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
        batches = [torch.randn(16, 6, dtype=dtype) for _ in range(2)]
        report = quantize(model, batches, levels="3bit")
        assert model[0].weight.dtype == dtype
        assert grid_of(model[0].weight).exact(model[0].weight)
        assert report.layers[0].error < 0.2


def test_numbers_that_are_not_finite_are_reported_with_layer_and_batch():
    model, batches = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), [torch.randn(4, 3) for _ in range(3)]
    batches[1][0, 0] = float("nan")
    with pytest.raises(InvalidProblemError, match="layer '0', calibration batch 2: the inputs are not finite"):
        quantize(model, batches, levels="2bit")
    batches[1][0, 0] = 0
    model[2].bias.data[1] = float("inf")
    with pytest.raises(InvalidProblemError, match="layer '2', calibration batch 1: the outputs of the float network"):
        quantize(model, batches, levels="2bit")


MISTAKES = [
    ([], {}, "no batches"),
    (torch.ones(2, 3), {}, "a single batch goes into a list"),
    ([3], {}, "calibration batch 1 is a int"),
    ([torch.ones(2, 3), torch.ones(2, 4)], {}, "calibration batch 2 cannot be run through the network"),
    ([(torch.ones(2, 3), torch.ones(2))], {}, "without labels"),
    ([torch.ones(2, 3)], {"levels": "2bit-g2"}, "groups of 2 columns do not divide 3"),
    ([torch.ones(2, 3)], {"damping": -1.0}, "damping"),
    ([torch.ones(2, 3)], {"bounds": 1}, "bounds must be True or False, got 1"),
]


@pytest.mark.parametrize(("calibration", "settings", "words"), MISTAKES, ids=str)
def test_mistakes_are_explained(calibration, settings, words):
    with pytest.raises(InvalidParameterError, match=words):
        quantize(nn.Sequential(nn.Linear(3, 2)), calibration, **settings)


def test_unknown_names_are_explained():
    model, batches = nn.Sequential(nn.Linear(3, 2)), [torch.ones(2, 3)]
    with pytest.raises(UnknownNameError, match="did you mean 'levels'"):
        quantize(model, batches, level="2bit")
    with pytest.raises(UnknownNameError, match="did you mean 'balanced'"):
        quantize(model, batches, quality="balancd")
    with pytest.raises(UnknownNameError, match="mean-field"):
        quantize(model, batches, solver="meanfield")
    with pytest.raises(InvalidParameterError, match=r"must be a torch\.nn\.Module"):
        quantize("model", batches)


def test_options_and_settings_go_together():
    model, batches = nn.Sequential(nn.Linear(3, 2)), [torch.randn(8, 3)]
    report = quantize(model, batches, options=Options(levels="2bit", solver="icm"), levels="ternary")
    assert report.layers[0].levels == "ternary-codebook"


@needs_data
def test_a_published_network():
    from mrfq.nn.images import load_images
    from mrfq.nn.images.statistics import IMAGENET
    from mrfq.nn.models import build, load_pretrained

    path = DATA / "pretrained" / "resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip(f"needs {path.name}")
    data = load_images("cifar10", DATA / "cifar10", normalise=IMAGENET)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    batches = [(part / 255 - mean) / std for part in data.train.images[:128].split(32)]
    model = load_pretrained(path, build("resnet20", channels=3, size=32, classes=10)).eval()
    held_out, labels = (data.validation.images[:500] / 255 - mean) / std, data.validation.labels[:500]
    report = quantize(model, batches, levels="ternary", baselines=True)
    assert len(report.layers) == 20
    assert report.layers[2].name == "layer1.0.conv2"
    better = [layer.error / layer.baselines["gptq"]["error"] for layer in report.layers]
    assert sum(better) / len(better) < 0.95
    with torch.no_grad():
        accuracy = (model(held_out).argmax(1) == labels).float().mean()
    assert accuracy > 0.9
