"""In which order the layers of a network are quantized, and what is captured for each: what discovery finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from mrfq.quantize.layers import Quantizable

#: positional and keyword arguments of the network
Batch = tuple[tuple[Any, ...], dict[str, Any]]
ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")


@dataclass(frozen=True)
class Use:
    """One call of a layer in a forward pass.

    Attributes
    ----------
    name : str
        Of the module.
    layer : int
        Index of the layer that it belongs to.
    number : int
        Calls of that module before this one.
    """

    name: str
    layer: int
    number: int


@dataclass(frozen=True)
class Stage:
    """A place in the forward pass at which inputs and outputs are captured.

    Attributes
    ----------
    uses : tuple of Use
        Calls with the same input, the first one first.
    shortcut : bool
        Whether the place is the addition that the output goes into, rather than the call itself.
    solved : tuple of int
        The layers that are quantized there: those that are not called any later.
    """

    uses: tuple[Use, ...]
    shortcut: bool
    solved: tuple[int, ...]


@dataclass
class Plan:
    """The stages of a network.

    Attributes
    ----------
    layers : sequence of Quantizable
    stages : sequence of Stage
        In the order of their places in the forward pass.
    norms : dict of int to str
        The batch norm behind a layer, by the index of the layer.
    calls : dict of str to int
        How often each module of a layer is called.
    live : int
        Bytes of activations that a forward pass holds, at most.
    notes : dict of int to list of str
        Of each layer.
    """

    layers: Sequence[Quantizable]
    stages: Sequence[Stage]
    norms: dict[int, str]
    calls: dict[str, int]
    live: int
    notes: dict[int, list[str]] = field(default_factory=dict)

    @cached_property
    def stage_of(self) -> dict[tuple[str, int], int]:
        """The index of the stage of a call, by name and number."""
        return {(use.name, use.number): k for k, stage in enumerate(self.stages) for use in stage.uses}

    @cached_property
    def layer_of(self) -> dict[str, int]:
        """The index of the layer of a module."""
        return {name: k for k, layer in enumerate(self.layers) for name in layer.names}

    @cached_property
    def solved_at(self) -> dict[int, int]:
        """The index of the stage at which a layer is quantized."""
        return {layer: k for k, stage in enumerate(self.stages) for layer in stage.solved}

    def once(self, layer: int) -> bool:
        """Return whether a layer is called just once in a forward pass."""
        return sum(self.calls[name] for name in self.layers[layer].names) == 1

    def where(self, stage: int) -> str:
        """Return the names of the modules of a stage."""
        return " and ".join(repr(use.name) for use in self.stages[stage].uses)


def run(network: nn.Module, batch: Batch) -> Any:
    """Return the output of a network for one batch."""
    args, kwargs = batch
    return network(*args, **kwargs)


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the input of a layer, however it was passed."""
    value = args[0] if args else kwargs["input"]
    assert isinstance(value, Tensor)
    return value


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def summands(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Return the two tensors that a function adds, of the same shape, or None if it does something else.

    Examples
    --------
    >>> import torch
    >>> summands("add", (torch.ones(2), torch.ones(1)), {}) is None
    True
    """
    if name not in ADDITIONS or len(args) + len(kwargs) != 2:
        return None
    one, other = (*args, kwargs.get("other"), None)[:2]
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one is other:
        return None
    if isinstance(one, nn.Parameter) or isinstance(other, nn.Parameter):
        return None
    return (one, other) if one.shape == other.shape and one.dtype == other.dtype else None
