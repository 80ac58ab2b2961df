"""What an entry of the list of label sets in a packed file has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from mrfq.io.archive_header import DTYPES
from mrfq.nn.packing import Word
from mrfq.nn.weight_grids import WeightGrid

NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: levels of a grid; more than the first where there are as many labels, so that small files stay small in memory
FEW_LEVELS, MOST_LEVELS = 256, 2**16
#: weights for each bit of a label, so that a file of codewords makes no network that is far larger
MOST_WEIGHTS = 16
#: takes so many numbers of a dtype from a file
Take = Callable[[str, int], Tensor]


def most_levels(labels: int) -> int:
    """Return on how many levels so many labels may be."""
    return max(FEW_LEVELS, min(labels, MOST_LEVELS))


def most_weights(count: int) -> int:
    """Return how many weights may share one of so many labels."""
    return MOST_WEIGHTS * max(count - 1, 1).bit_length()


def is_record(item: Any, kinds: Sequence[type]) -> bool:
    """Return whether a value is a list of such values."""
    return isinstance(item, list) and list(map(type, item)) == list(kinds)


class SharedSet(ABC):
    """An entry of the list.

    Attributes
    ----------
    form : tuple of type
        Of the entry.
    word : Word
        How labels lie in the file.
    count : int
        Of labels.
    block : int
        Weights that share a label.
    precision : str
        The dtype of contents and sides.
    content : Tensor or None
    """

    form: ClassVar[tuple[type, ...]]
    word: Word

    @property
    def content(self) -> Tensor | None:
        return None

    @property
    @abstractmethod
    def count(self) -> int: ...

    @property
    @abstractmethod
    def precision(self) -> str: ...

    @property
    def block(self) -> int:
        return 1

    @abstractmethod
    def record(self) -> list[int | str]:
        """Return the entry of the manifest."""

    @abstractmethod
    def sides(self, rows: int, weights: int) -> int:
        """Return how many numbers of its own a layer has."""

    @abstractmethod
    def grid(self, side: Tensor, rows: int) -> WeightGrid:
        """Return the grid of a layer."""
