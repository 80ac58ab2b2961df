"""From the calls that were observed in a forward pass to the stages in which layers are quantized."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mrfq.quantize.plan import Plan, Stage, Use, version


@dataclass(eq=False)
class Call:
    """One call of a layer: where its output goes."""

    use: Use
    order: int
    #: takes the same input as the call before, unfolded in the same way
    joins: bool
    norm: str | None = None
    #: when the output, or that of the batch norm behind the layer, is added to something else
    added: int | None = None
    #: something else reads what is added, before that
    read: bool = False
    #: something else than the batch norm reads the output
    forked: bool = False
    #: the tensor that may be added, and its version
    tail: Callable[[], Tensor | None] = lambda: None
    version: int = 0
    notes: list[str] = field(default_factory=list)

    def follows(self, tensor: Tensor) -> bool:
        return self.tail() is tensor and version(tensor) == self.version

    def note_reading(self, tensor: Tensor) -> None:
        if self.tail() is tensor:
            self.read = self.read or self.added is None
        else:
            self.forked = True

    def move(self, tensor: Tensor) -> None:
        self.tail, self.version = weakref.ref(tensor), version(tensor)


def note_norms(plan: Plan, calls: Sequence[Call], norms: Mapping[str, int]) -> None:
    """Keep the batch norms that serve one layer alone, which is called once and read by nothing else."""
    for call in calls:
        layer = call.use.layer
        if call.norm is None or not plan.once(layer) or norms[call.norm] != 1:
            continue
        if call.forked:
            call.notes.append(f"its output is read by more than {call.norm}: scale and shift are not folded into that")
        else:
            plan.norms[layer] = call.norm


def arrange(plan: Plan, calls: Sequence[Call], shortcut: bool) -> None:
    """Find the stages, in the order of their places."""
    chosen = _residual(plan, calls) if shortcut else set()
    last = {call.use.layer: call for call in calls}
    grouped: list[tuple[int, list[Call]]] = []
    previous: Call | None = None
    for call in calls:
        plan.notes.setdefault(call.use.layer, []).extend(call.notes)
        layer = plan.layers[call.use.layer]
        alone = call in chosen or not plan.once(call.use.layer) or layer.kind == "embedding" or layer.groups > 1
        before = previous is not None and call.joins and not _between(previous, call, chosen)
        previous = None if alone else call
        if alone or not before:
            grouped.append((call.added if call in chosen and call.added is not None else call.order, [call]))
        else:
            grouped[-1][1].append(call)
    for _, group in sorted(grouped, key=lambda pair: pair[0]):
        solved = tuple(call.use.layer for call in group if last[call.use.layer] is call)
        plan.stages = [*plan.stages, Stage(tuple(call.use for call in group), group[0] in chosen, solved)]
    for index, layer in enumerate(plan.layers):
        if not plan.once(index):
            total = sum(plan.calls[name] for name in layer.names)
            plan.notes[index].append(f"used {total} times in a forward pass: quantized at the last, on moments of all")


def _between(one: Call, two: Call, chosen: set[Call]) -> bool:
    """Return whether one of the chosen calls has its place between two others."""
    return any(call.added is not None and one.order < call.added < two.order for call in chosen)


def _residual(plan: Plan, calls: Sequence[Call]) -> set[Call]:
    """Return the calls that wait for an addition: one of each addition, that with the most columns, or the last."""
    best: dict[int, Call] = {}
    for call in calls:
        layer = call.use.layer
        if call.added is None or not plan.once(layer) or plan.layers[layer].kind == "embedding":
            continue
        if call.norm is not None and plan.norms.get(layer) != call.norm:
            continue
        if call.read:
            call.notes.append("its output is read before it is added to a shortcut: the shortcut is not corrected for")
            continue
        rival = best.get(call.added)
        if rival is None or plan.layers[layer].columns >= plan.layers[rival.use.layer].columns:
            best[call.added] = call
    return set(best.values())
