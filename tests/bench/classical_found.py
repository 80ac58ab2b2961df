"""What all methods share: what they return, how they refuse, and models of two labels as polynomials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Unsuitable(Exception):  # noqa: N818 - not an error
    """A method does not apply to a model; the message says why."""


@dataclass
class Found:
    """What a method returns: labels if it found any, a bound if it has one, and whether it says it is done."""

    labels: np.ndarray | None
    bound: float | None = None
    proved: bool = False
    build: float = 0.0
    #: seconds that our solvers report for their own steps
    own: float | None = None


class Quadratic(NamedTuple):
    """An energy `constant + sum_i linear_i x_i + sum_ij quadratic_ij x_i x_j` of binary variables."""

    linear: np.ndarray
    edges: np.ndarray
    quadratic: np.ndarray
    constant: float


def quadratic_form(problem: Any) -> Quadratic:
    """Return a pairwise model of two labels as a polynomial."""
    tables, unary = two_label_costs(problem)
    edges = problem.edges.numpy()
    n, linear = len(unary), unary[:, 1] - unary[:, 0]
    linear = linear + np.bincount(edges[:, 0], tables[:, 1, 0] - tables[:, 0, 0], n)
    linear = linear + np.bincount(edges[:, 1], tables[:, 0, 1] - tables[:, 0, 0], n)
    quadratic = tables[:, 0, 0] + tables[:, 1, 1] - tables[:, 0, 1] - tables[:, 1, 0]
    return Quadratic(linear, edges, quadratic, float(unary[:, 0].sum() + tables[:, 0, 0].sum()))


def two_label_costs(problem: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the (m, 2, 2) tables and (n, 2) unary costs of a model that has two labels everywhere, none forbidden."""
    if not hasattr(problem, "edge_tables") or problem.shape[1] != 2:
        raise Unsuitable("not a pairwise model of two labels")
    tables, unary = problem.edge_tables().double().numpy(), problem.unary.double().numpy()
    if not (np.isfinite(tables).all() and np.isfinite(unary).all()):
        raise Unsuitable("forbidden labels")
    return tables, unary
