"""What the settings of a run can do, and the device that they choose."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch

from mrfq.errors import InvalidParameterError


class RunSettings(Protocol):
    """Everything that decides what a run computes: a frozen dataclass of plain data."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init__(self, **values: Any) -> None: ...

    def resolved(self) -> Self:
        """Return the settings with their defaults written out."""

    def moved(self, other: Self) -> Self:
        """Return the settings with those taken from others that may change when a run is resumed."""


S = TypeVar("S", bound=RunSettings)


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
