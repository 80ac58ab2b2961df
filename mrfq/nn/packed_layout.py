"""How the tensors of a network lie in a packed file.

Everything of one dtype is joined into one tensor, and all labels into one string of bytes, so that the header stays
short. The manifest lists what to take from them, in order:

.. code-block:: text

    {"levels": [[3, "F32", 29, 46], ...],      how many, their dtype; digits and bits of a word of labels
     "modules": [["layer1.conv.",              where the names that follow begin with this
                  ["q", "weight", shape, dtype, i, rows],   weights on a grid: levels i, as many scales (0: none)
                  ["c", "weight", shape, dtype, i, rows],   the same, found by value when the file was written
                  ["p", "bias", shape, dtype],              a parameter as it is
                  ["b", "mask", shape, dtype],              a buffer as it is
                  ["b", "count", [], "I64", 7],             a single whole number
                  ["t", "weight", "layer0.conv.weight"]],   the same tensor as another one before it
                 ...]}

The tensor of a dtype holds first the levels of that dtype, all sets in order, then scales and parameters and buffers
in the order of the list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from mrfq.errors import FileFormatError, InvalidProblemError
from mrfq.io.archive_header import DTYPES, is_shape
from mrfq.nn.grids import Grid
from mrfq.nn.packing import Word, best_word, pack, unpack

NAMES = {dtype: name for name, dtype in DTYPES.items()}
PRECISIONS = {"F32": torch.float32, "F64": torch.float64}
WEIGHTS = {**PRECISIONS, "F16": torch.float16, "BF16": torch.bfloat16}
LABELS = "labels"
#: shape and dtype of a single whole number, which the manifest itself holds
SINGLE = [[], "I64"]
#: levels of a grid; more than the first where there are as many weights, so that small files stay small in memory
FEW_LEVELS, MOST_LEVELS = 256, 2**16
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A tensor of a network in a packed file.

    Attributes
    ----------
    kind : str
        "q" or "c": weights on a grid, attached to the parameter or found by value; "p": a parameter, "b": a buffer;
        "t": the same tensor as another one.
    name : str
    value : Tensor
        The tensor itself; of weights that were read, made from their labels.
    grid : Grid or None
    histogram : Tensor or None
        Of weights that were read: how many have each level, int64 of shape (levels,).
    word : Word or None
        Of weights that were read: how their labels lie in the file.
    other : str
        The name of the tensor that this one is tied to.
    """

    kind: str
    name: str
    value: Tensor
    grid: Grid | None = None
    histogram: Tensor | None = None
    word: Word | None = None
    other: str = ""


def packable(value: Tensor, grid: Grid) -> bool:
    """Return whether weights on a grid can be packed: not of 8 bits, nor on more levels than a file may have."""
    return value.dtype in WEIGHTS.values() and len(grid.levels) <= most_levels(value.numel())


def most_levels(count: int) -> int:
    """Return how many levels so many weights may have."""
    return max(FEW_LEVELS, min(count, MOST_LEVELS))


def lay_out(stored: Sequence[Stored]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file, and its manifest."""
    writer = _Writer()
    grids = {item.name: writer.levels(item.grid) for item in stored if item.grid is not None}
    modules: list[list[Any]] = []
    for item in stored:
        prefix = item.name[: item.name.rfind(".") + 1]
        if not modules or modules[-1][0] != prefix:
            modules.append([prefix])
        modules[-1].append(writer.entry(item, item.name.removeprefix(prefix), grids.get(item.name, 0)))
    tensors = {name: torch.cat(parts) for name, parts in writer.parts.items()}
    labels = torch.frombuffer(bytearray(writer.labels), dtype=torch.uint8) if writer.labels else None
    return {**({} if labels is None else {LABELS: labels}), **tensors}, {"levels": writer.sets, "modules": modules}


class _Writer:
    """Collects the parts of a file."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self.sets: list[list[int | str]] = []
        self.known: dict[tuple[str, bytes], int] = {}
        self.labels = bytearray()

    def put(self, tensor: Tensor) -> None:
        self.parts.setdefault(NAMES[tensor.dtype], []).append(tensor.detach().cpu().flatten())

    def levels(self, grid: Grid) -> int:
        """Return the number of a set of levels, which is written once."""
        values = torch.tensor(grid.levels, dtype=grid.precision)
        key = NAMES[grid.precision], values.numpy().tobytes()
        if key not in self.known:
            word = best_word(len(values))
            self.known[key] = len(self.sets)
            self.sets.append([len(values), key[0], word.digits, word.bits])
            self.put(values)
        return self.known[key]

    def entry(self, item: Stored, name: str, levels: int) -> list[Any]:
        if item.kind == "t":
            return ["t", name, item.other]
        head = [item.kind, name, list(item.value.shape), NAMES[item.value.dtype]]
        if head[2:] == SINGLE:
            return [*head, int(item.value)]
        if item.grid is None:
            self.put(item.value)
            return head
        if item.grid.scales is not None:
            self.put(item.grid.scales.to(item.grid.precision))
        labels = item.grid.nearest(item.value).flatten().cpu().numpy()
        self.labels += pack(labels, best_word(len(item.grid.levels)))
        return [*head, levels, 0 if item.grid.scales is None else item.grid.rows]


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
        self.sets: list[tuple[tuple[float, ...], torch.dtype, Word]] = []
        self.found: dict[str, Stored] = {}

    def read(self) -> list[Stored]:
        for name, tensor in self.left.items():
            if tensor.dtype != DTYPES.get("U8" if name == LABELS else name):
                raise self.error(f"a tensor called {name!r} of {tensor.dtype}")
        lists = all(isinstance(value, list) for value in self.manifest.values())
        if self.manifest.keys() != {"levels", "modules"} or not lists:
            raise self.error("other keys, or no lists")
        for item in self.manifest["levels"]:
            self.sets.append(self.levels(item))
        for module in self.manifest["modules"]:
            self.module(module)
        if any(len(tensor) for tensor in self.left.values()):
            raise self.error("less than the tensors hold")
        return list(self.found.values())

    def levels(self, item: Any) -> tuple[tuple[float, ...], torch.dtype, Word]:
        if not _is_record(item, [int, str, int, int]) or item[1] not in PRECISIONS or not 0 < item[0] <= MOST_LEVELS:
            raise self.error("wrong levels", item)
        values = self.take(item[1], item[0], item)
        word = self.made(item, lambda: Word(max(item[0], 2), item[2], item[3]))
        return tuple(values.tolist()), values.dtype, word

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
        if kind == "t" and _is_record(item, [str, str, str]) and item[2] in self.found:
            return Stored("t", name, self.found[item[2]].value, other=item[2])
        if not _is_record(item[:4], [str, str, list, str]) or not is_shape(item[2]) or item[3] not in DTYPES:
            raise self.error("a wrong entry", item)
        if kind in ("p", "b") and item[2:4] == SINGLE and _is_record(item[4:], [int]) and -(2**63) <= item[4] < 2**63:
            return Stored(kind, name, torch.tensor(item[4]))
        if kind in ("p", "b") and len(item) == 4:
            return Stored(kind, name, self.take(item[3], math.prod(item[2]), item).reshape(item[2]))
        if kind not in ("q", "c") or item[3] not in WEIGHTS or not _is_record(item[4:], [int, int]):
            raise self.error("a wrong entry", item)
        return self.quantized(item)

    def quantized(self, item: list[Any]) -> Stored:
        kind, name, shape, dtype, number, rows = item
        count = math.prod(shape)
        if not 0 <= number < len(self.sets) or rows < 0 or (rows and count % rows):
            raise self.error("levels that are not there, or scales that do not divide the weights", item)
        levels, precision, word = self.sets[number]
        if len(levels) > most_levels(count):
            raise self.error(f"{len(levels)} levels of {count} weights", item)
        scales = self.take(NAMES[precision], rows, item) if rows else None
        grid = self.made(item, lambda: Grid(levels, scales, precision))
        data = self.take(LABELS, word.size(count), item).numpy().tobytes()
        labels = torch.from_numpy(self.made(item, lambda: unpack(data, count, word)))
        histogram = torch.bincount(labels, minlength=len(levels))
        if len(histogram) > len(levels):
            raise self.error("labels without a level", item)
        value = grid.decode(labels, tuple(shape), WEIGHTS[dtype])
        return Stored(kind, name, value, grid, histogram, word)

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
        except InvalidProblemError as error:
            raise self.error(f"what cannot be ({error})", item) from error

    def error(self, found: str, item: Any = None) -> FileFormatError:
        named = isinstance(item, list) and len(item) > 1 and isinstance(item[1], str)
        where = f"the manifest, {item[1][:80]!a}" if named else "the manifest"
        return FileFormatError(self.path, where, found, "a description of the tensors of a network")


def _is_record(item: Any, kinds: list[type]) -> bool:
    return isinstance(item, list) and list(map(type, item)) == kinds
