"""What `mrfq train` does: settings from a file and from options, the run, a summary."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mrfq.commands.interrupt import Interrupt
from mrfq.commands.settings import parse_settings
from mrfq.errors import InvalidParameterError
from mrfq.train.config import check_names, make_settings, read_config
from mrfq.train.console import ConsoleReport, summary_table
from mrfq.train.errors import StoppedError
from mrfq.train.folder import Folder
from mrfq.train.settings import Settings
from mrfq.train.trainer import train

#: what a shell reports for a command that Ctrl-C ended
INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    #: settings that have an option of their own, as far as they were given
    options: dict[str, Any]
    #: texts `key=value`
    settings: tuple[str, ...] = ()
    config: Path | None = None
    out: Path = Path("train")
    resume: bool = False


def train_network(request: Request) -> int:
    """Train a network, print a summary, and return the exit code.

    Raises
    ------
    MrfqError, OSError
        Anything that ends the run early but Ctrl-C; the message says what is left.
    """
    settings = chosen_settings(request)
    console = Console(highlight=False)
    try:
        with Interrupt() as interrupt, ConsoleReport(console, lambda: interrupt.asked) as report:
            summary = train(settings, request.out, resume=request.resume, report=report)
    except StoppedError as stopped:
        print(f"mrfq: {stopped}", file=sys.stderr)
        return INTERRUPTED
    if not report.began:
        console.print(f"{request.out}: this run is finished", soft_wrap=True, markup=False)
    console.print(summary_table(summary))
    console.print(f"\nreport: {Folder(request.out).page.resolve()}", soft_wrap=True, markup=False)
    return 0


def chosen_settings(request: Request) -> Settings | None:
    """Return the settings that are asked for; None to resume with those of the run.

    A file comes first, options change it; when a run is resumed, they are compared with its own.
    """
    texts = parse_settings(request.settings)
    check_names(texts, "--set")
    for name in texts.keys() & request.options.keys():
        raise InvalidParameterError(f"--set {name} and --{name}: the same setting; give one of them")
    values = {**(read_config(request.config) if request.config else {}), **texts, **request.options}
    saved = Folder(request.out).saved() if request.resume else None
    if saved is not None:
        return dataclasses.replace(saved, **values) if values else None
    return make_settings(values) if values or not request.resume else None
