"""What stands in a pickle for numpy arrays and byte strings: four names, and what may be made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

#: numbers and truth values: kind and bytes; what else an array can hold is not plain data
TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
ORDERS = "<>|="
MOST_AXES = 32


class RefusedError(Exception):
    """What is wrong with a pickle; the reader adds the file and the place."""


@dataclass(frozen=True)
class Name:
    """What a pickle would import."""

    text: str


@dataclass
class Type:
    """The type of an array's entries, its byte order as it becomes known."""

    name: str
    order: str = "|"


@dataclass
class Array:
    """An array, as yet without its content."""

    content: np.ndarray[Any, Any] | None = None


_RECONSTRUCT = {Name(f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")}
_NDARRAY, _DTYPE, _ENCODE = Name("numpy.ndarray"), Name("numpy.dtype"), Name("_codecs.encode")
NAMES = _RECONSTRUCT | {_NDARRAY, _DTYPE, _ENCODE}


def called(function: Any, arguments: Any) -> Any:
    """Return what one of the known names makes of its arguments."""
    match function, arguments:
        case Name(), (Name() as kind, tuple(), _) if function in _RECONSTRUCT and kind == _NDARRAY:
            return Array()
        case Name(), (bytes() | str() as name, *_) if function == _DTYPE:
            text = name if isinstance(name, str) else name.decode("latin-1")
            if text not in TYPES:
                raise RefusedError(f"an array of {text[:60]!r}")
            return Type(text)
        case Name(), (str() as text, "latin1" | b"latin1") if function == _ENCODE:
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError as error:
                raise RefusedError("a byte string with letters beyond Latin-1") from error
    raise RefusedError(f"a call of {function.text if isinstance(function, Name) else 'no function'}")


def set_order(kind: Type, state: Any) -> None:
    """Complete the type of an array's entries; the second of what a pickle has about it is the byte order."""
    match state:
        case (int(), bytes() | str() as order, *_):
            kind.order = order if isinstance(order, str) else order.decode("latin-1")
    if not isinstance(state, tuple) or len(kind.order) != 1 or kind.order not in ORDERS:
        raise RefusedError("a type of numbers without a byte order")


def set_content(array: Array, state: Any) -> None:
    """Fill an array; a pickle has a version, the shape, the type, whether columns come first, and the bytes."""
    match state:
        case (int(), tuple() as shape, Type() as kind, bool() as columns, bytes() as data):
            pass
        case _:
            raise RefusedError("an array whose content is not in bytes")
    dtype = np.dtype(kind.order + kind.name)
    if len(shape) > MOST_AXES or not all(type(side) is int and side >= 0 for side in shape):
        raise RefusedError("an array whose shape is not numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise RefusedError(f"an array of shape {shape} with {len(data):,} bytes")
    entries = np.frombuffer(data, dtype)
    array.content = entries.reshape(shape, order="F" if columns else "C")
