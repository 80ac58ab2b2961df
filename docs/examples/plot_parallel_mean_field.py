r"""
Parallel mean-field oscillates, sequential mean-field does not
==============================================================

Mean-field sets each variable to :math:`u_i = \operatorname{softmax}(-\beta c_i)`, where :math:`c_i` are the
expected costs of its labels given all others. Updating one variable after another never raises the free energy
:math:`F(u) = E(u) - H(u)/\beta`. Updating all at once may: every variable answers to neighbours that are about to
change, too.

The problem is an antiferromagnetic grid: neighbours want opposite spins, so the ground state is a chessboard.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrfq
from mrfq.problems.tables import grid_edges
from mrfq.solvers import MeanField, ParallelMeanField

size, beta = 12, 1.0
fields = 0.02 * np.random.default_rng(0).standard_normal(size * size)
board = mrfq.PairwiseMRF.ising(fields, couplings=-1.0, edges=grid_edges(size, size))

# Every spin starts a little up.
start = torch.tensor([[0.45, 0.55]], dtype=torch.float64).repeat(size * size, 1)

solvers = {
    "sequential": MeanField(beta=beta),
    "parallel, undamped": ParallelMeanField(beta=beta, damping=0.0),
    "parallel, damping 0.5": ParallelMeanField(beta=beta, damping=0.5),
}


def run(solver, steps):
    """Return relaxed labellings and free energies, one a sweep."""
    solution = mrfq.solve(board, solver, init=start, max_iters=0)
    points = [solution.relaxed]
    for k in range(steps):
        solution = mrfq.solve(board, solver, resume=solution, max_iters=k + 1)
        points.append(solution.relaxed)
    free = [
        float(board.linearize(u)[0] - torch.special.entr(u).sum() / beta)
        for u in points
    ]
    return points, np.array(free)


results = {name: run(solver, 30) for name, solver in solvers.items()}

# %%
# The free energy, sweep by sweep. The undamped parallel iteration only goes up.

fig, ax = plt.subplots()
for (name, (_, free)), style in zip(results.items(), ("-o", "-s", "-^"), strict=True):
    ax.plot(free / size**2, style, ms=3.5, label=name)
ax.set(
    xlabel="sweep",
    ylabel="free energy per spin",
    title="One at a time, all at once, all at once but half way",
)
ax.legend()
plt.show()

# %%
# What the states look like after 4, 5, 29 and 30 sweeps; blue is spin -1, red is spin +1. In the undamped run all
# spins agree and all change sign in every sweep: each sees four neighbours that are up, so it goes down, and so do
# they.

fig, axes = plt.subplots(3, 4, figsize=(8, 6.4))
for row, (name, (points, _)) in zip(axes, results.items(), strict=True):
    for ax, k in zip(row, (4, 5, 29, 30), strict=True):
        ax.imshow(points[k][:, 1].reshape(size, size), cmap="RdBu_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        if row is axes[0]:
            ax.set_title(f"sweep {k}")
    row[0].set_ylabel(name, fontsize="small")
plt.show()

# sphinx_gallery_thumbnail_number = 2

# %%
# Damping helps because half of the old point stays. With a decreasing share of the new point it becomes the
# Frank-Wolfe method on the free energy (:class:`~mrfq.solvers.EntropicFrankWolfe`). The status of the runs:

for name, solver in solvers.items():
    solution = mrfq.solve(board, solver, init=start, max_iters=200)
    print(
        f"{name:23} {solution.iterations:4} sweeps, energy {solution.energy:8.2f}, {solution.status}"
    )
