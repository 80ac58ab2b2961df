"""The proximal family of "Proximal Mean-field for Neural Network Quantization" (ICCV 2019), and parallel mean-field.

All are `u+ = argmin eta <g, u> + D(u; u_k)` over the product of simplices, with different distances D; each is a
composition of projection, carry, pull and schedule in one line.
"""

from __future__ import annotations

from dataclasses import dataclass

from mrfq.projections import Argmax, Softmax, Sparsemax
from mrfq.schedules import Cosine, Geometric, Schedule
from mrfq.solvers.splitting import Composition, Pull, Splitting
from mrfq.steps import Step

PAPER = "Ajanthan et al., Proximal Mean-field for Neural Network Quantization, ICCV 2019"
#: the step rule of the annealed methods: Adam needs no scale of the gradient
ADAM = Step(0.3, "adam", decay=Cosine())


@dataclass(frozen=True)
class ProximalMeanField(Composition):
    """Proximal mean-field (PMF) in its practical form: softmax, dual carry, surrogate pull, beta from 1 to 1e4.

    The direction is `beta (g - s <s, g>)` with s = u: the softmax Jacobian with the identity in place of diag(s), which
    keeps a gradient alive after the softmax has saturated. The published code takes s = softmax(beta u) instead;
    `pull="surrogate-twice"` does that.

    Parameters
    ----------
    beta : Schedule or float
    rate : Step or float
    pull : {"surrogate", "surrogate-twice", "exact", "identity"}
    """

    reference = PAPER
    use_when = "quantizing a network: the lowest training loss of all first-order methods on digits"

    beta: Schedule | float = Geometric(1, 1e4)
    rate: Step | float = ADAM
    pull: Pull = "surrogate"

    def compose(self) -> Splitting:
        return Splitting(Softmax(), carry="dual", pull=self.pull, schedule=self.beta, rate=self.rate)


@dataclass(frozen=True)
class SoftmaxProjectedGradient(Composition):
    """Proximal mean-field of the theorem: `u+ = softmax(beta (u - eta g))`, softmax-projected gradient descent."""

    reference = PAPER
    use_when = "teaching that projected gradient descent is mean-field"

    beta: Schedule | float = Geometric(1, 10)
    rate: Step | float = Step()

    def compose(self) -> Splitting:
        return Splitting(Softmax(), carry="primal", schedule=self.beta, rate=self.rate)


@dataclass(frozen=True)
class ProjectedGradient(Composition):
    """Projected gradient descent on the simplices: `u+ = sparsemax(u - eta g)`."""

    reference = PAPER + "; projection: Martins and Astudillo, From Softmax to Sparsemax, ICML 2016"
    use_when = "you want a method with the textbook convergence theory"

    rate: Step | float = Step()
    tol: float = 1e-10

    def compose(self) -> Splitting:
        return Splitting(Sparsemax(), carry="primal", rate=self.rate, tol=self.tol)


@dataclass(frozen=True)
class ProximalICM(Composition):
    """Proximal iterated conditional modes: `u+ = hardmax(u - eta g)`, all variables at once."""

    reference = PAPER
    use_when = "studying the limit beta = infinity of PMF; in practice BinaryConnect or BlockICM do better"

    rate: Step | float = Step()

    def compose(self) -> Splitting:
        return Splitting(Argmax(), carry="primal", rate=self.rate)


@dataclass(frozen=True)
class ParallelMeanField(Composition):
    """Mean-field with all variables updated at once: `u+ = damping u + (1 - damping) softmax(-beta g)`.

    Without damping it may oscillate where sequential mean-field converges. With a decaying mixing it is the
    Frank-Wolfe method on the free energy.
    """

    reference = "Wainwright and Jordan, Graphical Models, Exponential Families, and Variational Inference, 2008, ch. 5"
    use_when = "the gradient comes all at once (networks, GPUs); otherwise sequential mean-field"

    beta: Schedule | float = Geometric(0.1, 10)
    damping: float = 0.5
    tol: float = 1e-10

    def compose(self) -> Splitting:
        mixing = 1 - self.damping
        return Splitting(Softmax(), "none", schedule=self.beta, rate=1.0, mixing=mixing, tol=self.tol)
