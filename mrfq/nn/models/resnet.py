"""Residual networks for small images: a 3x3 stem, stages of basic blocks, averages over the pixels, one layer.

`resnet18` is the ImageNet network with that stem (stages of 64, 128, 256 and 512 channels, 1x1 convolutions in the
shortcuts that change shape). `resnet20` ... `resnet56` are those of He et al. (2016), section 4.2: 16, 32 and 64
channels, shortcuts without parameters (their option A: every second pixel, zeros for the new channels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from mrfq.nn.models.layers import Shape, conv3x3

Shortcut = Callable[[int, int, int, bool], nn.Module]


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros in front of and behind the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.front = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.front

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, ceil(H / stride), ceil(W / stride)) of (n, inputs, H, W)."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.front, self.behind))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to what came in."""

    def __init__(self, inputs: int, outputs: int, stride: int, affine: bool, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs, affine=affine)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs, affine=affine)
        changes = stride != 1 or inputs != outputs
        self.shortcut = shortcut(inputs, outputs, stride, affine) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, ceil(H / stride), ceil(W / stride)) of (n, inputs, H, W)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stages of basic blocks; every stage but the first halves the image.

    Parameters
    ----------
    shape : Shape
    blocks, widths : sequence of int
        Blocks and channels of each stage.
    affine : bool
        Whether batch norm has a weight and a bias for every channel.
    shortcut : callable
        Of (inputs, outputs, stride, affine): the shortcut around a block that changes the shape.
    """

    def __init__(
        self, shape: Shape, blocks: Sequence[int], widths: Sequence[int], affine: bool, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(shape.channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0], affine=affine)
        self._stages = [f"layer{index}" for index in range(1, len(blocks) + 1)]
        channels = widths[0]
        for name, count, width in zip(self._stages, blocks, widths, strict=True):
            strides = [1 if name == "layer1" else 2] + [1] * (count - 1)
            sources = [channels] + [width] * (count - 1)
            stage = [BasicBlock(c, width, s, affine, shortcut) for c, s in zip(sources, strides, strict=True)]
            self.add_module(name, nn.Sequential(*stage))
            channels = width
        self.linear = nn.Linear(channels, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes) of images (n, C, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for name in self._stages:
            x = getattr(self, name)(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def resnet18(shape: Shape, affine: bool) -> ResNet:
    """Return ResNet-18 with a 3x3 stem and no pooling after it."""
    return ResNet(shape, (2, 2, 2, 2), (64, 128, 256, 512), affine, _projection)


def narrow(depth: int) -> Callable[[Shape, bool], ResNet]:
    """Return what makes the narrow network with 6 k + 2 layers."""
    blocks = ((depth - 2) // 6,) * 3

    def make(shape: Shape, affine: bool) -> ResNet:
        return ResNet(shape, blocks, (16, 32, 64), affine, _padding)

    return make


def _projection(inputs: int, outputs: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs, affine=affine)
    )


def _padding(inputs: int, outputs: int, stride: int, affine: bool) -> nn.Module:
    return PadShortcut(inputs, outputs, stride)
