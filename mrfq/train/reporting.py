"""What a run tells while it goes on; by default nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrfq.train.folder import Folder
    from mrfq.train.run import Run


class Report:
    """Listens to a run; every method may be overridden, and none does anything here."""

    def begin(self, run: Run, folder: Folder) -> None:
        """Note that a run begins, or goes on, at `run.progress.step`."""

    def look(self, run: Run, loss: float, accuracy: float) -> None:
        """Note the mean loss and the accuracy (percent) of the epoch so far; every 100 steps, or every second."""

    def epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Note a row of `metrics.csv`."""

    def note(self, text: str) -> None:
        """Note what happens otherwise."""

    def stopping(self) -> bool:
        """Return whether the run should save its state and end; asked after every step."""
        return False
