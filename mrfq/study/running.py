"""`run_study`: section after section; Ctrl-C keeps what is finished."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from mrfq.kernels import torch_threads
from mrfq.study.annealing import ANNEALED, compare_schedules, compared_schedules
from mrfq.study.basins import find_basins
from mrfq.study.bistability import bistability
from mrfq.study.plan import Study
from mrfq.study.rates import solver_rate
from mrfq.study.reference import Reference, best_known, exact_reference
from mrfq.study.results import Results
from mrfq.study.runs import trace_runs


class Watcher(Protocol):
    """Who is told how far a study is."""

    def begin(self, section: str, total: int) -> None:
        """Say that a section begins, with so many parts."""

    def advance(self) -> None:
        """Say that a part is finished."""


class Silent:
    """A watcher that says nothing."""

    def begin(self, section: str, total: int) -> None:
        pass

    def advance(self) -> None:
        pass


def run_study(study: Study, watcher: Watcher | None = None) -> Results:
    """Run the sections of a study that apply.

    Parameters
    ----------
    study : Study
    watcher : Watcher, optional
        Told how far it is.

    Returns
    -------
    Results
        After Ctrl-C, what was finished by then.

    Examples
    --------
    >>> from mrfq import generators
    >>> from mrfq.solvers import ICM
    >>> study = Study(generators.chain(4, 2), {"icm": ICM()}, seeds=2, sections=("traces",))
    >>> results = run_study(study)
    >>> len(results.runs), results.reference.exact
    (6, True)
    """
    results = Results(study, Reference(math.nan, exact=False, source="no run has finished"))
    exact: Reference | None = None
    try:
        with torch_threads(1):  # tensors are small, and sums do not depend on the number of cores
            exact = exact_reference(study.problem)
            for section in study.sections:
                reason = why_not(study, section)
                if reason:
                    results.skipped[section] = reason
                else:
                    PARTS[section](results, watcher or Silent())
    except KeyboardInterrupt:
        results.interrupted = True
    results.reference = exact or best_known(results.runs)
    _fit_rates(results)
    return results


def why_not(study: Study, section: str) -> str | None:
    """Return why a section does not apply to a study, or None if it does."""
    if section in ("bistability", "schedules") and not study.sweeps:
        return "the model has no site sweeps"
    if section == "bistability" and not 0 < study.stability.critical < math.inf:
        return "no temperature makes mean-field unstable at the uniform labelling: there are no couplings to do so"
    return None


def _traces(results: Results, watcher: Watcher) -> None:
    study = results.study
    if results.runs:  # rates come from the same runs
        return
    watcher.begin("traces", len(study.all_solvers) * len(study.starts) * study.seeds)
    for run in trace_runs(study):
        results.runs.append(run)
        watcher.advance()


def _basins(results: Results, watcher: Watcher) -> None:
    study = results.study
    watcher.begin("basins", len(study.all_solvers) * study.basin_starts)
    for name in study.all_solvers:
        results.basins.append(find_basins(study, name, watcher.advance))


def _bistability(results: Results, watcher: Watcher) -> None:
    watcher.begin("bistability", 5)
    results.bistability = bistability(results.study.problem, results.study.stability, watcher.advance)


def _schedules(results: Results, watcher: Watcher) -> None:
    watcher.begin("schedules", len(ANNEALED) * len(compared_schedules(1, 2)))
    for annealed in compare_schedules(results.study):
        results.annealed.append(annealed)
        watcher.advance()


def _fit_rates(results: Results) -> None:
    if "rates" in results.study.sections:
        energy = results.reference.energy
        results.rates = [solver_rate(name, results.of(name), energy) for name in results.solvers()]


PARTS: dict[str, Callable[[Results, Watcher], None]] = {
    "traces": _traces,
    "rates": _traces,
    "basins": _basins,
    "bistability": _bistability,
    "schedules": _schedules,
}
