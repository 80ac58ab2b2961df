"""One forward pass of the float network that shows in which order the layers come, and what is around each.

Modules are watched through hooks, and what happens between them through a torch function mode: which batch norm takes
the output of a layer, which addition it goes into (a shortcut joins there), and what else reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.quantize.arrangement import Call, arrange, note_norms
from mrfq.quantize.layers import Quantizable
from mrfq.quantize.live import Memory
from mrfq.quantize.plan import Batch, Plan, Use, first_input, run, summands, version
from mrfq.quantize.unfolding import signature

BatchNorm = nn.modules.batchnorm._BatchNorm


class _Observer(TorchFunctionMode):
    """Watches a forward pass."""

    def __init__(self, network: nn.Module, layer_of: dict[str, int]) -> None:
        super().__init__()
        self.network, self.layer_of = network, layer_of
        self.calls: list[Call] = []
        self.numbers: Counter[str] = Counter()
        self.norms: Counter[str] = Counter()
        self.memory = Memory()
        self._clock = 0
        self._watched: dict[int, tuple[Callable[[], Tensor | None], Call]] = {}
        self._last: tuple[Tensor, int, object] | None = None
        self._inside: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put hooks on the modules while the context lasts."""
        handles = []
        for name, module in self.network.named_modules():
            if name in self.layer_of:
                handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._after(name)))
            elif isinstance(module, BatchNorm):
                handles.append(module.register_forward_pre_hook(self._before_norm(name)))
                handles.append(module.register_forward_hook(self._after_norm(name)))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._last = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        added = self._added(summands(getattr(func, "__name__", ""), args, kwargs))
        result = func(*args, **kwargs)
        results = list(_tensors(result))
        self.memory.note(results)
        for tensor in _tensors((args, kwargs)) if results else ():
            call = self._call_with(tensor)
            if call is None or any(tensor is x for x in self._inside):
                continue
            if any(tensor is out for out in results):  # in place, or nothing happened: dropout in evaluation mode
                if call in added:
                    del self._watched[id(tensor)]
            elif call not in added:
                call.note_reading(tensor)
        return result

    def _added(self, pair: tuple[Tensor, Tensor] | None) -> list[Call]:
        """Note an addition, and return the calls whose outputs it takes."""
        found = []
        for tensor in pair or ():
            call = self._call_with(tensor)
            if call is not None and call.added is None and call.follows(tensor):
                found.append(call)
        self._clock += 1
        for call in found:
            call.added = self._clock
        return found

    def _call_with(self, tensor: Tensor) -> Call | None:
        entry = self._watched.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def _watch(self, tensor: Tensor, call: Call) -> None:
        call.move(tensor)
        self._watched[id(tensor)] = (call.tail, call)

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, kind = first_input(args, kwargs), signature(module)
            last, self._last = self._last, (x, version(x), kind)
            joins = last is not None and last[0] is x and last[1:] == (version(x), kind)
            self._clock += 1
            use = Use(name, self.layer_of[name], self.numbers[name])
            self.calls.append(Call(use, self._clock, joins))
            self.numbers[name] += 1

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            call = next(call for call in reversed(self.calls) if call.use.name == name)
            self._watch(output, call)

        return hook

    def _before_norm(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.norms[name] += 1
            call = self._call_with(args[0]) if args else None
            self._inside = [args[0]] if call is not None and self._folds(module, call, args[0]) else []

        return hook

    def _after_norm(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._inside:
                call = self._call_with(self._inside.pop())
                assert call is not None
                call.norm = name
                self._watch(output, call)

        return hook

    def _folds(self, norm: nn.Module, call: Call, x: Tensor) -> bool:
        """Return whether a batch norm takes the output of a call as it is, channel by channel."""
        assert isinstance(norm, BatchNorm)
        layer = self.network.get_submodule(call.use.name)
        aligned = x.ndim == (2 if isinstance(layer, nn.Linear) else layer.weight.ndim)
        known = norm.running_var is not None and norm.running_mean is not None
        return call.follows(x) and call.norm is None and aligned and known and not call.read


def discover(network: nn.Module, layers: Sequence[Quantizable], batch: Batch, shortcut: bool = True) -> Plan:
    """Return the plan of a network, found in one forward pass.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    layers : sequence of Quantizable
    batch : (tuple, dict)
        Arguments of the network.
    shortcut : bool
        Whether layers in front of an addition wait for the other summand.

    Raises
    ------
    InvalidParameterError
        The batch does not fit the network.
    InvalidProblemError
        A layer that was not reached.
    """
    layer_of = {name: k for k, layer in enumerate(layers) for name in layer.names}
    observer = _Observer(network, layer_of)
    try:
        with torch.no_grad(), observer.watching():
            run(network, batch)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError) as error:
        raise InvalidParameterError(
            f"the first calibration batch does not fit the network ({error}); a tensor is its only argument, a tuple "
            "its positional arguments (without labels), a dictionary its keyword arguments"
        ) from error
    missing = [layer.name for layer in layers if not any(observer.numbers[name] for name in layer.names)]
    if missing:
        raise InvalidProblemError(
            f"the calibration inputs never reach {', '.join(map(repr, missing))}: the first batch runs through the "
            "network without calling it; leave it float with the levels None, or calibrate with inputs that use it"
        )
    calls = {name: observer.numbers[name] for name in layer_of}
    plan = Plan(layers, [], {}, calls, observer.memory.most)
    note_norms(plan, observer.calls, observer.norms)
    arrange(plan, observer.calls, shortcut)
    return plan


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
