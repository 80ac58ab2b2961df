r"""
Mirror descent against projected gradient descent
=================================================

Both minimise a convex function over a simplex. Projected gradient descent measures steps by Euclidean distance,
mirror descent by the Kullback-Leibler divergence. Which geometry fits depends on where the solution is and on how
many labels there are, and on whether gradients are exact.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrfq
from mrfq.solvers import ExponentiatedGradient, ProjectedGradient

# %%
# A convex problem over one simplex: least squares over mixtures of columns, :math:`f(u) = \frac12 |B u - c|^2`.
# Any object with these members is a problem for `mrfq`.


class Mixture:
    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, count, solution, seed):
        generator = torch.Generator().manual_seed(seed)
        self.B = torch.randn(
            2 * count, count, generator=generator, dtype=torch.float64
        ) / np.sqrt(2 * count)
        self.c = self.B @ solution
        self.label_set = mrfq.LabelSet.shared(range(count), n=1)
        self.shape = (1, count)

    def linearize(self, u, draw=None):
        residual = u @ self.B.T - self.c
        return 0.5 * (residual**2).sum(), residual @ self.B

    def energy(self, labels):
        return float(self.linearize(self.label_set.one_hot(labels))[0])


count = 500
scores = torch.randn(
    count, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)
dense = torch.softmax(0.5 * scores, dim=0)
sparse = torch.zeros(count, dtype=torch.float64)
sparse[:5] = torch.tensor([0.4, 0.25, 0.15, 0.12, 0.08])
problems = {
    "solution spread over all labels": Mixture(count, dense, 0),
    "five labels of 500": Mixture(count, sparse, 0),
}

# %%
# The optimal value is 0 by construction, so the energy is the gap. Every step is a constant, the best of a few for
# each method and problem.

rates = {
    ProjectedGradient: (0.1, 0.3, 1.0),
    ExponentiatedGradient: (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
}
names = {
    ProjectedGradient: "projected gradient",
    ExponentiatedGradient: "mirror descent (KL)",
}
start = torch.full((1, count), 1 / count, dtype=torch.float64)
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2))
for ax, (title, problem) in zip(axes, problems.items(), strict=True):
    for method, colour in ((ProjectedGradient, "C0"), (ExponentiatedGradient, "C1")):
        runs = {}
        for rate in rates[method]:
            trace = mrfq.solve(
                problem, method(rate=rate, tol=0.0), init=start, max_iters=400
            ).trace
            runs[rate] = np.array(trace["relaxed_energy"][1:])
        finals = {
            rate: np.nan_to_num(run[-1], nan=np.inf) for rate, run in runs.items()
        }
        best = min(finals, key=finals.get)
        name = f"{names[method]}, step {best:g}"
        ax.semilogy(np.maximum(runs[best], 1e-18), color=colour, label=name)
        print(f"{title:32} {name:32} final gap {runs[best][-1]:.1e}")
    ax.set(xlabel="iteration", ylabel="$f(u) - f^*$", title=title.capitalize())
    ax.legend()
plt.show()

# %%
# With exact gradients the Euclidean method wins here, most clearly where the solution is sparse: it puts probabilities
# to exactly 0 and then only has to solve the small problem that is left. Mirror descent shrinks a probability by a
# factor in each step and never removes it.
#
# Noisy costs and many labels
# ---------------------------
# Mini-batches give noisy gradients, and there the picture turns. For a convex function whose gradient has entries of
# at most :math:`G` in size, the textbook bounds on the gap of the *average* iterate after :math:`T` steps are
# :math:`G \sqrt{2 \log L / T}` for mirror descent and :math:`G \sqrt{2 L / T}` for projected gradient descent on
# a simplex of :math:`L` labels. The test: :math:`L` labels whose costs are seen through noise of :math:`\pm 1`,
# one of them better than the others by 0.2 on average. Steps are those that the bounds prescribe.


class NoisyCosts:
    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, count, seed):
        self.cost = torch.full((1, count), 0.2, dtype=torch.float64)
        self.cost[0, seed % count] = 0.0
        self.label_set = mrfq.LabelSet.shared(range(count), n=1)
        self.shape = (1, count)
        self.seed = seed

    def linearize(self, u, draw=None):
        generator = torch.Generator().manual_seed(10_000 * self.seed + draw)
        noise = torch.randint(0, 2, self.shape, generator=generator) * 2 - 1
        g = self.cost + noise
        return (g * u).sum(), g

    def energy(self, labels):
        return float(self.cost[0, labels[0]])


def gap_of_average(problem, solver, steps):
    oracle = mrfq.Oracle(problem, seed=0)
    count = problem.shape[1]
    state = solver.init(oracle, torch.full((1, count), 1 / count, dtype=torch.float64))
    total = torch.zeros(1, count, dtype=torch.float64)
    for _ in range(steps):
        total += state.u
        state = solver.step(oracle, state)
    return float((problem.cost * total / steps).sum())


steps, counts = 400, (2, 8, 32, 128, 512, 2048)
gaps = {"projected gradient": [], "mirror descent (KL)": []}
for count in counts:
    euclidean = ProjectedGradient(rate=np.sqrt(2 / (count * steps)), tol=0.0)
    entropic = ExponentiatedGradient(rate=np.sqrt(2 * np.log(count) / steps), tol=0.0)
    for name, solver in zip(gaps, (euclidean, entropic), strict=True):
        gaps[name].append(
            [
                gap_of_average(NoisyCosts(count, seed), solver, steps)
                for seed in range(8)
            ]
        )

fig, ax = plt.subplots()
for name, rows in gaps.items():
    values = np.array(rows)
    ax.semilogx(counts, values.mean(1), "o-", base=2, label=name)
    ax.fill_between(counts, values.min(1), values.max(1), alpha=0.15, lw=0)
ax.axhline(0.2, color="C6", ls=":", lw=1, label="no better than chance")
ax.set(
    xlabel="labels",
    ylabel="gap of the average iterate",
    title=f"{steps} noisy gradients, 8 seeds",
)
ax.legend()
plt.show()

# sphinx_gallery_thumbnail_number = 2
