"""
From float weights to binary ones
=================================

All 17,024 weights of a network for handwritten digits become -1 or 1. Nearest rounding loses much of what the network
knew; solvers that start at the same float weights and follow the loss recover it. The weights are variables, the levels
labels, and the trace is the same as that of a toy MRF.
"""

import matplotlib.pyplot as plt
import numpy as np

import mrfq
from mrfq.nn.digits import digits_task
from mrfq.solvers import (
    BinaryConnect,
    BlockICM,
    ProximalMeanField,
    Rounding,
    StableMirrorDescent,
)

# %%
# The problem
# -----------
# A network of 64-128-64-10 units with batch norm, trained in float on scikit-learn's digits. Accuracies are on the
# validation images; the test images are left to `mrfq compare`.

task = digits_task("binary", epochs=60, seed=0)
problem = task.problem
print(f"{problem.shape[0]:,} weights with {problem.shape[1]} levels each")
print(
    f"float network: {task.float_metrics['validation_accuracy']:.1f} % of the validation images"
)

# %%
# The solvers
# -----------
# The same budget for all: 600 gradients of one batch.

solvers = {
    "nearest rounding": Rounding(),
    "block ICM": BlockICM(),
    "BinaryConnect": BinaryConnect(),
    "mirror descent (stable)": StableMirrorDescent(),
    "proximal mean-field": ProximalMeanField(),
}
solutions = {
    name: mrfq.solve(problem, solver, max_oracle_calls=600, seed=0)
    for name, solver in solvers.items()
}
for name, solution in solutions.items():
    metrics = task.evaluate(solution.labels)
    accuracy, calls = metrics["validation_accuracy"], solution.oracle_calls
    print(
        f"{name:25} training loss {solution.energy:7.4f}   validation {accuracy:5.1f} %   calls {calls}"
    )

# %%
# Loss of the *rounded* network, evaluated by the loop about fifty times in a run, and how undecided the weights are.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
for name in list(solvers)[1:]:
    trace = solutions[name].trace
    left.semilogy(trace["oracle_calls"], trace["energy"], label=name)
    right.plot(
        trace["oracle_calls"], np.array(trace["entropy"]) / np.log(2), label=name
    )
left.axhline(
    solutions["nearest rounding"].energy, color="C6", ls="--", label="nearest rounding"
)
left.set(
    xlabel="oracle calls", ylabel="training loss, rounded", title="The rounded network"
)
right.set(
    xlabel="oracle calls",
    ylabel="mean entropy, in bits",
    title="How undecided the weights are",
)
left.legend(fontsize="small")
plt.show()

# %%
# The weights
# -----------
# The first layer before and after: each small square is one of 16 hidden units and its 64 input pixels.

solution = solutions["proximal mean-field"]
start = problem.label_set.mean(problem.initial())[: 128 * 64].reshape(128, 64)
after = problem.state_dict(solution.labels)["0.weight"]


def tiles(weights):
    return weights[:16].reshape(2, 8, 8, 8).permute(0, 2, 1, 3).reshape(16, 64)


fig, axes = plt.subplots(2, 1, figsize=(8, 4.4))
for ax, weights, title in zip(
    axes, (start, after), ("float, clipped to the levels", "binary"), strict=True
):
    ax.imshow(tiles(weights), cmap="RdBu_r", vmin=-1.3, vmax=1.3)
    ax.set(
        xticks=np.arange(7.5, 63, 8),
        yticks=[7.5],
        xticklabels=[],
        yticklabels=[],
        title=title,
    )
    ax.grid(color="black", lw=0.8)
    ax.tick_params(length=0)
plt.show()

# sphinx_gallery_thumbnail_number = 2
flips = float(
    (problem.label_set.round(problem.initial()) != solution.labels).double().mean()
)
print(
    f"{100 * flips:.1f} % of the weights end on another side than nearest rounding puts them"
)
