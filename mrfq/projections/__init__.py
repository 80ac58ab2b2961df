"""Projections P_beta from latents to relaxed labellings, each with its exact pull-back.

Two families. *Simplex* projections take a latent of shape (n, L), one score per label: `Softmax`, `Sparsemax`,
`Argmax`. *Scalar* projections take one number per variable, on the scale of the levels: `Tanh`, `SoftStaircase`,
`DistanceSoftmax`, `PiecewiseAffine`, `Nearest`, `Relax`, `Shrink`; their value w is spread over the two neighbouring
levels, so that the mean of the relaxed labelling is w. Networks use the value itself.

For a function E of the relaxed labelling with gradient `g = dE/du`, a projection offers three pulls:

* `exact`: the gradient of `E(P(v))`, by the Jacobian of P;
* `identity`: the gradient with the Jacobian left out (straight-through, stable mirror descent);
* `surrogate`: the pull of the published PMF code, which keeps a gradient alive when P saturates.

Everything stays finite for beta up to 1e12 and latents up to 1e6. Labels that do not exist get exactly 0.
"""

from mrfq.projections.base import Projection as Projection
from mrfq.projections.hard import Nearest as Nearest
from mrfq.projections.hard import Relax as Relax
from mrfq.projections.hard import Shrink as Shrink
from mrfq.projections.scalar import ScalarProjection as ScalarProjection
from mrfq.projections.scalar import Tanh as Tanh
from mrfq.projections.simplex import Argmax as Argmax
from mrfq.projections.simplex import SimplexProjection as SimplexProjection
from mrfq.projections.simplex import Softmax as Softmax
from mrfq.projections.simplex import Sparsemax as Sparsemax
from mrfq.projections.soft import DistanceSoftmax as DistanceSoftmax
from mrfq.projections.soft import PiecewiseAffine as PiecewiseAffine
from mrfq.projections.soft import SoftStaircase as SoftStaircase
