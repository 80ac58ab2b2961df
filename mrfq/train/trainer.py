"""`train`: the loop of a training run, from its settings to its summary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mrfq.kernels import torch_threads
from mrfq.nn.packed import save
from mrfq.runs.errors import StoppedError
from mrfq.train.checkpoint import restore_run, save_run
from mrfq.train.errors import DivergedError
from mrfq.train.finish import finish
from mrfq.train.folder import Folder, digest_of
from mrfq.train.reporting import Report
from mrfq.train.run import Run
from mrfq.train.settings import Settings

#: steps, and seconds, after which the device is asked how training goes
LOOK_STEPS, LOOK_SECONDS = 100, 1.0


def train(
    settings: Settings | None, out: str | Path, *, resume: bool = False, report: Report | None = None
) -> dict[str, Any]:
    """Train a network as settings say, and return the summary that is also written as `summary.json`.

    Each epoch ends with the rounded network on the validation images, and with a checkpoint. The best network
    (of equal ones the last) is tested once, at the end.

    Parameters
    ----------
    settings : Settings, optional
        Left out, those of the run that is resumed.
    out : str or Path
        Folder of the run: made if it does not exist, and empty unless `resume`.
    resume : bool
        Go on with the run in the folder, to the same bits as without an interruption; one that is finished is left
        as it is. In an empty folder a run begins.
    report : Report, optional
        Told what happens.

    Returns
    -------
    dict
        Accuracies in percent, losses in nats, times in seconds, sizes in bytes; None for what is not known.

    Raises
    ------
    InvalidParameterError, UnknownNameError, InvalidProblemError
        Settings that do not fit the data, the network, the folder or the run to resume.
    FileFormatError
        Damaged images, weights or checkpoints.
    DivergedError
        The loss or a weight is not finite; the last checkpoint is from before that.
    StoppedError
        `report` asked for it; the run is saved at the step it had come to.
    OutputError
        A full disk, say; the last checkpoint is intact.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = train(Settings("lenet300", "digits", method="bc", limit_steps=8), folder + "/run")
    >>> summary["levels"], summary["epochs"]
    ('binary', 1)
    """
    folder, report = Folder(Path(out)), report or Report()
    chosen = folder.begin(settings, resume)
    if (summary := folder.finished()) is not None:
        return summary
    with reproducible(chosen):
        run = Run(chosen)
        if resume:
            restore_run(run, folder)
        folder.open(run.settings)
        report.begin(run, folder)
        run_epochs(run, folder, report)
        return finish(run, folder, report)


@contextmanager
def reproducible(settings: Settings) -> Iterator[None]:
    """Seed torch's own generators, and choose threads and deterministic kernels; all of it is undone afterwards."""
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    device = torch.device(settings.device)
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch_threads(settings.threads):
        torch.manual_seed(settings.seed)
        try:
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = flags


def run_epochs(run: Run, folder: Folder, report: Report) -> None:
    """Make all steps that are left, with a checkpoint as often as the settings say."""
    watch, clock = Watch(run, folder), Clock(run)
    while not run.finished:
        run.step()
        saved = False
        if run.epoch_ended:
            watch.check_all()
            end_epoch(run, folder, report, clock)
            saved = run.finished or run.epoch % run.settings.checkpoint_every == 0
            if saved:
                save_run(run, folder)
        elif watch.due:
            watch.check()
            report.look(run, *run.meter.means(0, run.place))
        if report.stopping():
            if not saved:
                watch.check_all()
                clock.stop()
                save_run(run, folder)
            raise StoppedError(
                f"{folder.path}: stopped after step {run.progress.step:,} of {run.total_steps:,}, and saved; "
                f"{folder.resume_command} goes on"
            )


def end_epoch(run: Run, folder: Folder, report: Report, clock: Clock) -> None:
    """Measure an epoch that has ended, and keep its network if it is the best so far."""
    progress = run.progress
    loss, accuracy = run.meter.means(0, run.place)
    row: dict[str, Any] = {
        "epoch": run.epoch,
        "step": progress.step,
        "rate": run.rate,
        "train_loss": loss,
        "train_accuracy": accuracy,
        **run.statistics(),
        "best": 0,
    }
    if run.finished or run.epoch % run.settings.validate_every == 0:
        row |= validate(run, folder)
    clock.stop()
    row["seconds"] = progress.seconds
    progress.rows.append(row)
    report.epoch(run, row)


def validate(run: Run, folder: Folder) -> dict[str, Any]:
    """Return what the rounded network is worth; write it down if no earlier one was better."""
    progress = run.progress
    with run.deployed():
        found = run.grade("validation")
        best = found.accuracy >= progress.best_accuracy
        if best:
            with folder.writing():
                save(run.model, folder.pending)
            progress.best_epoch, progress.best_accuracy = run.epoch, found.accuracy
            progress.best_digest = digest_of(folder.pending)
    return {"validation_loss": found.loss, "validation_accuracy": found.accuracy, "best": int(best)}


def diverged(run: Run, folder: Folder, step: int, what: str) -> DivergedError:
    """Return the error about a run that cannot go on."""
    kept = f"{folder.checkpoint} is the run before that" if folder.checkpoint.exists() else "no epoch had ended by then"
    return DivergedError(
        f"{what} {step:,} (epoch {(step - 1) // run.epoch_steps + 1}); {kept}; the rate began at {run.settings.rate:g}:"
        " a smaller one may help",
        step,
    )


class Watch:
    """Looks for losses that are not finite, seldom enough that the device is not kept waiting."""

    def __init__(self, run: Run, folder: Folder) -> None:
        self.run, self.folder = run, folder
        self._seen, self._time = run.progress.step, time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        new = self.run.progress.step - self._seen
        return new >= LOOK_STEPS or time.perf_counter() - self._time >= LOOK_SECONDS

    def check(self) -> None:
        """Raise `DivergedError` if the loss of a step since the last look, all in one epoch, is not finite."""
        step, size = self.run.progress.step, self.run.epoch_steps
        start = self._seen % size
        bad = self.run.meter.first_bad(start, start + step - self._seen)
        if bad is not None:
            raise diverged(self.run, self.folder, self._seen - start + bad + 1, "the loss is not finite at step")
        self._seen, self._time = step, time.perf_counter()

    def check_all(self) -> None:
        """Raise `DivergedError` also if a weight is not finite: before anything is measured or saved."""
        self.check()
        tensors = [value for value in self.run.model.state_dict().values() if value.is_floating_point()]
        if not bool(torch.stack([value.isfinite().all() for value in tensors]).all()):
            raise diverged(self.run, self.folder, self._seen, "a weight is not finite after step")


class Clock:
    """Counts the seconds of a run, also over interruptions."""

    def __init__(self, run: Run) -> None:
        self._run, self._before, self._start = run, run.progress.seconds, time.perf_counter()

    def stop(self) -> None:
        """Write down the seconds up to now."""
        self._run.progress.seconds = self._before + time.perf_counter() - self._start
