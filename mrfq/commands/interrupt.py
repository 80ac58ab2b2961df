"""Ctrl-C that asks a run to stop after the step it is in."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupt:
    """While it is open, the first Ctrl-C sets `asked`; the second ends the program as usual."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupt:
        self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
