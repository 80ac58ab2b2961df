"""The two small networks for MNIST, with batch norm after every layer, the last one included."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mrfq.nn.models.layers import Shape

#: the smallest side on which two rounds of a 5x5 convolution and halving leave a pixel
SMALLEST_LENET5 = 16


def lenet300(shape: Shape, affine: bool) -> nn.Sequential:
    """Return the fully connected network pixels-300-100-classes."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(shape.pixels, 300, bias=False),
            bn1=nn.BatchNorm1d(300, affine=affine),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100, bias=False),
            bn2=nn.BatchNorm1d(100, affine=affine),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, shape.classes, bias=False),
            bn3=nn.BatchNorm1d(shape.classes, affine=affine),
        )
    )


def lenet5(shape: Shape, affine: bool) -> nn.Sequential:
    """Return the convolutional network 20@5x5, 50@5x5, 500, classes, with max pooling after each convolution."""
    shape.at_least(SMALLEST_LENET5, "lenet5")
    height, width = (_pooled(_pooled(side)) for side in (shape.height, shape.width))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape.channels, 20, 5, bias=False),
            bn1=nn.BatchNorm2d(20, affine=affine),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5, bias=False),
            bn2=nn.BatchNorm2d(50, affine=affine),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * height * width, 500, bias=False),
            bn3=nn.BatchNorm1d(500, affine=affine),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, shape.classes, bias=False),
            bn4=nn.BatchNorm1d(shape.classes, affine=affine),
        )
    )


def _pooled(side: int) -> int:
    """Return what a 5x5 convolution without padding and a halving leave of a side."""
    return (side - 4) // 2
