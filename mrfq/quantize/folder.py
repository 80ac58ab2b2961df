"""The folder of a quantization: what its files are called, and when it may be written to."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrfq.errors import FileFormatError, InvalidParameterError
from mrfq.files import write_atomically
from mrfq.quantize.config import make_settings, read_config, to_toml
from mrfq.quantize.settings import Settings, differing
from mrfq.train.errors import OutputError
from mrfq.train.folder import read_summary


@dataclass(frozen=True)
class Folder:
    """The folder of a quantization."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.toml"

    @property
    def state(self) -> Path:
        """Folder of the layers that are done, for as long as others are not."""
        return self.path / "layers"

    @property
    def model(self) -> Path:
        """The quantized network, packed."""
        return self.path / "model.safetensors"

    @property
    def summary(self) -> Path:
        """The results; written last, so that a quantization with one is finished."""
        return self.path / "summary.json"

    @property
    def page(self) -> Path:
        """The results for people."""
        return self.path / "quantize.html"

    @property
    def resume_command(self) -> str:
        """What goes on with the layers that are left."""
        return shlex.join(["mrfq", "quantize", "--resume", "--out", str(self.path)])

    def begin(self, settings: Settings | None, resume: bool) -> Settings:
        """Return the settings to work with: those given, or those of the quantization that is resumed.

        Raises
        ------
        InvalidParameterError
            The folder holds something and is not to be resumed, there is nothing to resume and no settings either,
            or the settings are not those in the folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InvalidParameterError(f"{self.path}: this is a file, the results need a folder")
        used = self.path.is_dir() and any(self.path.iterdir())
        if used and not resume:
            raise InvalidParameterError(
                f"{self.path}: this folder is not empty; --resume goes on with what is in it, or choose another folder"
            )
        if self.config.is_file():
            return self._resumed(settings)
        if used:
            raise InvalidParameterError(f"{self.path}: there is nothing to resume in it: {self.config.name} is missing")
        if settings is None:
            raise InvalidParameterError(f"{self.path}: there is nothing to resume, and no settings to begin with")
        return settings.resolved()

    def saved(self) -> Settings | None:
        """Return the settings in the folder, or None if there are none."""
        return make_settings(read_config(self.config)) if self.config.is_file() else None

    def _resumed(self, settings: Settings | None) -> Settings:
        saved = make_settings(read_config(self.config))
        if settings is None:
            return saved.resolved()
        if names := differing(settings, saved):
            was = ", ".join(f"{name} = {getattr(saved, name)} (not {getattr(settings, name)})" for name in names)
            raise InvalidParameterError(
                f"{self.path}: what is to be resumed has {was}; the layers that are done belong to those settings; "
                "leave them out, or begin in another folder"
            )
        return saved.moved(settings).resolved()

    @property
    def begun(self) -> bool:
        """Whether layers are done."""
        return self.state.is_dir() and any(not path.name.startswith(".") for path in self.state.iterdir())

    def open(self, settings: Settings) -> None:
        """Make the folder, remove what a killed process was writing, and write the resolved settings.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        with self.writing():
            self.state.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in (self.config, self.model, self.summary, self.page)]
            partial = [path for name in names for path in self.path.glob(f".{name}.????????")]
            for temporary in (*partial, *self.state.glob(".*.????????")):
                temporary.unlink()
            write_atomically(self.config, to_toml(settings))

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

    def finished(self) -> dict[str, Any] | None:
        """Return the summary of a finished quantization, or None.

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
        """Say which folder could not be written, and what is left of it, when the disk is full or read-only."""
        try:
            yield
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            text = f"{self.path}: cannot write the results: {error.strerror or error}"
            if self.begun:
                text += f"; the layers that are done are kept, and {self.resume_command} goes on from there"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                text += " (free some space first)"
            raise OutputError(text) from error
