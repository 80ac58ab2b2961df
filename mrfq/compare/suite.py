"""A suite, read and resolved: problems x solvers x seeds, and the cells that they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import mrfq
from mrfq.compare.kinds import kinds
from mrfq.errors import UnknownNameError

#: the label of the run that gives the exact optimum of a problem with `exact = true`, and the solver of it
EXACT = "exact"
REFERENCES = {"mrf": "elimination", "network": "exhaustive"}


@dataclass(frozen=True)
class ProblemSpec:
    """One `[[problems]]` entry."""

    name: str
    kind: str
    #: all parameters of the kind, defaults filled in; with a `seed` only if the suite fixes the instance
    parameters: Mapping[str, Any]
    #: oracle calls every solver may make
    budget: int
    exact: bool = False
    trace_every: int | None = None

    @property
    def family(self) -> str:
        """Return "mrf" or "network"."""
        return kinds()[self.kind].family


@dataclass(frozen=True)
class SolverSpec:
    """One `[[solvers]]` entry, or one point of its grid."""

    #: unique in the suite
    name: str
    #: the name of the entry, which all points of its grid share
    entry: str
    #: the solver and all its parameters as plain data
    plain: Mapping[str, Any]
    #: the same where they differ, by the name of the problem
    on: Mapping[str, Mapping[str, Any]]

    def plain_on(self, problem: str) -> Mapping[str, Any]:
        """Return the solver as plain data, for a problem."""
        return self.on.get(problem, self.plain)


@dataclass(frozen=True)
class Cell:
    """One run: everything that determines its result, and the names it goes by."""

    problem: ProblemSpec
    solver: str
    plain: Mapping[str, Any]
    seed: int
    #: None for the exact reference, which is run to its end
    budget: int | None

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the result, as plain data; names are not part of it."""
        return {
            "mrfq": mrfq.__version__,
            "kind": self.problem.kind,
            "parameters": self.problem.parameters,
            "solver": self.plain,
            "seed": self.seed,
            "budget": self.budget,
            "trace_every": self.problem.trace_every,
        }

    @cached_property
    def key(self) -> str:
        """A hash of the identity: the name of the cell's file."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def place(self) -> tuple[str, str, int]:
        """Names of problem and solver, and the seed."""
        return self.problem.name, self.solver, self.seed


@dataclass(frozen=True)
class Suite:
    """What `mrfq compare` runs."""

    name: str
    title: str
    seeds: tuple[int, ...]
    problems: tuple[ProblemSpec, ...]
    solvers: tuple[SolverSpec, ...]
    description: str = ""

    def cells(self) -> Iterator[Cell]:
        """Return all runs; the exact references first, because they take longest."""
        for problem in self.problems:
            if problem.exact:
                name = REFERENCES[problem.family]
                reference = {"solver": name, **_defaults(name)}
                yield from (Cell(problem, EXACT, reference, seed, None) for seed in self.seeds)
        for problem in self.problems:
            for seed in self.seeds:
                for solver in self.solvers:
                    yield Cell(problem, solver.name, solver.plain_on(problem.name), seed, problem.budget)

    def select(
        self,
        *,
        problems: Collection[str] = (),
        solvers: Collection[str] = (),
        seeds: Collection[int] = (),
    ) -> Suite:
        """Return the part of the suite with these problems, solvers (or entries of a grid) and seeds.

        Raises
        ------
        UnknownNameError
            A name that the suite does not have.
        """
        for wanted, kind, known in (
            (problems, "problem", {p.name for p in self.problems}),
            (solvers, "solver", {name for s in self.solvers for name in (s.name, s.entry)}),
        ):
            for name in wanted:
                if name not in known:
                    raise UnknownNameError(kind, name, known, f"suite {self.name!r}")
        return replace(
            self,
            seeds=tuple(seeds) or self.seeds,
            problems=tuple(p for p in self.problems if not problems or p.name in problems),
            solvers=tuple(s for s in self.solvers if not solvers or {s.name, s.entry} & set(solvers)),
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the resolved suite as plain data, in the format of suite files."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "seeds": list(self.seeds),
            "problems": [_problem_to_plain(problem) for problem in self.problems],
            "solvers": [_solver_to_plain(solver) for solver in self.solvers],
        }


def _defaults(name: str) -> dict[str, Any]:
    from mrfq import plain, registry

    return plain.parameters(registry.make(name))


def _problem_to_plain(problem: ProblemSpec) -> dict[str, Any]:
    fixed = {"name": problem.name, "kind": problem.kind, "budget": problem.budget, "exact": problem.exact}
    every = {} if problem.trace_every is None else {"trace_every": problem.trace_every}
    return {**fixed, **every, **problem.parameters}


def _solver_to_plain(solver: SolverSpec) -> dict[str, Any]:
    on = {
        problem: {name: value for name, value in plain.items() if name != "solver"}
        for problem, plain in solver.on.items()
    }
    return {"name": solver.name, **solver.plain, **({"on": on} if on else {})}
