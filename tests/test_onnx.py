"""ONNX files of quantized networks: run by onnxruntime, compared with torch, and small."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from mrfq.commands.export import export
from mrfq.commands.export_file import example_input
from mrfq.errors import InvalidParameterError, InvalidProblemError, MrfqError
from mrfq.layerwise.spec import LevelSpec, parse_levels
from mrfq.layerwise.tables import Table, start_table
from mrfq.nn import onnx as export_module
from mrfq.nn.grids import Grid, attach
from mrfq.nn.onnx import export_onnx
from mrfq.nn.onnx_blocks import block_size, packed_codes
from mrfq.nn.onnx_codes import find_codes
from mrfq.nn.onnx_graph import run_onnx
from mrfq.nn.onnx_labels import LabelGraph
from mrfq.nn.packed import save
from mrfq.nn.table_grids import RowGrid, VectorGrid

REASON = "the extra onnx is not installed"


@pytest.fixture
def onnx():
    pytest.importorskip("onnxscript", reason=REASON)
    pytest.importorskip("onnxruntime", reason=REASON)
    return pytest.importorskip("onnx", reason=REASON)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def put_on(parameter, grid):
    parameter.data = grid.decode(grid.nearest(parameter), tuple(parameter.shape), parameter.dtype)
    attach(parameter, grid)


def table_of(parameter, levels):
    return RowGrid(start_table(parse_levels(levels), parameter.detach().flatten(1)))


def quantize(parameter, levels):
    put_on(parameter, table_of(parameter, levels))


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def close(found, expected, tolerance):
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


# ---- codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "bits", "whole"),
    [
        ("binary-symmetric", 2, True),  # codes 0 and 2, zero 1
        ("ternary-symmetric", 2, True),
        ("2bit-symmetric", 2, False),  # zero 1.5
        ("3bit-symmetric", 4, True),  # odd codes, zero 7
        ("15levels-symmetric", 4, True),
        ("4bit-symmetric", 4, False),
        ("255levels-symmetric", 8, True),
        ("ternary-pow2", 2, True),
        ("2bit-pow2", 4, True),
        ("8bit-uniform", 8, False),
        ("7levels-pow2", 4, True),
        ("3bit-pow2", 8, True),
        ("2bit-uniform", 2, False),
        ("3bit-uniform-minmax", 4, False),
        ("4bit-uniform-g32", 4, False),
        ("binary", 2, False),
        ("binary-uniform-f32", 2, False),
    ],
)
def test_codes_are_the_weights_in_the_smallest_container(levels, bits, whole):
    weights = matrix(6, 96)
    grid = table_of(weights, levels)
    weights = grid.decode(grid.nearest(weights), (6, 96))
    found = find_codes(weights, grid)
    assert (found.bits, found.whole) == (bits, whole)
    assert int(found.codes.max()) < 2**bits
    assert close(found.decode(), weights, 3e-7)
    assert close(found.decode(float_zeros=True), weights, 3e-7)
    assert torch.equal(found.whole_zeros, found.whole_zeros.round().clamp(0, 2**bits - 1))
    if whole:
        assert torch.equal(found.decode(), weights)
        assert torch.equal(found.whole_zeros.double(), found.zeros)


@pytest.mark.parametrize(
    ("grid", "bits", "zero"),
    [
        (Grid((-1.0, 1.0), torch.tensor([0.3])), 2, 1),
        (Grid((-1.0, 0.0, 1.0), torch.rand(6) + 0.1), 2, 1),
        (Grid((-2.0, -1.0, 1.0, 2.0), torch.rand(6) + 0.1), 4, 2),
        (Grid(tuple(float(k) for k in range(-8, 8)), torch.rand(18) + 0.1), 4, 8),
        (Grid((0.5, 1.0)), 2, 0),
        (Grid((-3.0,)), 2, 1),
        (Grid((0.0,)), 2, 0),
        (Grid((0.25, 0.5, 1.25)), 4, 0),
    ],
)
def test_grids_of_training_have_whole_zeros(grid, bits, zero):
    weights = grid.decode(grid.nearest(matrix(6, 96)), (6, 96))
    found = find_codes(weights, grid)
    assert (found.bits, found.whole) == (bits, True)
    assert (found.zeros == zero).all()
    assert torch.equal(found.decode(), weights)


def test_offsets_that_are_multiples_of_scales_have_whole_zeros():
    stored = torch.tensor([[[0.5, -1.0]], [[0.25, 0.0]], [[2.0, -6.0]]]).half()
    grid = RowGrid(Table(parse_levels("2bit-uniform"), stored))
    weights = grid.decode(grid.nearest(matrix(3, 40)), (3, 40))
    found = find_codes(weights, grid)
    assert found.whole
    assert found.zeros.flatten().tolist() == [2, 0, 3]
    assert torch.equal(found.decode(), weights)


def test_a_set_of_one_level_is_a_constant():
    stored = torch.tensor([[[0.0, -0.7]], [[0.25, 0.1]]]).half()
    grid = RowGrid(Table(parse_levels("2bit-uniform"), stored))
    weights = grid.decode(grid.nearest(matrix(2, 40)), (2, 40))
    assert close(find_codes(weights, grid).decode(), weights, 1e-7)


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (table_of(matrix(2, 96), "3bit-codebook"), "codebooks of 8 levels"),
        (table_of(matrix(2, 96), "16levels-pow2"), "16 levels that no codes of 8 bits stand for"),
        (VectorGrid(matrix(4, 8)), "codewords"),
        (Grid((-1.0, 0.1, 1.0)), "3 levels that no codes"),
        (Grid((-1.0, 1.0), torch.ones(3)), "3 scales do not divide 2 rows"),
        (RowGrid(Table(LevelSpec(2, "uniform", precision="F32"), torch.tensor([[[0.99999, -1.0]]] * 2))), "so large"),
    ],
)
def test_what_has_no_codes_says_why(grid, reason):
    far = 9.0 if reason == "so large" else 0.0  # all weights on the level -1e-5
    weights = grid.decode(grid.nearest(matrix(2, 96) + far), (2, 96))
    with pytest.raises(InvalidProblemError, match=reason):
        find_codes(weights, grid)


def test_weights_of_another_precision_have_no_codes():
    with pytest.raises(InvalidProblemError, match=r"torch\.float16, not float32"):
        find_codes(torch.ones(2, 4).half(), Grid((-1.0, 1.0)))


def test_codes_are_packed_from_the_lowest_bits_on():
    weights = torch.tensor([[-0.5] * 3 + [0.5] * 37] * 2)
    found = find_codes(weights, Grid((-1.0, 0.0, 1.0), torch.tensor([0.5])))
    codes, scales, zeros = packed_codes(found, 16, float_zeros=False)
    assert codes.shape == (2, 3, 4)
    assert codes[0, 0].tolist() == [0b10000000, 0b10101010, 0b10101010, 0b10101010]
    assert codes[0, 2].tolist() == [0b10101010, 0b10101010, 0, 0]
    assert scales.tolist() == [[0.5] * 3] * 2
    assert zeros.tolist() == [[0b010101]] * 2
    assert packed_codes(found, 16, float_zeros=True)[2].tolist() == [[1.0] * 3] * 2


def test_groups_share_a_block_or_are_refused():
    assert [block_size(k, 1) for k in (3, 16, 17, 100, 129, 5000)] == [16, 16, 32, 128, 128, 128]
    assert [block_size(512, groups) for groups in (2, 4, 8, 16, 32)] == [128, 128, 64, 32, 16]
    assert block_size(96, 2) == 16
    with pytest.raises(InvalidProblemError, match="groups of 24 columns"):
        block_size(96, 4)


# ---- MatMulNBits ----------------------------------------------------------------------------------------

LAYERS = {
    "2bit-uniform": 2,
    "2bit-uniform-g64": 2,
    "2bit-uniform-minmax-g48": 2,
    "4bit-uniform": 4,
    "4bit-uniform-g32": 4,
    "4bit-symmetric": 4,
    "15levels-symmetric": 4,
    "binary": 2,
    "binary-symmetric": 2,
    "ternary-symmetric-g16": 2,
    "2bit-pow2": 4,
    "3bit-uniform": 4,
    "8bit-uniform-g96": 8,
    "255levels-symmetric": 8,
}


def test_linear_layers_run_in_onnxruntime_as_in_torch(onnx, path):
    model = nn.ModuleList(nn.Linear(192, 24, bias=k % 2 == 0) for k in range(len(LAYERS)))
    for layer, levels in zip(model, LAYERS, strict=True):
        quantize(layer.weight, levels)

    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, x):
            return torch.stack([layer(x) for layer in self.layers])

    network = Parallel()
    layers = export_onnx(network, path, matrix(1, 192), others="error")
    assert [layer.container for layer in layers] == ["MatMulNBits"] * len(LAYERS)
    assert [layer.bits for layer in layers] == list(LAYERS.values())
    inputs = matrix(5, 192, seed=1)
    expected = network(inputs).detach()
    (found,) = run_onnx(path, inputs)
    for a, b in zip(found, expected, strict=True):
        assert close(a, b, 3e-6)
    # inputs of 8 bits: half a percent
    export_onnx(network, path, matrix(1, 192), accuracy_level=4)
    (found,) = run_onnx(path, inputs)
    for a, b in zip(found, expected, strict=True):
        assert close(a, b, 0.03)
    same = [levels for levels, a, b in zip(LAYERS, found, expected, strict=True) if close(a, b, 1e-4)]
    assert same == ["2bit-uniform-minmax-g48", "ternary-symmetric-g16"]  # blocks of 16 in 2 bits know no other way


@pytest.mark.parametrize("level", [0, 4])
def test_a_network_of_linear_layers_is_as_small_as_its_codes(onnx, path, level):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    for layer, levels in zip(model[::2], ["2bit-uniform", "ternary-symmetric", "4bit-uniform"], strict=True):
        quantize(layer.weight, levels)
    before = copy.deepcopy(model.state_dict())
    layers = export_onnx(model, path, torch.zeros(2, 784), accuracy_level=level)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    rows = 300, 100, 10
    blocks = 7, 3, 1  # of 128 columns
    codes = [r * b * 32 for r, b in zip(rows, blocks, strict=True)]
    codes[2] *= 2
    scales = [r * b * 4 for r, b in zip(rows, blocks, strict=True)]
    shifts = [4 * 300, 0, 4 * 10]  # of uniform sets
    zeros = [300 * 2 + shifts[0], 100, 10 + shifts[2]] if level else [scales[0], scales[1], 10 + shifts[2]]
    assert [layer.bytes for layer in layers] == [sum(parts) for parts in zip(codes, scales, zeros, strict=True)]
    size = path.stat().st_size
    assert sum(layer.bytes for layer in layers) + 4 * 410 < size < sum(layer.bytes for layer in layers) + 4 * 410 + 4000
    inputs = matrix(9, 784)
    assert close(run_onnx(path, inputs)[0], model(inputs).detach(), 0.03 if level else 1e-5)


def test_the_file_does_not_tell_where_it_was_made(onnx, path):
    export_onnx(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval(), path, torch.zeros(2, 3))
    assert b".py" not in path.read_bytes()
    assert onnx.load(path).graph.node[0].doc_string == ""


# ---- labels ---------------------------------------------------------------------------------------------

GRIDS = {
    "3bit-codebook": 4,
    "ternary-codebook-g12": 2,
    "2bit-uniform-g18": 2,
    "8bit-uniform-f32": 8,
    "binary": 1,
    "4bit-pow2": 4,
    "vector-9x256": 8,
    "vector-9x12": 4,
    "levels": 2,
    "levels with scales": 2,
}


def grid_of_kind(kind, weights):
    if kind.startswith("vector"):
        spec = parse_levels(kind)
        return VectorGrid(matrix(spec.count, spec.dim).half())
    if kind.startswith("levels"):
        return Grid((-1.0, 0.1, 0.7), torch.rand(len(weights)) + 0.5 if "scales" in kind else None)
    return table_of(weights, kind)


@pytest.mark.parametrize("kind", GRIDS)
def test_labels_are_decoded_to_the_very_weights(onnx, path, kind):
    weights = matrix(14, 36).reshape(14, 4, 3, 3)
    grid = grid_of_kind(kind, weights)
    weights = grid.decode(grid.nearest(weights), (14, 4, 3, 3))
    graph = LabelGraph("w", weights, grid)
    assert graph.bits == GRIDS[kind]
    output = onnx.helper.make_tensor_value_info("w", 1, [14, 4, 3, 3])
    made = onnx.helper.make_graph(graph.nodes, "g", [], [output], graph.tensors)
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(made, opset_imports=[opset], ir_version=8), path)
    (found,) = run_onnx(path, {})
    assert torch.equal(found, weights)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 24, 3, groups=2)
        self.words = nn.Embedding(7, 24)
        self.hidden = nn.Linear(24, 32)
        self.last = nn.Linear(32, 5)

    def forward(self, x, words):
        x = self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3))
        return {"scores": self.last(self.hidden(x + self.words(words).mean(1)).relu()), "features": x}


def images():
    torch.manual_seed(0)
    model = Images()
    model(torch.randn(8, 3, 8, 8), torch.zeros(8, 2, dtype=torch.int64))
    quantize(model.first.weight, "3bit-codebook")
    put_on(model.second.weight, VectorGrid(matrix(16, 9)))
    quantize(model.words.weight, "2bit-uniform")
    quantize(model.hidden.weight, "ternary-symmetric")
    quantize(model.last.weight, "3bit-codebook")
    return model


def test_convolutions_codebooks_and_codewords_are_carried_as_labels(onnx, path):
    model = images()
    inputs = torch.randn(4, 3, 9, 9), torch.randint(0, 7, (4, 3))
    layers = {layer.name: layer for layer in export_onnx(model, path, inputs)}
    assert model.training
    assert [layer.container for layer in layers.values()] == ["labels", "labels", "labels", "MatMulNBits", "labels"]
    assert layers["first.weight"].bits == 4
    assert "not the weight of an nn.Linear" in layers["first.weight"].note
    assert "codebooks of 8 levels" in layers["last.weight"].note
    inputs = torch.randn(6, 3, 9, 9), torch.randint(0, 7, (6, 3))
    expected = model.eval()(*inputs)
    for a, b in zip(run_onnx(path, inputs), expected.values(), strict=True):
        assert close(a, b.detach(), 1e-5)
    small = path.stat().st_size
    layers = export_onnx(model, path, inputs, others="float")
    assert [layer.container for layer in layers] == ["float", "float", "float", "MatMulNBits", "float"]
    assert path.stat().st_size > small + 800
    for a, b in zip(run_onnx(path, inputs), expected.values(), strict=True):
        assert close(a, b.detach(), 1e-5)
    before = path.read_bytes()
    with pytest.raises(
        InvalidProblemError, match=r"does not take first\.weight \(not the weight.*codebooks of 8 levels"
    ):
        export_onnx(model, path, inputs, others="error")
    assert path.read_bytes() == before


def test_transformer_encoders_with_tied_weights_and_arguments_by_name(onnx, path):
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(50, 32)
            layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.out = nn.Linear(32, 50)
            self.out.weight = self.words.weight

        def forward(self, ids, shift):
            return self.out(self.layers(self.words(ids) + shift))

    model = Encoder().eval()
    for name, parameter in model.named_parameters():
        if "linear" in name and parameter.ndim == 2:
            quantize(parameter, "4bit-uniform-g16")
    quantize(model.words.weight, "2bit-uniform")
    inputs = {"shift": torch.randn(3, 1, 32), "ids": torch.randint(0, 50, (3, 9))}
    layers = export_onnx(model, path, inputs)
    assert [layer.container for layer in layers] == ["MatMulNBits"] * 5
    assert layers[0].note == "another layer has it as labels"
    assert close(run_onnx(path, inputs)[0], model(**inputs).detach(), 1e-5)


def test_a_layer_alone_and_what_is_not_used(onnx, path):
    layer = nn.Linear(20, 4)
    quantize(layer.weight, "2bit-uniform")
    (found,) = export_onnx(layer, path, torch.zeros(1, 20), dynamic_batch=False)
    assert found.container == "MatMulNBits"
    inputs = matrix(1, 20)
    assert close(run_onnx(path, inputs)[0], layer(inputs).detach(), 1e-5)
    with pytest.raises(InvalidProblemError, match="onnxruntime refuses it"):
        run_onnx(path, matrix(2, 20))
    layer.spare = nn.Parameter(torch.ones(3, 3))
    attach(layer.spare, Grid((1.0,)))
    assert [item.container for item in export_onnx(layer, path, torch.zeros(1, 20))] == ["MatMulNBits", "unused"]


# ---- what is refused ------------------------------------------------------------------------------------


class Stubborn(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_what_cannot_be_exported_says_so(onnx, path):
    layer = nn.Linear(20, 4)
    with pytest.raises(InvalidParameterError, match="accuracy level is 0, 1, 2, 3 or 4, not 5"):
        export_onnx(layer, path, torch.zeros(1, 20), accuracy_level=5)
    with pytest.raises(InvalidParameterError, match="others is one of labels, float, error, not 'some'"):
        export_onnx(layer, path, torch.zeros(1, 20), others="some")
    with pytest.raises(InvalidProblemError, match="torch cannot export the network"):
        export_onnx(Stubborn(), path, torch.zeros(2, 20))
    with pytest.raises(InvalidProblemError, match="torch cannot export the network"):
        export_onnx(layer, path, torch.zeros(2, 21))
    quantize(layer.weight, "2bit-uniform")
    with torch.no_grad():
        layer.weight += 0.01
    with pytest.raises(InvalidProblemError, match="weights of weight are not on the grid"):
        export_onnx(layer, path, torch.zeros(1, 20))
    assert not path.exists()


def test_without_the_packages_the_message_says_what_to_install(path, monkeypatch):
    monkeypatch.setattr(export_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MrfqError, match=r"onnx and onnxscript must be installed: pip install 'mrfq\[onnx\]'"):
        export_onnx(nn.Linear(2, 2), path, torch.zeros(1, 2))


# ---- the command ----------------------------------------------------------------------------------------


def run_command(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(export)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_compares_and_tells(onnx, path, tmp_path):
    from mrfq.nn.models import build

    model = build("lenet300", channels=1, size=10, classes=7)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            quantize(parameter, "2bit-uniform")
    packed = tmp_path / "model.safetensors"
    save(model, packed)
    arguments = packed, "--model", "lenet300", "--input", "1x1x10x10", "--classes", 7, "--out", path
    result = run_command(*arguments)
    assert result.exit_code == 0, result.output
    assert "MatMulNBits" in result.output
    assert float(re.search(r"differ by (\S+) of", result.output)[1]) < 1e-5
    facts = json.loads(run_command(*arguments, "--json", "--accuracy-level", 4, "--fixed-batch").output)
    assert facts["bytes"] == path.stat().st_size
    assert [layer["bits"] for layer in facts["layers"]] == [2, 2, 2]
    assert 1e-4 < facts["difference"] < 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1x", "must be a shape"),
        ("3x3:complex64", "must be a shape"),
        ("0x3", "must have 1 to"),
        ("100000x100000", "must have 1 to"),
    ],
)
def test_inputs_that_cannot_be_are_refused(text, message):
    with pytest.raises(InvalidParameterError, match=message):
        example_input(text)


def test_inputs_are_seeded_and_of_their_dtype():
    assert torch.equal(example_input("2x3"), example_input("2x3:float32"))
    assert example_input("4:int64").dtype == torch.int64
    assert set(np.unique(example_input("50:bool").numpy())) == {False, True}


def test_a_named_network_needs_images(tmp_path, path):
    packed = tmp_path / "model.safetensors"
    save(nn.Linear(2, 2), packed)
    result = run_command(packed, "--model", "lenet300", "--input", "1x100", "--out", path)
    assert isinstance(result.exception, InvalidParameterError)
    assert "lenet300 takes images" in str(result.exception)
