"""Solvers, projections, schedules and step rules as plain data, for suite files and reports, and back.

A dataclass becomes a dictionary of its fields with its class under "kind"; a solver inside a solver becomes
its parameters with its registered name under "solver".
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mrfq import projections, registry, schedules, steps
from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.solver import Solver


def kinds() -> dict[str, type]:
    """Return the dataclasses that plain data may name, by class name."""
    return {
        name: kind
        for module in (projections, schedules, steps)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__.startswith(module.__name__)
    }


def to_plain(value: Any) -> Any:
    """Return plain data (dictionaries, lists, numbers, strings) for a value."""
    if isinstance(value, Solver):
        return {"solver": registry.name_of(value), **parameters(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, **parameters(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def parameters(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as plain data."""
    return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}


def from_plain(value: Any) -> Any:
    """Return the value that plain data stands for.

    Raises
    ------
    UnknownNameError
        A kind, solver or field that does not exist, with a suggestion.
    """
    if isinstance(value, list):
        return tuple(from_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {name: from_plain(item) for name, item in value.items() if name not in ("kind", "solver")}
    if "solver" in value:
        return registry.make(value["solver"], **fields)
    if "kind" not in value:
        raise InvalidParameterError(f"a table needs 'kind' or 'solver', got the keys {', '.join(value)}")
    known = kinds()
    if value["kind"] not in known:
        raise UnknownNameError("kind", str(value["kind"]), known)
    kind = known[value["kind"]]
    names = {f.name for f in dataclasses.fields(kind)}
    for name in fields:
        if name not in names:
            raise UnknownNameError(f"field of {value['kind']}", name, names)
    try:
        return kind(**fields)
    except TypeError as error:
        raise InvalidParameterError(f"{value['kind']}: {error}") from error
