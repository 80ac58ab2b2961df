"""
Graph cuts are exact where neighbours attract
=============================================

Finding the lowest state of a ferromagnet in any external field is a minimum cut problem, and solved exactly in
milliseconds. As soon as some neighbours repel each other there is no such cut, and the solver says which pair is the
reason.
"""

import matplotlib.pyplot as plt
import numpy as np

import mrfq
from mrfq.solvers import ICM, TRWS, GraphCut, MeanField

# %%
# Domains in a random field
# -------------------------
# The stronger the coupling, the larger the domains, and the more spins point against their own field.

size = 64
couplings = (0.1, 0.4, 0.8, 1.1)
fig, axes = plt.subplots(1, 4, figsize=(11, 3.1))
for ax, coupling in zip(axes, couplings, strict=True):
    magnet = mrfq.generators.ferromagnet(size, size, coupling=coupling, seed=7)
    solution = mrfq.solve(magnet, GraphCut())
    assert solution.proved
    own = magnet.unary.argmin(1)
    against = float((solution.labels != own).double().mean())
    ax.imshow(solution.labels.reshape(size, size), cmap="RdBu_r", vmin=-0.4, vmax=1.4)
    ax.set(xticks=[], yticks=[], title=f"coupling {coupling}")
    ax.set_xlabel(f"{100 * against:.0f} % against their field")
    ax.grid(visible=False)
plt.show()

# %%
# What the exact answer is worth
# ------------------------------
# Local methods come close while the coupling is weak, and get stuck in domains when it is strong. The bound of TRW-S is
# tight for every ferromagnet, too, but it takes iterations.

strengths = np.linspace(0.1, 1.5, 8)
others = {"ICM": ICM(), "mean-field, annealed": MeanField(), "TRW-S": TRWS()}
excess = {name: [] for name in others}
for coupling in strengths:
    magnet = mrfq.generators.ferromagnet(24, 24, coupling=float(coupling), seed=3)
    exact = mrfq.solve(magnet, GraphCut()).energy
    for name, solver in others.items():
        energy = mrfq.solve(magnet, solver, max_oracle_calls=200).energy
        excess[name].append(100 * (energy - exact) / abs(exact))

fig, ax = plt.subplots()
for name, values in excess.items():
    ax.plot(strengths, values, "o-", label=name)
ax.axhline(0, color="black", lw=1, ls=":", label="graph cut: exact")
ax.set(
    xlabel="coupling",
    ylabel="excess energy, in percent",
    title="24 x 24 ferromagnet in a random field, 200 oracle calls",
)
ax.legend()
plt.show()

# %%
# Repulsion
# ---------
# A spin glass is refused, with the reason:

glass = mrfq.generators.spin_glass(4, 4, seed=0)
try:
    mrfq.solve(glass, GraphCut())
except mrfq.CapabilityError as error:
    print(error)

# %%
# A chessboard antiferromagnet is a ferromagnet in disguise: rename the labels of every other variable, and all
# neighbours attract. That is a change of names, not of the energy, so the exact answer carries over.

rows, columns = np.mgrid[:8, :8]
black = ((rows + columns) % 2).ravel().astype(bool)
fields = np.random.default_rng(0).standard_normal(64)
edges = mrfq.generators.ferromagnet(8, 8).edges
repelling = mrfq.PairwiseMRF.ising(fields, -1.0, edges)
renamed = mrfq.PairwiseMRF.ising(np.where(black, -fields, fields), 1.0, edges)
solution = mrfq.solve(renamed, GraphCut())
labels = solution.labels.clone()
labels[black] = 1 - labels[black]
print(
    f"exact energy {solution.energy:.6f}, of the renamed labels {repelling.energy(labels):.6f}"
)
