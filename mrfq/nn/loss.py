"""`NetworkLoss`: the loss of a network as a labelling problem."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.labels import LabelSet
from mrfq.nn.batch_norm import reestimate
from mrfq.nn.data import Batch, as_batches, to_device
from mrfq.nn.selection import Choice, Levels, assign_levels, choose, segments

LossFunction = Callable[[Any, Any], Tensor]
DROPOUT = nn.modules.dropout._DropoutNd
#: inputs times labellings evaluated at once by `energies`
BATCH_OF_ENERGIES = 2**17


class NetworkLoss:
    """The loss of a network whose weights take discrete levels: every weight a variable, every level a label.

    The relaxed energy at u is the loss of the network with the mean weights `w = u q`, and its gradient is
    `g = g_w q^T`, one backward pass. It is not multilinear: the linearisation is local.

    Parameters
    ----------
    model : nn.Module
        Copied; the original is never changed.
    loss : callable
        `loss(outputs, targets)`, the mean over the batch.
    data : (inputs, targets), DataLoader or list of batches
    labels : str, sequence of float, or mapping
        "binary", "ternary", "2bit"..., or ascending levels, for all parameters; or a mapping from names or shell
        patterns of parameters to either.
    parameters : sequence of str, callable, optional
        What to label (see `mrfq.nn.selection.choose`); by default everything except normalisation layers.
    scale : {None, "tensor"}
        None: weights are the levels themselves (batch norm absorbs a scale). "tensor": levels times one positive
        factor per parameter, fitted to the float weights by least squares.
    batch_size : int, optional
        For data given as tensors; left out, every gradient uses all of them.
    stochastic : bool, optional
        Whether one oracle call sees one batch. By default yes if there is more than one; False adds up the
        gradients of all batches.
    mode : {"train", "eval"}
        "train": batch norm uses the statistics of the batch, dropout is active in gradients (never in
        energies). "eval": the network as it is deployed.
    probes : int
        Random vectors of the estimate of the curvature.
    seed : int
        Of the order of the batches, of dropout and of the probes.

    Raises
    ------
    InvalidProblemError, InvalidParameterError, UnknownNameError
        Data, labels or parameters that do not fit; the message says which.

    Notes
    -----
    Oracle calls: one per batch. A full energy of a stochastic problem is charged one call per batch. Memory
    beside the network: u and its gradient, two arrays of shape (n, L).

    Examples
    --------
    >>> import mrfq
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    >>> inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    >>> problem = NetworkLoss(model, nn.functional.cross_entropy, (inputs, (inputs[:, 0] > 0).long()))
    >>> solution = mrfq.solve(problem, "pmf", max_iters=20)
    >>> binary = problem.network(solution.labels)
    >>> sorted(set(binary[0].weight.flatten().tolist()))
    [-1.0, 1.0]
    """

    #: the loop evaluates such a problem less often
    costly = True

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        data: Any,
        *,
        labels: Levels | Mapping[str, Levels] = "binary",
        parameters: Choice = None,
        scale: Literal["tensor"] | None = None,
        batch_size: int | None = None,
        stochastic: bool | None = None,
        mode: Literal["train", "eval"] = "train",
        probes: int = 4,
        seed: int = 0,
    ) -> None:
        if scale not in (None, "tensor"):
            raise InvalidParameterError(f"scale must be None or 'tensor', got {scale!r}")
        if mode not in ("train", "eval"):
            raise InvalidParameterError(f"mode must be 'train' or 'eval', got {mode!r}")
        self.model = copy.deepcopy(model).train(mode == "train")
        self.loss, self.mode, self.probes, self.seed = loss, mode, probes, seed
        self.batches = as_batches(data, batch_size, seed)
        self.stochastic = self.batches.count > 1 if stochastic is None else stochastic and self.batches.count > 1
        chosen = choose(self.model, parameters)
        levels = assign_levels(list(chosen), labels)
        self.segments = segments(chosen, levels)
        self._parameters = list(chosen.values())
        first = self._parameters[0]
        if any(p.dtype != first.dtype or p.device != first.device for p in self._parameters):
            raise InvalidProblemError("all labelled parameters must have one dtype and be on one device")
        self._dtype, self._device = first.dtype, first.device
        sizes = [s.stop - s.start for s in self.segments]
        if len({tuple(row) for row in levels}) == 1:
            levels, sizes = levels[:1], [sum(sizes)]
        self.label_set = LabelSet(levels, sizes, dtype=self._dtype, device=self._device)
        self._scaled = scale == "tensor"
        self._float = torch.cat([p.detach().flatten().clone() for p in self._parameters])
        self._original = {name: value.clone() for name, value in self.model.state_dict().items()}

    # ---- what every problem has -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Number of labelled weights and largest number of levels."""
        return self.label_set.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._device

    @property
    def energy_calls(self) -> int:
        """Oracle calls charged for a full energy."""
        return self.batches.count if self.stochastic else 1

    @property
    def curvature_calls(self) -> int:
        """Oracle calls charged for a curvature: each probe is a backward pass through a backward pass."""
        return 2 * self.probes * self.energy_calls

    def energy(self, labels: Tensor) -> float:
        """Return the loss over all the data of the network with these labels, without dropout."""
        self._load(self._scale(self.label_set.decode(labels)))
        return self._full_loss()

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss at the mean weights and its gradient (n, L), on one batch or all (see `Problem`)."""
        self._load(self._scale(self.label_set.mean(u)))
        with self._randomness(draw):
            if draw is None or not self.stochastic:
                value, gradient = self._full_gradient()
            else:
                value, gradient = self._gradient(self.batches.shuffled(draw))
        return value, self.label_set.lift(self._scale(gradient))

    def initial(self) -> Tensor:
        """Return the float weights as a relaxed labelling (n, L): each between its two neighbouring levels.

        Weights are taken in units of the best-fitting scale of their tensor, so that rounding this start is
        nearest-level rounding.
        """
        parts = zip(self._float.split(self._lengths), self.segments, strict=True)
        return self.label_set.interpolate(torch.cat([part / segment.scale for part, segment in parts]))

    # ---- optional capabilities --------------------------------------------------------------------------

    def energies(self, labels: Tensor) -> Tensor:
        """Return the losses of k labellings, shape (k, n); at once where the network has no state of its own."""
        if any(True for _ in self.model.buffers()) or any(isinstance(m, DROPOUT) for m in self.model.modules()):
            return torch.tensor([self.energy(row) for row in labels], dtype=torch.float64)
        values = self._scale(self.label_set.decode(labels))
        total = torch.zeros(len(labels), dtype=torch.float64, device=self._device)
        for inputs, targets, weight in self._weighted():

            def one(row: Tensor, inputs: Any = inputs, targets: Any = targets) -> Tensor:
                outputs = torch.func.functional_call(self.model, self._named(row), (inputs,))
                return self.loss(outputs, targets)

            size = max(1, BATCH_OF_ENERGIES // max(_length(targets), 1))
            with torch.no_grad():
                total += weight * torch.vmap(one, chunk_size=size)(values).double()
        return total

    def curvature(self, labels: Tensor) -> Tensor:
        """Return Hutchinson's estimate of the diagonal of the Hessian, (n,), in units of the levels."""
        self._load(self._scale(self.label_set.decode(labels)))
        generator = torch.Generator().manual_seed(self.seed)
        diagonal = torch.zeros_like(self._float)
        for inputs, targets, weight in self._weighted():
            loss = self.loss(self.model(inputs), targets)
            gradient = _flat(torch.autograd.grad(loss, self._parameters, create_graph=True))
            for _ in range(self.probes):
                signs = torch.randint(0, 2, diagonal.shape, generator=generator).to(diagonal) * 2 - 1
                product = torch.autograd.grad(gradient @ signs, self._parameters, retain_graph=True)
                diagonal += weight / self.probes * signs * _flat(product)
        return self._scale(self._scale(diagonal))

    # ---- between labels and networks --------------------------------------------------------------------

    def state_dict(self, labels: Tensor) -> dict[str, Tensor]:
        """Return the state of the original network with its labelled weights replaced by levels."""
        values = self._scale(self.label_set.decode(self.label_set.check(labels)))
        state = {name: value.clone() for name, value in self._original.items()}
        found = {id(p): value for p, value in zip(self._parameters, self._named(values).values(), strict=True)}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):  # tied weights have several names
            if id(parameter) in found:
                state[name] = found[id(parameter)].clone()
        return state

    def labels_of(self, state: Mapping[str, Tensor], *, exact: bool = True) -> Tensor:
        """Return the labels of a state: the inverse of `state_dict`.

        Raises
        ------
        InvalidProblemError
            A parameter is missing, has another shape or, if `exact`, a weight that is no level.
        """
        parts = []
        for segment in self.segments:
            weights = state.get(segment.name)
            if weights is None or weights.shape != segment.shape:
                found = "is missing" if weights is None else f"has shape {tuple(weights.shape)}"
                raise InvalidProblemError(f"{segment.name!r} {found}, expected {tuple(segment.shape)}")
            parts.append(weights.flatten().to(self._device, self._dtype) / (segment.scale if self._scaled else 1.0))
        values = torch.cat(parts)
        labels = self.label_set.nearest(values)
        off = (self.label_set.decode(labels) - values).abs() > 1e-5 * (1 + values.abs())
        if exact and bool(off.any()):
            i = int(off.nonzero()[0])
            name = next(s.name for s in self.segments if i < s.stop)
            raise InvalidProblemError(f"{int(off.sum())} weights are not levels, the first one in {name!r}")
        return labels

    def network(self, labels: Tensor, *, reestimate_batch_norm: bool = True) -> nn.Module:
        """Return a copy of the network with these labels, in evaluation mode.

        Its batch-norm statistics are re-estimated on the training data, or left as those of the original.
        """
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.state_dict(labels))
        if reestimate_batch_norm:
            reestimate(model, self.batches)
        return model.eval()

    # ---- inside -----------------------------------------------------------------------------------------

    @property
    def _lengths(self) -> list[int]:
        return [s.stop - s.start for s in self.segments]

    def _scale(self, values: Tensor) -> Tensor:
        """Multiply each segment of (..., n) values by its scale; the same map takes gradients back."""
        if not self._scaled:
            return values
        parts = zip(values.split(self._lengths, -1), self.segments, strict=True)
        return torch.cat([part * segment.scale for part, segment in parts], -1)

    def _named(self, values: Tensor) -> dict[str, Tensor]:
        parts = zip(values.split(self._lengths), self.segments, strict=True)
        return {segment.name: part.reshape(segment.shape) for part, segment in parts}

    @torch.no_grad()
    def _load(self, values: Tensor) -> None:
        for parameter, part in zip(self._parameters, values.split(self._lengths), strict=True):
            parameter.copy_(part.view_as(parameter))

    def _batch(self, batch: Batch) -> Batch:
        return to_device(batch[0], self._device), to_device(batch[1], self._device)

    def _weighted(self) -> Iterator[tuple[Any, Any, float]]:
        """Iterate over all batches with their share of the data."""
        for batch, weight in zip(self.batches, self._shares, strict=True):
            inputs, targets = self._batch(batch)
            yield inputs, targets, weight

    @cached_property
    def _shares(self) -> list[float]:
        """The share of the data of each batch of the fixed order; counting them takes a pass, so only once."""
        if self.batches.count == 1:
            return [1.0]
        sizes = [_length(targets) for _, targets in self.batches]
        return [size / sum(sizes) for size in sizes]

    def _gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets = self._batch(batch)
        loss = self.loss(self.model(inputs), targets)
        return loss.detach(), _flat(torch.autograd.grad(loss, self._parameters))

    def _full_gradient(self) -> tuple[Tensor, Tensor]:
        value, gradient = torch.zeros((), dtype=self._dtype, device=self._device), torch.zeros_like(self._float)
        for inputs, targets, weight in self._weighted():
            part, direction = self._gradient((inputs, targets))
            value, gradient = value + weight * part, gradient.add_(direction, alpha=weight)
        return value, gradient

    @torch.no_grad()
    def _full_loss(self) -> float:
        dropouts = [m for m in self.model.modules() if isinstance(m, DROPOUT) and m.training]
        for module in dropouts:
            module.eval()
        total = sum(w * float(self.loss(self.model(x), y)) for x, y, w in self._weighted())
        for module in dropouts:
            module.train()
        return float(total)

    @contextmanager
    def _randomness(self, draw: int | None) -> Iterator[None]:
        """Let dropout depend on the number of the draw alone, and leave the global generators as they were."""
        if self.mode == "eval" or not any(isinstance(m, DROPOUT) for m in self.model.modules()):
            yield
            return
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed * 1_000_003 + (0 if draw is None else draw + 1))
            yield


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def _length(targets: Any) -> int:
    return len(targets) if hasattr(targets, "__len__") else 1
