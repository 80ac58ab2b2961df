"""What a run uses where its settings are silent: by data set, by method, by network."""

from __future__ import annotations

from typing import Any

from torch import nn

from mrfq.nn.batch_norm import batch_norms
from mrfq.nn.methods import METHODS

#: data sets and what their runs use
BY_DATASET: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 100, "batch_size": 128, "shift": 0, "flip": False, "crop": 0},
    "mnist": {"epochs": 20, "batch_size": 100, "shift": 0, "flip": False, "crop": 0},
    "cifar10": {"epochs": 200, "batch_size": 128, "shift": 0, "flip": True, "crop": 4},
}
#: the method that trains the network without quantizing it
FLOAT = "float"
#: pulls that leave the size of gradients as it is
UNSCALED = ("identity", "clipped")
#: rates of Adam and AdamW on the latents of a method
ADAM_RATES = {FLOAT: 1e-3, "bc": 1e-2, "md-tanh-s": 1e-2, "gd-tanh": 1e-2}
ADAM_RATE, SGD_RATE = 3e-3, 0.1
#: a last batch norm without affine caps the logits, whose scale the loss then has to supply
CAPPED_LOGITS = 3.0


def default_optimizer(method: str, pull: str | None, dataset: str) -> str:
    """Return the optimiser of a method where none is given.

    SGD on CIFAR-10, as usual for these networks, but Adam for pulls that multiply gradients by beta: it grows to 1e4,
    and the steps of SGD would grow with it.

    Examples
    --------
    >>> default_optimizer("parq", None, "cifar10"), default_optimizer("pmf", None, "cifar10")
    ('sgd', 'adam')
    """
    if dataset != "cifar10":
        return "adam"
    plain = method == FLOAT or (pull or METHODS[method].pull) in UNSCALED
    return "sgd" if plain else "adam"


def default_rate(method: str, optimizer: str, dataset: str) -> float:
    """Return the learning rate of a method where none is given.

    Parameters
    ----------
    method : str
        A method of `mrfq.nn.LabelOptimizer`, or "float".
    optimizer : {"adam", "adamw", "sgd"}
    dataset : str

    Examples
    --------
    >>> default_rate("pmf", "adam", "mnist"), default_rate("bc", "adam", "mnist"), default_rate("pmf", "sgd", "cifar10")
    (0.003, 0.01, 0.1)
    """
    return SGD_RATE if optimizer == "sgd" else ADAM_RATES.get(method, ADAM_RATE)


def default_weight_decay(method: str, optimizer: str) -> float:
    """Return the weight decay of a method where none is given: that of the usual float training with SGD."""
    if optimizer != "sgd":
        return 0.0
    return 5e-4 if method == FLOAT else 1e-4


def default_logit_scale(model: nn.Module) -> float:
    """Return what the logits are multiplied by in the loss: 3 where a batch norm without affine makes them, else 1.

    Examples
    --------
    >>> default_logit_scale(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False)))
    3.0
    >>> default_logit_scale(nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)))
    1.0
    """
    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    last = leaves[-1] if leaves else None
    return CAPPED_LOGITS if last in batch_norms(model) and not getattr(last, "affine", True) else 1.0
