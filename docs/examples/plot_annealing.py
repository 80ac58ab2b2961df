"""
Annealing a spin glass
======================

A slow cooling finds lower energies than a fast one. Simulated annealing and annealed mean-field use the same sweep;
one draws from the conditional law of each spin, the other keeps the law itself.
"""

import matplotlib.pyplot as plt
import numpy as np

import mrfq
from mrfq.solvers import ICM, MeanField, SimulatedAnnealing

glass = mrfq.generators.spin_glass(24, 24, field=0.1, seed=1)
n = glass.shape[0]

# %%
# Energy against sweeps
# ---------------------
# The schedule of beta is geometric and always uses the whole budget.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for sweeps, shade in zip((10, 100, 1000), (0.45, 0.7, 0.95), strict=True):
    for ax, solver, cmap in (
        (left, SimulatedAnnealing(), plt.cm.Reds),
        (right, MeanField(), plt.cm.Blues),
    ):
        trace = mrfq.solve(glass, solver, max_iters=sweeps, seed=0).trace
        energy = np.array(trace["energy"][1:]) / n
        ax.semilogx(trace["iteration"][1:], energy, color=cmap(shade), label=sweeps)
for ax, title in (
    (left, "Simulated annealing"),
    (right, "Annealed mean-field, rounded"),
):
    ax.set(xlabel="sweep", title=title)
    ax.legend(title="length of the run")
left.set_ylabel("energy per spin")
plt.show()

# %%
# Final energy against the length of the run
# ------------------------------------------
# Five seeds each; the band goes from the lowest to the highest. ICM, for scale, stops by itself after a few sweeps.

lengths = (3, 10, 30, 100, 300, 1000)
fig, ax = plt.subplots()
for solver, name in (
    (SimulatedAnnealing(), "simulated annealing"),
    (MeanField(), "annealed mean-field"),
):
    finals = np.array(
        [
            [
                mrfq.solve(glass, solver, max_iters=k, seed=s).energy / n
                for s in range(5)
            ]
            for k in lengths
        ]
    )
    ax.semilogx(lengths, finals.mean(1), "o-", label=name)
    ax.fill_between(lengths, finals.min(1), finals.max(1), alpha=0.15, lw=0)
icm = [mrfq.solve(glass, ICM(), init="random", seed=s).energy / n for s in range(20)]
ax.axhline(np.mean(icm), color="C6", ls="--", label="ICM, mean of 20 starts")
ax.set(xlabel="sweeps", ylabel="final energy per spin", title="The longer, the lower")
ax.legend()
plt.show()

# %%
# The spins
# ---------
# Frustration: bonds drawn in black are violated by the best labelling found.

solution = mrfq.solve(glass, SimulatedAnnealing(), max_iters=1000, seed=0)
spins = 2 * solution.labels.numpy() - 1
fig, ax = plt.subplots(figsize=(5.2, 5.2))
ax.imshow(spins.reshape(24, 24), cmap="RdBu_r", vmin=-1.8, vmax=1.8)
violated = 0
for (i, j), coupling in zip(glass.edges.tolist(), glass.weights.tolist(), strict=True):
    if coupling * spins[i] * spins[j] < 0:
        violated += 1
        y, x = divmod(i, 24)
        # drawn where the two cells meet: j is the neighbour to the right of i, or the one below
        ends = (
            ([x + 0.5, x + 0.5], [y - 0.5, y + 0.5])
            if j == i + 1
            else ([x - 0.5, x + 0.5], [y + 0.5, y + 0.5])
        )
        ax.plot(*ends, color="black", lw=1.8)
ax.set(xticks=[], yticks=[], title=f"{violated} of {len(glass.edges)} bonds violated")
ax.grid(visible=False)
plt.show()

# sphinx_gallery_thumbnail_number = 3
