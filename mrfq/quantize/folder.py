"""The folder of a quantization: what its files are called, and the layers that are done."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mrfq.quantize.config import CONFIGURATION
from mrfq.quantize.settings import Settings
from mrfq.runs.config import Configuration
from mrfq.runs.folder import PARTIAL, RunFolder, Words


@dataclass(frozen=True)
class Folder(RunFolder[Settings]):
    """The folder of a quantization."""

    page_name = "quantize.html"
    words = Words(
        command="quantize",
        need="the results need",
        content="what is in it",
        nothing="nothing",
        begin="with",
        resumed="what is to be resumed",
        reason="the layers that are done belong to those settings",
        written="the results",
        kept="the layers that are done are kept",
    )

    @property
    def configuration(self) -> Configuration[Settings]:
        """How settings are made."""
        return CONFIGURATION

    @property
    def state(self) -> Path:
        """Folder of the layers that are done, for as long as others are not."""
        return self.path / "layers"

    @property
    def begun(self) -> bool:
        """Whether layers are done."""
        return self.state.is_dir() and any(not path.name.startswith(".") for path in self.state.iterdir())

    def open(self, settings: Settings) -> None:
        """Make the folder and that of the layers, remove what a killed process was writing, and write the settings.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        with self.writing():
            self.state.mkdir(parents=True, exist_ok=True)
            for temporary in self.state.glob(f".*{PARTIAL}"):
                temporary.unlink()
        super().open(settings)

    def close(self) -> None:
        """Remove what only a quantization that is not finished needs."""
        shutil.rmtree(self.state, ignore_errors=True)

    def withdraw(self) -> None:
        """Remove the settings, and the folder if nothing else is in it, unless layers are done.

        So that a mistake that shows only when the network runs does not leave a folder in the way.
        """
        if self.begun:
            return
        self.close()
        with suppress(OSError):  # something else is in the folder, or it could not even be made
            self.config.unlink(missing_ok=True)
            self.path.rmdir()
