"""Settings as TOML, in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrfq import toml_settings
from mrfq.errors import InvalidParameterError
from mrfq.train.settings import Settings

NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the settings in a TOML file, as far as it has them.

    Raises
    ------
    InvalidParameterError
        No such file, or no TOML; the message has the line.
    UnknownNameError
        A key that is no setting, with a suggestion.
    """
    return toml_settings.read_toml(path, NAMES)


def check_names(names: Iterable[str], where: str) -> None:
    """Raise `UnknownNameError` about a name that is no setting."""
    toml_settings.check_known(names, where, NAMES)


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Return the settings of a mapping by name.

    Raises
    ------
    InvalidParameterError, UnknownNameError
        What is missing, unknown or impossible.

    Examples
    --------
    >>> make_settings({"model": "lenet300", "dataset": "digits", "levels": [-1, 1]}).levels
    (-1, 1)
    """
    check_names(values, "settings")
    missing = [name for name in ("model", "dataset") if values.get(name) is None]
    if missing:
        raise InvalidParameterError(f"a training run needs {' and '.join(missing)}: options, or keys of --config FILE")
    return Settings(**values)


def to_toml(settings: Settings) -> str:
    """Return settings as TOML; those that are None are left out.

    Examples
    --------
    >>> text = to_toml(Settings("lenet300", "digits", schedule={"kind": "Geometric", "first": 1, "last": 1e4}))
    >>> print("".join(line for line in text.splitlines(True) if line.startswith(("model", "schedule"))), end="")
    model = "lenet300"
    schedule = {kind = "Geometric", first = 1, last = 10000.0}
    """
    return toml_settings.to_toml(settings)
