r"""Fitting a vector codebook to a layer: blocks of d weights of a row become one of K codewords each.

The unary fit is that of "And the bit goes down" (Stock et al., ICLR 2020): every block by itself, all in one metric G.
The coupled fit minimises the output error :math:`\sum_r (q_r - t_r) H (q_r - t_r)^T` of whole rows, in turns: labels by
annealed mean-field and ICM, codewords by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.layerwise.codeword_refit import refit_codewords
from mrfq.layerwise.kmeans import kmeans, means
from mrfq.layerwise.spec import VectorSpec
from mrfq.problems.block_sweeps import BlockRows, own_costs
from mrfq.problems.gram_checks import check_gram, check_matrix, whitening

Assign = Literal["unary", "coupled"]
#: eigenvalues of the metric of the unary fit are raised to this part of the largest
FLOOR = 1e-6
#: inverse temperature of mean-field, in units of one over the mean error of a block: first and last sweep
FIRST, LAST = 0.5, 20.0
#: re-fits after each mean-field, sweeps of ICM after each re-fit and at the end
REFITS, FEW, MANY = 2, 3, 20


@dataclass(frozen=True, eq=False)
class Codebook:
    """A layer made of codewords.

    Attributes
    ----------
    codewords : Tensor, shape (K, d), float16 or float32
        As they are stored.
    labels : Tensor, shape (R, C / d), int64
    energy : float
        Sum over the rows of `(q - t) H (q - t)^T`.
    """

    codewords: Tensor
    labels: Tensor
    energy: float

    def decode(self) -> Tensor:
        """Return the weights (R, C), float32."""
        return self.codewords.float()[self.labels].flatten(1)


def fit_codebook(
    target: Tensor,
    gram: Tensor,
    spec: VectorSpec,
    *,
    seed: int = 0,
    assign: Assign = "coupled",
    rounds: int = 2,
    sweeps: int = 20,
) -> Codebook:
    """Return codewords and labels for a layer.

    Parameters
    ----------
    target : Tensor, shape (R, C)
        The weights to come close to.
    gram : Tensor, shape (C, C)
        Positive semi-definite H; may be singular.
    spec : VectorSpec
        Width d of a block, which divides C, number and precision of the codewords. The number is clamped to the
        largest power of two up to a quarter of the blocks.
    seed : int
    assign : {"coupled", "unary"}
        What labels minimise: the error of whole rows, or of each block by itself in the mean of the diagonal blocks of
        H (k-means in the whitened space). The coupled fit starts at the unary one.
    rounds : int
        Of the coupled fit: an annealed mean-field and two re-fits each. 0 leaves the codewords of the unary fit and
        improves its labels by ICM.
    sweeps : int
        Of a mean-field run.

    Returns
    -------
    Codebook

    Raises
    ------
    InvalidParameterError
        d does not divide C, negative rounds, an unknown `assign`.
    InvalidProblemError
        Wrong shapes, numbers that are not finite, H not positive semi-definite, codewords beyond the range of float16.

    Notes
    -----
    The coupled energy never rises along the fit, so it ends at or below that of the unary fit. Memory is of the order
    of the weights and of H.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> target, inputs = (torch.randn(shape, generator=generator) for shape in ((32, 16), (20, 16)))
    >>> gram, spec = inputs.T @ inputs, VectorSpec(dim=4, count=16)
    >>> unary, coupled = (fit_codebook(target, gram, spec, assign=how) for how in ("unary", "coupled"))
    >>> coupled.energy < unary.energy
    True
    """
    if assign not in get_args(Assign):
        raise InvalidParameterError(f"assign must be one of {', '.join(get_args(Assign))}, got {assign!r}")
    if rounds < 0 or sweeps < 1:
        raise InvalidParameterError(f"rounds must be at least 0 and sweeps at least 1, got {rounds} and {sweeps}")
    layer = _Layer.of(target, gram, spec)
    spec = spec.clamped(layer.target.numel() // spec.dim)
    point = layer.unary(spec.count, torch.Generator().manual_seed(seed))
    if assign == "unary":
        return layer.finish(point, spec, polish=False)
    for _ in range(rounds):
        point = layer.improve(point, sweeps)
    return layer.finish(point, spec, polish=True)


@dataclass(eq=False)
class _Point:
    """Codewords (K, d) and labels (R, P)."""

    codewords: Tensor
    labels: Tensor

    def values(self) -> Tensor:
        return self.codewords[self.labels].flatten(1)


@dataclass(eq=False)
class _Layer:
    """A layer in single precision, with the diagonal blocks (P, d, d) of its Gram matrix."""

    target: Tensor
    gram: Tensor
    diagonal: Tensor

    @classmethod
    def of(cls, target: Tensor, gram: Tensor, spec: VectorSpec) -> _Layer:
        rows = check_matrix("target", target, torch.float32)
        spec.blocks(*rows.shape)
        metric = check_gram("gram", gram, rows.shape[1], torch.float32)[0]
        parts = [metric[i : i + spec.dim, i : i + spec.dim] for i in range(0, len(metric), spec.dim)]
        return cls(rows, metric, torch.stack(parts))

    def unary(self, count: int, generator: torch.Generator) -> _Point:
        """Return the k-means of all blocks in the mean of the metrics of the positions."""
        blocks = self.target.view(-1, self.diagonal.shape[1])
        white = whitening(self.diagonal.double().mean(0), FLOOR)
        scale = white.norm() if float(white.norm()) > 0 else 1.0
        points = (blocks.double() @ (white / scale)).float()
        _, labels = kmeans(points, count, generator)
        codewords = means(blocks, labels, blocks[:1].expand(count, -1))
        return _Point(codewords, labels.view(len(self.target), -1))

    def row_energies(self, values: Tensor) -> Tensor:
        """Return the energy of each row of values (R, C), float64."""
        error = values - self.target
        return ((error @ self.gram) * error).sum(1, dtype=torch.float64)

    def improve(self, point: _Point, sweeps: int) -> _Point:
        """Return better labels by mean-field, row by row where they are, then re-fitted codewords."""
        found = self.mean_field(point, sweeps)
        better = self.row_energies(found.values()) < self.row_energies(point.values())
        point = _Point(point.codewords, torch.where(better[:, None], found.labels, point.labels))
        for _ in range(REFITS):
            codewords = refit_codewords(point.codewords, point.labels, self.target, self.gram, self.diagonal)
            point = self.icm(_Point(codewords, point.labels), FEW)
        return point

    def mean_field(self, point: _Point, sweeps: int) -> _Point:
        """Return the labels of an annealed mean-field that starts at the target, where the error is 0."""
        codewords = point.codewords
        rows = self._rows(codewords, self.target.clone(), torch.zeros_like(self.target))
        labels = torch.full_like(point.labels, -1)
        sharpness = self._sharpness(point)
        for t in torch.linspace(0, 1, sweeps).tolist():
            rows.visit(labels, "softmax", FIRST * (LAST / FIRST) ** t * sharpness)
        return self.icm(_Point(codewords, labels), FEW)

    def icm(self, point: _Point, sweeps: int) -> _Point:
        """Return the labels after sweeps of ICM, fewer if nothing changes any more."""
        values, labels = point.values(), point.labels.clone()
        rows = self._rows(point.codewords, values, (values - self.target) @ self.gram)
        still = torch.ones(len(self.diagonal))
        for _ in range(sweeps):
            if not bool(rows.visit(labels, "argmin", still)[:, 1].any()):
                break
        return _Point(point.codewords, labels)

    def finish(self, point: _Point, spec: VectorSpec, *, polish: bool) -> Codebook:
        """Return the codebook in the precision in which it is stored."""
        stored = point.codewords.to(spec.dtype)
        if not bool(stored.isfinite().all()):
            largest = float(point.codewords.abs().amax())
            raise InvalidProblemError(
                f"codewords of up to {largest:.3g} exceed the range of float16; use precision F32"
            )
        point = _Point(stored.float(), point.labels)
        if polish:
            point = self.icm(point, MANY)
        error = (point.values() - self.target).double()
        return Codebook(stored, point.labels, float(((error @ self.gram.double()) * error).sum()))

    def _rows(self, codewords: Tensor, mean: Tensor, pull: Tensor) -> BlockRows:
        own = own_costs(self.diagonal, codewords)
        return BlockRows(mean, pull, self.gram, self.diagonal, codewords, own)

    def _sharpness(self, point: _Point) -> Tensor:
        """Return one over the mean error of the blocks at each position, (P,); 1 where there is none."""
        error = (point.values() - self.target).view(len(self.target), *self.diagonal.shape[:2])
        mean = torch.einsum("rpi,pij,rpj->p", error, self.diagonal, error) / len(error)
        return torch.where(mean > 0, 1 / mean, 1.0)
