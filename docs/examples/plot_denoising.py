"""
Denoising an image with several solvers
=======================================

Each pixel is a variable, its labels are grey levels. The unary costs pull it to what was observed, the Potts costs to
its neighbours. All solvers minimise the same energy, from the same start, with the same number of oracle calls.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrfq
from mrfq.solvers import (
    ICM,
    MeanField,
    ProjectedGradient,
    ProximalMeanField,
    Rounding,
    SimulatedAnnealing,
    StableMirrorDescent,
)

# %%
# The model
# ---------

size, count = 64, 5
random = np.random.default_rng(4)
rows, columns = np.mgrid[:size, :size]
truth = np.zeros((size, size), dtype=int)
for label in range(1, count):
    for _ in range(2):
        y, x = random.uniform(0, size, 2)
        truth[(rows - y) ** 2 + (columns - x) ** 2 < random.uniform(8, 17) ** 2] = label
observed = truth + 1.1 * random.standard_normal(truth.shape)
unary = (np.arange(count) - observed[..., None]) ** 2 / 1.1**2
mrf = mrfq.PairwiseMRF.potts_grid(unary, weight=1.5)
print(mrf)

# %%
# The solvers
# -----------

solvers = {
    "rounding (nearest level)": Rounding(),
    "ICM": ICM(),
    "simulated annealing": SimulatedAnnealing(),
    "mean-field, annealed": MeanField(),
    "projected gradient": ProjectedGradient(),
    "proximal mean-field": ProximalMeanField(),
    "mirror descent (stable)": StableMirrorDescent(),
}
solutions = {
    name: mrfq.solve(mrf, solver, max_oracle_calls=200, seed=0)
    for name, solver in solvers.items()
}

fig, axes = plt.subplots(3, 3, figsize=(9, 9.6))
pictures = {"truth": truth, "observed": observed}
pictures |= {
    name: solution.labels.reshape(size, size) for name, solution in solutions.items()
}
for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture, cmap="bone", vmin=-0.5, vmax=count - 0.5)
    ax.set(xticks=[], yticks=[], title=name)
    ax.grid(visible=False)
    if name in solutions:
        ax.set_xlabel(f"energy {solutions[name].energy:.0f}")
plt.show()

# %%
# Energy against oracle calls
# ---------------------------
# One call is one sweep or one linearisation, so that sequential and parallel methods can be compared. The energy of
# the truth is not the lowest: the model is a model.

fig, ax = plt.subplots(figsize=(9, 4.2))
for name, solution in solutions.items():
    if name.startswith("rounding"):
        continue
    trace = solution.trace
    ax.plot(np.array(trace["oracle_calls"]) + 1, trace["best_energy"], label=name)
ax.axhline(
    mrf.energy(torch.from_numpy(truth.ravel())),
    color="black",
    ls=":",
    lw=1,
    label="energy of the truth",
)
ax.set(
    xscale="log",
    xlabel="oracle calls + 1",
    ylabel="best energy so far",
    title="64 x 64 pixels, 5 grey levels",
)
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

for name, solution in solutions.items():
    wrong = float((solution.labels.numpy() != truth.ravel()).mean())
    calls = solution.oracle_calls
    print(
        f"{name:25} energy {solution.energy:8.1f}   wrong pixels {100 * wrong:4.1f} %   calls {calls}"
    )

# %%
# The annealed first-order methods are set up for networks: Adam, and a :math:`\beta` that grows by orders of
# magnitude. An MRF has costs on a scale of its own. With plain gradient steps and a milder schedule:

mild = mrfq.Geometric(1, 10)
for name, solver in (
    ("proximal mean-field", ProximalMeanField(beta=mild, rate=mrfq.Step())),
    ("mirror descent (stable)", StableMirrorDescent(beta=mild, rate=mrfq.Step())),
):
    print(
        f"{name:25} energy {mrfq.solve(mrf, solver, max_oracle_calls=200).energy:8.1f}"
    )
