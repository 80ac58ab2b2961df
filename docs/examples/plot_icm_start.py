"""
ICM depends on its start
========================

Iterated conditional modes stops at the first labelling that no single change improves. A frustrated problem has
very many of those. The spread over starts, and what other uses of the same number of sweeps would have found:
"""

import matplotlib.pyplot as plt
import numpy as np

import mrfq
from mrfq.solvers import ICM, MeanField, Restarts, SimulatedAnnealing

glass = mrfq.generators.spin_glass(16, 16, field=0.1, seed=5)
n = glass.shape[0]

runs = [mrfq.solve(glass, ICM(), init="random", seed=seed) for seed in range(300)]
energies = np.array([run.energy for run in runs]) / n
sweeps = sum(run.iterations for run in runs) / len(runs)
print(
    f"{len(runs)} runs of ICM, {sweeps:.1f} sweeps each: best {energies.min():.4f}, mean {energies.mean():.4f}"
)

# %%
# Three ways to spend more
# ------------------------
# Each gets 300 sweeps: ICM restarted from random points as often as fits, sequential mean-field while beta grows, and
# simulated annealing. The loop counts the sweeps and keeps the best labelling it has seen.

budget = 300
others = {
    "ICM, restarted": Restarts(ICM(), starts=60),
    "annealed mean-field": MeanField(),
    "simulated annealing": SimulatedAnnealing(),
}
found = {
    name: mrfq.solve(glass, solver, max_oracle_calls=budget, seed=0)
    for name, solver in others.items()
}

fig, ax = plt.subplots()
ax.hist(energies, bins=40, color="C6", alpha=0.6, label="ICM from 300 random starts")
for (name, solution), colour in zip(found.items(), ("C3", "C0", "C1"), strict=True):
    ax.axvline(
        solution.energy / n,
        color=colour,
        lw=2,
        label=f"{name}, {solution.oracle_calls} calls",
    )
ax.set(xlabel="energy per spin", ylabel="runs", title="A 16 x 16 spin glass")
ax.set_ylim(0, 1.55 * ax.get_ylim()[1])
ax.legend(loc="upper right")
plt.show()

for name, solution in found.items():
    share = float((energies > solution.energy / n).mean())
    print(
        f"{name:20} {solution.energy / n:.4f}, better than {100 * share:.0f} % of the ICM runs"
    )

# %%
# On a problem with strong unary costs there is much less to lose: most variables are decided by their own cost, and
# the start that follows the unary costs is a good one.

image = mrfq.generators.denoising(32, 32, labels=4, seed=0)
starts = {"unary": "unary", "uniform": "uniform", "random": "random"}
for name, init in starts.items():
    solutions = [
        mrfq.solve(image, ICM(), init=init, seed=seed).energy for seed in range(20)
    ]
    print(
        f"denoising, ICM from the {name:8} start: mean {np.mean(solutions):8.1f}, spread {np.std(solutions):5.1f}"
    )
