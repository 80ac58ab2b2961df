"""`Run`: a network, its images and its optimiser, made of settings, and one step of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mrfq.nn.batch_norm import reestimate
from mrfq.nn.optimizer import LabelOptimizer
from mrfq.runs.evaluation import Grade, grade, in_order, subset, untouched
from mrfq.train.history import Meter, Progress
from mrfq.train.optimizers import make_optimizer, rate_at
from mrfq.train.settings import Settings
from mrfq.train.setup import fingerprint, images, network, training_batches

#: clean training images that batch norm is re-estimated on after each epoch
CALIBRATION = 5000


class Run:
    """A training run at some step.

    Parameters
    ----------
    settings : Settings
        Resolved, but for what depends on the network.

    Attributes
    ----------
    settings : Settings
        Resolved.
    data : ImageData
    model : nn.Module
    optimizer : LabelOptimizer or torch.optim.Optimizer
    batches : ImageBatches
        The training images, shuffled and augmented.
    epoch_steps, total_steps : int
    progress : Progress
    meter : Meter
        Of the epoch that is running.

    Raises
    ------
    MrfqError
        Images, a network or settings that do not fit each other.
    """

    def __init__(self, settings: Settings) -> None:
        self.data = images(settings)
        self.model = network(settings, self.data)
        self.settings = settings.for_model(self.model)
        self.batches = training_batches(self.settings, self.data)
        self.epoch_steps = self.batches.count
        assert settings.epochs is not None
        self.total_steps = min(settings.epochs * self.epoch_steps, settings.limit_steps or 2**62)
        self.optimizer = make_optimizer(self.model, self.settings, self.total_steps)
        self.progress, self.meter = Progress(), Meter(self.epoch_steps, self.batches.batch_size, settings.device)
        self._clean = in_order(self.data, subset(self.data.train, CALIBRATION))
        self._compiled: Any = torch.compile(self.model) if settings.compile else self.model

    @property
    def place(self) -> int:
        """The number of steps done in the epoch that is running, or that just ended."""
        step = self.progress.step
        return self.epoch_steps if step and step % self.epoch_steps == 0 else step % self.epoch_steps

    @property
    def epoch(self) -> int:
        """The epoch, from 1, of the last step."""
        return -(-self.progress.step // self.epoch_steps)

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was the last one of its epoch."""
        step = self.progress.step
        return step > 0 and (step % self.epoch_steps == 0 or step == self.total_steps)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step >= self.total_steps

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return rate_at(self.settings, max(self.progress.step - 1, 0) / self.total_steps)

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of the images."""
        return fingerprint(self.data)

    def step(self) -> None:
        """Train on the next batch, without waiting for the device."""
        step = self.progress.step
        inputs, targets = self.batches.shuffled(step)
        rate = rate_at(self.settings, step / self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, outputs = train_step(self._compiled, self.optimizer, (inputs, targets), self.settings)
        self.meter.add(step % self.epoch_steps, loss, outputs, targets)
        self.progress.step = step + 1

    def statistics(self) -> dict[str, float]:
        """Return temperature, entropy and share of discrete weights; none of them for a float network."""
        if not isinstance(self.optimizer, LabelOptimizer):
            return {}
        found = self.optimizer.statistics()
        return {name: float(found[name]) for name in ("beta", "entropy", "discrete")}

    @contextmanager
    def deployed(self) -> Iterator[nn.Module]:
        """Make the network for a while what it would be if training ended here.

        Its weights are rounded, and batch norm is re-estimated on clean training images; a float network is as it is.
        """
        rounded = self.optimizer.quantized() if isinstance(self.optimizer, LabelOptimizer) else nullcontext()
        with untouched(self.model), rounded:
            if self.settings.quantized:
                reestimate(self.model, self._clean)
            yield self.model.eval()

    def grade(self, split: str) -> Grade:
        """Grade the network, as it is, on the images of a split."""
        assert self.settings.logit_scale is not None
        return grade(self.model, in_order(self.data, getattr(self.data, split)), self.settings.logit_scale)


def train_step(
    model: Any, optimizer: LabelOptimizer | Optimizer, batch: tuple[Tensor, Tensor], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Make one step and return the loss () and the outputs (n, classes), both on the device."""
    inputs, targets = batch
    optimizer.zero_grad()
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=settings.amp):
        outputs = model(inputs)
    outputs = outputs.float()
    loss = nn.functional.cross_entropy(
        settings.logit_scale * outputs, targets, label_smoothing=settings.label_smoothing
    )
    loss.backward()
    optimizer.step()
    return loss.detach(), outputs.detach()
