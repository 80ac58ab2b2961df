"""Labels that no labelling better than a known one can have, by the bounds of reweighted message passing."""

from __future__ import annotations

import numpy as np

from mrfq.solvers.factor_message_kernels import label_bounds, reweighted_pass
from mrfq.solvers.factor_messages import Factored, FactorModel


def allowed_labels(problem: Factored, energy: float, passes: int = 100) -> np.ndarray:
    """Return the (n, L) bool array of labels that a labelling of this energy or a lower one may have.

    Parameters
    ----------
    problem : problem with cost tables
    energy : float
        Of a known labelling.
    passes : int
        There and back, of message passing.

    Notes
    -----
    After message passing the energy is a constant plus reduced costs that are nowhere negative, so the constant
    plus the reduced costs of a label is a lower bound of all labellings that have it ("reduced cost fixing" of
    integer programming; for graphical models, Swoboda et al., Partial Optimality by Pruning, PAMI 2016).
    """
    model = FactorModel(problem)
    toward, labels = model.zeros(), np.zeros(len(model.unary), dtype=np.int64)
    error = 0.0
    for number in range(2 * passes):
        forward = number % 2 == 1
        _, error = reweighted_pass(toward, model.unary, labels, forward, model.flat, model.ends, model.work)
    bounds = np.full(model.unary.shape, np.inf)
    label_bounds(toward, model.unary, bounds, labels, model.flat, model.work)
    slack = 1e-9 * max(1.0, abs(energy)) + 4 * error
    allowed: np.ndarray = (bounds + model.constant <= energy + slack) & model.exists.numpy()[:, : bounds.shape[1]]
    return allowed
