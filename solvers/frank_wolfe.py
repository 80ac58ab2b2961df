"""Frank-Wolfe: move towards the labelling that minimises the linearised energy, without any projection."""

from __future__ import annotations

from dataclasses import dataclass

from mrfq.projections import Argmax, Softmax
from mrfq.schedules import Geometric, Harmonic, Schedule
from mrfq.solvers.splitting import Composition, Splitting


@dataclass(frozen=True)
class FrankWolfe(Composition):
    """Conditional gradient: `u+ = (1 - t) u + t onehot(argmin g)`, t = 2 / (k + 2)."""

    reference = "Frank and Wolfe, 1956; Jaggi, Revisiting Frank-Wolfe, ICML 2013"
    use_when = "the relaxed energy is convex, or you want sparse iterates"

    mixing: Schedule | float = Harmonic()
    tol: float = 1e-10

    def compose(self) -> Splitting:
        return Splitting(Argmax(), "none", rate=1.0, mixing=self.mixing, tol=self.tol)


@dataclass(frozen=True)
class EntropicFrankWolfe(Composition):
    """Frank-Wolfe on `E(u) - H(u) / beta`: `u+ = (1 - t) u + t softmax(-beta g)`, damped parallel mean-field."""

    reference = "Krahenbuhl and Koltun, Parameter Learning and Convergent Inference for Dense Random Fields, ICML 2013"
    use_when = "parallel mean-field oscillates"

    beta: Schedule | float = Geometric(0.1, 100)
    mixing: Schedule | float = Harmonic(20)
    tol: float = 1e-10

    def compose(self) -> Splitting:
        return Splitting(Softmax(), "none", schedule=self.beta, rate=1.0, mixing=self.mixing, tol=self.tol)
