"""What a finished cell leaves: a `Record`, and the folder of files that makes a comparison resumable."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mrfq.compare.conform import check_fields
from mrfq.compare.suite import Cell
from mrfq.errors import SuiteError
from mrfq.files import write_atomically
from mrfq.solution import COLUMNS

SKIPPED, FAILED = "skipped", "failed"


@dataclass
class Record:
    """The outcome of one cell, as plain data."""

    #: the sentence of the solution, "skipped", or "failed: ..."
    status: str
    skipped_reason: str = ""
    energy: float = math.nan
    lower_bound: float | None = None
    iterations: int = 0
    oracle_calls: int = 0
    seconds: float = math.nan
    #: variables and labels of the problem
    shape: tuple[int, int] = (0, 0)
    #: energies nearer than this, relative to their size, are the same
    tolerance: float = 1e-9
    #: of the solver: the capabilities it asks for
    needs: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    float_metrics: dict[str, float] = field(default_factory=dict)
    trace: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ran(self) -> bool:
        """Whether the solver ran to an end."""
        return not (self.skipped or self.failed)

    @property
    def skipped(self) -> bool:
        """Whether the solver does not fit the problem."""
        return self.status == SKIPPED

    @property
    def failed(self) -> bool:
        """Whether the solver raised an error."""
        return self.status.startswith(FAILED)


class Store:
    """The folder `cells/` of a comparison, one JSON file a cell.

    Parameters
    ----------
    folder : path
        Made when the first record is written.
    notice : callable
        Told about files that cannot be used.
    """

    def __init__(self, folder: Path, notice: Callable[[str], None]) -> None:
        self.folder = folder / "cells"
        self.notice = notice

    def path(self, cell: Cell) -> Path:
        """Return the file of a cell."""
        return self.folder / f"{cell.key}.json"

    def load(self, cell: Cell) -> Record | None:
        """Return the record of a finished cell; None if there is none, or none that can be read."""
        path = self.path(cell)
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self.notice(f"{path} cannot be read ({error}); running its cell again")
            return None
        try:
            return _decode(json.loads(text), cell)
        except Exception as error:  # it may be damaged in any way
            self.notice(f"{path} is damaged ({error}); running its cell again")
            return None

    def save(self, cell: Cell, record: Record) -> None:
        """Write the record of a finished cell."""
        data = {"cell": cell.identity(), "names": list(cell.place), "record": _finite(asdict(record))}
        write_atomically(self.path(cell), json.dumps(data, allow_nan=False))

    def open(self) -> None:
        """Make the folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SuiteError(f"cannot write to {self.folder.parent}: {error.strerror}") from error


def _finite(value: Any) -> Any:
    """Return plain data with numbers that JSON lacks as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _number(value: Any) -> float:
    """Return a number of a trace; whole ones stay whole, so that a resumed run writes the same tables."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else float(value)


def _decode(data: Any, cell: Cell) -> Record:
    if data["cell"] != json.loads(json.dumps(cell.identity())):
        raise ValueError("it belongs to another cell")
    record = data["record"]
    expected = {f.name for f in fields(Record)}
    if record.keys() != expected:
        raise ValueError("its keys are not those of a record")
    for name in ("energy", "seconds", "tolerance"):
        record[name] = float(record[name])
    if record["lower_bound"] is not None:
        record["lower_bound"] = float(record["lower_bound"])
    record["shape"] = (int(record["shape"][0]), int(record["shape"][1]))
    for name in ("metrics", "float_metrics"):
        record[name] = {key: float(value) for key, value in record[name].items()}
    record["trace"] = {key: [_number(value) for value in column] for key, column in record["trace"].items()}
    if tuple(record["trace"]) not in ((), COLUMNS) or len({len(column) for column in record["trace"].values()}) > 1:
        raise ValueError("its trace lacks columns")
    decoded = Record(**record)
    check_fields("its record", decoded)
    return decoded
