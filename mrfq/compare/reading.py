"""Suite files: TOML (or the `suite.json` of an earlier comparison) -> `Suite`, every entry checked before use."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mrfq import plain, registry
from mrfq.compare.conform import check_fields, check_value
from mrfq.compare.kinds import FAMILIES, Instance, kinds, try_out
from mrfq.compare.suite import EXACT, REFERENCES, ProblemSpec, SolverSpec, Suite
from mrfq.errors import MrfqError, SuiteError, UnknownNameError
from mrfq.generators import chain
from mrfq.problem import mismatch

PACKAGED = resources.files("mrfq.compare") / "suites"
LARGEST_FILE = 2**20
MOST_CELLS = 100_000
#: keys of a suite file with their types; "environment" is what suite.json adds for its readers
SUITE_KEYS: dict[str, Any] = {
    "name": str,
    "title": str,
    "description": str,
    "seeds": int | list[int],
    "budget": int,
    "trace_every": int,
    "problems": list[dict[str, Any]],
    "solvers": list[str | dict[str, Any]],
    "environment": dict,
}
PROBLEM_KEYS: dict[str, Any] = {"name": str, "kind": str, "budget": int, "exact": bool, "trace_every": int}
SOLVER_KEYS: dict[str, Any] = {"name": str, "solver": str, "grid": dict[str, Any], "on": dict[str, Any]}


def packaged() -> list[str]:
    """Return the names of the suites that come with mrfq."""
    return sorted(file.name.removesuffix(".toml") for file in PACKAGED.iterdir() if file.name.endswith(".toml"))


def load_suite(source: str | Path) -> Suite:
    """Read a suite file, or a packaged suite by name, and check all of it.

    Parameters
    ----------
    source : str or path
        A file in the format that `mrfq.compare` describes, or "default", "smoke"...

    Raises
    ------
    SuiteError, UnknownNameError
        The file and the entry that is wrong, and what would be right.

    Examples
    --------
    >>> suite = load_suite("smoke")
    >>> suite.name, len(suite.seeds)
    ('smoke', 2)
    """
    data, where = _parse(source)
    for key, value in data.items():
        if key not in SUITE_KEYS:
            raise UnknownNameError("key", key, SUITE_KEYS, where)
        check_value(where, key, value, SUITE_KEYS[key])
    for key in ("problems", "solvers"):
        if not data.get(key):
            raise SuiteError(f"{where}: a suite needs at least one [[{key}]] entry")
    seeds = seed_list(data.get("seeds", 3), where)
    problems = tuple(
        _problem(entry, data, _place(where, "problems", i, entry)) for i, entry in _entries(data, "problems")
    )
    _unique(where, "problems", [problem.name for problem in problems])
    for (i, entry), problem in zip(_entries(data, "problems"), problems, strict=True):
        _try_problem(problem, seeds[0], _place(where, "problems", i, entry))
    solvers = tuple(
        solver
        for i, entry in _entries(data, "solvers")
        for solver in _solvers(entry, problems, _place(where, "solvers", i, entry))
    )
    _unique(where, "solvers", [solver.name for solver in solvers])
    if len(problems) * len(solvers) * len(seeds) > MOST_CELLS:
        raise SuiteError(f"{where}: more than {MOST_CELLS:,} runs; make the grids smaller")
    name = data.get("name", Path(where).stem)
    return Suite(name, data.get("title", name), seeds, problems, solvers, data.get("description", ""))


def seed_list(seeds: int | list[int], where: str) -> tuple[int, ...]:
    """Return the seeds that a number of seeds, or a list of them, stands for."""
    chosen = list(range(seeds)) if isinstance(seeds, int) else seeds
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen) or len(chosen) > MOST_CELLS:
        raise SuiteError(f"{where}: seeds must be a number of seeds, at least 1, or a list of different seeds")
    return tuple(chosen)


def _parse(source: str | Path) -> tuple[dict[str, Any], str]:
    """Return the data of a suite file and the name to use for it in messages."""
    path = Path(source)
    if str(source) in packaged() and not path.is_file():
        return tomllib.loads((PACKAGED / f"{source}.toml").read_text("utf-8")), f"{source}.toml"
    try:
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise SuiteError(f"{path}: larger than a suite can be ({LARGEST_FILE:,} bytes)")
        text = path.read_text("utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        files = [str(file) for file in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise UnknownNameError("suite file", str(source), [*packaged(), *files]) from None
    except (OSError, ValueError, RecursionError) as error:  # TOMLDecodeError names line and column
        reason = error.strerror if isinstance(error, OSError) else error
        raise SuiteError(f"{path}: {reason}") from error
    if not isinstance(data, dict):
        raise SuiteError(f"{path}: a suite is a table, this is a list")
    return data, str(path)


def _entries(data: Mapping[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the numbered entries; a bare text is a solver with its default parameters."""
    for number, entry in enumerate(data[key], 1):
        yield number, {"solver": entry} if isinstance(entry, str) else entry


def _place(where: str, key: str, number: int, entry: Mapping[str, Any]) -> str:
    name = entry.get("name", entry.get("solver", ""))
    return f"{where}: {key} entry {number}" + (f" ({name})" if isinstance(name, str) and name else "")


def _unique(where: str, key: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SuiteError(f"{where}: two {key} are called {name!r}; give one of them another name")
        if name == EXACT and key == "solvers":
            raise SuiteError(f"{where}: the name {EXACT!r} is reserved for the exact reference")


def _problem(entry: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> ProblemSpec:
    known = kinds()
    for key in entry.keys() & PROBLEM_KEYS.keys():
        check_value(where, key, entry[key], PROBLEM_KEYS[key])
    if "kind" not in entry:
        raise SuiteError(f"{where}: the key 'kind' is required; known are: {', '.join(sorted(known))}")
    if entry["kind"] not in known:
        raise UnknownNameError("problem kind", entry["kind"], known, where)
    kind = known[entry["kind"]]
    parameters = {key: value for key, value in entry.items() if key not in PROBLEM_KEYS}
    budget = entry.get("budget", defaults.get("budget"))
    every = entry.get("trace_every", defaults.get("trace_every"))
    if budget is None:
        raise SuiteError(f"{where}: the key 'budget' (oracle calls) is required here or at the top of the file")
    for name, value in (("budget", budget), ("trace_every", every)):
        if value is not None and value < 1:
            raise SuiteError(f"{where}: {name} must be at least 1, got {value}")
    resolved = kind.resolve(where, parameters, PROBLEM_KEYS)
    return ProblemSpec(
        entry.get("name", entry["kind"]), entry["kind"], resolved, budget, entry.get("exact", False), every
    )


def _try_problem(problem: ProblemSpec, seed: int, where: str) -> Instance:
    made = try_out(where, problem.kind, problem.parameters, seed)
    reason = mismatch(made.problem, registry.make(REFERENCES[problem.family])) if problem.exact else None
    if reason:
        raise SuiteError(f"{where}: exact = true is not possible: {reason}")
    return made


def _solvers(entry: Mapping[str, Any], problems: tuple[ProblemSpec, ...], where: str) -> Iterator[SolverSpec]:
    for key in entry.keys() & SOLVER_KEYS.keys():
        check_value(where, key, entry[key], SOLVER_KEYS[key])
    if "solver" not in entry:
        raise SuiteError(f"{where}: the key 'solver' is required; `mrfq solvers` lists them")
    base = {key: value for key, value in entry.items() if key not in SOLVER_KEYS}
    _check_keys(entry["solver"], base, where)
    name = entry.get("name", entry["solver"])
    grid = entry.get("grid", {})
    _check_keys(entry["solver"], grid, f"{where}: grid")
    for key, values in grid.items():
        check_value(where, f"grid.{key}", values, list[Any])
        if not values:
            raise SuiteError(f"{where}: grid.{key} is empty")
    targets = _targets(problems)
    for target in entry.get("on", {}):
        if target not in targets:
            raise UnknownNameError("family, kind or name of a problem", target, targets, where)
        check_value(where, f"on.{target}", entry["on"][target], dict[str, Any])
        _check_keys(entry["solver"], entry["on"][target], f"{where}: on.{target}")
    base["solver"] = entry["solver"]
    for point in itertools.product(*grid.values()):
        chosen = dict(zip(grid, point, strict=True))
        label = " ".join([name, *(f"{key}={_short(value)}" for key, value in chosen.items())])
        first = _resolve({**base, **chosen}, where)
        on = {}
        for problem in problems:
            other = _resolve({**base, **chosen, **_override(entry.get("on", {}), problem)}, where)
            if other != first:
                on[problem.name] = other
        yield SolverSpec(label, name, first, on)


def _check_keys(solver: str, parameters: Mapping[str, Any], where: str) -> None:
    """Raise unless the solver exists and has these parameters; other keys of the entry are suggested too."""
    try:
        kind = registry.get(solver)
    except UnknownNameError as error:
        raise type(error)("solver", solver, registry.names(), where) from error
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in parameters:
        if name not in known:
            raise UnknownNameError(f"parameter of {solver}", name, known | SOLVER_KEYS.keys(), where)


def _targets(problems: tuple[ProblemSpec, ...]) -> set[str]:
    return {*FAMILIES, *(problem.kind for problem in problems), *(problem.name for problem in problems)}


def _override(on: Mapping[str, Mapping[str, Any]], problem: ProblemSpec) -> dict[str, Any]:
    """Return the parameters for a problem: those of its family, then of its kind, then of its name."""
    keys = dict.fromkeys((problem.family, problem.kind, problem.name))
    return {name: value for key in keys for name, value in on.get(key, {}).items()}


def _resolve(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a solver with all its parameters as plain data."""
    try:
        solver = plain.from_plain(dict(data))
        check_fields(where, solver)
        mismatch(chain(2, 2), solver)  # asking makes a composed solver check its parts
    except SuiteError:
        raise
    except (MrfqError, TypeError, ValueError, ArithmeticError) as error:
        raise SuiteError(f"{where}: {error}") from error
    resolved: dict[str, Any] = plain.to_plain(solver)
    return resolved


def _short(value: Any) -> str:
    """Return a value of a grid in a few characters, for labels."""
    if isinstance(value, dict):
        kind = value.get("kind", value.get("solver", ""))
        inner = ", ".join(f"{k}={_short(v)}" for k, v in value.items() if k not in ("kind", "solver"))
        return f"{kind}({inner})"
    return f"{value:g}" if isinstance(value, float) else str(value)
