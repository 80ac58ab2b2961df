"""`mrfq.train`: runs, their files, and that interruptions leave no trace."""

import csv
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import mrfq.train.checkpoint
import mrfq.train.run
import mrfq.train.trainer
from mrfq.errors import FileFormatError, InvalidParameterError, MrfqError, UnknownNameError
from mrfq.io.state_tree import read_state, write_state
from mrfq.nn.grids import grid_of
from mrfq.nn.images import ImageBatches, load_images
from mrfq.nn.models import build
from mrfq.nn.packed import load, save
from mrfq.runs.evaluation import grade, in_order, subset
from mrfq.runs.settings import differing
from mrfq.runs.toml_settings import to_toml
from mrfq.train import DivergedError, OutputError, Report, Settings, StoppedError, train
from mrfq.train.checkpoint import KIND, VERSION
from mrfq.train.config import make_settings, read_config
from mrfq.train.folder import Folder, digest_of
from mrfq.train.history import COLUMNS
from mrfq.train.optimizers import rate_at
from mrfq.train.run import Run

QUICK = {"model": "lenet300", "dataset": "digits", "batch_size": 100, "device": "cpu", "threads": 1}
#: what two runs of the same settings may differ in
TIMES = ("seconds", "step_overhead")
KEYS = {
    "test_accuracy", "validation_accuracy", "float_test_accuracy", "method", "levels", "seed", "epochs", "seconds",
    "step_overhead", "packed_bytes", "bits_per_weight",
}  # fmt: skip
DATA = Path(os.environ.get("MRFQ_DATA", "")) / "data"


def quick(**changes) -> Settings:
    return Settings(**{**QUICK, "epochs": 3, **changes})


class StopAt(Report):
    """Asks a run to stop after a step."""

    def __init__(self, step: int) -> None:
        self.step, self.run = step, None

    def begin(self, run, folder) -> None:
        self.run = run

    def stopping(self) -> bool:
        return self.run.progress.step == self.step


class WithDropout(nn.Module):
    """Draws from torch's own generator."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, classes)
        )

    def forward(self, inputs):
        return self.layers(inputs)


def contents(out: Path) -> dict[str, object]:
    """Return what is in the files of a run, but for times."""
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    tree = read_state(out / "checkpoint.safetensors", KIND, VERSION)
    for row in [*rows, *tree["progress"]["rows"], tree["progress"]]:
        assert float(row.pop("seconds")) > 0
    found = {"metrics.csv": rows, "checkpoint": flat(tree)}
    for name in ("config.toml", "best.safetensors", "model.safetensors"):
        found[name] = (out / name).read_bytes()
    if (out / "summary.json").exists():
        summary = json.loads((out / "summary.json").read_text())
        found["summary.json"] = {name: value for name, value in summary.items() if name not in TIMES}
        found |= {path.name: path.read_bytes() for path in out.glob("curves/*")}
    return found


def flat(tree, place="") -> dict[str, object]:
    """Return the leaves of nested data by their place, tensors as their bytes."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, value in items for k, v in flat(value, f"{place}/{key}").items()} | {place: type(tree)}
    if isinstance(tree, torch.Tensor):
        return {place: (str(tree.dtype), tuple(tree.shape), tree.numpy().tobytes())}
    return {place: tree}


def digests(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): digest_of(path) for path in out.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_pages(request, monkeypatch):
    """Drawing takes longer than training here; the run of the fixture `finished` has its page."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr("mrfq.train.finish.write_page", lambda *args: None)


@pytest.fixture
def pages():
    """Let the run of a test write its page."""


# ---- a run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "run"
    settings = quick(epochs=12, levels="ternary", validate_every=2)
    return out, settings, train(settings, out)


def test_a_run_leaves_a_discrete_network_that_is_as_good_as_it_says(finished):
    out, _, summary = finished
    assert summary["test_accuracy"] > 80
    data = load_images("digits")
    model = load(out / "model.safetensors", build("lenet300", channels=1, size=8, classes=10)).eval()
    for split in ("validation", "test"):
        found = grade(model, in_order(data, data.split(split)), 3.0)
        assert found.accuracy == summary[f"{split}_accuracy"]
        assert found.loss == summary[f"{split}_loss"]
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert weights.unique().tolist() == [-1, 0, 1]
    assert all(grid_of(p).levels == (-1.0, 0.0, 1.0) for p in model.parameters())


def test_the_summary_is_complete(finished):
    out, settings, summary = finished
    assert summary.keys() >= KEYS
    assert json.loads((out / "summary.json").read_text()) == {**summary, "settings": summary["settings"]}
    assert (summary["method"], summary["levels"], summary["seed"], summary["epochs"]) == ("pmf", "ternary", 0, 12)
    assert summary["packed_bytes"] == (out / "model.safetensors").stat().st_size
    assert math.log2(3) < summary["bits_per_weight"] < 1.02 * math.log2(3)
    assert 1 < summary["compression"] < 32 / math.log2(3)
    assert summary["quantized_parameters"] == summary["parameters"] == 64 * 300 + 300 * 100 + 100 * 10
    assert summary["float_test_accuracy"] is None
    assert summary["step_overhead"] > -0.9
    assert Settings(**summary["settings"]) == make_settings(read_config(out / "config.toml"))
    assert summary["settings"]["rate"] == settings.resolved().rate


def test_every_epoch_has_a_row(finished):
    out, _, summary = finished
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert [int(row["step"]) for row in rows] == [10 * k for k in range(1, 13)]
    assert [bool(row["validation_accuracy"]) for row in rows] == [False, True] * 6
    known = [(float(row["validation_accuracy"]), int(row["epoch"])) for row in rows if row["validation_accuracy"]]
    assert max(known) == (summary["best_validation_accuracy"], summary["best_epoch"])  # of equal ones the last
    best = [row for row in rows if row["best"] == "1"]
    assert int(best[-1]["epoch"]) == summary["best_epoch"]
    assert float(rows[-1]["beta"]) == 1e4
    assert float(rows[-1]["discrete"]) > 0.99 > float(rows[0]["discrete"])
    assert float(rows[-1]["entropy"]) < 0.01 < float(rows[0]["entropy"])
    assert sorted(float(row["seconds"]) for row in rows) == [float(row["seconds"]) for row in rows]


def test_the_page_needs_nothing_else(finished):
    out, _, summary = finished
    page = (out / "summary.html").read_text()
    epoch = f"of the network of epoch {summary['best_epoch']}"
    for text in ("lenet300 on digits, ternary weights", f"{summary['test_accuracy']:.2f} %", "fc1.weight", epoch):
        assert text in page
    assert page.count("<figure>") == 5
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "src=" not in page
    assert "<link" not in page
    assert {path.name for path in (out / "curves").iterdir()} == {
        f"{name}.png" for name in ("loss", "accuracy", "labels", "beta", "rate")
    }


def test_nothing_else_is_left_in_the_folder(finished):
    out, _, _ = finished
    assert {path.name for path in out.iterdir()} == {
        "config.toml", "checkpoint.safetensors", "best.safetensors", "metrics.csv", "model.safetensors",
        "summary.json", "summary.html", "curves",
    }  # fmt: skip


def test_the_same_settings_give_the_same_bits_and_another_seed_others(tmp_path, pages):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(quick(seed=seed, epochs=2), tmp_path / name)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]


def test_the_state_of_torch_is_left_alone(tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    train(quick(limit_steps=2, threads=2), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags


def test_a_float_network_and_then_its_quantization(tmp_path, pages):
    first = train(quick(method="float", epochs=8), tmp_path / "float")
    assert first["levels"] is None
    assert first["step_overhead"] is None
    assert first["quantized_parameters"] == 0
    assert first["bits_per_weight"] == 32
    assert first["float_test_accuracy"] == first["test_accuracy"] > 90
    assert "entropy" not in (tmp_path / "float" / "summary.html").read_text().split("</main>")[0].split("Layers")[0]
    init = str(tmp_path / "float" / "model.safetensors")
    run = Run(quick(method="float", init=init).resolved())
    assert run.grade("test").accuracy == first["test_accuracy"]
    second = train(quick(init=init, epochs=8), tmp_path / "binary")
    assert second["float_test_accuracy"] == first["test_accuracy"]
    third = train(quick(epochs=1, float_summary=str(tmp_path / "binary" / "summary.json")), tmp_path / "other")
    assert third["float_test_accuracy"] == first["test_accuracy"]


def test_batch_norm_of_a_float_network_is_as_trained(tmp_path):
    train(quick(method="float", epochs=1), tmp_path / "run")
    found = load(tmp_path / "run" / "model.safetensors")
    tracked = [value for name, value in found.items() if name.endswith("num_batches_tracked")]
    assert [int(value) for value in tracked] == [10] * len(tracked)


def test_evaluation_leaves_the_network_as_it_was():
    run = Run(quick().resolved())
    for _ in range(3):
        run.step()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with run.deployed() as model:
        assert not model.training
        assert set(torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()) == {-1.0, 1.0}
        assert all(grid_of(p) is not None for p in model.parameters())
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert any("running_mean" in name for name in changed)
    assert all(module.training for module in run.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(grid_of(p) is None for p in run.model.parameters())


def test_a_loss_is_the_cross_entropy_of_scaled_outputs():
    run = Run(quick(method="float", logit_scale=2.0, label_smoothing=0.1).resolved())
    model = build("lenet300", channels=1, size=8, classes=10, seed=0)
    inputs, targets = ImageBatches(run.data, "train", 100, seed=0).shuffled(0)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(2 * model(inputs), targets, label_smoothing=0.1)
        accuracy = 100 * float((model(inputs).argmax(1) == targets).double().mean())
    run.step()
    assert run.meter.means(0, 1)[0] == pytest.approx(float(expected), rel=1e-6)
    assert run.meter.means(0, 1)[1] == accuracy


def test_the_loss_and_the_accuracy_of_an_evaluation_count_every_image():
    data = load_images("digits")
    model = build("lenet300", channels=1, size=8, classes=10, seed=0).eval()
    inputs, targets = ImageBatches(data, "validation", 359, seed=0).fixed(0)
    with torch.no_grad():
        outputs = model(inputs)
    found = grade(model, in_order(data, data.validation), 3.0)
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(3 * outputs, targets)), rel=1e-5)
    assert found.accuracy == pytest.approx(100 * float((outputs.argmax(1) == targets).double().mean()))


def test_a_subset_is_fixed_and_of_different_images():
    train_split = load_images("digits").train
    a, b = subset(train_split, 50), subset(train_split, 50)
    assert torch.equal(a.images, b.images)
    assert len({image.numpy().tobytes() for image in a.images}) == 50
    assert subset(train_split, 5000) is train_split


@pytest.mark.parametrize("decay", ["cosine", "constant", "milestones"])
def test_rates_reach_the_optimizer(decay):
    run = Run(quick(decay=decay, milestones=(0.5,), factor=0.1, rate=0.01).resolved())
    seen = []
    for _ in range(run.total_steps):
        run.step()
        seen.append({group["lr"] for group in run.optimizer.param_groups})
        assert seen[-1] == {run.rate}
    rates = [min(rate) for rate in seen]
    expected = {"constant": [0.01] * 30, "milestones": [0.01] * 15 + [0.001] * 15}.get(decay)
    assert rates == pytest.approx(expected or [0.005 * (1 + math.cos(math.pi * k / 30)) for k in range(30)])
    assert rate_at(run.settings, 0.0) == 0.01


def test_limited_steps_are_a_whole_run(tmp_path):
    summary = train(quick(epochs=50, limit_steps=14), tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [10, 14]
    assert float(rows[-1]["beta"]) == 1e4
    assert (summary["steps"], summary["epochs"]) == (14, 2)


def test_amp_runs_in_bfloat16(tmp_path):
    seen = []

    class Spy(nn.Linear):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            seen.append((self.training, outputs.dtype))
            return outputs

    run = Run(quick(method="bc", amp=True).resolved())
    run.model.fc1.__class__ = Spy
    run.step()
    with run.deployed():
        run.grade("validation")
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}


def test_overrides_and_scales_reach_the_optimizer():
    run = Run(quick(levels=(-1, 0.5, 1), scale="channel", refit_every=2, schedule=7.0, pull="identity").resolved())
    run.step()
    assert run.statistics()["beta"] == 7.0
    with run.deployed() as model:
        grid = grid_of(model.fc1.weight)
        assert grid.levels == (-1.0, 0.5, 1.0)
        assert grid.rows == 300
    plain = Run(quick(schedule={"kind": "Geometric", "first": 1, "last": 5}, projection="SoftStaircase").resolved())
    for _ in range(plain.total_steps):
        plain.step()
    assert plain.statistics()["beta"] == pytest.approx(5)


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def small(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
        "def wrong():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n"
        "def bad():\n"
        "    return nn.Linear(3, 10)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    summary = train(quick(model="mine:small", epochs=1, parameters=["*.weight"]), tmp_path / "run")
    assert (summary["quantized_parameters"], summary["parameters"]) == (640, 650)
    assert summary["settings"]["logit_scale"] == 1.0
    with pytest.raises(InvalidParameterError, match=r"shape \(2, 10\), one number a class; got shape \(2, 7\)"):
        train(quick(model="mine:wrong"), tmp_path / "other")
    with pytest.raises(InvalidParameterError, match=r"cannot take inputs of shape \(2, 1, 8, 8\)"):
        train(quick(model="mine:bad"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ---- interruption ---------------------------------------------------------------------------------------

RUNS = {
    "pmf": {},
    "mean-field": {"method": "mean-field"},
    "mirror": {"method": "md-tanh", "optimizer": "sgd", "nesterov": True, "decay": "milestones"},
    "simplex": {"method": "pgd", "levels": "2bit", "scale": "tensor", "refit_every": 4},
    "channels": {"method": "parq", "levels": "ternary", "scale": "channel", "refit_every": 7, "optimizer": "adamw"},
    "float": {"method": "float", "shift": 1},
    "dropout": {"model": "tests.test_train:WithDropout", "flip": True, "weight_decay": 0.01},
    "rare checkpoints": {"checkpoint_every": 2, "validate_every": 3, "amp": True},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_an_uninterrupted_one(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tests.test_train", sys.modules[__name__])
    settings = quick(**RUNS[name])
    train(settings, tmp_path / "whole")
    for step in (4, 10, 27, 30):  # within an epoch, at the end of one, of all
        with pytest.raises(StoppedError, match=f"after step {step} of 30, and saved; mrfq train --resume --out"):
            train(settings, tmp_path / "parts", resume=step > 4, report=StopAt(step))
        torch.rand(3)
    train(None, tmp_path / "parts", resume=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def start(out: Path) -> subprocess.Popen:
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from mrfq.train import Settings, train\n"
        f"train(Settings(**{ {**QUICK, 'epochs': 40}!r}), sys.argv[1], resume=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(out)])


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    out = tmp_path / "killed"
    process = start(out)
    try:
        deadline = time.monotonic() + 60
        while not (out / "metrics.csv").exists() or len((out / "metrics.csv").read_text().splitlines()) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "summary.json").exists()
    done = read_state(out / "checkpoint.safetensors", KIND, VERSION)["progress"]["step"]
    assert 40 <= done < 400
    settings = quick(epochs=40)
    train(settings, out, resume=True)
    train(settings, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert digests(out).keys() == digests(tmp_path / "whole").keys()


@pytest.mark.parametrize("moment", ["best", "checkpoint", "rename", "metrics"])
def test_a_run_may_die_at_any_moment_of_a_checkpoint(moment, tmp_path, monkeypatch):
    """Whatever file was written last, the files agree after resuming."""
    settings = quick(method="bc")
    train(settings, tmp_path / "whole")

    class DeathError(BaseException):
        pass

    owner, name, count = {
        "best": (mrfq.train.trainer, "save", 2),
        "checkpoint": (mrfq.train.checkpoint, "write_state", 2),
        "rename": (Folder, "commit_best", 3),  # the first is at the start
        "metrics": (mrfq.train.checkpoint, "write_atomically", 2),
    }[moment]
    real, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            raise DeathError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(DeathError):
            train(settings, tmp_path / "parts", resume=True)
    leftover = tmp_path / "parts" / ".checkpoint.safetensors.abcd1234"
    leftover.write_bytes(b"half a file")
    train(None, tmp_path / "parts", resume=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert digests(tmp_path / "parts").keys() == digests(tmp_path / "whole").keys()


def test_a_finished_run_is_left_alone(finished):
    out, settings, summary = finished
    before = digests(out)
    assert train(None, out, resume=True) == train(settings, out, resume=True) == summary
    assert digests(out) == before


def test_an_end_that_was_broken_off_is_repeated(tmp_path, monkeypatch, pages):
    def broken(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mrfq.train.finish.write_page", broken)
        with pytest.raises(KeyboardInterrupt):
            train(quick(epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    assert train(None, tmp_path / "run", resume=True)["epochs"] == 1


def test_a_folder_that_is_in_use_is_not_written_to(tmp_path, finished):
    (tmp_path / "notes.txt").write_text("mine")
    for resume, reason in ((False, "not empty; --resume goes on"), (True, "no run to resume in it: config.toml")):
        with pytest.raises(InvalidParameterError, match=reason):
            train(quick(), tmp_path, resume=resume)
    with pytest.raises(InvalidParameterError, match="this is a file"):
        train(quick(), tmp_path / "notes.txt")
    with pytest.raises(InvalidParameterError, match="no settings to begin one with"):
        train(None, tmp_path / "new", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InvalidParameterError, match="not empty"):
        train(finished[1], finished[0])


def test_a_run_ends_with_the_settings_it_began_with(tmp_path):
    with pytest.raises(StoppedError):
        train(quick(), tmp_path / "run", report=StopAt(3))
    before = digests(tmp_path / "run")
    with pytest.raises(InvalidParameterError, match=r"has levels = binary \(not ternary\), epochs = 3 \(not 4\)"):
        train(quick(epochs=4, levels="ternary"), tmp_path / "run", resume=True)
    assert digests(tmp_path / "run") == before
    config = tmp_path / "run" / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("epochs = 3", "epochs = 4"))
    with pytest.raises(InvalidParameterError, match=r"changed since .* which has epochs = 3; change it back"):
        train(None, tmp_path / "run", resume=True)
    config.write_text(text.replace('device = "cpu"', 'device = "cuda:77"'))
    with pytest.raises(InvalidParameterError, match="device 'cuda:77' cannot be used here"):
        train(None, tmp_path / "run", resume=True)
    config.write_text(text.replace("rate = 0.003", ""))
    assert train(None, tmp_path / "run", resume=True)["steps"] == 30
    assert config.read_text() == text


def test_what_is_left_to_a_default_does_not_differ():
    saved = quick().resolved()
    assert differing(Settings("lenet300", "digits", epochs=3), saved) == []
    assert differing(quick(data="elsewhere", checkpoint_every=5), saved) == []
    assert differing(quick(rate=0.5, seed=1), saved) == ["seed", "rate"]


def test_other_images_are_noticed(tmp_path, monkeypatch):
    with pytest.raises(StoppedError):
        train(quick(), tmp_path / "run", report=StopAt(3))
    tree = read_state(tmp_path / "run" / "checkpoint.safetensors", KIND, VERSION)
    write_state(tmp_path / "run" / "checkpoint.safetensors", KIND, VERSION, {**tree, "images": tree["images"] ^ 1})
    with pytest.raises(InvalidParameterError, match=r"not the images that the run in .* began with"):
        train(None, tmp_path / "run", resume=True)


# ---- what can go wrong ----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(tmp_path, monkeypatch):
    real, calls = mrfq.train.run.train_step, []

    def step(*args):
        loss, outputs = real(*args)
        calls.append(1)
        return (loss * float("nan") if len(calls) == 27 else loss), outputs

    with monkeypatch.context() as patch:
        patch.setattr(mrfq.train.run, "train_step", step)
        with pytest.raises(DivergedError, match=r"finite at step 27 \(epoch 3\); .*checkpoint.safetensors") as caught:
            train(quick(), tmp_path / "run")
    assert caught.value.step == 27
    assert read_state(tmp_path / "run" / "checkpoint.safetensors", KIND, VERSION)["progress"]["step"] == 20
    train(quick(), tmp_path / "whole")
    train(None, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path, monkeypatch):
    real, calls = mrfq.train.run.train_step, []

    def step(model, *args):
        found = real(model, *args)
        calls.append(1)
        if len(calls) == 20:
            model.fc1.weight.data[0, 0] = float("inf")
        return found

    monkeypatch.setattr(mrfq.train.run, "train_step", step)
    with pytest.raises(DivergedError, match=r"weight is not finite after step 20 \(epoch 2\)"):
        train(quick(method="float"), tmp_path / "run")
    assert read_state(tmp_path / "run" / "checkpoint.safetensors", KIND, VERSION)["progress"]["step"] == 10


def test_a_rate_that_is_too_large_says_so(tmp_path):
    with pytest.raises(DivergedError, match=r"no epoch had ended by then; the rate began at 1e\+30"):
        train(quick(method="float", optimizer="sgd", rate=1e30, epochs=1, model="lenet300", affine=True),
              tmp_path / "run")  # fmt: skip


@pytest.mark.parametrize(("files", "step"), [(2, 0), (4, 10), (5, 10), (6, 20), (10, 30)])
def test_a_full_disk_leaves_the_last_checkpoint(files, step, tmp_path, monkeypatch):
    """Written are the settings, then for each epoch the best network, the checkpoint and the metrics."""
    settings = quick()
    train(settings, tmp_path / "whole")
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) > files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    kept = "; what was saved before is intact, and mrfq train --resume --out" * bool(step)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=rf"cannot write the run: No space left on device{kept}"):
            train(settings, tmp_path / "run")
    out = tmp_path / "run"
    if step:
        assert read_state(out / "checkpoint.safetensors", KIND, VERSION)["progress"]["step"] == step
    assert (out / "checkpoint.safetensors").exists() == bool(step)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    train(None, out, resume=True)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the run"):
        train(quick(), tmp_path / "file" / "run")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "stopped"
    with pytest.raises(StoppedError):
        train(quick(), out, report=StopAt(14))
    return out


def resumed(stopped: Path, out: Path) -> Path:
    """Return a copy of a stopped run."""
    out.mkdir()
    for path in stopped.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def test_a_damaged_checkpoint_is_noticed_and_nothing_is_lost(stopped, tmp_path):
    random = torch.Generator().manual_seed(0)
    for number in range(20):
        out = resumed(stopped, tmp_path / str(number))
        path = out / "checkpoint.safetensors"
        data = bytearray(path.read_bytes())
        place = int(torch.randint(len(data), (1,), generator=random))
        if number % 2:
            data[place] ^= 1
        else:
            del data[place:]
        path.write_bytes(data)
        before = digests(out)
        with pytest.raises(FileFormatError, match=r"checkpoint\.safetensors"):
            train(None, out, resume=True)
        assert digests(out) == before


def test_a_checkpoint_of_something_else_is_refused(stopped, tmp_path):
    """Every part of the tree, left out or replaced."""
    tree = read_state(stopped / "checkpoint.safetensors", KIND, VERSION)
    wrong = [{}, [], None, {**tree, "settings": {"model": "lenet300"}}, {**tree, "images": "none"}]
    wrong += [{name: value for name, value in tree.items() if name != left} for left in tree]
    others = [name for name in tree if name not in ("settings", "images")]
    wrong += [{**tree, name: value} for name in others for value in (None, 3, [], {}, "text")]
    for name, value in tree["progress"].items():
        other = 3.5 if isinstance(value, str | list | int) else "text"
        wrong.append({**tree, "progress": {**tree["progress"], name: other}})
    wrong.append({**tree, "progress": {**tree["progress"], "step": 31}})
    wrong.append({**tree, "progress": {**tree["progress"], "rows": [{"epoch": 1, "step": 2, "more": 3}]}})
    wrong.append({**tree, "progress": {**tree["progress"], "rows": [{"epoch": 1, "step": "2"}]}})
    wrong.append({**tree, "meter": {"losses": torch.zeros(11), "hits": torch.zeros(11)}})
    wrong.append({**tree, "model": {**tree["model"], "fc1.weight": torch.zeros(3)}})
    wrong.append({**tree, "random": {"cpu": torch.zeros(3, dtype=torch.uint8)}})
    groups = [{**group, "betas": (0.5, 0.5)} for group in tree["optimizer"]["param_groups"]]
    wrong.append({**tree, "optimizer": {**tree["optimizer"], "param_groups": groups}})
    state = {key: {**value, "exp_avg": torch.zeros(2, 2)} for key, value in tree["optimizer"]["state"].items()}
    wrong.append({**tree, "optimizer": {**tree["optimizer"], "state": state}})
    for number, bad in enumerate(wrong):
        out = resumed(stopped, tmp_path / str(number))
        write_state(out / "checkpoint.safetensors", KIND, VERSION, bad)
        before = digests(out)
        with pytest.raises(FileFormatError, match=r"checkpoint\.safetensors"):
            train(None, out, resume=True)
        assert digests(out) == before


def test_a_packed_network_is_no_checkpoint(stopped, tmp_path):
    out = resumed(stopped, tmp_path / "run")
    save(nn.Linear(2, 2), out / "checkpoint.safetensors")
    with pytest.raises(FileFormatError, match="packed"):
        train(None, out, resume=True)


def test_the_best_network_must_be_the_one_of_the_checkpoint(stopped, tmp_path):
    for number, data in enumerate((None, b"other")):
        out = resumed(stopped, tmp_path / str(number))
        (out / "best.safetensors").unlink()
        if data:
            (out / "best.safetensors").write_bytes(data)
        with pytest.raises(FileFormatError, match=r"best\.safetensors.* expected the best network so far"):
            train(None, out, resume=True)


def test_a_summary_that_is_none(tmp_path, finished):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.toml").write_text(to_toml(quick()))
    for text in ("{", "[]", "\xff"):
        (out / "summary.json").write_text(text, encoding="latin1")
        with pytest.raises(FileFormatError, match=r"summary\.json"):
            train(None, out, resume=True)
    (out / "summary.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        train(None, out, resume=True)
    (out / "summary.json").write_text('{"float_test_accuracy": "high"}')
    with pytest.raises(FileFormatError, match=r"summary\.json:float_test_accuracy: found 'high'"):
        train(quick(epochs=1, float_summary=str(out / "summary.json")), tmp_path / "new")
    with pytest.raises(InvalidParameterError, match="no_such"):
        train(quick(epochs=1, float_summary=str(tmp_path / "no_such.json")), tmp_path / "newer")


# ---- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": "digit"}, UnknownNameError, "did you mean 'digits'"),
        ({"model": "lenet30"}, UnknownNameError, "did you mean 'lenet300'"),
        ({"method": "pmff"}, UnknownNameError, "did you mean 'pmf'"),
        ({"levels": "trinary"}, UnknownNameError, "ternary"),
        ({"epochs": 0}, InvalidParameterError, "epochs must be at least 1, got 0"),
        ({"epochs": "ten"}, InvalidParameterError, "epochs must be a whole number, got 'ten'"),
        ({"rate": float("nan")}, InvalidParameterError, "rate must be positive and finite"),
        ({"rate": True}, InvalidParameterError, "rate must be a number"),
        ({"seed": -1}, InvalidParameterError, "seed must be from 0"),
        ({"optimizer": "rmsprop"}, InvalidParameterError, "one of 'adam', 'adamw', 'sgd'"),
        ({"scale": 0}, InvalidParameterError, "size of a group, got 0"),
        ({"scale": "layer"}, InvalidParameterError, "scale must be one of 'none', 'tensor', 'channel'"),
        ({"milestones": (0.5, 0.2)}, InvalidParameterError, "ascending fractions"),
        ({"momentum": 1.0}, InvalidParameterError, "below 1"),
        ({"shift": 1, "crop": 2}, InvalidParameterError, "give one of them"),
        ({"nesterov": True, "optimizer": "adam"}, InvalidParameterError, "nesterov needs optimizer sgd"),
        ({"method": "float", "float_summary": "x"}, InvalidParameterError, "belongs to a quantized network"),
        ({"dataset": "mnist"}, InvalidParameterError, "data is missing: the folder that holds the images of mnist"),
        ({"batch_size": 1}, InvalidParameterError, "batch_size must be at least 2"),
    ],
)
def test_settings_that_cannot_be(changes, error, message):
    with pytest.raises(error, match=message):
        quick(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"device": "cuda:77"}, InvalidParameterError, "device 'cuda:77' cannot be used here"),
        ({"device": "gpu"}, InvalidParameterError, "device 'gpu' cannot be used here"),
        ({"batch_size": 1100}, InvalidParameterError, "more than the 1078 training images"),
        ({"model": "lenet5"}, MrfqError, "lenet5"),
        ({"init": "nowhere.safetensors"}, InvalidParameterError, "there is no such file"),
        ({"parameters": ["*.wait"]}, UnknownNameError, "wait"),
        ({"schedule": {"kind": "Geometrical"}}, UnknownNameError, "Geometric"),
        ({"carry": "double"}, InvalidParameterError, "carry"),
        ({"dataset": "mnist", "data": "nowhere"}, InvalidParameterError, "nowhere"),
        ({"validation": 10**6}, InvalidParameterError, "validation"),
    ],
)
def test_settings_that_do_not_fit_leave_no_folder(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train(quick(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_to_start_from_must_fit(tmp_path):
    save(nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(MrfqError, match=r"other\.safetensors"):
        train(quick(init=str(tmp_path / "other.safetensors")), tmp_path / "run")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FileFormatError, match=r"bad\.safetensors"):
        train(quick(init=str(tmp_path / "bad.safetensors")), tmp_path / "run")


def test_toml_holds_all_settings(tmp_path):
    settings = quick(
        levels=(-1.0, 0.5), schedule={"kind": "Geometric", "first": 1, "last": 1e4}, parameters=("a", 'b"\\\n\x7f')
    )
    (tmp_path / "c.toml").write_text(to_toml(settings), "utf-8")
    assert make_settings(read_config(tmp_path / "c.toml")) == settings


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("epochz = 3", UnknownNameError, r"c\.toml: unknown setting 'epochz'; did you mean 'epochs'"),
        ("epochs = 3\nseed = ?", InvalidParameterError, r"c\.toml: .*line 2"),
        ("\xff", InvalidParameterError, r"c\.toml"),
        (None, InvalidParameterError, r"c\.toml: No such file"),
    ],
)
def test_a_bad_configuration(text, error, message, tmp_path):
    if text is not None:
        (tmp_path / "c.toml").write_text(text, encoding="latin1")
    with pytest.raises(error, match=message):
        read_config(tmp_path / "c.toml")


def test_defaults_follow_the_data_set_and_the_method():
    made = Settings("resnet20", "cifar10", "folder", method="parq", device="cpu").resolved()
    assert (made.optimizer, made.rate, made.batch_size, made.crop, made.flip) == ("sgd", 0.1, 128, 4, True)
    made = Settings("resnet20", "cifar10", "folder", device="cpu").resolved()
    assert (made.optimizer, made.rate) == ("adam", 0.003)  # its pull multiplies gradients by beta
    made = Settings("resnet20", "cifar10", "folder", pull="identity", device="cpu").resolved()
    assert (made.optimizer, made.rate) == ("sgd", 0.1)
    assert made.data == str(Path("folder").resolve())
    assert Settings("resnet20", "cifar10", "folder", shift=2, device="cpu").resolved().crop == 0
    assert Settings("resnet20", "cifar10", "x", init="a/b.th", device="cpu").resolved().normalise == "imagenet"
    assert Settings("resnet20", "cifar10", "x", method="float", device="cpu").resolved().weight_decay == 5e-4
    assert made.threads == torch.get_num_threads()
    again = made.resolved()
    assert again == made


# ---- real data ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="MRFQ_DATA names no folder with data/mnist")
def test_mnist(tmp_path):
    settings = Settings("lenet300", "mnist", str(DATA), method="bc", limit_steps=300, device="cpu", threads=1)
    summary = train(settings, tmp_path / "run")
    assert summary["test_accuracy"] > 85
    assert summary["packed_bytes"] < 50_000


@pytest.mark.skipif(not (DATA / "pretrained").is_dir(), reason="MRFQ_DATA names no folder with data/pretrained")
def test_a_pretrained_network_to_start_from():
    path = next((DATA / "pretrained").glob("resnet20*.th"))
    settings = Settings("resnet20", "cifar10", str(DATA), init=str(path), method="float", device="cpu").resolved()
    run = Run(settings)
    head = run.data.test.head(500)
    assert grade(run.model, in_order(run.data, head), 1.0).accuracy > 88
