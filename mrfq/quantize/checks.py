"""Are the settings of a quantization possible? So that a mistake is found before any data is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.nn.images import DATASETS
from mrfq.nn.models import MODELS
from mrfq.runs.checks import POSITIVE, SEED, Range, at_least, check_data, check_model, check_values

if TYPE_CHECKING:
    from mrfq.quantize.settings import Settings

#: kinds of files with weights
WEIGHTS = (".th", ".pt", ".pth", ".bin", ".safetensors")
#: what numbers must be, in words and as a test
RANGES: dict[str, Range] = {
    "samples": at_least(1),
    "batch_size": at_least(1),
    "classes": at_least(1),
    "threads": at_least(1),
    "distill": at_least(0),
    "distill_rate": POSITIVE,
    "distill_reach": POSITIVE,
    "seed": SEED,
}


def check_settings(settings: Settings) -> None:
    """Raise an error about the first setting that cannot be.

    Raises
    ------
    InvalidParameterError, UnknownNameError
    """
    check_values(settings, RANGES)
    _check_names(settings)
    _check_files(settings)


def _check_names(settings: Settings) -> None:
    check_model(settings.model)
    if ":" not in settings.calibration and settings.calibration not in DATASETS:
        raise UnknownNameError("calibration", settings.calibration, DATASETS, "a name, or package.module:function")


def _check_files(settings: Settings) -> None:
    check_data(settings.data, settings.dataset)
    if settings.weights is None:
        if settings.model in MODELS:
            raise InvalidParameterError(f"weights is missing: the file with the float weights of {settings.model}")
    elif Path(settings.weights).suffix not in WEIGHTS:
        raise InvalidParameterError(
            f"weights {settings.weights}: must end in {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}"
        )
