"""Packed networks: few bits a weight, the same outputs to the last bit, and no file that does harm."""

from __future__ import annotations

import copy
import importlib.util
import io
import itertools
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from mrfq.commands.inspect_packed import packed_facts, packed_table
from mrfq.errors import FileFormatError, InvalidProblemError
from mrfq.io.archive import read_archive, write_archive
from mrfq.nn import LabelOptimizer
from mrfq.nn.codebooks import find_grid, packed_size
from mrfq.nn.grids import Grid, attach, grid_of
from mrfq.nn.packed import KIND, VERSION, load, save
from mrfq.nn.packing import Word, best_word, pack, unpack

SOURCE = Path(__file__).parent / "bench" / "fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz", SOURCE)
assert spec is not None
assert spec.loader is not None
fuzz = sys.modules["fuzz"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)

LEVELS = {2: (-1.0, 1.0), 3: (-1.0, 0.0, 1.0), 16: tuple(float(q) for q in range(-8, 8))}


# ---- networks -------------------------------------------------------------------------------------------


def lenet300():
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + x if x.shape == y.shape else y).relu()


class ResNet20(nn.Module):
    """The layers of a ResNet-20 for images of 32x32, or narrower ones, without the subsampling."""

    def __init__(self, width=16):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
        blocks = [Block(i, o) for i, o in itertools.pairwise(widths)]
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*blocks[k : k + 3]) for k in (0, 3, 6))
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.fc(x.mean((2, 3)))


def discretise(model, levels, scale="tensor"):
    """Put all matrices and filters of a network on a grid, and give the rest values that no grid has."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.ndim > 1:
            parts = tensor.detach().flatten(1).abs()
            scales = {"none": None, "tensor": parts.mean()[None], "channel": parts.mean(1)}[scale]
            grid = Grid(levels, scales)
            tensor.data = grid.decode(grid.nearest(tensor), tensor.shape, tensor.dtype)
            attach(tensor, grid)
        elif tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, dtype=tensor.dtype) + 0.5
        else:
            tensor.data.fill_(len(name) + 1000)
    return model.eval()


def due(model):
    """Return what the size of a file is measured by: log2 L bits a weight, scales, and the rest as it is."""
    total = 0.0
    for tensor in model.state_dict(keep_vars=True).values():
        grid = grid_of(tensor)
        if grid is None:
            total += tensor.numel() * tensor.itemsize
        else:
            total += tensor.numel() * math.log2(len(grid.levels)) / 8
            total += 0 if grid.scales is None else 4 * grid.rows
    return total


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).tolist() if tensor.numel() else []


def identical(a, b):
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and bits(a[name]) == bits(b[name])
        for name in a
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# ---- labels as bits -------------------------------------------------------------------------------------


@given(data=st.data(), levels=st.integers(1, 300) | st.sampled_from([4099, 65536, 2**32 - 1]))
def test_labels_survive_packing(data, levels):
    labels = np.array(data.draw(st.lists(st.integers(0, levels - 1), max_size=60)), dtype=np.int64)
    word = best_word(levels)
    packed = pack(labels, word)
    assert len(packed) == word.size(len(labels))
    assert unpack(packed, len(labels), word).tolist() == labels.tolist()


@pytest.mark.parametrize("levels", [2, 3, 5, 8, 60, 129, 256])
def test_many_words_are_packed_like_few(levels):
    word = best_word(levels)
    count = 20_000 * word.digits + word.digits // 2
    labels = np.random.default_rng(0).integers(0, levels, count)
    packed = pack(labels, word)
    assert np.array_equal(unpack(packed, count, word), labels)
    k = 8 * 11  # words, so that they end with a byte
    assert pack(labels[: k * word.digits], word) == packed[: k * word.bits // 8]


def test_the_word_is_the_sum_that_the_format_says():
    word = best_word(3)
    labels = np.random.default_rng(0).integers(0, 3, 2 * word.digits + 3)
    value = 0
    for place, start in enumerate(range(0, len(labels), word.digits)):
        digits = labels[start : start + word.digits].tolist()
        value |= sum(label * 3**k for k, label in enumerate(digits)) << place * word.bits
    assert int.from_bytes(pack(labels, word), "little") == value


def test_less_than_one_percent_is_wasted_and_nothing_where_levels_are_a_power_of_two():
    waste = {levels: best_word(levels).size(10**6) * 8 / 1e6 / math.log2(levels) - 1 for levels in range(2, 257)}
    assert max(waste.values()) < 0.008
    assert waste[3] < 0.001
    assert all(waste[2**k] == 0 for k in range(1, 9))


def test_bytes_that_hold_no_labels_are_refused():
    with pytest.raises(InvalidProblemError, match="take 2 bytes, not 3"):
        unpack(b"abc", 9, best_word(2))
    with pytest.raises(InvalidProblemError, match="29 digits of radix 3"):
        unpack(b"\xff" * 6, 29, best_word(3))
    with pytest.raises(InvalidProblemError, match="do not fit"):
        Word(3, 6, 9)


# ---- grids ----------------------------------------------------------------------------------------------


def test_nearest_is_the_nearest_and_ties_go_down():
    weights = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    grid = Grid((-1.5, -0.25, 0.0, 1.0), torch.tensor([0.5, 1.0, 2.0]))
    values = torch.tensor(grid.levels) * grid.scales[:, None]
    distance = (weights.reshape(3, 100, 1) - values[:, None]).abs()
    assert torch.equal(grid.nearest(weights), distance.argmin(2).reshape(6, 50))
    assert Grid((-1.0, 0.0, 2.0)).nearest(torch.tensor([-0.5, 1.0, 9.0, -9.0])).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_decoded_weights_are_exact_in_every_dtype(dtype, precision):
    scales = torch.rand(8, generator=torch.Generator().manual_seed(0)) + 0.01
    grid = Grid(LEVELS[16], scales, precision)
    labels = torch.randint(0, 16, (8, 40), generator=torch.Generator().manual_seed(1))
    weights = grid.decode(labels, (16, 4, 5), dtype)
    assert weights.dtype == dtype
    assert grid.exact(weights)
    assert not grid.exact(weights + 0.01)
    assert not grid.exact(weights * torch.nan)
    assert torch.equal(grid.nearest(weights).reshape(8, 40), labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbouring_numbers_are_told_apart(dtype):
    low = torch.tensor(0.1, dtype=dtype)
    high = torch.nextafter(low, torch.tensor(1.0, dtype=dtype))
    grid = Grid((low.item(), high.item()), None, dtype)
    assert grid.nearest(torch.stack([low, high])).tolist() == [0, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grid(()),
        lambda: Grid((1.0, 1.0)),
        lambda: Grid((1.0, 0.0)),
        lambda: Grid((0.0, math.inf)),
        lambda: Grid((0.1, 0.1 + 1e-12)),
        lambda: Grid((0.0, 1.0), torch.tensor([0.0])),
        lambda: Grid((0.0, 1.0), torch.tensor([math.nan])),
        lambda: Grid((0.0, 1e30), torch.tensor([1e30])),
        lambda: Grid((0.0, 1.0), torch.ones(2, 2)),
        lambda: Grid((0.0, 1.0), torch.tensor([1])),
        lambda: Grid((0.0, 1.0), None, torch.float16),
        lambda: Grid((0.0, 1.0), torch.ones(3)).nearest(torch.zeros(4)),
        lambda: attach(nn.Parameter(torch.zeros(4)), Grid((0.0, 1.0), torch.ones(3))),
    ],
)
def test_impossible_grids_are_refused(make):
    with pytest.raises(InvalidProblemError, match="grid: "):
        make()


def test_a_grid_stays_with_its_parameter_until_it_is_copied():
    model = discretise(nn.Linear(4, 3), LEVELS[3], "channel")
    assert grid_of(model.double().weight).exact(model.weight)
    assert grid_of(model.half().weight).exact(model.weight)
    assert grid_of(copy.deepcopy(model).weight) is None
    attach(model.weight, None)
    assert grid_of(model.weight) is None


# ---- grids found by value -------------------------------------------------------------------------------


def per_channel(levels, rows=16, columns=300, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    scales = torch.rand(rows, 1, generator=generator, dtype=dtype) + 0.1
    values = torch.tensor(levels, dtype=dtype)
    return values[torch.randint(0, len(levels), (rows, columns), generator=generator)] * scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [*LEVELS.values(), tuple(map(float, range(-127, 128))), (0.0, 3.0, 5.0)])
def test_multiples_of_a_scale_in_every_channel_are_found(levels, dtype):
    weights = per_channel(levels, dtype=dtype)
    grid = find_grid(weights)
    assert grid.rows == 16
    assert grid.exact(weights)
    # 12 levels stand for every part of what was there; a channel without the largest may have another scale
    assert packed_size(grid, weights.numel()) <= packed_size(Grid(levels, torch.ones(16), dtype), weights.numel()) + 40


def test_a_quantized_tensor_of_torch_is_found():
    weights = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    scales = weights.abs().amax(1) / 127
    points = torch.zeros(8, dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(weights, scales, points, 0, -127, 127)
    assert find_grid(rounded).exact(rounded)
    assert packed_size(find_grid(rounded), 4000) < 4000 * 4 * 0.35


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_few_values_make_a_codebook(dtype):
    weights = torch.randn(4, 600, generator=torch.Generator().manual_seed(0))
    book = torch.tensor([-0.731, -0.1, 0.0003, 0.7, 1 / 3], dtype=dtype)
    weights = book[(weights * 10).long().abs() % 5]
    assert find_grid(weights).levels == tuple(book.sort().values.tolist())
    assert find_grid(weights).exact(weights)


@pytest.mark.parametrize(
    "weights",
    [
        torch.randn(100, 100, generator=torch.Generator().manual_seed(0)),
        torch.randn(500, 3, generator=torch.Generator().manual_seed(0)),
        torch.randn(500, 1, generator=torch.Generator().manual_seed(0)),
        torch.randn(10, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[math.nan, 1.0], [math.inf, 1.0]] * 100),
        torch.zeros(3),
        torch.zeros(0, 3),
        torch.zeros(900, dtype=torch.int64),
        torch.zeros(900).to(torch.float8_e4m3fn),
    ],
    ids=range(9),
)
def test_what_is_float_or_not_worth_it_stays_as_it_is(weights):
    assert find_grid(weights) is None


def test_minus_zero_is_zero():
    weights = torch.tensor([-0.0, 0.0, 0.5, -0.5] * 30)
    assert find_grid(weights).levels == (-0.5, 0.0, 0.5)
    assert find_grid(weights).exact(weights)


# ---- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["none", "tensor", "channel"])
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_a_network_reloads_bit_for_bit(path, levels, scale):
    model = discretise(ResNet20(4), levels, scale)
    save(model, path)
    other = ResNet20(4).eval()
    assert load(path, other) is other
    assert not other.training
    assert identical(other.state_dict(), model.state_dict())
    inputs = torch.randn(3, 3, 8, 8)
    assert bits(other(inputs)) == bits(model(inputs))
    for name, parameter in other.named_parameters():
        grid = grid_of(parameter)
        assert (grid is None) == (grid_of(model.get_parameter(name)) is None)
        assert grid is None or grid.exact(parameter)
    assert identical(load(path), model.state_dict())
    before = path.read_bytes()
    save(other, path)
    assert path.read_bytes() == before


def test_outputs_are_the_same_in_a_fresh_process(path, tmp_path):
    model = discretise(lenet300(), LEVELS[3], "channel")
    inputs = torch.randn(7, 784)
    save(model, path)
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys, torch; from torch import nn; from mrfq.nn.packed import load; torch.set_num_threads(1); "
        "sizes = (784, 300, 100, 10); layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]; "
        "model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).eval(); "
        "load(sys.argv[1], model); inputs = torch.load(sys.argv[2], weights_only=True); "
        "sys.stdout.write(model(inputs).detach().numpy().tobytes().hex())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "inputs.pt")], capture_output=True, text=True, check=True
    )
    assert found.stdout == model(inputs).detach().numpy().tobytes().hex()


def test_a_trained_network_reloads_bit_for_bit(path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40, bias=False), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 3))
    groups = [
        {"params": [model[0].weight, model[3].weight]},
        {"params": [model[1].weight, model[3].bias], "labels": None},
    ]
    optimizer = LabelOptimizer(torch.optim.Adam(groups, lr=0.01), labels="2bit", steps=8, scale="channel")
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
    optimizer.finalize()
    save(model, path)
    other = load(path, copy.deepcopy(model))
    assert identical(other.state_dict(), model.state_dict())
    assert grid_of(other[3].weight).levels == (-2.0, -1.0, 1.0, 2.0)
    assert [layer["scales"] for layer in packed_facts(path)["layers"] if layer["attached"]] == [40, 3]


class Odd(nn.Module):
    """What networks have beside weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 4))
        self.short = nn.Parameter(torch.randn(5).half(), requires_grad=False)
        self.narrow = nn.Parameter(torch.randn(7).bfloat16())
        self.tiny = nn.Parameter(torch.randn(7).to(torch.float8_e5m2), requires_grad=False)
        self.single = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.wave = nn.Parameter(torch.randn(3, dtype=torch.complex64))
        self.none = nn.Parameter(torch.zeros(0, 3))
        self.sub = nn.ModuleDict({"again": nn.ParameterList([self.first])})
        self.register_buffer("special", torch.tensor([math.nan, -0.0, 0.0, math.inf, 1e-45]))
        self.special.view(torch.int32)[0] ^= 0x00400001
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("count", torch.tensor(-(2**63)))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("bytes", torch.arange(5, dtype=torch.uint8))
        self.register_buffer("words", torch.arange(5).to(torch.uint16))
        self.register_buffer("hidden", torch.zeros(9), persistent=False)
        self.register_buffer("alias", self.mask)


def test_everything_else_keeps_its_dtype_and_every_bit(path):
    model = Odd()
    save(model, path)
    other = load(path, Odd())
    assert identical(other.state_dict(), model.state_dict())
    assert "hidden" not in load(path)
    assert other.sub["again"][0] is other.first


def test_tied_parameters_are_written_once(path):
    tied = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    save(discretise(tied, LEVELS[2]), path)
    apart = path.stat().st_size
    tied[1].weight = tied[0].weight
    save(tied, path)
    assert path.stat().st_size < apart - 500
    other = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    assert identical(load(path, other).state_dict(), tied.state_dict())
    assert packed_facts(path)["parameters"] == 64 * 64 + 128


def test_tied_parameters_cannot_take_two_values(path):
    save(discretise(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), LEVELS[3]), path)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(InvalidProblemError, match=r"tied in the network alone: 1\.weight$"):
        load(path, model)


def test_a_copy_without_grids_takes_no_more_room(path):
    model = discretise(lenet300(), LEVELS[3], "channel")
    save(model, path)
    size = path.stat().st_size
    save(copy.deepcopy(model), path)
    assert path.stat().st_size < size + 40
    other = load(path, lenet300())
    assert identical(other.state_dict(), model.state_dict())
    assert grid_of(other[0].weight) is None  # found by value: free to be trained on
    assert not any(layer["attached"] for layer in packed_facts(path)["layers"])


def test_loading_floats_takes_an_old_grid_away(path):
    save(nn.Linear(4, 3), path)
    model = discretise(nn.Linear(4, 3), LEVELS[2])
    assert grid_of(load(path, model).weight) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("keep", [True, False])
def test_networks_of_other_dtypes_reload_bit_for_bit(path, dtype, keep):
    model = discretise(nn.Linear(300, 8), LEVELS[3], "channel").to(dtype)
    if not keep:
        attach(model.weight, None)
    save(model, path)
    assert identical(load(path, nn.Linear(300, 8, dtype=dtype)).state_dict(), model.state_dict())
    assert path.stat().st_size < 1500


def test_weights_that_left_their_grid_are_refused(path):
    model = discretise(lenet300(), LEVELS[2])
    model[2].weight.data[0, 0] += 1e-3
    with pytest.raises(InvalidProblemError, match=r"weights of 2\.weight are not on the grid.*finalize"):
        save(model, path)
    assert not path.exists()
    attach(model[2].weight, None)
    save(model, path)
    assert identical(load(path), model.state_dict())


def test_grids_of_more_levels_than_weights_are_stored_as_floats(path):
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(30, 20, bias=False))
    for layer in model:
        grid = Grid(tuple(k / 512 for k in range(512)))
        labels = torch.randint(0, 512, layer.weight.shape, generator=torch.Generator().manual_seed(0))
        layer.weight.data = grid.decode(labels, layer.weight.shape)
        attach(layer.weight, grid)
    save(model, path)
    assert identical(load(path), model.state_dict())
    assert [layer["name"] for layer in packed_facts(path)["layers"]] == ["1.weight"]


class Wordy(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        raise AssertionError(state)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.LazyLinear(3), "without a shape"),
        (nn.Linear(2, 2, device="meta"), "without data"),
        (nn.Linear(2, 2, dtype=torch.complex128), "complex128"),
        (Wordy(2, 2), "'_extra_state' of the network is a dict"),
    ],
)
def test_networks_that_a_file_cannot_hold_are_refused(path, model, message):
    with pytest.raises(InvalidProblemError, match=message):
        save(model, path)
    save(nn.Linear(2, 2), path)
    with pytest.raises(InvalidProblemError, match="does not fit"):
        load(path, model)


def test_all_differences_from_a_network_are_listed_and_nothing_is_changed(path):
    save(nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)}), path)
    model = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(2, 2).half(), "d": nn.Linear(2, 2)})
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidProblemError) as caught:
        load(path, model)
    message = str(caught.value)
    assert "missing in the file: d.bias, d.weight" in message
    assert "not in the network: c.bias, c.weight" in message
    assert "a.weight (float32 [2, 3] in the file, float32 [4, 3] in the network)" in message
    assert "b.bias (float32 [2] in the file, float16 [2] in the network)" in message
    assert identical(model.state_dict(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_network_on_a_gpu_is_saved_and_loaded_there(path):
    model = discretise(nn.Linear(300, 8), LEVELS[3], "channel")
    save(model, path)
    expected = path.read_bytes()
    gpu = load(path, nn.Linear(300, 8).cuda())
    assert gpu.weight.is_cuda
    assert grid_of(gpu.weight).scales.is_cuda
    save(gpu, path)
    assert path.read_bytes() == expected


# ---- size -----------------------------------------------------------------------------------------------

#: by how much of the rule a file is larger: header, manifest, and what is lost in packing
REACHED = {
    ("lenet300", 2): 0.0130,
    ("lenet300", 3): 0.0093,
    ("lenet300", 16): 0.0039,
    ("resnet20", 2): 0.0117,
    ("resnet20", 3): 0.0091,
    ("resnet20", 16): 0.0041,
}


@pytest.mark.parametrize("scale", ["none", "tensor", "channel"])
@pytest.mark.parametrize(("name", "levels"), REACHED)
def test_the_size_is_within_two_percent_of_the_rule(path, name, levels, scale):
    model = discretise({"lenet300": lenet300, "resnet20": ResNet20}[name](), LEVELS[levels], scale)
    save(model, path)
    excess = path.stat().st_size / due(model) - 1
    assert -0.01 < excess < REACHED[name, levels] < 0.02


def test_a_network_of_weights_alone_is_within_two_percent_too(path):
    layers = nn.Linear(784, 300, bias=False), nn.Linear(300, 100, bias=False), nn.Linear(100, 10, bias=False)
    model = discretise(nn.Sequential(*layers), LEVELS[2], "none")
    save(model, path)
    assert path.stat().st_size < 1.02 * due(model)


# ---- files that are not what they seem ------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The bytes of a small file that has everything in it, and its state dictionary."""
    path = tmp_path_factory.mktemp("sample") / "model.safetensors"
    model = nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 70), nn.Linear(5, 70, bias=False))
    model[3].weight = discretise(model, LEVELS[3], "channel")[2].weight
    model[0].weight.data = torch.randn(5, 12).sign() * 0.3
    attach(model[0].weight, None)
    save(model, path)
    return path.read_bytes(), model.state_dict()


def read(path):
    """Return the state dictionary in a file, which the inspection must understand as well, or None if it is refused."""
    state, message = None, ""
    try:
        state = load(path)
    except FileFormatError as error:
        message = str(error)
    if state is None:
        assert message.startswith(f"{path}:")
        assert len(message) < 800
        return None
    console = Console(file=io.StringIO(), width=80)
    console.print(packed_table(packed_facts(path)))
    return state


def test_two_thousand_changed_files_are_refused(path, sample):
    data, state = sample
    source = random.Random(0)
    for _ in range(2000):
        changed = fuzz.mutate(data, fuzz.random_edits(source))
        path.write_bytes(changed)
        assert (read(path) is None) == (changed != data)
    path.write_bytes(data)
    assert identical(read(path), state)


def test_every_cut_is_noticed(path, sample):
    for stop in range(0, len(sample[0]), 5):
        path.write_bytes(sample[0][:stop])
        assert read(path) is None


VALUES = [
    *(
        -1,
        0,
        1,
        2,
        3,
        5,
        7,
        29,
        46,
        128,
        129,
        350,
        2**31,
        2**62,
        2**63,
        10**40,
        True,
        None,
        0.5,
        "",
        "U8",
        "F32",
        "F64",
    ),
    *(
        "I64",
        "BF16",
        "BOOL",
        "P8",
        "labels",
        "q",
        "c",
        "p",
        "b",
        "t",
        "0.",
        "0.weight",
        "weight",
        [],
        [0],
        [350],
        [-1],
        {},
    ),
    *([2**40], [2**31, 2**31], [0, 2**62], [5, 70], [[]], {"a": 1}, [1.0], ["q", "x"], "\ud800", "a" * 3000),
]


def edited(value, source):
    """Return a JSON value with something in it replaced, repeated, exchanged or taken away."""
    if not isinstance(value, list | dict) or not value or source.random() < 0.15:
        return source.choice(VALUES)
    value = copy.copy(value)
    at = source.choice(list(value) if isinstance(value, dict) else range(len(value)))
    action = source.choice(["into", "into", "into", "into", "drop", "again", "swap"])
    if action == "into" or isinstance(value, dict):
        value[at] = edited(value[at], source)
    elif action == "drop":
        del value[at]
    elif action == "again":
        value.insert(at, value[at])
    else:
        other = source.randrange(len(value))
        value[at], value[other] = value[other], value[at]
    return value


def test_made_up_manifests_with_the_right_checksum_are_read_or_refused(path, sample, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    path.write_bytes(sample[0])
    tensors, manifest = read_archive(path, KIND, VERSION)
    source = random.Random(0)
    outcomes = []
    for _ in range(1000):
        changed = edited(manifest, source)
        write_archive(path, KIND, VERSION, tensors, changed if isinstance(changed, dict) else {"levels": changed})
        outcomes.append(read(path) is None)
    assert 0.5 < sum(outcomes) / len(outcomes) < 1  # some, such as other names, make sense


def test_made_up_tensors_with_the_right_checksum_are_read_or_refused(path, sample, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    path.write_bytes(sample[0])
    tensors, manifest = read_archive(path, KIND, VERSION)
    source = random.Random(0)
    for _ in range(300):
        changed = {name: tensor.clone() for name, tensor in tensors.items()}
        name = source.choice(list(changed))
        raw = changed[name].view(torch.uint8)
        raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)
        write_archive(path, KIND, VERSION, changed, manifest)
        read(path)
    for name in tensors:
        for wrong in (tensors[name][:-1], tensors[name].repeat(2), tensors[name].to(torch.int16), torch.zeros(0)):
            write_archive(path, KIND, VERSION, {**tensors, name: wrong}, manifest)
            assert read(path) is None
        write_archive(path, KIND, VERSION, {k: v for k, v in tensors.items() if k != name}, manifest)
        assert read(path) is None
    write_archive(path, KIND, VERSION, {**tensors, "F16": torch.zeros(3).half()}, manifest)
    assert read(path) is None


def test_many_small_layers_on_many_levels_do_not_fill_the_memory(path):
    levels = torch.arange(65536.0)
    entries = [["c", f"{k}", [1], "F32", 0, 0] for k in range(20_000)]
    manifest = {"levels": [[65536, "F32", 1, 16]], "modules": [["", *entries]]}
    write_archive(path, KIND, VERSION, {"F32": levels, "labels": torch.zeros(40_000, dtype=torch.uint8)}, manifest)
    with pytest.raises(FileFormatError, match="65536 levels of 1 weights"):
        load(path)


def test_archives_of_another_kind_are_refused(path):
    write_archive(path, "checkpoint", 1, {}, {"tree": None})
    with pytest.raises(FileFormatError, match="of kind 'checkpoint', expected one of kind 'packed'"):
        load(path)


# ---- inspection -----------------------------------------------------------------------------------------


def test_the_facts_of_a_file(path):
    model = discretise(nn.Sequential(nn.Linear(50, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)), LEVELS[2], "channel")
    model[0].weight.data = model[0].weight.abs()
    model[0].weight.data[:, :10] *= -1
    save(model, path)
    facts = json.loads(json.dumps(packed_facts(path)))
    first, second = facts["layers"]
    assert (first["name"], first["shape"], first["weights"]) == ("0.weight", [8, 50], 400)
    assert (first["levels"], first["scales"], first["bits"], first["stored_bits"]) == ([-1, 1], 8, 1, 1)
    assert first["histogram"] == [80, 320]
    assert first["entropy"] == pytest.approx(-0.2 * math.log2(0.2) - 0.8 * math.log2(0.8))
    assert first["bytes"] == 50 + 4 * 2 + 4 * 8
    assert first["compression"] == 1600 / 90
    assert second["weights"] == 32
    plain = 8 + 8 + 8 + 4
    assert (facts["parameters"], facts["quantized"]) == (432 + plain, 432)
    assert facts["bits_per_weight"] == 1
    assert facts["file_bytes"] == path.stat().st_size
    assert facts["fp32_bytes"] == 4 * (432 + plain + 16) + 8
    assert facts["compression"] == facts["fp32_bytes"] / facts["file_bytes"]
    assert facts["published_bytes"] == 432 / 8 + 2 * 2 * 2 + 4 * (plain + 8 + 4)
    assert facts["published_compression"] == 4 * (432 + plain) / facts["published_bytes"]
    assert [item["name"] for item in facts["rest"] if item["kind"] == "buffer"] == [
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]


def printed(facts, encoding="utf-8", width=80):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(packed_table(facts))
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_table_shows_every_layer(path, encoding):
    model = nn.Sequential(discretise(nn.Linear(50, 8), LEVELS[2]), discretise(nn.Linear(8, 90), LEVELS[16], "channel"))
    wide = nn.Linear(300, 90)
    wide.weight.data = per_channel(tuple(map(float, range(-127, 128))), 90, 300)
    model.append(wide)
    save(model, path)
    text = printed(packed_facts(path), encoding)
    assert "8x50" in text
    assert "16, -8 to 7" in text
    assert "255, -127 to 127" in text or "256, " in text
    assert f"{packed_facts(path)['file_bytes']:,} bytes" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 1)])
def test_networks_without_packed_layers_have_facts(path, model):
    save(model, path)
    facts = packed_facts(path)
    assert facts["layers"] == []
    assert facts["bits_per_weight"] is None
    assert "parameters" in printed(facts)
