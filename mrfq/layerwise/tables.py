"""The label sets of a layer as they are stored, and the formula that turns them into levels.

`Table.values` is the one place where scales, offsets and codebooks become levels: what is quantized, packed, loaded
and measured is the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.kernels import threads_for
from mrfq.layerwise.level_kernels import fit_affine, fit_codebooks
from mrfq.layerwise.spec import LevelSpec

#: elementary steps that a weight costs in a fit, about
PASSES = 64
#: weights that are compared with their levels at a time
PART = 1 << 22


@dataclass(frozen=True, eq=False)
class Table:
    """The label sets of the rows of a layer, one for each of G groups of consecutive columns.

    Parameters
    ----------
    spec : LevelSpec
    parameters : Tensor, shape (R, G, P), float16 or float32 as `spec.precision` says
        A codebook of L ascending levels, or a scale and an offset (uniform), or a scale.

    Raises
    ------
    InvalidProblemError
        Parameters of another shape or dtype or not finite, levels that descend, scales below zero.

    Examples
    --------
    >>> from mrfq.layerwise.spec import parse_levels
    >>> table = Table(parse_levels("2bit-uniform"), torch.tensor([[[0.5, -1.0]]], dtype=torch.float16))
    >>> table.values
    tensor([[[-1.0000, -0.5000,  0.0000,  0.5000]]])
    >>> labels = table.nearest(torch.tensor([[0.2, -7.0, 0.25]]))
    >>> labels
    tensor([[2, 0, 2]], dtype=torch.uint8)
    >>> table.decode(labels)
    tensor([[ 0., -1.,  0.]])
    """

    spec: LevelSpec
    parameters: Tensor

    def __post_init__(self) -> None:
        found, spec = self.parameters, self.spec
        if found.ndim != 3 or 0 in found.shape or found.shape[2] != spec.parameters or found.dtype != spec.dtype:
            raise InvalidProblemError(
                f"table of {spec}: parameters of shape (R, G, {spec.parameters}), {spec.dtype} are needed, got "
                f"{tuple(found.shape)}, {found.dtype}"
            )
        ends = found.detach().float()
        if spec.base is not None:  # the levels lie between these, and ascend if the scale does not turn them
            offset = ends[..., 1] if spec.kind == "uniform" else torch.zeros_like(ends[..., 0])
            ends = torch.stack([offset + ends[..., 0] * spec.base[0], offset + ends[..., 0] * spec.base[-1]], -1)
        bad = ~(ends.isfinite().all(-1) & (ends.diff(dim=-1) >= 0).all(-1))
        if bool(bad.any()):
            row, group = bad.nonzero()[0].tolist()
            raise InvalidProblemError(
                f"table of {spec}: the levels of row {row}, group {group} are not finite or descend"
            )

    @property
    def values(self) -> Tensor:
        """The levels, shape (R, G, L), float32, ascending; neighbours may be equal."""
        return levels_of(self.spec, self.parameters.float())

    def decode(self, labels: Tensor) -> Tensor:
        """Return the weights that labels (R, C) stand for, float32.

        Raises
        ------
        InvalidProblemError
            Labels of another number of rows, or columns that the groups do not divide.
        """
        return decode(self.values, labels)

    def nearest(self, weights: Tensor) -> Tensor:
        """Return the labels of the nearest levels, uint8 of shape (R, C); a tie goes to the lower level.

        Raises
        ------
        InvalidProblemError
            Weights of another number of rows, or columns that the groups do not divide.
        """
        values = self.values.double()
        _check_fit(values, weights)
        bounds = (values[..., :-1] / 2 + values[..., 1:] / 2).contiguous()
        labels = torch.empty(weights.shape, dtype=torch.uint8, device=weights.device)
        step = max(PART // weights.shape[1], 1)
        for part in (slice(k, k + step) for k in range(0, len(weights), step)):
            cells = weights[part].detach().double().reshape(-1, bounds.shape[1], weights.shape[1] // bounds.shape[1])
            labels[part] = torch.searchsorted(bounds[part], cells.contiguous()).reshape(-1, weights.shape[1]).byte()
        return labels


def levels_of(spec: LevelSpec, parameters: Tensor) -> Tensor:
    """Return the levels (..., L) that parameters (..., P) stand for, differentiable and in their dtype.

    Examples
    --------
    >>> from mrfq.layerwise.spec import parse_levels
    >>> levels_of(parse_levels("2bit-uniform"), torch.tensor([0.5, -1.0]))
    tensor([-1.0000, -0.5000,  0.0000,  0.5000])
    """
    if spec.base is None:
        return parameters
    levels = parameters[..., :1] * torch.tensor(spec.base, dtype=parameters.dtype, device=parameters.device)
    return parameters[..., 1:] + levels if spec.kind == "uniform" else levels


def decode(values: Tensor, labels: Tensor) -> Tensor:
    """Return the weights (R, C) that labels stand for, in the dtype of the levels.

    Parameters
    ----------
    values : Tensor, shape (R or 1, G, L)
    labels : Tensor, whole numbers from 0 to L - 1, shape (R, C)

    Raises
    ------
    InvalidProblemError
        Shapes that do not go together.

    Examples
    --------
    >>> decode(torch.tensor([[[-1.0, 1.0], [0.0, 2.0]]]), torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]))
    tensor([[-1.,  1.,  2.,  0.],
            [ 1.,  1.,  0.,  0.]])
    """
    _check_fit(values, labels)
    cells = labels.reshape(len(labels), values.shape[1], -1).long()
    return values.expand(len(labels), -1, -1).gather(2, cells).reshape(labels.shape)


def start_table(spec: LevelSpec, weights: Tensor, importance: Tensor | None = None) -> Table:
    """Return label sets fitted to weights, each on its own, with the inputs taken as independent.

    Codebooks are weighted k-means on the line by a dynamic programme, exact for sets of up to 512 weights. Scales and
    offsets are searched: from the range of the weights inwards, the best of some hundred candidates polished by
    alternate rounding and least squares.

    Parameters
    ----------
    spec : LevelSpec
        With the fit "weighted" the squared error counts by importance, with "error" all weights count alike, and with
        "min-max" the levels reach from the smallest weight to the largest (symmetric ones: to the largest size).
    weights : Tensor, shape (R, C), floating point
    importance : Tensor, shape (C,) or (R, C), optional
        Of the squared error of a column, or weight: at least 0, for a layer the diagonal of its Gram matrix. A set
        whose importances are all 0 counts its weights alike.

    Returns
    -------
    Table
        On the device of the weights.

    Raises
    ------
    InvalidParameterError
        Groups that do not divide the columns, or levels beyond the range of float16.
    InvalidProblemError
        Weights or importances of a wrong shape, not finite, or importances below 0.

    References
    ----------
    H. Wang and M. Song, "Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming", The R
    Journal 3(2), 2011.

    Examples
    --------
    >>> from mrfq.layerwise.spec import parse_levels
    >>> weights = torch.tensor([[0.0, 0.1, 0.9, 1.1, 5.0]])
    >>> start_table(parse_levels("binary"), weights, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])).values
    tensor([[[0.0500, 1.0000]]])
    >>> start_table(parse_levels("binary-symmetric-error-f32"), weights).values
    tensor([[[-1.4200,  1.4200]]])
    """
    _check_numbers("weights", weights, "(R, C)", weights.ndim == 2)
    groups = spec.groups(weights.shape[1])
    if spec.fit == "min-max":
        return _stored(spec, _full_range(spec, weights.detach().double().reshape(len(weights), groups, -1)))
    given = _array(weights)
    counted = _importance(spec, weights, importance)
    fitted = np.empty((len(weights), groups, spec.parameters))
    with threads_for(weights.numel() * PASSES):
        if spec.base is None:
            fit_codebooks(given, counted, groups, fitted)
        else:
            fit_affine(given, counted, groups, np.asarray(spec.base), fitted)
    return _stored(spec, torch.from_numpy(fitted).to(weights.device))


def round_parameters(spec: LevelSpec, parameters: Tensor) -> Tensor:
    """Return parameters (..., P) in the stored precision; the middle of a uniform set stays where it is.

    Numbers beyond the range of the precision become infinite.
    """
    rounded = parameters.to(spec.dtype)
    if spec.kind == "uniform":
        moved = (parameters[..., 0] - rounded[..., 0].double()) * ((spec.count - 1) / 2)
        rounded[..., 1] = (parameters[..., 1] + moved).to(spec.dtype)
    return rounded


def _stored(spec: LevelSpec, parameters: Tensor) -> Table:
    rounded = round_parameters(spec, parameters)
    bad = ~rounded.isfinite().all(-1)
    if bool(bad.any()):
        row, group = bad.nonzero()[0].tolist()
        size = float(parameters[row, group].abs().max())
        remedy = "; store float32: add '-f32'" if spec.precision == "F16" else ""
        raise InvalidParameterError(
            f"levels {spec}: row {row}, group {group} needs a parameter of size {size:.6g}, beyond the range of "
            f"{spec.precision}, {torch.finfo(spec.dtype).max:.6g}{remedy}"
        )
    return Table(spec, rounded)


def _full_range(spec: LevelSpec, weights: Tensor) -> Tensor:
    assert spec.base is not None
    if spec.kind != "uniform":
        return weights.abs().amax(-1, keepdim=True) / spec.base[-1]
    low, high = weights.aminmax(dim=-1)
    return torch.stack([(high - low) / (spec.count - 1), low], -1)


def _importance(spec: LevelSpec, weights: Tensor, importance: Tensor | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    if importance is not None:
        fits = importance.shape in (weights.shape, weights.shape[1:])
        _check_numbers("importance", importance, f"({weights.shape[1]},) or {tuple(weights.shape)}", fits)
        if bool((importance < 0).any()):
            raise InvalidProblemError(f"importance must be at least 0, got {float(importance.min()):.6g}")
    if importance is None or spec.fit == "error":
        return np.ones((1, weights.shape[1]))
    return _array(importance.reshape(-1, weights.shape[1]))


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.ascontiguousarray(tensor.detach().cpu().double().numpy())


def _check_numbers(what: str, tensor: Tensor, wanted: str, fits: bool) -> None:
    if not fits or 0 in tensor.shape or not tensor.is_floating_point():
        raise InvalidProblemError(
            f"{what}: floating-point numbers of shape {wanted} are needed, got {tuple(tensor.shape)}, {tensor.dtype}"
        )
    if not bool(tensor.isfinite().all()):
        where = (~tensor.isfinite()).nonzero()[0].tolist()
        raise InvalidProblemError(f"{what}{where} is {float(tensor[tuple(where)])}, but all numbers must be finite")


def _check_fit(values: Tensor, given: Tensor) -> None:
    """Raise an error unless a label set belongs to every entry of a matrix."""
    rows, groups = values.shape[:2]
    if given.ndim != 2 or rows not in (1, len(given)) or given.shape[1] % groups:
        raise InvalidProblemError(
            f"table: label sets of {rows} rows and {groups} groups of columns do not fit shape {tuple(given.shape)}"
        )
