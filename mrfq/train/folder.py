"""The folder of a training run: what its files are called, and which of two networks is the best one."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mrfq.errors import FileFormatError
from mrfq.runs.config import Configuration
from mrfq.runs.folder import RunFolder, Words
from mrfq.train.config import CONFIGURATION
from mrfq.train.settings import Settings


@dataclass(frozen=True)
class Folder(RunFolder[Settings]):
    """The folder of a training run."""

    page_name = "summary.html"
    words = Words(
        command="train",
        need="a run needs",
        content="the run in it",
        nothing="no run",
        begin="one with",
        resumed="the run to resume",
        reason=(
            "the schedules and the order of the images follow from the settings, so a run ends with those it began with"
        ),
        written="the run",
        kept="what was saved before is intact",
    )

    @property
    def configuration(self) -> Configuration[Settings]:
        """How settings are made."""
        return CONFIGURATION

    @property
    def checkpoint(self) -> Path:
        """All that the run needs to go on."""
        return self.path / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The best rounded network so far, packed."""
        return self.path / "best.safetensors"

    @property
    def pending(self) -> Path:
        """A better network that no checkpoint knows of yet."""
        return self.path / "best.pending.safetensors"

    @property
    def metrics(self) -> Path:
        """A row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are written while the run goes on."""
        return *super().files, self.checkpoint, self.pending, self.metrics

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint."""
        return self.checkpoint.exists()

    def commit_best(self, digest: str) -> None:
        """Give the best network of the last checkpoint its name, wherever an interruption left it.

        A better network is first written beside the best one, then the checkpoint that names it by its digest, and
        only then it takes the best one's place: whenever that is broken off, one of the two files is the right one.

        Raises
        ------
        FileFormatError
            Neither file is the network that the checkpoint names.
        """
        if not digest:
            self.pending.unlink(missing_ok=True)
            self.best.unlink(missing_ok=True)
        elif digest_of(self.best) == digest:
            self.pending.unlink(missing_ok=True)
        elif digest_of(self.pending) == digest:
            os.replace(self.pending, self.best)
        else:
            found = "another file" if self.best.is_file() else "no such file"
            expected = f"the best network so far, which {self.checkpoint.name} names by its SHA-256 {digest[:12]}..."
            raise FileFormatError(str(self.best), 1, found, expected)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, or nothing if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
