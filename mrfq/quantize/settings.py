"""`Settings`: everything that decides what `mrfq quantize` computes, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from mrfq.layerwise.spec import parse_levels
from mrfq.nn.images import DATASETS
from mrfq.quantize.checks import check_settings
from mrfq.quantize.options import EVERY, Levels, Options
from mrfq.runs.settings import chosen_here

#: what the levels of a layer that is not quantized are called
FLOAT = "float"


@dataclass(frozen=True)
class Settings:
    """The quantization of a network as plain data; None stands for a default that the other settings decide.

    Parameters
    ----------
    model : str
        "lenet300", "lenet5", "vgg16", "resnet18", "resnet20", "resnet32", "resnet44", "resnet56", or
        "package.module:factory" for a network of one's own.
    calibration : str
        "digits", "mnist", "cifar10", or "package.module:function" for inputs of one's own.
    weights : str, optional
        The file with the float weights: .th, .pt, .pth, .bin or .safetensors. A factory may do without.
    data : str, optional
        Folder of the images; the digits need none. A function is offered it.
    levels : str
        The label set of the layers: "3bit-codebook", "2bit-uniform-g64", "ternary", "vector-9x256"...
    levels_for : dict of str to str
        Label sets of single layers by shell patterns of their names, the first that matches; "float" leaves a layer
        as it is.
    quality : str
        "fast", "balanced" or "best"; "nearest" and "gptq" are the same recipe with those two solvers.
    solver : str, optional
        What labels the weights of a layer, instead of what the quality uses.
    asymmetric, centred, shortcut, rescale : bool
        The parts of the recipe, each of which can be left out: aim at the float network's outputs rather than at
        those of the float weights on the quantized network's inputs; moments about the mean; the last layer of a
        residual block makes up for the errors of its shortcut; scale and shift of the outputs by least squares.
    damping : float
        Added to the diagonal of the covariance, relative to its mean.
    held_out : float
        Fraction of the calibration batches that only measure errors.
    baselines : bool
        Measure nearest-level rounding and GPTQ on every layer, too.
    bounds : bool
        Say of every layer of up to 1024 columns how far from optimal its labels are at most.
    reestimate : bool
        Re-estimate the statistics of batch norm at the end.
    distill : int
        Steps of distillation from the float network after the last layer: levels, scales, biases and batch norms are
        trained on the same inputs; 0 for none.
    distill_rate : float
        Of Adam, at the start.
    distill_labels : bool
        Whether distillation also moves the labels of the weights.
    distill_reach : float
        How far that can move a weight in all before it is rounded, relative to the size of the weights of its row.
    distill_augment : bool
        Whether distillation sees the images of a built-in data set shifted, and mirrored where that makes sense, in
        new batches in every pass.
    samples : int
        Inputs to calibrate with, at most.
    batch_size : int
        Of the built-in data sets.
    memory : float
        GiB for forward passes that are held between layers; decides the time, not the result.
    seed : int
        Of the choice of inputs and of everything random in the solvers.
    align : bool
        Pack labels in 1, 2, 4 or 8 bits each, so that none crosses a byte; otherwise in the least room.
    device : str
        "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1"...
    evaluate : bool
        Look at the test images of a built-in data set, once, at the end.
    normalise : {"data", "imagenet"}, optional
        Mean and deviation of the images: those of the training images, or ImageNet's, which pretrained `.th` files
        expect and which are the default with them.
    classes : int, optional
        Outputs of a built-in network, where no built-in data set tells it.
    affine : bool, optional
        Whether the batch norms of the built-in networks have factors and offsets of their own.
    threads : int, optional
        Of torch on the CPU.

    Raises
    ------
    InvalidParameterError, UnknownNameError
        A value of the wrong type or outside its domain, or a name that does not exist.

    Examples
    --------
    >>> settings = Settings("lenet300", "digits", weights="float.safetensors", levels="ternary")
    >>> settings.levels, settings.quality, settings.samples
    ('ternary-codebook', 'balanced', 1024)
    """

    FREE: ClassVar[frozenset[str]] = frozenset({"data", "memory"})
    PATHS: ClassVar[tuple[str, ...]] = ("data", "weights")

    model: str
    calibration: str
    weights: str | None = None
    data: str | None = None
    levels: str = "3bit-codebook"
    levels_for: dict[str, str] = field(default_factory=dict)
    quality: str = "balanced"
    solver: str | None = None
    asymmetric: bool = True
    centred: bool = True
    shortcut: bool = True
    rescale: bool = True
    damping: float = 0.01
    held_out: float = 0.1
    baselines: bool = False
    bounds: bool = False
    reestimate: bool = False
    distill: int = 0
    distill_rate: float = 3e-3
    distill_labels: bool = False
    distill_reach: float = 5.0
    distill_augment: bool = True
    samples: int = 1024
    batch_size: int = 64
    memory: float = 2.0
    seed: int = 0
    align: bool = False
    device: str = "auto"
    evaluate: bool = True
    normalise: Literal["data", "imagenet"] | None = None
    classes: int | None = None
    affine: bool | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        self.options()
        object.__setattr__(self, "levels", str(parse_levels(self.levels)))

    @property
    def dataset(self) -> str | None:
        """The built-in data set of the calibration inputs, if it is one."""
        return self.calibration if self.calibration in DATASETS else None

    @property
    def tested(self) -> bool:
        """Whether there are test images to look at."""
        return self.dataset is not None and self.evaluate

    def options(self) -> Options:
        """Return what the engine needs to know.

        Raises
        ------
        InvalidParameterError, UnknownNameError
            Values that it refuses.
        """
        return Options(
            levels=self._level_sets(),
            quality=self.quality,
            solver=self.solver,
            asymmetric=self.asymmetric,
            centred=self.centred,
            shortcut=self.shortcut,
            rescale=self.rescale,
            damping=self.damping,
            held_out=self.held_out,
            baselines=self.baselines,
            bounds=self.bounds,
            reestimate=self.reestimate,
            memory=self.memory,
            seed=self.seed,
        )

    def _level_sets(self) -> Levels:
        pairs = tuple((pattern, None if levels == FLOAT else levels) for pattern, levels in self.levels_for.items())
        return (*pairs, (EVERY, self.levels)) if pairs else self.levels

    def resolved(self) -> Settings:
        """Return the settings with the defaults of the weights and of the machine written out.

        Examples
        --------
        >>> made = Settings("resnet20", "cifar10", weights="resnet20.th", data=".", device="cpu").resolved()
        >>> made.normalise, made.device
        ('imagenet', 'cpu')
        """
        normalise = self.normalise
        if normalise is None and self.dataset is not None:
            normalise = "imagenet" if Path(self.weights or "").suffix == ".th" else "data"
        return dataclasses.replace(self, normalise=normalise, **chosen_here(self))
