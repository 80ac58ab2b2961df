"""Are the settings of a quantization possible? So that a mistake is found before any data is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrfq.compare.conform import conforms, describe, hints
from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.nn.images import DATASETS
from mrfq.nn.models import MODELS

if TYPE_CHECKING:
    from mrfq.quantize.settings import Settings

#: kinds of files with weights
WEIGHTS = (".th", ".pt", ".pth", ".bin", ".safetensors")
COUNT: tuple[str, Callable[[Any], bool]] = ("at least 1", lambda value: value >= 1)
#: what numbers must be, in words and as a test
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "samples": COUNT,
    "batch_size": COUNT,
    "classes": COUNT,
    "threads": COUNT,
    "distill": ("at least 0", lambda value: value >= 0),
    "distill_rate": ("positive and finite", lambda value: 0 < value < math.inf),
    "seed": ("from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32),
}


def check_settings(settings: Settings) -> None:
    """Raise an error about the first setting that cannot be.

    Raises
    ------
    InvalidParameterError, UnknownNameError
    """
    types = hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not conforms(value, types[field.name]):
            raise InvalidParameterError(f"{field.name} must be {describe(types[field.name])}, got {value!r}")
        if field.name in RANGES and value is not None:
            words, possible = RANGES[field.name]
            if not possible(value):
                raise InvalidParameterError(f"{field.name} must be {words}, got {value!r}")
    _check_names(settings)
    _check_files(settings)


def _check_names(settings: Settings) -> None:
    if ":" not in settings.model and settings.model not in MODELS:
        raise UnknownNameError("model", settings.model, MODELS, "a name, or package.module:factory")
    if ":" not in settings.calibration and settings.calibration not in DATASETS:
        raise UnknownNameError("calibration", settings.calibration, DATASETS, "a name, or package.module:function")


def _check_files(settings: Settings) -> None:
    if settings.data is None and settings.calibration in DATASETS and settings.calibration != "digits":
        raise InvalidParameterError(f"data is missing: the folder that holds the images of {settings.calibration}")
    if settings.weights is None:
        if settings.model in MODELS:
            raise InvalidParameterError(f"weights is missing: the file with the float weights of {settings.model}")
    elif Path(settings.weights).suffix not in WEIGHTS:
        raise InvalidParameterError(
            f"weights {settings.weights}: must end in {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}"
        )
