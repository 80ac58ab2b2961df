"""The bytes of a file, decompressed within a limit, and where in them something is wrong."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrfq.errors import FileFormatError
from mrfq.io import limits

#: characters of a wrong word that a message shows
SHOWN = 40

_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.LARGEST_DICTIONARY),
}
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),  # no time stamp: the same model is the same file
    ".xz": lzma.compress,
}


@dataclass(frozen=True)
class Text:
    """What is in a file."""

    path: str
    data: bytes

    def line(self, offset: int) -> int:
        """Return the number of the line, from 1, that a byte is in."""
        return self.data.count(b"\n", 0, offset) + 1

    def error(self, offset: int, found: str, expected: str) -> FileFormatError:
        """Return the error to raise about the word at a byte."""
        return FileFormatError(self.path, self.line(offset), found, expected)


def shown(word: bytes) -> str:
    r"""Return a word of a file as a message shows it.

    Examples
    --------
    >>> shown(b"MARKVO"), shown(b"\xff\x00")
    ("'MARKVO'", "'\\xff\\x00'")
    """
    tail = "..." if len(word) > SHOWN else ""
    return ascii(word[:SHOWN].decode("latin-1") + tail)


def compression(path: str | Path) -> str:
    """Return ".gz", ".xz" or "", whichever a file's name ends in."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in _DECOMPRESSORS else ""


def load(path: str | Path) -> Text:
    """Return what is in a file, which may be compressed by gzip or xz.

    Parameters
    ----------
    path : str or path
        A name that ends in .gz or .xz says that the file is compressed.

    Raises
    ------
    FileFormatError
        Larger than `limits.LARGEST_TEXT`, beyond which nothing is decompressed, or not what the name says.
    OSError
        The file cannot be read.
    """
    largest = limits.LARGEST_TEXT
    with open(path, "rb") as file:
        data = file.read(largest + 1)
    if compression(path):
        data = _inflate(str(path), data, compression(path), largest)
    if len(data) > largest:
        raise FileFormatError(str(path), 1, f"more than {largest:,} bytes", f"at most {largest:,}")
    return Text(str(path), data)


def compressed(path: str | Path, text: str) -> bytes:
    """Return text as the bytes of a file of that name."""
    data = text.encode()
    return _COMPRESSORS[compression(path)](data) if compression(path) else data


def _inflate(path: str, data: bytes, suffix: str, largest: int) -> bytes:
    """Return the content of one or several compressed streams, at most one byte more than the limit."""
    parts: list[bytes] = []
    total, kind = 0, {".gz": "gzip", ".xz": "xz"}[suffix]
    while data or not parts:
        stream = _DECOMPRESSORS[suffix]()
        try:
            parts.append(stream.decompress(data, largest + 1 - total))
        except (zlib.error, lzma.LZMAError) as error:
            raise FileFormatError(path, 1, f"broken {kind} data ({error})", f"a file compressed by {kind}") from error
        total += len(parts[-1])
        if total > largest:
            break
        if not stream.eof:
            raise FileFormatError(path, 1, f"{kind} data that end too early", f"a complete {kind} file")
        data = stream.unused_data.lstrip(b"\0")  # both formats allow padding between streams
    return b"".join(parts)
