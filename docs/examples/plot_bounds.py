"""
A bound that is tight on a tree and loose on a frustrated cycle
===============================================================

Sequential tree-reweighted message passing (TRW-S) returns a labelling *and* a number that no labelling can go below.
Where the two meet, the labelling is proved optimal. They always meet on a tree. On a cycle they need not: the bound is
that of a relaxation in which every tree is solved exactly, but the trees may disagree.
"""

import matplotlib.pyplot as plt
import numpy as np

import mrfq
from mrfq.solvers import TRWS

# %%
# A tree, a cycle whose couplings can all be satisfied, and one where they cannot: an odd number of neighbours want
# opposite spins. All have random fields.

fields = 0.3 * np.random.default_rng(1).standard_normal(15)
ring = np.stack([np.arange(15), (np.arange(15) + 1) % 15], 1)
models = {
    "tree, 40 variables, 4 labels": mrfq.generators.tree(40, 4, seed=2),
    "cycle, all couplings +1": mrfq.PairwiseMRF.ising(fields, 1.0, ring),
    "cycle, all couplings −1": mrfq.PairwiseMRF.ising(fields, -1.0, ring),
}

fig, axes = plt.subplots(1, 3, figsize=(11, 3.9))
for ax, (name, model) in zip(axes, models.items(), strict=True):
    exact = mrfq.solve(model, "elimination").energy
    trace = mrfq.solve(model, TRWS(patience=8)).trace
    k = trace["iteration"]
    ax.plot(k, trace["best_energy"], "o-", ms=3.5, label="best labelling")
    ax.plot(k, trace["bound"], "s-", ms=3.5, label="lower bound")
    ax.axhline(exact, color="black", lw=1, ls=":", label="exact optimum")
    # the first labelling is the rounded start, far above everything
    low, high = np.nanmin(trace["bound"]), trace["best_energy"][-1]
    span = max(high - low, 0.02 * abs(exact))
    ax.set(xlabel="iteration", title=name, ylim=(low - 0.4 * span, high + span))
axes[0].set_ylabel("energy")
axes[0].legend(loc="upper right", fontsize="small")
plt.show()

# %%
# How loose, and when
# -------------------
# The gap of the frustrated cycle depends on its length and its fields. Without fields the relaxation believes that every
# edge can be satisfied: variables that are undecided, half up and half down, pay nothing for a disagreement. One
# coupling of size 1 has to be violated, which costs 2 whatever the length. Fields make up the minds of the variables,
# and close the gap.

lengths, strengths = (3, 5, 9, 17), np.linspace(0, 2.5, 11)
fig, ax = plt.subplots()
for n in lengths:
    edges = np.stack([np.arange(n), (np.arange(n) + 1) % n], 1)
    gaps = []
    for strength in strengths:
        found = []
        for seed in range(6):
            h = strength * np.random.default_rng(seed).standard_normal(n)
            model = mrfq.PairwiseMRF.ising(h, -1.0, edges)
            bound = mrfq.solve(model, TRWS(tol=1e-6, patience=5)).lower_bound
            found.append(mrfq.solve(model, "elimination").energy - bound)
        gaps.append(np.mean(found))
    ax.plot(strengths, gaps, label=n)
    print(
        f"{n:3} variables: gap without fields {gaps[0]:.6f}, with strong ones {gaps[-1]:.4f}"
    )
ax.set(
    xlabel="standard deviation of the fields",
    ylabel="exact optimum minus bound",
    title="Frustrated cycles: mean gap over 6 instances",
)
ax.legend(title="variables")
plt.show()
