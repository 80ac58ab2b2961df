"""How many bytes of tensors are alive during a forward pass."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Memory:
    """Counts the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._storages: Counter[int] = Counter()

    def note(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if isinstance(tensor, nn.Parameter) or tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
            self._now += 0 if self._storages[key] else size
            self._storages[key] += 1
            weakref.finalize(tensor, self._forget, key, size).atexit = False
        self.most = max(self.most, self._now)

    def _forget(self, key: int, size: int) -> None:
        self._storages[key] -= 1
        self._now -= 0 if self._storages[key] else size
