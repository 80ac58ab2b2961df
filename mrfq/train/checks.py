"""Are the settings of a run possible? So that a mistake is found before any data is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mrfq.compare.conform import conforms, describe, hints
from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.labels import integer_levels
from mrfq.nn.methods import METHODS
from mrfq.nn.models import MODELS
from mrfq.train.defaults import BY_DATASET, FLOAT

if TYPE_CHECKING:
    from mrfq.train.settings import Settings

Test = Callable[[Any], bool]


def _at_least(least: float) -> tuple[str, Test]:
    return f"at least {least}", lambda value: least <= value < math.inf


POSITIVE: tuple[str, Test] = ("positive and finite", lambda value: 0 < value < math.inf)
FRACTION: tuple[str, Test] = ("at least 0 and below 1", lambda value: 0 <= value < 1)
#: what numbers must be, in words and as a test
RANGES: dict[str, tuple[str, Test]] = {
    "epochs": _at_least(1),
    "seed": ("from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32),
    "batch_size": _at_least(2),
    "rate": POSITIVE,
    "momentum": FRACTION,
    "weight_decay": _at_least(0),
    "factor": POSITIVE,
    "logit_scale": POSITIVE,
    "label_smoothing": FRACTION,
    "shift": _at_least(0),
    "crop": _at_least(0),
    "refit_every": _at_least(1),
    "validation": _at_least(1),
    "threads": _at_least(1),
    "checkpoint_every": _at_least(1),
    "validate_every": _at_least(1),
    "limit_steps": _at_least(1),
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
    _check_combinations(settings)


def _check_names(settings: Settings) -> None:
    if settings.dataset not in BY_DATASET:
        raise UnknownNameError("dataset", settings.dataset, BY_DATASET)
    if ":" not in settings.model and settings.model not in MODELS:
        raise UnknownNameError("model", settings.model, MODELS, "a name, or package.module:factory")
    if settings.method not in {*METHODS, FLOAT}:
        raise UnknownNameError("method", settings.method, {*METHODS, FLOAT})
    if isinstance(settings.levels, str):
        integer_levels(settings.levels)


def _check_combinations(settings: Settings) -> None:
    if settings.data is None and settings.dataset != "digits":
        raise InvalidParameterError(f"data is missing: the folder that holds the images of {settings.dataset}")
    if isinstance(settings.scale, int) and settings.scale < 1:
        raise InvalidParameterError(f"scale must be none, tensor, channel or the size of a group, got {settings.scale}")
    if settings.shift and settings.crop:
        raise InvalidParameterError("shift and crop are the same augmentation under two names; give one of them")
    inside = all(0 < mark < 1 for mark in settings.milestones)
    if not inside or list(settings.milestones) != sorted(set(settings.milestones)):
        raise InvalidParameterError(
            f"milestones must be ascending fractions of the run, between 0 and 1, got {list(settings.milestones)}"
        )
    if settings.nesterov and (settings.momentum == 0 or settings.optimizer not in (None, "sgd")):
        raise InvalidParameterError("nesterov needs optimizer sgd and a momentum above 0")
    if settings.method == FLOAT and settings.float_summary is not None:
        raise InvalidParameterError("float_summary belongs to a quantized network; this run trains the float one")
