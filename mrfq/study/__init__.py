"""Convergence studies of one model: traces, rates, basins, bistability and annealing schedules, in one report.

`Study` says what to look at, `run_study` looks, `write_study` writes the report, its figures and its tables::

    problem = mrfq.generators.ferromagnet(4, 4, field=0.0)
    study = Study(problem, {"mean-field": MeanField(beta=0.5), "icm": ICM()}, seeds=5)
    write_study(run_study(study), "study")
"""

from mrfq.study.plan import SECTIONS, Study
from mrfq.study.report import write_study
from mrfq.study.results import Results
from mrfq.study.running import run_study

__all__ = ["SECTIONS", "Results", "Study", "run_study", "write_study"]
