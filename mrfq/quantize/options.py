"""`Options`: what post-training quantization can be told, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mrfq.errors import InvalidParameterError
from mrfq.layerwise.spec import LevelSpec, VectorSpec, parse_levels

Spec = LevelSpec | VectorSpec
Levels = str | LevelSpec | VectorSpec | tuple[tuple[str, str | LevelSpec | VectorSpec | None], ...]
#: the pattern that asks for every layer, so that one which cannot be quantized is no mistake
EVERY = "*"
SWITCHES = ("asymmetric", "centred", "shortcut", "rescale", "baselines", "bounds", "reestimate")


@dataclass(frozen=True)
class Options:
    """The recipe of a post-training quantization.

    Parameters
    ----------
    levels : str, LevelSpec, VectorSpec, or tuple of (pattern, levels)
        The label set of all layers, or pairs of a shell pattern of layer names and a label set; the first that matches
        counts, None leaves a layer float, and so does no match. A mapping is taken as its items.
    quality : str
        A recipe of `mrfq.layerwise.recipe`: "fast", "balanced", "best", "nearest", "gptq".
    solver : str, optional
        The solver in the recipe, if another than that of the quality.
    asymmetric : bool
        Aim at the outputs of the float network, not at those of the float weights on the quantized network's inputs.
    centred : bool
        Covariances as the metric, second moments otherwise. A layer whose mean error nothing can take up (neither a
        bias nor a batch norm) has second moments in any case.
    shortcut : bool
        The last layer of a residual block also makes up for the error of its shortcut.
    rescale : bool
        Scale and shift of every output channel by least squares, folded into batch norm, bias or levels.
    damping : float
        What is added to the diagonal of the metric to find the target, relative to its mean.
    held_out : float
        Fraction of the calibration batches, the last ones, that serve only to measure errors; at least one if there
        are two, unless 0.
    baselines : bool
        Also measure rounding to nearest and GPTQ on the same targets and label sets.
    bounds : bool
        Also compute a lower bound of the energy of every layer of up to 1024 columns with levels of its rows, which
        says how far from optimal its labels are at most.
    reestimate : bool
        Replace batch-norm statistics by averages over the calibration inputs at the end.
    memory : float
        GiB for forward passes that are held; the others start anew for every layer. Decides the time, not the result.
    seed : int

    Raises
    ------
    InvalidParameterError
        A value of the wrong type or outside its domain.

    Examples
    --------
    >>> options = Options(levels=(("head", None), ("*", "2bit-codebook")), baselines=True)
    >>> options.spec_of("head") is None, str(options.spec_of("layer1.conv1"))
    (True, '2bit-codebook')
    """

    levels: Levels = "3bit-codebook"
    quality: str = "balanced"
    solver: str | None = None
    asymmetric: bool = True
    centred: bool = True
    shortcut: bool = True
    rescale: bool = True
    damping: float = 0.01
    held_out: float = 0.1
    baselines: bool = False
    bounds: bool = False
    reestimate: bool = False
    memory: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.levels, Mapping | list):
            items = self.levels.items() if isinstance(self.levels, Mapping) else self.levels
            object.__setattr__(self, "levels", tuple(tuple(item) for item in items))
        self._check()

    @property
    def choices(self) -> tuple[tuple[str, Spec | None], ...]:
        """Patterns of layer names with their label sets, in the order in which they are tried."""
        if isinstance(self.levels, tuple):
            return tuple((pattern, _spec(levels)) for pattern, levels in self.levels)
        return ((EVERY, _spec(self.levels)),)

    def spec_of(self, name: str) -> Spec | None:
        """Return the label set of a layer, or None if it stays float."""
        return next((spec for pattern, spec in self.choices if fnmatchcase(name, pattern)), None)

    def asked_for(self, name: str) -> str | None:
        """Return the pattern that asks for a layer in particular, if one does."""
        pattern, spec = next((pair for pair in self.choices if fnmatchcase(name, pair[0])), (EVERY, None))
        return None if spec is None or pattern == EVERY else pattern

    def _check(self) -> None:
        for name in SWITCHES:
            _need(isinstance(getattr(self, name), bool), name, "True or False", getattr(self, name))
        for name in ("damping", "memory"):
            value = getattr(self, name)
            _need(_is_number(value) and 0 <= value < math.inf, name, "a finite number from 0 on", value)
        _need(_is_number(self.held_out) and 0 <= self.held_out < 1, "held_out", "from 0 to below 1", self.held_out)
        _need(type(self.seed) is int and 0 <= self.seed < 2**32, "seed", "from 0 to 2^32 - 1", self.seed)
        _need(isinstance(self.quality, str), "quality", "the name of a recipe", self.quality)
        _need(self.solver is None or isinstance(self.solver, str), "solver", "the name of a solver", self.solver)
        if isinstance(self.levels, tuple):
            pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in self.levels) and bool(self.levels)
            named = pairs and all(isinstance(pattern, str) for pattern, _ in self.levels)
            _need(named, "levels", "pairs (pattern, levels), at least one", self.levels)
        _need(any(spec is not None for _, spec in self.choices), "levels", "levels for at least one layer", self.levels)


def _spec(levels: Any) -> Spec | None:
    if levels is None or isinstance(levels, LevelSpec | VectorSpec):
        return levels
    _need(isinstance(levels, str), "levels", "a text like '3bit-codebook', a LevelSpec, a VectorSpec or None", levels)
    return parse_levels(levels)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _need(good: bool, name: str, words: str, value: Any) -> None:
    if not good:
        raise InvalidParameterError(f"{name} must be {words}, got {value!r}")
