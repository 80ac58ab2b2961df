"""`summary.json`: what a run found, for other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mrfq.commands.inspect_packed import packed_facts
from mrfq.compare.conform import conforms
from mrfq.compare.export import environment
from mrfq.errors import FileFormatError
from mrfq.runs.evaluation import Grade
from mrfq.runs.folder import read_summary
from mrfq.runs.settings import devices
from mrfq.train.folder import Folder
from mrfq.train.run import Run
from mrfq.train.settings import Settings

#: of a weight that is not quantized
FLOAT_BITS = 32.0


def summarise(run: Run, folder: Folder, validation: Grade, test: Grade, overhead: float | None) -> dict[str, Any]:
    """Return the summary of a finished run.

    Accuracies are in percent, losses in nats, `seconds` those of training with its evaluations, `step_overhead` the
    extra time of a step as a fraction, `packed_bytes` the size of `model.safetensors`, `bits_per_weight` what the
    labels of a quantized weight take in it (a float weight: 32), and `compression` how many times smaller it is than
    all numbers of the network in float32. What is not known is None.
    """
    settings, progress = run.settings, run.progress
    facts = packed_facts(folder.model)
    last = progress.rows[-1]
    return {
        "model": settings.model,
        "dataset": settings.dataset,
        "method": settings.method,
        "levels": settings.levels if settings.quantized else None,
        "seed": settings.seed,
        "epochs": run.epoch,
        "steps": progress.step,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "validation_accuracy": validation.accuracy,
        "validation_loss": validation.loss,
        "float_test_accuracy": float_test_accuracy(settings) if settings.quantized else test.accuracy,
        "best_epoch": progress.best_epoch,
        "best_validation_accuracy": progress.best_accuracy,
        "train_loss": last["train_loss"],
        "train_accuracy": last["train_accuracy"],
        "entropy": last.get("entropy"),
        "discrete": last.get("discrete"),
        "seconds": progress.seconds,
        "step_overhead": overhead,
        "parameters": facts["parameters"],
        "quantized_parameters": sum(layer["weights"] for layer in facts["layers"] if layer["attached"]),
        "packed_bytes": facts["file_bytes"],
        "bits_per_weight": facts["bits_per_weight"] if settings.quantized else FLOAT_BITS,
        "compression": facts["compression"],
        "command": f"mrfq train --config {folder.config.name} --out FOLDER",
        "settings": dataclasses.asdict(settings),
        "environment": {**environment(), **devices(settings)},
    }


def float_test_accuracy(settings: Settings) -> float | None:
    """Return the test accuracy of the float network that a run started from, where a summary tells it.

    Raises
    ------
    InvalidParameterError, FileFormatError
        `float_summary` is not the summary of a run.
    """
    if settings.float_summary is not None:
        path = Path(settings.float_summary)
    elif settings.init is not None and Path(settings.init).with_name("summary.json").is_file():
        path = Path(settings.init).with_name("summary.json")
    else:
        return None
    found = read_summary(path)
    accuracy = found.get("float_test_accuracy")
    if not conforms(accuracy, float | None):
        raise FileFormatError(str(path), "float_test_accuracy", repr(accuracy), "an accuracy in percent, or null")
    return accuracy
