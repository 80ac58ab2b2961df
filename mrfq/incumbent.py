"""The best labelling so far, and the last one looked at, from which the next energy can often be told."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from mrfq.problem import Problem, SupportsChange, SweepReport


class Incumbent:
    """What the loop remembers of the labellings it has evaluated.

    Attributes
    ----------
    energy : float
        Of the best labelling, as it was told along the run: exact up to rounding.
    last_energy : float
        Of the labelling looked at last.
    """

    def __init__(self, problem: Problem, labels: Tensor) -> None:
        self._last, self._best = labels.clone(), labels.clone()
        self.last_energy = self.energy = problem.energy(labels)
        # Asked once: a look at a protocol costs as much as all the rest of a look.
        self._tells_change = isinstance(problem, SupportsChange)
        # The best labelling is copied only when the run leaves it: a run that improves steadily copies each once.
        self._best_is_last = True

    @property
    def labels(self) -> Tensor:
        """The best labelling, (n,); a later look may change it."""
        return self._last if self._best_is_last else self._best

    def look(
        self, problem: Problem, labels: Tensor, report: SweepReport | None, anew: bool = False
    ) -> tuple[float, int]:
        """Return the energy of a labelling and how many labels have changed since the last look.

        Where the problem can tell what changed, by the report of a sweep that led from the last labelling to this one
        or by comparing the two, the energy is the last one plus the change; what cancels is computed anew. With
        `anew` everything is: a problem may have to prepare itself for telling changes.
        """
        change, changed = math.nan, -1
        if report is not None and report.exact:
            change, changed = report.energy_change, report.changed
        elif anew:
            changed = int(torch.count_nonzero(labels != self._last))
            change = 0.0 if changed == 0 else math.nan
        elif self._tells_change:
            change, changed = cast(SupportsChange, problem).energy_change(self._last, labels)
        if changed < 0:
            changed = int(torch.count_nonzero(labels != self._last))
        energy = self.last_energy + change
        if not math.isfinite(energy) or abs(energy) < 1e-3 * abs(change):
            energy = problem.energy(labels)
        self._keep(labels, energy, changed)
        return energy, changed

    def _keep(self, labels: Tensor, energy: float, changed: int) -> None:
        improved = energy < self.energy
        if changed and self._best_is_last and not improved:
            self._best, self._last = self._last, self._best
            self._best_is_last = False
        if changed:
            self._last.copy_(labels)
        self.last_energy = energy
        if improved:
            self.energy, self._best_is_last = energy, True
