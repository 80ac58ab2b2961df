"""A linear layer that is exported as `MatMulNBits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrfq.errors import MrfqError
from mrfq.nn.onnx_blocks import block_size, packed_codes
from mrfq.nn.onnx_codes import find_codes
from mrfq.nn.weight_grids import WeightGrid

#: of the operator: as the inputs, float32, float16, bfloat16, int8
ACCURACY_LEVELS = (0, 1, 2, 3, 4)
INT8 = 4


@dataclass(frozen=True, eq=False)
class LinearCodes:
    """The weights of a layer as the operator takes them; `packed_codes` has the shapes.

    Attributes
    ----------
    shifts : Tensor or None
        What rows lack in each group of columns, float32 of shape (R, G).
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    shifts: Tensor | None
    bits: int
    block: int
    accuracy_level: int

    @classmethod
    def of(cls, weights: Tensor, grid: WeightGrid, accuracy_level: int) -> LinearCodes:
        """Return the codes of weights (R, C) on a grid.

        Raises
        ------
        InvalidProblemError
            The operator does not take them; the message says why.
        """
        found = find_codes(weights, grid)
        block = block_size(weights.shape[1], found.scales.shape[1])
        # the one case in which floats are the faster zeros: 0.16 ms instead of 1.9 (1536 x 384, onnxruntime 1.31)
        float_zeros = found.bits == 2 and accuracy_level != INT8
        codes, scales, zeros = map(torch.from_numpy, packed_codes(found, block, float_zeros))
        shifts = None if float_zeros or found.whole else found.shifts
        return cls(codes, scales, zeros, shifts, found.bits, block, accuracy_level)

    @property
    def bytes(self) -> int:
        """What they take in a file."""
        parts = self.codes, self.scales, self.zeros, *([] if self.shifts is None else [self.shifts])
        return sum(tensor.numel() * tensor.itemsize for tensor in parts)


class BitsLinear(nn.Module):
    """A stand-in for an `nn.Linear` while it is exported; it cannot be run.

    Parameters
    ----------
    layer : nn.Linear
        Whose `weight` and `bias` it keeps, for networks that look at them.
    codes : LinearCodes
        Of the weight.

    Raises
    ------
    MrfqError
        torch cannot export operators of other domains.
    """

    def __init__(self, layer: nn.Linear, codes: LinearCodes) -> None:
        if not hasattr(torch.onnx, "ops"):
            raise MrfqError(f"MatMulNBits needs torch 2.8 or newer, this is {torch.__version__}")
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.codes: Tensor
        self.scales: Tensor
        self.zeros: Tensor
        self.shifts: Tensor | None
        for name in ("codes", "scales", "zeros", "shifts"):
            self.register_buffer(name, getattr(codes, name))
        self.attributes: dict[str, Any] = {
            "K": self.in_features,
            "N": self.out_features,
            "bits": codes.bits,
            "block_size": codes.block,
            "accuracy_level": codes.accuracy_level,
        }

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x, self.codes, self.scales, self.zeros, None, self.bias),
            self.attributes,
            dtype=x.dtype,
            shape=(*x.shape[:-1], self.out_features),
            version=1,
        )
        if self.shifts is None:
            return result
        groups = self.shifts.shape[1]
        sums = x.reshape(*x.shape[:-1], groups, self.in_features // groups).sum(-1)
        return result + nn.functional.linear(sums, self.shifts)
