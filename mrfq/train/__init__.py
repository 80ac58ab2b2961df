"""Training networks to discrete weights, from settings to a packed file: what `mrfq train` does.

::

    settings = Settings("lenet300", "mnist", data="folder", method="pmf", levels="binary", epochs=20)
    summary = train(settings, "run")

The modules, in the order of the work: `settings` (with `defaults`, `checks`, `config`), `setup` (images and network),
`optimizers`, `run` (one step), `history`, `folder` and `checkpoint` (files), `trainer` (the loop), `finish` (with
`layers`, `overhead`, `summary`, `figures`, `page`), `console`. What is not about training is in `mrfq.runs`.
"""

from mrfq.runs.errors import OutputError, StoppedError
from mrfq.train.errors import DivergedError
from mrfq.train.reporting import Report
from mrfq.train.settings import Settings
from mrfq.train.trainer import train

__all__ = ["DivergedError", "OutputError", "Report", "Settings", "StoppedError", "train"]
