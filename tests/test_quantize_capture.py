"""What is captured of a network, and what is computed from it: discovery, paused passes, moments, targets, folding."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from mrfq.errors import InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.layerwise.spec import parse_levels
from mrfq.layerwise.tables import Table
from mrfq.quantize.capture import Network
from mrfq.quantize.discovery import discover
from mrfq.quantize.fold import correction, fold_into_norm, possible, scaled_table
from mrfq.quantize.layers import find_layers, kind_of
from mrfq.quantize.moments import Counts, Gathering
from mrfq.quantize.options import Options
from mrfq.quantize.runner import Paused
from mrfq.quantize.target import best_shift, best_weights, least_squares
from mrfq.quantize.unfolding import channels, matrix, unfolded


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def plan_of(model, x, shortcut=True, levels="2bit"):
    layers, _ = find_layers(model, Options(levels=levels))
    return discover(model.eval(), layers, ((x,), {}), shortcut)


def names(plan):
    return [tuple(use.name for use in stage.uses) for stage in plan.stages]


class Block(nn.Module):
    """A residual block; `order` says when the shortcut is computed, and how it is added."""

    def __init__(self, channels=4, project=True, inplace=False, add="plus", early=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.5)
        self.down = nn.Conv2d(channels, channels, 1) if project else nn.Identity()
        self.relu = nn.ReLU(inplace=inplace)
        self.add, self.early = add, early

    def forward(self, x):
        shortcut = self.down(x) if self.early else None
        y = self.drop(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        shortcut = shortcut if self.early else self.down(x)
        if self.add == "inplace":
            y += shortcut
        elif self.add == "function":
            y = torch.add(y, shortcut)
        else:
            y = shortcut + y
        return self.relu(y)


def randomise(model):
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model.eval()


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3),
    nn.Conv1d(4, 6, 4, padding="same", dilation=2),
    nn.Conv2d(4, 6, (2, 3), padding="same", padding_mode="replicate"),
    nn.Conv2d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 5), padding="same"),
    nn.Conv2d(4, 6, 3, padding="valid"),
    nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(4, 8, 3, padding=1, groups=2),
    nn.Conv2d(4, 8, 3, padding=1, stride=(1, 2), groups=4),
    nn.Conv2d(4, 6, 1, bias=False),
    nn.Conv3d(4, 6, (2, 3, 1), padding=(1, 0, 0), stride=2),
]


@pytest.mark.parametrize("module", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("chunk", [1, 2**24])
def test_unfolded_inputs_times_the_weight_are_the_outputs(module, chunk, monkeypatch):
    monkeypatch.setattr("mrfq.quantize.unfolding.CHUNK", chunk)
    x = torch.randn(3, 4, *[9, 8, 7][: module.weight.ndim - 2])
    with torch.no_grad():
        z = module(x)
        z = z if module.bias is None else z - channels(module, module.bias, z)
        parts = list(unfolded(module, x, z))
        weight = matrix(module.weight, module.groups)
        for inputs, outputs in parts:
            torch.testing.assert_close(weight @ inputs, outputs, atol=1e-5, rtol=1e-5)
        alone = list(unfolded(module, x[0], z[0]))
    assert len(parts) == (3 if chunk == 1 else 1)
    torch.testing.assert_close(alone[0][1], parts[0][1][..., : alone[0][1].shape[-1]])


def test_padding_of_texts_does_not_count():
    layer, x, keep = nn.Linear(3, 2), torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    ((inputs, outputs),) = unfolded(layer, x, layer(x), keep)
    assert torch.equal(inputs[0].T, x[keep])
    assert outputs.shape == (1, 2, 5)
    ((inputs, _),) = unfolded(layer, x, layer(x), keep[:, :2])
    assert inputs.shape == (1, 3, 8)


@pytest.mark.parametrize("groups", [1, 2])
def test_errors_in_closed_form_are_those_on_the_data(groups):
    x = torch.randn(groups, 5, 3000) @ torch.eye(3000) + 100 * torch.randn(groups, 5, 1)  # means far from zero
    weight, other = torch.randn(groups, 4, 5), torch.randn(groups, 4, 5)
    z = weight @ x + torch.randn(groups, 4, 1)
    gathering = Gathering()
    for part, out in zip(x.split(700, -1), z.split(700, -1), strict=True):
        gathering.add(part, out)
    moments = gathering.finish()
    scale, shift = torch.rand(groups, 4).double() + 0.5, torch.randn(groups, 4).double()
    found = scale[..., None] * (other.double() @ x.double()) + shift[..., None]
    squares = ((z.double() - found) ** 2).mean(-1).sum() / z.double().var(-1, correction=0).sum()
    assert moments.error(other, scale, shift) == pytest.approx(float(squares), rel=1e-5)
    torch.testing.assert_close(moments.gram[0], torch.cov(x[0].double(), correction=0), rtol=1e-4, atol=1e-4)
    raw = x[0].double() @ x[0].double().T / 3000
    torch.testing.assert_close(moments.raw_gram[0], raw, rtol=1e-6, atol=1e-4)
    part = moments.rows(1, 3)
    assert part.error(other[:, 1:3]) == pytest.approx(
        float(
            ((z[:, 1:3] - other[:, 1:3] @ x).double() ** 2).mean(-1).sum()
            / z[:, 1:3].double().var(-1, correction=0).sum()
        ),
        rel=1e-4,
    )


def test_errors_of_an_embedding_are_those_of_the_rows_looked_up():
    weight, other, at = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, 1, 1, 5, 5, 5])
    exact, found = weight[at].double(), other[at].double()
    squares = ((exact - found) ** 2).sum() / ((exact - exact.mean(0)) ** 2).sum()
    assert Counts(at.bincount().double(), weight).error(other) == pytest.approx(float(squares))
    assert Counts(at.bincount().double(), weight).error(weight) == 0


def test_the_target_is_the_regression_on_the_inputs():
    x, weight = torch.randn(1, 6, 500).double(), torch.randn(1, 3, 6).double()
    z = weight @ x + torch.randn(1, 3, 500)
    gram, cross = x @ x.mT, z @ x.mT
    exact = best_weights(gram, cross, torch.zeros(1, 3, 6), 0.0)
    torch.testing.assert_close(exact[0].T, torch.linalg.lstsq(x[0].T, z[0].T).solution)
    near = best_weights(gram, cross, weight, 0.5)
    d = 0.5 * gram[0].diagonal().mean() * torch.eye(6).double()
    torch.testing.assert_close(near[0], (cross[0] + weight[0] @ d) @ torch.linalg.inv(gram[0] + d))


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_directions_without_data_keep_the_float_weights(damping):
    x, weight = torch.randn(1, 6, 500).double(), torch.randn(1, 3, 6).double()
    x[:, 2], x[:, 4] = 0, x[:, 3]  # one input is dead, two are equal
    found = best_weights(x @ x.mT, weight @ x @ x.mT, weight, damping)
    torch.testing.assert_close(found, weight)
    found = best_weights(x @ x.mT, 2 * weight @ x @ x.mT, weight, damping)
    assert torch.equal(found[..., 2], weight[..., 2])
    torch.testing.assert_close(found @ x, 2 * weight @ x, rtol=0.05 if damping else 1e-5, atol=damping)
    assert torch.equal(best_weights(0 * x @ x.mT, 0 * weight, weight, damping), weight)


def test_least_squares_has_no_better_neighbour():
    x, weight = torch.randn(2, 5, 400) + 3, torch.randn(2, 3, 5)
    gathering = Gathering()
    gathering.add(x, torch.randn(2, 3, 5) @ x + 1)
    moments = gathering.finish()
    for shifts in (True, False):
        scale, shift = least_squares(moments, weight, shifts)
        best = moments.error(weight, scale, shift)
        for step in (0.99, 1.01):
            assert moments.error(weight, scale * step, shift) > best
            assert moments.error(weight, scale, shift + (step - 1) * shifts) >= best
    assert torch.equal(least_squares(moments, weight * 0)[0], torch.ones(2, 3).double())
    torch.testing.assert_close(best_shift(moments, weight * 0, torch.ones(2, 3).double()), moments.mean_z)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_folding_into_batch_norm_is_scale_and_shift_in_front_of_it(affine, statistics):
    norm = randomise(nn.BatchNorm2d(5, affine=affine))
    scale, shift, bias = torch.tensor([0.5, 1.5, 1.0, 2.0, 0.1]), torch.randn(5), torch.randn(5)
    y = torch.randn(2, 5, 3, 3)
    wide = (slice(None), None, None)
    wanted = norm(y * scale[wide] + shift[wide] + bias[wide])
    assert bool(possible(norm, scale, statistics).all())
    fold_into_norm(norm, scale, shift, bias, statistics)
    torch.testing.assert_close(norm(y + bias[wide]), wanted, atol=1e-5, rtol=1e-5)


def test_scales_that_a_batch_norm_cannot_take_up():
    scale = torch.tensor([-1.0, 0.0, 1e-5, 1.0, float("nan"), 900.0])
    assert possible(nn.BatchNorm1d(6), scale).tolist() == [True, False, False, True, False, True]
    plain = nn.BatchNorm1d(6, affine=False)
    plain.running_var.fill_(1e-3)
    assert possible(plain, scale).tolist() == [False, False, False, True, False, False]


def test_channels_that_are_switched_off_are_not_corrected():
    norm = randomise(nn.BatchNorm1d(4))
    norm.weight.data = torch.tensor([1.0, -2.0, 1e-9, 0.0])
    factor = correction(norm, 4)
    wanted = (norm.running_var + norm.eps).sqrt() / norm.weight
    torch.testing.assert_close(factor[:2].float(), wanted[:2].detach())
    assert factor[2:].tolist() == [0, 0]
    assert correction(None, 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("levels", ["2bit-codebook", "2bit-uniform-g4", "ternary-symmetric"])
def test_scaled_tables_have_scaled_values(levels):
    spec = parse_levels(levels)
    parameters = torch.rand(3, 2 if spec.group else 1, spec.parameters).sort().values.to(spec.dtype)
    table = Table(spec, parameters)
    scaled = scaled_table(table, torch.tensor([0.5, 2.0, -1.0]))
    torch.testing.assert_close(
        scaled.values, table.values * torch.tensor([0.5, 2.0, 1.0])[:, None, None], rtol=2e-3, atol=2e-3
    )
    huge = Table(parse_levels("binary"), torch.tensor([[[1.0, 6e4]]]).half())
    assert scaled_table(huge, torch.tensor([2.0])) is None


def test_the_place_of_a_residual_layer_is_the_addition():
    for block in (Block(), Block(add="inplace"), Block(add="function"), Block(inplace=True, add="inplace")):
        plan = plan_of(block, torch.randn(2, 4, 6, 6))
        assert names(plan) == [("conv1",), ("down",), ("conv2",)]
        assert [stage.shortcut for stage in plan.stages] == [False, False, True]
        assert plan.norms == {0: "bn1", 1: "bn2"}
    assert names(plan_of(Block(early=True), torch.randn(2, 4, 6, 6))) == [("down",), ("conv1",), ("conv2",)]
    assert names(plan_of(Block(), torch.randn(2, 4, 6, 6), shortcut=False)) == [("conv1",), ("conv2",), ("down",)]


class Forked(nn.Module):
    """The output of the batch norm, or of the convolution, is read before the addition."""

    def __init__(self, raw):
        super().__init__()
        self.conv, self.bn, self.raw = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), raw

    def forward(self, x):
        y = self.conv(x)
        z = self.bn(y)
        return x + z + (y if self.raw else 0) if self.raw else z + x * z.sigmoid()


def test_what_is_read_elsewhere_is_not_folded_and_not_corrected():
    plan = plan_of(Forked(raw=True), torch.randn(2, 3, 4, 4))
    assert plan.norms == {}
    assert not plan.stages[0].shortcut
    assert "read by more than bn" in plan.notes[0][0]
    plan = plan_of(Forked(raw=False), torch.randn(2, 3, 4, 4))
    assert plan.norms == {0: "bn"}
    assert not plan.stages[0].shortcut
    assert "read before it is added" in plan.notes[0][0]


class Attention(nn.Module):
    """Queries, keys and values of one tensor, and a residual connection."""

    def __init__(self, width=8):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        y = functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.norm(self.out(y) + x)


def test_layers_with_the_same_input_are_one_stage():
    assert names(plan_of(Attention(), torch.randn(2, 5, 8))) == [("q", "k", "v"), ("out",)]

    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv1d(2, 2, 1)

        def forward(self, x):
            x = x + 0
            y = self.a(x)
            x.relu_()
            return self.b(x) * y, self.c(x)

    assert names(plan_of(Changed(), torch.randn(2, 2, 3))) == [("a",), ("b",), ("c",)]


def test_the_inputs_of_batch_norm_must_be_the_outputs_channel_by_channel():
    assert plan_of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(5, 3)).norms == {0: "1"}
    assert plan_of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5)), torch.randn(2, 5, 3)).norms == {}
    assert plan_of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4)), torch.randn(5, 3)).norms == {}
    local = nn.BatchNorm1d(4, track_running_stats=False)
    assert plan_of(nn.Sequential(nn.Linear(3, 4), local), torch.randn(5, 3)).norms == {}
    twice = nn.BatchNorm1d(3)
    assert plan_of(nn.Sequential(nn.Linear(3, 3), twice, nn.Linear(3, 3), twice), torch.randn(5, 3)).norms == {}


def test_a_layer_that_is_never_reached_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].spare = nn.Linear(2, 2)
    with pytest.raises(InvalidProblemError, match=r"never reach '1\.spare'"):
        plan_of(model, torch.randn(2, 3))


def test_batches_that_do_not_fit_are_explained():
    model = nn.Linear(3, 3)
    with pytest.raises(InvalidParameterError, match=r"does not fit the network .*a tuple its positional"):
        discover(model, find_layers(model, Options())[0], ((torch.ones(1, 3), torch.ones(1)), {}))


def test_kinds_of_modules():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    assert kind_of(nn.Linear(2, 2)) == "linear"
    assert kind_of(Own(2, 2)) is None
    assert kind_of(nn.Embedding(3, 2)) == "embedding"
    assert kind_of(nn.Embedding(3, 2, max_norm=1.0)) is None
    assert kind_of(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))) is None
    assert kind_of(nn.LSTM(2, 2)) is None


def test_what_cannot_be_quantized_stays_float_unless_it_was_asked_for():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "up": nn.ConvTranspose2d(2, 2, 2), "att": nn.MultiheadAttention(4, 2)})
    layers, notes = find_layers(model, Options())
    assert [layer.name for layer in layers] == ["a"]
    assert [note.split()[0] for note in notes] == ["up", "att", "att.out_proj"]
    with pytest.raises(InvalidParameterError, match=r"'up', an unsupported module \(ConvTranspose2d\)"):
        find_layers(model, Options(levels=(("up", "2bit"),)))
    with pytest.raises(InvalidParameterError, match=r"'att.out_proj'.*MultiheadAttention reads itself"):
        find_layers(model, Options(levels=(("att.*", "2bit"), ("*", "2bit"))))
    layers, notes = find_layers(model, Options(levels=(("up", None), ("att*", None), ("*", "2bit"))))
    assert notes == []
    with pytest.raises(UnknownNameError, match="did you mean 'up'"):
        find_layers(model, Options(levels={"upp": "2bit", "*": "2bit"}))
    with pytest.raises(InvalidProblemError, match="no layer to quantize"):
        find_layers(nn.ReLU(), Options())


def test_label_sets_that_do_not_fit():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    with pytest.raises(InvalidParameterError, match="0: groups of 4 columns do not divide 6"):
        find_layers(model, Options(levels="2bit-g4"))
    with pytest.raises(InvalidParameterError, match="0: blocks of 4 weights do not divide 6"):
        find_layers(model, Options(levels="vector-4x16"))
    model[1].weight = nn.Parameter(torch.full((4, 4), float("nan")))
    with pytest.raises(InvalidProblemError, match="'1' has weights that are not finite"):
        find_layers(model, Options())


def test_tied_weights_are_one_layer():
    model = nn.ModuleDict({"in": nn.Embedding(7, 3), "out": nn.Linear(3, 7, bias=False)})
    model["out"].weight = model["in"].weight
    (layer,), _ = find_layers(model, Options())
    assert (layer.names, layer.kind, layer.rows, layer.columns) == (("in", "out"), "linear", 7, 3)
    with pytest.raises(InvalidParameterError, match=r"in and out are tied.*in 2bit-codebook, out 3bit-codebook"):
        find_layers(model, Options(levels=(("in", "2bit"), ("out", "3bit"))))
    with pytest.raises(InvalidParameterError, match="in 2bit-codebook, out float"):
        find_layers(model, Options(levels=(("in", "2bit"), ("out", None))))


OPTIONS = [
    ({"levels": "5"}, "levels"),
    ({"levels": 5}, "levels"),
    ({"levels": ()}, "at least one"),
    ({"levels": (("a", None),)}, "at least one layer"),
    ({"levels": (("a", "2bit", 3),)}, "pairs"),
    ({"rescale": 1}, "rescale must be True or False"),
    ({"damping": -1}, "damping"),
    ({"damping": float("nan")}, "damping"),
    ({"held_out": 1.0}, "held_out"),
    ({"memory": "2"}, "memory"),
    ({"seed": -1}, "seed"),
    ({"seed": True}, "seed"),
    ({"quality": 3}, "quality"),
    ({"solver": 3}, "solver"),
]


@pytest.mark.parametrize(("values", "words"), OPTIONS, ids=str)
def test_options_that_cannot_be(values, words):
    with pytest.raises(InvalidParameterError, match=words):
        Options(**values)


def test_the_first_pattern_that_matches_counts():
    options = Options(levels={"a.*": None, "*.last": "4bit", "*": "2bit"})
    assert options.spec_of("a.last") is None
    assert [str(options.spec_of(name)) for name in ("b.last", "b")] == ["4bit-codebook", "2bit-codebook"]
    assert (options.asked_for("b.last"), options.asked_for("b")) == ("*.last", None)


def test_paused_functions():
    def count(run):
        run.pause(1)
        raise KeyError("two")

    run = Paused(count)
    assert run.advance() == 1
    with pytest.raises(KeyError, match="two"):
        run.advance()
    assert run.done
    assert run.advance() is None
    before = threading.active_count()
    ended = []

    def stubborn(run):
        try:
            while True:
                try:
                    run.pause(len(ended))
                except Exception:
                    ended.append("never")
        finally:
            ended.append("killed")

    many = [Paused(stubborn) for _ in range(3)]
    assert [run.advance() for run in many] == [0, 0, 0]
    assert threading.active_count() == before + 3
    for run in many:
        run.kill()
        run.kill()
    assert ended == ["killed"] * 3
    assert threading.active_count() == before
    Paused(count).kill()


@pytest.mark.parametrize("block", [Block(), Block(project=False, inplace=True, add="inplace"), Attention(4)], ids=str)
def test_paused_passes_show_what_goes_in_and_out(block):
    model = randomise(nn.Sequential(block, block.__class__(4)))
    x = torch.randn(2, 4, 6, 6) if isinstance(block, Block) else torch.randn(2, 3, 4)
    plan = plan_of(model, x)
    seen = {}
    handles = [
        model.get_submodule(use.name).register_forward_hook(
            lambda module, args, out, name=use.name: seen.update({name: (args[0].clone(), out.clone())})
        )
        for stage in plan.stages
        for use in stage.uses
    ]
    model(x)
    for handle in handles:
        handle.remove()
    exact, quantized = Network(copy.deepcopy(model), plan, outputs=True), Network(model, plan, outputs=False)
    one, two = exact.start(((x,), {})), quantized.start(((x,), {}))
    for k, stage in enumerate(plan.stages):
        captures = one.reach(k), two.reach(k)
        for use, out in zip(stage.uses, captures[0].outputs, strict=True):
            torch.testing.assert_close(out, seen[use.name][1], rtol=0, atol=0)
        torch.testing.assert_close(captures[1].x, seen[stage.uses[0].name][0], rtol=0, atol=0)
        assert (captures[0].shortcut is not None) == (captures[1].shortcut is not None) == stage.shortcut
        if stage.shortcut:
            torch.testing.assert_close(captures[0].shortcut, captures[1].shortcut, rtol=0, atol=0)
    assert one.advance() is None
    assert two.advance() is None
    exact.close()
    quantized.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("add", ["plus", "inplace", "function"])
def test_a_paused_pass_goes_on_with_the_new_weights(add):
    model = randomise(nn.Sequential(Block(add=add, inplace=True), Block(add=add, project=False)))
    x, results = torch.randn(2, 4, 6, 6), []
    plan = plan_of(model, x)
    model.register_forward_hook(lambda module, args, out: results.append(out))
    network = Network(model, plan, outputs=False)
    run = network.start(((x,), {}))
    for k, stage in enumerate(plan.stages):
        run.reach(k)
        for use in stage.uses:
            model.get_submodule(use.name).weight.data.normal_()
        if norm := plan.norms.get(stage.uses[0].layer):
            model.get_submodule(norm).bias.data.normal_()
    assert run.advance() is None
    network.close()
    with torch.no_grad():
        model(x)
    assert torch.equal(results[0], results[1])


def test_passes_that_take_another_way_are_noticed():
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            y = self.a(x)
            return self.b(y) if x.sum() > 0 else self.a(y) if x.sum() < -100 else y

    model = Choosing()
    plan = plan_of(model, torch.ones(1, 3))
    network = Network(model, plan, outputs=False)
    run = network.start(((torch.zeros(1, 3),), {}))
    run.reach(0)
    with pytest.raises(InvalidProblemError, match="layer 'b' is not reached, although the first batch reached it"):
        run.reach(1)
    run = network.start(((torch.full((1, 3), -50.0),), {}))
    with pytest.raises(InvalidProblemError, match="'a' is called 2 times, and 1 times with the first batch"):
        run.reach(1)
    network.close()
