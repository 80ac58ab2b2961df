"""Empirical rates of convergence: fits to the tail of a run, with the reason where none can be given.

A run converges linearly if the logarithm of its error falls along a line against the iteration (the error shrinks by a
factor in each), sublinearly if it does against the logarithm of the iteration (the error falls as a power of it).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mrfq.study.runs import Floats, Run

Kind = Literal["linear", "sublinear", "none"]
#: points that a fit needs at least, how much of the logarithm's variance it must explain, and the least fall of the
#: error over the tail, as a factor
POINTS, QUALITY, FALL = 10, 0.95, 1.2
#: errors below this, relative to the largest, are rounding
ROUNDING = 1e-12
QUANTITIES = {
    "residual": "residual",
    "bound": "rise of the bound in a step",
    "gap": "best energy above the reference",
}


@dataclass(frozen=True)
class Fit:
    """A rate, or why there is none.

    Parameters
    ----------
    kind : {"linear", "sublinear", "none"}
    rate : float
        Factor per iteration if linear, the power of the iteration if sublinear.
    scale : float
        The fitted error is `scale * rate**k` or `scale * k**rate`.
    quality : float
        Part of the variance of the logarithm that the fit explains (R squared).
    first, last : int
        The iterations of the tail.
    reason : str
        Why there is no rate.
    """

    kind: Kind
    rate: float = math.nan
    scale: float = math.nan
    quality: float = math.nan
    first: int = 0
    last: int = 0
    reason: str = ""

    def values(self, iterations: Floats) -> Floats:
        """Return the fitted errors at some iterations."""
        exponent = iterations * math.log(self.rate) if self.kind == "linear" else self.rate * np.log(iterations)
        fitted: Floats = self.scale * np.exp(exponent)
        return fitted


def fit_rate(errors: Floats) -> Fit:
    """Fit the tail of errors that belong to iterations 0, 1, 2...

    The tail is the second half of the iterations up to the last error above rounding, or the last ten if that is more.

    Examples
    --------
    >>> fit = fit_rate(3 * 0.9 ** np.arange(60.0))
    >>> fit.kind, round(fit.rate, 6)
    ('linear', 0.9)
    >>> fit_rate(np.ones(5)).reason
    '4 points in the tail, a fit needs 10'
    """
    errors = np.where(np.isfinite(errors), errors, 0.0)
    known = np.flatnonzero(errors > ROUNDING * errors.max(initial=0.0))
    last = int(known[-1]) if len(known) else 0
    tail = known[known >= max(1, min((last + 1) // 2, last + 1 - POINTS))]
    if len(tail) < POINTS:
        return Fit("none", reason=f"{len(tail)} points in the tail, a fit needs {POINTS}")
    k, y = tail.astype(np.float64), np.log(errors[tail])
    if y[:3].mean() - y[-3:].mean() < math.log(FALL):
        return Fit("none", reason=f"the error falls by less than a factor of {FALL:g} over the tail")
    linear, sublinear = _line(k, y), _line(np.log(k), y)
    kind: Kind = "linear" if linear[2] >= sublinear[2] else "sublinear"
    slope, level, quality = max(linear, sublinear, key=lambda line: line[2])
    if quality < QUALITY:
        return Fit("none", quality=quality, reason=f"neither a line nor a power explains {QUALITY:.0%} of the tail")
    rate = math.exp(slope) if kind == "linear" else slope
    return Fit(kind, rate, math.exp(level), quality, int(tail[0]), last)


def _line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Return slope, intercept and R squared of a least-squares line."""
    slope, level = np.polyfit(x, y, 1)
    explained = 1 - np.var(y - level - slope * x) / np.var(y)
    return float(slope), float(level), float(explained)


@dataclass(frozen=True)
class Rate:
    """The rate of a solver: the more frequent kind of its fits, and their spread over starts and seeds.

    No rate is reported unless at least half of the runs have one of that kind.
    """

    solver: str
    quantity: str
    kind: Kind
    median: float
    low: float
    high: float
    #: median R squared
    quality: float
    #: runs with a fit of this kind, and all runs
    fitted: int
    runs: int
    #: the most frequent reason for having no rate, if any run has none
    reason: str
    fits: tuple[Fit, ...] = field(repr=False, default=())


def solver_rate(solver: str, runs: Iterable[Run], reference: float) -> Rate:
    """Return the rate of a solver from its runs; `reference` is the energy that gaps are measured from."""
    runs = list(runs)
    quantity = error_quantity(runs)
    fits = tuple(fit_run(run, quantity, reference) for run in runs)
    kinds = Counter(fit.kind for fit in fits if fit.kind != "none")
    kind: Kind
    kind, count = kinds.most_common(1)[0] if kinds else ("none", 0)
    chosen = [fit for fit in fits if fit.kind == kind]
    reasons = Counter(fit.reason for fit in fits if fit.reason)
    reason = reasons.most_common(1)[0][0] if reasons else ""
    if not count or 2 * count < len(runs):
        nothing = math.nan
        return Rate(solver, quantity, "none", nothing, nothing, nothing, nothing, 0, len(runs), reason, fits)
    rates = np.array([fit.rate for fit in chosen])
    quality = float(np.median([fit.quality for fit in chosen]))
    median, low, high = float(np.median(rates)), float(rates.min()), float(rates.max())
    return Rate(solver, quantity, kind, median, low, high, quality, len(chosen), len(runs), reason, fits)


def error_quantity(runs: Iterable[Run]) -> str:
    """Return what measures the error of a solver: its residual, else its bound, else its energy."""
    runs = list(runs)
    if any(np.isfinite(run.columns["residual"]).any() for run in runs):
        return "residual"
    return "bound" if any(np.isfinite(run.bound) for run in runs) else "gap"


def fit_run(run: Run, quantity: str, reference: float) -> Fit:
    """Return the rate of one run."""
    beta = run.columns["beta"]
    if quantity == "residual" and len(np.unique(beta[np.isfinite(beta)])) > 1:
        return Fit("none", reason="beta changes during the run, so that there is no fixed point to approach")
    return fit_rate(errors(run, quantity, reference))


def errors(run: Run, quantity: str, reference: float) -> Floats:
    """Return the errors of a run, one an iteration; NaN where unknown."""
    if quantity == "residual":
        return run.columns["residual"]
    if quantity == "bound":
        # A bound that is not tight never meets the optimum; its steps shrink at the rate of its error all the same.
        rise: Floats = np.diff(run.columns["bound"], prepend=np.nan)
        rise[rise <= ROUNDING * max(1.0, abs(run.bound))] = np.nan
        return rise
    energies = run.columns["best_energy"]
    gap: Floats = np.where(np.isfinite(energies), energies, np.nan) - reference  # a forbidden labelling has no gap
    return gap
