"""The contract of a solver: frozen hyper-parameters, `init` and `step`; all evolving data in its state."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor

from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, SweepReport
from mrfq.solution import Status


@dataclass
class State:
    """What a solver hands to the loop after each step. Subclasses add the solver's own data.

    At least one of `u` and `labels` is set. The loop rounds `u` when there are no labels.
    """

    #: relaxed labelling, (n, L)
    u: Tensor | None = None
    #: labelling, (n,) int64
    labels: Tensor | None = None
    #: energy of `u` where the solver knows it for free
    relaxed_energy: Tensor | float | None = None
    #: a proved lower bound of the energy
    bound: float | None = None
    #: inverse temperature of the last step
    beta: float | None = None
    #: sum of the entropies of the rows of `u`, where the solver knows it for free
    entropy: float | None = None
    #: the sweep that made `labels` out of those of the step before, if nothing else has changed them
    sweep: SweepReport | None = None
    #: what a solver that makes choices did, and why, one sentence each
    notes: list[str] = field(default_factory=list)
    #: set when the solver wants to stop
    status: Status | None = None


S = TypeVar("S", bound=State)


class Solver(ABC, Generic[S]):
    """A way to minimise an energy.

    Subclasses are frozen dataclasses whose fields are the hyper-parameters. They hold no evolving data: `init`
    returns a state, `step` returns the next one (it may reuse and change the one it is given). They never grade
    themselves: `mrfq.solve` evaluates energies, rounds, keeps the best labelling and the time.
    """

    #: capabilities every instance needs
    needs: ClassVar[frozenset[Capability]] = frozenset()
    #: number of steps of a run without any limit; None for a solver that ends by itself
    max_iters: ClassVar[int | None] = 1000
    #: paper or book, for `mrfq solvers NAME`
    reference: ClassVar[str] = ""
    #: one line on when to use it
    use_when: ClassVar[str] = ""

    def required(self) -> frozenset[Capability]:
        """Return the capabilities this instance needs."""
        return self.needs

    def accepts(self, problem: Problem) -> str | None:
        """Return None if the problem suits the solver beyond its capabilities, otherwise the reason why not."""
        return None

    @abstractmethod
    def init(self, oracle: Oracle, start: Tensor) -> S:
        """Return the first state, from a relaxed labelling `start` (n, L) that must not be changed."""

    @abstractmethod
    def step(self, oracle: Oracle, state: S) -> S:
        """Return the state after one step; at least one oracle call, unless there is nothing left to do."""

    @classmethod
    def with_parameters(cls, **parameters: Any) -> Self:
        """Return a solver with these hyper-parameters; an unknown name is an error with a suggestion."""
        known = {f.name for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
        for name in parameters:
            if name not in known:
                raise UnknownNameError(f"parameter of {cls.__name__}", name, known)
        try:
            return cls(**parameters)
        except (TypeError, AttributeError) as error:
            raise InvalidParameterError(f"{cls.__name__}: {error}") from error


def positive(owner: object, **values: float | None) -> None:
    """Raise `InvalidParameterError` unless every given value is a positive number (None is let through)."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise InvalidParameterError(f"{type(owner).__name__}: {name} must be positive, got {value}")
