"""How far a run has come, and what it measured on the way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrfq.compare.conform import conforms, describe, hints
from mrfq.compare.export import csv_text

#: of `metrics.csv`: what each epoch is measured by
COLUMNS = (
    "epoch",
    "step",
    "rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "beta",
    "entropy",
    "discrete",
    "best",
    "seconds",
)


@dataclass
class Progress:
    """How far a run has come.

    Attributes
    ----------
    step : int
        Steps done.
    rows : list of dict
        A row of `metrics.csv` for each epoch that ended.
    best_epoch : int
        The epoch, from 1, of the best rounded network on the validation images; 0 before there is one.
    best_accuracy : float
        Percent.
    best_digest : str
        SHA-256 of the file of that network.
    seconds : float
        Since the start, without the time between an interruption and its resumption.
    """

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_digest: str = ""
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Progress:
        """Return the progress that plain data stands for.

        Raises
        ------
        TypeError, ValueError
            Entries that are missing, too many, or of another type.

        Examples
        --------
        >>> Progress.from_plain(Progress(step=3).to_plain())
        Progress(step=3, rows=[], best_epoch=0, best_accuracy=-1.0, best_digest='', seconds=0.0)
        """
        found = cls(**plain)
        types = hints(cls)
        for name, value in vars(found).items():
            if not conforms(value, types[name]):
                raise ValueError(f"progress: {name} must be {describe(types[name])}, got {value!r}")
        if any(not isinstance(row, dict) or not {"epoch", "step"} <= row.keys() <= set(COLUMNS) for row in found.rows):
            raise ValueError("progress: a row with other columns than metrics.csv")
        if any(not conforms(value, float) for row in found.rows for value in row.values()):
            raise ValueError("progress: a row with something else than numbers")
        if found.step < 0:
            raise ValueError(f"progress: step {found.step}")
        return found

    def csv(self) -> str:
        """Return `metrics.csv`; what is not known is left empty."""
        return csv_text(COLUMNS, self.rows)


class Meter:
    """Losses and hits of the steps of an epoch, kept on the device until somebody asks.

    Nothing that a step does here waits for the device.

    Parameters
    ----------
    steps : int
        In an epoch.
    batch_size : int
        Images in a step.
    device : str or torch.device

    Examples
    --------
    >>> meter = Meter(3, 1, "cpu")
    >>> meter.add(0, torch.tensor(0.5), torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    >>> meter.add(1, torch.tensor(float("nan")), torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    >>> meter.first_bad(0, 2), meter.first_bad(0, 1)
    (1, None)
    >>> meter.means(0, 1)
    (0.5, 100.0)
    """

    def __init__(self, steps: int, batch_size: int, device: str | torch.device) -> None:
        self.batch_size = batch_size
        self.losses = torch.zeros(steps, device=device)
        self.hits = torch.zeros(steps, device=device)

    @torch.no_grad()
    def add(self, place: int, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Note the loss () and the outputs (n, classes) of a step."""
        self.losses[place] = loss.detach()
        self.hits[place] = (outputs.argmax(1) == targets).sum()

    def first_bad(self, start: int, stop: int) -> int | None:
        """Return the first of these steps whose loss is not finite, or None."""
        bad = ~self.losses[start:stop].isfinite()
        return start + int(bad.nonzero()[0]) if bool(bad.any()) else None

    def means(self, start: int, stop: int) -> tuple[float, float]:
        """Return the mean loss and the accuracy in percent of these steps."""
        hits = float(self.hits[start:stop].double().mean())
        return float(self.losses[start:stop].double().mean()), 100 * hits / self.batch_size

    def state(self, stop: int) -> dict[str, Tensor]:
        """Return what the first steps of an epoch left."""
        return {"losses": self.losses[:stop].clone(), "hits": self.hits[:stop].clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up the state of an epoch that was broken off; `ValueError` if it is longer than an epoch."""
        for name, target in (("losses", self.losses), ("hits", self.hits)):
            if state[name].ndim != 1 or len(state[name]) > len(target):
                raise ValueError(f"{name} of {tuple(state[name].shape)} steps in an epoch of {len(target)}")
            target[: len(state[name])] = state[name].to(target)
