"""How a run can end before it is finished."""

from __future__ import annotations

from mrfq.errors import MrfqError


class StoppedError(MrfqError):
    """The run was asked to stop and saved all it needs to go on."""


class OutputError(MrfqError, OSError):
    """A file of the run could not be written; those written before are still there."""
