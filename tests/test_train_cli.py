"""`mrfq train` on the command line."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console

from mrfq.cli import main
from mrfq.io.state_tree import read_state
from mrfq.train import Settings, train
from mrfq.train.checkpoint import KIND, VERSION
from mrfq.train.command import Request, chosen_settings
from mrfq.train.config import read_config
from mrfq.train.console import ConsoleReport

QUICK = ("--model", "lenet300", "--dataset", "digits", "--device", "cpu", "--set", "threads=1")


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def quick(out, *arguments) -> int:
    return run("train", *QUICK, "--out", out, *arguments)


def failed(capsys, code: int, *texts: str) -> None:
    """Check that a command failed with one message."""
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("mrfq: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    for text in texts:
        assert text in said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert quick(out, "--method", "bc", "--levels", "ternary", "--epochs", 2, "--seed", 3) == 0
    return out


def test_a_run(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert {name: summary[name] for name in ("method", "levels", "epochs", "seed", "model", "dataset")} == {
        "method": "bc", "levels": "ternary", "epochs": 2, "seed": 3, "model": "lenet300", "dataset": "digits",
    }  # fmt: skip
    assert read_config(finished / "config.toml")["threads"] == 1
    for name in ("model.safetensors", "best.safetensors", "checkpoint.safetensors", "metrics.csv", "summary.html"):
        assert (finished / name).stat().st_size > 0


def test_it_tells_what_happens_and_what_came_out(tmp_path, capsys):
    assert quick(tmp_path / "run", "--epochs", 2) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0] == "lenet300 on digits, pmf, binary: 16 steps on cpu"
    for number, line in enumerate(lines[1:3], 1):
        assert line.startswith(f"epoch {number}/2  step {8 * number}/16  loss ")
        for word in ("accuracy", "validation", "entropy", "discrete", "ETA"):
            assert word in line
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert f"{summary['test_accuracy']:.2f} %" in said.out
    assert lines[-1] == f"report: {tmp_path / 'run' / 'summary.html'}"


def test_options_come_before_the_file(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('model = "lenet300"\ndataset = "digits"\nepochs = 7\nrate = 0.5\nscale = "tensor"\n')
    request = Request({"epochs": 2, "seed": 4}, ("rate=0.25", "parameters=*.weight"), config, tmp_path / "run")
    assert chosen_settings(request) == Settings(
        "lenet300", "digits", epochs=2, seed=4, rate=0.25, scale="tensor", parameters=("*.weight",)
    )


def test_the_configuration_of_a_run_repeats_it(finished, tmp_path):
    assert run("train", "--config", finished / "config.toml", "--out", tmp_path / "again") == 0
    for name in ("model.safetensors", "config.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()


def test_a_finished_run_says_so(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert run("train", "--resume", "--out", finished) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{finished}: this run is finished")
    assert "test accuracy" in said.out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--dataset", "digits"], ["a training run needs model"]),
        ([], ["a training run needs model and dataset"]),
        (["--resume"], ["no run to resume, and no settings"]),
        ([*QUICK, "--method", "magic"], ["unknown method 'magic'"]),
        ([*QUICK, "--levels", "5.5bit"], ["unknown label set"]),
        ([*QUICK, "--set", "ratte=1"], ["--set: unknown setting 'ratte'; did you mean 'rate'"]),
        ([*QUICK, "--set", "rate"], ["write it as --set key=value"]),
        ([*QUICK, "--set", "rate=fast"], ["rate must be a number, got 'fast'"]),
        ([*QUICK, "--set", "epochs=3", "--epochs", "2"], ["--set epochs and --epochs: the same setting"]),
        ([*QUICK, "--config", "none.toml"], ["none.toml: No such file"]),
        (["--model", "lenet300", "--dataset", "mnist"], ["data is missing"]),
        (["--model", "nothing.here:f", "--dataset", "digits"], ["nothing"]),
    ],
)
def test_mistakes(arguments, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    failed(capsys, run("train", *arguments), *texts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_the_images(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cats.txt").write_text("")
    code = run(
        "train", "--model", "lenet300", "--dataset", "mnist", "--data", tmp_path / "data", "--out", tmp_path / "r"
    )
    failed(capsys, code, "train-images", "cats.txt", str(tmp_path / "data"))


def test_a_folder_that_is_not_empty(finished, capsys):
    failed(capsys, quick(finished), "not empty; --resume goes on with the run in it")


def test_other_settings_when_resuming(finished, capsys):
    failed(capsys, run("train", "--resume", "--out", finished, "--epochs", 5), "epochs = 2 (not 5)")
    failed(capsys, run("train", "--resume", "--out", finished, "--set", "epoch=5"), "did you mean 'epochs'")


def test_a_run_that_diverges(tmp_path, capsys):
    code = quick(tmp_path / "run", "--method", "float", "--set", "optimizer=sgd", "--set", "rate=1e30",
                 "--set", "affine=true", "--epochs", 1)  # fmt: skip
    failed(capsys, code, "is not finite", "step ", "(epoch 1)", "smaller one may help")


def test_a_damaged_checkpoint(finished, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.toml", "checkpoint.safetensors", "best.safetensors"):
        (out / name).write_bytes((finished / name).read_bytes())
    data = bytearray((out / "checkpoint.safetensors").read_bytes())
    data[len(data) // 2] ^= 4
    (out / "checkpoint.safetensors").write_bytes(data)
    failed(capsys, run("train", "--resume", "--out", out), str(out / "checkpoint.safetensors"))


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    failed(capsys, quick(tmp_path / "run", "--epochs", 1), f"{tmp_path / 'run'}: cannot write", "No space left", "free")


def start(out, *arguments) -> subprocess.Popen:
    code = "import torch; torch.set_num_threads(1)\nfrom mrfq.cli import main; main()"
    command = [sys.executable, "-c", code, "train", *QUICK, "--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_saves_and_the_run_can_be_resumed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mrfq.train.finish.write_page", lambda *args: None)
    out = tmp_path / "run"
    with start(out, "--epochs", "40", "--resume") as process:
        deadline = time.monotonic() + 60
        while not (out / "metrics.csv").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    step = read_state(out / "checkpoint.safetensors", KIND, VERSION)["progress"]["step"]
    assert 8 <= step < 320
    assert errors == (
        f"mrfq: {out}: stopped after step {step} of 320, and saved; mrfq train --resume --out {out} goes on\n"
    )
    assert run("train", "--resume", "--out", out) == 0
    assert f"from step {step}" in capsys.readouterr().out
    train(Settings("lenet300", "digits", device="cpu", threads=1, epochs=40), tmp_path / "whole")
    for name in ("model.safetensors", "best.safetensors", "config.toml"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_live_line_on_a_terminal_and_a_line_an_epoch_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("mrfq.train.trainer.LOOK_STEPS", 2)
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=200)
        with ConsoleReport(console) as report:
            train(Settings("lenet300", "digits", epochs=2, threads=1, device="cpu"), tmp_path / str(terminal),
                  report=report)  # fmt: skip
        said = file.getvalue()
        assert ("\x1b[" in said) == terminal
        assert "lenet300 on digits" in said
        assert said.count("\nepoch 2/2") == (0 if terminal else 1)


def test_the_live_line_changes_within_an_epoch(tmp_path):
    seen = []

    class Status:
        def update(self, text):
            seen.append(str(text))

        def start(self):
            pass

        stop = start

    class Terminal(Console):
        def status(self, *args, **kwargs):
            return Status()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrfq.train.trainer.LOOK_STEPS", 3)
        with ConsoleReport(Terminal(file=io.StringIO(), force_terminal=True)) as report:
            train(Settings("lenet300", "digits", epochs=2, threads=1, device="cpu"), tmp_path / "run", report=report)
    within = [text for text in seen if text.startswith("epoch 2/2")]
    assert [text.split()[3] for text in within] == ["11/16", "14/16", "16/16"]
    assert all("entropy" in text and "ETA" in text and "loss" in text for text in within)


def test_the_help_names_everything(capsys):
    assert run("train", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    for option in ("--model", "--dataset", "--data", "--method", "--levels", "--epochs", "--seed", "--device", "--out",
                   "--config", "--set", "--resume"):  # fmt: skip
        assert option in said
    assert torch.get_num_threads() == 1
