"""The float network: built by name or by the user's factory, with the weights of a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mrfq.errors import FileFormatError, InvalidParameterError
from mrfq.io.archive_header import parse_header
from mrfq.nn.models import build, factory, load_pretrained
from mrfq.nn.models.factories import is_spec
from mrfq.nn.models.pretrained import COPIES, SLACK, _check_names, _check_values, _unwrapped
from mrfq.nn.packed import load
from mrfq.quantize.calibration import Calibration
from mrfq.quantize.settings import Settings
from mrfq.runs.evaluation import check_outputs


def float_network(settings: Settings, inputs: Calibration) -> nn.Module:
    """Return the network of resolved settings with its weights, in evaluation mode on its device.

    Raises
    ------
    InvalidParameterError
        A network that does not fit the inputs, or a file that is not there.
    FileFormatError
        A file that is damaged, or not of this network.
    """
    model = made(settings, inputs)
    if settings.weights is not None:
        load_weights(Path(settings.weights), model)
    model.to(settings.device).eval()
    if inputs.data is not None:
        check_outputs(model, inputs.data)
    return model


def made(settings: Settings, inputs: Calibration) -> nn.Module:
    """Return the network with its first weights."""
    known = image_shape(settings, inputs)
    if not is_spec(settings.model):
        if missing := {"channels", "size", "classes"} - known.keys():
            raise InvalidParameterError(
                f"{settings.model} needs to know the {' and '.join(sorted(missing))} of its images: give classes, and "
                "batches of shape (n, channels, height, width)"
            )
        return build(settings.model, affine=settings.affine, seed=settings.seed, **known)
    required = {} if settings.affine is None else {"affine": settings.affine}
    return factory(settings.model, seed=settings.seed, required=required, **known)


def image_shape(settings: Settings, inputs: Calibration) -> dict[str, Any]:
    """Return channels, size and classes, as far as the inputs and the settings tell them."""
    first = inputs.batches[0]
    found: dict[str, Any] = {}
    if isinstance(first, Tensor) and first.ndim == 4:
        channels, height, width = first.shape[1:]
        found = {"channels": channels, "size": height if height == width else (height, width)}
    classes = settings.classes or (inputs.data.classes if inputs.data is not None else None)
    return found if classes is None else {**found, "classes": classes}


def load_weights(path: Path, model: nn.Module) -> None:
    """Put the weights of a file into a network: one of `torch.save`, a packed one, or plain safetensors.

    A prefix `module.` of all names is dropped. Counters of batches may be missing, and so may tensors that are tied to
    one that is there.

    Raises
    ------
    InvalidParameterError
        There is no such file.
    FileFormatError
        It is damaged, or not of this network; the message lists the names that are missing, unexpected or of another
        shape.
    InvalidProblemError
        A packed file of another network.
    """
    if not path.is_file():
        raise InvalidParameterError(f"weights {path}: there is no such file")
    if path.suffix != ".safetensors":
        load_pretrained(path, model)
        return
    size, most = path.stat().st_size, COPIES * sum(value.nbytes for value in model.state_dict().values()) + SLACK
    if size > most:
        raise FileFormatError(str(path), "its size", f"{size:,} bytes", f"at most {most:,} for this network")
    data = path.read_bytes()
    if parse_header(str(path), data).stamp is not None:
        loaded = load(path, copy.deepcopy(model))  # a copy, so that no grid of the file clings to the parameters
        model.load_state_dict(loaded.state_dict())
    else:
        load_plain(str(path), data, model)


def load_plain(path: str, data: bytes, model: nn.Module) -> None:
    """Put the tensors of a safetensors file without a manifest into a network."""
    try:
        loaded = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise FileFormatError(path, "the header", f"what safetensors refuses ({error})", "tensors") from error
    wanted = dict(model.state_dict())
    state = with_tied(model, _unwrapped(path, loaded))
    for name, tensor in wanted.items():
        if name.endswith(".num_batches_tracked"):
            state.setdefault(name, torch.zeros_like(tensor))
    _check_names(path, wanted, state)
    _check_values(path, wanted, state)
    model.load_state_dict(state)


def with_tied(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with the tensors that a network ties to one of it, which such files leave out."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    found = dict(state)
    for tied in names.values():
        there = [name for name in tied if name in state]
        found |= {name: state[there[0]] for name in tied if there and name not in state}
    return found
