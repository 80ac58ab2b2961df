"""Kinds of problems that a suite can name. A new kind is one line in `kinds`.

A kind is a function of keyword parameters, `seed` among them, that returns a problem, or a task: an object with a
`problem`, `float_metrics` (of the network before quantization) and `evaluate(labels) -> metrics`.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, cast

from torch import Tensor

from mrfq.compare.conform import check_value, hints
from mrfq.errors import MrfqError, SuiteError, UnknownNameError
from mrfq.generators import GENERATORS
from mrfq.io.formats import read
from mrfq.plain import to_plain
from mrfq.problem import Problem

Family = Literal["mrf", "network"]
#: numbers that a problem of a suite may hold
LARGEST = 10**8
FAMILIES: tuple[Family, ...] = ("mrf", "network")


@dataclass(frozen=True)
class Instance:
    """A problem to solve, and how the harness grades a labelling of it beyond its energy."""

    problem: Problem
    #: metrics of the network before quantization; empty for an MRF
    float_metrics: Mapping[str, float] = field(default_factory=dict)
    #: metrics of a labelling; none for an MRF
    evaluate: Callable[[Tensor], Mapping[str, float]] = lambda labels: {}


@dataclass(frozen=True)
class Kind:
    """A way to make problems.

    Parameters
    ----------
    family : {"mrf", "network"}
    source : callable or str
        The function, or where to import it from when it is first used ("package.module:function").
    size : callable
        About how many numbers a problem with these parameters holds, so that a slip of the pen (or a hostile file)
        is refused before anything is allocated.
    trial : mapping
        Parameters that make an instance cheap, to try out the others.
    """

    family: Family
    source: Callable[..., Any] | str
    size: Callable[[Mapping[str, Any]], int]
    trial: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function that makes a problem or a task."""
        if not isinstance(self.source, str):
            return self.source
        function: Callable[..., Any] = pkgutil.resolve_name(self.source)
        return function

    def resolve(self, where: str, parameters: Mapping[str, Any], keys: Iterable[str] = ()) -> dict[str, Any]:
        """Return all parameters but the seed as plain data, defaults filled in.

        Parameters
        ----------
        where : str
            The entry of the suite, for messages.
        parameters : mapping
        keys : iterable of str
            Other keys of the entry, to be suggested for a typo.

        Raises
        ------
        UnknownNameError, SuiteError
            A parameter that the kind does not have, or with a value of the wrong type.
        """
        known = {name: p.default for name, p in inspect.signature(self.function).parameters.items()}
        types = hints(self.function)
        for name, value in parameters.items():
            if name not in known:
                raise UnknownNameError("key", name, {*known, *keys}, where)
            check_value(where, name, value, types.get(name, Any))
        defaults = {name: to_plain(default) for name, default in known.items() if name != "seed"}
        for name, default in defaults.items():
            if default is inspect.Parameter.empty and name not in parameters:
                raise SuiteError(f"{where}: the parameter {name!r} is required")
        return {**defaults, **parameters}

    def make(self, parameters: Mapping[str, Any], seed: int) -> Instance:
        """Return the instance of a seed; a seed among the parameters comes first."""
        arguments = {name: _tuples(value) for name, value in parameters.items()}
        made = self.function(**{"seed": seed, **arguments})
        if self.family == "mrf":
            return Instance(made)
        return Instance(made.problem, made.float_metrics, made.evaluate)


def kinds() -> dict[str, Kind]:
    """Return every kind by name."""
    return {
        **{
            name: Kind("mrf", cast(Callable[..., Any], make), SIZES.get(name, _grid))
            for name, make in GENERATORS.items()
        },
        "file": Kind("mrf", model_file, lambda parameters: 0),
        "layer": Kind("mrf", "mrfq.layerwise.instances:synthetic_layer", _layer),
        "layer-file": Kind("mrf", "mrfq.layerwise.instances:layer_file", lambda parameters: 0),
        "digits-layer": Kind("mrf", "mrfq.nn.digits_layer:digits_layer", lambda parameters: 0, {"epochs": 1}),
        "digits": Kind("network", "mrfq.nn.digits:digits_task", _perceptron, {"epochs": 1}),
        "digits-tiny": Kind("network", "mrfq.nn.digits:digits_tiny_task", lambda parameters: 0, {"epochs": 1}),
    }


def model_file(path: str, evidence: str = "", seed: int = 0) -> Problem:
    """Return the model in a file, the same for every seed; paths are as seen from where the command runs.

    Parameters
    ----------
    path : str
        In one of the formats of `mrfq.read`.
    evidence : str
        A file of observed variables.
    seed : int
        Of the solvers only.
    """
    return read(path, evidence=evidence or None)


def _grid(parameters: Mapping[str, Any]) -> int:
    labels = parameters.get("labels", 2)
    variables = math.prod(parameters.get(side, 1) for side in ("height", "width", "n"))
    return int(variables * labels + labels**2)


def _tables(parameters: Mapping[str, Any]) -> int:
    return int(parameters["n"] * parameters["labels"] ** 2)


def _layer(parameters: Mapping[str, Any]) -> int:
    return int(parameters["columns"] * (parameters["columns"] + 16 * parameters["rows"]))


def _perceptron(parameters: Mapping[str, Any]) -> int:
    sizes: list[int] = [64, *parameters["hidden"], 10]
    levels = parameters["levels"]
    return sum(a * b for a, b in itertools.pairwise(sizes)) * (16 if isinstance(levels, str) else len(levels))


SIZES: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "dense-ising": lambda parameters: int(parameters["n"] ** 2),
    "potts-graph": lambda parameters: _grid(parameters) + int(parameters["n"] * parameters["degree"]),
    "chain": _tables,
    "tree": _tables,
}


@lru_cache(maxsize=8)
def _cached(kind: str, parameters: str, seed: int) -> Instance:
    return kinds()[kind].make(json.loads(parameters), seed)


def instance(kind: str, parameters: Mapping[str, Any], seed: int) -> Instance:
    """Return an instance, remembered by the process: training a float network takes longer than many runs."""
    return _cached(kind, json.dumps(parameters, sort_keys=True), seed)


def try_out(where: str, kind: str, parameters: Mapping[str, Any], seed: int) -> Instance:
    """Make an instance, cheaply, so that impossible values are found before anything runs.

    Raises
    ------
    SuiteError
        No instance can be made.
    """
    size = kinds()[kind].size(parameters)
    if size > LARGEST:
        raise SuiteError(f"{where}: too large, about 10^{math.log10(size):.0f} numbers; the limit is {LARGEST:,}")
    try:
        return instance(kind, {**parameters, **kinds()[kind].trial}, seed)
    except Exception as error:  # a generator may hand on whatever its libraries raise
        known = isinstance(error, MrfqError)
        raise SuiteError(f"{where}: {error if known else f'{type(error).__name__}: {error}'}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
