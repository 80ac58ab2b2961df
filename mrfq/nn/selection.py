"""Which parameters of a network are labelled, with which levels and scales."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.labels import LabelSet, integer_levels

Levels = str | Sequence[float]
Choice = Sequence[str] | Callable[[str, nn.Parameter], bool] | None
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
    parameters : sequence of str, callable or None
        Names or shell patterns (`"*.weight"`), or a test of (name, parameter). None takes all parameters except
        those of normalisation layers.

    Raises
    ------
    UnknownNameError
        A pattern that matches nothing.
    InvalidProblemError
        Nothing left to label.
    """
    named = dict(model.named_parameters())
    if parameters is None:
        kept = {
            f"{prefix}.{name}".lstrip(".")
            for prefix, module in model.named_modules()
            if isinstance(module, NORMALISATION)
            for name, _ in module.named_parameters(recurse=False)
        }
        chosen = {name: p for name, p in named.items() if name not in kept}
    elif callable(parameters):
        chosen = {name: p for name, p in named.items() if parameters(name, p)}
    else:
        for pattern in [parameters] if isinstance(parameters, str) else parameters:
            if not fnmatch.filter(named, pattern):
                raise UnknownNameError("parameter", pattern, named, "parameters of the network")
        patterns = [parameters] if isinstance(parameters, str) else list(parameters)
        chosen = {name: p for name, p in named.items() if any(fnmatch.fnmatchcase(name, q) for q in patterns)}
    if not chosen:
        raise InvalidProblemError("no parameter of the network was chosen for labelling")
    for name, p in chosen.items():
        if not p.is_floating_point() or p.numel() == 0 or not bool(p.isfinite().all()):
            raise InvalidProblemError(f"parameter {name!r} needs finite floating-point weights, at least one")
    return chosen


def assign_levels(names: Sequence[str], labels: Levels | Mapping[str, Levels]) -> list[list[float]]:
    """Return the levels of each parameter; a mapping goes from shell patterns to levels, first match wins."""
    if not isinstance(labels, Mapping):
        levels = _levels(labels)
        return [levels for _ in names]
    for pattern in labels:
        if not fnmatch.filter(names, pattern):
            raise UnknownNameError("parameter", pattern, names, "labels")
    assigned = []
    for name in names:
        match = next((pattern for pattern in labels if fnmatch.fnmatchcase(name, pattern)), None)
        if match is None:
            raise InvalidProblemError(f"labels: no pattern matches parameter {name!r}; add it, or choose parameters=")
        assigned.append(_levels(labels[match]))
    return assigned


def segments(chosen: Mapping[str, nn.Parameter], levels: Sequence[Sequence[float]]) -> list[Segment]:
    """Return the place and the best-fitting scale of every labelled parameter."""
    found, start = [], 0
    for (name, parameter), row in zip(chosen.items(), levels, strict=True):
        stop = start + parameter.numel()
        found.append(Segment(name, parameter.shape, start, stop, fit_scale(parameter.detach().flatten(), row)))
        start = stop
    return found


def fit_scale(weights: Tensor, levels: Sequence[float], rounds: int = 20) -> float:
    """Return the scale s > 0 of a least-squares fit of `weights` by `s q`, q from the levels.

    Alternates nearest levels and the closed-form scale `<w, q> / <q, q>`; for levels -1 and 1 the first round is
    exact, `mean |w|`.

    Examples
    --------
    >>> fit_scale(torch.tensor([0.5, -0.3, 0.1]), [-1.0, 1.0])
    0.30000001192092896
    """
    largest = max(abs(q) for q in levels)
    spread = float(weights.abs().mean())
    if largest == 0 or spread == 0:
        return 1.0
    labels = LabelSet.shared(levels, len(weights), dtype=weights.dtype, device=weights.device)
    size = float(torch.tensor(levels).abs().mean())
    scale = spread / size
    for _ in range(rounds):
        q = labels.decode(labels.nearest(weights / scale))
        norm = float((q * q).sum())
        fitted = float((weights * q).sum()) / norm if norm > 0 else 0.0
        if not fitted > 0 or fitted == scale:
            break
        scale = fitted
    return scale


def _levels(given: Levels) -> list[float]:
    if isinstance(given, str):
        return integer_levels(given)
    try:
        return [float(q) for q in given]
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"labels: a name or a sequence of numbers, got {given!r}") from error
