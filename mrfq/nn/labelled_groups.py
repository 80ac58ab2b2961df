"""A parameter group of a `LabelOptimizer`: its settings, its method, and the latents of its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrfq import plain
from mrfq.errors import InvalidParameterError
from mrfq.nn.latents import Latent, make_latent
from mrfq.nn.methods import Method, make_method
from mrfq.nn.selection import as_levels
from mrfq.projections import Projection
from mrfq.schedules import Schedule, as_schedule

#: choices of a method that may be made otherwise
OVERRIDES = ("projection", "carry", "pull", "schedule", "start")
#: what a parameter group may say about its quantization; the arguments of `LabelOptimizer` are the defaults
SETTINGS = ("labels", "method", "scale", "refit_every", *OVERRIDES)


class LabelledGroup:
    """The quantized parameters of one group, or none if its labels are None.

    Parameters
    ----------
    group : dict
        A parameter group of a torch optimiser, with all of `SETTINGS` as plain data.
    steps : int or None
        Length of the run.
    fresh : bool
        Whether the latents begin at the present weights, which are finite then, rather than being filled later.
    """

    def __init__(self, group: dict[str, Any], steps: int | None, *, fresh: bool = True) -> None:
        self.steps = steps
        self.method: Method | None = None
        self.latents: list[Latent] = []
        if group["labels"] is None:
            return
        overrides = {name: group[name] for name in OVERRIDES}
        self.method = make_method(group["method"], **overrides)
        self.schedule = as_schedule(self.method.schedule)
        if steps is None and not self.schedule.constant:
            raise InvalidParameterError(
                f"method {group['method']!r} anneals beta over the run: give its length, steps=..."
            )
        self.refit_every = _checked_period(group["refit_every"], group["scale"])
        levels = as_levels(group["labels"])
        checked = [_checked(p, fresh) for p in group["params"]]
        self.latents = [make_latent(p, levels, self.method, group["scale"]) for p in checked]

    def beta(self, step: int) -> float:
        """Return beta at a step, from 0; before the first step, its first value."""
        step = max(step, 0)
        # The last of N steps sees (N-1)/(N-1) = 1, so that a schedule reaches its end; as in mrfq.solve.
        progress = min(step / max((self.steps or 1) - 1, 1), 1.0)
        return self.schedule(progress, step)

    def rate_factor(self, step: int) -> float:
        """Return what the learning rate is multiplied by at a step.

        Mirror descent in its primal form, `v = P_beta^-1(w) - eta g`, has `beta v = sum of beta_k eta g_k` where P is a
        function of beta v: the same as a projection at the first beta and a rate that grows with beta.
        """
        mirrored = self.method is not None and self.method.carry == "mirror"
        return self.beta(step) / self.beta(0) if mirrored else 1.0

    def receive(self, step: int) -> None:
        """Give the latents their gradients, at the weights that the step before left behind."""
        if self.method is not None:
            beta = self._within(self.method, step - 1)
            for latent in self.latents:
                latent.receive(beta)

    def project(self, step: int, mixing: float | None = None) -> None:
        """Set the weights to what the latents stand for after a step."""
        if self.method is not None:
            beta = self._within(self.method, step)
            for latent in self.latents:
                latent.project(beta, self.method.mixing if mixing is None else mixing)

    def reproject(self, step: int) -> None:
        """Set the weights again to what they were after a step; mixed ones have a memory and are left alone."""
        if self.method is not None and self.method.mixing == 1:
            self.project(step)

    def refit(self, step: int) -> None:
        """Fit the scales to the latents if it is time to."""
        if self.method is not None and self.refit_every and (step + 1) % self.refit_every == 0:
            for latent in self.latents:
                latent.refit()

    def _within(self, method: Method, step: int) -> float:
        """Return the beta of the projection, which stays at its first value where it multiplies the rate instead."""
        return self.beta(0 if method.carry == "mirror" else step)


def as_plain(value: Any) -> Any:
    """Return a setting as plain data, so that the state of an optimiser is plain data.

    Examples
    --------
    >>> from mrfq import Geometric
    >>> as_plain(Geometric(1, 10)), as_plain((-1, 1))
    ({'kind': 'Geometric', 'first': 1, 'last': 10}, [-1.0, 1.0])
    """
    if isinstance(value, str | int | float | dict) or value is None:
        return value
    if isinstance(value, Projection | Schedule):
        return plain.to_plain(value)
    return [float(q) for q in value] if hasattr(value, "__iter__") else value


def _checked_period(every: Any, scale: Any) -> int | None:
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise InvalidParameterError(f"refit_every must be a whole number, at least 1, got {every!r}")
    if every is not None and scale is None:
        raise InvalidParameterError("refit_every needs a scale to fit: scale='tensor', 'channel' or a group size")
    return every


def _checked(parameter: Tensor, finite: bool) -> Tensor:
    """Return the parameter, or raise an error if it cannot be quantized."""
    if not parameter.is_floating_point() or parameter.numel() == 0:
        raise InvalidParameterError(
            f"a quantized parameter needs floating-point weights, at least one; got shape {tuple(parameter.shape)}, "
            f"{parameter.dtype}; put it into a group with labels=None"
        )
    if type(parameter.data).__name__ == "DTensor":
        raise InvalidParameterError(
            "this parameter is sharded over processes (a DTensor, as fully_shard makes them), but scales and labels "
            "need the whole of it; use DistributedDataParallel"
        )
    if finite and not bool(torch.isfinite(parameter).all()):
        raise InvalidParameterError(f"a quantized parameter of shape {tuple(parameter.shape)} is not finite")
    return parameter
