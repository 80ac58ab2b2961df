"""GPTQ as published, one column after another, plain and slow: what the compiled form is checked against.

Two forms that share no arithmetic. `gptq_reference` is the algorithm of Frantar et al. (2023): the inverse of the
damped Gram matrix, its Cholesky factor, and the error of a column spread over those that follow. `babai_reference` is
the nearest-plane algorithm (Babai, 1986) on the Gram matrix itself, which rounds the same numbers (Chen et al., 2025).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def damped(target: Floats, gram: Floats, damping: float) -> tuple[Floats, Floats]:
    """Return the target without dead inputs, and the Gram matrix with the damping added to its diagonal."""
    target, gram = target.astype(np.float64), gram.astype(np.float64)
    dead = np.diag(gram) == 0
    gram[dead, dead] = 1
    target[:, dead] = 0
    return target, gram + damping * np.diag(gram).mean() * np.eye(len(gram))


def visiting(gram: Floats, order: str) -> NDArray[np.int64]:
    """Return the columns in the order in which they are rounded; of equal ones the first comes first."""
    if order == "natural":
        return np.arange(len(gram))
    return np.argsort(-np.diag(gram), kind="stable")


def nearest(values: Floats, x: Floats, column: int, columns: int) -> NDArray[np.int64]:
    """Return the label (R,) of the level nearest to x (R,) in the label set of a column."""
    group = column // (columns // values.shape[1])
    levels = values[:, group, :].astype(np.float64)
    found: NDArray[np.int64] = np.abs(x[:, None] - levels).argmin(1)
    return found


def level(values: Floats, labels: NDArray[np.int64], column: int, columns: int) -> Floats:
    """Return the levels (R,) that labels of a column stand for."""
    group = column // (columns // values.shape[1])
    table = np.broadcast_to(values[:, group, :], (len(labels), values.shape[2])).astype(np.float64)
    return table[np.arange(len(labels)), labels]


def gptq_reference(
    target: Floats, gram: Floats, values: Floats, *, damping: float = 0.01, order: str = "activation"
) -> NDArray[np.uint8]:
    """Return the labels that GPTQ chooses.

    Parameters
    ----------
    target : (R, C)
    gram : (C, C)
    values : (R or 1, G, L)
        Levels of each row and group of columns; the label sets do not change on the way ("static groups").
    damping : float
        Share of the mean of the diagonal that is added to it.
    order : str
        "activation" (columns of large diagonal entries first) or "natural".

    Returns
    -------
    (R, C) uint8
    """
    columns = len(gram)
    weights, matrix = damped(target, gram, damping)
    order_of = visiting(matrix, order)
    inverse = np.linalg.inv(matrix[np.ix_(order_of, order_of)])
    factor = np.linalg.cholesky(inverse).T  # upper triangular, factor^T factor = inverse
    weights = weights[:, order_of]
    labels = np.zeros(weights.shape, np.uint8)
    for position, column in enumerate(order_of):
        x = weights[:, position].copy()
        chosen = nearest(values, x, column, columns)
        error = (x - level(values, chosen, column, columns)) / factor[position, position]
        weights[:, position:] -= np.outer(error, factor[position, position:])
        labels[:, column] = chosen
    return labels


def babai_reference(
    target: Floats, gram: Floats, values: Floats, *, damping: float = 0.01, order: str = "activation"
) -> NDArray[np.uint8]:
    """Return the labels of the nearest-plane algorithm; arguments as for `gptq_reference`."""
    columns = len(gram)
    weights, matrix = damped(target, gram, damping)
    order_of = visiting(matrix, order)
    upper = np.linalg.cholesky(matrix[np.ix_(order_of, order_of)][::-1, ::-1])[::-1, ::-1]  # upper upper^T = matrix
    labels, errors = np.zeros(weights.shape, np.uint8), np.zeros(weights.shape)
    for position, column in enumerate(order_of):
        before = errors[:, :position] @ upper[:position, position]
        x = weights[:, column] - before / upper[position, position]
        chosen = nearest(values, x, column, columns)
        errors[:, position] = level(values, chosen, column, columns) - weights[:, column]
        labels[:, column] = chosen
    return labels
