"""The instructions of a pickle and their arguments, those that plain data of protocol 2 need and no others."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from mrfq.nn.images.pickled_arrays import RefusedError


class Tokens:
    """The instructions in some bytes, up to the one that stops.

    Attributes
    ----------
    position : int
        Of the instruction that was read last, in bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self._next = 0

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        name = ""
        while name != "STOP":
            self.position = self._next
            code = self._take(1)
            if code not in _INSTRUCTIONS:
                raise RefusedError(f"the instruction {code!r}")
            name, read = _INSTRUCTIONS[code]
            yield name, read(self)

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self._next:
            raise RefusedError("the end of the file")
        self._next += count
        return self.data[self._next - count : self._next]

    # ---- arguments ------------------------------------------------------------------------------------

    def nothing(self) -> None:
        return None

    def number(self, code: str) -> Any:
        """Return one number of a `struct` format."""
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def long(self) -> int:
        return int.from_bytes(self._take(self.number("<B")), "little", signed=True)

    def string(self, size: str) -> bytes:
        """Return bytes after their number."""
        return self._take(self.number(size))

    def text(self) -> str:
        try:
            return self.string("<I").decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise RefusedError("a text that is not UTF-8") from error

    def name(self) -> str:
        """Return the two lines of a global name, with a point between them."""
        return f"{self._line()}.{self._line()}"

    def _line(self) -> str:
        end = self.data.find(b"\n", self._next)
        if end < 0:
            raise RefusedError("a name without an end")
        return self._take(end + 1 - self._next)[:-1].decode("latin-1")


def _number(code: str) -> Callable[[Tokens], Any]:
    return lambda tokens: tokens.number(code)


def _string(size: str) -> Callable[[Tokens], Any]:
    return lambda tokens: tokens.string(size)


_INSTRUCTIONS: dict[bytes, tuple[str, Callable[[Tokens], Any]]] = {
    b"\x80": ("PROTO", _number("<B")),
    b".": ("STOP", Tokens.nothing),
    b"(": ("MARK", Tokens.nothing),
    b"q": ("PUT", _number("<B")),
    b"r": ("PUT", _number("<I")),
    b"h": ("GET", _number("<B")),
    b"j": ("GET", _number("<I")),
    b"c": ("GLOBAL", Tokens.name),
    b"N": ("NONE", Tokens.nothing),
    b"\x88": ("TRUE", Tokens.nothing),
    b"\x89": ("FALSE", Tokens.nothing),
    b"J": ("VALUE", _number("<i")),
    b"K": ("VALUE", _number("<B")),
    b"M": ("VALUE", _number("<H")),
    b"\x8a": ("VALUE", Tokens.long),
    b"G": ("VALUE", _number(">d")),
    b"X": ("VALUE", Tokens.text),
    b"T": ("VALUE", _string("<i")),
    b"U": ("VALUE", _string("<B")),
    b")": ("TUPLE0", Tokens.nothing),
    b"\x85": ("TUPLE1", Tokens.nothing),
    b"\x86": ("TUPLE2", Tokens.nothing),
    b"\x87": ("TUPLE3", Tokens.nothing),
    b"t": ("TUPLE", Tokens.nothing),
    b"]": ("LIST", Tokens.nothing),
    b"a": ("APPEND", Tokens.nothing),
    b"e": ("APPENDS", Tokens.nothing),
    b"}": ("DICT", Tokens.nothing),
    b"s": ("SETITEM", Tokens.nothing),
    b"u": ("SETITEMS", Tokens.nothing),
    b"R": ("REDUCE", Tokens.nothing),
    b"b": ("BUILD", Tokens.nothing),
}
