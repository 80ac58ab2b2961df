"""Training data as numbered batches, so that a run is reproducible and can be resumed at any step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError

Batch = tuple[Any, Any]


class Batches(ABC):
    """Batches (inputs, targets) of a data set: by number in a shuffled order, or all of them in a fixed order."""

    #: batches in one pass over the data
    count: int
    seed: int

    @abstractmethod
    def fixed(self, index: int) -> Batch:
        """Return a batch of the fixed order."""

    @abstractmethod
    def shuffled(self, draw: int) -> Batch:
        """Return batch number `draw` of an endless sequence of shuffled passes; the same number, the same batch."""

    def __iter__(self) -> Iterator[Batch]:
        return (self.fixed(index) for index in range(self.count))

    def permutation(self, epoch: int, n: int) -> Tensor:
        """Return the order of a pass."""
        generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + epoch)
        return torch.randperm(n, generator=generator)


class TensorBatches(Batches):
    """Inputs and targets held in memory, cut into near-equal batches."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int | None, seed: int) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise InvalidProblemError(
                f"data: {len(inputs)} inputs but {len(targets)} targets; need equally many, not 0"
            )
        self.inputs, self.targets, self.seed = inputs, targets, seed
        self.count = math.ceil(len(inputs) / _checked_size(batch_size, len(inputs)))
        self._epoch, self._order = -1, torch.arange(len(inputs))

    def fixed(self, index: int) -> Batch:
        return self._take(torch.arange(len(self.inputs)), index)

    def shuffled(self, draw: int) -> Batch:
        epoch, index = divmod(draw, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.permutation(epoch, len(self.inputs))
        return self._take(self._order, index)

    def _take(self, order: Tensor, index: int) -> Batch:
        if self.count == 1:
            return self.inputs, self.targets
        rows = order.tensor_split(self.count)[index].to(self.inputs.device)
        return self.inputs[rows], self.targets[rows.to(self.targets.device)]


class DatasetBatches(Batches):
    """A map-style data set with its collate function, as a `DataLoader` holds them."""

    def __init__(self, loader: torch.utils.data.DataLoader[Any], seed: int) -> None:
        dataset = loader.dataset
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or loader.batch_size is None:
            raise InvalidProblemError(
                "data: the DataLoader needs a data set with a length, and a batch_size, so that batches can be "
                "numbered; turn an iterable data set into a list of batches"
            )
        self.dataset: Any = dataset
        self.collate, self.seed = loader.collate_fn, seed
        self.size = len(self.dataset)
        self.count = math.ceil(self.size / _checked_size(loader.batch_size, self.size))

    def fixed(self, index: int) -> Batch:
        return self._take(torch.arange(self.size), index)

    def shuffled(self, draw: int) -> Batch:
        epoch, index = divmod(draw, self.count)
        return self._take(self.permutation(epoch, self.size), index)

    def _take(self, order: Tensor, index: int) -> Batch:
        batch = self.collate([self.dataset[i] for i in order.tensor_split(self.count)[index].tolist()])
        return _pair(batch)


class ListBatches(Batches):
    """Batches made by the user."""

    def __init__(self, batches: Sequence[Any], seed: int) -> None:
        if not batches:
            raise InvalidProblemError("data: an empty list of batches")
        self.batches, self.seed, self.count = [_pair(batch) for batch in batches], seed, len(batches)

    def fixed(self, index: int) -> Batch:
        return self.batches[index]

    def shuffled(self, draw: int) -> Batch:
        epoch, index = divmod(draw, self.count)
        return self.batches[int(self.permutation(epoch, self.count)[index])]


def as_batches(data: Any, batch_size: int | None, seed: int) -> Batches:
    """Return numbered batches of a pair of tensors, a `DataLoader`, or a list of (inputs, targets) batches."""
    if isinstance(data, torch.utils.data.DataLoader):
        if batch_size is not None:
            raise InvalidProblemError("data: the DataLoader has its own batch size; leave out batch_size")
        return DatasetBatches(data, seed)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return TensorBatches(data[0], data[1], batch_size, seed)
    if isinstance(data, Sequence):
        return ListBatches(data, seed)
    raise InvalidProblemError(
        f"data: give (inputs, targets) tensors, a DataLoader or a list of batches, not {type(data).__name__}"
    )


def to_device(value: Any, device: torch.device) -> Any:
    """Return tensors, or lists, tuples and dictionaries of them, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(item, device) for item in value)
    return value


def _checked_size(batch_size: int | None, n: int) -> int:
    if batch_size is not None and batch_size < 1:
        raise InvalidProblemError(f"data: batch_size must be at least 1, got {batch_size}")
    return n if batch_size is None else min(batch_size, n)


def _pair(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InvalidProblemError("data: every batch must be a pair (inputs, targets)")
    return batch[0], batch[1]
