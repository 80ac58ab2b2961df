"""What the settings of a run can do: be those of a run that is resumed, and choose a device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch

from mrfq.errors import InvalidParameterError


class RunSettings(Protocol):
    """Everything that decides what a run computes: a frozen dataclass of plain data."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    #: settings that may change between the parts of an interrupted run: they decide nothing that is computed
    FREE: ClassVar[frozenset[str]]
    #: settings that are paths
    PATHS: ClassVar[tuple[str, ...]]

    def __init__(self, **values: Any) -> None: ...

    @property
    def device(self) -> str:
        """Name of a device, or "auto"."""

    @property
    def threads(self) -> int | None:
        """Of torch on the CPU."""

    def resolved(self) -> Self:
        """Return the settings with their defaults written out."""


S = TypeVar("S", bound=RunSettings)


def differing(given: S, saved: S) -> list[str]:
    """Return the names of the settings that were given and are not those of a saved run.

    What was left to a default, in either, is no difference; nor are the settings in `FREE`.

    Examples
    --------
    >>> from mrfq.train.settings import Settings
    >>> saved = Settings("lenet300", "digits", epochs=3, device="cpu").resolved()
    >>> differing(Settings("lenet300", "digits", epochs=4, batch_size=128), saved)
    ['epochs']
    """
    found = []
    for name in [field.name for field in dataclasses.fields(given) if field.name not in given.FREE]:
        value, kept = getattr(given, name), getattr(saved, name)
        if name in given.PATHS and value is not None:
            value = str(Path(value).resolve())
        left_open = value is None or (name == "device" and value == "auto")
        if not left_open and value != kept:
            found.append(name)
    return found


def moved(settings: S, other: S) -> S:
    """Return settings with those in `FREE` taken from others, as far as they have them."""
    changes = {name: getattr(other, name) for name in settings.FREE if getattr(other, name) is not None}
    return dataclasses.replace(settings, **changes)


def chosen_here(settings: RunSettings) -> dict[str, Any]:
    """Return what settings become on this machine: paths from the root, a device that is there, and threads.

    Raises
    ------
    InvalidParameterError
        A device that torch does not know, or that this machine does not have.
    """
    paths = {name: getattr(settings, name) for name in settings.PATHS}
    found = {name: str(Path(path).resolve()) for name, path in paths.items() if path is not None}
    threads = settings.threads or torch.get_num_threads()
    return {**found, "device": chosen_device(settings.device), "threads": threads}


def devices(settings: RunSettings) -> dict[str, str]:
    """Return the device that resolved settings use, and the threads on the CPU."""
    name = torch.cuda.get_device_name(settings.device) if settings.device.startswith("cuda") else "CPU"
    return {"device": f"{settings.device} ({name})", "threads": str(settings.threads)}


def chosen_device(name: str) -> str:
    """Return the name of a device that is there; "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    InvalidParameterError
        A device that torch does not know, or that this machine does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidParameterError(
            f"device {name!r} cannot be used here ({reason}); 'auto' takes what there is"
        ) from error
    return name
