"""A quantization on its way: stage after stage, from moments to a network with new weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mrfq.nn.batch_norm import reestimate
from mrfq.nn.data import to_device
from mrfq.nn.grids import attach
from mrfq.quantize.discovery import discover
from mrfq.quantize.fold import BatchNorm, fold_into_bias, fold_into_norm
from mrfq.quantize.layers import Quantizable
from mrfq.quantize.moments import Counts
from mrfq.quantize.options import Options
from mrfq.quantize.plan import Batch, run
from mrfq.quantize.report import LayerReport, Progress, Report
from mrfq.quantize.sequence import Gathered, Passes, held_out_batches
from mrfq.quantize.solving import BASELINES, Answer, bits, outlet_of, solve
from mrfq.quantize.state import Done, StageFiles, origin_of

Callback = Callable[[Progress], object]


class Work:
    """The quantization of a network; a context that takes its hooks away at the end.

    Parameters
    ----------
    model, reference : nn.Module
        The network to change, and its float copy.
    layers : list of Quantizable
        Of the network.
    batches : list of (tuple, dict)
    options : Options
    callback : callable, optional
    folder : str or path, optional
        Of the files that an interruption leaves.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        layers: list[Quantizable],
        batches: list[Batch],
        options: Options,
        *,
        callback: Callback | None,
        folder: str | Path | None,
    ) -> None:
        self.model, self.layers, self.batches, self.options = model, layers, batches, options
        self.callback = callback
        self.start = time.perf_counter()
        self.files = None if folder is None else StageFiles(folder, origin_of(reference, batches, options))
        first = to_device(batches[0], next(model.parameters()).device)
        self.plan = discover(reference, layers, first, options.shortcut)
        self.reports: list[LayerReport] = []
        self.bits = self.before = 0.0
        self.notes: list[str] = []
        if options.held_out > 0 and not held_out_batches(options.held_out, len(batches)):
            self.notes.append("one batch of calibration inputs: none is left to measure errors on other inputs")
        self.passes = Passes(model, reference, self.plan, batches, options)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *error: object) -> None:
        self.passes.close()

    def finish(self) -> Report:
        """Quantize what is not quantized yet, and return the report."""
        for k, stage in enumerate(self.plan.stages):
            self._tell(k, None, f"layer {self.plan.where(k)}")
            done = self._kept(k)
            if done is None:
                done = self._solved(k)
                if self.files is not None and stage.solved:
                    self.files.save(k, done)
            for index, one in done.items():
                self.reports.append(one.report)
                self.bits += bits(self.layers[index], one.grid)
                self._tell(k, one.report, _sentence(one.report))
        if self.options.reestimate:
            self._tell(len(self.plan.stages) - 1, None, "batch-norm statistics")
            reestimate(_Caller(self.model), ((batch, None) for batch in self.batches[: self.passes.train]))
        weights = sum(layer.rows * layer.columns for layer in self.layers)
        seconds = self.before + time.perf_counter() - self.start
        return Report(self.reports, seconds, self.bits / weights, self.notes)

    def _kept(self, k: int) -> dict[int, Done] | None:
        """Put the layers of a stage into the network that an interrupted run left; None if there is something to do."""
        if self.files is None:
            return None
        stage = self.plan.stages[k]
        if not stage.solved:  # moments of a layer that is quantized later, needed unless that is done, too
            later = {self.plan.solved_at[use.layer] for use in stage.uses}
            return {} if all(self.files.path(other).is_file() for other in later) else None
        done = self.files.load(k, stage.solved, self.layers)
        for index, one in (done or {}).items():
            self._put(index, one.labels, one.grid)
            state = _tensors_of(self.model)
            for name, value in one.changed.items():
                self.files.check_fit(k, name, state.get(name), value)
                state[name].copy_(value)
                if isinstance(state[name], nn.Parameter):
                    attach(state[name], None)  # type: ignore[arg-type]
            self.before += one.report.seconds
        return done

    def _solved(self, k: int) -> dict[int, Done]:
        """Quantize the layers of a stage."""
        start = time.perf_counter()
        gathered = self.passes.gather(k)
        share = (time.perf_counter() - start) / max(len(gathered), 1)
        done = {}
        for index, found in gathered.items():
            start = time.perf_counter()
            done[index] = self._quantized(index, found)
            done[index].report.seconds = share + time.perf_counter() - start
        return done

    def _quantized(self, index: int, found: Gathered) -> Done:
        """Quantize a layer, and fold its scale and shift into what is behind it."""
        layer, options = self.layers[index], self.options
        module = self.model.get_submodule(layer.name)
        norm = self.plan.norms.get(index)
        outlet = outlet_of(layer, module, None if norm is None else self.model.get_submodule(norm))
        weight = layer.weight.detach().cpu()
        seed = options.seed + index
        answer = solve(layer, found.train, weight, outlet, options, seed=seed)
        report = self._report(index, answer, found)
        for name in BASELINES if options.baselines and not isinstance(found.train, Counts) else ():
            other = solve(layer, found.train, weight, outlet, options, quality=name, seed=seed)
            errors = other.error(layer, found.train), other.error(layer, found.held_out)
            report.baselines[name] = dict(zip(("error", "error_held_out"), errors, strict=True))
        self._put(index, answer.labels, answer.grid)
        return Done(answer.labels, answer.grid, self._folded(index, module, norm, answer), report)

    def _report(self, index: int, answer: Answer, found: Gathered) -> LayerReport:
        layer = self.layers[index]
        error = answer.error(layer, found.train)
        assert error is not None
        return LayerReport(
            name=layer.name,
            kind=layer.kind,
            shape=tuple(layer.weight.shape),
            levels=str(layer.spec),
            bits_per_weight=bits(layer, answer.grid) / (layer.rows * layer.columns),
            error=error,
            error_held_out=answer.error(layer, found.held_out),
            optimality=answer.optimality,
            notes=[*self.plan.notes.get(index, []), *answer.notes],
        )

    def _put(self, index: int, labels: Tensor, grid: Any) -> None:
        """Give a layer its weights, and note their grid."""
        weight = self.layers[index].weight
        weight.copy_(grid.decode(labels, tuple(weight.shape)))
        attach(weight, grid)

    def _folded(self, index: int, module: nn.Module, norm: str | None, answer: Answer) -> dict[str, Tensor]:
        """Fold scale and shift, and return what that has changed, by name."""
        if not self.options.rescale or self.layers[index].kind == "embedding":
            return {}
        names: Sequence[str] = ()
        behind = None if norm is None else self.model.get_submodule(norm)
        if isinstance(behind, BatchNorm):
            bias = module._parameters.get("bias")
            fold_into_norm(behind, answer.scale, answer.shift, bias, statistics=self.options.reestimate)
            names = [f"{norm}.{part}" for part in ("weight", "running_mean", "running_var")]
        elif bool(answer.shift.any()):
            fold_into_bias(module, answer.shift)
            names = [f"{self.layers[index].name}.bias"]
        state = _tensors_of(self.model)
        return {name: state[name].detach().cpu().clone() for name in names if name in state}

    def _tell(self, k: int, layer: LayerReport | None, message: str) -> None:
        if self.callback is not None:
            self.callback(Progress(k + 1, len(self.plan.stages), layer, message))


class _Caller(nn.Module):
    """A network whose only argument is a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Any:
        """Return the output of the network."""
        return run(self.network, batch)


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a network by all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _sentence(report: LayerReport) -> str:
    held = "" if report.error_held_out is None else f", {report.error_held_out:.3g} held out"
    near = "" if report.optimality is None else f", optimality {report.optimality:.3g}"
    return f"{report.name}: {report.levels}, error {report.error:.3g}{held}{near}"
