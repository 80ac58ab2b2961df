"""What a study looks at: a model, solvers, starts, seeds; and what of it applies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.oracle import Oracle
from mrfq.problem import Capability, Problem, capabilities, check_match
from mrfq.projections import Softmax
from mrfq.schedules import Schedule
from mrfq.solver import Solver
from mrfq.solvers.site import MeanField, temperature_schedule
from mrfq.solvers.splitting import Composition, Splitting
from mrfq.study.stability import Stability, linear_stability

SECTIONS = ("traces", "rates", "basins", "bistability", "schedules")
STARTS = ("unary", "uniform", "random")
#: mean-field is held at this many times its critical inverse temperature, where it has several fixed points
HELD = 2.0


@dataclass(frozen=True)
class Study:
    """A model, and what to find out about solvers on it.

    Parameters
    ----------
    problem : Problem
    solvers : mapping of str to Solver
        By the names that the report uses.
    title : str
    seeds : int
        Each seed changes the start and everything random in a solver; the model stays the same.
    starts : tuple of str
        Of "unary", "uniform" and "random".
    iterations : int
        Steps of a run; schedules use all of them.
    beta : float, optional
        Where mean-field that would anneal is also held, since only there it has fixed points; by default twice the
        critical value of linear stability.
    basin_starts : int
        Random starts for the basins of each solver.
    sections : tuple of str
        Of "traces", "rates", "basins", "bistability" and "schedules".

    Raises
    ------
    CapabilityError
        A solver does not fit the problem.
    InvalidParameterError, UnknownNameError
        Numbers below 1, or names that do not exist.

    Examples
    --------
    >>> from mrfq import generators
    >>> study = Study(generators.ferromagnet(2, 2, field=0.0), {"mean-field": MeanField()})
    >>> list(study.all_solvers)
    ['mean-field', 'mean-field at beta 1']
    """

    problem: Problem
    solvers: Mapping[str, Solver[Any]]
    title: str = "Convergence study"
    seeds: int = 20
    starts: tuple[str, ...] = STARTS
    iterations: int = 200
    beta: float | None = None
    basin_starts: int = 100
    sections: tuple[str, ...] = SECTIONS
    #: the command that made it, for the report
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("seeds", "iterations", "basin_starts"):
            if getattr(self, name) < 1:
                raise InvalidParameterError(f"a study needs {name} of at least 1, got {getattr(self, name)}")
        if self.beta is not None and not self.beta > 0:
            raise InvalidParameterError(f"beta must be positive, got {self.beta}")
        for kind, given, known in (("section", self.sections, SECTIONS), ("start", self.starts, STARTS)):
            for name in given:
                if name not in known:
                    raise UnknownNameError(kind, name, known)
        if not self.solvers or not self.starts:
            raise InvalidParameterError("a study needs at least one solver and one start")
        for solver in self.solvers.values():
            check_match(self.problem, solver)

    @cached_property
    def stability(self) -> Stability:
        """Where the uniform labelling loses its stability."""
        return linear_stability(self.problem)

    @cached_property
    def held_beta(self) -> float:
        """The inverse temperature at which mean-field is held."""
        if self.beta is not None:
            return self.beta
        critical = self.stability.critical
        if 0 < critical < math.inf:
            return HELD * critical
        ends = temperature_schedule(Oracle(self.problem, 0))
        return math.sqrt(ends.first * ends.last)

    @cached_property
    def all_solvers(self) -> dict[str, Solver[Any]]:
        """The solvers, and after each annealed mean-field the same at a fixed inverse temperature."""
        found: dict[str, Solver[Any]] = {}
        for name, solver in self.solvers.items():
            found[name] = solver
            if is_mean_field(solver) and changes_beta(solver):
                held = dataclasses.replace(solver, beta=self.held_beta)  # type: ignore[type-var]
                found[f"{name} at beta {self.held_beta:.4g}"] = held
        return found

    @property
    def sweeps(self) -> bool:
        """Whether the problem has site sweeps, which mean-field and annealing need."""
        return Capability.SWEEP in capabilities(self.problem)


def is_mean_field(solver: Solver[Any]) -> bool:
    """Return whether a solver's fixed points are `u = softmax(-beta g(u))`, and beta is its own parameter.

    Examples
    --------
    >>> from mrfq.solvers import EntropicFrankWolfe, ICM
    >>> is_mean_field(MeanField()), is_mean_field(EntropicFrankWolfe()), is_mean_field(ICM())
    (True, True, False)
    """
    if isinstance(solver, MeanField):
        return True
    if not isinstance(solver, Composition):
        return False
    inner: Splitting = solver.composition
    return isinstance(inner.projection, Softmax) and inner.carry == "none" and hasattr(solver, "beta")


def changes_beta(solver: Solver[Any]) -> bool:
    """Return whether a solver changes its inverse temperature during a run."""
    if not hasattr(solver, "beta"):
        return False
    beta = solver.beta
    return beta is None or (isinstance(beta, Schedule) and not beta.constant)
