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


class FileFormatError(MrfqError, ValueError):
    """A file is not what its format says; the message is ``FILE:LINE: found X, expected Y``.

    Attributes
    ----------
    path : str
    position : int or str
        The line, from 1; in a JSON file that is well-formed, the name of the entry.
    found, expected : str
    """

    def __init__(self, path: str, position: int | str, found: str, expected: str) -> None:
        super().__init__(path, position, found, expected)
        self.path, self.position, self.found, self.expected = path, position, found, expected

    @property
    def line(self) -> int | None:
        """The line, from 1, or None where the position is an entry."""
        return self.position if isinstance(self.position, int) else None

    def __str__(self) -> str:
        return f"{self.path}:{self.position}: found {self.found}, expected {self.expected}"


class PluginWarning(UserWarning):
    """A third-party solver could not be loaded; the rest of `mrfq` goes on without it."""


class ConformanceError(MrfqError, AssertionError):
    """A solver broke a promise of the `Solver` contract; the message names the promise and the problem."""
