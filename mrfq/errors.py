"""The errors a user can cause: each says what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MrfqError(Exception):
    """Base class of every error that `mrfq` raises on purpose."""


class InvalidProblemError(MrfqError, ValueError):
    """A problem was described with wrong shapes, costs or edges."""


class InvalidParameterError(MrfqError, ValueError):
    """A parameter has a value outside its domain."""


class UnknownNameError(MrfqError, LookupError):
    """A name (of a solver, parameter, suite, column...) is not known; the message suggests a close one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known) or 'none'}"
        super().__init__(f"{where + ': ' if where else ''}unknown {kind} {name!r}; {hint}")


class CapabilityError(MrfqError, TypeError):
    """A solver was given a problem that cannot do what the solver needs."""


class SuiteError(MrfqError, ValueError):
    """A suite file of `mrfq compare` is malformed; the message names the file and the entry."""


class PluginWarning(UserWarning):
    """A third-party solver could not be loaded; the rest of `mrfq` goes on without it."""


class ConformanceError(MrfqError, AssertionError):
    """A solver broke a promise of the `Solver` contract; the message names the promise and the problem."""
