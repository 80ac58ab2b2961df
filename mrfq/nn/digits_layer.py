"""One layer of the embedded benchmark as a problem: real weights, and the real inputs that reach them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from mrfq.errors import InvalidParameterError
from mrfq.layerwise.instances import layer_problem
from mrfq.nn.digits import load, perceptron, scaled_cross_entropy, train
from mrfq.nn.loss import NetworkLoss
from mrfq.problems.layer import LayerQuadratic

SIZES = (64, 128, 64, 10)


def digits_layer(
    layer: int = 1, levels: str = "2bit", *, rows: int = 0, epochs: int = 100, seed: int = 0
) -> LayerQuadratic:
    """Return one layer of a 64-128-64-10 network trained on scikit-learn's digits, with its output error as the energy.

    The metric is the covariance of the inputs that the training images give the layer; batch norm follows, and takes
    care of the mean. The network and its inputs are those of the kind "digits".

    Parameters
    ----------
    layer : int
        0, 1 or 2.
    levels : str
        See `mrfq.layerwise.instances.layer_problem`.
    rows : int
        Only so many of the first rows; 0 for all.
    epochs : int
        Of the float training.
    seed : int
        Of the float network.

    Raises
    ------
    InvalidParameterError
        A layer or levels that do not exist.
    MrfqError
        scikit-learn, which carries the images, is not installed.
    """
    if layer not in range(len(SIZES) - 1) or rows < 0:
        raise InvalidParameterError(f"digits-layer: layer 0, 1 or 2 and rows of at least 0, got {layer} and {rows}")
    weight, gram = _layers(epochs, seed)[layer]
    return layer_problem(weight[: rows or None], gram, levels)


@lru_cache(maxsize=4)
def _layers(epochs: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return weight and covariance of the inputs of every layer, in double precision."""
    split = load()["train"]
    network = perceptron(SIZES, seed=seed)
    trained = train(
        network, NetworkLoss(network, scaled_cross_entropy, split, batch_size=128, seed=seed), epochs=epochs
    )
    assert isinstance(trained, nn.Sequential)
    found, x = [], split[0]
    with torch.no_grad():
        for module in trained:
            if isinstance(module, nn.Linear):
                found.append((module.weight.double(), torch.cov(x.double().T, correction=0)))
            x = module(x)
    return found
