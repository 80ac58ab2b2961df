"""Values of a JSON file with the names of their entries, so that an error can say where."""

from __future__ import annotations

import sys
from collections.abc import Collection, KeysView, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mrfq.errors import FileFormatError
from mrfq.io.text import shown

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A value somewhere in a JSON file.

    Examples
    --------
    >>> Entry("model.json", "", {"scope": [0, 7]}).entry("scope").wholes(2, high=3)
    Traceback (most recent call last):
    ...
    mrfq.errors.FileFormatError: model.json:scope[1]: found 7, expected a whole number from 0 to 3
    """

    path: str
    name: str
    value: Any

    def error(self, expected: str) -> FileFormatError:
        """Return the error to raise about this value."""
        kinds = {dict: "an object", list: "a list", type(None): "null"}
        try:
            found = kinds.get(type(self.value)) or shown(repr(self.value).encode())[1:-1]
        except ValueError:  # a whole number of thousands of digits
            found = "a huge number"
        return FileFormatError(self.path, self.name or "the file", found, expected)

    def has(self, key: str) -> bool:
        """Return whether an object has a key."""
        return key in self._keys()

    def only(self, known: Collection[str]) -> None:
        """Raise an error unless all keys of an object are known."""
        for key in self._keys() - known:
            raise FileFormatError(self.path, self.name or "the file", f"the key {key!r}", f"only {', '.join(known)}")

    def entry(self, key: str) -> Entry:
        """Return an entry of an object."""
        if key not in self._keys():
            raise FileFormatError(self.path, self.name or "the file", f"no key {key!r}", "one")
        return Entry(self.path, f"{self.name}.{key}" if self.name else key, self.value[key])

    def items(self) -> list[Entry]:
        """Return the items of a list."""
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [Entry(self.path, f"{self.name}[{k}]", item) for k, item in enumerate(self.value)]

    def one_of(self, choices: Mapping[str, T]) -> T:
        """Return what a text stands for."""
        if not isinstance(self.value, str) or self.value not in choices:
            raise self.error(" or ".join(map(repr, choices)))
        return choices[self.value]

    def wholes(self, count: int, high: int, low: int = 0) -> list[int]:
        """Return a list of `count` whole numbers from `low` to `high`."""
        values = self._list(count)
        if set(map(type, values)) <= {int} and (not values or low <= min(values) <= max(values) <= high):
            return values
        wrong = next(item for item in self.items() if type(item.value) is not int or not low <= item.value <= high)
        raise wrong.error(f"a whole number from {low} to {high}")

    def costs(self, count: int, largest: float = sys.float_info.max, absent: bool = False) -> np.ndarray:
        """Return a list of `count` costs as float64: "inf" is +inf and, where `absent`, null is NaN."""
        values = self._list(count)
        special = {"inf": np.inf, None: np.nan} if absent else {"inf": np.inf}
        for k, value in enumerate(values):
            number = type(value) in (int, float) and -largest <= value <= largest
            if not number and not (type(value) in (str, type(None)) and value in special):
                wrong = Entry(self.path, f"{self.name}[{k}]", value)
                raise wrong.error(f"a number of at most {largest:.3g} in size{', null' * absent} or the text inf")
        return np.array([special[v] if type(v) in (str, type(None)) else v for v in values], dtype=np.float64)

    def _keys(self) -> KeysView[str]:
        if not isinstance(self.value, dict):
            raise self.error("an object")
        return self.value.keys()

    def _list(self, count: int) -> list[Any]:
        """Return the value if it is a list of that length."""
        if not isinstance(self.value, list):
            raise self.error("a list")
        if len(self.value) != count:
            raise FileFormatError(self.path, self.name, f"a list of {len(self.value)}", f"a list of {count}")
        return self.value
