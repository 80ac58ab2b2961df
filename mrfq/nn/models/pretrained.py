"""Float weights of published networks, from the files in which they are distributed."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrfq.errors import FileFormatError

#: bytes that a file may have beyond those of the network's own weights, for names and moments of an optimiser
SLACK = 2**20
#: a file may hold the weights and what an optimiser keeps of each
COPIES = 4
#: names that a message lists
LISTED = 6
WRAPPER = "module."
ZIP = b"PK\3\4"
EXPECTED = "a file of torch.save"


def load_pretrained(path: str | Path, model: nn.Module) -> nn.Module:
    """Put the weights of a file into a network, and return the network.

    The file is one that `torch.save` wrote: a dictionary of tensors, or one that has it under `"state_dict"`; a
    prefix `module.` of all names is dropped. Only tensors and plain data are read (`weights_only`); nothing in the
    file is run. Counters of batches that older files lack are set to 0. After an error the network is as before.

    Parameters
    ----------
    path : str or path
    model : nn.Module
        Of the same architecture: the same names and shapes.

    Raises
    ------
    FileFormatError
        Far larger than the network, not such a file, or not the weights of such a network; the message lists the
        names that are missing, unexpected or of another shape.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from mrfq.nn.models import build
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": build("lenet300", channels=1, size=8, classes=10).state_dict()}, folder + "/a.th")
    ...     network = load_pretrained(folder + "/a.th", build("lenet300", channels=1, size=8, classes=10, seed=1))
    """
    wanted = dict(model.state_dict())
    data = _checked(Path(path), sum(tensor.nbytes for tensor in wanted.values()))
    state = _unwrapped(str(path), _read(str(path), data))
    for name, tensor in wanted.items():
        if name.endswith(".num_batches_tracked"):
            state.setdefault(name, torch.zeros_like(tensor))
    _check_names(str(path), wanted, state)
    _check_values(str(path), wanted, state)
    model.load_state_dict(state)
    return model


def _checked(path: Path, weights: int) -> bytes:
    """Return what is in a file, unless it is too large for the weights of a network, or would be once decompressed."""
    size, most = path.stat().st_size, COPIES * weights + SLACK
    data = path.read_bytes() if size <= most else b""
    if data.startswith(ZIP):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise FileFormatError(str(path), "the archive", f"a broken one ({error})", EXPECTED) from error
    if size > most:
        raise FileFormatError(str(path), "its size", f"{size:,} bytes", f"at most {most:,} for this network")
    return data


def _read(path: str, data: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileFormatError(path, "the file", "something else than tensors", EXPECTED) from error
    except Exception as error:  # broken files make torch raise almost anything
        found = f"what torch cannot read ({type(error).__name__})"
        raise FileFormatError(path, "the file", found, EXPECTED) from error


def _unwrapped(path: str, loaded: Any) -> dict[str, Any]:
    """Return the dictionary of tensors in what was loaded."""
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise FileFormatError(path, "state_dict", f"a {type(state).__name__}", "a dictionary of named tensors")
    wrapped = bool(state) and all(name.startswith(WRAPPER) for name in state)
    return {name.removeprefix(WRAPPER) if wrapped else name: value for name, value in state.items()}


def _check_names(path: str, wanted: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Refuse names and shapes that are not those of the network."""
    missing, unexpected = [n for n in wanted if n not in state], [n for n in state if n not in wanted]
    wrong = []
    for name in wanted.keys() & state.keys():
        value = state[name]
        if not isinstance(value, Tensor) or value.shape != wanted[name].shape or value.layout != torch.strided:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            wrong.append(f"{name} ({shape}, not {tuple(wanted[name].shape)})")
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(wrong)))
    found = "; ".join(f"{word}: {_listed(names)}" for word, names in parts if names)
    if found:
        raise FileFormatError(path, "state_dict", found, "the names and shapes of the network's weights")


def _check_values(path: str, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Refuse numbers that no trained network has."""
    for name, tensor in wanted.items():
        value = state[name]
        if value.is_complex() or value.is_floating_point() != tensor.is_floating_point():
            raise FileFormatError(path, name, f"numbers of type {value.dtype}", str(tensor.dtype))
        if not bool(value.isfinite().all()):
            raise FileFormatError(path, name, "numbers that are not finite", "finite ones")


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(list(names)[:LISTED]) + more
