"""What `mrfq train` does: settings from a file and from options, the run, a summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrfq.runs.command import RunRequest, carry_out, settings_of
from mrfq.train.console import ConsoleReport, summary_table
from mrfq.train.folder import Folder
from mrfq.train.settings import Settings
from mrfq.train.trainer import train


@dataclass(frozen=True)
class Request(RunRequest):
    """What the command line asks for."""

    out: Path = Path("train")


def train_network(request: Request) -> int:
    """Train a network, print a summary, and return the exit code.

    Raises
    ------
    MrfqError, OSError
        Anything that ends the run early but Ctrl-C; the message says what is left.
    """
    settings = chosen_settings(request)

    def work(report: ConsoleReport) -> dict[str, Any]:
        return train(settings, request.out, resume=request.resume, report=report)

    return carry_out(Folder(request.out), ConsoleReport, work, summary_table, "this run")


def chosen_settings(request: Request) -> Settings | None:
    """Return the settings that are asked for; None to resume with those of the run."""
    return settings_of(request, Folder(request.out))
