"""Solvers made of solvers: restarts of one, the best of several. The loop keeps the best labelling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, mismatch
from mrfq.solution import Status
from mrfq.solver import Solver, State, positive
from mrfq.start import starting_point


@dataclass
class SequenceState(State):
    """The state of the inner run, its number, and the part of the budget it may use."""

    inner: State | None = None
    number: int = 0
    window: tuple[float, float] = (0.0, 1.0)
    #: iteration at which the inner run began
    first: int = 0
    start: Tensor | None = None


class Sequence(Solver[SequenceState]):
    """Base of the compositions in time: inner runs one after another, each with an equal part of what is left."""

    def runs(self) -> int:
        """Return the number of inner runs."""
        raise NotImplementedError  # abstract

    def solver(self, number: int) -> Solver[Any]:
        """Return the solver of an inner run."""
        raise NotImplementedError  # abstract

    def starting(self, number: int, oracle: Oracle, start: Tensor) -> Tensor:
        """Return where an inner run starts; by default where the whole run does."""
        return start

    def init(self, oracle: Oracle, start: Tensor) -> SequenceState:
        state = SequenceState(start=start)
        self._begin(oracle, state, 0)
        return state

    def step(self, oracle: Oracle, state: SequenceState) -> SequenceState:
        assert state.inner is not None
        if state.inner.status is not None or (oracle.progress >= state.window[1] and state.number + 1 < self.runs()):
            self._begin(oracle, state, state.number + 1)
        with oracle.window(*state.window, state.first):
            state.inner = self.solver(state.number).step(oracle, state.inner)
        self._show(state)
        if state.inner.status is not None and state.number + 1 == self.runs():
            state.status = Status.CONVERGED
        return state

    def _begin(self, oracle: Oracle, state: SequenceState, number: int) -> None:
        assert state.start is not None
        begin = oracle.progress
        state.number, state.first = number, oracle.iteration
        state.window = (begin, begin + (1 - begin) / (self.runs() - number))
        with oracle.window(*state.window, state.first):
            state.inner = self.solver(number).init(oracle, self.starting(number, oracle, state.start))
        self._show(state)

    @staticmethod
    def _show(state: SequenceState) -> None:
        """Let the loop see the inner run."""
        inner = state.inner
        assert inner is not None
        state.u, state.labels, state.beta = inner.u, inner.labels, inner.beta
        state.relaxed_energy, state.bound, state.entropy = inner.relaxed_energy, inner.bound, inner.entropy


@dataclass(frozen=True)
class Restarts(Sequence):
    """The same solver from several starts; the first is the given one, the others are random.

    Parameters
    ----------
    inner : Solver
    starts : int
        Each gets an equal part of the budget that is left when it begins.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> from mrfq.solvers import ICM
    >>> glass = generators.spin_glass(4, 4, seed=0)
    >>> solve(glass, Restarts(ICM(), starts=20)).energy <= solve(glass, ICM()).energy
    True
    """

    reference = "folklore"
    use_when = "a fast local method depends on its start"

    inner: Solver[Any]
    starts: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Solver):
            raise InvalidParameterError(f"Restarts: inner must be a solver, got {self.inner!r}")
        positive(self, starts=self.starts)

    def required(self) -> frozenset[Capability]:
        return self.inner.required()

    def accepts(self, problem: Problem) -> str | None:
        return self.inner.accepts(problem)

    def runs(self) -> int:
        return self.starts

    def solver(self, number: int) -> Solver[Any]:
        return self.inner

    def starting(self, number: int, oracle: Oracle, start: Tensor) -> Tensor:
        return start if number == 0 else starting_point(oracle.problem, "random", oracle.generator)


@dataclass(frozen=True)
class BestOf(Sequence):
    """Several solvers from the same start, one after another, each with an equal part of the budget."""

    reference = "folklore"
    use_when = "you do not know which solver fits"

    solvers: tuple[Solver[Any], ...]

    def __post_init__(self) -> None:
        if not self.solvers or not all(isinstance(s, Solver) for s in self.solvers):
            raise InvalidParameterError("BestOf: solvers must be a non-empty sequence of solvers")

    def required(self) -> frozenset[Capability]:
        return frozenset()

    def accepts(self, problem: Problem) -> str | None:
        reasons = [f"{type(s).__name__}: {reason}" for s in self.solvers if (reason := mismatch(problem, s))]
        return "; ".join(reasons) or None

    def runs(self) -> int:
        return len(self.solvers)

    def solver(self, number: int) -> Solver[Any]:
        return self.solvers[number]
