"""Layers as problems, for comparing solvers: synthetic ones and those in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.io.archive_header import parse_header
from mrfq.layerwise.spec import LevelSpec, parse_levels
from mrfq.layerwise.tables import start_table
from mrfq.problems.layer import LayerQuadratic


def layer_problem(
    target: Tensor, gram: Tensor, levels: str | LevelSpec, *, dtype: torch.dtype = torch.float64
) -> LayerQuadratic:
    """Return a layer with label sets fitted to its weights, each weighted by the diagonal of the Gram matrix.

    Parameters
    ----------
    target : Tensor, shape (R, C), floating point
    gram : Tensor, shape (C, C), floating point
    levels : str or LevelSpec
        For instance "3bit", "2bit-uniform", "ternary-symmetric-g64"; no vectors.
    dtype : torch.dtype
        Of the problem.

    Raises
    ------
    InvalidParameterError
        Levels that are no label sets of single weights, or groups that do not divide the columns.
    InvalidProblemError
        Shapes that do not fit, numbers that are not finite, a matrix that is not positive semi-definite.

    Examples
    --------
    >>> layer_problem(torch.tensor([[-1.0, 2.0, 2.2]]), torch.eye(3), "binary-f32").values
    tensor([[[-1.0000,  2.1000]]], dtype=torch.float64)
    """
    spec = parse_levels(levels) if isinstance(levels, str) else levels
    if not isinstance(spec, LevelSpec):
        raise InvalidParameterError(f"levels {spec}: a layer problem labels single weights, not vectors")
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise InvalidProblemError(f"a square Gram matrix is needed, got shape {tuple(gram.shape)}")
    table = start_table(spec, target, gram.diagonal().clamp(min=0))
    return LayerQuadratic(target, gram, table.values, dtype=dtype)


def synthetic_layer(
    rows: int = 16,
    columns: int = 128,
    levels: str = "2bit",
    *,
    condition: float = 1e3,
    spread: float = 0.5,
    seed: int = 0,
) -> LayerQuadratic:
    """Return a layer of normally distributed weights on correlated inputs.

    Eigenvalues fall like a power of their number in a random basis; the inputs are then scaled by log-normal factors.
    Real layers of 128 to 576 inputs have correlations of a condition of about 1e3, and a spectrum like this one.

    Parameters
    ----------
    rows, columns : int
    levels : str
        See `layer_problem`.
    condition : float
        The largest eigenvalue over the smallest before the inputs are scaled, at least 1.
    spread : float
        Standard deviation of the logarithm of the scales of the inputs.
    seed : int

    Raises
    ------
    InvalidParameterError
        Sizes below 1, a condition below 1, a negative spread, or levels that do not fit.

    Examples
    --------
    >>> synthetic_layer(4, 8, "ternary", seed=1)
    LayerQuadratic(4 rows of 8 weights, 3 levels)
    """
    if rows < 1 or columns < 1:
        raise InvalidParameterError(f"a layer needs at least one row and one column, got {rows} and {columns}")
    if not 1 <= condition < float("inf") or not 0 <= spread < float("inf"):
        raise InvalidParameterError(f"condition must be at least 1 and spread at least 0, got {condition}, {spread}")
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.standard_normal((columns, columns)))
    exponent = np.log(condition) / np.log(columns) if columns > 1 else 0.0
    scales = np.exp(spread * random.standard_normal(columns))
    root = scales[:, None] * basis * np.arange(1, columns + 1) ** (-exponent / 2)
    target = random.standard_normal((rows, columns)) / np.sqrt(columns)
    return layer_problem(torch.from_numpy(target), torch.from_numpy(root @ root.T), levels)


def layer_file(path: str, levels: str = "", *, rows: int = 0, seed: int = 0) -> LayerQuadratic:
    """Return the layer in a safetensors file, the same for every seed.

    Parameters
    ----------
    path : str
        Of a file with the tensors `target` (R, C) and `gram` (C, C), and perhaps `values` (R or 1, G, L).
    levels : str
        See `layer_problem`; empty if the file has values.
    rows : int
        Only so many of the first rows; 0 for all.
    seed : int
        Of the solvers only.

    Raises
    ------
    FileFormatError
        No safetensors file, or one without these tensors.
    InvalidParameterError
        Levels neither here nor in the file, or in both.
    InvalidProblemError
        Shapes that do not fit, numbers that are not finite, a matrix that is not positive semi-definite.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/layer.safetensors"
    >>> safetensors.torch.save_file({"target": torch.randn(4, 3), "gram": torch.eye(3)}, path)
    >>> layer_file(path, "binary", rows=2)
    LayerQuadratic(2 rows of 3 weights, 2 levels)
    >>> folder.cleanup()
    """
    tensors = _read(path)
    values = tensors.get("values")
    if rows < 0 or (values is None) == (not levels):
        raise InvalidParameterError(
            f"{path}: rows must not be negative, and levels are needed unless the file has values; got rows = {rows}, "
            f"levels = {levels!r} and a file with{'out' if values is None else ''} values"
        )
    few = slice(rows or None)
    if values is None:
        return layer_problem(tensors["target"][few], tensors["gram"], levels)
    return LayerQuadratic(tensors["target"][few], tensors["gram"], values[few] if len(values) > 1 else values)


def _read(path: str) -> dict[str, Tensor]:
    data = Path(path).read_bytes()
    header = parse_header(path, data)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise header.error("the header", f"what safetensors refuses ({error})", "a safetensors file") from error
    for name in ("target", "gram"):
        if name not in tensors:
            raise header.error("the header", f"the tensors {sorted(tensors)}", "the tensors 'target' and 'gram'")
    for name in {"target", "gram", "values"} & set(tensors):
        if not tensors[name].is_floating_point() or tensors[name].ndim == 0:
            found = f"{name!r} of shape {tuple(tensors[name].shape)}, {tensors[name].dtype}"
            raise header.error("the header", found, "floating-point matrices")
    return tensors
