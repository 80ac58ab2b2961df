"""How training itself can fail."""

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
