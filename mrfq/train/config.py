"""Settings as TOML, in and out."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.train.settings import Settings

#: bytes; a configuration is a page of text
LARGEST_FILE = 2**20
NAMES = tuple(field.name for field in dataclasses.fields(Settings))
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the settings in a TOML file, as far as it has them.

    Raises
    ------
    InvalidParameterError
        No such file, or no TOML; the message has the line.
    UnknownNameError
        A key that is no setting, with a suggestion.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InvalidParameterError(f"{path}: larger than a configuration can be ({LARGEST_FILE:,} bytes)")
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidParameterError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of the encoding, or TOMLDecodeError, which names line and column
        raise InvalidParameterError(f"{path}: {error}") from error
    check_names(values, str(path))
    return values


def check_names(names: Iterable[str], where: str) -> None:
    """Raise `UnknownNameError` about a name that is no setting."""
    for name in names:
        if name not in NAMES:
            raise UnknownNameError("setting", name, NAMES, where)


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
    values = {name: getattr(settings, name) for name in NAMES}
    return "".join(f"{name} = {_written(value)}\n" for name, value in values.items() if value is not None)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        items = (f"{_key(key)} = {_written(item)}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(items) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return repr(value)


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else _written(name)
