"""Running a suite: cells that are not finished yet, in parallel, each saved as soon as it is done."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from mrfq.compare.records import Record, Store
from mrfq.compare.suite import Cell, Suite
from mrfq.errors import MrfqError


class Listener(Protocol):
    """What a run tells while it goes on."""

    def begin(self, total: int, kept: int) -> None:
        """Take note of the number of cells, and of those that were finished earlier."""

    def finished(self, cell: Cell, record: Record) -> None:
        """Take note of a cell that has been run and saved."""

    def notice(self, text: str) -> None:
        """Pass on something the user should know."""


@dataclass
class Outcome:
    """The records of a suite, in its order; cells that have not been run are missing."""

    suite: Suite
    records: list[tuple[Cell, Record]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[tuple[Cell, Record]]:
        """The cells whose solver raised an error."""
        return [(cell, record) for cell, record in self.records if record.failed]


def run_suite(suite: Suite, out: Path, listener: Listener, *, jobs: int = 1, fresh: bool = False) -> Outcome:
    """Run what is not finished, and return all records.

    Parameters
    ----------
    suite : Suite
    out : path
        Records are kept in `out/cells`. Failed cells are run again, finished ones are not.
    listener : Listener
    jobs : int
        Worker processes; results do not depend on it. -1 stands for one per core.
    fresh : bool
        Run finished cells again.

    Raises
    ------
    MrfqError
        The folder cannot be written, or a worker process died.
    """
    cells = list(suite.cells())
    store = Store(out, listener.notice)
    store.open()
    found = {} if fresh else {cell.key: record for cell in cells if (record := store.load(cell))}
    done = {key: record for key, record in found.items() if not record.failed}
    todo = list({cell.key: cell for cell in cells if cell.key not in done}.values())
    listener.begin(len(cells), len(cells) - sum(cell.key not in done for cell in cells))
    outcome = Outcome(suite)
    try:
        for cell, record in _run(todo, jobs):
            store.save(cell, record)
            done[cell.key] = record
            listener.finished(cell, record)
    except KeyboardInterrupt:
        outcome.interrupted = True
    outcome.records = [(cell, done[cell.key]) for cell in cells if cell.key in done]
    return outcome


def _run(todo: list[Cell], jobs: int) -> Iterator[tuple[Cell, Record]]:
    """Return cells and records as they are finished."""
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if not todo:
        return
    jobs = 1 if len(todo) == 1 else jobs
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="2 * n_jobs")
    tasks = (joblib.delayed(_numbered)(number, cell) for number, cell in enumerate(todo))
    results = cast(Generator[tuple[int, Record], None, None], parallel(tasks))
    try:
        with closing(results):
            for number, record in results:
                yield todo[number], record
    except TerminatedWorkerError as error:
        raise MrfqError(
            "a worker process died, perhaps for lack of memory; finished cells are kept, "
            "run the same command with fewer --jobs"
        ) from error


def _numbered(number: int, cell: Cell) -> tuple[int, Record]:
    from mrfq.compare.work import run_cell

    return number, run_cell(cell)
