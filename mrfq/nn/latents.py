"""The latent of one quantized parameter: how gradients reach it, and how the weights follow from it.

`ScalarLatent` keeps one number a weight, whatever the number of labels; `SimplexLatent` one score per label, for
projections that cannot do with less (sparsemax with three labels and more).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError, MrfqError
from mrfq.labels import LabelSet
from mrfq.nn.grids import Grid, attach
from mrfq.nn.methods import Method
from mrfq.nn.scaling import Scale, fit_scales, rows_of
from mrfq.projections import Projection, ScalarProjection, Softmax
from mrfq.projections.intervals import locate
from mrfq.projections.scalar import ScalarPull

#: a weight this near to a level, in units of half the distance to the next, counts as discrete
NEAR = 1e-3
#: a parameter of more weights than this, for each thread of a CPU, is handled in parts of so many
WHOLE, PART = 2**18, 2**16
#: the same for a GPU
LARGE_PART = 2**24


class Latent(ABC):
    """A parameter, its latent `v` (what the base optimiser moves) and the scales of its levels.

    Parameters
    ----------
    parameter : Tensor
    levels : list of float
    method : Method
    scale : {None, "tensor", "channel"} or int
    """

    v: Tensor
    #: the weights, while the network has its rounded ones
    relaxed: Tensor | None = None

    def __init__(self, parameter: Tensor, levels: list[float], method: Method, scale: Scale) -> None:
        self.parameter, self.levels, self.method = parameter, levels, method
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        self.labels = LabelSet.shared(levels, parameter.numel(), dtype=dtype, device=parameter.device)
        self.projection: Projection = method.fit(self.labels)
        self.rows = rows_of(parameter.shape, scale)
        weights = parameter.detach().to(dtype)
        fitted = fit_scales(weights.reshape(self.rows, -1), self.labels)
        #: (rows,) factors of the levels, or None
        self.scales = None if scale is None else fitted
        self._start(weights, fitted)

    @abstractmethod
    def _start(self, weights: Tensor, fitted: Tensor) -> None:
        """Place the latent at float weights, whose best-fitting scales are given."""

    @abstractmethod
    def receive(self, beta: float) -> None:
        """Turn the gradient of the parameter into that of the latent, and place the latent where the step starts."""

    @abstractmethod
    def project(self, beta: float, mixing: float = 1.0) -> None:
        """Set the weights to what the latent stands for, or move them the share `mixing` of the way."""

    @abstractmethod
    def label(self) -> Tensor:
        """Return the labels of the rounded parameter, int64 in its shape."""

    @abstractmethod
    def entropy(self) -> tuple[Tensor, Tensor]:
        """Return the sum of the entropies of the weights in nats, and the number of weights at a level."""

    @abstractmethod
    def refit(self) -> None:
        """Fit the scales to the latents again, by least squares."""

    def state(self) -> dict[str, Any]:
        """Return what `fill` needs."""
        found = {"v": self.v.detach(), "scales": self.scales}
        if self.method.mixing != 1:
            found["weights"] = self._memory()
        return found

    def _memory(self) -> Tensor:
        """Return what mixing begins with at the next step."""
        return self.parameter.detach() if self.relaxed is None else self.relaxed

    def _remember(self, weights: Tensor) -> None:
        self.parameter.copy_(weights)

    def fill(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises
        ------
        InvalidProblemError
            A state of another shape.
        """
        if state["v"].shape != self.v.shape:
            raise InvalidProblemError(
                f"load_state_dict: a latent of shape {tuple(state['v'].shape)} in the state, here {tuple(self.v.shape)}"
            )
        self.v.copy_(state["v"])
        if self.scales is not None:
            self.scales.copy_(state["scales"])
        if "weights" in state:
            self._remember(state["weights"])

    @property
    def grid(self) -> Grid:
        """The values that the rounded parameter may have."""
        scales = None if self.scales is None else self.scales.detach().clone()
        return Grid(tuple(self.levels), scales, self.labels.levels.dtype)

    def discretise(self) -> None:
        """Set the weights to the nearest values of the grid, check them, and note the grid on the parameter."""
        grid = self.grid
        self.parameter.copy_(grid.decode(self.label(), tuple(self.parameter.shape), self.parameter.dtype))
        if not grid.exact(self.parameter):
            raise MrfqError(f"a parameter of shape {tuple(self.parameter.shape)} is not on its levels")
        attach(cast(torch.nn.Parameter, self.parameter), grid)

    def release(self) -> None:
        """Give the parameter the weights again that were put aside."""
        assert self.relaxed is not None
        self.parameter.copy_(self.relaxed)
        self.relaxed = None
        attach(cast(torch.nn.Parameter, self.parameter), None)

    def _gradient(self) -> Tensor | None:
        g = self.parameter.grad
        if g is None:
            return None
        if g.is_sparse:
            raise InvalidParameterError(
                f"the gradient of a quantized parameter of shape {tuple(g.shape)} is sparse; use sparse=False"
            )
        return g

    def _hand_over(self, g: Tensor | None) -> None:
        """Give the latent its gradient, in its own layout: fused optimisers walk through both side by side."""
        self.v.grad = g if g is None or g.stride() == self.v.stride() else torch.empty_like(self.v).copy_(g)


class ScalarLatent(Latent):
    """One number a weight, in units of the weights; the levels are multiples of the scales."""

    def _start(self, weights: Tensor, fitted: Tensor) -> None:
        unscaled = self.scales is None and self.method.starts_at_levels(self.labels)
        self.v = weights / fitted if unscaled else weights.clone()
        shape = self.parameter.shape
        #: scales belong to groups of so many weights, or None where those of a channel share one, or all do
        self._group = None if self.rows == 1 or self.rows == shape[0] else shape.numel() // self.rows
        #: memory for one more number a weight: positions between levels, then the gradient of the latent
        self.buffer = torch.empty_like(self.v) if self._group is None else self.v.new_empty(shape)

    @property
    def _scalar(self) -> ScalarProjection:
        return cast(ScalarProjection, self.projection)

    def _parts(self) -> Iterator[tuple[Any, Tensor | None]]:
        """Yield places along the first dimension, and their scales: taken in turn, temporary tensors stay small."""
        n, count = len(self.parameter) if self.parameter.ndim else 1, self.parameter.numel()
        size = max(_part_size(self.v.device, count) * n // count, 1)
        if size >= n:
            yield ..., self._scales_of(...)
            return
        each = max(self.rows // n, 1)
        for k in range(0, n, size):
            scaled = slice(k * each, (k + size) * each) if self.rows > 1 else ...
            yield slice(k, k + size), self._scales_of(scaled)

    def _scales_of(self, rows: Any) -> Tensor | None:
        """Return scales in the shape in which they meet `_of` the weights."""
        if self.scales is None:
            return None
        if self.rows == 1:
            return self.scales[0]
        return self.scales[rows].view(-1, *[1] * (1 if self._group else self.parameter.ndim - 1))

    def _of(self, values: Tensor, place: Any) -> Tensor:
        """Return the values at a place, (groups, size of a group) if scales belong to groups."""
        part = values if place is ... else values[place]
        return part if self._group is None else part.reshape(-1, self._group)

    def receive(self, beta: float) -> None:
        g = self._gradient()
        if g is None:
            self._hand_over(None)
        elif self.method.pull == "identity":
            self._hand_over(g.to(self.v.dtype))
        else:
            for place, scale in self._parts():
                self._pull(g, place, scale, beta)
            self._hand_over(self.buffer)
        if self.method.carry == "primal":
            self.v.copy_(self.parameter)
        elif self.method.carry == "none" and g is not None:  # a frozen layer keeps its last latent
            self.v.zero_()

    def _pull(self, g: Tensor, place: Any, scale: Tensor | None, beta: float) -> None:
        """Write the gradient of the latent at a place into the buffer."""
        v, w, buffer = (self._of(t, place) for t in (self.v, self.parameter.detach(), self.buffer))
        g = self._of(g, place).to(v.dtype)
        if self.method.pull == "clipped":
            ends = self.labels.ends(g)
            torch.ops.aten.hardtanh_backward.grad_input(g, _over(v, scale), *ends, grad_input=buffer)
            return
        # What `project` has left in the buffer is enough then, and the weights are not looked at. With levels -1 and 1
        # it need not leave anything there: the weights are the positions.
        tells = self._scalar.tells_position
        told = self.method.pull == "surrogate" and tells and self.method.mixing == 1
        told = told and self.labels.shared_levels != (-1.0, 1.0)
        w = v if told else _over(w.to(v.dtype), scale)
        v = _over(v, scale) if self.method.pull == "exact" else v
        position = buffer if told or not tells else None
        kind = cast(ScalarPull, self.method.pull)  # the others are dealt with above, or refused
        pulled = self._scalar.pull_value(kind, g, v, w, beta, self.labels, position=position)
        if pulled is not buffer:
            buffer.copy_(pulled)

    def project(self, beta: float, mixing: float = 1.0) -> None:
        for place, scale in self._parts():
            v, w, buffer = self._of(self.v, place), self.parameter.detach(), self._of(self.buffer, place)
            w = w if place is ... else w[place]
            direct = scale is None and mixing == 1 and w.dtype == v.dtype
            made = self._scalar.value(_over(v, scale), beta, self.labels, out=w if direct else None, position=buffer)
            if direct:
                continue
            made = (made if scale is None else made.mul_(scale)).view(w.shape)
            w.copy_(made if mixing == 1 else w.lerp(made.to(w.dtype), mixing))

    def refit(self) -> None:
        if self.scales is not None:
            self.scales.copy_(fit_scales(self.v.reshape(self.rows, -1), self.labels))

    def label(self) -> Tensor:
        return self.grid.nearest(self.parameter)

    def entropy(self) -> tuple[Tensor, Tensor]:
        w = self._of(self.parameter.detach().to(self.v.dtype), ...)
        z = locate(_over(w, self._scales_of(...)), self.labels).position
        t = 0.5 * (1 + z)
        return (torch.special.entr(t) + torch.special.entr(1 - t)).sum(), (z.abs() > 1 - NEAR).sum()


class SimplexLatent(Latent):
    """One score per label and weight, shape (n, L); the weights are mean levels times the scales."""

    def _start(self, weights: Tensor, fitted: Tensor) -> None:
        kept = self.scales is None and not self.method.starts_at_levels(self.labels)
        place = weights.flatten() if kept else (weights.reshape(self.rows, -1) / fitted[:, None]).flatten()
        if isinstance(self.projection, Softmax):
            q = self.labels.levels[0]
            self.v = place[:, None] * q - 0.5 * q * q  # the largest score is that of the nearest level
        else:
            self.v = self.labels.interpolate(place)
        self.u = self.v

    def _factors(self, values: Tensor) -> Tensor:
        """Multiply (n,) values by the scales of their rows."""
        return values if self.scales is None else (values.view(self.rows, -1) * self.scales[:, None]).flatten()

    def receive(self, beta: float) -> None:
        g = self._gradient()
        if g is None:
            self._hand_over(None)
        else:
            g = g.to(self.v.dtype).flatten()
            lifted, pull = self.labels.lift(self._factors(g)), self.method.pull
            if pull in ("surrogate", "surrogate-twice"):
                u = self.u if pull == "surrogate" else self.projection.forward(self.u, beta, self.labels)
                lifted = self.projection.surrogate(lifted, u, beta, self.labels)
            elif pull == "exact":
                lifted = self.projection.exact(lifted, self.v, self.u, beta, self.labels)
            self._hand_over(lifted)
        if self.method.carry == "none":
            if g is not None:
                self.v.zero_()
        elif self.method.carry != "dual":
            mirrored = self.method.carry == "mirror"
            self.v.copy_(self.projection.latent(self.u, beta, self.labels) if mirrored else self.u)

    def project(self, beta: float, mixing: float = 1.0) -> None:
        u = self.projection.forward(self.v, beta, self.labels)
        self._remember(u if mixing == 1 else torch.lerp(self.u, u, mixing))

    def _memory(self) -> Tensor:
        return self.u

    def _remember(self, weights: Tensor) -> None:
        self.u = weights
        self.parameter.copy_(self._factors(self.labels.mean(self.u)).view(self.parameter.shape))

    def refit(self) -> None:
        if self.scales is not None:  # the latent is in units of the levels: fit them to the mean weights
            weights = self._factors(self.labels.mean(self.u)).view(self.rows, -1)
            self.scales.copy_(fit_scales(weights, self.labels))

    def label(self) -> Tensor:
        return self.labels.round(self.u).view(self.parameter.shape)

    def entropy(self) -> tuple[Tensor, Tensor]:
        return torch.special.entr(self.u).sum(), (self.u.amax(1) > 1 - 0.5 * NEAR).sum()


def make_latent(parameter: Tensor, levels: list[float], method: Method, scale: Scale) -> Latent:
    """Return the latent that a method needs for a parameter."""
    labels = LabelSet.shared(levels, 1)
    kind = ScalarLatent if isinstance(method.fit(labels), ScalarProjection) else SimplexLatent
    return kind(parameter, levels, method, scale)


def _over(values: Tensor, scale: Tensor | None) -> Tensor:
    """Return values in units of the levels."""
    return values if scale is None else values / scale


def _part_size(device: torch.device, count: int) -> int:
    if device.type != "cpu":
        return LARGE_PART
    threads = torch.get_num_threads()
    return count if count <= WHOLE * threads else PART * threads
