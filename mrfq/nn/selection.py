"""Which parameters of a network are labelled, with which levels and scales."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mrfq.errors import InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.labels import integer_levels
from mrfq.nn.scaling import fit_scale

Levels = str | Sequence[float]
#: names, shell patterns and module types, or a test of (name, parameter); None: all but normalisation layers
Choice = str | type[nn.Module] | Sequence[str | type[nn.Module]] | Callable[[str, nn.Parameter], bool] | None
#: layers whose parameters stay float by default: they absorb the scale of the discrete weights
NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Segment:
    """One labelled parameter: its place in the vector of all weights, and its scale."""

    name: str
    shape: torch.Size
    start: int
    stop: int
    #: float weights are nearest to `scale * level`
    scale: float


def choose(model: nn.Module, parameters: Choice) -> dict[str, nn.Parameter]:
    """Return the parameters to label, by name; a tied parameter appears once.

    Parameters
    ----------
    model : nn.Module
    parameters : sequence of str and module types, callable or None
        Names or shell patterns (`"*.weight"`), and types of modules whose own parameters are meant (`nn.Conv2d`), or a
        test of (name, parameter). None takes all parameters except those of normalisation layers.

    Raises
    ------
    UnknownNameError, InvalidProblemError
        A pattern or a type that matches nothing.
    InvalidProblemError
        Nothing left to label.
    """
    named = dict(model.named_parameters())
    if parameters is None:
        kept = _inside(model, NORMALISATION)
        chosen = {name: p for name, p in named.items() if name not in kept}
    elif callable(parameters) and not isinstance(parameters, type):
        chosen = {name: p for name, p in named.items() if parameters(name, p)}
    else:
        wanted = [parameters] if isinstance(parameters, str | type) else parameters
        matched = {name for choice in wanted for name in _matching(model, named, choice)}
        chosen = {name: p for name, p in named.items() if name in matched}
    if not chosen:
        raise InvalidProblemError("no parameter of the network was chosen for labelling")
    for name, p in chosen.items():
        if not p.is_floating_point() or p.numel() == 0 or not bool(p.isfinite().all()):
            raise InvalidProblemError(f"parameter {name!r} needs finite floating-point weights, at least one")
    return chosen


def _inside(model: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> set[str]:
    """Return the names of the parameters that modules of some types hold themselves."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }


def _matching(model: nn.Module, named: Mapping[str, nn.Parameter], choice: str | type[nn.Module]) -> set[str]:
    if isinstance(choice, type):
        found = _inside(model, choice) & named.keys()
        if not found:
            raise InvalidProblemError(f"parameters: the network has no {choice.__name__} with parameters of its own")
        return found
    found = {name for name in named if fnmatch.fnmatchcase(name, choice)}
    if not found:
        raise UnknownNameError("parameter", str(choice), named, "parameters of the network")
    return found


def assign_levels(names: Sequence[str], labels: Levels | Mapping[str, Levels]) -> list[list[float]]:
    """Return the levels of each parameter; a mapping goes from shell patterns to levels, first match wins."""
    if not isinstance(labels, Mapping):
        levels = as_levels(labels)
        return [levels for _ in names]
    for pattern in labels:
        if not fnmatch.filter(names, pattern):
            raise UnknownNameError("parameter", pattern, names, "labels")
    assigned = []
    for name in names:
        match = next((pattern for pattern in labels if fnmatch.fnmatchcase(name, pattern)), None)
        if match is None:
            raise InvalidProblemError(f"labels: no pattern matches parameter {name!r}; add it, or choose parameters=")
        assigned.append(as_levels(labels[match]))
    return assigned


def segments(chosen: Mapping[str, nn.Parameter], levels: Sequence[Sequence[float]]) -> list[Segment]:
    """Return the place and the best-fitting scale of every labelled parameter."""
    found, start = [], 0
    for (name, parameter), row in zip(chosen.items(), levels, strict=True):
        stop = start + parameter.numel()
        found.append(Segment(name, parameter.shape, start, stop, fit_scale(parameter.detach().flatten(), row)))
        start = stop
    return found


def as_levels(given: Levels) -> list[float]:
    """Return the levels that a name or a sequence of numbers stands for."""
    if isinstance(given, str):
        return integer_levels(given)
    try:
        return [float(q) for q in given]
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"labels: a name or a sequence of numbers, got {given!r}") from error


def parameter_groups(
    model: nn.Module, *, labels: Levels = "binary", parameters: Choice = None, **settings: Any
) -> list[dict[str, Any]]:
    """Return groups for a torch optimiser: the parameters to quantize, and the rest with `labels=None`.

    Parameters
    ----------
    model : nn.Module
    labels : str or sequence of float
    parameters : sequence of str, callable, optional
        What to quantize (see `choose`); by default everything except normalisation layers.
    **settings
        Of the first group, such as `scale="channel"` or `weight_decay=0.0`.

    Raises
    ------
    UnknownNameError, InvalidProblemError
        A pattern that matches nothing, or nothing left to quantize.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    >>> groups = parameter_groups(model, labels="ternary", parameters=[nn.Linear], scale="channel")
    >>> [len(group["params"]) for group in groups]  # two weights and two biases; scale and shift of the normalisation
    [4, 2]
    """
    chosen = choose(model, parameters)
    rest = [p for p in model.parameters() if not any(p is q for q in chosen.values())]
    groups: list[dict[str, Any]] = [{"params": list(chosen.values()), "labels": labels, **settings}]
    return [*groups, {"params": rest, "labels": None}] if rest else groups
