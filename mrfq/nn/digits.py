"""The embedded quantization benchmark: networks on scikit-learn's handwritten digits (1,797 real images of 8x8).

The split is fixed; the seed is that of the float network and of the order of the batches. The test images are
only ever evaluated, never used to choose anything.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from mrfq.errors import MrfqError
from mrfq.nn.loss import NetworkLoss
from mrfq.nn.selection import Levels

Split = tuple[Tensor, Tensor]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Task:
    """A quantization problem and the means to grade a labelling of it."""

    problem: NetworkLoss
    #: accuracies (percent) and losses of the float network
    float_metrics: dict[str, float]
    data: dict[str, Split]

    def evaluate(self, labels: Tensor) -> dict[str, float]:
        """Return accuracies (percent) and losses of the quantized network, batch norm re-estimated."""
        return grade(self.problem.network(labels), self.data, self.problem.loss)


@lru_cache(maxsize=4)
def load(pool: int = 1) -> dict[str, Split]:
    """Return the images as (m, 64 / pool^2) float32 in [0, 1] and their classes, split 60 : 20 : 20 by class.

    Parameters
    ----------
    pool : int
        Side of the squares of pixels that are averaged.

    Raises
    ------
    MrfqError
        scikit-learn, which carries the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MrfqError("the digits come with scikit-learn: pip install 'mrfq[digits]'") from error
    images, classes = load_digits(return_X_y=True)
    train, rest, y_train, y_rest = train_test_split(images, classes, test_size=0.4, random_state=0, stratify=classes)
    validation, test, y_validation, y_test = train_test_split(
        rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
    )
    parts = zip((train, validation, test), (y_train, y_validation, y_test), strict=True)
    return {name: (_pooled(x, pool), torch.as_tensor(y)) for name, (x, y) in zip(SPLITS, parts, strict=True)}


def perceptron(
    sizes: Sequence[int], *, batch_norm: bool = True, activation: type[nn.Module] = nn.ReLU, seed: int = 0
) -> nn.Sequential:
    """Return a fully connected network without biases; with batch norm after every layer, affine off.

    Batch norm absorbs the scale of the weights, so that levels need none; it also caps the logits of the last
    layer, which is why the losses here multiply them.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(fan_out, fan_in, generator=generator) * (2 / fan_in) ** 0.5)
        layers += [layer, *([nn.BatchNorm1d(fan_out, affine=False)] if batch_norm else []), activation()]
    return nn.Sequential(*layers[:-1])


def scaled_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of three times the logits, which batch norm without affine would cap too low."""
    return nn.functional.cross_entropy(3 * outputs, targets)


def train(
    model: nn.Module, problem: NetworkLoss, *, epochs: int = 100, rate: float = 0.01, weight_decay: float = 1e-4
) -> nn.Module:
    """Return a copy of the network trained in float on the batches of a problem: AdamW, rate decayed to 0."""
    model = copy.deepcopy(model).train()
    steps = epochs * problem.batches.count
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        inputs, targets = problem.batches.shuffled(step)
        optimizer.zero_grad()
        problem.loss(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def grade(model: nn.Module, data: dict[str, Split], loss: object = scaled_cross_entropy) -> dict[str, float]:
    """Return `<split>_accuracy` in percent and `<split>_loss` (cross-entropy in nats) for every split."""
    assert callable(loss)
    metrics = {}
    for name, (inputs, targets) in data.items():
        outputs = model(inputs)
        metrics[f"{name}_accuracy"] = 100 * float((outputs.argmax(1) == targets).double().mean())
        metrics[f"{name}_loss"] = float(loss(outputs, targets))
    return metrics


def digits_task(
    levels: Levels = "binary",
    *,
    hidden: Sequence[int] = (128, 64),
    batch_norm: bool = True,
    batch_size: int = 128,
    epochs: int = 100,
    seed: int = 0,
) -> Task:
    """Return the labelling of all weights of a float network trained on the digits.

    Parameters
    ----------
    levels : str or sequence of float
    hidden : sequence of int
        Sizes of the hidden layers.
    batch_norm : bool
        Without it, the levels of each layer are multiplied by a fitted scale.
    batch_size, epochs : int
        Of the float training; the problem uses the same batches.
    seed : int
    """
    data = load()
    trained = _float_network(tuple(hidden), batch_norm, batch_size, epochs, seed)
    problem = NetworkLoss(
        trained,
        scaled_cross_entropy,
        data["train"],
        labels=levels,
        scale=None if batch_norm else "tensor",
        batch_size=batch_size,
        seed=seed,
    )
    return Task(problem, grade(trained, data), data)


@lru_cache(maxsize=8)
def _float_network(hidden: tuple[int, ...], batch_norm: bool, batch_size: int, epochs: int, seed: int) -> nn.Module:
    """Return the trained network; the problems made of it copy it, so that one serves all level sets."""
    network = perceptron((64, *hidden, 10), batch_norm=batch_norm, seed=seed)
    untrained = NetworkLoss(network, scaled_cross_entropy, load()["train"], batch_size=batch_size, seed=seed)
    return train(network, untrained, epochs=epochs)


def digits_tiny_task(*, classes: tuple[int, int] = (3, 8), epochs: int = 300, seed: int = 0) -> Task:
    """Return a true quantization problem small enough to enumerate: 18 binary weights tell two digits apart.

    The images are averaged down to 4 pixels, which is not enough for ten classes; a network of 4 inputs, 3 hidden
    units and 2 outputs, with one fitted scale per layer, sees the full batch at every call, in float64.
    """
    data = {name: _two_classes(split, classes) for name, split in load(4).items()}
    network = perceptron((4, 3, 2), batch_norm=False, activation=nn.Tanh, seed=seed).double()
    untrained = NetworkLoss(network, scaled_cross_entropy, data["train"], scale="tensor", seed=seed)
    trained = train(network, untrained, epochs=epochs, rate=0.05)
    problem = NetworkLoss(trained, scaled_cross_entropy, data["train"], scale="tensor", seed=seed)
    return Task(problem, grade(trained, data), data)


def _pooled(images: object, pool: int) -> Tensor:
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return nn.functional.avg_pool2d(x, pool).flatten(1) if pool > 1 else x.flatten(1)


def _two_classes(split: Split, classes: tuple[int, int]) -> Split:
    inputs, targets = split
    rows = (targets == classes[0]) | (targets == classes[1])
    return inputs[rows].double(), (targets[rows] == classes[1]).long()
