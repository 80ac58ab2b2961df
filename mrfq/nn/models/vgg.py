"""VGG-16 for small images: configuration D of Simonyan and Zisserman, with batch norm and a small head."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mrfq.nn.models.layers import Shape, conv3x3

#: channels of the convolutions; each row ends in a halving
ROWS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 512


def vgg16(shape: Shape, affine: bool) -> nn.Sequential:
    """Return 13 convolutions and the layers 512-512-classes; batch norm after all but the last, which has a bias."""
    shape.at_least(2 ** len(ROWS), "vgg16")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, number = shape.channels, 0
    for row, widths in enumerate(ROWS, 1):
        for width in widths:
            number += 1
            layers[f"conv{number}"] = conv3x3(channels, width)
            layers[f"bn{number}"] = nn.BatchNorm2d(width, affine=affine)
            layers[f"relu{number}"] = nn.ReLU()
            channels = width
        layers[f"pool{row}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    features = channels * (shape.height >> len(ROWS)) * (shape.width >> len(ROWS))
    for index, inputs in enumerate((features, HIDDEN), 1):
        layers[f"fc{index}"] = nn.Linear(inputs, HIDDEN, bias=False)
        layers[f"bn{number + index}"] = nn.BatchNorm1d(HIDDEN, affine=affine)
        layers[f"relu{number + index}"] = nn.ReLU()
    layers["fc3"] = nn.Linear(HIDDEN, shape.classes)
    return nn.Sequential(layers)
