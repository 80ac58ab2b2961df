r"""
1. The theorem, by two routes
=============================

Softmax-projected gradient descent and mean-field are one iteration. Here both are computed, by code that has
nothing in common, and subtracted.

* **Route 1** is optimisation: a gradient step, then the softmax.

  .. math:: u^{k+1} = \operatorname{softmax}\bigl(\beta\,(u^k - \eta\, g^k)\bigr), \qquad g^k = \nabla E(u^k)

* **Route 2** is statistics: write down the probability of *every* labelling of all variables under the Gibbs law

  .. math:: P_k(x) = \frac{1}{Z_k} \exp\Bigl(-\beta \sum_i (\eta\, g^k - u^k)_{i, x_i}\Bigr),

  add them up into marginals, and take those as :math:`u^{k+1}`. No softmax, no gradient step. The law factorises
  over the variables, so it is its own best mean-field approximation, and its marginals are the mean-field solution.

The toy problem is a Potts model on a small random graph with weights of both signs, small enough to enumerate.
"""

import itertools

import matplotlib.pyplot as plt
import torch

import mrfq
from mrfq.solvers import SoftmaxProjectedGradient

mrf = mrfq.generators.potts_graph(n=6, labels=3, seed=1)
n, count = mrf.shape
labellings = torch.tensor(list(itertools.product(range(count), repeat=n)))
print(f"{mrf}: {len(labellings)} labellings")

# %%
# Ten lines
# ---------
# The two routes, as functions of the same iterate.

beta, eta = 2.0, 0.25


def gradient_step(u):
    _, g = mrf.linearize(u)
    return torch.softmax(beta * (u - eta * g), dim=1)


def mean_field_by_enumeration(u):
    _, g = mrf.linearize(u)
    costs = (eta * g - u)[torch.arange(n), labellings].sum(1)
    law = torch.exp(-beta * (costs - costs.min()))
    law /= law.sum()
    return torch.stack([law @ (labellings == a).double() for a in range(count)], dim=1)


# %%
# One iterate
# -----------
# From a random point, the largest difference of any probability:

generator = torch.Generator().manual_seed(0)
start = torch.softmax(
    torch.randn(n, count, generator=generator, dtype=torch.float64), dim=1
)
one, two = gradient_step(start), mean_field_by_enumeration(start)
print(f"largest difference of a probability: {float((one - two).abs().max()):.1e}")
print(f"machine precision of float64:        {torch.finfo(torch.float64).eps:.1e}")

# %%
# It does not depend on the step or on the temperature:

for beta in (0.1, 1.0, 10.0, 100.0):
    for eta in (0.01, 1.0, 100.0):
        difference = gradient_step(start) - mean_field_by_enumeration(start)
        print(
            f"beta {beta:5}   eta {eta:6}   difference {float(difference.abs().max()):.1e}"
        )

# %%
# Whole trajectories
# ------------------
# `mrfq.solve` with :class:`~mrfq.solvers.SoftmaxProjectedGradient` against route 2, iterated. The solver does not
# know the enumeration, the enumeration does not know the solver.

beta, eta, steps = 2.0, 0.25, 60
solver = SoftmaxProjectedGradient(beta=beta, rate=eta)
solution = mrfq.solve(mrf, solver, init=start, max_iters=0)
u, by_solver, by_enumeration = start, [start], [start]
for k in range(steps):
    solution = mrfq.solve(mrf, solver, resume=solution, max_iters=k + 1)
    u = mean_field_by_enumeration(u)
    by_solver.append(solution.relaxed)
    by_enumeration.append(u)
by_solver, by_enumeration = torch.stack(by_solver), torch.stack(by_enumeration)
difference = (by_solver - by_enumeration).abs().amax((1, 2))
print(f"largest difference in {steps} iterations: {float(difference.max()):.1e}")

# %%
# Left: all probabilities of all variables, the solver as lines, the enumeration as points. Right: their
# difference, which stays at the size of rounding errors.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=(1.5, 1))
for i in range(n):
    for a in range(count):
        colour = f"C{a}"
        name = f"label {a}" if i == 0 else None
        left.plot(by_solver[:, i, a], color=colour, lw=1.2, label=name)
        left.plot(
            range(0, steps + 1, 6), by_enumeration[::6, i, a], ".", color=colour, ms=6
        )
left.set(xlabel="iteration", ylabel="probability $u_{ia}$", ylim=(0, 1.1))
left.set_title("Lines: softmax PGD. Points: mean-field")
left.legend(loc="upper right", ncols=3)
right.semilogy(difference.clamp(min=1e-18), color="C6")
eps = torch.finfo(torch.float64).eps
right.axhline(eps, color="C1", ls="--", lw=1, label="machine precision")
right.set(xlabel="iteration", ylabel="largest difference", ylim=(1e-18, 1e-8))
right.set_title("Their difference")
right.legend()
plt.show()

# %%
# The variational form
# --------------------
# The same point is the minimiser of
# :math:`\eta \langle g, u \rangle - \langle u^k, u \rangle - H(u) / \beta` over the product of simplices. The smallest
# value at random points, near and far, against the value at the softmax step:


def proximal_objective(u, g, anchor):
    entropy = torch.special.entr(u).sum((-2, -1))
    return eta * (g * u).sum((-2, -1)) - (anchor * u).sum((-2, -1)) - entropy / beta


_, g = mrf.linearize(start)
step = gradient_step(start)
print(f"at the softmax step:          {float(proximal_objective(step, g, start)):.9f}")
for spread in (1.0, 0.1, 0.01, 0.001):
    noise = torch.randn(20_000, n, count, generator=generator, dtype=torch.float64)
    others = torch.softmax(step.log() + spread * noise, dim=2)
    print(
        f"best of 20,000 within {spread:5}:   {float(proximal_objective(others, g, start).min()):.9f}"
    )
