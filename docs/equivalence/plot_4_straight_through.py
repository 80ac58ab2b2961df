r"""
4. BinaryConnect is proximal ICM; mirror descent becomes straight-through
=========================================================================

Two limits of :math:`\beta \to \infty` that are well known under other names. In both the *latent* is kept (dual
carry): the gradient is taken at the projected point, and moves the latent.
"""

import matplotlib.pyplot as plt
import torch

import mrfq
from mrfq.projections import Argmax, Softmax, Tanh
from mrfq.solvers import ExponentiatedGradient, Splitting, StableTanhMirrorDescent

glass = mrfq.generators.dense_ising(n=40, seed=2)
n, _ = glass.shape
q = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def gradient_w(w):
    """Gradient with respect to the weights w in [-1, 1]: u = ((1 - w) / 2, (1 + w) / 2), chain rule."""
    u = torch.stack([(1 - w) / 2, (1 + w) / 2], dim=1)
    return glass.linearize(u)[1] @ q / 2


def trajectory(solver, start, steps):
    solution = mrfq.solve(glass, solver, init=start, max_iters=0)
    points = [solution.relaxed]
    for k in range(steps):
        solution = mrfq.solve(glass, solver, resume=solution, max_iters=k + 1)
        points.append(solution.relaxed)
    return torch.stack(points)


# %%
# BinaryConnect
# -------------
# BinaryConnect keeps a float weight :math:`\tilde w` per weight and takes gradients at its sign:
#
# .. math:: w = \operatorname{sign}(\tilde w), \qquad \tilde w \leftarrow \tilde w - \eta_w\, \nabla L(w).
#
# Proximal ICM keeps two scores per weight, one for each label, and takes gradients at the better one:
#
# .. math:: u = \operatorname{hardmax}(\tilde u), \qquad \tilde u \leftarrow \tilde u - \eta_u\, g_u,
#           \qquad g_u = g_w q^T, \quad q = (-1, +1).
#
# Let :math:`\tilde w = \tilde u\, q = \tilde u_{+} - \tilde u_{-}`. One step changes it by
# :math:`-\eta_u\, g_w\, q^T q = -2 \eta_u\, g_w`. So with :math:`\eta_u = \eta_w / 2` the two are the same iteration.
# Below, BinaryConnect is written by hand and proximal ICM is composed from its parts.

steps, eta_w = 60, 0.2
start = torch.rand(
    n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)
start /= start.sum(1, keepdim=True)

proximal_icm = Splitting(
    Argmax(), carry="dual", pull="identity", rate=eta_w / 2, interior=0.0
)
by_labels = trajectory(proximal_icm, start, steps) @ q

w_latent = start @ q
by_hand = []
for _ in range(steps + 1):
    w = torch.where(w_latent > 0, 1.0, -1.0).double()
    by_hand.append(w)
    w_latent = w_latent - eta_w * gradient_w(w)
by_hand = torch.stack(by_hand)
print(
    f"weights that differ in {steps} iterations of {n} weights: {int((by_hand != by_labels).sum())}"
)
print(f"sign changes on the way: {int((by_hand.diff(dim=0) != 0).sum())}")

# %%
# Every row is a weight, every column an iteration: the two pictures are the same picture.

fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for ax, history, title in zip(
    axes, (by_hand, by_labels), ("BinaryConnect", "proximal ICM"), strict=True
):
    ax.imshow(
        history.T,
        aspect="auto",
        cmap="RdBu",
        vmin=-1.4,
        vmax=1.4,
        interpolation="nearest",
    )
    ax.set(xlabel="iteration", title=title)
    ax.grid(visible=False)
axes[0].set_ylabel("weight")
plt.show()

# %%
# Mirror descent, primal and stable
# ---------------------------------
# Entropic mirror descent multiplies probabilities, :math:`u^+ \propto u\, e^{-\beta\eta g}`. Its *stable* form keeps
# the latent and never looks back through the softmax:
#
# .. math:: u = \operatorname{softmax}(\beta v), \qquad v \leftarrow v - \eta\, g(u).
#
# At a fixed :math:`\beta` the two are the same iteration. In exact arithmetic, that is; the primal form has to recover
# :math:`v` from :math:`u`, and when a probability has run into 0 there is nothing left to recover.

beta, eta, steps = 2.0, 0.05, 200
u0 = torch.full((n, 2), 0.5, dtype=torch.float64) + 0.02 * (start - 0.5)
primal = trajectory(ExponentiatedGradient(beta=beta, rate=eta), u0, steps)
kept = Splitting(
    Softmax(), carry="dual", pull="identity", schedule=beta, rate=eta, interior=0.0
)
stable = trajectory(kept, u0, steps)
print(
    f"largest difference in {steps} iterations: {float((primal - stable).abs().max()):.1e}"
)

# %%
# The straight-through estimator
# ------------------------------
# For two labels the projection is :math:`w = \tanh(\beta v)`. As :math:`\beta` grows it becomes the sign, and stable
# mirror descent becomes: gradient at the sign, step on the latent. That is BinaryConnect again, also called the
# straight-through estimator. Left: the projection. Right: the share of weights whose sign differs from the
# straight-through iterate after the same number of steps. (The latent of :class:`~mrfq.projections.Tanh` is on the
# scale of the levels, 0 and 1 for an MRF: half as long as the scale from -1 to +1, hence the rate of half the size.)

betas = [1.0, 3.0, 10.0, 30.0, 100.0, 1e4]
v0 = start @ q
eta, steps = 0.02, 150


def stable_tanh(beta):
    """Stable mirror descent from latents v0, by the library's solver."""
    w0 = torch.tanh(beta * v0)
    u0 = torch.stack([(1 - w0) / 2, (1 + w0) / 2], dim=1)
    solver = Splitting(
        Tanh(floor=0.0),
        carry="dual",
        pull="identity",
        schedule=beta,
        rate=eta / 2,
        interior=0.0,
    )
    oracle = mrfq.Oracle(glass, seed=0)
    state = solver.init(oracle, u0)
    state.v.copy_(v0)
    points = [torch.tanh(beta * v0)]
    for _ in range(steps):
        state = solver.step(oracle, state)
        points.append(state.u @ q)
    return torch.stack(points)


v, straight_through = v0.clone(), []
for _ in range(steps + 1):
    w = torch.where(v > 0, 1.0, -1.0).double()
    straight_through.append(w)
    v = v - eta * gradient_w(w)
straight_through = torch.stack(straight_through)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
for k, beta in enumerate(betas):
    shade = plt.cm.viridis(0.9 - 0.85 * k / (len(betas) - 1))
    left.plot(grid, torch.tanh(beta * grid), color=shade, label=rf"$\beta$ = {beta:g}")
    differ = (stable_tanh(beta).sign() != straight_through).double().mean(1)
    right.plot(100 * differ, color=shade, label=rf"$\beta$ = {beta:g}")
    print(f"beta = {beta:7g}: {100 * float(differ.mean()):5.1f} % of the signs differ")
left.set(
    xlabel="latent $v$",
    ylabel=r"weight $w = \tanh(\beta v)$",
    title="The projection becomes the sign",
)
left.legend()
right.set(
    xlabel="iteration",
    ylabel="% of signs that differ",
    title="Distance from straight-through",
)
plt.show()

# %%
# In the library the annealed method is :class:`~mrfq.solvers.StableTanhMirrorDescent`, a composition of four choices:

print(StableTanhMirrorDescent().compose())
