"""A run at some step in one file: written so that the run goes on with the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mrfq.errors import FileFormatError, InvalidParameterError
from mrfq.files import write_atomically
from mrfq.io.state_tree import read_state, write_state
from mrfq.train.folder import Folder
from mrfq.train.history import Progress
from mrfq.train.optimizers import load_optimizer
from mrfq.train.run import Run
from mrfq.train.settings import Settings

KIND, VERSION = "training-checkpoint", 1


def save_run(run: Run, folder: Folder) -> None:
    """Write the checkpoint, give the best network its name, and write `metrics.csv`, each atomically.

    Raises
    ------
    OutputError
        The disk is full or cannot be written; the files of the last checkpoint are intact.
    """
    with folder.writing():
        write_state(folder.checkpoint, KIND, VERSION, state(run))
        folder.commit_best(run.progress.best_digest)
        write_atomically(folder.metrics, run.progress.csv())


def state(run: Run) -> dict[str, Any]:
    """Return all that a run needs to go on: plain data and tensors."""
    return {
        "settings": dataclasses.asdict(run.settings),
        "images": run.fingerprint,
        "progress": run.progress.to_plain(),
        "meter": run.meter.state(0 if run.epoch_ended else run.place),
        "model": dict(run.model.state_dict()),
        "optimizer": run.optimizer.state_dict(),
        "random": random_state(run),
    }


def restore_run(run: Run, folder: Folder) -> None:
    """Put a fresh run where its checkpoint, if there is one, left it; a folder without one begins at step 0.

    Raises
    ------
    FileFormatError
        The checkpoint is damaged, of something else, or lacks the best network that it names.
    InvalidParameterError
        It belongs to other settings or other images.
    """
    if not folder.checkpoint.is_file():
        folder.commit_best("")
        return
    found = read_state(folder.checkpoint, KIND, VERSION)
    with _reading(folder):
        settings, images = Settings(**found["settings"]), int(found["images"])
    _check_origin(run, settings, images, folder)
    with _reading(folder):
        _load(run, found)
    with folder.writing():
        folder.commit_best(run.progress.best_digest)
        write_atomically(folder.metrics, run.progress.csv())


@contextmanager
def _reading(folder: Folder) -> Iterator[None]:
    """Say of anything that does not fit that the checkpoint is not one of this run."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        found, expected = " ".join(map(str.strip, lines)), "the checkpoint of this run, of the same network"
        raise FileFormatError(str(folder.checkpoint), 1, found, expected) from error


def _check_origin(run: Run, saved: Settings, images: int, folder: Folder) -> None:
    """Raise `InvalidParameterError` about a checkpoint of other settings, or of other images."""
    names = [f.name for f in dataclasses.fields(Settings) if f.name not in Settings.FREE]
    changed = [name for name in names if getattr(saved, name) != getattr(run.settings, name)]
    if changed:
        was = ", ".join(f"{name} = {getattr(saved, name)}" for name in changed)
        raise InvalidParameterError(
            f"{folder.config}: changed since {folder.checkpoint.name} was written, which has {was}; change it back"
        )
    if images != run.fingerprint:
        raise InvalidParameterError(
            f"{run.settings.data or run.settings.dataset}: these are not the images that the run in {folder.path} "
            "began with; give the folder of those"
        )


def _load(run: Run, found: dict[str, Any]) -> None:
    """Put a run into the state of a checkpoint.

    Raises
    ------
    LookupError, TypeError, ValueError, AttributeError, RuntimeError
        Something in the state does not fit.
    """
    progress = Progress.from_plain(found["progress"])
    if progress.step > run.total_steps:
        raise ValueError(f"step {progress.step} of a run of {run.total_steps} steps")
    run.model.load_state_dict(found["model"])
    load_optimizer(run.optimizer, found["optimizer"], progress.step)
    run.meter.load(found["meter"])
    run.progress = progress
    set_random_state(run, found["random"])


def random_state(run: Run) -> dict[str, torch.Tensor]:
    """Return the states of torch's own generators, which dropout draws from."""
    found = {"cpu": torch.get_rng_state()}
    if torch.device(run.settings.device).type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(run.settings.device)
    return found


def set_random_state(run: Run, states: dict[str, torch.Tensor]) -> None:
    """Set torch's own generators."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], run.settings.device)
