"""Reading a packed file: the tensors of a network, and nothing that the file does not hold.

What the manifest says of sizes is checked before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from mrfq.errors import FileFormatError, InvalidParameterError, InvalidProblemError
from mrfq.io.archive_header import DTYPES, is_shape
from mrfq.nn.label_sets import read_set
from mrfq.nn.packed_layout import LABELS, SINGLE, WEIGHTS, Stored
from mrfq.nn.packing import unpack
from mrfq.nn.shared_sets import SharedSet, is_record, most_levels

T = TypeVar("T")


def take_apart(path: str, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> list[Stored]:
    """Return what a file holds.

    Raises
    ------
    FileFormatError
        The manifest asks for more or less than there is, or for what cannot be.
    """
    return _Reader(path, tensors, manifest).read()


class _Reader:
    """Takes the parts of a file one after the other."""

    def __init__(self, path: str, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.left = {name: tensor.flatten() for name, tensor in tensors.items()}
        self.sets: list[SharedSet] = []
        self.found: dict[str, Stored] = {}

    def read(self) -> list[Stored]:
        for name, tensor in self.left.items():
            if tensor.dtype != DTYPES.get("U8" if name == LABELS else name):
                raise self.error(f"a tensor called {name!r} of {tensor.dtype}")
        lists = all(isinstance(value, list) for value in self.manifest.values())
        if self.manifest.keys() != {"levels", "modules"} or not lists:
            raise self.error("other keys, or no lists")
        for item in self.manifest["levels"]:
            self.sets.append(self.shared(item))
        for module in self.manifest["modules"]:
            self.module(module)
        if any(len(tensor) for tensor in self.left.values()):
            raise self.error("less than the tensors hold")
        return list(self.found.values())

    def shared(self, item: Any) -> SharedSet:
        return self.made(item, lambda: read_set(item, lambda name, count: self.take(name, count, item)))

    def module(self, module: Any) -> None:
        if not isinstance(module, list) or not module or not isinstance(module[0], str):
            raise self.error("a module without a name", module)
        for item in module[1:]:
            if not isinstance(item, list) or not set(map(type, item[:2])) == {str}:
                raise self.error("an entry without a name", module)
            full = [item[0], module[0] + item[1], *item[2:]]
            stored = self.stored(full)
            if stored.name in self.found:
                raise self.error("a name twice", full)
            self.found[stored.name] = stored

    def stored(self, item: list[Any]) -> Stored:
        kind, name = item[:2]
        if kind == "t" and is_record(item, [str, str, str]) and item[2] in self.found:
            return Stored("t", name, self.found[item[2]].value, other=item[2])
        if not is_record(item[:4], [str, str, list, str]) or not is_shape(item[2]) or item[3] not in DTYPES:
            raise self.error("a wrong entry", item)
        if kind in ("p", "b") and item[2:4] == SINGLE and is_record(item[4:], [int]) and -(2**63) <= item[4] < 2**63:
            return Stored(kind, name, torch.tensor(item[4]))
        if kind in ("p", "b") and len(item) == 4:
            return Stored(kind, name, self.take(item[3], math.prod(item[2]), item).reshape(item[2]))
        if kind not in ("q", "c") or item[3] not in WEIGHTS or not is_record(item[4:], [int, int]):
            raise self.error("a wrong entry", item)
        return self.quantized(item)

    def quantized(self, item: list[Any]) -> Stored:
        kind, name, shape, dtype, number, rows = item
        weights = math.prod(shape)
        if not 0 <= number < len(self.sets) or rows < 0 or (rows and weights % rows):
            raise self.error("levels that are not there, or rows that do not divide the weights", item)
        shared = self.sets[number]
        if weights % shared.block:
            raise self.error(f"{weights} weights in blocks of {shared.block}", item)
        count = weights // shared.block
        if shared.count > most_levels(count):
            raise self.error(f"{shared.count} levels of {count} weights", item)
        side = self.take(shared.precision, self.made(item, lambda: shared.sides(rows, weights)), item)
        data = self.take(LABELS, shared.word.size(count), item).numpy().tobytes()
        grid = self.made(item, lambda: shared.grid(side, rows))
        labels = torch.from_numpy(self.made(item, lambda: unpack(data, count, shared.word)))
        histogram = torch.bincount(labels, minlength=shared.count)
        if len(histogram) > shared.count:
            raise self.error("labels without a level", item)
        value = self.made(item, lambda: grid.decode(labels, tuple(shape), WEIGHTS[dtype]))
        return Stored(kind, name, value, grid, histogram, shared.word)

    def take(self, name: str, count: int, item: Any) -> Tensor:
        """Return the next `count` entries of a tensor."""
        left = self.left.get(name, torch.empty(0, dtype=DTYPES["U8" if name == LABELS else name]))
        if count > len(left):
            raise self.error(f"more than the tensor {name!r} holds", item)
        self.left[name] = left[count:]
        return left[:count].clone()

    def made(self, item: Any, make: Callable[[], T]) -> T:
        """Return what `make` makes; what it refuses is wrong in the file."""
        try:
            return make()
        except (InvalidProblemError, InvalidParameterError) as error:
            raise self.error(f"what cannot be ({error})", item) from error

    def error(self, found: str, item: Any = None) -> FileFormatError:
        named = isinstance(item, list) and len(item) > 1 and isinstance(item[1], str)
        where = f"the manifest, {item[1][:80]!a}" if named else "the manifest"
        return FileFormatError(self.path, where, found, "a description of the tensors of a network")
