"""`Settings`: everything that decides what a training run computes, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from mrfq.runs.settings import chosen_here
from mrfq.train import defaults
from mrfq.train.checks import check_settings
from mrfq.train.defaults import default_rate


@dataclass(frozen=True)
class Settings:
    """A training run as plain data; None stands for the default of the data set, the method or the network.

    Parameters
    ----------
    model : str
        "lenet300", "lenet5", "vgg16", "resnet18", "resnet20", "resnet32", "resnet44", "resnet56", or
        "package.module:factory" for a network of one's own.
    dataset : {"digits", "mnist", "cifar10"}
    data : str, optional
        Folder of the images; the digits need none.
    method : str
        A method of `mrfq.nn.LabelOptimizer`, or "float" for the network without quantization.
    levels : str or tuple of float
        "binary", "ternary", "2bit"..., or ascending numbers.
    epochs : int, optional
        Passes over the training images.
    seed : int
        Of the initial weights, the order of the images, their augmentation and dropout.
    device : str
        "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1"...
    batch_size : int, optional
    optimizer : {"adam", "adamw", "sgd"}, optional
    rate : float, optional
        The learning rate at the start.
    momentum : float
        Of SGD; the first beta of Adam and AdamW.
    weight_decay : float, optional
    nesterov : bool
        For SGD.
    decay : {"cosine", "constant", "milestones"}
        How the rate falls: along half a cosine to 0, not at all, or by `factor` at each of `milestones`.
    milestones : tuple of float
        Fractions of the run, ascending, between 0 and 1.
    factor : float
    logit_scale : float, optional
        The loss is the cross-entropy of this multiple of the outputs. By default 3 where the network ends in a
        batch norm without affine, which caps the outputs; else 1.
    label_smoothing : float
    shift, crop : int, optional
        Random translations of the training images, in pixels.
    flip : bool, optional
        Random horizontal reflections of the training images.
    scale : "none", "tensor", "channel" or int
        What shares a fitted factor of the levels: nothing, a tensor, an output channel, a group of so many weights.
    refit_every : int, optional
        Steps between two fits of the factors.
    projection, carry, pull, schedule, start : str, dict, float, optional
        Parts of the method to exchange: `schedule = { kind = "Geometric", first = 1, last = 1e4 }`,
        `projection = "SoftStaircase"`, `carry = "dual"`, `pull = "surrogate"`, `start = "levels"`.
    parameters : tuple of str, optional
        Names or shell patterns of what is quantized; by default everything but normalisation layers.
    init : str, optional
        A file with the weights to start from: `model.safetensors` of an earlier run, or a pretrained `.th`.
    float_summary : str, optional
        The `summary.json` of the run that made the float network; by default the one next to `init`, if any.
    affine : bool, optional
        Whether the batch norms of the built-in networks have factors and offsets of their own.
    validation : int, optional
        Number of images held out of the training set.
    normalise : {"data", "imagenet"}, optional
        Mean and deviation of the inputs: those of the training images, or ImageNet's, which pretrained `.th` files
        expect and which are the default with them.
    amp : bool
        bfloat16 autocast in the training steps; evaluations are always in float32.
    compile : bool
        torch.compile for the training steps.
    threads : int, optional
        Of torch on the CPU.
    checkpoint_every, validate_every : int
        Epochs.
    limit_steps : int, optional
        The run has no more steps than this; all schedules shrink with it. For trials.

    Raises
    ------
    InvalidParameterError, UnknownNameError
        A value of the wrong type or outside its domain, or a name that does not exist.

    Examples
    --------
    >>> settings = Settings("lenet300", "digits", method="bc", epochs=3)
    >>> settings.levels, settings.rate
    ('binary', None)
    """

    FREE: ClassVar[frozenset[str]] = frozenset({"data", "checkpoint_every"})
    PATHS: ClassVar[tuple[str, ...]] = ("data", "init", "float_summary")

    model: str
    dataset: str
    data: str | None = None
    method: str = "pmf"
    levels: str | tuple[float, ...] = "binary"
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    rate: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    nesterov: bool = False
    decay: Literal["cosine", "constant", "milestones"] = "cosine"
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    factor: float = 0.2
    logit_scale: float | None = None
    label_smoothing: float = 0.0
    shift: int | None = None
    flip: bool | None = None
    crop: int | None = None
    scale: Literal["none", "tensor", "channel"] | int = "none"
    refit_every: int | None = None
    projection: str | dict[str, Any] | None = None
    carry: str | None = None
    pull: str | None = None
    schedule: float | dict[str, Any] | None = None
    start: Literal["weights", "levels"] | None = None
    parameters: tuple[str, ...] | None = None
    init: str | None = None
    float_summary: str | None = None
    affine: bool | None = None
    validation: int | None = None
    normalise: Literal["data", "imagenet"] | None = None
    amp: bool = False
    compile: bool = False
    threads: int | None = None
    checkpoint_every: int = 1
    validate_every: int = 1
    limit_steps: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.parameters, str):
            object.__setattr__(self, "parameters", (self.parameters,))
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        check_settings(self)

    @property
    def quantized(self) -> bool:
        """Whether weights are quantized."""
        return self.method != defaults.FLOAT

    def resolved(self) -> Settings:
        """Return the settings with the defaults of the data set, the method and the machine written out.

        The logit scale depends on the network: see `for_model`.

        Examples
        --------
        >>> made = Settings("lenet300", "mnist", data="mnist", device="cpu").resolved()
        >>> made.epochs, made.batch_size, made.optimizer, made.rate
        (20, 100, 'adam', 0.003)
        """
        known = defaults.BY_DATASET[self.dataset]
        found: dict[str, Any] = {name: value for name, value in known.items() if getattr(self, name) is None}
        if self.shift or self.crop:  # one of the two, so the default of the other gives way
            found |= {name: 0 for name in ("shift", "crop") if getattr(self, name) is None}
        optimizer = self.optimizer or defaults.default_optimizer(self.method, self.pull, self.dataset)
        found["optimizer"] = optimizer
        if self.rate is None:
            found["rate"] = default_rate(self.method, optimizer, self.dataset)
        if self.weight_decay is None:
            found["weight_decay"] = defaults.default_weight_decay(self.method, optimizer)
        if self.normalise is None:
            found["normalise"] = "imagenet" if Path(self.init or "").suffix == ".th" else "data"
        return dataclasses.replace(self, **found, **chosen_here(self))

    def for_model(self, model: nn.Module) -> Settings:
        """Return the settings with the logit scale that a network needs."""
        if self.logit_scale is not None:
            return self
        return dataclasses.replace(self, logit_scale=defaults.default_logit_scale(model))
