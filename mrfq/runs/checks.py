"""Are the settings of a run possible? What all runs check, before any data is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from mrfq.compare.conform import conforms, describe, hints
from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.nn.models import MODELS
from mrfq.runs.settings import RunSettings

#: what a number must be, in words and as a test
Range = tuple[str, Callable[[Any], bool]]


def at_least(least: float) -> Range:
    """Return the range of finite numbers from one on."""
    return f"at least {least}", lambda value: least <= value < math.inf


POSITIVE: Range = ("positive and finite", lambda value: 0 < value < math.inf)
FRACTION: Range = ("at least 0 and below 1", lambda value: 0 <= value < 1)
SEED: Range = ("from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)


def check_values(settings: RunSettings, ranges: Mapping[str, Range]) -> None:
    """Raise `InvalidParameterError` about the first setting that has another type, or is outside its range."""
    types = hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not conforms(value, types[field.name]):
            raise InvalidParameterError(f"{field.name} must be {describe(types[field.name])}, got {value!r}")
        if field.name in ranges and value is not None:
            words, possible = ranges[field.name]
            if not possible(value):
                raise InvalidParameterError(f"{field.name} must be {words}, got {value!r}")


def check_model(model: str) -> None:
    """Raise `UnknownNameError` unless this is a built-in network, or may be a factory of the user's."""
    if ":" not in model and model not in MODELS:
        raise UnknownNameError("model", model, MODELS, "a name, or package.module:factory")


def check_data(data: str | None, dataset: str | None) -> None:
    """Raise `InvalidParameterError` unless there is a folder for the images of a built-in data set that needs one."""
    if data is None and dataset not in (None, "digits"):
        raise InvalidParameterError(f"data is missing: the folder that holds the images of {dataset}")
