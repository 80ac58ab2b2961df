"""Forward passes of a network that pause at the stages of a plan and show what comes in and what goes out."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mrfq.errors import InvalidProblemError
from mrfq.nn.data import to_device
from mrfq.quantize.plan import Batch, Plan, first_input, run, summands
from mrfq.quantize.runner import Paused

_active = threading.local()


@dataclass(eq=False)
class Capture:
    """What a forward pass shows at a stage.

    Attributes
    ----------
    stage : int
    x : Tensor
        The input of its layers.
    outputs : list of Tensor
        Of each of its uses; none of a network that pauses before them.
    shortcut : Tensor or None
        What the output, or that of the batch norm behind, is added to.
    """

    stage: int
    x: Tensor
    outputs: list[Tensor] = field(default_factory=list)
    shortcut: Tensor | None = None
    #: the tensor that is added, while it can still be changed
    tail: Tensor | None = None


class Network:
    """A network with hooks, which do nothing except in the passes started here.

    Parameters
    ----------
    network : nn.Module
    plan : Plan
    outputs : bool
        Whether passes pause after the layers of a stage, with outputs, and leave everything as it is. Otherwise they
        pause before them, so that the weights can be changed; where the place is an addition, the layer runs with the
        weights it has and once more, with the new ones, when the pass goes on.
    reference : nn.Module, optional
        The float network: earlier calls of a layer that is called several times have its weights, whether or not the
        layer is quantized already.
    """

    def __init__(self, network: nn.Module, plan: Plan, outputs: bool, reference: nn.Module | None = None) -> None:
        self.network, self.plan, self.outputs = network, plan, outputs
        self.device = next(network.parameters()).device
        self._reference = reference
        self._handles: list[Any] = []
        for name in plan.layer_of:
            module = network.get_submodule(name)
            self._handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after(name)))
        for layer, name in plan.norms.items():
            self._handles.append(network.get_submodule(name).register_forward_hook(self._after_norm(layer)))

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def start(self, batch: Batch) -> Pass:
        """Return a forward pass of a batch that has yet to begin."""
        return Pass(self, batch)

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            current: Pass | None = getattr(_active, "pass_", None)
            if current is not None and current.network is self:
                current.enter(name, module, first_input(args, kwargs))

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            current: Pass | None = getattr(_active, "pass_", None)
            if current is not None and current.network is self:
                current.leave(name, module, output)

        return hook

    def _after_norm(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            current: Pass | None = getattr(_active, "pass_", None)
            if current is not None and current.network is self:
                current.leave_norm(layer, args[0], output)

        return hook

    def again(self, stage: int, x: Tensor) -> Tensor:
        """Return what a layer and the batch norm behind it now make of an input."""
        use = self.plan.stages[stage].uses[0]
        y: Tensor = self.network.get_submodule(use.name).forward(x)
        norm = self.plan.norms.get(use.layer)
        if norm is not None:
            y = self.network.get_submodule(norm).forward(y)
        return y

    def exchange(self, name: str, module: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Give a module its float weights, and return what it takes to undo that."""
        if self._reference is None:
            return []
        undo = []
        for key, value in self._reference.get_submodule(name).named_parameters(recurse=False):
            parameter = module._parameters[key]
            assert parameter is not None
            undo.append((parameter, parameter.data))
            parameter.data = value.data
        return undo


class Pass(Paused):
    """One forward pass, which pauses at the stage that is its target."""

    def __init__(self, network: Network, batch: Batch) -> None:
        super().__init__(lambda _: self._run(batch))
        self.network, self.target = network, 0
        self._numbers: Counter[str] = Counter()
        self._open: dict[int, Capture] = {}
        self._stages: list[int] = []
        self._undo: list[tuple[nn.Parameter, Tensor]] = []

    def reach(self, stage: int) -> Capture:
        """Run to a stage, and return what is captured there.

        Raises
        ------
        InvalidProblemError
            The pass does not come to the stage: the layers that are called depend on the data.
        """
        self.target = stage
        found: Capture | None = self.advance()
        if found is None or found.stage != stage:
            raise InvalidProblemError(
                f"layer {self.network.plan.where(stage)} is not reached, although the first batch reached it: all "
                "batches must run through the same layers in the same order"
            )
        return found

    def _run(self, batch: Batch) -> None:
        device = self.network.device
        _active.pass_ = self
        with torch.no_grad(), _Watch(self):
            if device.type == "cuda":
                torch.cuda.set_device(device)
            run(self.network.network, to_device(batch, device))

    def enter(self, name: str, module: nn.Module, x: Tensor) -> None:
        plan, number = self.network.plan, self._numbers[name]
        self._numbers[name] += 1
        k = plan.stage_of.get((name, number))
        if k is None:
            raise InvalidProblemError(
                f"layer {name!r} is called {number + 1} times, and {plan.calls[name]} times with the first batch of "
                "calibration inputs: all batches must run through the same layers in the same order"
            )
        self._stages.append(k)
        stage = plan.stages[k]
        if stage.shortcut and k >= self.target:
            self._open[k] = Capture(k, x.clone())
        elif not stage.shortcut and k == self.target:
            if self.network.outputs:
                self._open.setdefault(k, Capture(k, x))
            elif stage.uses[0].name == name:
                self.pause(Capture(k, x))
        layer = plan.layer_of[name]
        if layer not in stage.solved and plan.solved_at[layer] < self.target:
            self._undo = self.network.exchange(name, module)

    def leave(self, name: str, module: nn.Module, output: Tensor) -> None:
        for parameter, data in self._undo:
            parameter.data = data
        self._undo = []
        k = self._stages.pop()
        capture, stage = self._open.get(k), self.network.plan.stages[k]
        if capture is None:
            return
        if stage.shortcut:
            capture.tail = output
            if self.network.outputs:
                capture.outputs.append(output.clone())
        elif self.network.outputs:
            capture.outputs.append(output if len(capture.outputs) + 1 == len(stage.uses) else output.clone())
            if len(capture.outputs) == len(stage.uses):
                self.pause(self._open.pop(k))

    def leave_norm(self, layer: int, x: Tensor, output: Tensor) -> None:
        capture = self._open.get(self.network.plan.solved_at[layer])
        if capture is not None and capture.tail is x:
            capture.tail = output

    def add(self, pair: Sequence[Tensor]) -> None:
        """Pause before an addition that is the target, and bring its summand up to date afterwards."""
        for tail, other in (pair, pair[::-1]):
            capture = self._open.get(self.target)
            if capture is not None and capture.tail is tail:
                k, x = self.target, capture.x
                capture.shortcut, capture.tail = other, None
                self.pause(self._open.pop(k))
                if not self.network.outputs:
                    tail.copy_(self.network.again(k, x))
                return


class _Watch(TorchFunctionMode):
    """Shows additions to a forward pass."""

    def __init__(self, current: Pass) -> None:
        super().__init__()
        self._current = current

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        pair = summands(getattr(func, "__name__", ""), args, kwargs)
        if pair is not None:
            self._current.add(pair)
        return func(*args, **kwargs)
