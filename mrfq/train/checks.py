"""Are the settings of a run possible? So that a mistake is found before any data is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.labels import integer_levels
from mrfq.nn.methods import METHODS
from mrfq.runs.checks import FRACTION, POSITIVE, SEED, Range, at_least, check_data, check_model, check_values
from mrfq.train.defaults import BY_DATASET, FLOAT

if TYPE_CHECKING:
    from mrfq.train.settings import Settings

#: what numbers must be, in words and as a test
RANGES: dict[str, Range] = {
    "epochs": at_least(1),
    "seed": SEED,
    "batch_size": at_least(2),
    "rate": POSITIVE,
    "momentum": FRACTION,
    "weight_decay": at_least(0),
    "factor": POSITIVE,
    "logit_scale": POSITIVE,
    "label_smoothing": FRACTION,
    "shift": at_least(0),
    "crop": at_least(0),
    "refit_every": at_least(1),
    "validation": at_least(1),
    "threads": at_least(1),
    "checkpoint_every": at_least(1),
    "validate_every": at_least(1),
    "limit_steps": at_least(1),
}


def check_settings(settings: Settings) -> None:
    """Raise an error about the first setting that cannot be.

    Raises
    ------
    InvalidParameterError, UnknownNameError
    """
    check_values(settings, RANGES)
    _check_names(settings)
    _check_combinations(settings)


def _check_names(settings: Settings) -> None:
    if settings.dataset not in BY_DATASET:
        raise UnknownNameError("dataset", settings.dataset, BY_DATASET)
    check_model(settings.model)
    if settings.method not in {*METHODS, FLOAT}:
        raise UnknownNameError("method", settings.method, {*METHODS, FLOAT})
    if isinstance(settings.levels, str):
        integer_levels(settings.levels)


def _check_combinations(settings: Settings) -> None:
    check_data(settings.data, settings.dataset)
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
