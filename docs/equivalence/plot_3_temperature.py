r"""
3. What the inverse temperature does
====================================

:math:`\beta` decides how much the entropy counts. In the softmax it is the steepness, in the Gibbs law the inverse
temperature, in the free energy :math:`E(u) - H(u)/\beta` the price of certainty.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrfq
from mrfq.projections import Argmax, Softmax, Sparsemax
from mrfq.solvers import MeanField, SoftmaxProjectedGradient

# %%
# The map
# -------
# Two labels, latent scores :math:`(0, v)`: the probability of label 1. From the constant 1/2 to the step of the
# hardmax. Sparsemax, the projection of the textbook's projected gradient, reaches 0 and 1 at finite scores.

labels = mrfq.LabelSet.shared([0, 1], n=201)
v = torch.linspace(-2, 2, 201, dtype=torch.float64)
scores = torch.stack([torch.zeros_like(v), v], dim=1)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for beta, shade in zip(
    (0.3, 1.0, 3.0, 10.0, 100.0), np.linspace(0.35, 0.95, 5), strict=True
):
    u = Softmax().forward(scores, beta, labels)[:, 1]
    left.plot(v, u, color=plt.cm.Blues(shade), label=rf"$\beta$ = {beta:g}")
left.set(
    xlabel="score $v$", ylabel="probability of label 1", title=r"softmax$(\beta v)$"
)
left.legend()
for name, projection in (
    ("softmax", Softmax()),
    ("sparsemax", Sparsemax()),
    ("hardmax", Argmax()),
):
    right.plot(v, projection.forward(scores, 2.0, labels)[:, 1], label=name)
right.set(xlabel="score $v$", title=r"Three projections at $\beta$ = 2")
right.legend()
plt.show()

# %%
# The path
# --------
# Mean-field on a spin glass, minimised at one :math:`\beta` after another, each from the solution before. At small
# :math:`\beta` every variable is undecided. Then variables decide, one group after another; the entropy falls to 0,
# and the relaxed energy meets the energy of the rounded labelling.

glass = mrfq.generators.spin_glass(12, 12, field=0.1, seed=3)
betas = np.geomspace(0.05, 20, 40)
u = "uniform"
entropy, relaxed, rounded, marginals = [], [], [], []
for beta in betas:
    solution = mrfq.solve(
        glass, MeanField(beta=float(beta), tol=1e-7), init=u, max_iters=300
    )
    u = solution.relaxed
    entropy.append(float(torch.special.entr(u).sum(1).mean()))
    relaxed.append(float(glass.linearize(u)[0]))
    rounded.append(glass.energy(glass.label_set.round(u)))
    marginals.append(u[:, 1].numpy())
marginals = np.array(marginals)

fig, (top, bottom) = plt.subplots(1, 2, figsize=(10, 3.9))
top.semilogx(betas, marginals, color="C0", alpha=0.18, lw=1)
top.plot(
    betas, np.array(entropy) / np.log(2), color="C1", label="mean entropy, in bits"
)
top.set(
    xlabel=r"inverse temperature $\beta$",
    ylabel="probability of spin +1",
    title="Every variable decides",
)
top.legend(loc="upper right")
top.set_ylim(-0.03, 1.2)
bottom.semilogx(betas, relaxed, color="C0", label="relaxed energy $E(u)$")
bottom.semilogx(betas, rounded, color="C2", label="energy of the rounded labelling")
bottom.set(
    xlabel=r"inverse temperature $\beta$",
    ylabel="energy",
    title="The rounding gap closes",
)
bottom.legend()
plt.show()
for k in (0, -1):
    print(f"beta = {betas[k]:5.2f}: E(u) - E(rounded) = {relaxed[k] - rounded[k]:.3f}")

# %%
# Annealing while descending
# --------------------------
# PMF does not wait for convergence at each temperature: :math:`\beta` grows geometrically over the run. The trace of
# `mrfq.solve` shows the same two effects.

solution = mrfq.solve(
    glass, SoftmaxProjectedGradient(beta=mrfq.Geometric(0.5, 100)), max_iters=300
)
trace = solution.trace
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
left.semilogx(trace["beta"], trace["entropy"], color="C1")
left.set(
    xlabel=r"inverse temperature $\beta$",
    ylabel="mean entropy, in nats",
    title="Entropy along the run",
)
trace.plot(ax=right)
right.set_title("Relaxed and rounded energy")
plt.show()
