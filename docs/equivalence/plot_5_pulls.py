r"""
5. Three pulls: exact, identity, surrogate
==========================================

The latent :math:`v` moves along some direction made from the gradient :math:`g = \partial E / \partial u` at
:math:`u = \operatorname{softmax}(\beta v)`. The methods differ in that direction:

* **exact**: the chain rule, :math:`\beta\, u \odot (g - \langle u, g\rangle)`;
* **identity**: :math:`g` itself, as if the projection were not there (mirror descent, straight-through);
* **surrogate**: :math:`\beta\,(g - u \langle u, g\rangle)`, the chain rule with the identity in place of
  :math:`\operatorname{diag}(u)`, the pull of the published PMF code.

The exact direction vanishes when the softmax saturates: a variable that has decided can never change its mind. The
other two stay alive. How far are they from the true gradient?
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrfq
from mrfq.projections import Softmax

# %%
# Cosine and length
# -----------------
# Latents uniform on [0, 1], gradients standard normal, ten labels. Left: the mean cosine over many rows, and the band
# that holds the central 80 %. Right: the length of the direction, which the exact pull loses altogether.

rows, count = 4000, 10
generator = torch.Generator().manual_seed(0)
v = torch.rand(rows, count, generator=generator, dtype=torch.float64)
g = torch.randn(rows, count, generator=generator, dtype=torch.float64)
labels = mrfq.LabelSet.shared(range(count), n=rows)
softmax = Softmax()


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=1, eps=0)


betas = np.geomspace(0.1, 1000, 33)
curves = {"surrogate": [], "identity": []}
lengths = {"exact": [], "surrogate": [], "identity": []}
for beta in betas:
    u = softmax.forward(v, beta, labels)
    directions = {
        "exact": softmax.exact(g, v, u, beta, labels),
        "surrogate": softmax.surrogate(g, u, beta, labels),
        "identity": softmax.identity(g, u, labels),
    }
    for name, values in curves.items():
        c = cosine(directions[name], directions["exact"])
        values.append([float(c.nanmean()), *np.nanquantile(c.numpy(), (0.1, 0.9))])
    for name, values in lengths.items():
        values.append(float(directions[name].norm(dim=1).median()))

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9))
for (name, values), colour in zip(curves.items(), ("C1", "C2"), strict=True):
    mean, low, high = np.array(values).T
    left.semilogx(betas, mean, color=colour, label=name)
    left.fill_between(betas, low, high, color=colour, alpha=0.12, lw=0)
left.set(
    xlabel=r"$\beta$",
    ylabel="cosine to the exact gradient",
    ylim=(-0.4, 1.02),
    title="Direction",
)
left.legend()
for (name, values), colour in zip(lengths.items(), ("C0", "C1", "C2"), strict=True):
    right.loglog(betas, values, color=colour, label=name)
right.set(
    xlabel=r"$\beta$",
    ylabel="length of a typical row (median)",
    ylim=(1e-12, None),
    title="Length",
)
right.legend()
plt.show()

# %%
# The surrogate in the published code
# -----------------------------------
# There, the softmax is applied to a point that already is a softmax: :math:`s = \operatorname{softmax}(\beta u)`
# stands in place of :math:`u`. Both readings, at three temperatures:

for beta in (1.0, 10.0, 100.0):
    u = softmax.forward(v, beta, labels)
    exact = softmax.exact(g, v, u, beta, labels)
    s = softmax.forward(u, beta, labels)
    once = float(cosine(softmax.surrogate(g, u, beta, labels), exact).nanmean())
    twice = float(cosine(softmax.surrogate(g, s, beta, labels), exact).nanmean())
    print(
        f"beta = {beta:5.0f}   cosine: s = u {once:.2f},  s = softmax(beta u) {twice:.2f}"
    )

# %%
# What it is worth
# ----------------
# Neither is a good gradient once :math:`\beta` is large. They are what the optimisation follows *instead* of a gradient
# that has vanished. On a toy problem: the same solver and schedule with three pulls, on the same twenty spin glasses;
# differences are paired, with their standard error.

from mrfq.solvers import Splitting
from mrfq.steps import Step

adam = Step(0.1, "adam", decay=mrfq.Cosine())
energies = {}
for pull in ("exact", "surrogate", "identity"):
    solver = Splitting(
        Softmax(), carry="dual", pull=pull, schedule=mrfq.Geometric(1, 1e4), rate=adam
    )
    glasses = [mrfq.generators.spin_glass(10, 10, seed=seed) for seed in range(20)]
    energies[pull] = np.array(
        [mrfq.solve(glass, solver, max_iters=200).energy / 100 for glass in glasses]
    )
for pull, values in energies.items():
    difference = values - energies["exact"]
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    print(
        f"{pull:10} energy per spin {values.mean():.4f},  minus exact: {difference.mean():+.4f} +- {error:.4f}"
    )
