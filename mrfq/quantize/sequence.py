"""All calibration batches at one stage after another: in forward passes that are held, or that start anew each time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.quantize.capture import Capture, Network, Pass
from mrfq.quantize.fold import BatchNorm, correction
from mrfq.quantize.moments import Counts, Gathering, Moments
from mrfq.quantize.options import Options
from mrfq.quantize.plan import Batch, Plan, Stage
from mrfq.quantize.unfolding import channels, unfolded

GIB = 2**30
#: held forward passes of each network, each a thread
MOST_HELD = 512
#: networks that hold a pass of each batch
NETWORKS = 2


@dataclass(eq=False)
class Gathered:
    """What was gathered for a layer: on the batches that count, and on those that are held out."""

    train: Moments | Counts
    held_out: Moments | Counts | None

    def rows(self, start: int, stop: int) -> Gathered:
        """Return the part of some output channels of every group."""
        train, held = self.train, self.held_out
        return Gathered(
            train.rows(start, stop) if isinstance(train, Moments) else train,
            held.rows(start, stop) if isinstance(held, Moments) else held,
        )


class Passes:
    """Forward passes of the float and of the quantized network over all calibration batches, side by side.

    Parameters
    ----------
    model, reference : nn.Module
        The network that is quantized, and the float one.
    plan : Plan
    batches : sequence of (tuple, dict)
    options : Options
    """

    def __init__(
        self, model: nn.Module, reference: nn.Module, plan: Plan, batches: Sequence[Batch], options: Options
    ) -> None:
        self.plan, self.batches, self.options = plan, batches, options
        self.quantized = Network(model, plan, outputs=False, reference=reference)
        self.float = Network(reference, plan, outputs=True)
        self.held = held_passes(options.memory, plan.live, len(batches))
        self.train = len(batches) - held_out_batches(options.held_out, len(batches))
        self._waiting: dict[int, tuple[Pass, Pass]] = {}
        self._open: dict[int, _Gatherings] = {}

    def close(self) -> None:
        """End all forward passes, and take the hooks away."""
        for pair in self._waiting.values():
            for one in pair:
                one.kill()
        self._waiting.clear()
        self.quantized.close()
        self.float.close()

    def gather(self, k: int) -> dict[int, Gathered]:
        """Run all batches to a stage, and return what was gathered for the layers that are quantized there."""
        stage = self.plan.stages[k]
        alone = len(stage.uses) == 1
        key = stage.uses[0].layer if alone else -1
        gatherings = self._open.setdefault(key, _Gatherings()) if alone else _Gatherings()
        with closing(self._visit(k)) as visits:
            for index, quantized, exact in visits:
                self._take(stage, index, quantized, exact, gatherings)
        if not stage.solved:
            return {}
        found = self._open.pop(key, gatherings).finish(self.plan.where(k))
        return dict(self._shared_out(stage, found))

    def _visit(self, k: int) -> Generator[tuple[int, Capture, Capture | None], None, None]:
        """Yield what each batch shows at a stage: of the quantized network, and of the float one where it is needed."""
        needed = self.options.asymmetric or self.plan.stages[k].shortcut
        for index, batch in enumerate(self.batches):
            pair = self._waiting.get(index) or (self.quantized.start(batch), self.float.start(batch))
            if index < self.held:
                self._waiting[index] = pair
            try:
                yield index, _reached(pair[0], k, index), _reached(pair[1], k, index) if needed else None
            finally:
                if index >= self.held:
                    for one in pair:
                        one.kill()

    def _take(
        self, stage: Stage, index: int, quantized: Capture, exact: Capture | None, gatherings: _Gatherings
    ) -> None:
        """Take one batch into the moments."""
        use, train = stage.uses[0], index < self.train
        module = self.quantized.network.get_submodule(use.name)
        if isinstance(module, nn.Embedding):
            gatherings.count(quantized.x, module, train)
            return
        where = f"layer {use.name!r}, calibration batch {index + 1}"
        _check_finite(quantized.x, f"{where}: the inputs")
        z = torch.cat(self._outputs(stage, quantized, exact), dim=_axis(module))
        _check_finite(z, f"{where}: the outputs of the float network")
        keep = _mask(self.batches[index], z.device)
        for x, out in unfolded(module, quantized.x, z, keep):
            gatherings.part(train).add(x, out)

    def _outputs(self, stage: Stage, quantized: Capture, exact: Capture | None) -> list[Tensor]:
        """Return what the uses of a stage should put out, without bias."""
        wanted = []
        for number, use in enumerate(stage.uses):
            module = self.float.network.get_submodule(use.name)
            aimed = exact is not None and self.options.asymmetric
            z = exact.outputs[number] if exact is not None and aimed else module.forward(quantized.x)
            bias = module._parameters.get("bias")
            wanted.append(z if bias is None else z - channels(module, bias, z))
        if stage.shortcut and exact is not None and quantized.shortcut is not None and exact.shortcut is not None:
            layer = stage.uses[0].layer
            factor = correction(self._norm(layer), self.plan.layers[layer].rows)
            module = self.float.network.get_submodule(stage.uses[0].name)
            wanted[0] = wanted[0] + (exact.shortcut - quantized.shortcut) * channels(module, factor, wanted[0])
        return wanted

    def _norm(self, layer: int) -> BatchNorm | None:
        name = self.plan.norms.get(layer)
        norm = None if name is None else self.float.network.get_submodule(name)
        return norm if isinstance(norm, BatchNorm) else None

    def _shared_out(self, stage: Stage, found: Gathered) -> Iterator[tuple[int, Gathered]]:
        """Yield the moments of each layer of a stage whose outputs were gathered together."""
        start = 0
        for use in stage.uses:
            layer = self.plan.layers[use.layer]
            rows = layer.rows // layer.groups
            if use.layer in stage.solved:
                yield use.layer, found.rows(start, start + rows)
            start += rows


class _Gatherings:
    """Moments of a layer in the making: of the batches that count, and of those that are held out."""

    def __init__(self) -> None:
        self._parts = Gathering(), Gathering()
        self._counts: list[Tensor | None] = [None, None]
        self._weight: Tensor | None = None

    def part(self, train: bool) -> Gathering:
        return self._parts[0 if train else 1]

    def count(self, indices: Tensor, module: nn.Embedding, train: bool) -> None:
        """Take in rows of an embedding that are looked up."""
        side, self._weight = 0 if train else 1, module.weight.detach().cpu().float()
        found = torch.bincount(indices.flatten().cpu(), minlength=module.num_embeddings).double()
        before = self._counts[side]
        self._counts[side] = found if before is None else before + found

    def finish(self, where: str) -> Gathered:
        """Return what was gathered; where a weight is both looked up and multiplied by, the products count."""
        train, held_out = (part.finish() for part in self._parts)
        if train is not None:
            return Gathered(train, held_out)
        if self._weight is None or self._counts[0] is None:
            raise InvalidProblemError(f"layer {where}: the calibration batches have no inputs for it")
        held = None if self._counts[1] is None else Counts(self._counts[1], self._weight)
        return Gathered(Counts(self._counts[0], self._weight), held)


def _reached(one: Pass, k: int, index: int) -> Capture:
    """Return what a forward pass shows at a stage; errors name the batch."""
    try:
        return one.reach(k)
    except torch.OutOfMemoryError:
        raise
    except InvalidProblemError as error:
        raise InvalidProblemError(f"calibration batch {index + 1}: {error}") from error
    except (TypeError, RuntimeError) as error:
        raise InvalidParameterError(
            f"calibration batch {index + 1} cannot be run through the network ({error}), although the first could"
        ) from error


def _check_finite(values: Tensor, what: str) -> None:
    # a sum is fast and finite unless something in it is not, or it overflows
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        raise InvalidProblemError(f"{what} are not finite (NaN or infinite); check the inputs and the float network")


def _axis(module: nn.Module) -> int:
    """Return the axis of the channels of an output, counted from the last."""
    return -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # type: ignore[arg-type]


def _mask(batch: Batch, device: torch.device) -> Tensor | None:
    """Return which positions of a batch of texts are no padding, (texts, positions), if it says so."""
    mask = batch[1].get("attention_mask")
    return mask.to(device).bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def held_passes(memory: float, live: int, batches: int) -> int:
    """Return how many batches can be held half way, by the GiB that they may take and the bytes that one does.

    Examples
    --------
    >>> held_passes(memory=1.0, live=2**27, batches=100), held_passes(memory=0.0, live=1, batches=100)
    (4, 0)
    """
    return min(int(memory * GIB // max(NETWORKS * live, 1)), batches, MOST_HELD)


def held_out_batches(fraction: float, batches: int) -> int:
    """Return how many batches are held out: at least one if there are two, unless the fraction is 0.

    Examples
    --------
    >>> held_out_batches(0.1, 16), held_out_batches(0.1, 2), held_out_batches(0.1, 1), held_out_batches(0.0, 16)
    (2, 1, 0, 0)
    """
    return min(max(round(fraction * batches), 1), batches - 1) if fraction > 0 else 0
