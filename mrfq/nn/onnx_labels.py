"""Labels in an ONNX graph: packed bytes, and standard operators that make of them the very weights of a network.

Runtimes compute constants once, when they load a graph, so that this costs no time afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.nn.grids import Grid
from mrfq.nn.packing import byte_word, pack
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.nn.weight_grids import WeightGrid

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto


class LabelGraph:
    """Operators that compute one parameter.

    Parameters
    ----------
    name : str
        Of the parameter, which the result gets.
    weights : Tensor, float32
    grid : WeightGrid
        That they are on, at most 256 labels.

    Attributes
    ----------
    bits : int
        Of a label: 1, 2, 4 or 8.
    nodes, tensors
        Of the graph.

    Raises
    ------
    InvalidProblemError
        Weights or a grid of another precision, or more labels.
    """

    def __init__(self, name: str, weights: Tensor, grid: WeightGrid) -> None:
        float64 = isinstance(grid, Grid) and grid.precision != torch.float32
        if weights.dtype != torch.float32 or float64 or grid.count > 256:
            raise InvalidProblemError("labels stand for float32, and there are at most 256")
        self.name, self.bits = name, byte_word(grid.count).bits
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        labels = self._labels(grid.nearest(weights).flatten().cpu())
        found = self._decoded(labels, grid, weights.numel())
        shape = self._constant("shape", np.array(weights.shape, np.int64))
        self._node("Reshape", [found, shape], output=name)

    @property
    def bytes(self) -> int:
        """What the graph holds of numbers."""
        return sum(len(tensor.raw_data) for tensor in self.tensors)

    def _labels(self, labels: Tensor) -> str:
        """Return the labels, int64 of shape (n,)."""
        octets = np.frombuffer(pack(labels.numpy(), byte_word(1 << self.bits)), np.uint8)
        found = self._constant("labels", octets)
        if self.bits < 8:
            places = self._constant("places", np.arange(0, 8, self.bits, dtype=np.uint8))
            columns = self._node("Unsqueeze", [found, self._constant("last", np.array([1]))])
            shifted = self._node("BitShift", [columns, places], direction="RIGHT")
            mask = self._constant("mask", np.array([2**self.bits - 1], np.uint8))
            cells = self._node("BitwiseAnd", [shifted, mask])
            flat = self._node("Reshape", [cells, self._constant("flat", np.array([-1]))])
            ends = [self._constant(f"end{k}", np.array([k])) for k in (0, len(labels))]
            found = self._node("Slice", [flat, *ends])
        return self._node("Cast", [found], to=7)

    def _decoded(self, labels: str, grid: WeightGrid, count: int) -> str:
        if isinstance(grid, VectorGrid):
            return self._node("Gather", [self._floats("codewords", grid.codewords), labels], axis=0)
        if isinstance(grid, Grid):
            base = torch.tensor(grid.levels)
            scales = None if grid.scales is None else grid.scales[:, None]
            return self._affine(self._rows(labels, grid.rows, count), base, scales, None)
        if not isinstance(grid, RowGrid):
            raise InvalidProblemError(f"no operators decode a {type(grid).__name__}")
        stored = grid.table.parameters.flatten(0, 1)
        rows = self._rows(labels, len(stored), count)
        if grid.table.spec.base is None:
            return self._node("GatherElements", [self._floats("codebooks", stored), rows], axis=1)
        offsets = stored[:, 1:] if stored.shape[1] == 2 else None
        return self._affine(rows, torch.tensor(grid.table.spec.base), stored[:, :1], offsets)

    def _rows(self, labels: str, rows: int, count: int) -> str:
        shape = self._constant("rows", np.array([rows, count // rows]))
        return self._node("Reshape", [labels, shape])

    def _affine(self, labels: str, base: Tensor, scales: Tensor | None, offsets: Tensor | None) -> str:
        found = self._node("Gather", [self._floats("levels", base), labels], axis=0)
        if scales is not None:
            found = self._node("Mul", [found, self._floats("scales", scales)])
        if offsets is not None:
            found = self._node("Add", [found, self._floats("offsets", offsets)])
        return found

    def _floats(self, what: str, numbers: Tensor) -> str:
        """Return numbers as float32, stored in their own precision."""
        found = self._constant(what, numbers.detach().cpu().numpy())
        return self._node("Cast", [found], to=1) if numbers.dtype == torch.float16 else found

    def _constant(self, what: str, values: np.ndarray[Any, np.dtype[Any]]) -> str:
        from onnx import numpy_helper

        name = f"{self.name}/{what}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{self.name}/{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output
