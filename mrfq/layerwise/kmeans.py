"""Plain k-means of many points, with a repair of empty clusters that always ends."""

from __future__ import annotations

import torch
from torch import Tensor

from mrfq.layerwise.vector_kernels import nearest_centres, shorten

#: points per centre among which the first centres are drawn
SAMPLED = 256
#: rounds, and the relative gain of a round from which on more are not worth it
ROUNDS, LEAST_GAIN = 60, 1e-4


def kmeans(points: Tensor, count: int, generator: torch.Generator, *, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Return a local optimum of the sum of squared distances to the nearest of `count` centres.

    Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii, SODA 2007). A cluster that loses all its points
    gets half of the most populated one that has different points. Memory is of the order of the points'.

    Parameters
    ----------
    points : Tensor, shape (n, d), float32 or float64
    count : int
        K; may exceed the number of distinct points, in which case some centres have no points.
    generator : torch.Generator
    rounds : int
        At most so many.

    Returns
    -------
    centres : Tensor, shape (K, d)
        The means of the points of each cluster.
    labels : Tensor, shape (n,), int64
        The nearest centre of each point.

    Examples
    --------
    >>> points = torch.tensor([[0.0], [0.1], [5.0], [5.2]])
    >>> centres, labels = kmeans(points, 2, torch.Generator().manual_seed(0))
    >>> bool(labels[0] == labels[1] and labels[2] == labels[3] and labels[0] != labels[2])
    True
    """
    points = points.contiguous()
    centres = first_centres(points, count, generator)
    labels, gaps = nearest(points, centres)
    before = torch.inf
    for _ in range(rounds):
        error = float(gaps.sum(dtype=torch.float64))
        repaired = split_for_empty(points, labels, count)
        if not repaired and before - error <= LEAST_GAIN * error:
            break
        before = torch.inf if repaired else error
        centres = means(points, labels, centres)
        labels, gaps = nearest(points, centres)
    return centres, labels


def first_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return centres (K, d) drawn from the points, each with probability proportional to its squared distance.

    Distances are to the nearest centre drawn before. Once every point is a centre, any may be drawn again.
    """
    few = min(len(points), SAMPLED * count)
    sample = points[torch.randperm(len(points), generator=generator)[:few]]
    gaps = torch.full((few,), torch.inf, dtype=points.dtype)
    uniforms = torch.rand(count, generator=generator, dtype=torch.float64)
    centres = sample.new_empty(count, points.shape[1])
    for a in range(count):
        mass = gaps.cumsum(0, dtype=torch.float64)
        if a == 0 or float(mass[-1]) == 0.0:
            chosen = int(uniforms[a] * few)
        else:
            chosen = min(int(torch.searchsorted(mass, uniforms[a] * mass[-1], right=True)), few - 1)
        centres[a] = sample[chosen]
        shorten(gaps.numpy(), sample.numpy(), centres[a].numpy())
    return centres


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each point, (n,) int64, and the squared distance to it, (n,)."""
    labels, gaps = torch.empty(len(points), dtype=torch.int64), points.new_empty(len(points))
    transposed = centres.T.contiguous()
    nearest_centres(points.numpy(), transposed.numpy(), labels.numpy(), gaps.numpy())
    return labels, gaps


def means(points: Tensor, labels: Tensor, fallback: Tensor) -> Tensor:
    """Return the mean of the points of each label, and the row of `fallback` (K, d) for labels without points."""
    sums = torch.zeros(fallback.shape, dtype=torch.float64).index_add_(0, labels, points.double())
    counts = torch.bincount(labels, minlength=len(fallback))[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), fallback.double()).to(fallback.dtype)


def split_for_empty(points: Tensor, labels: Tensor, count: int) -> int:
    """Give every label without points a part of the most populated cluster, in place; return how many were helped.

    The cluster is cut in two across the direction of its farthest point. One whose points are all the same cannot be
    cut; when only such are left, the remaining labels stay empty. Every turn of the loop fills a label or strikes off
    a cluster, so that it ends.
    """
    sizes = torch.bincount(labels, minlength=count)
    empty = (sizes == 0).nonzero()[:, 0].tolist()
    helped = 0
    while empty and int(sizes.max()) > 1:
        largest = int(sizes.argmax())
        members = (labels == largest).nonzero()[:, 0]
        far = _far_half(points[members])
        if not bool(far.any()) or bool(far.all()):
            sizes[largest] = 0
            continue
        label = empty.pop()
        labels[members[far]] = label
        sizes[label] = int(far.sum())
        sizes[largest] -= sizes[label]
        helped += 1
    return helped


def _far_half(points: Tensor) -> Tensor:
    """Return which points lie beyond the mean in the direction of the point that is farthest from it."""
    around = points - points[0]  # exactly 0 for equal points, whatever their mean is rounded to
    around = around - around.mean(0)
    direction = around[around.square().sum(1).argmax()]
    return (around @ direction) > 0
