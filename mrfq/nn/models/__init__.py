"""Networks to quantize: those of the papers by name, and the user's own as ``package.module:factory``.

The modules: `layers` (what they are made of), `lenet`, `vgg` and `resnet` (the networks), `building` (by name),
`factories` (the user's own), `pretrained` (weights of published CIFAR-10 networks).
"""

from mrfq.nn.models.building import MODELS, build
from mrfq.nn.models.factories import factory
from mrfq.nn.models.pretrained import load_pretrained

__all__ = ["MODELS", "build", "factory", "load_pretrained"]
