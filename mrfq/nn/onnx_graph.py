"""A network as an ONNX graph, by torch's own exporter, and the same graph run by onnxruntime."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidProblemError

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto

#: of the message of the exporter that is shown
SHOWN = 400


def exported_graph(
    model: nn.Module, inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor], dynamic_batch: bool
) -> ModelProto:
    """Return a network as a graph; its parameters and buffers keep their names.

    Raises
    ------
    InvalidProblemError
        torch cannot export the network; the message begins as torch's.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    named = (
        {key: _example(value, dynamic_batch) for key, value in inputs.items()} if isinstance(inputs, Mapping) else {}
    )
    plain = () if isinstance(inputs, Mapping) else tuple(_example(value, dynamic_batch) for value in inputs)
    shapes: Any = {key: _axes(value) for key, value in named.items()} or tuple(_axes(value) for value in plain)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                tuple(plain),
                kwargs=named,
                dynamo=True,
                optimize=False,  # it would fold batch norm into convolutions, whose weights then are on no grid
                verbose=False,
                dynamic_shapes=shapes if dynamic_batch else None,
            )
    except Exception as error:
        hint = "; a network of a fixed batch needs dynamic_batch=False" if dynamic_batch else ""
        reason = f"{type(error).__name__}: {str(error).strip()[:SHOWN]}"
        raise InvalidProblemError(f"onnx: torch cannot export the network ({reason}){hint}") from error
    assert program is not None
    found: ModelProto = program.model_proto
    for graph in (found.graph, *found.functions):
        _strip(graph)
    return found


def run_onnx(path: str | Path, inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
    """Return the outputs of an ONNX file, computed by onnxruntime on the CPU.

    Parameters
    ----------
    path : str or path
    inputs : Tensor, sequence of Tensor, or mapping of str to Tensor
        In the order of the file's inputs, or by their names.

    Raises
    ------
    InvalidProblemError
        onnxruntime refuses the file or the inputs.
    ImportError
        onnxruntime is not installed.
    """
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong comes as an exception too
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if not isinstance(inputs, Mapping):
            values = (inputs,) if isinstance(inputs, Tensor) else inputs
            inputs = dict(zip([entry.name for entry in session.get_inputs()], values, strict=True))
        found = session.run(None, {name: value.detach().cpu().numpy() for name, value in inputs.items()})
    except Exception as error:  # its exceptions have no common base but this
        raise InvalidProblemError(f"{path}: onnxruntime refuses it ({str(error).strip()[:SHOWN]})") from error
    return [torch.from_numpy(value) for value in found]


def _strip(graph: GraphProto | FunctionProto) -> None:
    """Take away where in whose files each operator comes from, which takes more room than small weights."""
    parts = [graph, *graph.node, *graph.value_info]
    if not hasattr(graph, "attribute"):
        parts += [*graph.initializer, *graph.input, *graph.output]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def _example(value: Tensor, dynamic_batch: bool) -> Tensor:
    """Return an input on the CPU, of a batch that the exporter does not take for a constant."""
    value = value.detach().cpu()
    return torch.cat([value, value]) if dynamic_batch and value.ndim and len(value) == 1 else value


def _axes(value: Tensor) -> dict[int, Any]:
    return {0: torch.export.Dim.DYNAMIC} if value.ndim else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings away, and attention in operators that it knows."""
    logger = logging.getLogger("torch.onnx")
    before, fast = logger.level, torch.backends.mha.get_fastpath_enabled()
    logger.setLevel(logging.CRITICAL)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        torch.backends.mha.set_fastpath_enabled(fast)
