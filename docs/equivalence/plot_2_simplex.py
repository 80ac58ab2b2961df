r"""
2. The picture: one variable, three labels
==========================================

With one variable and three labels the simplex is a triangle. Its corners are the labels, its centre is
:math:`u = (1/3, 1/3, 1/3)`. Four methods minimise the same energy from the same start with the same step:

.. list-table::
   :header-rows: 1

   * - method
     - update
     - what it pays for moving
   * - projected gradient
     - :math:`u^+ = \operatorname{sparsemax}(u - \eta g)`
     - half the squared distance
   * - PMF
     - :math:`u^+ = \operatorname{softmax}(\beta(u - \eta g))`
     - :math:`-\langle u_k, u\rangle - H(u)/\beta`
   * - proximal ICM
     - :math:`u^+ = \operatorname{hardmax}(u - \eta g)`
     - the same, :math:`\beta = \infty`
   * - mirror descent
     - :math:`u^+ \propto u\, e^{-\beta\eta g}`
     - Kullback-Leibler divergence, over :math:`\beta`
"""

from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrfq
from mrfq.solvers import (
    ExponentiatedGradient,
    ProjectedGradient,
    ProximalICM,
    SoftmaxProjectedGradient,
)

# %%
# A problem is anything with these few members
# --------------------------------------------
# A quadratic energy :math:`E(u) = \frac12 u^T A u + b^T u` of one variable. With :math:`A = 0` it is linear, as the
# energy of an MRF is in each of its variables. With :math:`A \neq 0` it is curved, as the loss of a network is.


@dataclass
class OneVariable:
    A: torch.Tensor
    b: torch.Tensor
    label_set: mrfq.LabelSet = field(
        default_factory=lambda: mrfq.LabelSet.shared([0, 1, 2], n=1)
    )
    shape: tuple[int, int] = (1, 3)
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def linearize(self, u, draw=None):
        g = u @ self.A + self.b
        return 0.5 * (u * (g + self.b)).sum(), g

    def energy(self, labels):
        return float(self.linearize(self.label_set.one_hot(labels))[0])


b = torch.tensor([0.8, 0.3, 0.0], dtype=torch.float64)
linear = OneVariable(A=torch.zeros(3, 3, dtype=torch.float64), b=b)
minimum = torch.tensor([0.15, 0.30, 0.55], dtype=torch.float64)
A = torch.diag(torch.tensor([6.0, 0.8, 1.6], dtype=torch.float64))
curved = OneVariable(A=A, b=-A @ minimum)

# %%
# Trajectories
# ------------
# A solver is two functions, `init` and `step`; this is the loop of `mrfq.solve` without its book-keeping.


def trajectory(problem, solver, start, steps):
    oracle = mrfq.Oracle(problem, seed=0)
    oracle.horizon = steps
    state = solver.init(oracle, start)
    points = [start]
    for _ in range(steps):
        state = solver.step(oracle, state)
        oracle.iteration += 1
        points.append(state.u.clone())
    return torch.cat(points).numpy()


rate, steps = 0.12, 120
solvers = {
    "projected gradient": ProjectedGradient(rate=rate),
    r"PMF, $\beta$ from 1 to 100": SoftmaxProjectedGradient(
        beta=mrfq.Geometric(1, 100), rate=rate
    ),
    "proximal ICM": ProximalICM(rate=rate),
    r"mirror descent, $\beta$ = 1": ExponentiatedGradient(beta=1.0, rate=rate),
}
corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
markers = ["o", "s", "D", "^"]
colours = dict(zip(solvers, ("C0", "C1", "C2", "C3"), strict=True))


def draw_triangle(ax, problem, title):
    grid = np.linspace(0, 1, 120)
    p, q = np.meshgrid(grid, grid)
    inside = p + q <= 1
    points = np.stack([1 - p - q, p, q], -1)
    values = np.full(p.shape, np.nan)
    values[inside] = [
        float(problem.linearize(torch.tensor(row[None]))[0]) for row in points[inside]
    ]
    place = points @ corners
    ax.contourf(
        place[..., 0], place[..., 1], values, levels=16, cmap="Blues_r", alpha=0.45
    )
    ax.plot(*np.vstack([corners, corners[:1]]).T, color="black", lw=1)
    for corner, name, shift in zip(
        corners,
        ("label 0", "label 1", "label 2"),
        ((0, -9), (0, -9), (0, 9)),
        strict=True,
    ):
        ax.annotate(
            name,
            corner,
            xytext=shift,
            textcoords="offset points",
            ha="center",
            va="center",
        )
    ax.set(title=title, aspect="equal", xlim=(-0.08, 1.08), ylim=(-0.08, 0.96))
    ax.axis("off")


def draw_paths(ax, problem, start):
    for (name, solver), marker in zip(solvers.items(), markers, strict=True):
        path = trajectory(problem, solver, start, steps) @ corners
        colour = colours[name]
        ax.plot(
            *path.T, marker=marker, ms=4, markevery=3, lw=1.5, color=colour, label=name
        )
        ax.plot(*path[-1], marker=marker, ms=10, mec="white", color=colour, zorder=5)
    ax.plot(*(start.numpy() @ corners).T, "o", ms=9, mfc="white", mec="black", zorder=6)


fig, axes = plt.subplots(1, 2, figsize=(10, 5.2))
start = torch.tensor([[0.52, 0.40, 0.08]], dtype=torch.float64)
for ax, problem, title in zip(
    axes, (linear, curved), ("Linear energy", "Curved energy"), strict=True
):
    draw_triangle(ax, problem, title)
    draw_paths(ax, problem, start)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %%
# Darker is lower. The white dot is the start, the large markers are the ends; every third iterate has a mark.
#
# *Linear energy.* The minimum is a corner. Projected gradient walks straight and slides along an edge. Mirror descent
# bends, because it multiplies: a small probability moves little. PMF first goes towards the centre, where the
# entropy pulls it as long as :math:`\beta` is small, and then to the corner. Proximal ICM stands on corners only,
# and stays on the first: its scores are :math:`u - \eta g` with :math:`u` a corner, and a step that changes them by
# less than 1 is lost in the next rounding. This is why BinaryConnect keeps the unrounded scores (part 4).
#
# *Curved energy.* The minimum is inside the triangle, which is what makes quantization difficult: the relaxed optimum
# is not a labelling. Projected gradient and mirror descent converge to it and leave the rounding to us. PMF with a
# growing :math:`\beta` ends on a corner by itself. Where each ends, and what its rounded label costs:

names = [name.replace(r"$\beta$", "beta") for name in solvers]
for title, problem in (("linear", linear), ("curved", curved)):
    lowest = min(problem.energy(torch.tensor([label])) for label in range(3))
    print(f"{title}: the best of the three labels costs {lowest:+.4f}")
    for name, solver in zip(names, solvers.values(), strict=True):
        end = torch.tensor(trajectory(problem, solver, start, steps)[-1:])
        value, label = float(problem.linearize(end)[0]), problem.label_set.round(end)
        row = ", ".join(f"{p:.3f}" for p in end[0].tolist())
        rounded = problem.energy(label)
        print(f"  {name:27} u = ({row})  E(u) = {value:+.4f}  rounded {rounded:+.4f}")
