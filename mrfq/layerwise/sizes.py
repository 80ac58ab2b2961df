r"""What a network of vector codebooks takes, by the formula of "And the bit goes down" (Stock et al., ICLR 2020).

.. math:: \Big[\sum_l \frac{\log_2 K_l}{d_l} \frac{n_l}{8} + \sum_l 2 K_l d_l + 4 m\Big] / 2^{20}

in MB, over layers of n weights in blocks of d with K codewords in float16, and m parameters that stay float32. The
number of codewords is clamped by `VectorSpec.clamped`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mrfq.errors import InvalidParameterError
from mrfq.layerwise.spec import VectorSpec

MEGABYTE = 2**20
FLOAT_BYTES = 4


def block_size(shape: Sequence[int], *, large: bool = False, pointwise: int | None = None) -> int:
    """Return the width of a block that was published for a layer of this kind.

    Blocks of 3x3 convolutions are one kernel, large ones two; those of 1x1 convolutions 4 input channels, large ones 8,
    and of linear layers 4 inputs.

    Parameters
    ----------
    shape : sequence of int
        Of the weight: (outputs, inputs) or (outputs, inputs, height, width).
    large : bool
        The large blocks of the stronger compression.
    pointwise : int, optional
        Another width for 1x1 convolutions: the published ResNet-18 has 4 there with large blocks too.

    Raises
    ------
    InvalidParameterError
        A shape with another number of axes.

    Examples
    --------
    >>> [block_size(shape) for shape in ((64, 64, 3, 3), (128, 64, 1, 1), (1000, 512))]
    [9, 4, 4]
    """
    if len(shape) == 2:
        return 4
    if len(shape) != 4:
        raise InvalidParameterError(f"a weight needs 2 axes (linear) or 4 (convolution), got shape {tuple(shape)}")
    kernel = shape[2] * shape[3]
    if kernel == 1:
        return pointwise or (8 if large else 4)
    return kernel * (2 if large else 1)


def coded_bytes(weights: int, spec: VectorSpec, name: str = "") -> float:
    """Return what the labels and the codewords of a layer take, after the number of codewords is clamped.

    Parameters
    ----------
    weights : int
        Of the layer; the width of a block divides them.
    spec : VectorSpec
    name : str
        Of the layer, for messages.

    Examples
    --------
    >>> coded_bytes(64 * 576, VectorSpec(9, 256))
    8704.0
    """
    blocks = spec.blocks(1, weights, name)
    return spec.clamped(blocks).bits(1, weights) / 8


def network_megabytes(layers: Iterable[tuple[Sequence[int], VectorSpec]], float_parameters: int) -> float:
    """Return the size of a network in MB (2^20 bytes).

    Parameters
    ----------
    layers : iterable of (shape, VectorSpec)
        The shapes of the quantized weights, and their codebooks.
    float_parameters : int
        Parameters that are stored as float32: weights of layers that are not quantized, biases, weights and biases of
        batch norms (not their statistics).

    Raises
    ------
    InvalidParameterError
        Blocks that do not divide a layer.

    Examples
    --------
    >>> round(network_megabytes([((512, 512, 3, 3), VectorSpec(9, 256))], float_parameters=1024), 3)
    0.258
    """
    coded = sum(coded_bytes(math.prod(shape), spec, str(tuple(shape))) for shape, spec in layers)
    return (coded + FLOAT_BYTES * float_parameters) / MEGABYTE
