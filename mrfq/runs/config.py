"""The settings of a run from a file, and from names and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from mrfq.errors import InvalidParameterError
from mrfq.runs import toml_settings
from mrfq.runs.settings import S


@dataclass(frozen=True)
class Configuration(Generic[S]):
    """How the settings of a command are made.

    Parameters
    ----------
    settings : type
        Their class.
    work : str
        What needs the settings, in a message.
    needed : tuple of str
        Settings that have to be given.
    """

    settings: type[S]
    work: str
    needed: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All settings."""
        return tuple(field.name for field in dataclasses.fields(self.settings))

    def read(self, path: str | Path) -> dict[str, Any]:
        """Return the settings in a TOML file, as far as it has them.

        Raises
        ------
        InvalidParameterError
            No such file, or no TOML; the message has the line.
        UnknownNameError
            A key that is no setting, with a suggestion.
        """
        return toml_settings.read_toml(path, self.names)

    def check_names(self, names: Iterable[str], where: str) -> None:
        """Raise `UnknownNameError` about a name that is no setting."""
        toml_settings.check_known(names, where, self.names)

    def make(self, values: Mapping[str, Any]) -> S:
        """Return the settings of a mapping by name.

        Raises
        ------
        InvalidParameterError, UnknownNameError
            What is missing, unknown or impossible.
        """
        self.check_names(values, "settings")
        missing = [name for name in self.needed if values.get(name) is None]
        if missing:
            raise InvalidParameterError(f"{self.work} needs {' and '.join(missing)}: options, or keys of --config FILE")
        return self.settings(**values)
