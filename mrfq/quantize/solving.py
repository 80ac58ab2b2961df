"""One layer: from its moments to labels, levels, scale and shift, with the errors of all that."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidProblemError
from mrfq.layerwise.bound import layer_bound
from mrfq.layerwise.recipe import Recipe, named_recipe, quantize_layer
from mrfq.layerwise.refit import row_energies
from mrfq.layerwise.spec import LevelSpec, VectorSpec
from mrfq.layerwise.tables import Table
from mrfq.layerwise.vector import fit_codebook
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.quantize.fold import BatchNorm, possible, scaled_table
from mrfq.quantize.layers import Quantizable
from mrfq.quantize.moments import Counts, Moments
from mrfq.quantize.options import Options
from mrfq.quantize.target import best_shift, best_weights, least_squares, metric
from mrfq.quantize.unfolding import matrix

BASELINES = ("nearest", "gptq")
#: more columns have no bound: its time grows with their third power, and is some seconds here
BOUND_COLUMNS = 1024
#: how much work goes into a vector codebook
VECTOR_EFFORT: dict[str, dict[str, Any]] = {
    "nearest": {"assign": "unary"},
    "gptq": {"rounds": 0},
    "fast": {"rounds": 0},
    "balanced": {"rounds": 1},
}


@dataclass(frozen=True, eq=False)
class Outlet:
    """What can take up scale and shift of the output channels of a layer: a batch norm, a bias, or neither."""

    norm: BatchNorm | None = None
    bias: bool = False

    @property
    def shifts(self) -> bool:
        """Whether a shift can be taken up."""
        return self.norm is not None or self.bias


@dataclass(eq=False)
class Answer:
    """Labels and levels of a layer, and what goes with them.

    Attributes
    ----------
    labels : Tensor
        uint8 (R, C), or int64 (R, C / d) of codewords.
    grid : RowGrid or VectorGrid
        With the scale that the levels took up.
    scale, shift : Tensor, shape (R,), float64
        What is left for the outlet: outputs are `scale * (weight @ x) + shift`.
    optimality : float or None
        A lower bound of the energy of all labellings over that of the labels, in [0, 1]; None if it is not known.
    notes : list of str
    """

    labels: Tensor
    grid: RowGrid | VectorGrid
    scale: Tensor
    shift: Tensor
    optimality: float | None = None
    notes: list[str] = field(default_factory=list)

    def weight(self, layer: Quantizable) -> Tensor:
        """Return the weights, float32 (R, C)."""
        return self.grid.decode(self.labels, (layer.rows, layer.columns))

    def error(self, layer: Quantizable, moments: Moments | Counts | None) -> float | None:
        """Return the relative output error in closed form; None without moments."""
        if moments is None:
            return None
        if isinstance(moments, Counts):
            return moments.error(self.weight(layer))
        parts = (part.reshape(layer.groups, -1) for part in (self.scale, self.shift))
        return moments.error(matrix(self.weight(layer), layer.groups), *parts)


def solve(
    layer: Quantizable,
    moments: Moments | Counts,
    weight: Tensor,
    outlet: Outlet,
    options: Options,
    *,
    quality: str | None = None,
    seed: int = 0,
) -> Answer:
    """Return labels and levels for a layer, with scale and shift of its outputs.

    Parameters
    ----------
    layer : Quantizable
    moments : Moments or Counts
    weight : Tensor
        The float weight, on the CPU.
    outlet : Outlet
    options : Options
    quality : str, optional
        In place of that of the options and their solver: a baseline.
    seed : int
    """
    rows = matrix(weight.detach().float(), layer.groups)
    if isinstance(moments, Counts):
        gram, target = torch.eye(layer.columns)[None], rows
        return _unscaled(layer, *_labelled(layer, target, gram, options, quality, seed))
    centred = options.centred and (outlet.shifts or not options.rescale)
    gram, cross = metric(moments, centred)
    target = best_weights(gram, cross, rows, options.damping).float()
    gram = gram.float()
    answer = _unscaled(layer, *_labelled(layer, target, gram, options, quality, seed))
    if options.bounds and quality is None:
        _rate(layer, answer, target, gram)
    if options.centred and not centred:
        answer.notes.append("nothing can take up a shift of its outputs: second moments in place of covariances")
    return _rescaled(layer, answer, moments, outlet, options) if options.rescale else answer


def _labelled(
    layer: Quantizable, target: Tensor, gram: Tensor, options: Options, quality: str | None, seed: int
) -> tuple[Tensor, RowGrid | VectorGrid]:
    """Return labels and grid, group by group."""
    if isinstance(layer.spec, VectorSpec):
        # one codebook for all groups, in the mean of their metrics
        effort = VECTOR_EFFORT.get(quality or options.solver or options.quality, {})
        book = fit_codebook(target.flatten(0, 1), gram.mean(0), layer.spec, seed=seed, **effort)
        return book.labels, VectorGrid(book.codewords)
    recipe = recipe_of(options) if quality is None else quality
    device = layer.weight.device if layer.weight.is_cuda else torch.device("cpu")
    parts = ((t.contiguous().to(device), h.contiguous().to(device)) for t, h in zip(target, gram, strict=True))
    found = [quantize_layer(*part, layer.spec, recipe, seed=seed) for part in parts]
    parameters = torch.cat([part.table.parameters for part in found])
    return torch.cat([part.labels for part in found]).cpu(), RowGrid(Table(layer.spec, parameters.cpu()))


def _rate(layer: Quantizable, answer: Answer, target: Tensor, gram: Tensor) -> None:
    """Note in an answer without scale and shift how near to optimal its labels are at least, or why that is unknown."""
    if not isinstance(answer.grid, RowGrid):
        return
    if layer.columns > BOUND_COLUMNS:
        answer.notes.append(
            f"no lower bound of its energy: that is computed up to {BOUND_COLUMNS:,} columns, and it has "
            f"{layer.columns:,}"
        )
        return
    values, labels = (part.unflatten(0, (layer.groups, -1)) for part in (answer.grid.table.values, answer.labels))
    energy = sum(float(row_energies(*part).sum()) for part in zip(values, labels, target, gram, strict=True))
    try:
        bounds = [layer_bound(*part).clamp(min=0) for part in zip(target, gram, values, strict=True)]
    except (InvalidProblemError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        # of constant inputs, say, whose covariance is nothing but rounding errors
        answer.notes.append(f"no lower bound of its energy: {error}")
        return
    least = sum(float(bound.sum()) for bound in bounds)
    answer.optimality = least / energy if energy > least else 1.0


def recipe_of(options: Options) -> Recipe:
    """Return the recipe that options name, with their solver.

    Raises
    ------
    UnknownNameError
        No recipe, or no solver, has the name.
    """
    return named_recipe(options.quality, **({} if options.solver is None else {"solver": options.solver}))


def _unscaled(layer: Quantizable, labels: Tensor, grid: RowGrid | VectorGrid) -> Answer:
    one = torch.ones(layer.rows, dtype=torch.float64)
    return Answer(labels, grid, one, torch.zeros_like(one))


def _rescaled(layer: Quantizable, answer: Answer, moments: Moments, outlet: Outlet, options: Options) -> Answer:
    """Return the answer with scale and shift by least squares, as far as the outlet can take them up."""
    weight = matrix(answer.weight(layer), layer.groups)
    scale = least_squares(moments, weight, outlet.shifts)[0]
    if outlet.norm is not None:
        good = possible(outlet.norm, scale.flatten(), statistics=options.reestimate)
        scale = torch.where(good.reshape(scale.shape), scale, 1.0)
        shift = best_shift(moments, weight, scale)
        return dataclasses.replace(answer, scale=scale.flatten(), shift=shift.flatten())
    plain = _shifted(layer, answer, moments, outlet)
    if not isinstance(answer.grid, RowGrid):
        return plain
    table = scaled_table(answer.grid.table, scale.flatten())
    if table is None:
        return plain
    scaled = _shifted(layer, dataclasses.replace(answer, grid=RowGrid(table)), moments, outlet)
    better = scaled.error(layer, moments), plain.error(layer, moments)
    return scaled if better[0] < better[1] else plain  # type: ignore[operator]


def _shifted(layer: Quantizable, answer: Answer, moments: Moments, outlet: Outlet) -> Answer:
    """Return the answer with the shift that its weights need, if there is a bias for it."""
    if not outlet.bias:
        return answer
    weight = matrix(answer.weight(layer), layer.groups)
    shift = best_shift(moments, weight, torch.ones_like(moments.mean_z))
    return dataclasses.replace(answer, shift=shift.flatten())


def bits(layer: Quantizable, grid: RowGrid | VectorGrid) -> float:
    """Return all bits of the weights of a layer, with a codebook of the size that it got."""
    spec: LevelSpec | VectorSpec = layer.spec
    if isinstance(grid, VectorGrid) and isinstance(spec, VectorSpec):
        spec = dataclasses.replace(spec, count=len(grid.codewords))
    return spec.bits(layer.rows, layer.columns)


def outlet_of(layer: Quantizable, module: nn.Module, norm: nn.Module | None) -> Outlet:
    """Return what can take up scale and shift of a layer; the bias only if one module alone has the weight."""
    if isinstance(norm, BatchNorm):
        return Outlet(norm=norm)
    return Outlet(bias=len(layer.names) == 1 and module._parameters.get("bias") is not None)
