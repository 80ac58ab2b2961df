"""What labels cost: a training step with them against the same step of the float network."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch

from mrfq.train.optimizers import base_optimizer, make_optimizer
from mrfq.train.run import Run, train_step

#: pairs of steps that are timed, fewer only where they take longer than so many seconds
PAIRS, SECONDS, LEAST, WARM_UP = 20, 10.0, 3, 2


def step_overhead(run: Run) -> float | None:
    """Return the extra time of a step with labels, as a fraction of a step without; None for a float network.

    Both train a copy of the network on the same batch, in turns: the median over pairs of steps. The other optimiser
    is the same one of torch (fused where torch has it) on float weights. Fits of scales that happen every so many
    steps are hardly ever among the steps that are timed.
    """
    if not run.settings.quantized:
        return None
    labelled, plain = labelled_step(run), float_step(run)
    for _ in range(WARM_UP):
        labelled(), plain()
    ratios: list[float] = []
    start = time.perf_counter()
    while len(ratios) < LEAST or (len(ratios) < PAIRS and time.perf_counter() - start < SECONDS):
        ratios.append(labelled() / plain())
    return statistics.median(ratios) - 1


def labelled_step(run: Run) -> Callable[[], float]:
    """Return a function that makes a step with labels on a copy of the network and returns its seconds."""
    model = copy.deepcopy(run.model).train()
    return _timed(run, model, make_optimizer(model, run.settings, run.total_steps))


def float_step(run: Run) -> Callable[[], float]:
    """Return a function that makes a step without labels on a copy of the network and returns its seconds."""
    model = copy.deepcopy(run.model).train()
    return _timed(run, model, base_optimizer(list(model.parameters()), run.settings))


def _timed(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    batch = run.batches.shuffled(0)

    def step() -> float:
        _wait_for(batch[0].device)
        start = time.perf_counter()
        train_step(model, optimizer, batch, run.settings)
        _wait_for(batch[0].device)
        return time.perf_counter() - start

    return step


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
