"""The end of a run: the best network is completed, tested once, packed, timed and reported."""

from __future__ import annotations

import json
from typing import Any

from mrfq.files import write_atomically
from mrfq.nn.batch_norm import reestimate
from mrfq.nn.packed import load, save
from mrfq.runs.evaluation import in_order
from mrfq.study.export import plain
from mrfq.train.folder import Folder
from mrfq.train.layers import layers
from mrfq.train.overhead import step_overhead
from mrfq.train.page import write_page
from mrfq.train.reporting import Report
from mrfq.train.run import Run
from mrfq.train.summary import summarise


def finish(run: Run, folder: Folder, report: Report) -> dict[str, Any]:
    """Make the final network of a run whose steps are all done, write its files and return its summary.

    `summary.json` is written last: a run that is broken off here repeats this part when it is resumed.

    Raises
    ------
    OutputError
        A file could not be written; the run can be resumed.
    """
    report.note("the best network: batch norm re-estimated on all training images, tested")
    load(folder.best, run.model)
    run.model.eval()
    if run.settings.quantized:
        reestimate(run.model, in_order(run.data, run.data.train))
    validation, test = run.grade("validation"), run.grade("test")
    with folder.writing():
        save(run.model, folder.model)
    summary = plain(summarise(run, folder, validation, test, step_overhead(run)))
    with folder.writing():
        write_page(summary, layers(run.model), run.progress.rows, folder)
        write_atomically(folder.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    found: dict[str, Any] = summary
    return found
