"""The folder of a run: what it can be resumed from, and when it may be written to."""

from __future__ import annotations

import errno
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

from mrfq.errors import FileFormatError, InvalidParameterError
from mrfq.files import write_atomically
from mrfq.runs.config import Configuration
from mrfq.runs.errors import OutputError
from mrfq.runs.settings import S, differing, moved
from mrfq.runs.toml_settings import to_toml

#: bytes; a summary is a page of text
LARGEST_SUMMARY = 2**24
#: ends the name of a file that is being written
PARTIAL = ".????????"


@dataclass(frozen=True)
class Words:
    """What the messages about a folder say; each is a part of a sentence."""

    #: the command that makes such folders
    command: str
    #: "this is a file, ... a folder"
    need: str
    #: "--resume goes on with ..."
    content: str
    #: "... to resume"
    nothing: str
    #: "no settings to begin ..."
    begin: str
    #: "... has seed = 1 (not 2)"
    resumed: str
    #: why the settings must be the same
    reason: str
    #: "cannot write ..."
    written: str
    #: "...; the command goes on from there"
    kept: str


@dataclass(frozen=True)
class RunFolder(ABC, Generic[S]):
    """The folder of a run; each command has its own files and words."""

    path: Path

    words: ClassVar[Words]
    page_name: ClassVar[str]

    @property
    @abstractmethod
    def configuration(self) -> Configuration[S]:
        """How settings are made."""

    @property
    @abstractmethod
    def begun(self) -> bool:
        """Whether there is something to go on from."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are written into the folder itself."""
        return self.config, self.model, self.summary, self.page

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.toml"

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
        return self.path / self.page_name

    @property
    def resume_command(self) -> str:
        """What continues the run."""
        return shlex.join(["mrfq", self.words.command, "--resume", "--out", str(self.path)])

    def begin(self, settings: S | None, resume: bool) -> S:
        """Return the settings to run with: those given, or those of the run that is resumed.

        Raises
        ------
        InvalidParameterError
            The folder holds something and is not to be resumed, there is nothing to resume and no settings either,
            or the settings are not those of the run.
        """
        words = self.words
        if self.path.exists() and not self.path.is_dir():
            raise InvalidParameterError(f"{self.path}: this is a file, {words.need} a folder")
        used = self.path.is_dir() and any(self.path.iterdir())
        if used and not resume:
            raise InvalidParameterError(
                f"{self.path}: this folder is not empty; --resume goes on with {words.content}, or choose another "
                "folder"
            )
        if (saved := self.saved()) is not None:
            return self._resumed(settings, saved)
        if used:
            raise InvalidParameterError(
                f"{self.path}: there is {words.nothing} to resume in it: {self.config.name} is missing"
            )
        if settings is None:
            raise InvalidParameterError(
                f"{self.path}: there is {words.nothing} to resume, and no settings to begin {words.begin}"
            )
        return settings.resolved()

    def saved(self) -> S | None:
        """Return the settings of the run in the folder, or None if there is none."""
        known = self.configuration
        return known.make(known.read(self.config)) if self.config.is_file() else None

    def _resumed(self, settings: S | None, saved: S) -> S:
        if settings is None:
            return saved.resolved()
        if names := differing(settings, saved):
            was = ", ".join(f"{name} = {getattr(saved, name)} (not {getattr(settings, name)})" for name in names)
            raise InvalidParameterError(
                f"{self.path}: {self.words.resumed} has {was}; {self.words.reason}; leave them out, or begin in "
                "another folder"
            )
        return moved(saved, settings).resolved()

    def open(self, settings: S) -> None:
        """Make the folder, remove what a killed process was writing, and write the resolved settings.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for file in self.files:
                for temporary in self.path.glob(f".{file.name}{PARTIAL}"):
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
            text = f"{self.path}: cannot write {self.words.written}: {error.strerror or error}"
            if self.begun:
                text += f"; {self.words.kept}, and {self.resume_command} goes on from there"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                text += " (free some space first)"
            raise OutputError(text) from error


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
