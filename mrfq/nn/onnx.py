"""ONNX files of quantized networks, for onnxruntime and others.

Linear layers on evenly spaced levels become `MatMulNBits`, which multiplies by codes of 2, 4 or 8 bits. Other weights
on a grid are carried as packed labels with the operators that decode them, and the rest as floats.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mrfq.errors import InvalidParameterError, InvalidProblemError, MrfqError
from mrfq.files import write_atomically
from mrfq.nn.grids import grid_of
from mrfq.nn.onnx_graph import exported_graph
from mrfq.nn.onnx_labels import LabelGraph
from mrfq.nn.onnx_linear import ACCURACY_LEVELS, BitsLinear, LinearCodes
from mrfq.nn.weight_grids import WeightGrid

if TYPE_CHECKING:
    from onnx import GraphProto

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
OTHERS = ("labels", "float", "error")


@dataclass(frozen=True)
class OnnxLayer:
    """How a parameter on a grid lies in an ONNX file.

    Attributes
    ----------
    name : str
    container : str
        "MatMulNBits", "labels" or "float".
    bits : int
        Of a code, of a label, or of a float.
    bytes : int
        What it takes, with scales, zeros, shifts, codebooks.
    note : str
        Why it is not in `MatMulNBits`; empty if it is.
    """

    name: str
    container: str
    bits: int
    bytes: int
    note: str = ""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_inputs: Inputs,
    *,
    accuracy_level: int = 0,
    others: str = "labels",
    dynamic_batch: bool = True,
) -> list[OnnxLayer]:
    """Write a network to an ONNX file, atomically; weights on a grid stay small.

    `nn.Linear` layers whose weights are `scale * (code - zero)` with codes of 2, 4 or 8 bits become `MatMulNBits`
    (domain `com.microsoft`, of onnxruntime): uniform, symmetric and power-of-two label sets of rows or of groups of a
    multiple of 16 columns, and any two levels.

    Parameters
    ----------
    model : nn.Module
        Float32. It is exported as it is in evaluation, and not changed.
    path : str or path
    example_inputs : Tensor, sequence of Tensor, or mapping of str to Tensor
        What `model` is called with; a mapping for arguments by name.
    accuracy_level : {0, 1, 2, 3, 4}
        Of `MatMulNBits`: 0 computes in float32; 4 rounds the inputs of a layer to 8 bits, which is much faster and
        differs by about half a percent.
    others : {"labels", "float", "error"}
        What becomes of weights on a grid that `MatMulNBits` does not take: labels of 1, 2, 4 or 8 bits with the
        operators that decode them when the file is loaded, the same to the last bit; floats; or an error.
    dynamic_batch : bool
        Whether the first axis of all inputs may have any length.

    Returns
    -------
    list of OnnxLayer
        One for each parameter on a grid.

    Raises
    ------
    InvalidProblemError
        Weights that have left their grid, a network that torch cannot export, one of more than 2 GB, or, with
        `others="error"`, weights that `MatMulNBits` does not take; the message says which and why.
    InvalidParameterError
        A value outside these.
    MrfqError
        The packages `onnx` and `onnxscript` are not installed, or torch is older than 2.8.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile, torch
    >>> from mrfq.nn.grids import Grid, attach
    >>> layer = nn.Linear(64, 8)
    >>> _ = layer.weight.data.sign_()
    >>> attach(layer.weight, Grid((-1.0, 1.0)))
    >>> folder = tempfile.TemporaryDirectory()
    >>> export_onnx(layer, Path(folder.name) / "layer.onnx", torch.zeros(2, 64))  # doctest: +SKIP
    [OnnxLayer(name='weight', container='MatMulNBits', bits=2, bytes=192, note='')]
    >>> folder.cleanup()
    """
    _check_request(accuracy_level, others)
    export = _Export(model, accuracy_level)
    if others == "error":
        export.refuse_others()
    graph = exported_graph(export.model, example_inputs, dynamic_batch)
    export.carry(graph.graph, others == "labels")
    try:
        data = graph.SerializeToString()
    except Exception as error:  # protobuf has errors of its own for more than 2 GB
        raise InvalidProblemError(f"onnx: the network is too large for one file ({error})") from error
    write_atomically(path, data)
    return list(export.layers.values())


class _Export:
    """A copy of a network that is exported, and what becomes of its parameters on a grid.

    Attributes
    ----------
    model : nn.Module
        With `BitsLinear` in the places of linear layers.
    layers : dict of str to OnnxLayer
    notes : dict of str to str
        Why parameters are not in `MatMulNBits`.
    """

    def __init__(self, model: nn.Module, accuracy_level: int) -> None:
        self.parameters = dict(model.named_parameters())
        found = {name: grid_of(value) for name, value in self.parameters.items()}
        self.grids: dict[str, WeightGrid] = {name: grid for name, grid in found.items() if grid is not None}
        self._check_weights()
        self.first = {id(value): name for name, value in self.parameters.items()}
        names = model.named_parameters(remove_duplicate=False)
        self.names = {name: self.first[id(value)] for name, value in names}
        self.layers: dict[str, OnnxLayer] = {}
        self.notes = dict.fromkeys(self.grids, "not the weight of an nn.Linear")
        self.codes: dict[str, LinearCodes] = {}
        self.model = copy.deepcopy(model).cpu().eval()
        for path, module in model.named_modules(remove_duplicate=False):
            if type(module) is nn.Linear and self.first[id(module.weight)] in self.grids:
                self._replace(path, self.first[id(module.weight)], accuracy_level)

    def refuse_others(self) -> None:
        """Raise an error unless all parameters on a grid are in `MatMulNBits`."""
        wrong = [f"{name} ({note})" for name, note in self.notes.items() if name not in self.layers]
        if wrong:
            raise InvalidProblemError(f"onnx: MatMulNBits does not take {'; '.join(wrong)}")

    def carry(self, graph: GraphProto, as_labels: bool) -> None:
        """Put labels in the place of the floats of a graph, or note that they stay floats."""
        for tensor in list(graph.initializer):
            name = self.names.get(tensor.name, "")
            if name not in self.grids:
                continue
            labels = self._labels(tensor.name, name) if as_labels else None
            if labels is not None and labels.bytes < len(tensor.raw_data):
                graph.initializer.remove(tensor)
                graph.initializer.extend(labels.tensors)
                nodes = [*labels.nodes, *graph.node]
                del graph.node[:]
                graph.node.extend(nodes)
                self._note(name, "labels", labels.bits, labels.bytes)
            else:
                self._note(name, "float", 32, len(tensor.raw_data))
        for name in self.grids.keys() - self.layers.keys():
            self.layers[name] = OnnxLayer(name, "unused", 0, 0, "the network does not use it")
        self.layers = {name: self.layers[name] for name in self.grids}

    def _check_weights(self) -> None:
        off = [name for name, grid in self.grids.items() if not grid.exact(self.parameters[name])]
        if off:
            raise InvalidProblemError(f"onnx: weights of {', '.join(off[:8])} are not on the grid attached to them")

    def _replace(self, path: str, name: str, accuracy_level: int) -> None:
        """Put a stand-in into the place of a linear layer, if the operator takes its weight."""
        layer = self.model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        try:
            weights, grid = self.parameters[name].detach(), self.grids[name]
            codes = self.codes.get(name) or LinearCodes.of(weights, grid, accuracy_level)
        except InvalidProblemError as error:
            self.notes[name] = str(error)
            return
        self.codes[name] = codes
        self.layers[name] = OnnxLayer(name, "MatMulNBits", codes.bits, codes.bytes)
        parent, _, leaf = path.rpartition(".")
        stand_in = BitsLinear(layer, codes)
        if path:
            setattr(self.model.get_submodule(parent), leaf, stand_in)
        else:
            self.model = stand_in

    def _labels(self, tensor: str, name: str) -> LabelGraph | None:
        try:
            return LabelGraph(tensor, self.parameters[name].detach().cpu(), self.grids[name])
        except InvalidProblemError as error:
            self.notes[name] += f"; {error}"
            return None

    def _note(self, name: str, container: str, bits: int, size: int) -> None:
        before = self.layers.get(name)
        if before is None:
            self.layers[name] = OnnxLayer(name, container, bits, size, self.notes[name])
        else:
            note = f"another layer has it as {container}"
            self.layers[name] = OnnxLayer(name, before.container, before.bits, before.bytes + size, note)


def _check_request(accuracy_level: int, others: str) -> None:
    if accuracy_level not in ACCURACY_LEVELS:
        raise InvalidParameterError(f"onnx: the accuracy level is 0, 1, 2, 3 or 4, not {accuracy_level!r}")
    if others not in OTHERS:
        raise InvalidParameterError(f"onnx: others is one of {', '.join(OTHERS)}, not {others!r}")
    check_packages(("onnx", "onnxscript"))


def check_packages(names: Iterable[str]) -> None:
    """Raise an error that says what to install, unless packages are there."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MrfqError(f"onnx: {' and '.join(missing)} must be installed: pip install 'mrfq[onnx]'")
