"""The numbers of a text, one after another, for formats that are words between white space."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np

from mrfq.io.text import Text, shown

#: bytes parsed at a time, so that the words of a large file never exist all at once
CHUNK = 2**20
_SPACE, _WORD = re.compile(rb"\s"), re.compile(rb"\S+")


class Numbers:
    """A cursor over the numbers of a text.

    Everything is parsed at the start, 8 bytes a number; nothing more than that is allocated on the word of the file.
    Whole numbers are exact up to 2^53.

    Parameters
    ----------
    text : Text
    begin : int
        Byte to begin at.

    Raises
    ------
    FileFormatError
        A word that is not a number.

    Examples
    --------
    >>> numbers = Numbers(Text("model.txt", b"2 0.5 1e3 7"))
    >>> numbers.whole("a count", 1, 9), numbers.take(2, "costs").tolist(), numbers.left
    (2, [0.5, 1000.0], 1)
    """

    def __init__(self, text: Text, begin: int = 0) -> None:
        self.text, self.begin = text, begin
        self.values = _parse(text, begin)
        self.position = 0

    @property
    def left(self) -> int:
        """How many numbers are left."""
        return len(self.values) - self.position

    def whole(self, what: str, low: int, high: int) -> int:
        """Return the next number, a whole one from `low` to `high`."""
        self._need(1, what)
        value = float(self.values[self.position])
        if not (value.is_integer() and low <= value <= high):
            allowed = str(low) if low == high else f"a whole number from {low} to {high}"
            raise self.error(self.position, f"{what}, {allowed}")
        self.position += 1
        return int(value)

    def wholes(self, count: int, what: str, low: int, high: int) -> np.ndarray:
        """Return the next `count` numbers, whole ones from `low` to `high`, as int64."""
        values = self.take(count, what)
        good = (values >= low) & (values <= high) & (values == np.floor(values))
        self.check(good, self.position - count, f"{what}, whole numbers from {low} to {high}")
        return values.astype(np.int64)

    def take(self, count: int, what: str) -> np.ndarray:
        """Return a view of the next `count` numbers."""
        self._need(count, what)
        self.position += count
        return self.values[self.position - count : self.position]

    def check(self, good: np.ndarray, first: int, expected: str) -> None:
        """Raise an error about the first number that is not good; `good[0]` is about number `first` of the text."""
        if not good.all():
            raise self.error(first + int(np.argmin(good)), expected)

    def end(self) -> None:
        """Raise an error unless there are no numbers left."""
        if self.left:
            raise self.error(self.position, "the end of the file")

    def error(self, index: int, expected: str) -> Exception:
        """Return the error to raise about a number, by its position among all of them."""
        words = _WORD.finditer(self.text.data, self.begin)
        word = next(islice(words, index, None), None)
        if word is None:
            return self.text.error(len(self.text.data), "the end of the file", expected)
        return self.text.error(word.start(), shown(word[0]), expected)

    def _need(self, count: int, what: str) -> None:
        if count > self.left:
            found = f"{self.left} numbers and the end of the file" if self.left else "the end of the file"
            wanted = f"{count} of {what}" if count > 1 else what
            raise self.text.error(len(self.text.data), found, wanted)


def _parse(text: Text, begin: int) -> np.ndarray:
    parts, data = [np.empty(0)], text.data
    while begin < len(data):
        space = _SPACE.search(data, min(begin + CHUNK, len(data)))
        stop = space.start() if space else len(data)
        chunk = data[begin:stop]
        words = chunk.split()
        convert = _number if b"_" in chunk else float
        try:
            parts.append(np.fromiter(map(convert, words), np.float64, len(words)))
        except ValueError:
            raise _not_a_number(text, begin) from None
        begin = stop
    return np.concatenate(parts)


def _number(word: bytes) -> float:
    if b"_" in word:  # Python would read 1_000
        raise ValueError
    return float(word)


def _not_a_number(text: Text, begin: int) -> Exception:
    """Return the error about the first word from a byte on that is not a number."""
    for word in _WORD.finditer(text.data, begin):
        try:
            _number(word[0])
        except ValueError:
            return text.error(word.start(), shown(word[0]), "a number")
    raise AssertionError("all words are numbers")  # pragma: no cover
