"""Real layers: weights, and the Gram matrices of their inputs on calibration data and on held-out data.

The inputs are those of the float network. MiniLM reads text that comes with Python and Debian (`texts`); the CIFAR-10
networks see training images, those of the Gram matrix for measuring being the ones that `mrfq.nn.images` holds out
(never test images).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import minilm
import texts
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from mrfq.files import write_atomically
from mrfq.nn import models
from mrfq.nn.images import IMAGENET, ImageBatches, load_images

PRETRAINED = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
NETWORKS = ("minilm", *PRETRAINED)
#: texts (100 words or more each) or images that the Gram matrices are taken over: to calibrate, and held out
SIZES = {"minilm": (800, 256), "resnet20": (1024, 1024), "resnet56": (1024, 1024)}
BATCH = {"minilm": 16, "resnet20": 64, "resnet56": 64}


@dataclass(frozen=True)
class Source:
    """Which network on which data; plain, so that results can be filed under it.

    Attributes
    ----------
    model : str
        One of `NETWORKS`.
    calibration, held_out : int
        Texts or images.
    seed : int
        Of the draw of the calibration data.
    centred : bool
        Covariances instead of second moments: right where a bias or batch norm takes up the mean.
    """

    model: str
    calibration: int
    held_out: int
    seed: int = 0
    centred: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer: weight (R, C) and Gram matrices (C, C) of its inputs, a mean over their rows; float32."""

    name: str
    weight: Tensor
    gram: Tensor
    held_out: Tensor


class InputMoments:
    """Sums over the inputs of the layers of a network, while it runs inside `with`.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(2, 1))
    >>> with InputMoments({"0": network[0]}) as moments:
    ...     output = network(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> moments.gram("0", centred=False)
    tensor([[5., 1.],
            [1., 2.]])
    >>> moments.gram("0", centred=True)
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self._layers = layers
        self._sums: dict[str, tuple[int, Tensor, Tensor]] = {}
        self._hooks: list[Any] = []
        self._last: tuple[Tensor, nn.Module, tuple[int, Tensor, Tensor]] | None = None

    def __enter__(self) -> InputMoments:
        self._hooks = [module.register_forward_pre_hook(self._hook(name)) for name, module in self._layers.items()]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._last = None

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            count, total, product = self._of_batch(module, inputs[0])
            if name in self._sums:
                before = self._sums[name]
                count, total, product = before[0] + count, before[1] + total, before[2] + product
            self._sums[name] = count, total, product

        return hook

    def _of_batch(self, module: nn.Module, x: Tensor) -> tuple[int, Tensor, Tensor]:
        """Return count, sum and products of the rows of an input; query, key and value share theirs."""
        linear = isinstance(module, nn.Linear)
        if linear and self._last is not None and self._last[0] is x and isinstance(self._last[1], nn.Linear):
            return self._last[2]
        rows = input_rows(module, x.detach())
        found = len(rows), rows.double().sum(0), (rows.T @ rows).double()
        self._last = x, module, found
        return found

    def gram(self, name: str, *, centred: bool) -> Tensor:
        """Return the mean over the rows of x x^T, or of (x - mean) (x - mean)^T; float32 (C, C).

        Raises
        ------
        KeyError
            No input has reached the layer.
        """
        count, total, product = self._sums[name]
        mean = total / count
        return (product / count - (torch.outer(mean, mean) if centred else 0)).float()


def input_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Return the inputs of a layer as rows (n, C), one for every output position of a convolution."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, module.in_features)
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or isinstance(module.padding, str):
        raise ValueError(f"no inputs as rows for {module}")
    columns = functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def layers_of(source: Source, data: str | Path | None = None, cache: Path | None = None) -> list[Layer]:
    """Return the layers of a network with their Gram matrices, in the order of its modules.

    Parameters
    ----------
    source : Source
    data : str or path, optional
        Folder that holds `cifar10` and `pretrained`; MiniLM needs none.
    cache : path, optional
        Folder to keep Gram matrices in; they are reused if network, settings and texts are the same.
    """
    network, calibration, held_out, mark = _opened(source, data)
    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    name = "-".join(str(value) for value in asdict(source).values())
    path = None if cache is None else cache / f"moments-{name}-{mark}.safetensors"
    if path is not None and path.exists():
        grams = load_file(path)
    else:
        grams = {
            f"{half} {name}": gram
            for half, batches in (("calibration", calibration), ("held out", held_out))
            for name, gram in _grams(network, layers, batches, source.centred).items()
        }
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(grams))
    return [
        Layer(name, module.weight.detach().flatten(1), grams[f"calibration {name}"], grams[f"held out {name}"])
        for name, module in layers.items()
    ]


def chosen(layers: list[Layer], pattern: str | None = None, limit: int | None = None) -> list[Layer]:
    """Return the layers that a shell pattern matches, at most so many of them, spread over the network."""
    found = [layer for layer in layers if pattern is None or fnmatch(layer.name, pattern)]
    if limit is None or limit >= len(found):
        return found
    return [found[(2 * i + 1) * len(found) // (2 * limit)] for i in range(limit)]


@torch.inference_mode()
def _grams(
    network: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Any], centred: bool
) -> dict[str, Tensor]:
    with InputMoments(layers) as moments:
        for batch in batches:
            network(**batch) if isinstance(batch, dict) else network(batch)
    return {name: moments.gram(name, centred=centred) for name in layers}


def _opened(source: Source, data: str | Path | None) -> tuple[nn.Module, Iterable[Any], Iterable[Any], str]:
    """Return the network, both kinds of batches, and what stands for the data in the name of a file."""
    size = BATCH[source.model]
    if source.model == "minilm":
        network, tokenizer = minilm.load_minilm()
        both = (
            texts.calibration_texts(source.calibration, seed=source.seed),
            texts.held_out_texts(source.held_out),
        )
        batches = [minilm.token_batches(tokenizer, drawn, size) for drawn in both]
        return network, *batches, texts.fingerprint(both[0] + both[1])
    if data is None:
        raise ValueError(f"{source.model} needs the folder of the data sets")
    return *_images(source, Path(data), size), "images"


def _images(source: Source, data: Path, size: int) -> tuple[nn.Module, Iterable[Tensor], Iterable[Tensor]]:
    network = models.build(source.model, channels=3, size=32, classes=10)
    models.load_pretrained(data / "pretrained" / PRETRAINED[source.model], network)
    images = load_images("cifar10", data, normalise=IMAGENET)
    train = ImageBatches(images, "train", size, seed=source.seed)
    calibration = (train.shuffled(draw)[0] for draw in range(source.calibration // size))
    held_out = (x for x, _ in ImageBatches(images, images.validation.head(source.held_out), size, seed=0))
    return network.eval(), calibration, held_out
