"""`quantize_network`: from settings to a folder with a packed network and a report."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mrfq.errors import MrfqError
from mrfq.files import write_atomically
from mrfq.kernels import torch_threads
from mrfq.nn.models.layers import seeded
from mrfq.nn.packed import load, save
from mrfq.quantize.calibration import Calibration, calibration
from mrfq.quantize.distill import Distillation, distill
from mrfq.quantize.folder import Folder
from mrfq.quantize.page import write_page
from mrfq.quantize.pipeline import quantize
from mrfq.quantize.report import Progress, Report
from mrfq.quantize.reporting import Listener
from mrfq.quantize.settings import Settings
from mrfq.quantize.summary import Accuracies, summarise
from mrfq.quantize.weights import float_network
from mrfq.runs.errors import StoppedError
from mrfq.runs.evaluation import grade, in_order
from mrfq.study.export import plain


class Result(NamedTuple):
    """The quantized and the float network, and what was found on the way."""

    model: nn.Module
    original: nn.Module
    report: Report
    distillation: Distillation | None


def quantize_network(
    settings: Settings | None, out: str | Path, *, resume: bool = False, listener: Listener | None = None
) -> dict[str, Any]:
    """Quantize a network as settings say, and return the summary that is also written as `summary.json`.

    Parameters
    ----------
    settings : Settings, optional
        Left out, those of the quantization that is resumed.
    out : str or Path
        Folder of the results: made if it does not exist, and empty unless `resume`.
    resume : bool
        Go on after the layers that are done; what is finished is left as it is. In an empty folder, begin.
    listener : Listener, optional
        Told what happens.

    Returns
    -------
    dict
        Accuracies in percent, errors relative to the float layer's output, times in seconds, sizes in bytes; None for
        what is not known.

    Raises
    ------
    InvalidParameterError, UnknownNameError, InvalidProblemError
        Settings that do not fit the inputs, the network or the folder.
    FileFormatError
        Damaged images, weights or layers.
    StoppedError
        `listener` asked for it; the layers that are done are kept.
    OutputError
        A full disk, say; the layers that are done are kept.

    Examples
    --------
    >>> import tempfile
    >>> from mrfq.nn.models import build
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(build("lenet300", channels=1, size=8, classes=10).state_dict(), folder + "/float.pt")
    ...     settings = Settings("lenet300", "digits", folder + "/float.pt", levels="ternary", samples=128)
    ...     summary = quantize_network(settings, folder + "/out")
    >>> [layer["name"] for layer in summary["layers"]]
    ['fc1', 'fc2', 'fc3']
    """
    folder, listener = Folder(Path(out)), listener or Listener()
    chosen = folder.begin(settings, resume)
    if (summary := folder.finished()) is not None:
        return summary
    with seeded(chosen.seed), torch_threads(chosen.threads):  # the user's functions may draw, too
        inputs = calibration(chosen)
        original = float_network(chosen, inputs)
        model = copy.deepcopy(original)
        report = quantize_layers(chosen, folder, inputs, model, listener)
        result = Result(model, original, report, tuned(model, original, inputs, chosen, watch(folder, listener)))
        return finish(chosen, folder, inputs, result, listener)


def quantize_layers(
    settings: Settings, folder: Folder, inputs: Calibration, model: nn.Module, listener: Listener
) -> Report:
    """Quantize a network in place; where that fails before a layer is done, leave no folder behind."""
    try:
        folder.open(settings)
        listener.begin(settings, inputs, folder)
        with folder.writing():
            return quantize(
                model,
                inputs.batches,
                options=settings.options(),
                callback=watch(folder, listener),
                state_folder=folder.state,
            )
    except BaseException:
        folder.withdraw()
        raise


def watch(folder: Folder, listener: Listener) -> Callable[[Progress | str], None]:
    """Return what is called after every layer: it tells the listener, and stops where that asks for it."""

    def tell(event: Progress | str) -> None:
        if isinstance(event, str):
            listener.note(event)
        else:
            listener.progress(event)
        if listener.stopping():
            kept = f"the layers that are done are kept, and {folder.resume_command} goes on"
            raise StoppedError(f"{folder.path}: stopped; {kept if folder.begun else 'no layer was done'}")

    return tell


def tuned(
    model: nn.Module, original: nn.Module, inputs: Calibration, settings: Settings, tell: Callable[[str], None]
) -> Distillation | None:
    """Distil a quantized network in place, if the settings ask for it, and return what that did."""
    if not settings.distill:
        return None

    source = None
    if settings.distill_augment:
        source = inputs.augmented(settings.held_out, settings.batch_size, settings.seed)

    def callback(step: int, error: float) -> None:
        tell(f"distillation: step {step:,} of {settings.distill:,}, error {error:.4g}")

    return distill(
        model,
        original,
        inputs.batches,
        settings.distill,
        rate=settings.distill_rate,
        reach=settings.distill_reach if settings.distill_labels else 0.0,
        held_out=settings.held_out,
        seed=settings.seed,
        source=source,
        callback=callback,
    )


def finish(
    settings: Settings, folder: Folder, inputs: Calibration, result: Result, listener: Listener
) -> dict[str, Any]:
    """Pack a network, test it and the float one, write the files and return the summary.

    `summary.json` is written last: what is broken off here is repeated when it is resumed.
    """
    with folder.writing():
        save(result.model, folder.model, align=settings.align)
    check_reload(folder.model, result.model, result.original)
    accuracies = Accuracies(None, None)
    if settings.tested:
        listener.note("the test images")
        accuracies = Accuracies(accuracy_on_test(result.model, inputs), accuracy_on_test(result.original, inputs))
    summary: dict[str, Any] = plain(summarise(settings, folder, result, accuracies))
    with folder.writing():
        write_page(summary, result.model, result.original, folder)
        write_atomically(folder.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    folder.close()
    return summary


def check_reload(path: Path, model: nn.Module, original: nn.Module) -> None:
    """Raise an error unless a packed file, loaded into the float network, gives the very bits of the quantized one."""
    loaded = load(path, copy.deepcopy(original)).state_dict()
    for name, value in model.state_dict().items():
        if not torch.equal(loaded[name], value):
            raise MrfqError(f"{path}: {name} does not come back as it was written; please report this as a bug")


def accuracy_on_test(model: nn.Module, inputs: Calibration) -> float:
    """Return the accuracy on the test images of the data set, in percent."""
    assert inputs.data is not None
    return grade(model, in_order(inputs.data, inputs.data.test), 1.0).accuracy
