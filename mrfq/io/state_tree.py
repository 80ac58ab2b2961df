"""Nested plain data with tensors in it, such as the state of an optimiser, in a file; bit for bit, nothing unpickled.

The manifest holds the tree as JSON. Numbers, texts, truth values, None and lists stand for themselves; an object with
one key stands for what JSON does not have:

.. code-block:: text

    {"d": [[key, value], ...]}    a dictionary
    {"t": [...]}                  a tuple
    {"f": "inf"}                  a number that is not finite: inf, -inf, nan
    {"x": 3}                      the tensor called "3"
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mrfq.errors import FileFormatError, InvalidProblemError
from mrfq.io.archive import read_archive, write_archive

#: dictionaries, tuples and lists inside each other
DEEPEST = 64
#: bits of a whole number
LONGEST_WHOLE = 4096
SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def write_state(path: str | Path, kind: str, version: int, tree: Any) -> None:
    """Write nested plain data to a file, atomically.

    Parameters
    ----------
    path : str or path
    kind : str
        What the file is for, small letters and dashes.
    version : int
        Of the layout of the tree.
    tree : dict, list, tuple, str, int, float, bool, None or Tensor
        Nested as deep as 64. Keys of dictionaries are texts and whole numbers. Every bit of a tensor is kept, but
        tensors that share memory, or are the same, come back apart.

    Raises
    ------
    InvalidProblemError
        Anything else in the tree; the message says where.

    Examples
    --------
    >>> import tempfile, torch
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "state.safetensors"
    >>> write_state(path, "example", 1, {"state": {0: {"step": torch.tensor(3.0)}}, "betas": (0.9, float("inf"))})
    >>> read_state(path, "example", 1)
    {'state': {0: {'step': tensor(3.)}}, 'betas': (0.9, inf)}
    >>> folder.cleanup()
    """
    tensors: dict[str, Tensor] = {}
    write_archive(path, kind, version, tensors, {"tree": _encode(tree, "the tree", 0, tensors)})


def read_state(path: str | Path, kind: str, version: int) -> Any:
    """Return the nested data in a file that `write_state` has written; tensors are on the CPU.

    Raises
    ------
    FileFormatError
        The file was cut or changed, is of another kind or version, or none of ours.
    OSError
        The file cannot be read.
    """
    tensors, manifest = read_archive(path, kind, version)
    if manifest.keys() != {"tree"}:
        raise FileFormatError(str(path), "the manifest", "other keys", "'tree' alone")
    tree = _Reader(str(path), tensors).decode(manifest["tree"], 0)
    if tensors:
        raise FileFormatError(str(path), "the manifest", f"{len(tensors)} tensors that it does not name", "none")
    return tree


def _encode(value: Any, where: str, depth: int, tensors: dict[str, Tensor]) -> Any:
    """Return what stands for a value in the manifest; tensors are put aside."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(_short(value, where))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"f": str(float(value))}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"x": int(name)}
    if depth == DEEPEST:
        raise InvalidProblemError(f"{where} is nested deeper than {DEEPEST}")
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{where}[{k}]", depth + 1, tensors) for k, item in enumerate(value)]
        return items if isinstance(value, list) else {"t": items}
    if isinstance(value, Mapping):
        return {"d": [[_key(k, where), _encode(v, f"{where}[{k!r}]", depth + 1, tensors)] for k, v in value.items()]}
    raise InvalidProblemError(
        f"{where} is of type {type(value).__name__}; a file holds dictionaries, lists, tuples, texts, numbers, "
        "truth values, None and tensors"
    )


def _key(key: Any, where: str) -> str | int:
    if isinstance(key, str):
        return key
    if isinstance(key, bool) or not isinstance(key, int):
        raise InvalidProblemError(f"{where} has the key {key!r}; keys are texts and whole numbers")
    return int(_short(key, where))


def _short(value: int, where: str) -> int:
    if value.bit_length() > LONGEST_WHOLE:
        raise InvalidProblemError(f"{where} is a whole number of more than {LONGEST_WHOLE} bits")
    return value


class _Reader:
    """Turns the manifest of a file back into data; each tensor is taken once."""

    def __init__(self, path: str, tensors: dict[str, Tensor]) -> None:
        self.path, self.tensors = path, tensors
        self.kinds: dict[str, Callable[[Any, int], Any]] = {
            "d": self._dictionary,
            "t": lambda items, depth: tuple(self._list(items, depth)),
            "f": self._special,
            "x": self._tensor,
        }

    def decode(self, value: Any, depth: int) -> Any:
        if isinstance(value, list):
            return self._list(value, depth)
        if not isinstance(value, dict):
            return value if not isinstance(value, float) or math.isfinite(value) else self._refuse("a huge number")
        if len(value) != 1 or not value.keys() <= self.kinds.keys():
            self._refuse("an object with other keys")
        [(kind, content)] = value.items()
        return self.kinds[kind](content, depth)

    def _list(self, items: Any, depth: int) -> list[Any]:
        if not isinstance(items, list) or depth >= DEEPEST:
            self._refuse("a list that is none, or too deep")
        return [self.decode(item, depth + 1) for item in items]

    def _dictionary(self, pairs: Any, depth: int) -> dict[str | int, Any]:
        good = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
        if not good or depth >= DEEPEST or not all(type(key) in (str, int) for key, _ in pairs):
            self._refuse("a dictionary that is none, or too deep")
        found = {key: self.decode(item, depth + 1) for key, item in pairs}
        return found if len(found) == len(pairs) else self._refuse("a key twice")

    def _special(self, name: Any, depth: int) -> float:
        return SPECIAL[name] if isinstance(name, str) and name in SPECIAL else self._refuse("an unknown number")

    def _tensor(self, name: Any, depth: int) -> Tensor:
        tensor = self.tensors.pop(str(name), None) if type(name) is int else None
        return self._refuse("a tensor that is not there, or was named before") if tensor is None else tensor

    def _refuse(self, found: str) -> Any:
        raise FileFormatError(self.path, "the manifest", found, "a tree of plain data and tensors")
