"""Names of solvers: the entry-point group "mrfq.solvers", which any installed package can add to."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from mrfq.errors import MrfqError, PluginWarning, UnknownNameError

if TYPE_CHECKING:
    from mrfq.problem import Problem
    from mrfq.solver import Solver

GROUP = "mrfq.solvers"
#: come first among the solvers that fit: for models of cost tables, and for networks
HINTS = ("auto", "pmf")


@cache
def _entries() -> dict[str, EntryPoint]:
    """Return the entry points by name; the project's own win over a plug-in that takes their name."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: not e.value.startswith("mrfq.")):
        found.setdefault(entry.name, entry)
    if not any(entry.value.startswith("mrfq.") for entry in found.values()):
        raise MrfqError("mrfq is not installed, so its solvers have no names; run `pip install -e .` in the checkout")
    return found


def names() -> list[str]:
    """Return the names of all registered solvers, without importing them."""
    return sorted(_entries())


@cache
def _load(name: str) -> type[Solver[Any]] | None:
    from mrfq.solver import Solver

    entry = _entries()[name]
    try:
        solver = entry.load()
    except Exception as error:
        warnings.warn(f"solver {name!r} ({entry.value}) could not be loaded: {error!r}", PluginWarning, stacklevel=3)
        return None
    if not (isinstance(solver, type) and issubclass(solver, Solver)):
        warnings.warn(f"solver {name!r} ({entry.value}) is not a subclass of Solver", PluginWarning, stacklevel=3)
        return None
    return solver


def get(name: str) -> type[Solver[Any]]:
    """Return the solver class registered under a name.

    Raises
    ------
    UnknownNameError
        No such name, or a plug-in of that name that cannot be loaded.
    """
    if name not in _entries():
        raise UnknownNameError("solver", name, names())
    solver = _load(name)
    if solver is None:
        raise UnknownNameError("solver", name, [n for n in names() if n != name], "its plug-in could not be loaded")
    return solver


def all_solvers() -> dict[str, type[Solver[Any]]]:
    """Return every solver that loads, by name; a broken plug-in warns and is left out."""
    loaded = {name: _load(name) for name in names()}
    return {name: solver for name, solver in loaded.items() if solver is not None}


def make(name: str, **parameters: Any) -> Solver[Any]:
    """Return the solver of that name with these hyper-parameters."""
    return get(name).with_parameters(**parameters)


def name_of(solver: Solver[Any]) -> str:
    """Return the registered name of a solver, or the name of its class."""
    return next((name for name, kind in all_solvers().items() if kind is type(solver)), type(solver).__name__)


def fitting(problem: Problem) -> list[str]:
    """Return the names of the solvers that can work on a problem with their default parameters."""
    from mrfq.problem import mismatch

    found = []
    for name, kind in all_solvers().items():
        try:
            if mismatch(problem, kind()) is None:
                found.append(name)
        except Exception:  # no defaults for all its parameters (compositions), or a broken plug-in: this is a hint
            continue
    return sorted(found, key=lambda name: name not in HINTS)
