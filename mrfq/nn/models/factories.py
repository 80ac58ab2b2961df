"""The user's own network: a function that makes it, named as ``package.module:function``."""

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

from torch import nn

from mrfq.errors import InvalidParameterError
from mrfq.nn.models.layers import seeded


def is_spec(name: str) -> bool:
    """Whether a name of a network is that of a factory."""
    return ":" in name


def factory(spec: str, *, seed: int = 0, required: Mapping[str, object] | None = None, **offered: object) -> nn.Module:
    """Return the network that a function of the user's makes.

    The module is imported with the current directory in front of the path; the function is called with torch's
    global generators seeded, and they are put back afterwards.

    Parameters
    ----------
    spec : str
        `"package.module:function"`; the function may also be a class, or an attribute of one.
    seed : int
    required : mapping, optional
        Arguments that the function must accept.
    **offered
        Arguments that are passed if the function accepts them by name, and left out otherwise.

    Raises
    ------
    InvalidParameterError
        The text is not of that form, there is no such module or function, either fails, the function needs other
        arguments, or what it returns is not an `nn.Module`.

    Examples
    --------
    >>> factory("torch.nn:Flatten", channels=3, size=32, classes=10)
    Flatten(start_dim=1, end_dim=-1)
    """
    module, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for text in (module, attribute) for part in text.split(".")):
        raise InvalidParameterError(f"model {spec!r}: must have the form 'package.module:factory'")
    with _current_directory_importable():
        make = _find(spec, module, attribute)
        arguments = _accepted(spec, make, required or {}, offered)
        with seeded(seed):
            try:
                made = make(**arguments)
            except Exception as error:
                raise _failure(spec, f"{attribute} failed", error) from error
    if not isinstance(made, nn.Module):
        raise InvalidParameterError(f"model {spec!r}: must return a torch.nn.Module, got {type(made).__name__}")
    return made


def _find(spec: str, module: str, attribute: str) -> Callable[..., Any]:
    """Return the function that a text names."""
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise InvalidParameterError(
                f"model {spec!r}: there is no module {error.name!r} in {os.getcwd()} or among the installed packages"
            ) from error
        raise InvalidParameterError(f"model {spec!r}: {module} imports {error.name!r}, which is missing") from error
    except Exception as error:
        raise _failure(spec, f"importing {module} failed", error) from error
    try:
        make = operator.attrgetter(attribute)(imported)
    except AttributeError as error:
        public = [name for name in dir(imported) if not name.startswith("_")]
        raise InvalidParameterError(
            f"model {spec!r}: {module} has no {attribute!r}; it has {', '.join(public[:12]) or 'no public names'}"
        ) from error
    if not callable(make):
        raise InvalidParameterError(f"model {spec!r}: must name something to call, not a {type(make).__name__}")
    found: Callable[..., Any] = make
    return found


def _accepted(
    spec: str, make: Callable[..., Any], required: Mapping[str, object], offered: Mapping[str, object]
) -> dict[str, object]:
    """Return the arguments to call a function with."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some functions of C extensions have no signature
        return {**offered, **required}
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
    given = {key: value for key, value in {**offered, **required}.items() if anything or key in named}
    for key in required:
        if key not in given:
            raise InvalidParameterError(f"model {spec!r}: has no parameter {key!r}; leave it out, or add it")
    for p in parameters:
        optional = p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if not optional and (p.kind == p.POSITIONAL_ONLY or p.name not in given):
            raise InvalidParameterError(
                f"model {spec!r}: its parameter {p.name!r} needs a default value; it is only given, by name, "
                f"{', '.join(offered) or 'nothing'}"
            )
    return given


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _failure(spec: str, what: str, error: Exception) -> InvalidParameterError:
    """Return the error to raise for one in the user's code; it says where that happened."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return InvalidParameterError(f"model {spec!r}: {what}: {type(error).__name__}: {error} ({where})")
