r"""
A network that becomes discrete while it learns
===============================================

`LabelOptimizer` trains all 17,024 weights of a network for handwritten digits to -1 or 1. At first they are soft, and
:math:`\beta` grows until rounding changes nothing. When do the weights decide, and what does rounding cost before they
have?
"""

import copy
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import cross_entropy

import mrfq
from mrfq.nn import LabelOptimizer, digits, parameter_groups

data = digits.load()
inputs, targets = data["train"]
random = torch.Generator().manual_seed(0)
EPOCHS, BATCH = 60, 128


def batches():
    """Return a shuffled pass over the training images."""
    order = torch.randperm(len(inputs), generator=random).split(BATCH)
    return [(inputs[rows], targets[rows]) for rows in order[:-1]]


@torch.no_grad()
def loss_of(model):
    """Return the training loss and the validation accuracy, batch norm re-estimated."""
    clean = copy.deepcopy(model)
    mrfq.nn.reestimate(clean, [(inputs, targets)])
    x, y = data["validation"]
    accuracy = 100 * float((clean(x).argmax(1) == y).float().mean())
    return float(cross_entropy(3 * clean(inputs), targets)), accuracy


# %%
# Training
# --------
# Three methods from the same float weights: proximal mean-field, stable mirror descent, and BinaryConnect, whose weights
# are rounded at every step. Batch norm follows every layer, so that levels need no scale; the last one caps the outputs,
# which are therefore multiplied by 3.


def train(method, rate):
    """Return the discrete network and what happened after each pass."""
    model = digits.perceptron((64, 128, 64, 10), seed=0)
    adam = torch.optim.Adam(parameter_groups(model, labels="binary"), lr=rate)
    optimizer = LabelOptimizer(
        adam, method=method, steps=EPOCHS * (len(inputs) // BATCH)
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, optimizer.steps)
    history = {"soft": [], "rounded": [], "entropy": [], "beta": [], "weights": []}
    for _ in range(EPOCHS):
        for x, y in batches():
            optimizer.zero_grad()
            cross_entropy(3 * model(x), y).backward()
            optimizer.step()
            cosine.step()
        history["soft"].append(loss_of(model)[0])
        history["weights"].append(model[0].weight.detach().flatten().clone())
        with optimizer.quantized():
            history["rounded"].append(loss_of(model)[0])
        statistics = optimizer.statistics()
        history["entropy"].append(statistics["entropy"] / np.log(2))
        history["beta"].append(statistics["beta"])
    optimizer.finalize(model, [(inputs, targets)])
    return model, history


methods = {"pmf": 3e-3, "md-tanh-s": 1e-2, "bc": 1e-2}
models, histories = {}, {}
for method, rate in methods.items():
    models[method], histories[method] = train(method, rate)
    loss, accuracy = loss_of(models[method])
    print(f"{method:10} training loss {loss:.4f}   validation {accuracy:.1f} %")

# %%
# The gap between the soft network and the rounded one closes as the weights decide. BinaryConnect has no gap: it pays by
# gradients that belong to other weights than those it moves.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
passes = np.arange(1, EPOCHS + 1)
for (method, history), colour in zip(
    histories.items(), ("C0", "C1", "C2"), strict=True
):
    left.semilogy(passes, history["rounded"], color=colour, label=method)
    if method != "bc":
        left.semilogy(passes, history["soft"], color=colour, ls=":")
        right.plot(passes, history["entropy"], color=colour, label=method)
left.set(
    xlabel="pass over the data",
    ylabel="training loss",
    title="Rounded (lines) and soft (dotted)",
)
right.set(
    xlabel="pass over the data",
    ylabel="mean entropy, in bits",
    title="How undecided the weights are",
)
left.legend()
right.legend()
plt.show()

# %%
# The weights
# -----------
# The first layer of proximal mean-field on its way.

history = histories["pmf"]
moments = [1, EPOCHS // 4, EPOCHS // 2, EPOCHS]
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), sharex=True)
for ax, moment in zip(axes, moments, strict=True):
    ax.hist(history["weights"][moment - 1].numpy(), bins=41, range=(-1.02, 1.02))
    beta = history["beta"][moment - 1]
    ax.set(title=rf"pass {moment}, $\beta$ = {beta:.3g}", xlabel="weight", yticks=[])
    ax.grid(visible=False)
plt.show()

# sphinx_gallery_thumbnail_number = 2
for method, found in histories.items():
    signs = torch.stack(found["weights"]).sign()
    changes = (signs[1:] != signs[:-1]).double().mean(1)
    early, late = (100 * float(part.sum()) for part in changes.tensor_split(2))
    print(
        f"{method:10} sign changes a 100 weights: {early:.0f} in the first half, {late:.0f} in the second"
    )

# %%
# The file
# --------
# One bit a weight, and what batch norm keeps.

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model.safetensors")
    mrfq.save(models["pmf"], path)
    size = os.path.getsize(path)
    fresh = mrfq.load(path, digits.perceptron((64, 128, 64, 10)).eval())
count = sum(p.numel() for p in fresh.parameters())
same = torch.equal(fresh(inputs), models["pmf"](inputs))
print(
    f"{4 * count:,} bytes of float weights, a file of {size:,} bytes; same outputs: {same}"
)
