"""How a training run can end before its last step."""

from __future__ import annotations

from mrfq.errors import MrfqError


class DivergedError(MrfqError, ArithmeticError):
    """The loss or the weights are no longer finite; the last checkpoint is from before that.

    Attributes
    ----------
    step : int
        The step, from 1, whose loss was not finite first.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class StoppedError(MrfqError):
    """The run was asked to stop and saved all it needs to go on."""


class OutputError(MrfqError, OSError):
    """A file of the run could not be written; those written before are still there."""
