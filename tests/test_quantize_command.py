"""`mrfq quantize` on the command line: settings, inputs, weights, the folder, interruptions."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch
from rich.console import Console

import mrfq.quantize.job
from mrfq.cli import main
from mrfq.errors import FileFormatError, InvalidParameterError, MrfqError, UnknownNameError
from mrfq.nn.grids import grid_of
from mrfq.nn.images import ImageBatches, load_images
from mrfq.nn.models import build
from mrfq.nn.packed import load, save
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.quantize.calibration import Calibration, batch_length, calibration
from mrfq.quantize.command import Request, chosen_settings, levels_by_pattern
from mrfq.quantize.config import make_settings, read_config
from mrfq.quantize.console import ConsoleListener
from mrfq.quantize.folder import Folder
from mrfq.quantize.job import quantize_network
from mrfq.quantize.reporting import Listener
from mrfq.quantize.settings import Settings
from mrfq.quantize.weights import float_network
from mrfq.runs.evaluation import grade, in_order
from mrfq.runs.settings import differing
from mrfq.train import OutputError, StoppedError, train
from mrfq.train import Settings as TrainSettings

FILES = {"config.toml", "summary.json", "model.safetensors", "quantize.html"}
SHAPE = {"channels": 1, "size": 8, "classes": 10}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a float network that knows the digits, packed."""
    out = tmp_path_factory.mktemp("float") / "run"
    train(TrainSettings("lenet300", "digits", method="float", epochs=6, threads=1, device="cpu", affine=True), out)
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def quick(weights):
    """Return settings of a quantization of a second."""

    def make(**changes):
        base = {"weights": str(weights), "levels": "ternary", "quality": "fast", "samples": 256, "affine": True}
        return Settings(
            **{"model": "lenet300", "calibration": "digits", "threads": 1, "device": "cpu", **base, **changes}
        )

    return make


@pytest.fixture(scope="module")
def options(weights):
    """The same on the command line."""
    found = {"model": "lenet300", "calibration": "digits", "weights": weights, "levels": "ternary", "quality": "fast",
             "samples": 256, "device": "cpu"}  # fmt: skip
    words = [word for name, value in found.items() for word in (f"--{name}", str(value))]
    return [*words, "--set", "affine=true", "--set", "threads=1"]


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantized") / "run"
    return out, quantize_network(quick(baselines=True), out)


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def failed(capsys, code: int, *texts: str) -> None:
    """Check that a command failed with one message."""
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("mrfq: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    for text in texts:
        assert text in said


class StopAfter(Listener):
    """Stops once so many layers are done."""

    def __init__(self, layers: int) -> None:
        self.left, self.seen = layers, []

    def progress(self, event):
        if event.layer is not None:
            self.seen.append(event.layer.name)

    def stopping(self):
        return len(self.seen) >= self.left


# ---- a quantization -------------------------------------------------------------------------------------


def test_the_folder_has_what_it_should(finished):
    out, summary = finished
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "summary.json").read_text()) == summary
    assert make_settings(read_config(out / "config.toml")) == Settings(**summary["settings"])
    page = (out / "quantize.html").read_text()
    for text in ("lenet300, ternary-codebook weights", f"{summary['test_accuracy']:.2f} %", "fc2", "against gptq"):
        assert text in page


def test_the_summary_is_true(finished, weights):
    out, summary = finished
    data = load_images("digits")
    model = load(out / "model.safetensors", build("lenet300", **SHAPE, affine=True))
    original = load(weights, build("lenet300", **SHAPE, affine=True))
    assert summary["test_accuracy"] == grade(model, in_order(data, data.test), 1.0).accuracy
    assert summary["float_test_accuracy"] == grade(original, in_order(data, data.test), 1.0).accuracy > 90
    assert summary["packed_bytes"] == (out / "model.safetensors").stat().st_size
    assert summary["float_bytes"] == sum(
        4 * v.numel() if v.is_floating_point() else v.nbytes for v in original.state_dict().values()
    )
    assert summary["compression"] == summary["float_bytes"] / summary["packed_bytes"] > 5
    assert summary["quantized_parameters"] == 64 * 300 + 300 * 100 + 100 * 10
    assert summary["parameters"] == sum(p.numel() for p in original.parameters())
    assert summary["levels"] == "ternary-codebook"


def test_every_layer_is_in_the_summary(finished):
    out, summary = finished
    model = load(out / "model.safetensors", build("lenet300", **SHAPE, affine=True))
    assert [layer["name"] for layer in summary["layers"]] == ["fc1", "fc2", "fc3"]
    bits = 0.0
    for layer in summary["layers"]:
        weight = dict(model.named_modules())[layer["name"]].weight
        assert layer["shape"] == list(weight.shape)
        grid = grid_of(weight)
        assert isinstance(grid, RowGrid)
        assert grid.exact(weight)
        assert all(len(row.unique()) <= 3 for row in weight)
        assert layer["bits_per_weight"] == pytest.approx(grid.table.spec.bits(*weight.shape) / weight.numel())
        assert 0 < layer["error"] < layer["baselines"]["nearest"]["error"]
        assert layer["error_held_out"] > 0
        assert set(layer["baselines"]) == {"nearest", "gptq"}
        assert layer["seconds"] > 0
        bits += layer["bits_per_weight"] * weight.numel()
    assert summary["bits_per_weight"] == pytest.approx(bits / summary["quantized_parameters"])
    errors = [layer["error"] / layer["baselines"]["nearest"]["error"] for layer in summary["layers"]]
    assert summary["ratios"]["nearest"]["error"] == pytest.approx(torch.tensor(errors).log().mean().exp().item())


def test_the_command_prints_every_layer_and_the_result(options, tmp_path, capsys):
    assert run("quantize", *options, "--out", tmp_path / "run") == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0] == "lenet300, ternary-codebook, fast: 256 inputs of digits on cpu"
    of_layers = [line for line in lines if "  error " in line]
    assert [line.split()[:3] for line in of_layers] == [
        ["1/3", "fc1", "300x64"], ["2/3", "fc2", "100x300"], ["3/3", "fc3", "10x100"],
    ]  # fmt: skip
    assert ["ETA" in line for line in of_layers] == [True, True, False]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert f"{summary['test_accuracy']:.2f} %" in said.out
    assert lines[-1] == f"report: {tmp_path / 'run' / 'quantize.html'}"


def test_the_configuration_repeats_it(finished, quick, tmp_path):
    assert run("quantize", "--config", finished[0] / "config.toml", "--out", tmp_path / "again") == 0
    for name in ("model.safetensors", "config.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (finished[0] / name).read_bytes()
    quantize_network(quick(seed=1), tmp_path / "other")
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (finished[0] / "model.safetensors").read_bytes()


def test_what_is_finished_is_left_alone(finished, capsys):
    out, summary = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run("quantize", "--resume", "--out", out) == 0
    assert capsys.readouterr().out.startswith(f"{out}: this network is finished")
    assert quantize_network(None, out, resume=True) == summary
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_test_images_can_be_left_alone(options, tmp_path, monkeypatch):
    monkeypatch.setattr(mrfq.quantize.job, "grade", None)
    assert run("quantize", *options, "--no-test", "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] is summary["float_test_accuracy"] is None
    assert summary["settings"]["evaluate"] is False


def test_layers_may_have_label_sets_of_their_own(quick, tmp_path):
    chosen = quick(levels="2bit", levels_for={"fc1": "float", "fc[2x]": "vector-2x16", "*": "binary"})
    summary = quantize_network(chosen, tmp_path / "run")
    assert [layer["name"] for layer in summary["layers"]] == ["fc2", "fc3"]
    model = load(tmp_path / "run" / "model.safetensors", build("lenet300", **SHAPE, affine=True))
    assert isinstance(grid_of(model.fc2.weight), VectorGrid)
    assert grid_of(model.fc3.weight).table.spec.count == 2
    assert len(model.fc1.weight.unique()) > 1000
    assert read_config(tmp_path / "run" / "config.toml")["levels_for"] == {
        "fc1": "float", "fc[2x]": "vector-2x16", "*": "binary",
    }  # fmt: skip


def test_bounds_are_in_the_summary_on_the_page_and_on_the_console(options, finished, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("quantize", *options, "--baselines", "--bounds", "--levels-for", "fc3=vector-2x16", "--out", out) == 0
    said = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    found = {layer["name"]: layer["optimality"] for layer in summary["layers"]}
    assert found.pop("fc3") is None
    assert 0.1 < found["fc1"] < 1
    assert 0 <= found["fc2"] < 1  # fewer inputs than columns: nothing can be shown
    page = (out / "quantize.html").read_text()
    lines = [line for line in said.splitlines() if "  error " in line]
    for line, optimality in zip(lines, found.values(), strict=False):
        assert f"  optimality {optimality:.3g}" in line
        assert f'data-sort="{optimality}"' in page
    assert "optimality" not in lines[2]
    assert all(layer["optimality"] is None for layer in finished[1]["layers"])
    assert "ptimality" not in (finished[0] / "quantize.html").read_text()


def test_aligned_files_take_more_room_and_hold_the_same_network(options, finished, tmp_path):
    out = tmp_path / "run"
    assert run("quantize", *options, "--baselines", "--align", "--out", out) == 0
    paths = out / "model.safetensors", finished[0] / "model.safetensors"
    aligned, dense = (load(path) for path in paths)
    assert aligned.keys() == dense.keys()
    assert all(torch.equal(value, dense[name]) for name, value in aligned.items())
    assert paths[0].stat().st_size > paths[1].stat().st_size  # three labels take two bits instead of 1.6
    summary = json.loads((out / "summary.json").read_text())
    assert summary["packed_bytes"] == paths[0].stat().st_size
    assert read_config(out / "config.toml")["align"] is True
    network = load(paths[0], build("lenet300", **SHAPE, affine=True))
    save(network, tmp_path / "again.safetensors", align=True)
    assert (tmp_path / "again.safetensors").read_bytes() == paths[0].read_bytes()


def test_distillation_comes_last(finished, quick, tmp_path, capsys):
    out = tmp_path / "run"
    with ConsoleListener(Console()) as listener:
        summary = quantize_network(quick(baselines=True, distill=40), out, listener=listener)
    said = capsys.readouterr().out
    assert "distillation: step 40 of 40, error " in said
    found = summary["distillation"]
    assert found["after"] < found["before"]
    assert 0 < found["steps"] <= 40
    same = ("name", "shape", "error", "error_held_out", "bits_per_weight")
    for one, other in zip(summary["layers"], finished[1]["layers"], strict=True):
        assert [one[key] for key in same] == [other[key] for key in same]
    before, after = (load(path / "model.safetensors") for path in (finished[0], out))
    assert not torch.equal(before["fc2.weight"], after["fc2.weight"])
    for old, new in zip(before["fc2.weight"], after["fc2.weight"], strict=True):
        assert len(new.unique()) <= 3
        assert torch.equal(old.argsort(stable=True), new.argsort(stable=True))  # the labels are the same


def test_distillation_moves_labels_and_images_where_that_is_asked_for(quick, tmp_path):
    moving = {"distill_labels": True}
    weights = {}
    for name, changes in {"levels": {}, "labels": moving, "still": {"distill_augment": False}}.items():
        summary = quantize_network(
            quick(levels="binary-symmetric", samples=1024, distill=200, **changes), tmp_path / name
        )
        assert summary["distillation"]["after"] < summary["distillation"]["before"]
        weights[name] = load(tmp_path / name / "model.safetensors")
    layers = [f"fc{k}.weight" for k in (1, 2, 3)]
    signs = {name: torch.cat([found[layer].flatten() for layer in layers]).sign() for name, found in weights.items()}
    assert torch.equal(signs["levels"], signs["still"])
    assert not torch.equal(signs["levels"], signs["labels"])
    assert not torch.equal(weights["levels"]["fc1.weight"], weights["still"]["fc1.weight"])


def test_changed_images_are_those_that_are_not_held_out(quick):
    settings = quick(samples=192, batch_size=64, held_out=0.34).resolved()
    inputs = calibration(settings)
    source = inputs.augmented(settings.held_out, settings.batch_size, settings.seed)
    sums = torch.cat([batch.sum((1, 2, 3)) for batch in inputs.batches])
    assert inputs.drawn is not None
    seen = [source(step) for step in range(4)]
    assert [len(x) for x in seen] == [64] * 4
    assert not torch.equal(seen[0], seen[2])  # the next pass: another order, other changes
    again = inputs.augmented(settings.held_out, settings.batch_size, settings.seed)
    assert torch.equal(again(3), seen[3])
    drawn = ImageBatches(inputs.data, inputs.drawn.head(128), 128, seed=0).fixed(0)[0]
    torch.testing.assert_close(drawn.sum((1, 2, 3)), sums[:128])


def test_stopping_within_distillation_keeps_the_layers(quick, tmp_path):
    class Impatient(Listener):
        asked = False

        def note(self, text):
            self.asked = text.startswith("distillation")

        def stopping(self):
            return self.asked

    with pytest.raises(StoppedError, match="the layers that are done are kept"):
        quantize_network(quick(distill=40), tmp_path / "run", listener=Impatient())
    quantize_network(None, tmp_path / "run", resume=True)
    quantize_network(quick(distill=40), tmp_path / "whole")
    one, other = (tmp_path / name / "model.safetensors" for name in ("run", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_the_state_of_torch_is_left_alone(quick, tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    quantize_network(quick(threads=2), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


# ---- settings -------------------------------------------------------------------------------------------


def test_options_come_before_the_file(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        'model = "torch.nn:Linear"\ncalibration = "digits"\nsamples = 7\ndamping = 0.5\nlevels_for = { fc = "4bit" }\n'
    )
    request = Request({"samples": 2, "seed": 4}, ("damping=0.25", "levels=2bit"), config, tmp_path / "run")
    assert chosen_settings(request) == Settings(
        "torch.nn:Linear", "digits", samples=2, seed=4, damping=0.25, levels="2bit", levels_for={"fc": "4bit"}
    )


def test_settings_reach_the_engine(quick):
    found = quick(
        levels="2bit", levels_for={"a": "float"}, quality="best", solver="icm", asymmetric=False, centred=False,
        shortcut=False, rescale=False, damping=0.5, held_out=0.25, baselines=True, bounds=True, reestimate=True,
        memory=0.5, seed=7,
    ).options()  # fmt: skip
    assert found.spec_of("a") is None
    assert str(found.spec_of("b")) == "2bit-codebook"
    assert (found.quality, found.solver, found.seed) == ("best", "icm", 7)
    assert not any((found.asymmetric, found.centred, found.shortcut, found.rescale))
    assert (found.damping, found.held_out, found.memory) == (0.5, 0.25, 0.5)
    assert found.baselines
    assert found.bounds
    assert found.reestimate
    assert not quick().options().bounds


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("--no-asymmetric", "asymmetric", False), ("--no-centred", "centred", False),
        ("--baselines", "baselines", True), ("--no-shortcut", "shortcut", False),
        ("--no-rescale", "rescale", False), ("--no-test", "evaluate", False),
        ("--bounds", "bounds", True), ("--no-bounds", "bounds", False),
        ("--align", "align", True), ("--no-align", "align", False),
    ],
)  # fmt: skip
def test_switches(flag, name, value, monkeypatch):
    seen = []
    monkeypatch.setattr("mrfq.quantize.command.quantize_by_request", lambda request: seen.append(request) or 0)
    assert run("quantize", flag) == 0
    assert seen[0].options == {name: value}


def test_what_is_left_to_a_default_does_not_differ(quick):
    saved = quick().resolved()
    assert differing(Settings("lenet300", "digits", weights=saved.weights, samples=256, levels="ternary",
                              quality="fast"), saved) == []  # fmt: skip
    assert differing(quick(data="elsewhere", memory=0.1), saved) == []
    assert differing(quick(levels="binary", seed=1), saved) == ["levels", "seed"]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["a=2bit"], {"a": "2bit"}),
        (["x=y=2bit"], {"x=y": "2bit"}),
        (["b=3bit", "a=float"], {"b": "3bit", "a": "float"}),
    ],
)
def test_patterns_on_the_command_line(texts, found):
    assert list(levels_by_pattern(texts).items()) == list(found.items())


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--calibration", "digits"], ["quantization needs model"]),
        ([], ["quantization needs model and calibration"]),
        (["--resume"], ["nothing to resume, and no settings"]),
        (["--model", "lenet300", "--calibration", "digits"], ["weights is missing", "lenet300"]),
        (["--model", "lenet30", "--calibration", "digits"], ["unknown model 'lenet30'"]),
        (["--model", "m:f", "--calibration", "digit"], ["did you mean 'digits'"]),
        (["--model", "m:f", "--calibration", "cifar10"], ["data is missing", "cifar10"]),
        (["--model", "m:f", "--calibration", "digits", "--levels", "2bits"], ["2bits"]),
        (["--model", "m:f", "--calibration", "digits", "--levels-for", "2bit"], ["--levels-for PATTERN=LEVELS"]),
        (
            ["--model", "m:f", "--calibration", "digits", "--levels-for", "a=2bit", "--levels-for", "a=3bit"],
            ["already"],
        ),
        (["--model", "m:f", "--calibration", "digits", "--levels-for", "a=2bat"], ["2bat"]),
        (["--model", "m:f", "--calibration", "digits", "--set", "sample=1"], ["did you mean 'samples'"]),
        (["--model", "m:f", "--calibration", "digits", "--set", "samples=0"], ["samples must be at least 1"]),
        (["--model", "m:f", "--calibration", "digits", "--set", "damping=much"], ["damping must be a number"]),
        (["--model", "m:f", "--calibration", "digits", "--set", "held_out=1"], ["held_out"]),
        (["--model", "m:f", "--calibration", "digits", "--set", "seed=3", "--seed", "3"], ["same setting"]),
        (["--model", "m:f", "--calibration", "digits", "--weights", "a.txt"], ["weights a.txt: must end in .th"]),
        (["--model", "m:f", "--calibration", "digits", "--config", "none.toml"], ["none.toml: No such file"]),
        (["--model", "nothing.here:f", "--calibration", "digits"], ["no module 'nothing'"]),
        (["--model", "torch.nn:Flatten", "--calibration", "nothing.here:f"], ["calibration", "no module 'nothing'"]),
        (["--model", "torch.nn:Flatten", "--calibration", "digits"], ["outputs of shape (2, 10)"]),
    ],
)
def test_mistakes(arguments, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    failed(capsys, run("quantize", *arguments), *texts)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_quality_leaves_no_folder(quick, tmp_path):
    with pytest.raises(UnknownNameError, match="balancd"):
        quantize_network(quick(quality="balancd"), tmp_path / "run")
    with pytest.raises(MrfqError, match="no_such_layer"):
        quantize_network(quick(levels_for={"no_such_layer": "2bit"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_samples_than_images(quick, tmp_path):
    with pytest.raises(InvalidParameterError, match="samples 2000 is more than the 1,078 training images"):
        quantize_network(quick(samples=2000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_help_names_everything(capsys):
    assert run("quantize", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    names = (
        "model weights calibration data levels levels-for quality solver baselines samples seed device out config set"
    )
    for name in (*names.split(), "resume", "bounds", "align"):
        assert f"--{name}" in said


# ---- inputs ---------------------------------------------------------------------------------------------


def test_images_are_drawn_from_the_training_set_with_the_seed(quick):
    one, same, other = (calibration(quick(seed=seed).resolved()) for seed in (0, 0, 1))
    assert [batch.shape for batch in one.batches] == [(64, 1, 8, 8)] * 4
    assert one.count == 256
    assert all(torch.equal(a, b) for a, b in zip(one.batches, same.batches, strict=True))
    assert not torch.equal(one.batches[0], other.batches[0])
    data = load_images("digits")
    known = {image.numpy().tobytes() for image in normalised(data, data.train.images)}
    drawn = [image.numpy().tobytes() for image in torch.cat(one.batches)]
    assert set(drawn) <= known


def normalised(data, images):
    return images.float() * (1 / (data.maximum * data.std[0])) + (-data.mean[0] / data.std[0])


def test_pretrained_files_expect_the_statistics_of_imagenet(tmp_path):
    for name, kind in (("a.th", "imagenet"), ("a.pt", "data"), ("a.safetensors", "data")):
        settings = Settings("resnet20", "cifar10", weights=name, data=str(tmp_path), device="cpu").resolved()
        assert settings.normalise == kind
        assert settings.weights == os.path.abspath(name)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return a function that writes a module of the user's."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / f"own_{len(list(tmp_path.glob('own_*.py')))}.py").write_text(text)
        return f"own_{len(list(tmp_path.glob('own_*.py'))) - 1}"

    yield write
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


OWN = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.left, self.right = nn.Linear(width, 4), nn.Linear(width, 4, bias=False)
    def forward(self, x, y=None, scale=1.0):
        return self.left(x) + scale * self.right(x if y is None else y)

def network():
    torch.manual_seed(0)
    return Two()

def tensors(samples, seed):
    return torch.randn(samples, 6, generator=torch.Generator().manual_seed(seed)).split(16)

def tuples(samples):
    return ((x, x + 1) for x in tensors(samples, 1))

def named(samples, batch_size, **rest):
    return [{"x": x, "y": 2 * x, "scale": 0.5} for x in tensors(samples, 2)]

def endless():
    while True:
        yield torch.randn(10, 6)

def empty():
    return []

def words():
    return ["a", "b"]

def one():
    return torch.zeros(3, 6)

def nothing_in_it():
    return [torch.zeros(0, 6)]

def wrong():
    raise KeyError("x")

def needs(length):
    return []
"""


@pytest.mark.parametrize("function", ["tensors", "tuples", "named", "endless"])
def test_inputs_of_ones_own(function, mine, tmp_path):
    module = mine(OWN)
    settings = Settings(
        f"{module}:network", f"{module}:{function}", samples=96, levels="4bit", threads=1, quality="fast"
    )
    summary = quantize_network(settings, tmp_path / "run")
    assert {layer["name"] for layer in summary["layers"]} == {"left", "right"}
    assert summary["test_accuracy"] is None
    assert "test accuracy" not in (tmp_path / "run" / "quantize.html").read_text()
    state = load(tmp_path / "run" / "model.safetensors")
    assert len(state["left.weight"].unique()) <= 4 * 16


def test_only_as_many_inputs_as_samples_are_taken(mine):
    module = mine(OWN)
    settings = Settings(f"{module}:network", f"{module}:endless", samples=25, device="cpu").resolved()
    found = calibration(settings)
    assert (found.count, len(found.batches), found.data) == (30, 3, None)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("empty", "returned no batches"),
        ("words", "batch 0: must be a tensor, a tuple of arguments or a dictionary of named ones, not a str"),
        ("one", "must return batches, a list for example, not a Tensor"),
        ("nothing_in_it", "batch 0: has no inputs in it"),
        ("wrong", "wrong failed: KeyError: 'x'"),
        ("needs", "its parameter 'length' needs a default value; it is only given, by name, samples"),
        ("absent", "has no 'absent'; it has"),
        ("nn.Linear.weight", "has no"),
    ],
)
def test_mistakes_in_inputs_of_ones_own(function, said, mine):
    module = mine(OWN)
    with pytest.raises(InvalidParameterError, match="calibration 'own_") as caught:
        calibration(Settings(f"{module}:network", f"{module}:{function}").resolved())
    assert said in str(caught.value)


def test_a_module_that_does_not_work(mine):
    broken, missing = mine("1 / 0\n"), mine("import no_such_package\n")
    for module, said in ((broken, "ZeroDivisionError"), (missing, "imports 'no_such_package', which is missing")):
        with pytest.raises(InvalidParameterError, match=said):
            calibration(Settings("torch.nn:Linear", f"{module}:f").resolved())
    with pytest.raises(InvalidParameterError, match="must have the form"):
        calibration(Settings("torch.nn:Linear", "a b:f").resolved())
    with pytest.raises(InvalidParameterError, match="must name something to call, not a float"):
        calibration(Settings("torch.nn:Linear", "math:pi").resolved())


def test_the_length_of_a_batch():
    assert batch_length((torch.zeros(3, 2), torch.zeros(5))) == 3
    assert batch_length({"a": [torch.tensor(1.0), torch.zeros(4)]}) == 4


def test_a_built_in_network_on_inputs_of_ones_own(mine, tmp_path, weights):
    module = mine("import torch\ndef images(samples):\n    return torch.randn(samples, 1, 8, 8).split(32)\n")
    base = {
        "model": "lenet300",
        "calibration": f"{module}:images",
        "weights": str(weights),
        "affine": True,
        "samples": 64,
    }
    with pytest.raises(InvalidParameterError, match="lenet300 needs to know the classes"):
        quantize_network(Settings(**base), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    summary = quantize_network(Settings(**base, classes=10, quality="fast"), tmp_path / "run")
    assert len(summary["layers"]) == 3


# ---- weights --------------------------------------------------------------------------------------------


def read(path, **changes):
    data = load_images("digits")
    settings = Settings("lenet300", "digits", weights=str(path), device="cpu", **changes).resolved()
    return float_network(settings, Calibration([torch.zeros(2, 1, 8, 8)], 2, data))


@pytest.fixture(scope="module")
def network():
    return build("lenet300", **SHAPE, seed=3)


def write_weights(model, path, kind):
    state = dict(model.state_dict())
    if kind == "parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    if kind == "uncounted":
        state = {name: value for name, value in state.items() if "num_batches" not in name}
    if path.suffix != ".safetensors":
        torch.save({"state_dict": state, "epoch": 3} if kind == "parallel" else state, path)
    elif kind == "packed":
        save(model, path)
    else:
        safetensors.torch.save_file(state, path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.th", "parallel"), ("a.pt", "plain"), ("a.pth", "uncounted"), ("a.bin", "plain"),
        ("a.safetensors", "packed"), ("b.safetensors", "plain"),
        ("c.safetensors", "parallel"), ("d.safetensors", "uncounted"),
    ],
)  # fmt: skip
def test_weights_are_read_from_any_of_these(name, kind, network, tmp_path):
    write_weights(network, tmp_path / name, kind)
    found = read(tmp_path / name)
    assert not found.training
    for key, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_network(suffix, network, tmp_path):
    state = dict(network.state_dict())
    state["fc1.wait"] = state.pop("fc1.weight")
    state["fc2.weight"] = torch.zeros(2, 2)
    path = tmp_path / f"a{suffix}"
    torch.save(state, path) if suffix == ".pt" else safetensors.torch.save_file(state, path)
    with pytest.raises(FileFormatError) as caught:
        read(path)
    for text in ("missing: fc1.weight", "unexpected: fc1.wait", "fc2.weight ((2, 2), not (100, 300))", str(path)):
        assert text in str(caught.value)


def test_damaged_weights(network, tmp_path):
    path = tmp_path / "a.safetensors"
    for kind in ("plain", "packed"):
        write_weights(network, path, kind)
        whole = path.read_bytes()
        for content in (whole[:-5], whole[:100], b"", whole + b"abc", b"\xff" * 64):
            path.write_bytes(content)
            with pytest.raises(FileFormatError, match=r"a\.safetensors"):
                read(path)
    path.write_bytes(b"\0" * 10**7)
    with pytest.raises(FileFormatError, match="10,000,000 bytes, expected at most"):
        read(path)
    state = dict(network.state_dict())
    state["fc1.weight"] = state["fc1.weight"].clone().fill_(float("nan"))
    safetensors.torch.save_file(state, path)
    with pytest.raises(FileFormatError, match=r"fc1\.weight: found numbers that are not finite"):
        read(path)
    with pytest.raises(InvalidParameterError, match="there is no such file"):
        read(tmp_path / "none.th")


def test_tied_weights_may_be_left_out(mine, tmp_path):
    module = mine(
        "import torch\nfrom torch import nn\n"
        "class Tied(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)\n"
        "        self.b.weight = self.a.weight\n"
        "    def forward(self, x):\n"
        "        return self.b(self.a(x))\n"
        "def tokens():\n"
        "    return [torch.arange(7).reshape(1, 7)] * 3\n"
    )
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a.weight": torch.randn(7, 5)}, path)
    settings = Settings(f"{module}:Tied", f"{module}:tokens", weights=str(path), levels="2bit", quality="fast")
    summary = quantize_network(settings, tmp_path / "run")
    assert len(summary["layers"]) == 1
    state = load(tmp_path / "run" / "model.safetensors")
    assert torch.equal(state["a.weight"], state["b.weight"])


# ---- interruption ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_resumed_quantization_is_an_uninterrupted_one(layers, finished, quick, tmp_path):
    out = tmp_path / "parts"
    with pytest.raises(
        StoppedError, match=f"the layers that are done are kept, and mrfq quantize --resume --out {out}"
    ):
        quantize_network(quick(baselines=True), out, listener=StopAfter(layers))
    assert {path.name for path in out.iterdir()} == {"config.toml", "layers"}
    torch.rand(3)
    listener = StopAfter(4)
    summary = quantize_network(None, out, resume=True, listener=listener)
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("model.safetensors", "config.toml"):
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes()
    timed = ("seconds", "layers", "environment")
    assert {k: v for k, v in summary.items() if k not in timed} == {
        k: v for k, v in finished[1].items() if k not in timed
    }
    for one, other in zip(summary["layers"], finished[1]["layers"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_stopping_before_the_first_layer_leaves_no_folder(quick, tmp_path):
    with pytest.raises(StoppedError, match="no layer was done"):
        quantize_network(quick(), tmp_path / "run", listener=StopAfter(0))
    assert not (tmp_path / "run").exists()


def test_layers_of_other_settings_weights_or_inputs_are_refused(quick, weights, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        quantize_network(quick(), out, listener=StopAfter(1))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InvalidParameterError, match=r"has levels = ternary-codebook \(not binary-codebook\)"):
        quantize_network(quick(levels="binary"), out, resume=True)
    with pytest.raises(InvalidParameterError, match="not empty; --resume goes on"):
        quantize_network(quick(), out)
    config = out / "config.toml"
    text = config.read_text()
    other = tmp_path / "other.safetensors"
    save(build("lenet300", **SHAPE, affine=True, seed=9), other)
    config.write_text(text.replace(str(weights), str(other)))
    with pytest.raises(InvalidParameterError, match="other weights"):
        quantize_network(None, out, resume=True)
    config.write_text(text.replace("samples = 256", "samples = 250"))
    with pytest.raises(InvalidParameterError, match="other calibration inputs"):
        quantize_network(None, out, resume=True)
    config.write_text(text)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert len(quantize_network(quick(memory=1.0), out, resume=True)["layers"]) == 3


def test_a_folder_that_is_in_use_is_not_written_to(quick, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for resume, reason in ((False, "not empty; --resume goes on"), (True, "nothing to resume in it: config.toml")):
        with pytest.raises(InvalidParameterError, match=reason):
            quantize_network(quick(), tmp_path, resume=resume)
    with pytest.raises(InvalidParameterError, match="this is a file"):
        quantize_network(quick(), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("part", ["page", "summary"])
def test_an_end_that_was_broken_off_is_repeated(part, finished, quick, tmp_path, monkeypatch):
    def broken(*args):
        raise KeyboardInterrupt

    target = {"page": "write_page", "summary": "write_atomically"}[part]
    with monkeypatch.context() as patch:
        patch.setattr(mrfq.quantize.job, target, broken)
        with pytest.raises(KeyboardInterrupt):
            quantize_network(quick(baselines=True), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    listener = StopAfter(9)
    quantize_network(None, tmp_path / "run", resume=True, listener=listener)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("files", [0, 1, 2, 4, 5, 6])
def test_a_full_disk_keeps_the_layers(files, finished, quick, tmp_path, monkeypatch):
    """Written are the settings, three layers, the network, the page and the summary."""
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) > files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"cannot write the results: No space left on device.*free some space"):
            quantize_network(quick(baselines=True), out)
    assert out.exists() == (files > 1)
    assert not [path.name for path in out.rglob(".*")]
    quantize_network(quick(baselines=True), out, resume=True)
    assert (out / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()


def test_a_folder_that_cannot_be_made(quick, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the results"):
        quantize_network(quick(), tmp_path / "file" / "run")


def test_a_file_that_does_not_come_back_is_noticed(quick, tmp_path, monkeypatch):
    def careless(model, path, **options):
        with torch.no_grad():
            model.fc2.bias.add_(1) if model.fc2.bias is not None else model.bn2.bias.add_(1)
            save(model, path, **options)
            model.bn2.bias.sub_(1)

    monkeypatch.setattr(mrfq.quantize.job, "save", careless)
    with pytest.raises(MrfqError, match=r"bn2\.bias does not come back as it was written"):
        quantize_network(quick(), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_keeps_the_layers(options, finished, tmp_path):
    out = tmp_path / "run"
    code = (
        "import torch, time, mrfq.quantize.console as c; torch.set_num_threads(1)\n"
        "told = c.ConsoleListener.progress\n"
        "def slowly(self, event):\n"
        "    told(self, event)\n"
        "    time.sleep(0.5 * (event.layer is not None))\n"
        "c.ConsoleListener.progress = slowly\n"
        "from mrfq.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "quantize", *options, "--baselines", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not Folder(out).begun:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == (
        f"mrfq: {out}: stopped; the layers that are done are kept, and mrfq quantize --resume --out {out} goes on\n"
    )
    assert run("quantize", "--resume", "--out", out) == 0
    assert (out / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()


# ---- the console ----------------------------------------------------------------------------------------


def test_one_live_line_on_a_terminal_and_a_line_a_layer_anywhere(quick, tmp_path):
    for terminal in (True, False):
        file = io.StringIO()
        with ConsoleListener(Console(file=file, force_terminal=terminal, width=200)) as listener:
            quantize_network(quick(), tmp_path / str(terminal), listener=listener)
        said = file.getvalue()
        assert ("\x1b[" in said) == terminal
        assert said.count("  error ") == 3
        assert listener.began


def test_nothing_but_modules_of_torch_is_needed(tmp_path, mine):
    """A transformer encoder, called with named arguments, from a script of the user's."""
    module = mine(
        "import torch\nfrom torch import nn\n"
        "class Encoder(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.tokens = nn.Embedding(50, 16)\n"
        "        self.query, self.key, self.out = (nn.Linear(16, 16) for _ in range(3))\n"
        "        self.norm = nn.LayerNorm(16)\n"
        "    def forward(self, input_ids, attention_mask=None):\n"
        "        x = self.tokens(input_ids)\n"
        "        scores = self.query(x) @ self.key(x).transpose(1, 2)\n"
        "        if attention_mask is not None:\n"
        "            scores = scores.masked_fill(attention_mask[:, None] == 0, -1e9)\n"
        "        return self.norm(x + self.out(scores.softmax(-1) @ x))\n"
        "def texts(samples, seed):\n"
        "    g = torch.Generator().manual_seed(seed)\n"
        "    ids = torch.randint(50, (samples, 12), generator=g)\n"
        "    mask = (torch.rand(samples, 12, generator=g) > 0.2).long()\n"
        "    return [{'input_ids': i, 'attention_mask': m} for i, m in zip(ids.split(8), mask.split(8))]\n"
    )
    settings = Settings(f"{module}:Encoder", f"{module}:texts", samples=64, levels="4bit-uniform", quality="fast")
    summary = quantize_network(settings, tmp_path / "run")
    assert {layer["name"] for layer in summary["layers"]} == {"tokens", "query", "key", "out"}
    assert summary["layers"][0]["kind"] == "embedding"
    assert isinstance(load(tmp_path / "run" / "model.safetensors"), dict)
