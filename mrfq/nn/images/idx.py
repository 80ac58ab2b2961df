"""IDX files, the format of MNIST: a header of big-endian numbers, then the numbers of an array.

Bytes 0 and 1 are 0, byte 2 is the type, byte 3 the number of axes; then a 32-bit size for each axis, and the entries,
last axis fastest, all big-endian. Source: http://yann.lecun.com/exdb/mnist (the page's last section).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mrfq.errors import FileFormatError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"
#: bytes that an array may take
LARGEST = 2**31
#: axes that numpy allows
MOST_AXES = 64
#: bytes that are decompressed at a time
CHUNK = 2**20
#: by how much gzip can compress at best
COMPRESSION = 1032


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_idx(path: str | Path) -> np.ndarray[Any, Any]:
    """Return the array in an IDX file, compressed by gzip or not, whatever its name.

    Returns
    -------
    array
        Of the type in the header (uint8, int8, int16, int32, float32 or float64), in the byte order of the machine.

    Raises
    ------
    FileFormatError
        Not an IDX file, an array of more than `LARGEST` bytes, or a file with fewer or more bytes than its header
        says. A compressed file is decompressed as far as the header says, and no further.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 0, 1, 255, 255]))
    ...     read_idx(folder + "/a")
    array([ 1, -1], dtype=int16)
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == GZIP
    available = Path(path).stat().st_size * (COMPRESSION if compressed else 1)
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            dtype, shape = _header(str(path), file)
            size = math.prod(shape) * dtype.itemsize
            if size > LARGEST:
                raise FileFormatError(str(path), "header", f"an array of {size:,} bytes", f"at most {LARGEST:,}")
            if size > available:
                raise _wrong_size(path, "too few bytes", size)
            data = _read(file, size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(str(path), "content", f"broken gzip data ({error})", "a complete gzip file") from error
    if len(data) != size:
        raise _wrong_size(path, f"{len(data):,}" if len(data) < size else "more bytes", size)
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _header(path: str, file: _Readable) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type and the shape of the array that follows."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        expected = f"0, 0, a type ({', '.join(f'0x{code:02X}' for code in DTYPES)}) and the number of axes"
        raise FileFormatError(path, "header", f"the bytes {magic.hex(' ') or 'of an empty file'}", expected)
    axes = magic[3]
    if axes > MOST_AXES:
        raise FileFormatError(path, "header", f"{axes} axes", f"at most {MOST_AXES}")
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise FileFormatError(path, "header", "the end of the file", f"the sizes of {axes} axes")
    return np.dtype(DTYPES[magic[2]]), struct.unpack(f">{axes}I", sizes)


def _read(file: _Readable, size: int) -> bytearray:
    """Return at most `size` bytes; memory grows with what is there, not with what is asked for."""
    data = bytearray()
    while len(data) < size and (chunk := file.read(min(CHUNK, size - len(data)))):
        data += chunk
    return data


def _wrong_size(path: str | Path, found: str, size: int) -> FileFormatError:
    return FileFormatError(str(path), "content", found, f"{size:,} bytes, as the header says")
