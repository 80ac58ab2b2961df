"""How the tensors of a network lie in a packed file.

Everything of one dtype is joined into one tensor, and all labels into one string of bytes, so that the header stays
short. The manifest lists what to take from them, in order:

.. code-block:: text

    {"levels": [[3, "F32", 29, 46], ...],      what layers share; `mrfq.nn.label_sets` has all forms
     "modules": [["layer1.conv.",              where the names that follow begin with this
                  ["q", "weight", shape, dtype, i, rows],   weights on a grid: entry i, rows with numbers of their own
                  ["c", "weight", shape, dtype, i, rows],   the same, found by value when the file was written
                  ["p", "bias", shape, dtype],              a parameter as it is
                  ["b", "mask", shape, dtype],              a buffer as it is
                  ["b", "count", [], "I64", 7],             a single whole number
                  ["t", "weight", "layer0.conv.weight"]],   the same tensor as another one before it
                 ...]}

The tensor of a dtype holds first what layers share of that dtype, all entries in order, then what each has of its own
and parameters and buffers in the order of the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrfq.nn.grids import Grid
from mrfq.nn.label_sets import shared_set, side_of
from mrfq.nn.packing import Word, pack
from mrfq.nn.shared_sets import NAMES, most_levels, most_weights
from mrfq.nn.weight_grids import WeightGrid

#: the dtypes of weights that are packed
WEIGHTS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LABELS = "labels"
#: shape and dtype of a single whole number, which the manifest itself holds
SINGLE = [[], "I64"]


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
    grid : WeightGrid or None
    histogram : Tensor or None
        Of weights that were read: how often each label is there, int64 of shape (labels,).
    word : Word or None
        Of weights that were read: how their labels lie in the file.
    other : str
        The name of the tensor that this one is tied to.
    """

    kind: str
    name: str
    value: Tensor
    grid: WeightGrid | None = None
    histogram: Tensor | None = None
    word: Word | None = None
    other: str = ""


def packable(value: Tensor, grid: WeightGrid) -> bool:
    """Return whether weights on a grid can be packed: not of 8 bits, nor on more levels than a file may have."""
    few = grid.count <= most_levels(value.numel() // grid.block) and grid.block <= most_weights(grid.count)
    return value.dtype in WEIGHTS.values() and few


def version_of(stored: Iterable[Stored]) -> int:
    """Return the first version of the layout that has room for all grids: the second one brought tables and codewords.

    Examples
    --------
    >>> version_of([Stored("p", "bias", torch.zeros(3))])
    1
    """
    return 1 + any(not isinstance(item.grid, Grid) for item in stored if item.grid is not None)


def lay_out(stored: Sequence[Stored], align: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file, and its manifest.

    Parameters
    ----------
    stored : sequence of Stored
    align : bool
        Whether no label may cross a byte.
    """
    writer = _Writer(align)
    numbers = {item.name: writer.share(item.grid) for item in stored if item.grid is not None}
    modules: list[list[Any]] = []
    for item in stored:
        prefix = item.name[: item.name.rfind(".") + 1]
        if not modules or modules[-1][0] != prefix:
            modules.append([prefix])
        modules[-1].append(writer.entry(item, item.name.removeprefix(prefix), numbers.get(item.name, 0)))
    tensors = {name: torch.cat(parts) for name, parts in writer.parts.items()}
    labels = torch.frombuffer(bytearray(writer.labels), dtype=torch.uint8) if writer.labels else None
    return {**({} if labels is None else {LABELS: labels}), **tensors}, {"levels": writer.records, "modules": modules}


class _Writer:
    """Collects the parts of a file."""

    def __init__(self, align: bool) -> None:
        self.align = align
        self.parts: dict[str, list[Tensor]] = {}
        self.records: list[list[int | str]] = []
        self.words: list[Word] = []
        self.known: dict[tuple[int | str | bytes, ...], int] = {}
        self.labels = bytearray()

    def put(self, tensor: Tensor) -> None:
        self.parts.setdefault(NAMES[tensor.dtype], []).append(tensor.detach().cpu().flatten())

    def share(self, grid: WeightGrid) -> int:
        """Return the number of what a grid may share with others, which is written once."""
        shared = shared_set(grid, self.align)
        content = b"" if shared.content is None else shared.content.numpy().tobytes()
        key = *shared.record(), content
        if key not in self.known:
            self.known[key] = len(self.records)
            self.records.append(shared.record())
            self.words.append(shared.word)
            if shared.content is not None:
                self.put(shared.content)
        return self.known[key]

    def entry(self, item: Stored, name: str, number: int) -> list[Any]:
        if item.kind == "t":
            return ["t", name, item.other]
        head = [item.kind, name, list(item.value.shape), NAMES[item.value.dtype]]
        if head[2:] == SINGLE:
            return [*head, int(item.value)]
        if item.grid is None:
            self.put(item.value)
            return head
        rows, side = side_of(item.grid)
        if side is not None:
            self.put(side)
        labels = item.grid.nearest(item.value).flatten().cpu().numpy()
        self.labels += pack(labels, self.words[number])
        return [*head, number, rows]
