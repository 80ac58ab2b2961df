"""What a quantization tells while it goes on; by default nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrfq.quantize.calibration import Calibration
    from mrfq.quantize.folder import Folder
    from mrfq.quantize.report import Progress
    from mrfq.quantize.settings import Settings


class Listener:
    """Listens to a quantization; every method may be overridden, and none does anything here."""

    def begin(self, settings: Settings, inputs: Calibration, folder: Folder) -> None:
        """Note that the layers are next; inputs and network are there."""

    def progress(self, event: Progress) -> None:
        """Note that a layer is done, or what happens before the next one is."""

    def note(self, text: str) -> None:
        """Note what happens otherwise."""

    def stopping(self) -> bool:
        """Return whether to stop; asked after every layer, which is kept."""
        return False
