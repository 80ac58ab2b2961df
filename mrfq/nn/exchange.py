"""The parameters of an optimiser and their latents change places, for the time of a step of the base optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch.optim import Optimizer

from mrfq.nn.labelled_groups import LabelledGroup


@dataclass(frozen=True)
class Exchange:
    """The parameter groups of a base optimiser, and what belongs to each of them."""

    base: Optimizer
    groups: Sequence[LabelledGroup]

    @contextmanager
    def latents(self) -> Iterator[None]:
        """Let the parameter groups hold latents, for the base optimiser."""
        self._exchange(to_latents=True)
        try:
            yield
        finally:
            self._exchange(to_latents=False)

    @contextmanager
    def parameters(self) -> Iterator[None]:
        """Let them hold parameters again, within `latents`."""
        self._exchange(to_latents=False)
        try:
            yield
        finally:
            self._exchange(to_latents=True)

    @contextmanager
    def rates(self, step: int) -> Iterator[None]:
        """Multiply the learning rate of mirror descent in its primal form by beta, relative to its first value."""
        kept = {}
        for index, (group, labelled) in enumerate(zip(self.base.param_groups, self.groups, strict=True)):
            factor = labelled.rate_factor(step)
            if factor != 1:
                kept[index] = group["lr"]
                group["lr"] = group["lr"] * factor
        try:
            yield
        finally:
            for index, rate in kept.items():
                self.base.param_groups[index]["lr"] = rate

    def _exchange(self, to_latents: bool) -> None:
        # In place: some optimisers (LBFGS) hold on to the list.
        for group, labelled in zip(self.base.param_groups, self.groups, strict=True):
            if labelled.latents:
                group["params"][:] = [latent.v if to_latents else latent.parameter for latent in labelled.latents]
