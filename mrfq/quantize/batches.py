"""What is a batch of calibration inputs: a tensor, a tuple of positional arguments, a dictionary of named ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.quantize.plan import Batch


def as_batches(calibration: Iterable[Any]) -> list[Batch]:
    """Return batches as positional and keyword arguments.

    Raises
    ------
    InvalidParameterError
        No batches, or something that is none.

    Examples
    --------
    >>> import torch
    >>> as_batches([torch.ones(1), {"x": torch.zeros(1)}])
    [((tensor([1.]),), {}), ((), {'x': tensor([0.])})]
    """
    if isinstance(calibration, Tensor | Mapping | str) or not isinstance(calibration, Iterable):
        raise InvalidParameterError(
            f"calibration must be a list of batches, or another iterable, not a {type(calibration).__name__}; a single "
            "batch goes into a list"
        )
    batches = [as_batch(number, batch) for number, batch in enumerate(calibration, 1)]
    if not batches:
        raise InvalidParameterError("calibration has no batches; at least one is needed")
    return batches


def as_batch(number: int, batch: Any) -> Batch:
    """Return a batch, the so many-th, as positional and keyword arguments.

    Raises
    ------
    InvalidParameterError
        Something else than a tensor, a tuple or a dictionary.
    """
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, tuple | list):
        return tuple(batch), {}
    raise InvalidParameterError(
        f"calibration batch {number} is a {type(batch).__name__}; give a tensor, a tuple of positional arguments or a "
        "dictionary of keyword arguments"
    )
