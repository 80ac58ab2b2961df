"""Where in a folder the files of a data set are, and what to say when they are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrfq.errors import InvalidParameterError

#: entries of a folder that a message lists
LISTED = 12
#: files of a data set that a message lists
SOUGHT = 4

#: for each file of a data set, the names it may have
Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is distributed.

    Attributes
    ----------
    name : str
        For messages.
    folders : sequence of str
        Where the files may be, relative to the folder that the user names; `""` is that folder itself.
    files : mapping from str to sequence of str
        The names that each file may have, the first one found is taken.
    """

    name: str
    folders: Sequence[str]
    files: Names

    def missing(self, folder: Path) -> list[str]:
        """Return the usual names of the files that a folder lacks."""
        return [names[0] for names in self.files.values() if _first(folder, names) is None]

    def paths(self, folder: Path) -> dict[str, Path]:
        """Return the files in a folder that has them all."""
        found = {key: _first(folder, names) for key, names in self.files.items()}
        return {key: path for key, path in found.items() if path is not None}


def locate(data_set: str, folder: str | Path | None, layouts: Sequence[Layout]) -> tuple[Layout, dict[str, Path]]:
    """Return the first layout of which all files are there, and the files.

    Raises
    ------
    InvalidParameterError
        No folder, or one without the files; the message says what was looked for and what the folder holds.
    """
    if folder is None:
        raise InvalidParameterError(f"{data_set}: needs the folder in which its files are; nothing is downloaded")
    root = Path(folder)
    if not root.is_dir():
        raise InvalidParameterError(f"{data_set}: {root} is {'not a folder' if root.exists() else 'not there'}")
    for layout in layouts:
        for inner in layout.folders:
            if not layout.missing(root / inner):
                return layout, layout.paths(root / inner)
    raise InvalidParameterError(f"{data_set}: not found in {root}; {_sought(root, layouts)}; {_holds(root)}")


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _sought(root: Path, layouts: Sequence[Layout]) -> str:
    """Return what was looked for; where a part of it is there, only that, and what is missing."""
    for layout in layouts:
        for inner in layout.folders:
            missing = layout.missing(root / inner)
            if len(missing) < len(layout.files):
                return f"{root / inner} has some files of {layout.name} but lacks {', '.join(missing)}"
    parts = []
    for layout in layouts:
        files = _listed([names[0] for names in layout.files.values()], SOUGHT)
        where = ", ".join(f"{inner}/" if inner else "the folder itself" for inner in layout.folders)
        parts.append(f"{layout.name} ({files}) in {where}")
    return "looked for " + ", or ".join(parts)


def _holds(root: Path) -> str:
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir())
    return f"it holds {_listed(names, LISTED) or 'nothing'}"


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
