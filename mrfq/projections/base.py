"""What every projection offers: the map itself, and three ways of pulling a gradient back through it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from mrfq.labels import LabelSet


class Projection(ABC):
    """A map from latents to relaxed labellings, with inverse temperature beta."""

    #: why the exact Jacobian cannot be used, or "" if it can
    flat: str = ""

    def accepts(self, labels: LabelSet) -> str | None:
        """Return None if the projection is defined for these labels, otherwise the reason why not."""
        return None

    @abstractmethod
    def forward(self, v: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the relaxed labelling u = P_beta(v), shape (n, L)."""

    @abstractmethod
    def latent(self, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return a latent that P_beta maps to `u`, or near it where P has no inverse."""

    @abstractmethod
    def identity_point(self, u: Tensor, labels: LabelSet) -> Tensor:
        """Return u itself, read as a point in the space of latents: where a primal step starts."""

    @abstractmethod
    def identity(self, g: Tensor, u: Tensor, labels: LabelSet) -> Tensor:
        """Return g in the shape of the latent, without any Jacobian."""

    @abstractmethod
    def exact(self, g: Tensor, v: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the exact gradient of `<g, P_beta(v)>` with respect to v, given `u = P_beta(v)`."""

    @abstractmethod
    def surrogate(self, g: Tensor, u: Tensor, beta: float, labels: LabelSet) -> Tensor:
        """Return the surrogate of the published PMF code."""
