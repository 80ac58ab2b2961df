"""`--set key=value`: parameters of solvers and generators from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import Any

from mrfq import plain, registry
from mrfq.compare.conform import check_value, hints
from mrfq.errors import InvalidParameterError
from mrfq.solver import Solver


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Return the parameters that texts `key=value` stand for; values as in a suite file, quotes may be left out.

    Raises
    ------
    InvalidParameterError
        A text without an equals sign.

    Examples
    --------
    >>> parse_settings(["beta=2.5", "order=colour", 'rate={ kind = "Step", rate = 0.1 }'])
    {'beta': 2.5, 'order': 'colour', 'rate': {'kind': 'Step', 'rate': 0.1}}
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise InvalidParameterError(f"--set {text}: write it as --set key=value")
        found[key.strip()] = _value(value.strip())
    return found


def make_solver(name: str, settings: Iterable[str]) -> Solver[Any]:
    """Return the registered solver of that name with these parameters.

    Raises
    ------
    UnknownNameError, InvalidParameterError, SuiteError
        A solver or parameter that does not exist, or a value that it cannot have.
    """
    parameters = {key: plain.from_plain(value) for key, value in parse_settings(settings).items()}
    types = hints(registry.get(name))
    for key in parameters.keys() & types.keys():
        check_value("--set", key, parameters[key], types[key])
    return registry.make(name, **parameters)


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text
