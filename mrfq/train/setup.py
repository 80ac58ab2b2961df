"""What a run is made of: its images, its network, its batches."""

from __future__ import annotations

import copy
import zlib
from pathlib import Path

from torch import nn

from mrfq.errors import InvalidParameterError
from mrfq.nn.images import IMAGENET, Augment, ImageBatches, ImageData, load_images
from mrfq.nn.models import build, load_pretrained
from mrfq.nn.packed import load
from mrfq.runs.evaluation import check_outputs
from mrfq.train.settings import Settings


def images(settings: Settings) -> ImageData:
    """Return the images of a run, on its device."""
    return load_images(
        settings.dataset,
        settings.data,
        device=settings.device,
        validation=settings.validation,
        normalise=IMAGENET if settings.normalise == "imagenet" else None,
    )


def training_batches(settings: Settings, data: ImageData) -> ImageBatches:
    """Return the shuffled, augmented training images of resolved settings."""
    assert settings.batch_size is not None
    n = len(data.train)
    if settings.batch_size > n:
        raise InvalidParameterError(f"batch_size {settings.batch_size} is more than the {n} training images")
    augment = Augment(shift=settings.shift or 0, flip=bool(settings.flip), crop=settings.crop or 0)
    return ImageBatches(data, data.train, settings.batch_size, seed=settings.seed, augment=augment)


def network(settings: Settings, data: ImageData) -> nn.Module:
    """Return the network of a run with its initial weights, in training mode on its device."""
    channels, height, width = data.shape
    size = height if height == width else (height, width)
    model = build(
        settings.model, channels=channels, size=size, classes=data.classes, affine=settings.affine, seed=settings.seed
    )
    if settings.init is not None:
        start_from(model, Path(settings.init))
    check_outputs(model.to(settings.device), data)
    return model.train()


def start_from(model: nn.Module, path: Path) -> None:
    """Copy the weights in a file, packed or pretrained, into a network."""
    if not path.is_file():
        raise InvalidParameterError(f"init {path}: there is no such file")
    if path.suffix == ".safetensors":
        loaded = load(path, copy.deepcopy(model))  # a copy, so that no grid of the file clings to the parameters
        model.load_state_dict(loaded.state_dict())
    else:
        load_pretrained(path, model)


def fingerprint(data: ImageData) -> int:
    """Return a checksum of all images and labels, so that a run goes on with the data it began with."""
    found = 0
    for split in (data.train, data.validation, data.test):
        for part in (split.images, split.labels):
            found = zlib.crc32(part.cpu().contiguous().numpy().tobytes(), found)
    return found
