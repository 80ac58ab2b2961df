"""Which modules of a network can be quantized."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from mrfq.errors import InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.layerwise.spec import LevelSpec
from mrfq.quantize.options import EVERY, Options, Spec

CONVOLUTIONS: dict[type[nn.Module], str] = {nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d"}
KINDS: dict[type[nn.Module], str] = {nn.Linear: "linear", nn.Embedding: "embedding", **CONVOLUTIONS}
#: methods that say what a module does with its weight
METHODS = ("forward", "_conv_forward")


@dataclass(frozen=True, eq=False)
class Quantizable:
    """A weight to quantize, with the modules that use it.

    Attributes
    ----------
    names : tuple of str
        The modules, more than one where the weight is tied.
    kind : str
        "linear", "conv1d", "conv2d", "conv3d" or "embedding"; of tied weights that of a use that is a product.
    rows, columns : int
        Output channels (of all groups), and inputs of each: the weight as a matrix.
    groups : int
        Of a grouped convolution: as many independent layers of rows / groups rows.
    spec : LevelSpec or VectorSpec
    weight : nn.Parameter
    """

    names: tuple[str, ...]
    kind: str
    rows: int
    columns: int
    groups: int
    spec: Spec
    weight: nn.Parameter

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]

    @property
    def bits(self) -> float:
        """Bits of the weights, codebooks and scales included."""
        return self.spec.bits(self.rows, self.columns)


def kind_of(module: nn.Module) -> str | None:
    """Return the kind of layer that a module is, or None if it cannot be quantized.

    Examples
    --------
    >>> kind_of(nn.Conv2d(3, 8, 3)), kind_of(nn.ConvTranspose2d(3, 8, 3))
    ('conv2d', None)
    """
    base = next((base for base in KINDS if isinstance(module, base)), None)
    plain = base is not None and all(getattr(type(module), name, None) is getattr(base, name, None) for name in METHODS)
    weight = module._parameters.get("weight")
    if not plain or weight is None or not weight.is_floating_point():
        return None
    return None if isinstance(module, nn.Embedding) and module.max_norm is not None else KINDS[base]  # type: ignore[index]


def find_layers(model: nn.Module, options: Options) -> tuple[list[Quantizable], list[str]]:
    """Return the layers that are to be quantized, and notes on what stays float.

    Raises
    ------
    UnknownNameError
        A pattern that matches no module with weights.
    InvalidParameterError
        A module that cannot be quantized was asked for, tied weights were asked for two label sets, or a label set
        does not fit a layer.
    InvalidProblemError
        No layer to quantize, or one whose weights are not finite.
    """
    named = dict(model.named_modules())
    direct = _used_directly(named)
    candidates = {name: module for name, module in named.items() if _has_matrix(module)}
    _check_patterns(candidates, options)
    notes, tied = [], dict[int, list[str]]()
    for name, module in candidates.items():
        kind = None if name in direct else kind_of(module)
        if kind is not None:
            tied.setdefault(id(module.weight), []).append(name)
        elif (pattern := options.asked_for(name)) is not None:
            raise InvalidParameterError(
                f"levels: {pattern!r} asks for {name!r}, an unsupported module "
                f"({type(module).__name__}{_why(name, direct)}); Linear, Conv1d, Conv2d, Conv3d and Embedding can be "
                "quantized; give it None to leave it float"
            )
        elif options.spec_of(name) is not None:
            notes.append(f"{name or 'the network itself'} stays float: {type(module).__name__}{_why(name, direct)}")
    layers = [_layer([(name, named[name]) for name in names], options) for names in tied.values()]
    found = [layer for layer in layers if layer is not None]
    if not found:
        raise InvalidProblemError(
            "the network has no layer to quantize: no Linear, convolution or Embedding was chosen"
        )
    return found, notes


def _has_matrix(module: nn.Module) -> bool:
    return any(p is not None and p.ndim >= 2 for p in module._parameters.values())


def _used_directly(named: dict[str, nn.Module]) -> set[str]:
    """Return the names inside attention modules of torch, which read the weights of their parts."""
    owners = [name for name, module in named.items() if isinstance(module, nn.MultiheadAttention)]
    return {name for name in named for owner in owners if name.startswith(f"{owner}." if owner else "")} - set(owners)


def _why(name: str, direct: set[str]) -> str:
    return ", whose weight torch's MultiheadAttention reads itself" if name in direct else ""


def _check_patterns(candidates: Iterable[str], options: Options) -> None:
    names = list(candidates)
    for pattern, _ in options.choices:
        if pattern != EVERY and not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("layer", pattern, names, "levels")


def _layer(uses: list[tuple[str, nn.Module]], options: Options) -> Quantizable | None:
    """Return the layer of modules that share a weight, or None if it stays float."""
    names = tuple(name for name, _ in uses)
    specs = {name: options.spec_of(name) for name in names}
    if len(set(specs.values())) > 1:
        wanted = ", ".join(f"{name} {spec or 'float'}" for name, spec in specs.items())
        raise InvalidParameterError(
            f"levels: the weights of {' and '.join(names)} are tied, so give both one label set, not {wanted}"
        )
    spec = specs[names[0]]
    if spec is None:
        return None
    products = [module for _, module in uses if not isinstance(module, nn.Embedding)]
    module = (products or [uses[0][1]])[0]
    weight, groups = module._parameters["weight"], {getattr(module, "groups", 1) for module in products}
    assert weight is not None
    if len(groups) > 1:
        raise InvalidParameterError(
            f"levels: {' and '.join(names)} share a weight but not their groups; leave them float (None)"
        )
    if not bool(weight.isfinite().all()):
        raise InvalidProblemError(f"layer {names[0]!r} has weights that are not finite")
    rows, columns = len(weight), weight[0].numel() if len(weight) else 0
    if weight.numel() == 0:
        raise InvalidProblemError(f"layer {names[0]!r} has no weights")
    _check_fit(spec, rows, columns, names[0])
    return Quantizable(names, str(kind_of(module)), rows, columns, max(groups, default=1), spec, weight)


def _check_fit(spec: Spec, rows: int, columns: int, name: str) -> None:
    if isinstance(spec, LevelSpec):
        spec.groups(columns, name)
    else:
        spec.blocks(rows, columns, name)
