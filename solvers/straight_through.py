"""Straight-through methods and their smooth relatives: hard or piecewise maps, latents kept, plain gradients."""

from __future__ import annotations

from dataclasses import dataclass

from mrfq.projections import Argmax, PiecewiseAffine, Tanh
from mrfq.schedules import Geometric, InverseSigmoid, Schedule
from mrfq.solvers.proximal import ADAM
from mrfq.solvers.splitting import Composition, Splitting
from mrfq.steps import Step


@dataclass(frozen=True)
class BinaryConnect(Composition):
    """BinaryConnect, the straight-through estimator: gradients at the rounded point move the latent.

    With two labels it is proximal ICM with the latent kept; with more it is its natural extension.
    """

    reference = "Courbariaux, Bengio and David, BinaryConnect, NeurIPS 2015"
    use_when = "a strong, simple baseline for networks"

    rate: Step | float = ADAM

    def compose(self) -> Splitting:
        return Splitting(Argmax(), "dual", rate=self.rate)


@dataclass(frozen=True)
class PARQ(Composition):
    """PARQ: a piecewise-affine proximal map whose slope falls from 1 to 0 along a sigmoid; latents kept."""

    reference = "Jin et al., PARQ: Piecewise-Affine Regularized Quantization, ICML 2025"
    use_when = "the state of the art that the project is compared with; any ascending levels"

    beta: Schedule | float = InverseSigmoid()
    rate: Step | float = ADAM

    def compose(self) -> Splitting:
        return Splitting(PiecewiseAffine(), "dual", schedule=self.beta, rate=self.rate)


@dataclass(frozen=True)
class GradientDescentTanh(Composition):
    """GD-tanh, two labels: gradient descent on the latent of `w = tanh(beta v)` with the exact chain rule."""

    reference = "Ajanthan et al., Mirror Descent View for Neural Network Quantization, AISTATS 2021"
    use_when = "measuring what leaving out the Jacobian is worth"

    beta: Schedule | float = Geometric(1, 1e4)
    rate: Step | float = ADAM

    def compose(self) -> Splitting:
        return Splitting(Tanh(), "dual", pull="exact", schedule=self.beta, rate=self.rate)
