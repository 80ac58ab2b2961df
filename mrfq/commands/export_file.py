"""`mrfq export`: from a packed file to an ONNX file, and how far that is from the network."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from mrfq.errors import InvalidParameterError
from mrfq.nn.models import build, factory
from mrfq.nn.models.factories import is_spec
from mrfq.nn.onnx import OnnxLayer, export_onnx
from mrfq.nn.onnx_graph import run_onnx
from mrfq.nn.packed import load

#: dtypes of inputs, by name
DTYPES = {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}
#: entries of an input
LARGEST_INPUT = 2**28
_SHAPE = re.compile(r"(?P<shape>\d{1,9}(x\d{1,9})*)(:(?P<dtype>\w+))?")


@dataclass(frozen=True)
class Request:
    """What the command was asked for."""

    file: Path
    model: str
    inputs: tuple[str, ...]
    out: Path
    classes: int = 10
    accuracy_level: int = 0
    others: str = "labels"
    fixed_batch: bool = False
    as_json: bool = False


def export_file(request: Request) -> None:
    """Write the ONNX file, and say what is in it.

    Raises
    ------
    MrfqError
        Whatever is wrong with the request, the file or the network.
    OSError
        A file cannot be read or written.
    """
    inputs = [example_input(text) for text in request.inputs]
    model = load(request.file, _network(request, inputs)).eval()
    layers = export_onnx(
        model,
        request.out,
        inputs,
        accuracy_level=request.accuracy_level,
        others=request.others,
        dynamic_batch=not request.fixed_batch,
    )
    facts = _facts(request, layers, _difference(request.out, model, inputs))
    if request.as_json:
        print(json.dumps(facts, allow_nan=False))
    else:
        _show(facts)


def example_input(text: str) -> Tensor:
    """Return an input of a shape and dtype: seeded normal numbers, or zeros and ones.

    Raises
    ------
    InvalidParameterError
        The text is no shape, or names no dtype.

    Examples
    --------
    >>> example_input("2x16:int64").shape
    torch.Size([2, 16])
    """
    found = _SHAPE.fullmatch(text)
    dtype = DTYPES.get((found and found["dtype"]) or "float32")
    if found is None or dtype is None:
        raise InvalidParameterError(
            f"--input {text}: must be a shape, 1x3x32x32 or 1x16:DTYPE with {', '.join(DTYPES)}"
        )
    shape = torch.Size([int(n) for n in found["shape"].split("x")])
    if not 0 < shape.numel() <= LARGEST_INPUT:
        raise InvalidParameterError(f"--input {text}: must have 1 to {LARGEST_INPUT:,} entries")
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _network(request: Request, inputs: Sequence[Tensor]) -> nn.Module:
    """Return a fresh network; images say how many channels and pixels."""
    offered: dict[str, Any] = {"classes": request.classes}
    images = inputs[0].ndim == 4
    if images:
        offered.update(channels=inputs[0].shape[1], size=tuple(inputs[0].shape[2:]))
    if is_spec(request.model):
        return factory(request.model, **offered)
    if not images:
        raise InvalidParameterError(f"--input {request.inputs[0]}: {request.model} takes images, 1x3x32x32 say")
    return build(request.model, **offered)


def _difference(path: Path, model: nn.Module, inputs: Sequence[Tensor]) -> float | None:
    """Return the largest difference of outputs relative to the largest output; None without onnxruntime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    with torch.no_grad():
        expected = list(_tensors(model(*inputs)))
    found = run_onnx(path, inputs)
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Return the tensors that a network gives, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)


def _facts(request: Request, layers: Sequence[OnnxLayer], difference: float | None) -> dict[str, Any]:
    return {
        "file": str(request.out),
        "bytes": request.out.stat().st_size,
        "packed_bytes": request.file.stat().st_size,
        "difference": difference,
        "layers": [dataclasses.asdict(layer) for layer in layers],
    }


def _show(facts: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("layer", overflow="fold", min_width=8)
    table.add_column("as")
    for name in ("bits", "bytes"):
        table.add_column(name, justify="right")
    table.add_column("because", overflow="fold")
    for layer in facts["layers"]:
        texts = layer["name"], layer["container"], str(layer["bits"]), f"{layer['bytes']:,}", layer["note"]
        table.add_row(*map(Text, texts))
    console.print(table)
    size = f"{facts['file']}: {facts['bytes']:,} bytes (packed: {facts['packed_bytes']:,})"
    compared = "not compared: onnxruntime is not installed"
    if facts["difference"] is not None:
        compared = f"onnxruntime and torch differ by {facts['difference']:.2g} of the largest output"
    console.print(f"\n{size}; {compared}", soft_wrap=True, markup=False)
