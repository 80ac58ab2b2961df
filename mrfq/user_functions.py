"""The user's own functions, named as ``package.module:function``."""

from __future__ import annotations

import importlib
import inspect
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrfq.errors import InvalidParameterError


def call_named(what: str, spec: str, offered: Mapping[str, object]) -> Any:
    """Return what a function of the user's returns.

    The module is imported with the current directory in front of the path.

    Parameters
    ----------
    what : str
        What the function is for; messages begin with it.
    spec : str
        `"package.module:function"`; the function may also be a class, or an attribute of one.
    offered : mapping
        Arguments that are passed if the function accepts them by name, and left out otherwise.

    Raises
    ------
    InvalidParameterError
        The text is not of that form, there is no such module or function, either fails, or the function needs other
        arguments.

    Examples
    --------
    >>> call_named("calibration", "fractions:Fraction", {"numerator": 3, "batch_size": 4})
    Fraction(3, 1)
    """
    place = f"{what} {spec!r}"
    with current_directory_importable():
        function = named_function(place, spec, "function")
        arguments = accepted(place, function, offered)
        return called(place, spec, function, arguments)


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Put the current directory in front of Python's path for a while."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def failure(place: str, what: str, error: Exception) -> InvalidParameterError:
    """Return the error to raise for one in the user's code; it says where that happened."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return InvalidParameterError(f"{place}: {what}: {type(error).__name__}: {error} ({where})")


def named_function(place: str, spec: str, kind: str) -> Callable[..., Any]:
    """Return the function that a text names; messages begin with `place`, and call it a `kind`."""
    module, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for text in (module, attribute) for part in text.split(".")):
        raise InvalidParameterError(f"{place}: must have the form 'package.module:{kind}'")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise InvalidParameterError(
                f"{place}: there is no module {error.name!r} in {os.getcwd()} or among the installed packages"
            ) from error
        raise InvalidParameterError(f"{place}: {module} imports {error.name!r}, which is missing") from error
    except Exception as error:
        raise failure(place, f"importing {module} failed", error) from error
    try:
        found: Callable[..., Any] = operator.attrgetter(attribute)(imported)
    except AttributeError as error:
        public = [name for name in dir(imported) if not name.startswith("_")]
        raise InvalidParameterError(
            f"{place}: {module} has no {attribute!r}; it has {', '.join(public[:12]) or 'no public names'}"
        ) from error
    if not callable(found):
        raise InvalidParameterError(f"{place}: must name something to call, not a {type(found).__name__}")
    return found


def called(place: str, spec: str, function: Callable[..., Any], arguments: Mapping[str, object]) -> Any:
    """Return what a function returns; an error in it is one of the user's code."""
    try:
        return function(**arguments)
    except Exception as error:
        raise failure(place, f"{spec.partition(':')[2]} failed", error) from error


def accepted(
    place: str,
    function: Callable[..., Any],
    offered: Mapping[str, object],
    required: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the arguments to call a function with: all that are required, and of those offered what it accepts."""
    required = required or {}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions of C extensions have no signature
        return {**offered, **required}
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
    given = {key: value for key, value in {**offered, **required}.items() if anything or key in named}
    for key in required:
        if key not in given:
            raise InvalidParameterError(f"{place}: has no parameter {key!r}; leave it out, or add it")
    for p in parameters:
        optional = p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if not optional and (p.kind == p.POSITIONAL_ONLY or p.name not in given):
            raise InvalidParameterError(
                f"{place}: its parameter {p.name!r} needs a default value; it is only given, by name, "
                f"{', '.join(offered) or 'nothing'}"
            )
    return given
