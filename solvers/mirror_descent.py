"""Mirror descent: steps in the dual space of a mirror map, which the projection inverts (AISTATS 2021).

The primal forms recompute the latent P^-1(u) from the current point; the stable forms (-s) keep it. At a fixed
beta with plain gradient steps the two are the same iteration; with an annealed beta they are different solvers,
and only the stable one survives saturation.
"""

from __future__ import annotations

from dataclasses import dataclass

from mrfq.projections import Softmax, SoftStaircase, Tanh
from mrfq.schedules import Geometric, Schedule
from mrfq.solvers.proximal import ADAM
from mrfq.solvers.splitting import Composition, Splitting
from mrfq.steps import Step

PAPER = "Ajanthan et al., Mirror Descent View for Neural Network Quantization, AISTATS 2021"


@dataclass(frozen=True)
class ExponentiatedGradient(Composition):
    """MD-softmax, primal form: `u+ = u exp(-beta eta g)`, normalised; also called exponentiated gradient."""

    reference = PAPER + "; Kivinen and Warmuth, 1997"
    use_when = "you want entropic mirror descent with its regret bound, at a fixed beta"

    beta: Schedule | float = 1.0
    rate: Step | float = Step()
    tol: float = 1e-10

    def compose(self) -> Splitting:
        return Splitting(Softmax(floor=1e-300), "mirror", schedule=self.beta, rate=self.rate, tol=self.tol)


@dataclass(frozen=True)
class StableMirrorDescent(Composition):
    """MD-softmax-S: the latent is kept, beta grows; a straight-through softmax."""

    reference = PAPER
    use_when = "quantizing a network, with any label set; no Jacobian, no surrogate"

    beta: Schedule | float = Geometric(1, 1e4)
    rate: Step | float = ADAM

    def compose(self) -> Splitting:
        return Splitting(Softmax(), "dual", schedule=self.beta, rate=self.rate)


@dataclass(frozen=True)
class TanhMirrorDescent(Composition):
    """MD-tanh, primal form, two labels: `w+ = (r - 1) / (r + 1)`, `r = (1 + w) / (1 - w) exp(-2 beta eta g)`."""

    reference = PAPER
    use_when = "two labels, fixed beta, one number a variable"

    beta: Schedule | float = 1.0
    rate: Step | float = Step()
    tol: float = 1e-10

    def compose(self) -> Splitting:
        return Splitting(Tanh(), "mirror", schedule=self.beta, rate=self.rate, tol=self.tol)


@dataclass(frozen=True)
class StableTanhMirrorDescent(Composition):
    """MD-tanh-S, two labels: the latent is kept, beta grows."""

    reference = PAPER
    use_when = "binary networks with one number a weight"

    beta: Schedule | float = Geometric(1, 1e4)
    rate: Step | float = ADAM

    def compose(self) -> Splitting:
        return Splitting(Tanh(), "dual", schedule=self.beta, rate=self.rate)


@dataclass(frozen=True)
class StaircaseMirrorDescent(Composition):
    """Stable mirror descent through a soft staircase: MD-tanh-S for any ascending levels, one number a variable."""

    reference = PAPER + ", appendix (ternary)"
    use_when = "ternary and k-level networks with one number a weight"

    beta: Schedule | float = Geometric(1, 1e4)
    rate: Step | float = ADAM

    def compose(self) -> Splitting:
        return Splitting(SoftStaircase(), "dual", schedule=self.beta, rate=self.rate)
