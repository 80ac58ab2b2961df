"""Quantized layers in files, one a stage, so that an interrupted run goes on where it was, to the same bits."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrfq.errors import FileFormatError, InvalidParameterError
from mrfq.io.state_tree import read_state, write_state
from mrfq.layerwise.spec import LevelSpec
from mrfq.layerwise.tables import Table
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.quantize.layers import Quantizable
from mrfq.quantize.options import Options
from mrfq.quantize.plan import Batch
from mrfq.quantize.report import LayerReport

KIND, VERSION = "quantization-stage", 2
#: options that decide nothing that is computed
FREE = frozenset({"memory"})


@dataclass(eq=False)
class Done:
    """A layer that is quantized.

    Attributes
    ----------
    labels : Tensor
    grid : RowGrid or VectorGrid
    changed : dict of str to Tensor
        Parameters and buffers next to the weight that have taken up scale and shift, by name in the network.
    report : LayerReport
    """

    labels: Tensor
    grid: RowGrid | VectorGrid
    changed: dict[str, Tensor]
    report: LayerReport


class StageFiles:
    """The files of a run in a folder.

    Parameters
    ----------
    folder : str or path
        Made if it does not exist.
    origin : dict of str to str
        What the run began with, as `origin_of` returns it.
    """

    def __init__(self, folder: str | Path, origin: dict[str, str]) -> None:
        self.folder, self.origin = Path(folder), origin
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, stage: int) -> Path:
        """Return the file of a stage."""
        return self.folder / f"stage-{stage:04d}.safetensors"

    def save(self, stage: int, done: dict[int, Done]) -> None:
        """Write the layers of a stage, by their index, atomically."""
        layers = {index: _to_plain(one) for index, one in done.items()}
        write_state(self.path(stage), KIND, VERSION, {"origin": self.origin, "layers": layers})

    def load(self, stage: int, solved: Sequence[int], layers: Sequence[Quantizable]) -> dict[int, Done] | None:
        """Return the layers of a stage, or None if there is no file of it.

        Raises
        ------
        InvalidParameterError
            The file is of a run that began with something else.
        FileFormatError
            It is damaged, or not of this network.
        """
        path = self.path(stage)
        if not path.is_file():
            return None
        tree = read_state(path, KIND, VERSION)
        try:
            self._check(path, dict(tree["origin"]))
            if sorted(tree["layers"]) != sorted(solved):
                raise ValueError("other layers")
            return {index: _from_plain(one, layers[index]) for index, one in tree["layers"].items()}
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            if isinstance(error, InvalidParameterError) and str(path) in str(error):
                raise
            found = " ".join(str(error).split()) or type(error).__name__
            raise FileFormatError(
                str(path), "the manifest", found, f"the layers of stage {stage} of this run"
            ) from error

    def check_fit(self, stage: int, name: str, found: Tensor | None, value: Tensor) -> None:
        """Raise `FileFormatError` unless a tensor of a file can take the place of one in the network."""
        if found is None or found.shape != value.shape or found.dtype != value.dtype:
            raise FileFormatError(
                str(self.path(stage)), name, "a tensor of another name, shape or dtype", "one of this network"
            )

    def _check(self, path: Path, origin: dict[str, str]) -> None:
        changed = [name for name, digest in self.origin.items() if origin.get(name) != digest]
        if changed:
            raise InvalidParameterError(
                f"{path}: written by a run with other {' and '.join(changed)}; give it what it began with, or another "
                "folder"
            )


def origin_of(model: nn.Module, batches: Sequence[Batch], options: Options) -> dict[str, str]:
    """Return digests of all that decides the result: the options, the float weights and the calibration inputs."""
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in FREE}
    fields["levels"] = [(pattern, str(spec)) for pattern, spec in options.choices]
    parts: dict[str, Any] = {
        "options": fields,
        "weights": dict(model.state_dict()),
        "calibration inputs": list(batches),
    }
    return {name: _digest(value) for name, value in parts.items()}


def _digest(value: Any) -> str:
    found = hashlib.sha256()
    _update(found, value)
    return found.hexdigest()


def _update(found: Any, value: Any) -> None:
    """Take nested data into a digest, every part with its type and length."""
    if isinstance(value, Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)};".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        _update(found, [part for pair in value.items() for part in pair])
    elif isinstance(value, list | tuple):
        found.update(f"{len(value)}[".encode())
        for part in value:
            _update(found, part)
    else:
        text = repr(value).encode()
        found.update(f"{len(text)} ".encode() + text)


def _to_plain(done: Done) -> dict[str, Any]:
    stored = done.grid.table.parameters if isinstance(done.grid, RowGrid) else done.grid.codewords
    report = dataclasses.asdict(done.report)
    return {"labels": done.labels, "stored": stored, "changed": done.changed, "report": report}


def _from_plain(tree: dict[str, Any], layer: Quantizable) -> Done:
    """Return a layer from the data of a file.

    Raises
    ------
    LookupError, TypeError, ValueError, AttributeError, RuntimeError
        Something in it does not fit.
    """
    labels, stored = tree["labels"], tree["stored"]
    if isinstance(layer.spec, LevelSpec):
        grid: RowGrid | VectorGrid = RowGrid(Table(layer.spec, stored))
        shape, count = (layer.rows, layer.columns), layer.spec.count
        if len(stored) != layer.rows:
            raise ValueError("label sets of another layer")
    else:
        grid, count = VectorGrid(stored), len(stored)
        shape = (layer.rows, layer.columns // layer.spec.dim)
    if labels.shape != shape or labels.is_floating_point() or not 0 <= int(labels.min()) <= int(labels.max()) < count:
        raise ValueError("labels of another layer")
    changed = {str(name): value + 0 for name, value in tree["changed"].items()}
    return Done(labels, grid, changed, LayerReport(**tree["report"]))
