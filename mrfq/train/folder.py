"""The folder of a run: what its files are called, and when it may be written to."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrfq.errors import FileFormatError, InvalidParameterError
from mrfq.files import write_atomically
from mrfq.train.config import make_settings, read_config, to_toml
from mrfq.train.errors import OutputError
from mrfq.train.settings import Settings, differing

#: bytes; a summary is a page of text
LARGEST_SUMMARY = 2**24


@dataclass(frozen=True)
class Folder:
    """The folder of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.toml"

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
    def model(self) -> Path:
        """The final network, packed."""
        return self.path / "model.safetensors"

    @property
    def summary(self) -> Path:
        """The results; written last, so that a run with one is finished."""
        return self.path / "summary.json"

    @property
    def page(self) -> Path:
        """The results for people."""
        return self.path / "summary.html"

    @property
    def resume_command(self) -> str:
        """What continues the run."""
        return shlex.join(["mrfq", "train", "--resume", "--out", str(self.path)])

    def begin(self, settings: Settings | None, resume: bool) -> Settings:
        """Return the settings to run with: those given, or those of the run that is resumed.

        Raises
        ------
        InvalidParameterError
            The folder holds something and is not to be resumed, there is nothing to resume and no settings either,
            or the settings are not those of the run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InvalidParameterError(f"{self.path}: this is a file, a run needs a folder")
        used = self.path.is_dir() and any(self.path.iterdir())
        if used and not resume:
            raise InvalidParameterError(
                f"{self.path}: this folder is not empty; --resume goes on with the run in it, or choose another folder"
            )
        if self.config.is_file():
            return self._resumed(settings)
        if used:
            raise InvalidParameterError(f"{self.path}: there is no run to resume in it: {self.config.name} is missing")
        if settings is None:
            raise InvalidParameterError(f"{self.path}: there is no run to resume, and no settings to begin one with")
        return settings.resolved()

    def saved(self) -> Settings | None:
        """Return the settings of the run in the folder, or None if there is none."""
        return make_settings(read_config(self.config)) if self.config.is_file() else None

    def _resumed(self, settings: Settings | None) -> Settings:
        saved = self.saved()
        assert saved is not None
        if settings is None:
            return saved.resolved()
        if names := differing(settings, saved):
            was = ", ".join(f"{name} = {getattr(saved, name)} (not {getattr(settings, name)})" for name in names)
            raise InvalidParameterError(
                f"{self.path}: the run to resume has {was}; the schedules and the order of the images follow from the "
                "settings, so a run ends with those it began with; leave them out, or begin in another folder"
            )
        return saved.moved(settings).resolved()

    def open(self, settings: Settings) -> None:
        """Make the folder, remove what a killed process was writing, and write the resolved settings."""
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for name in (self.config, self.checkpoint, self.pending, self.metrics, self.model, self.summary, self.page):
                for temporary in self.path.glob(f".{name.name}.????????"):
                    temporary.unlink()
            write_atomically(self.config, to_toml(settings))

    def finished(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, or None.

        Raises
        ------
        FileFormatError
            A summary that is none.
        """
        if not self.summary.is_file():
            return None
        found = read_summary(self.summary)
        if not self.model.is_file():
            raise FileFormatError(str(self.model), 1, "no such file", "the network that summary.json is about")
        return found

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say which run could not be written, and what is left of it, when the disk is full or read-only."""
        try:
            yield
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            kept = f"; what was saved before is intact, and {self.resume_command} goes on from there"
            advice = "free some space first" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            text = f"{self.path}: cannot write the run: {error.strerror or error}"
            raise OutputError(
                text + (kept if self.checkpoint.exists() else "") + (f" ({advice})" * bool(advice))
            ) from (error)

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


def read_summary(path: Path) -> dict[str, Any]:
    """Return the summary of a run.

    Raises
    ------
    InvalidParameterError
        There is no such file.
    FileFormatError
        It is not a JSON object.
    """
    try:
        if path.stat().st_size > LARGEST_SUMMARY:
            raise FileFormatError(str(path), 1, "a file too large for one", "the summary of a run")
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidParameterError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(str(path), getattr(error, "lineno", 1), str(error), "the summary of a run") from error
    if not isinstance(found, dict):
        raise FileFormatError(str(path), 1, f"a JSON {type(found).__name__}", "the summary of a run")
    return found
