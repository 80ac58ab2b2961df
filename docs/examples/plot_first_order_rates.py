r"""
Finite, linear, sublinear: how first-order methods end
======================================================

On an MRF the relaxed energy is multilinear, and its minima are labellings: corners of the simplices. How fast does a
method reach a corner? Projected gradient descent (PGD) runs into it after finitely many steps. Mirror descent (MD)
multiplies the wrong labels' probabilities by :math:`e^{-\eta\delta}` in each step, where the *margin* :math:`\delta` is
what the second best label of a variable costs more than the best: a linear rate, that of the smallest margin. Proximal
mean-field (PMF) at a fixed :math:`\beta` (here 2) goes to an interior point instead, also at a linear rate. Rates are fitted to
the tails by :func:`mrfq.study.rates.fit_rate`.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrfq
from mrfq.solvers import (
    ExponentiatedGradient,
    ProjectedGradient,
    SoftmaxProjectedGradient,
)
from mrfq.study.rates import fit_rate

image = mrfq.generators.denoising(12, 12, labels=3, noise=0.35, weight=0.6, seed=4)
rate = 0.1


def points(problem, solver, steps):
    """Return the relaxed labellings of a run, the start included."""
    oracle = mrfq.Oracle(problem, seed=0)
    oracle.horizon = steps
    n, count = problem.shape
    state = solver.init(oracle, torch.full((n, count), 1 / count, dtype=torch.float64))
    found = [state.u.clone()]
    for _ in range(steps):
        state = solver.step(oracle, state)
        oracle.iteration += 1
        found.append(state.u.clone())
    return found


def distances(run, end):
    """Return the largest difference of a probability from where the run ends."""
    return np.array([float((u - end).abs().max()) for u in run])


# %%
# Three methods with the same step size on a small denoising problem.

solvers = {
    "PGD": (ProjectedGradient(rate=rate, tol=0.0), 150),
    "MD": (ExponentiatedGradient(rate=rate, tol=0.0), 600),
    "PMF": (SoftmaxProjectedGradient(beta=2.0, rate=rate), 600),
}
fig, ax = plt.subplots()
for (name, (solver, steps)), colour in zip(
    solvers.items(), ("C0", "C1", "C2"), strict=True
):
    run = points(image, solver, steps)
    corner = image.label_set.one_hot(image.label_set.round(run[-1]))
    error = distances(run, run[-1] if name == "PMF" else corner)
    fit = fit_rate(error)
    ax.semilogy(np.where(error > 1e-14, error, np.nan), color=colour, label=name)
    if fit.kind == "linear":
        k = np.arange(fit.first, fit.last + 1)
        ax.semilogy(k, fit.values(k), color="black", ls="--", lw=1)
        print(f"{name:4} factor {fit.rate:.5f} an iteration (R² {fit.quality:.5f})")
    else:
        zero = np.flatnonzero(error == 0)
        print(f"{name:4} at a corner from iteration {zero[0] if len(zero) else '-'}")
    if name == "MD":
        _, g = image.linearize(corner)
        margins = g.masked_fill(corner > 0, torch.inf).amin(1) - (g * corner).sum(1)
        predicted = np.exp(-rate * float(margins.min()))
        print(f"{'':4} predicted from the smallest margin {predicted:.5f}")
ax.set(
    xlabel="iteration",
    ylabel="distance to where it ends",
    title="Denoising, 12 x 12 pixels, 3 labels; dashed: fitted rates",
)
ax.legend()
plt.show()

# %%
# Margins decide
# --------------
# One variable with two labels whose costs differ by a margin; and two variables that only pay if both take the second
# label, so that the price of it vanishes with its probability: the margin at the minimum is 0. There mirror descent is
# sublinear, the error falls like :math:`1/k`.

single = {
    f"margin {margin:g}": mrfq.PairwiseMRF([[0.0, margin]])
    for margin in (1.0, 0.3, 0.1)
}
twins = mrfq.PairwiseMRF(np.zeros((2, 2)), [[0, 1]], [[0.0, 0.0], [0.0, 1.0]])
fig, ax = plt.subplots()
for name, problem in {**single, "margin 0": twins}.items():
    run = points(problem, ExponentiatedGradient(rate=rate, tol=0.0), 600)
    error = np.array([float(u[0, 1]) for u in run])
    fit = fit_rate(error)
    ax.loglog(np.arange(1, 602), np.maximum(error, 1e-12), label=name)
    what = "factor" if fit.kind == "linear" else "power"
    print(f"{name:12} {fit.kind:10} {what} {fit.rate:8.5f}")
ax.set(
    xlabel="iteration",
    ylabel="probability of the wrong label",
    title="Mirror descent: linear with a margin, 1/k without",
    ylim=(1e-10, 1),
)
ax.legend()
plt.show()
