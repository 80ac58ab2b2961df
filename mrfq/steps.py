"""How a direction becomes a change of a latent: plain gradient steps or an optimiser of torch.optim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError
from mrfq.schedules import Constant, Schedule


@dataclass(frozen=True)
class Step:
    """A step rule, as plain data.

    Parameters
    ----------
    rate : float, optional
        Step size. Left out, the solver chooses it by the spread of the conditional costs at the rounded start, so
        that scores move by about 1: right for MRFs, far too large for networks.
    optimizer : {"sgd", "adam"}
        Rule of torch.optim; "sgd" without momentum is the plain gradient step of the theory.
    decay : Schedule
        Factor of the rate over the run.
    momentum : float
        Of "sgd".
    weight_decay : float
        Of either.
    """

    rate: float | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    decay: Schedule = Constant(1.0)
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise InvalidParameterError(f"Step: rate must be positive, got {self.rate}")
        if self.optimizer not in ("sgd", "adam"):
            raise InvalidParameterError(f"Step: optimizer must be 'sgd' or 'adam', got {self.optimizer!r}")

    @property
    def memoryless(self) -> bool:
        """Whether equal directions make equal steps: plain gradient steps of one size."""
        return self.optimizer == "sgd" and self.momentum == 0 and self.decay.constant

    def start(self, v: Tensor) -> torch.optim.Optimizer:
        """Return the optimiser of a latent; its rate is set at every step."""
        if self.optimizer == "adam":
            return torch.optim.Adam([v], weight_decay=self.weight_decay, fused=v.device.type in ("cpu", "cuda"))
        return torch.optim.SGD([v], lr=1.0, momentum=self.momentum, weight_decay=self.weight_decay)


def as_step(rate: float | Step) -> Step:
    """Return `rate` itself if it is a step rule, otherwise plain gradient steps of that size."""
    return rate if isinstance(rate, Step) else Step(float(rate))
