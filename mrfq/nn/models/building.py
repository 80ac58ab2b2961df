"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from mrfq.errors import UnknownNameError
from mrfq.nn.models import lenet, resnet, vgg
from mrfq.nn.models.factories import factory, is_spec
from mrfq.nn.models.layers import Shape, Size, seeded


@dataclass(frozen=True)
class Model:
    """A network that has a name."""

    make: Callable[[Shape, bool], nn.Module]
    #: whether batch norm has a weight and a bias for every channel, unless the user says otherwise
    affine: bool
    summary: str


_NARROW = "residual network of {} layers, 16 to 64 channels (He et al., CIFAR)"

#: the networks, by name; iterating gives the names
MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "lenet300": Model(lenet.lenet300, False, "fully connected, pixels-300-100-classes"),
        "lenet5": Model(lenet.lenet5, False, "convolutional, 20@5x5, 50@5x5, 500, classes; from 16x16 pixels"),
        "vgg16": Model(vgg.vgg16, False, "13 convolutions and 512-512-classes; from 32x32 pixels"),
        "resnet18": Model(resnet.resnet18, False, "residual network of 18 layers, 64 to 512 channels, 3x3 stem"),
        **{f"resnet{depth}": Model(resnet.narrow(depth), True, _NARROW.format(depth)) for depth in (20, 32, 44, 56)},
    }
)


def build(
    name: str, *, channels: int, size: Size, classes: int, affine: bool | None = None, seed: int = 0
) -> nn.Module:
    """Return a network with fresh weights, in training mode, on the CPU, in float32.

    Layers that a batch norm follows have no bias. In `lenet300` and `lenet5` a batch norm follows the last layer too;
    without its affine part it limits the logits, so that a loss should multiply them (by 3, say). Weights are drawn
    as torch's layers draw them, from a generator of its own: torch's global ones are left as they were.

    Parameters
    ----------
    name : str
        One of `MODELS`, or `"package.module:factory"`; `factory` says how that is called.
    channels : int
        Of the images (n, channels, height, width) that the network takes.
    size : int or (int, int)
        Height and width of the images; one number stands for both.
    classes : int
        Outputs of the network.
    affine : bool, optional
        Whether batch norm has a weight and a bias for every channel. By default only the `resnet20` ... `resnet56`
        have them, as their published weights do.
    seed : int
        Of the first weights.

    Raises
    ------
    UnknownNameError
        No network has the name.
    InvalidParameterError
        A number below 1, images too small for the network, or a factory that fails.

    References
    ----------
    Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015. He, Zhang,
    Ren and Sun, Deep residual learning for image recognition, CVPR 2016. Ajanthan, Dokania, Hartley and Torr,
    Proximal mean-field for neural network quantization, ICCV 2019 (the settings of `lenet300` to `resnet18`).

    Examples
    --------
    >>> import torch
    >>> network = build("lenet300", channels=1, size=28, classes=10, seed=0)
    >>> network(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    >>> sum(p.numel() for p in network.parameters())
    266200
    """
    if is_spec(name):
        offered: dict[str, object] = {"channels": channels, "size": size, "classes": classes}
        required = {} if affine is None else {"affine": affine}
        return factory(name, seed=seed, required=required, **offered)
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    model = MODELS[name]
    with seeded(seed):
        return model.make(Shape.of(channels, size, classes), model.affine if affine is None else affine)
