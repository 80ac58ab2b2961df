"""Does a value read from a file fit a type hint? So that a typo is found before anything runs."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from mrfq.errors import SuiteError

NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a table",
    list: "a list",
    type(None): "nothing",
}


def conforms(value: Any, hint: Any) -> bool:
    """Return whether plain data or a hyper-parameter fits a type hint; hints it cannot read fit everything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(conforms(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if _sequence(origin):
        items = [a for a in arguments if a is not Ellipsis]
        return isinstance(value, list | tuple) and (len(items) != 1 or all(conforms(v, items[0]) for v in value))
    if isinstance(origin, type):
        return isinstance(value, origin)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    try:
        return hint is Any or not isinstance(hint, type) or isinstance(value, hint)
    except TypeError:  # a protocol that cannot be checked
        return True


def describe(hint: Any) -> str:
    """Return a type hint in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(option) for option in arguments if option is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in arguments)
    if _sequence(origin):
        items = [describe(a) for a in arguments if a is not Ellipsis]
        return f"a list of {items[0].removeprefix('a ')}s" if len(items) == 1 else "a list"
    kind = origin or hint
    return NAMES.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _sequence(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, collections.abc.Sequence)


def hints(owner: Any) -> dict[str, Any]:
    """Return the type hints of a function or class; none if they cannot be resolved."""
    try:
        return typing.get_type_hints(owner)
    except (NameError, TypeError):  # names imported for type checkers only
        return {}


def check_value(where: str, name: str, value: Any, hint: Any) -> None:
    """Raise `SuiteError` unless the value fits the hint."""
    if not conforms(value, hint):
        raise SuiteError(f"{where}: {name} must be {describe(hint)}, got {value!r}")


def check_fields(where: str, owner: Any) -> None:
    """Raise `SuiteError` unless every field of a dataclass, and of the dataclasses in it, fits its type hint."""
    known = hints(type(owner))
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        check_value(where, field.name, value, known.get(field.name, Any))
        for part in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                check_fields(f"{where}, {field.name}", part)
