"""The header of a safetensors file, checked before anything is made of it.

Eight bytes, the length of the header as a whole number, lowest byte first; the header, a JSON object padded with
spaces, which gives the dtype, the shape and the place of every tensor; then the tensors, without gaps.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from mrfq.errors import FileFormatError
from mrfq.io.text import shown

#: the dtypes that files hold, by their names there
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
#: bytes of a header, as the safetensors library limits it
LARGEST_HEADER = 100_000_000
#: axes of a tensor
MOST_AXES = 64
#: entries of a tensor, where axes of length 0 count as 1
MOST_ENTRIES = 2**48


@dataclass(frozen=True)
class Header:
    """What the header of a file says.

    Attributes
    ----------
    path : str
    stamp : str or None
        The metadata of `mrfq`.
    start : int
        Where the tensors begin.
    """

    path: str
    stamp: str | None
    start: int

    def error(self, position: str, found: str, expected: str) -> FileFormatError:
        """Return the error to raise about a part of the file."""
        return FileFormatError(self.path, position, found, expected)


def parse_header(path: str, data: bytes) -> Header:
    """Return the header of a file in memory.

    Raises
    ------
    FileFormatError
        The file is not a safetensors file: too short, no header, or tensors that do not fill the rest of the file.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(len(data) - 8, LARGEST_HEADER) or data[8:9] != b"{":
        raise FileFormatError(path, "the header", f"{len(data):,} bytes without one", "a complete safetensors file")
    try:
        entries = json.loads(data[8 : 8 + length].decode())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, "the header", f"no JSON ({type(error).__name__})", "a JSON object") from error
    metadata = entries.pop("__metadata__", {})
    stamp = metadata.get("mrfq") if isinstance(metadata, dict) else None
    _check_places(path, entries, len(data) - 8 - length)
    return Header(path, stamp if isinstance(stamp, str) else None, 8 + length)


def is_shape(value: Any) -> bool:
    """Return whether a value of a JSON file is the shape of a tensor that can exist.

    Examples
    --------
    >>> is_shape([2, 3]), is_shape([-1]), is_shape([0, 2**63])
    (True, False, False)
    """
    if not isinstance(value, list) or len(value) > MOST_AXES:
        return False
    return all(type(n) is int and n >= 0 for n in value) and math.prod(max(n, 1) for n in value) <= MOST_ENTRIES


def _check_places(path: str, entries: dict[str, Any], size: int) -> None:
    """Raise an error unless the tensors fill `size` bytes without gaps, each as long as its shape says."""
    places = []
    for name, entry in entries.items():
        where = f"tensor {shown(name.encode(errors='replace'))}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise FileFormatError(path, where, "other keys", "dtype, shape and data_offsets")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES or not is_shape(entry["shape"]):
            raise FileFormatError(path, where, "an unknown dtype or a bad shape", "those of a tensor")
        place = entry["data_offsets"]
        if not isinstance(place, list) or len(place) != 2 or not all(type(at) is int for at in place):
            raise FileFormatError(path, where, "bad data_offsets", "where it begins and ends")
        places.append((place, math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize, where))
    end = 0
    for (start, stop), length, where in sorted(places):
        if start != end or stop - start != length or stop > size:
            raise FileFormatError(path, where, "bytes elsewhere than its shape says", f"{length} bytes from {end}")
        end = stop
    if end != size:
        raise FileFormatError(path, "the end", f"{size:,} bytes of tensors", f"{end:,}, as the header says")
