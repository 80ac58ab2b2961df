"""Seeded toy models: the same seed gives the same model on every machine."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch

from mrfq.errors import InvalidParameterError
from mrfq.problems.pairwise import PairwiseMRF
from mrfq.problems.tables import grid_edges, potts


def spin_glass(height: int = 16, width: int = 16, *, field: float = 0.0, seed: int = 0) -> PairwiseMRF:
    """Return an Ising spin glass on a grid: couplings N(0, 1), fields N(0, field).

    Frustrated: message passing and mean-field struggle, annealing does well.

    Examples
    --------
    >>> spin_glass(4, 4, seed=1).shape
    (16, 2)
    """
    random = np.random.default_rng(seed)
    edges = grid_edges(height, width)
    couplings = random.standard_normal(len(edges))
    fields = field * random.standard_normal(height * width)
    return PairwiseMRF.ising(fields, couplings, edges)


def ferromagnet(
    height: int = 16, width: int = 16, *, coupling: float = 1.0, field: float = 1.0, seed: int = 0
) -> PairwiseMRF:
    """Return a ferromagnetic Ising grid with random fields N(0, field): submodular, so graph cuts are exact."""
    if coupling < 0:
        raise InvalidParameterError(f"a ferromagnet needs a coupling of at least 0, got {coupling}")
    random = np.random.default_rng(seed)
    return PairwiseMRF.ising(field * random.standard_normal(height * width), coupling, grid_edges(height, width))


def dense_ising(n: int = 16, *, field: float = 0.0, seed: int = 0) -> PairwiseMRF:
    """Return the Sherrington-Kirkpatrick model: every pair coupled by N(0, 1 / n)."""
    random = np.random.default_rng(seed)
    edges = np.stack(np.triu_indices(n, 1), 1)
    couplings = random.standard_normal(len(edges)) / np.sqrt(n)
    return PairwiseMRF.ising(field * random.standard_normal(n), couplings, edges)


def potts_grid(
    height: int = 16, width: int = 16, labels: int = 4, *, weight: float = 1.0, seed: int = 0
) -> PairwiseMRF:
    """Return a Potts grid with unary costs uniform on [0, 1]: no structure in the data, hard."""
    random = np.random.default_rng(seed)
    return PairwiseMRF.potts_grid(random.random((height, width, labels)), weight)


def denoising(
    height: int = 32,
    width: int = 32,
    labels: int = 4,
    *,
    noise: float = 0.3,
    weight: float = 1.0,
    table: str = "potts",
    seed: int = 0,
) -> PairwiseMRF:
    """Return a model that restores an image of random discs from noisy observations.

    Parameters
    ----------
    height, width : int
        In pixels.
    labels : int
        Grey levels; the true image is piecewise constant.
    noise : float
        Standard deviation of the observation noise, in units of the grey range.
    weight : float
        Of the smoothness term.
    table : {"potts", "truncated-linear"}
    seed : int
    """
    if table not in ("potts", "truncated-linear"):
        raise InvalidParameterError(f"table must be 'potts' or 'truncated-linear', got {table!r}")
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    truth = np.zeros((height, width), dtype=int)
    for _ in range(2 * labels):
        y, x = random.random() * height, random.random() * width
        radius = (0.1 + 0.2 * random.random()) * min(height, width)
        truth[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = random.integers(labels)
    step = max(labels - 1, 1)
    observed = truth + noise * step * random.standard_normal(truth.shape)
    unary = (np.arange(labels) - observed[..., None]) ** 2 / (noise * step) ** 2
    if table == "potts":
        return PairwiseMRF.potts_grid(unary, weight)
    return PairwiseMRF.truncated_linear_grid(unary, weight, limit=max(1.0, labels / 4))


def chain(n: int = 20, labels: int = 4, *, seed: int = 0) -> PairwiseMRF:
    """Return a chain with random unary costs and a random table per edge."""
    random = np.random.default_rng(seed)
    edges = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
    return _random(n, labels, edges, random)


def tree(n: int = 20, labels: int = 4, *, seed: int = 0) -> PairwiseMRF:
    """Return a random labelled tree with random unary costs and a random table per edge."""
    graph = nx.random_labeled_tree(n, seed=seed)
    return _random(n, labels, np.array(graph.edges).reshape(-1, 2), np.random.default_rng(seed))


def frustrated_cycle(n: int = 5, *, coupling: float = 1.0, field: float = 0.1, seed: int = 0) -> PairwiseMRF:
    """Return an odd number of antiferromagnetic couplings in a ring: not all edges can be satisfied.

    Linear-programming bounds are loose on it.
    """
    if n < 3:
        raise InvalidParameterError(f"a cycle needs at least 3 variables, got {n}")
    random = np.random.default_rng(seed)
    edges = np.stack([np.arange(n), (np.arange(n) + 1) % n], 1)
    couplings = np.full(n, coupling)
    couplings[0 if n % 2 == 0 else slice(None)] *= -1  # an odd number of negative couplings
    return PairwiseMRF.ising(field * random.standard_normal(n), couplings, edges)


def potts_graph(n: int = 20, labels: int = 3, *, degree: int = 4, seed: int = 0) -> PairwiseMRF:
    """Return a Potts model with weights N(0, 1) on a random regular graph."""
    random = np.random.default_rng(seed)
    edges = np.array(nx.random_regular_graph(degree, n, seed=seed).edges).reshape(-1, 2)
    weights = random.standard_normal(len(edges))
    return PairwiseMRF(torch.from_numpy(random.random((n, labels))), edges, potts(labels), weights=weights)


def _random(n: int, labels: int, edges: np.ndarray, random: np.random.Generator) -> PairwiseMRF:
    unary = random.standard_normal((n, labels))
    tables = random.standard_normal((len(edges), labels, labels))
    return PairwiseMRF(unary, edges, tables if len(edges) else None)


#: by name, for suites and the command line
GENERATORS = {
    "spin-glass": spin_glass,
    "ferromagnet": ferromagnet,
    "dense-ising": dense_ising,
    "potts-grid": potts_grid,
    "potts-graph": potts_graph,
    "denoising": denoising,
    "chain": chain,
    "tree": tree,
    "frustrated-cycle": frustrated_cycle,
}
