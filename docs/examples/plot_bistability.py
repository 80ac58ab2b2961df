r"""
Mean-field has a phase transition where the model has none
==========================================================

Mean-field replaces the neighbours of a spin by their means: :math:`m_i = \tanh(\beta \sum_j J_{ij} m_j)`. At high
temperature :math:`m = 0` is the only solution. It loses its stability when a small deviation grows under the update,
that is at :math:`\beta_c = 1/\rho(J)`, one over the spectral radius of the couplings. Beyond it there are two solutions,
and where a run ends depends on where it began.
"""

import matplotlib.pyplot as plt
import numpy as np

import mrfq
from mrfq.study.bistability import bistability, field_loop
from mrfq.study.stability import linear_stability

magnet = mrfq.generators.ferromagnet(4, 4, coupling=1.0, field=0.0)
stability = linear_stability(magnet)

# The same from the couplings themselves
J = np.zeros((16, 16))
for (i, j), w in zip(magnet.edges.tolist(), magnet.weights.tolist(), strict=True):
    J[i, j] = J[j, i] = w
radius = np.abs(np.linalg.eigvalsh(J)).max()
print(f"predicted critical beta {stability.critical:.6f} = 1 / {radius:.6f}")

# %%
# The pitchfork
# -------------
# Fixed points from all spins down, all spins up, and no opinion. The exact model of 16 spins is small enough to look at
# all its states: by symmetry its mean magnetisation is 0 at every temperature, and the mean of its size grows smoothly.

found = bistability(magnet, stability)
print(f"measured onset of order {found.onset:.6f}")

fig, ax = plt.subplots()
names = ("from all down", "from all up", "from uniform")
for branch, name in zip(found.branches, names, strict=True):
    ax.plot(branch.betas, branch.magnetisation, "o-", ms=3.5, label=name)
ax.plot(found.exact.betas, found.exact.size, color="C6", label="exact mean of |m|")
ax.axvline(stability.critical, color="black", ls=":", lw=1, label=r"$1/\rho(J)$")
ax.set(
    xlabel=r"inverse temperature $\beta$",
    ylabel="magnetisation",
    title="Mean-field on a 4 x 4 ferromagnet",
)
ax.legend(loc="upper left")
plt.show()

# %%
# Hysteresis
# ----------
# With two solutions there is memory. A field that rises and falls again, each fixed point starting from the last: below
# the critical point the magnetisation follows, above it it lags behind, the more the colder. The true magnetisation of a
# finite model is a function of the field alone.

fig, ax = plt.subplots()
for ratio, colour in ((0.8, "C2"), (1.5, "C0"), (2.5, "C1")):
    loop = field_loop(magnet, ratio * stability.critical, 1.6)
    label = rf"{ratio} $\beta_c$: width {loop.width:.2f}"
    ax.plot(loop.fields, loop.rising, color=colour, label=label)
    ax.plot(loop.fields, loop.falling, color=colour, ls="--")
ax.set(
    xlabel="field, rising (solid) and falling (dashed)",
    ylabel="magnetisation",
    title="The field has to overcome the neighbours",
)
ax.legend(title="two solutions", loc="lower right")
plt.show()

# %%
# Not only ferromagnets
# ---------------------
# Linear stability does not need equal couplings. In a spin glass the order that sets in has no common direction, so the
# magnetisation stays small; the polarisation, the root mean square magnetisation of the spins, shows it.

fig, ax = plt.subplots()
for seed in range(4):
    glass = mrfq.generators.spin_glass(6, 6, seed=seed)
    stability = linear_stability(glass)
    found = bistability(glass, stability, betas=np.linspace(0.4, 2.0, 11))
    branch = found.branches[0]
    ax.plot(branch.betas, branch.polarisation, "o-", ms=3, color=f"C{seed}")
    ax.axvline(stability.critical, color=f"C{seed}", ls=":", lw=1.2)
    print(
        f"glass {seed}: predicted {stability.critical:.5f}, measured {found.onset:.5f}"
    )
ax.set(
    xlabel=r"inverse temperature $\beta$",
    ylabel="polarisation",
    title="Four spin glasses; dotted, where linear stability predicts the onset",
)
plt.show()
