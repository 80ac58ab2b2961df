"""Settings, a dataclass of plain data, as TOML: in and out, for any such class."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from mrfq.errors import InvalidParameterError, UnknownNameError

#: bytes; a configuration is a page of text
LARGEST_FILE = 2**20
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read_toml(path: str | Path, known: Collection[str]) -> dict[str, Any]:
    """Return the settings in a TOML file, as far as it has them.

    Raises
    ------
    InvalidParameterError
        No such file, or no TOML; the message has the line.
    UnknownNameError
        A key that is not among those known, with a suggestion.
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
    check_known(values, str(path), known)
    return values


def check_known(names: Iterable[str], where: str, known: Collection[str]) -> None:
    """Raise `UnknownNameError` about a name that is no setting."""
    for name in names:
        if name not in known:
            raise UnknownNameError("setting", name, known, where)


def to_toml(settings: Any) -> str:
    """Return a dataclass of settings as TOML; those that are None are left out."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
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
