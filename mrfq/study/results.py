"""What a study found."""

from __future__ import annotations

from dataclasses import dataclass, field

from mrfq.study.annealing import Annealed
from mrfq.study.basins import Basins
from mrfq.study.bistability import Bistability
from mrfq.study.plan import Study
from mrfq.study.rates import Rate
from mrfq.study.reference import Reference
from mrfq.study.runs import Run


@dataclass
class Results:
    """What a study found so far; sections that did not run are in `skipped`, with the reason."""

    study: Study
    reference: Reference
    runs: list[Run] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    basins: list[Basins] = field(default_factory=list)
    bistability: Bistability | None = None
    annealed: list[Annealed] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def of(self, solver: str, start: str | None = None) -> list[Run]:
        """Return the runs of a solver, from one start or from all."""
        return [run for run in self.runs if run.solver == solver and start in (None, run.start)]

    def solvers(self) -> list[str]:
        """Return the names of the solvers with at least one run, in the order of the study."""
        return list(dict.fromkeys(run.solver for run in self.runs))
