"""The latent of one quantized parameter: how gradients reach it, and how the weights follow from it.

`ScalarLatent` keeps one number a weight, whatever the number of labels; `SimplexLatent` one score per label, for
projections that cannot do with less (sparsemax with three labels and more).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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

#: a weight this near to a level, in units of half the distance to the next, counts as discrete
NEAR = 1e-3


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

    def __init__(self, parameter: Tensor, levels: list[float], method: Method, scale: Scale) -> None:
        self.parameter, self.levels, self.method = parameter, levels, method
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        self.labels = LabelSet.shared(levels, parameter.numel(), dtype=dtype, device=parameter.device)
        self.projection: Projection = method.fit(self.labels)
        self.rows = rows_of(parameter.shape, scale)
        weights = parameter.detach().to(dtype)
        fitted = fit_scales(weights.reshape(self.rows, -1), levels)
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
            found["weights"] = self.parameter.detach()
        return found

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
            self.parameter.copy_(state["weights"])

    @property
    def grid(self) -> Grid:
        """The values that the rounded parameter may have."""
        return Grid(tuple(self.levels), None if self.scales is None else self.scales.detach().clone())

    def discretise(self) -> None:
        """Set the weights to the nearest values of the grid, check them, and note the grid on the parameter."""
        grid = self.grid
        self.parameter.copy_(grid.decode(self.label(), tuple(self.parameter.shape), self.parameter.dtype))
        if not grid.exact(self.parameter):
            raise MrfqError(f"a parameter of shape {tuple(self.parameter.shape)} is not on its levels")
        attach(cast(torch.nn.Parameter, self.parameter), grid)

    def release(self, weights: Tensor) -> None:
        """Give the parameter weights that are not discrete again."""
        self.parameter.copy_(weights)
        attach(cast(torch.nn.Parameter, self.parameter), None)

    def _gradient(self) -> Tensor | None:
        g = self.parameter.grad
        if g is None:
            return None
        if g.is_sparse:
            raise InvalidParameterError(
                f"the gradient of a quantized parameter of shape {tuple(g.shape)} is sparse; use sparse=False"
            )
        return g.to(self.labels.levels.dtype)


class ScalarLatent(Latent):
    """One number a weight, in units of the weights; the levels are multiples of the scales."""

    def _start(self, weights: Tensor, fitted: Tensor) -> None:
        self._spread()
        unscaled = self.scales is None and self.method.starts_at_levels(self.labels)
        self.v = weights / fitted if unscaled else self._as_rows(weights).clone()
        #: memory for one more number a weight: positions between levels, then the gradient of the latent
        self.buffer = torch.empty_like(self.v)

    def _spread(self) -> None:
        """Choose the shape in which scales meet weights: channels broadcast, groups need the weights regrouped."""
        shape = self.parameter.shape
        self._grouped = self.rows > 1 and self.rows != shape[0]
        self._shape = (self.rows, 1) if self._grouped else (self.rows, *[1] * (len(shape) - 1)) if len(shape) else (1,)
        self._scale = None if self.scales is None else self.scales.view(self._shape if self.rows > 1 else ())

    def _as_rows(self, values: Tensor) -> Tensor:
        return values.reshape(self.rows, -1) if self._grouped else values

    @property
    def _scalar(self) -> ScalarProjection:
        return cast(ScalarProjection, self.projection)

    def receive(self, beta: float) -> None:
        g = self._gradient()
        self.v.grad = None if g is None else self._pulled(self._as_rows(g), beta)
        if self.method.carry == "primal":
            self.v.copy_(self._as_rows(self.parameter))
        elif self.method.carry == "none":
            self.v.zero_()

    def _pulled(self, g: Tensor, beta: float) -> Tensor:
        pull = self.method.pull
        if pull == "identity":
            return g
        if pull == "clipped":
            kernel = torch.ops.aten.hardtanh_backward.grad_input
            clipped: Tensor = kernel(g, self._unscaled(self.v), *self.labels.ends(g), grad_input=self.buffer)
            return clipped
        # What `project` has left in the buffer is enough then, and the weights are not looked at.
        told = pull == "surrogate" and self._scalar.tells_position and self.method.mixing == 1
        w = self.v if told else self._unscaled(self._as_rows(self.parameter.detach().to(self.v.dtype)))
        v = self._unscaled(self.v) if pull == "exact" else self.v
        buffer = self.buffer if told or not self._scalar.tells_position else None
        return self._scalar.pull_value(pull, g, v, w, beta, self.labels, position=buffer)

    def project(self, beta: float, mixing: float = 1.0) -> None:
        direct = self._scale is None and mixing == 1 and self.parameter.dtype == self.v.dtype
        out = self.parameter if direct else None
        w = self._scalar.value(self._unscaled(self.v), beta, self.labels, out=out, position=self.buffer)
        if direct:
            return
        w = (w if self._scale is None else w.mul_(self._scale)).view(self.parameter.shape).to(self.parameter.dtype)
        if mixing == 1:
            self.parameter.copy_(w)
        else:
            self.parameter.lerp_(w, mixing)

    def _unscaled(self, values: Tensor) -> Tensor:
        """Return values in units of the levels."""
        return values if self._scale is None else values / self._scale

    def refit(self) -> None:
        if self.scales is not None:
            self.scales.copy_(fit_scales(self.v.reshape(self.rows, -1), self.levels))

    def label(self) -> Tensor:
        return self.grid.nearest(self.parameter)

    def entropy(self) -> tuple[Tensor, Tensor]:
        z = locate(self._unscaled(self._as_rows(self.parameter.detach().to(self.v.dtype))), self.labels).position
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
            self.v.grad = None
        else:
            lifted, pull = self.labels.lift(self._factors(g.flatten())), self.method.pull
            if pull == "surrogate":
                lifted = self.projection.surrogate(lifted, self.u, beta, self.labels)
            elif pull == "exact":
                lifted = self.projection.exact(lifted, self.v, self.u, beta, self.labels)
            self.v.grad = lifted
        if self.method.carry == "none":
            self.v.zero_()
        elif self.method.carry != "dual":
            mirrored = self.method.carry == "mirror"
            self.v.copy_(self.projection.latent(self.u, beta, self.labels) if mirrored else self.u)

    def project(self, beta: float, mixing: float = 1.0) -> None:
        u = self.projection.forward(self.v, beta, self.labels)
        self.u = u if mixing == 1 else torch.lerp(self.u, u, mixing)
        self.parameter.copy_(self._factors(self.labels.mean(self.u)).view(self.parameter.shape))

    def refit(self) -> None:
        if self.scales is not None:  # the latent is in units of the levels: fit them to the mean weights
            weights = self._factors(self.labels.mean(self.u)).view(self.rows, -1)
            self.scales.copy_(fit_scales(weights, self.levels))

    def label(self) -> Tensor:
        return self.labels.round(self.u).view(self.parameter.shape)

    def entropy(self) -> tuple[Tensor, Tensor]:
        return torch.special.entr(self.u).sum(), (self.u.amax(1) > 1 - 0.5 * NEAR).sum()


def make_latent(parameter: Tensor, levels: list[float], method: Method, scale: Scale) -> Latent:
    """Return the latent that a method needs for a parameter."""
    labels = LabelSet.shared(levels, 1)
    kind = ScalarLatent if isinstance(method.fit(labels), ScalarProjection) else SimplexLatent
    return kind(parameter, levels, method, scale)
