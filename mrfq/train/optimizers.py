"""The optimiser of a run: torch's own, with labels around it unless the network stays float."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mrfq import plain
from mrfq.nn.optimizer import LabelOptimizer
from mrfq.nn.selection import parameter_groups
from mrfq.train.settings import Settings

#: devices on which torch has optimisers that update all parameters in one kernel
FUSED = ("cpu", "cuda")


def make_optimizer(model: nn.Module, settings: Settings, steps: int) -> LabelOptimizer | Optimizer:
    """Return the optimiser that resolved settings describe, over all parameters of a network.

    Raises
    ------
    MrfqError
        Parameters or levels that do not fit the network, or parts that make no method.
    """
    if not settings.quantized:
        return base_optimizer(list(model.parameters()), settings)
    groups = parameter_groups(model, labels=settings.levels, parameters=settings.parameters)
    return LabelOptimizer(
        base_optimizer(groups, settings),
        labels=settings.levels,
        method=settings.method,
        steps=steps,
        scale=None if settings.scale == "none" else settings.scale,
        refit_every=settings.refit_every,
        projection=_part(settings.projection),
        carry=settings.carry,
        pull=settings.pull,
        schedule=_part(settings.schedule),
        start=settings.start,
    )


def base_optimizer(parameters: list[Any], settings: Settings) -> Optimizer:
    """Return torch's optimiser for parameters or groups of them, fused where torch has it."""
    assert settings.rate is not None
    assert settings.weight_decay is not None
    common: dict[str, Any] = {
        "lr": settings.rate,
        "weight_decay": settings.weight_decay,
        "fused": torch.device(settings.device).type in FUSED,
    }
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum, nesterov=settings.nesterov, **common)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, betas=(settings.momentum, 0.999), **common)


def load_optimizer(optimizer: LabelOptimizer | Optimizer, state: dict[str, Any], step: int) -> None:
    """Put a fresh optimiser into a state that was saved after so many steps.

    Raises
    ------
    InvalidProblemError, LookupError, TypeError, ValueError, AttributeError, RuntimeError
        The state of another optimiser.
    """
    if _options(state) != _options(optimizer.state_dict()):
        raise ValueError("an optimiser with other options")
    optimizer.load_state_dict(state)
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(value.shape)} for weights of shape {tuple(parameter.shape)}")
    if isinstance(optimizer, LabelOptimizer) and optimizer.steps_done != step:
        raise ValueError(f"an optimiser after {optimizer.steps_done} steps in a run after {step}")


def _options(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the parameter groups of a state say, but for the rate, which every step sets."""
    return [{name: value for name, value in group.items() if name != "lr"} for group in state["param_groups"]]


def rate_at(settings: Settings, progress: float) -> float:
    """Return the learning rate after a fraction of the run.

    Examples
    --------
    >>> made = Settings("lenet300", "digits", rate=0.1, decay="milestones", milestones=(0.5,), factor=0.25)
    >>> rate_at(made, 0.49), rate_at(made, 0.5)
    (0.1, 0.025)
    >>> round(rate_at(Settings("lenet300", "digits", rate=0.1), 0.5), 12)
    0.05
    """
    assert settings.rate is not None
    if settings.decay == "cosine":
        return settings.rate * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.decay == "milestones":
        return settings.rate * settings.factor ** sum(progress >= mark for mark in settings.milestones)
    return settings.rate


def _part(value: str | float | dict[str, Any] | None) -> Any:
    """Return the part of a method that plain data stands for; a bare name has its default fields."""
    return plain.from_plain({"kind": value} if isinstance(value, str) else value)
