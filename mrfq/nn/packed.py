"""Packed files: networks with labels of a few bits in place of weights, which reload bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidProblemError
from mrfq.io.archive import read_archive, write_archive
from mrfq.nn.codebooks import find_grid
from mrfq.nn.grids import attach, grid_of
from mrfq.nn.packed_layout import Stored, lay_out, packable, version_of
from mrfq.nn.packed_reader import take_apart
from mrfq.nn.shared_sets import NAMES

KIND, VERSION, NEWEST = "packed", 1, 2
#: bytes at the beginning of a file that hold the name of its version
STAMPED = 256
#: names that a message lists
LISTED = 8

Model = TypeVar("Model", bound=nn.Module)


def save(model: nn.Module, path: str | Path, *, align: bool = False) -> None:
    """Write a network to a packed file, atomically: labels of log2 L bits, levels and scales, and the rest as it is.

    Parameters on a grid, as `LabelOptimizer.finalize` and `mrfq.nn.quantize` leave them, are packed: labels, and the
    scales, offsets, codebooks or codewords that they stand for in float16 or float32. So are those that turn out to
    have at most 256 distinct values, in the whole or in every output channel, or whole multiples of a scale in every
    output channel, if that takes less room.
    All other parameters, and the buffers that `state_dict` holds (running statistics among them), keep their dtype
    and every bit; tied parameters are written once.

    Parameters
    ----------
    model : nn.Module
        On any device; it is not changed.
    path : str or path
        By custom ending in `.safetensors`.
    align : bool
        Labels of 1, 2, 4, 8 or 16 bits each, so that none crosses a byte and they unpack by shifts and masks.
        Otherwise they take the least room, which differs where the number of labels is none of 2, 4, 16 and 256.

    Raises
    ------
    InvalidProblemError
        Weights that have left the grid attached to them, or a tensor that a safetensors file cannot hold.
    OSError
        The file cannot be written.

    Notes
    -----
    A packed weight of -0.0 comes back as 0.0.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "model.safetensors"
    >>> model = nn.Linear(400, 10)
    >>> _ = model.weight.data.sign_()
    >>> save(model, path)
    >>> same = load(path, nn.Linear(400, 10))
    >>> inputs = torch.randn(5, 400)
    >>> torch.equal(same(inputs), model(inputs)), path.stat().st_size < 4 * 4000 / 10
    (True, True)
    >>> folder.cleanup()
    """
    stored = _collect(model)
    tensors, manifest = lay_out(stored, align)
    write_archive(path, KIND, version_of(stored), tensors, manifest)


@overload
def load(path: str | Path, model: None = None) -> dict[str, Tensor]: ...
@overload
def load(path: str | Path, model: Model) -> Model: ...
def load(path: str | Path, model: Model | None = None) -> Model | dict[str, Tensor]:
    """Return a network with the parameters and buffers of a packed file, to the last bit.

    Parameters
    ----------
    path : str or path
    model : nn.Module, optional
        A network of the same architecture, which is filled and returned; it stays on its device, in its mode. The
        grids of the file are attached to its parameters. Nothing of it is changed if the file does not fit.

    Returns
    -------
    nn.Module or dict of str to Tensor
        Without a network, the state dictionary: all tensors by name.

    Raises
    ------
    FileFormatError
        The file was cut or changed, or is none of ours.
    InvalidProblemError
        Names, shapes or dtypes differ from those of the network; the message lists them.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "model.safetensors"
    >>> save(nn.BatchNorm1d(2), path)
    >>> load(path)["running_var"]
    tensor([1., 1.])
    >>> folder.cleanup()
    """
    stored = read_packed(path)
    state = {item.name: item.value for item in stored}
    if model is None:
        return state
    _check_fit(path, state, model)
    model.load_state_dict(state)
    grids = {item.name: item.grid for item in stored if item.kind == "q"}
    for name, parameter in model.named_parameters():
        grid = grids.get(name)
        attach(parameter, None if grid is None else grid.to(parameter.device))
    return model


def read_packed(path: str | Path) -> list[Stored]:
    """Return what a packed file holds, in the order of the network's state dictionary.

    Raises
    ------
    FileFormatError
        The file was cut or changed, or is none of ours.
    OSError
        The file cannot be read.
    """
    return take_apart(str(path), *read_archive(path, KIND, _version(path)))


def _version(path: str | Path) -> int:
    """Return which version a file says it is, if it is one that is read; `read_archive` checks that."""
    with open(path, "rb") as file:
        return VERSION if f"{KIND}/{VERSION} sha256:".encode() in file.read(STAMPED) else NEWEST


def _collect(model: nn.Module) -> list[Stored]:
    """Return the tensors of a network, each parameter with its grid if it has one."""
    parameters = {id(parameter) for parameter in model.parameters()}
    found: dict[int, Stored] = {}
    collected = []
    for name, value in model.state_dict(keep_vars=True).items():
        _check_storable(name, value)
        first = found.get(id(value))
        if first is not None:
            item = Stored("t", name, value, other=first.name)
        else:
            item = found[id(value)] = _stored(name, value, id(value) in parameters)
        collected.append(item)
    _check_grids([item for item in collected if item.kind == "q"])
    return collected


def _check_storable(name: str, value: Any) -> None:
    good = isinstance(value, Tensor) and not nn.parameter.is_lazy(value) and not value.is_meta
    if not good or value.layout != torch.strided or value.dtype not in NAMES:
        raise InvalidProblemError(
            f"{name!r} of the network is {_brief(value)}; a file holds dense tensors of the usual dtypes"
        )


def _stored(name: str, value: Tensor, is_parameter: bool) -> Stored:
    if not is_parameter:
        return Stored("b", name, value)
    grid = grid_of(value)
    if grid is not None and packable(value, grid):
        return Stored("q", name, value, grid)
    grid = find_grid(value)
    return Stored("p" if grid is None else "c", name, value, grid)


def _check_grids(stored: Iterable[Stored]) -> None:
    """Raise an error unless parameters are on the grids attached to them."""
    off = [item.name for item in stored if item.grid is not None and not item.grid.exact(item.value)]
    if off:
        raise InvalidProblemError(
            f"weights of {_listed(off)} are not on the grid attached to them: call finalize() of the optimiser first, "
            "or mrfq.nn.grids.attach(parameter, None) to store them as float"
        )


def _check_fit(path: str | Path, state: dict[str, Tensor], model: nn.Module) -> None:
    """Raise an error that lists all differences between a file and a network."""
    own = model.state_dict(keep_vars=True)
    differ = [
        f"{name} ({_brief(state[name])} in the file, {_brief(own[name])} in the network)"
        for name in own.keys() & state.keys()
        if _brief(own[name]) != _brief(state[name])
    ]
    wrong = [
        ("missing in the file", own.keys() - state.keys()),
        ("not in the network", state.keys() - own.keys()),
        ("different", differ),
        ("tied in the network alone", _untied(own, state)),
    ]
    if any(names for _, names in wrong):
        text = "; ".join(f"{what}: {_listed(names)}" for what, names in wrong if names)
        raise InvalidProblemError(f"{path} does not fit the network: {text}")


def _brief(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if nn.parameter.is_lazy(value):
        return "without a shape yet"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{' without data' * value.is_meta}"


def _untied(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Return the names of tied tensors of a network to which a file gives different values."""
    first: dict[int, str] = {}
    names = [(name, first.setdefault(id(value), name)) for name, value in own.items() if name in state]
    return [name for name, other in names if not _same(state[name], state[other])]


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
