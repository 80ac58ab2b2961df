"""Schedules: plain data that maps the progress of a run to a number (inverse temperature, step, mixing).

A schedule is a frozen dataclass, so it prints, compares, hashes and serialises by its fields. It is called
with the progress of the run (fraction of the budget used, in [0, 1]) and the iteration number.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from mrfq.errors import InvalidParameterError


class Schedule(ABC):
    """A number that depends on the progress of a run."""

    @abstractmethod
    def __call__(self, progress: float, iteration: int = 0) -> float:
        """Return the value at `progress` in [0, 1] (iteration-based schedules read `iteration`)."""

    @property
    def constant(self) -> bool:
        """Whether the value never changes, so that a fixed point may be called converged."""
        return False


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value throughout.

    Examples
    --------
    >>> Constant(2.0)(0.7)
    2.0
    """

    value: float

    def __call__(self, progress: float, iteration: int = 0) -> float:
        return self.value

    @property
    def constant(self) -> bool:
        return True


@dataclass(frozen=True)
class Geometric(Schedule):
    """From `first` to `last` by a constant factor: the schedule of all tuned PMF runs (1 to 1e4).

    Examples
    --------
    >>> Geometric(1, 1e4)(0.5)
    100.0
    """

    first: float
    last: float

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.last > 0):
            raise InvalidParameterError(f"Geometric needs positive ends, got {self.first} and {self.last}")

    def __call__(self, progress: float, iteration: int = 0) -> float:
        return math.pow(self.first, 1 - progress) * math.pow(self.last, progress)

    @property
    def constant(self) -> bool:
        return self.first == self.last


@dataclass(frozen=True)
class Linear(Schedule):
    """From `first` to `last` along a straight line."""

    first: float
    last: float

    def __call__(self, progress: float, iteration: int = 0) -> float:
        return self.first + progress * (self.last - self.first)

    @property
    def constant(self) -> bool:
        return self.first == self.last


@dataclass(frozen=True)
class Cosine(Schedule):
    """From `first` to `last` along half a cosine: the usual decay of a learning rate.

    Examples
    --------
    >>> round(Cosine(1.0, 0.0)(0.5), 12)
    0.5
    """

    first: float = 1.0
    last: float = 0.0

    def __call__(self, progress: float, iteration: int = 0) -> float:
        return self.last + 0.5 * (self.first - self.last) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Harmonic(Schedule):
    """`shift / (iteration + shift)`: with shift 2 the classical step of Frank-Wolfe.

    Examples
    --------
    >>> Harmonic()(0.0, iteration=0), Harmonic()(0.0, iteration=2)
    (1.0, 0.5)
    """

    shift: float = 2.0

    def __call__(self, progress: float, iteration: int = 0) -> float:
        return self.shift / (iteration + self.shift)


@dataclass(frozen=True)
class InverseSigmoid(Schedule):
    """`1 / r` where r falls from 1 to 0 along a sigmoid: the inverse slope of PARQ (ICML 2025).

    `steepness` and `center` place the sigmoid on the run; r is rescaled so that it is exactly 1 at the start,
    and at the end the value is `last` (r is kept from reaching 0).
    """

    steepness: float = 10.0
    center: float = 0.5
    last: float = 1e12

    def __call__(self, progress: float, iteration: int = 0) -> float:
        def sigmoid(t: float) -> float:
            return 1 / (1 + math.exp(self.steepness * (t - self.center)))

        slope = (sigmoid(progress) - sigmoid(1.0)) / (sigmoid(0.0) - sigmoid(1.0))
        return 1 / max(slope, 1 / self.last)


def as_schedule(value: float | Schedule) -> Schedule:
    """Return `value` itself if it is a schedule, otherwise the constant schedule of that number."""
    return value if isinstance(value, Schedule) else Constant(float(value))
